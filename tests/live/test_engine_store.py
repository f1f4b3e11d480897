"""What an engine keeps in a store, and goes on from: idle streams, crashes, snapshots, damage."""

import threading

import numpy as np
import pytest
from engines import MODEL, SAMPLES, WINDOWINGS, DictStore, alone

from make import EXAMPLES, dense, model_of, question, recurrent
from stepstream import Engine, InputError, StateError, StepstreamWarning, StoreError
from stepstream.live import journal
from stepstream.live.journal import Operation
from stepstream.live.records import LAYOUT, Records, Shape, decode_key, encode_key, head, meta_dtype
from stepstream.ops.executor import NumpyExecutor

BOTH = pytest.mark.parametrize("journalled", [True, False])


def engine(store, windowing="carry", model=MODEL, **options):
    return Engine(model, windowing, store, **options)


# idle is not lost


@BOTH
@pytest.mark.parametrize("windowing", WINDOWINGS)
def test_a_stream_that_was_away_goes_on_bit_for_bit(windowing, journalled):
    evicted = []
    e = engine(DictStore(journalled), windowing, capacity=3, on_evict=evicted.append)
    keys = [i % 7 for i in range(60)]
    got = {k: [] for k in range(7)}
    for i, key in enumerate(keys):
        got[key].append(e.step(key, SAMPLES[i], time=i).value)
    for key in range(7):
        places = range(key, 60, 7)
        assert got[key] == alone(SAMPLES[key::7], windowing, times=places)
    assert e.stats()["streams"] == 3
    assert len(evicted) == 57  # the coldest each time
    assert evicted[:7] == list(range(7))
    assert e.stats()["returned"] == 53
    assert {s.key for s in e.streams()} == set(range(7))
    assert sum(s.in_memory for s in e.streams()) == 3


def test_the_coldest_go_first():
    evicted = []
    e = engine(DictStore(), capacity=3, on_evict=evicted.append)
    for key in "abcab":
        e.step(key, SAMPLES[0])
    e.step("d", SAMPLES[0])
    assert evicted == ["c"]
    e.step_many(["e", "a"], SAMPLES[:2])
    assert evicted == ["c", "b"]
    with pytest.raises(InputError, match="at most 3 streams in a call, got 4"):
        e.step_many(list("wxyz"), SAMPLES[:4])
    assert {s.key for s in e.streams()} == set("abcde")


def test_idle_streams_go_to_the_store(clock):
    evicted = []
    e = engine(DictStore(), idle_after=60, clock=clock, on_evict=evicted.append)
    e.step_many(["a", "b"], SAMPLES[:2])
    clock.now += 50
    e.step("b", SAMPLES[2])
    clock.now += 50
    e.step("c", SAMPLES[0])
    assert evicted == ["a"]
    assert e.step("a", SAMPLES[1]).value == alone(SAMPLES[:2])[1]


@BOTH
def test_everything_comes_back_that_a_stream_carries(journalled):
    model = EXAMPLES["repeat"]()
    e = engine(DictStore(journalled), model=model, capacity=1, remember=2)
    e.step("k", [*SAMPLES[0], 1, 2], seq=4, time=10)
    e.step("k", [*SAMPLES[1], 1, 2], seq=7, time=11)
    before, e2 = e.export("k"), e.step("k", [*SAMPLES[1], 1, 2], seq=7)
    e.step("other", [*SAMPLES[0], 1, 2])
    assert e.export("k") == before
    again = e.step("k", [*SAMPLES[1], 1, 2], seq=7)
    assert again.value.tolist() == e2.value.tolist()
    assert again._replace(value=None) == e2._replace(value=None)
    assert e.step("k", [*SAMPLES[0], 1, 2], seq=4).value is not None
    with pytest.raises(InputError, match="the same 's'"):
        e.step("k", [*SAMPLES[1], 1, 3])
    with pytest.raises(InputError, match="time runs backwards"):
        e.step("k", [*SAMPLES[1], 1, 2], time=10.5)


