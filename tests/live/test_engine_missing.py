"""Samples that are missing in regular time, and samples that are kept."""

import numpy as np
import pytest
from engines import MODEL, DictStore, alone

from make import explosive
from stepstream import Engine, InputError
from stepstream.live.records import kept

SAMPLES = np.random.default_rng(5).normal(size=(40, 3)).astype(np.float32)


def engine(windowing="carry", **options):
    return Engine(MODEL, windowing, every=2.0, **options)


@pytest.mark.parametrize("windowing", ["carry", "tumbling(3)", "sliding(4)"])
def test_hold_repeats_the_sample_before(windowing):
    e = engine(windowing, on_missing="hold")
    got = [e.step("k", SAMPLES[i], time=t) for i, t in enumerate((0, 2, 8, 10.9, 14))]
    expected = alone(SAMPLES[[0, 1, 1, 1, 2, 3, 3, 4]], windowing)
    assert [r.value for r in got] == [expected[i] for i in (0, 1, 4, 5, 7)]
    assert e.export("k").samples == 8


@pytest.mark.parametrize("on_bad", ["raise", "skip"])
def test_hold_in_one_call_is_hold_one_by_one(on_bad):
    rng = np.random.default_rng(2)
    keys = [f"k{i}" for i in rng.integers(0, 4, 40)]
    times = np.cumsum(rng.choice([0.0, 1.0, 2.0, 5.0], 40))
    one, many = (engine(on_missing="hold", store=DictStore()) for _ in range(2))
    seq = np.arange(40)
    singly = [one.step(*given) for given in zip(keys, SAMPLES, seq.tolist(), times.tolist(), strict=True)]
    for first in range(0, 40, 8):
        part = slice(first, first + 8)
        for _ in range(2):  # the second time all are repeated
            got = many.step_many(keys[part], SAMPLES[part], seq[part], times[part], on_bad)
            last = {k: i for i, k in enumerate(keys[part])}.values()
            assert [got.values[i, 0] for i in last] == [singly[first + i].value for i in last]
            assert [got.age[i] for i in last] == [singly[first + i].age for i in last]
    assert {k: one.export(k) for k in set(keys)} == {k: many.export(k) for k in set(keys)}
    again = Engine(MODEL, "carry", many._streams.vault.store.crash())  # without every: what was held is in the journal
    assert {k: one.export(k) for k in set(keys)} == {k: again.export(k) for k in set(keys)}


def test_raise_refuses_and_changes_nothing():
    e = engine(store=DictStore())
    e.step("k", SAMPLES[0], time=0)
    before = e.export("k")
    with pytest.raises(InputError, match=r"a sample every 2 s, the next one at 2, got 5 .*on_missing=\"hold\""):
        e.step("k", SAMPLES[1], time=5)
    with pytest.raises(InputError, match="a sample every 2 s"):
        e.step_many(["j", "k"], SAMPLES[:2], time=[0, 5])
    assert e.export("k") == before
    assert {s.key for s in e.streams()} == {"k"}
    r = e.step_many(["k", "j", "k"], SAMPLES[1:4], time=[5.0, 5.0, 2.9], on_bad="skip")
    assert r.accepted.tolist() == [False, True, True]
    assert "the next one at 2, got 5" in r.reasons[0]
    assert r.values[2, 0] == alone(SAMPLES[[0, 3]])[1]


@pytest.mark.parametrize("on_bad", ["raise", "skip"])
def test_nothing_is_held_for_a_sample_that_is_refused(on_bad):
    e = Engine(explosive(), "carry", every=1.0, on_missing="hold")
    e.step_many(["k", "j"], SAMPLES[:2], time=[0, 0])
    before = e.export("k"), e.export("j")
    call = (["j", "k"], [SAMPLES[3], [3e38] * 3], None, [2.0, 3.0], on_bad)
    if on_bad == "raise":
        with pytest.raises(InputError, match="overflowed"):
            e.step_many(*call)
        assert (e.export("k"), e.export("j")) == before
        assert e.stats()["samples"] == 2
    else:
        assert e.step_many(*call).accepted.tolist() == [True, False]
        assert e.export("k") == before[0]
        assert e.export("j").age == 3


def test_regular_streams_need_times():
    e = engine(on_missing="hold")
    with pytest.raises(InputError, match="expected a time, as streams have a sample every 2 s"):
        e.step("k", SAMPLES[0])
    with pytest.raises(InputError, match="expected a time"):
        e.step_many(["k"], SAMPLES[:1])
    assert not e.streams()


def test_a_gap_that_is_too_long_is_refused_and_reset_is_the_cure():
    e = engine(on_missing="hold")
    e.step("k", SAMPLES[0], time=0)
    with pytest.raises(InputError, match="at most 10000 missing samples, got 499999"):
        e.step("k", SAMPLES[1], time=1_000_000)
    e.reset("k")
    assert e.step("k", SAMPLES[1], time=1_000_000).value == alone(SAMPLES[1:2])[0]


def test_a_new_session_misses_nothing():
    e = engine("session(9)", on_missing="hold")
    e.step("k", SAMPLES[0], time=0)
    assert e.step("k", SAMPLES[1], time=20).value == alone(SAMPLES[1:2])[0]
    e.step("k", SAMPLES[2], time=26)
    assert e.export("k").age == 4