def test_a_tombstone_goes_and_comes_back_too():
    e = engine(DictStore(), capacity=1)
    last = e.step("k", SAMPLES[0], seq=1, end=True)
    e.step("other", SAMPLES[0])
    assert e.step("k", SAMPLES[0], seq=1, end=True) == last._replace(duplicate=True)
    assert [s.key for s in e.streams()] == ["other"]


@BOTH
def test_what_expires_is_gone_wherever_it_is(clock, journalled):
    ended, store = [], DictStore(journalled)
    e = engine(store, capacity=2, expire_after=100, clock=clock, on_end=ended.append)
    for key in "abcd":
        e.step(key, SAMPLES[0], seq=1)
    clock.now += 90
    e.step("d", SAMPLES[1], seq=2)
    clock.now += 20
    assert e.step("a", SAMPLES[2], seq=1).value == alone(SAMPLES[2:3])[0]  # as if it had never been there
    assert sorted(ended) == ["a", "c"]
    e.snapshot()
    assert sorted(ended) == ["a", "b", "c"]
    assert e.stats()["expired"] == 3
    assert {s.key for s in e.streams()} == {"a", "d"}
    store.crash()
    f = engine(store, clock=clock)
    assert {s.key for s in f.streams()} == {"a", "d"}


# crashes


@BOTH
@pytest.mark.parametrize("windowing", WINDOWINGS)
def test_after_a_crash_all_that_was_answered_is_there(windowing, journalled):
    store = DictStore(journalled)
    e = engine(store, windowing, capacity=4)
    for first in range(0, 48, 6):
        places = range(first, first + 6)
        e.step_many([i % 3 for i in places], SAMPLES[first : first + 6], time=places, seq=places)
        e.step(("x", "y")[first % 4 // 2], SAMPLES[first]) if windowing != "session(10)" else None
        if first == 24:
            e.snapshot()
        states = {s.key: e.export(s.key) for s in e.streams()}
        store.crash()
        e = engine(store, windowing, capacity=4)
        assert {s.key: e.export(s.key) for s in e.streams()} == states
    assert e.stats()["recovery"] == "exact"
    for key in range(3):
        got = e.step(key, SAMPLES[50], time=50).value
        assert got == alone(SAMPLES[[*range(key, 48, 3), 50]], windowing, times=[*range(key, 48, 3), 50])[-1]
        assert e.step(key, SAMPLES[0], seq=45 + key).duplicate


@BOTH
def test_every_operation_survives(journalled):
    store = DictStore(journalled)
    e = engine(store, capacity=3)
    e.step_many(["a", "a", "b", "c"], SAMPLES[:4], seq=[1, 2, 1, 1])
    e.fork("a", "fork")
    e.step("a", SAMPLES[5], seq=3)
    e.restore("restored", e.export("b"))
    e.reset("b")
    e.step("c", SAMPLES[6], seq=2, end=True)
    e.reset("fork2", delete=True)
    e.fork("a", "deleted")
    e.reset("deleted", delete=True)
    e.step("unnumbered", SAMPLES[0])
    e.end("unnumbered")
    expected = {s[:5] for s in e.streams()}
    states = {s.key: e.export(s.key) for s in e.streams()}
    f = e
    for how in ("crash", "snapshot", "close"):
        if how == "snapshot":
            f.snapshot()
        if how == "close":
            f.close()
        f = engine(store.crash(), capacity=3)
        assert {s[:5] for s in f.streams()} == expected
        assert {s.key: f.export(s.key) for s in f.streams()} == states
        assert f.step("c", SAMPLES[6], seq=2, end=True).duplicate
    assert [k for k in expected if k[0] == "restored"]
    assert f.step("fork", SAMPLES[2]).value == alone(SAMPLES[:3])[2]


def test_a_key_that_was_deleted_does_not_come_back():
    """Its record may still lie in the store, as the journal needs it."""
    store = DictStore()
    e = engine(store, capacity=1)
    e.step("k", SAMPLES[0])
    e.step("other", SAMPLES[0])  # k is in the store now
    e.end("k")
    assert e.step("k", SAMPLES[3]).value == alone(SAMPLES[3:4])[0]
    store.crash()
    e = engine(store, capacity=1)
    assert e.step("k", SAMPLES[4]).value == alone(SAMPLES[3:5])[1]
    e.end("k")
    e.snapshot()
    assert {decode_key(k) for k in store.kept} == {"other"}
    assert not store.entries


def test_a_fork_is_what_it_was_although_its_source_went_on():
    store = DictStore()
    e = engine(store, capacity=2)
    e.step("k", SAMPLES[0])
    e.fork("k", "l")
    e.step("k", SAMPLES[1])
    e.step("l", SAMPLES[5])
    e.step("m", SAMPLES[0])  # k goes to the store, with both its samples
    store.crash()
    f = engine(store, capacity=2)
    assert f.step("l", SAMPLES[6]).value == alone(SAMPLES[[0, 5, 6]])[2]


def test_a_rejected_or_repeated_sample_is_not_journalled():
    store = DictStore()
    e = engine(store)
    e.step("k", SAMPLES[0], seq=1)
    before = dict(store.entries)
    e.step("k", SAMPLES[0], seq=1)
    e.step_many(["k", "k"], [[1, 2], [np.nan, 0, 0]], on_bad="skip")
    with pytest.raises(InputError):
        e.step("k", [1, 2])
    assert store.entries == before


def test_a_snapshot_leaves_no_journal_and_writes_what_has_changed():
    store = DictStore()
    e = engine(store)
    e.step_many(list(range(3000)), np.tile(SAMPLES, (50, 1)))
    assert not store.kept
    e.snapshot()
    assert len(store.kept) == 3000
    assert e.stats()["journal_bytes"] == 0
    written = []
    put, store.put = store.put, lambda number, records: written.extend(records)
    e.step(7, SAMPLES[0])
    e.snapshot()
    assert [decode_key(k) for k, _ in written] == [7]
    store.put = put


def test_samples_are_answered_while_a_snapshot_waits_for_the_disk():
    store = DictStore()
    e = engine(store)
    e.step_many(list(range(2500)), np.tile(SAMPLES[:1], (2500, 1)))
    put, calls = store.put, []

    def held_up(number, records):
        call = threading.Thread(target=e.step, args=(len(calls), SAMPLES[1]), daemon=True)
        call.start()
        call.join(30)
        calls.append(call.is_alive())
        put(number, records)

    store.put = held_up
    e.snapshot()
    assert calls == [False] * 3
    store.crash()
    f = engine(store)
    assert [f.export(key).age for key in range(4)] == [2, 2, 2, 1]


def test_closing_waits_for_a_snapshot_that_another_thread_has_begun():
    store = DictStore()
    e = engine(store)
    e.step("a", SAMPLES[0])
    closing, put, outcome = threading.Thread(target=e.close, daemon=True), store.put, []

    def held_up(number, records):
        if not outcome:
            outcome.append(store.opened)
            closing.start()
            closing.join(0.2)
        outcome.append(store.opened)
        put(number, records)

    store.put = held_up
    e.snapshot()
    closing.join(30)
    assert outcome[:2] == [True, True]
    assert not store.opened
    assert not e.broken


def away(e):
    """Others come, and so "k" leaves memory."""
    e.step_many(["x", "y", "z"], SAMPLES[5:8])


def begin(e):
    e.step("k", SAMPLES[1])


def delete(e):
    e.reset("k", delete=True)


BEFORE = {"new": (begin,), "changed": (begin, Engine.snapshot, begin)}
BEFORE |= {"gone": (*BEFORE["changed"], delete), "anew": (*BEFORE["changed"], delete, begin)}
MEANWHILE = [(begin,), (away,), (begin, away), (delete,), (delete, begin), (delete, begin, away), (away, delete)]


@pytest.mark.parametrize("meanwhile", MEANWHILE, ids=lambda done: "-".join(each.__name__ for each in done))
@pytest.mark.parametrize("before", BEFORE.values(), ids=BEFORE)
@pytest.mark.parametrize("call", ["put", "delete"])
@pytest.mark.parametrize("again", [False, True])
def test_what_happens_while_a_snapshot_writes_is_not_undone(again, call, before, meanwhile):
    store, twin = DictStore(), Engine(MODEL)
    e = engine(store, capacity=3)
    write, left = getattr(store, call), list(meanwhile)

    def held_up(*written):
        setattr(store, call, write)
        while left:
            left.pop(0)(e)
        write(*written)

    for done in before:
        done(e)
        done(twin)
    e.step("w", SAMPLES[0])  # there is something to write in any case
    setattr(store, call, held_up)
    e.snapshot()
    for done in left:  # where there was nothing to delete
        done(e)
    for done in meanwhile:
        done(twin)
    if again:
        e.snapshot()
    crashed = engine(store.crash(), capacity=3)
    assert {s.key for s in crashed.streams()} == {s.key for s in e.streams()} == {s.key for s in twin.streams()} | {"w"}
    assert crashed.step("k", SAMPLES[2]) == e.step("k", SAMPLES[2]) == twin.step("k", SAMPLES[2])


def test_a_crash_between_what_a_snapshot_deletes_and_trims():
    """The record of a stream is gone, and the journal still has what came before its end."""
    model, store = EXAMPLES["repeat"](), DictStore()
    e = engine(store, "tumbling(3)", model)
    for static in (1, 1):
        e.step("k", [*SAMPLES[0], static, 2])
    e.snapshot()
    for static in (1, 5, 5):  # the fourth restarts, and may have another value
        e.step("k", [*SAMPLES[1], static, 2])
    e.reset("k", delete=True)
    e.step("j", [*SAMPLES[0], 1, 2])
    store.trim = lambda number: None
    e.snapshot()
    del store.trim
    f = engine(store.crash(), "tumbling(3)", model)
    assert {s.key for s in f.streams()} == {"j"}


def test_callbacks_that_fail_do_not_keep_a_snapshot_from_its_end(clock):
    def fails(key):
        raise RuntimeError(f"told of {key}")

    store = DictStore()
    e = engine(store, idle_after=10, on_evict=fails, clock=clock)
    e.step_many(["a", "b"], SAMPLES[:2])
    clock.now += 60
    with pytest.raises(RuntimeError, match="told of"):
        e.snapshot()
    assert not store.entries


def test_the_end_of_a_stream_is_told_once(clock):
    ended = []
    e = engine(DictStore(), capacity=1, expire_after=100, clock=clock, on_end=ended.append)
    e.step("a", SAMPLES[0], seq=1, end=True)
    e.step("b", SAMPLES[0])  # a's tombstone goes to the store
    clock.now += 200
    e.snapshot()
    assert ended == ["a", "b"]


# the store fails, or is another's


@BOTH
def test_after_a_failed_commit_nothing_goes_on_until_it_is_opened_again(journalled):
    store = DictStore(journalled)
    e = engine(store)
    e.step("k", SAMPLES[0])
    store.fails = StoreError("disk full")
    with pytest.raises(StoreError, match="disk full"):
        e.step("k", SAMPLES[1])
    store.fails = None
    for call in (lambda: e.step("k", SAMPLES[1]), lambda: e.peek("k", SAMPLES[1]), e.streams, e.snapshot):
        with pytest.raises(StoreError, match=r"it failed before: disk full; close the engine and open it again"):
            call()
    e.close()
    assert not store.opened
    f = engine(store)
    assert f.step("k", SAMPLES[1]).value == alone(SAMPLES[:2])[1]


def test_another_model_or_windowing_is_refused_by_name():
    store = DictStore()
    engine(store).close()
    other = model_of(recurrent("lstm", 3, 4), dense(4, 1))
    with pytest.raises(StateError, match=f"fingerprint {other.fingerprint}, got one of {MODEL.fingerprint}"):
        engine(store, model=other)
    with pytest.raises(StateError, match=r"windowing tumbling\(7\), got one of carry"):
        engine(store, "tumbling(7)")
    assert not store.opened
    store.header["layout"] = "99"
    with pytest.raises(StateError, match=f"layout {LAYOUT}, got one of 99"):
        engine(store)


def test_another_arithmetic_opens_what_was_closed_in_order(monkeypatch):
    store = DictStore()
    e = engine(store)
    e.step("k", SAMPLES[0])
    e.close()
    store.header["arithmetic"] = "other"
    e = engine(store)
    assert e.stats()["recovery"] == "exact"
    assert store.header["arithmetic"] == MODEL.executor.arithmetic_id
    e.step("k", SAMPLES[1])
    store.crash()
    store.header["arithmetic"] = "other"
    with pytest.raises(StateError, match=r"arithmetic .*, got one by other.*recover=\"inexact\""):
        engine(store)
    assert not store.opened
    e = engine(store, recover="inexact")
    assert e.stats()["recovery"] == "inexact"
    assert e.step("k", SAMPLES[2]).value == alone(SAMPLES[:3])[2]


def test_a_store_of_the_kernel_opens_without_it():
    numpy_model = question()
    object.__setattr__(numpy_model, "_executor", NumpyExecutor(numpy_model.graph))
    store = DictStore()
    with engine(store) as e:
        e.step_many(["k"] * 3, SAMPLES[:3])
    with engine(store, model=numpy_model) as e:
        assert e.step("k", SAMPLES[3]).value == pytest.approx(alone(SAMPLES[:4])[3], abs=1e-5)


@BOTH
def test_a_damaged_record_is_named_and_others_go_on(journalled):
    store = DictStore(journalled)
    with engine(store) as e:
        e.step_many(["a", "b", "c"], SAMPLES[:3])
    number, record = store.kept[b"sc"]
    store.kept[b"sb"] = (number, None)  # its checksum is wrong
    store.kept[b"sc"] = (number, record[:-4] + np.float32(np.nan).tobytes())
    e = engine(store, capacity=1)
    assert e.step("a", SAMPLES[3]).value == alone(SAMPLES[[0, 3]])[1]
    for call in (lambda: e.step("b", SAMPLES[0]), lambda: e.export("b"), lambda: e.fork("b", "d")):
        with pytest.raises(
            StoreError, match=r"stream 'b': its record in the store is damaged; reset\(key, delete=True\)"
        ):
            call()
    with pytest.raises(StoreError, match="stream 'c': expected a record of layout 1"):
        e.step("c", SAMPLES[0])
    r = e.step_many(["a", "b"], SAMPLES[4:6], on_bad="skip")
    assert r.accepted.tolist() == [True, False]
    assert "damaged" in r.reasons[1]
    assert e.stats()["damaged"] == 2
    e.reset("b", delete=True)
    assert e.step("b", SAMPLES[0]).value == alone(SAMPLES[:1])[0]


def test_a_journal_of_other_bytes_is_refused():
    store = DictStore()
    e = engine(store)
    e.step("k", SAMPLES[0])
    good = store.entries[1]
    for bad in (b"", b"\x09" + good[1:], good[:-1], good[:1] + b"?" + good[2:], good + b"s", good[:9]):
        store.crash()
        store.entries[1] = bad
        if bad:
            with pytest.raises(StoreError, match="journal entry 1: expected operations of layout 1"):
                engine(store)


def test_what_callbacks_raise_comes_after_the_fact():
    def stop(key):
        raise RuntimeError(f"told of {key}")

    e = engine(DictStore(), capacity=1, on_evict=stop)
    e.step("a", SAMPLES[0])
    with pytest.raises(RuntimeError, match="told of a"):
        e.step("b", SAMPLES[0])
    assert e.step_many(["b"], SAMPLES[1:2]).age[0] == 2


def test_callbacks_may_call_the_engine():
    seen = []
    e = engine(DictStore(), on_end=lambda key: seen.append(e.step("log", SAMPLES[0]).age))
    for key in "ab":
        e.step(key, SAMPLES[0], end=True)
    assert seen == [1, 2]


def test_restarts_are_not_said_again_at_recovery():
    store = DictStore()
    e = Engine(MODEL, "auto", store)
    with pytest.warns(StepstreamWarning, match="restarts"):
        e.step_many(["k"] * 9, SAMPLES[:9])
    store.crash()
    e = Engine(MODEL, "auto", store)
    with pytest.warns(StepstreamWarning, match="restarts"):
        e.step_many(["k"] * 9, SAMPLES[:9])


# bytes


def test_keys_are_bytes_and_back():
    for key, data in (
        ("k", b"sk"),
        (b"k", b"bk"),
        (-12, b"i-12"),
        ("é", b"s\xc3\xa9"),
        (10**30, b"i" + b"1" + b"0" * 30),
    ):
        assert encode_key(key) == data
        assert decode_key(data) == key
        assert type(decode_key(data)) is type(key)
    for bad in (b"", b"x1", b"s\xff", b"i1x"):
        with pytest.raises(StoreError, match="expected the key of a stream"):
            decode_key(bad)


def test_the_bytes_of_a_record_and_of_an_entry_are_these():
    shape = Shape(remember=1, keep=0, outputs=1, statics=0, features=1)
    meta = np.zeros(1, meta_dtype(shape))
    meta["age"], meta["samples"], meta["time"], meta["used"] = 1, 2, 0.5, 3.0
    meta["seq"], meta["ages"], meta["outputs"], meta["flags"] = 4, 1, 0.25, 9
    (record,) = Records(shape, 2).encode(meta, np.float32([[1, -1]]))
    assert record.hex() == (
        "0100" "0100" "0100" "0000" "01000000" "00000000" "01000000" "0100000000000000" "0200000000000000"
        "000000000000e03f" "0000000000000840" "0400000000000000" "0100000000000000" "0000803e" "0000803f" "000080bf"
    )  # fmt: skip
    assert head(b"sk", record) == (1, *shape, 1, 2, 0.5, 3.0, 4)
    assert head(b"sk", record).shape == shape
    for bad in (record[:50], b"\x02" + record[1:], record[:2] + b"\x10" + record[3:], record[:20] + b"\xff" * 40):
        with pytest.raises(StoreError, match="stream 'k': expected a record of layout 1, got other bytes"):
            head(b"sk", bad)
    entry = journal.encode(
        [
            Operation(journal.STEPS, 1.0, ["k", 7], np.float32([[1], [2]]), np.array([3, -1]), np.array([np.nan] * 2)),
            Operation(journal.END, 2.0, [b"k"]),
        ]
    )
    assert entry.hex() == (
        "01" "73" "000000000000f03f" "02000000" "01" "0200" "0200" "736b" "6937" "0000803f" "00000040"
        "0300000000000000" "ffffffffffffffff" "65" "0000000000000040" "01000000" "00" "0200" "626b"
    )  # fmt: skip
    steps, end = journal.decode(entry, 1, 1)
    assert (steps.keys, steps.seq.tolist(), steps.time, end.keys) == (["k", 7], [3, -1], None, [b"k"])


def test_an_engine_may_remember_more_or_less_than_the_one_before():
    store = DictStore()
    with engine(store, remember=3) as e:
        answers = [e.step("k", x, seq=i) for i, x in enumerate(SAMPLES[:5])]
    with engine(store, remember=2) as e:
        assert e.step("k", SAMPLES[3], seq=3) == answers[3]._replace(duplicate=True)
        assert e.step("k", SAMPLES[2], seq=2).value is None
        e.step("k", SAMPLES[5], seq=5)
    with engine(store, remember=4) as e:
        assert e.step("k", SAMPLES[4], seq=4) == answers[4]._replace(duplicate=True)
        assert e.step("k", SAMPLES[3], seq=3).value is None