def test_a_restored_stream_has_nothing_to_hold():
    e = engine(on_missing="hold")
    e.step("k", SAMPLES[0], time=0)
    e.restore("j", e.export("k"))
    with pytest.raises(InputError, match="the sample before, to be held, got none, as the stream was restored"):
        e.step("j", SAMPLES[1], time=6)
    e.fork("k", "fork")
    assert e.step("fork", SAMPLES[1], time=4).value == alone(SAMPLES[[0, 0, 1]])[2]


def test_skip_goes_on():
    e = engine(on_missing="skip")
    got = [e.step("k", SAMPLES[i], time=10 * i).value for i in range(3)]
    assert got == alone(SAMPLES[:3])


def of(e, key):
    table = e._streams.table
    return kept(table.meta[table.keys.find([key])[0]]).tolist()


@pytest.mark.parametrize("journalled", [True, False])
def test_the_newest_samples_are_kept(journalled):
    store = DictStore(journalled)
    e = Engine(MODEL, "tumbling(3)", store, keep=4, capacity=2)
    e.step_many(["a"] * 5 + ["b"] * 2, SAMPLES[:7])
    e.step("a", SAMPLES[7].tolist())
    assert of(e, "a") == SAMPLES[[2, 3, 4, 7]].tolist()
    assert of(e, "b") == SAMPLES[5:7].tolist()
    e.fork("a", "c")  # b goes to the store
    assert of(e, "c") == SAMPLES[[2, 3, 4, 7]].tolist()
    e.reset("c")
    assert of(e, "c") == []
    e.step("c", SAMPLES[0])
    store.crash()
    for keep in (2, 3, 6):
        with Engine(MODEL, "tumbling(3)", store, keep=keep) as e:
            left = 2 if journalled else min(4, keep)  # a journal was replayed by an engine that kept two
            assert of(e, "a") == SAMPLES[[2, 3, 4, 7]].tolist()[-left:]
            assert of(e, "c") == SAMPLES[:1].tolist()
            assert of(e, "b") == SAMPLES[5:7].tolist()
    with Engine(MODEL, "tumbling(3)", store) as e:
        assert e.export("a").samples == 6


def test_bad_samples_beside_missing_ones_stay_out():
    e = engine(on_missing="hold")
    e.step("k", SAMPLES[0], time=0)
    r = e.step_many(["k", "k", "k"], [SAMPLES[1], SAMPLES[2][:2], SAMPLES[3]], [1, 2, -7], [2.0, 4.0, 6.0], "skip")
    assert r.accepted.tolist() == [True, False, False]
    assert e.export("k").samples == 2
    assert e.stats()["bad"] == 2


@pytest.mark.parametrize("on_missing", ["hold", "raise"])
def test_peek_is_what_step_would_say(on_missing):
    e = engine(on_missing=on_missing)
    e.step("k", SAMPLES[0], time=0)
    if on_missing == "raise":
        with pytest.raises(InputError, match="a sample every 2 s"):
            e.peek("k", SAMPLES[1], time=8)
    else:
        seen = e.peek("k", SAMPLES[1], time=8)
        assert e.export("k").age == 1
        assert e.step("k", SAMPLES[1], time=8).value == seen


@pytest.mark.parametrize("first", [0, 1])
def test_what_was_held_survives_evictions_while_it_is_replayed(first):
    """An entry of the journal with several operations, for more streams than the memory has room beside them."""
    keys, options = [f"s{i}" for i in range(30)], {"capacity": 20, "on_missing": "hold"}
    store = DictStore()
    e = engine(store=store, **options)
    for part in (keys[:15], keys[15:]):
        e.step_many(part, SAMPLES[: len(part)], time=np.zeros(len(part)))
    e.snapshot()
    for _ in range(first):
        e.step("s29", SAMPLES[5], time=2.0)
    times = np.full(20, 2.0)
    times[-1] = 8.0
    e.step_many(keys[10:], SAMPLES[:20], time=times)
    states = {key: e.export(key) for key in keys}
    for _ in range(3):
        e = engine(store=store.crash(), **options)
        assert {key: e.export(key) for key in keys} == states


def test_a_gap_of_any_length_is_one_clear_error():
    e = Engine(MODEL, "carry", every=1e-9, on_missing="hold")
    e.step("k", SAMPLES[0], time=0)
    with pytest.raises(InputError, match="at most 10000 missing samples, got 9007199254740992"):
        e.step("k", SAMPLES[1], time=1e300)


def test_late_by_half_is_the_same_for_the_kernel_and_without():
    """They draw the line at the same last bit."""
    lists, booleans = [0.0, 0.0, 0.0], np.zeros(3, bool)  # the kernel takes no array of booleans
    for every in np.random.default_rng(1).random(200).tolist():
        half = 1.5 * every
        for wait in (np.nextafter(half, 0), half, np.nextafter(half, 9)):
            taken = []
            for x in (lists, booleans):
                e = Engine(MODEL, "carry", every=every, capacity=4)
                e.step("k", lists, time=0.0)
                try:
                    taken.append(e.step("k", x, time=float(wait)).age)
                except InputError:
                    taken.append(None)
            assert taken[0] == taken[1], (every, wait)


def test_seconds_are_looked_at_where_what_is_missing_is_skipped():
    with pytest.raises(InputError, match="every: expected seconds above 0"):
        Engine(MODEL, "carry", every=-1, on_missing="skip")
