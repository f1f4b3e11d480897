"""What happens to an engine, and to what it was told, when its disk, its store's bytes, its clock, its kernel, its
callbacks or its own process fail. docs/explanation/what-survives-what.md names these tests.
"""

import linecache
import os
import sqlite3
import subprocess
import sys
import threading
import warnings
from contextlib import closing, suppress
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from engines import MODEL, SAMPLES, Clock, DictStore, alone

from make import EXAMPLES, dense, model_of, recurrent
from stepstream import Engine, InputError, StepstreamWarning, StoreError
from stepstream.kernel.executor import native
from stores.conftest import failing_disk, small_disk  # noqa: F401
from stores.damage import crashed, flip

BOTH = pytest.mark.parametrize("journalled", [True, False])
HANG = 30  # seconds, for what would wait for ever


def engine(path, **options):
    return Engine(MODEL, "carry", path, **options)


def abandoned(e):
    """As a crash leaves its store: nothing is written any more."""
    e._tender.stop()
    e._streams.vault.store.close()


# the disk


def test_a_full_disk(small_disk):  # noqa: F811
    path, ballast = small_disk / "states.db", small_disk / "ballast"
    e = engine(path)
    ballast.write_bytes(bytes(1 << 20))
    done = []
    with pytest.raises(StoreError, match="free space on its disk, then open the store again"):
        done.extend(e.step_many(["a"], SAMPLES[n : n + 1], bookmark=lambda _: bytes(50_000)).values for n in range(60))
    assert len(done) > 5
    with pytest.raises(StoreError, match=r"it failed before: .*close the engine and open it again"):
        e.step("a", SAMPLES[0])
    assert e.broken
    e.close()
    ballast.unlink()
    with engine(path) as e:
        assert e.export("a").samples == len(done)
        expected = alone([*SAMPLES[: len(done)], SAMPLES[1]])
        assert [*np.concatenate(done)[:, 0].tolist(), e.step("a", SAMPLES[1]).value] == expected


def test_a_disk_that_is_full_at_a_snapshot(small_disk):  # noqa: F811
    """All is in the journal; what the snapshot did not write is written by the next."""
    path, ballast = small_disk / "states.db", small_disk / "ballast"
    e = engine(path)
    for first in range(0, 400, 50):
        e.step_many(list(range(first, first + 50)), SAMPLES[:50])
    with suppress(OSError), ballast.open("wb", buffering=0) as file:
        while file.write(bytes(4096)):
            pass
    with pytest.raises(StoreError, match="free space on its disk"):
        e.snapshot()
    e.close()
    ballast.unlink()
    with engine(path) as e:
        assert len(e.streams()) == 400
        e.snapshot()
        assert e.stats()["journal_bytes"] == 0
        assert e.step(7, SAMPLES[8]).value == alone(SAMPLES[[7, 8]])[1]


def test_a_read_only_disk_is_refused_at_opening(small_disk):  # noqa: F811
    path = small_disk / "states.db"
    with engine(path) as e:
        e.step("a", SAMPLES[0])
    subprocess.run(["mount", "-o", "remount,ro", small_disk], check=True)
    with pytest.raises(StoreError, match=r"expected a store that can be read and written, got .*Read-only"):
        engine(path)
    subprocess.run(["mount", "-o", "remount,rw", small_disk], check=True)
    with engine(path) as e:  # nobody holds it
        assert e.step("a", SAMPLES[1]).value == alone(SAMPLES[:2])[1]


def test_a_read_only_file_is_refused_at_opening(tmp_path):
    path = tmp_path / "states.db"
    engine(path).close()
    path.chmod(0o444)
    if os.access(path, os.W_OK):
        pytest.skip("root may write to any file; test_a_read_only_disk_is_refused_at_opening is for root")
    with pytest.raises(StoreError, match=r"SQLITE_READONLY.*make the file and its folder writable"):
        engine(path)


FAILING = """
import os, sys
sys.path[:0] = sys.argv[4:]
from make import question
from stepstream import Engine, StoreError
import warnings
warnings.simplefilter("ignore")

def tried(call):
    try:
        return call()
    except StoreError as e:
        return str(e)

durability, path, fail = sys.argv[1:4]
e = Engine(question(), "carry", path, durability)
e.step("a", [0.1, 0.2, 0.3], seq=1)
open(fail, "w").close()
call = (lambda: e.step("a", [0.4, 0.5, 0.6], seq=2)) if durability == "sync" else e._streams.vault.store.sync
print(tried(call))
os.unlink(fail)
print(tried(lambda: e.step("a", [0.4, 0.5, 0.6], seq=2)))
print(tried(e.close))
e = Engine(question(), "carry", path, durability)
r = e.step("a", [0.4, 0.5, 0.6], seq=2)
print(r.value == [question().stream("carry").steps([[0.1, 0.2, 0.3], [0.4, 0.5, 0.6]])[k][0] for k in [1]][0], r.age)
e.close()
"""


@pytest.mark.parametrize("durability", ["sync", "none"])
def test_a_disk_that_fails_to_sync(tmp_path, failing_disk, durability):  # noqa: F811
    """Fatal, until the store is opened again: that writes all of the log once more."""
    tests = Path(__file__).parents[1]
    out = subprocess.run(
        [sys.executable, "-c", FAILING, durability, tmp_path / "states.db", failing_disk["FAIL"], tests],
        env=failing_disk,
        capture_output=True,
        text=True,
        check=False,
    )
    assert out.returncode == 0, out.stderr
    first, second, _, last = out.stdout.splitlines()
    assert "look for the fault of its disk" in first or "Input/output error" in first
    assert "open it again" in second
    assert last == "True 2"


# the bytes


def test_a_log_that_is_cut_off_anywhere(tmp_path):
    """The last page torn, or missing with others: what whole commits are left is what the engine has."""
    path = tmp_path / "states.db"
    e = engine(path, capacity=2)
    keys = "abc"
    for n in range(30):
        e.step(keys[n % 3], SAMPLES[n], seq=n)
    size = Path(f"{path}-wal").stat().st_size
    found = []
    for length in np.random.default_rng(1).integers(0, size, 12).tolist():
        image = crashed(path, tmp_path)
        os.truncate(f"{image}-wal", length)
        if length % 2:
            with open(f"{image}-wal", "ab") as log:
                log.write(bytes(range(256)) * 30)
        with engine(image, capacity=2) as f:
            there = {s.key: s for s in f.streams()}
            done = sum(s.samples for s in there.values())
            for key, first in zip(keys, range(3), strict=True):
                seen = SAMPLES[first:done:3]
                assert (there[key].samples if key in there else 0) == len(seen)
                if len(seen):
                    assert f.step(key, SAMPLES[0], seq=done - 1 - (done - 1 - first) % 3).duplicate
                assert f.step(key, SAMPLES[50]).value == alone([*seen, SAMPLES[50]])[-1]
        found.append(done)
    assert len(set(found)) > 5
    abandoned(e)


def damage(path, key, how):
    """Change bytes of a stream's record in a closed store, or beside an open one."""
    data = b"s" + key.encode()
    with closing(sqlite3.connect(path, timeout=10)) as db:
        if how == "record":
            db.execute("UPDATE records SET record = zeroblob(length(record)) WHERE key = ?", (data,))
        elif how == "number":  # of the journal entry that it says it includes
            db.execute("UPDATE records SET number = number + (1 << 40) WHERE key = ?", (data,))
        elif how == "small number":
            db.execute("UPDATE records SET number = number + 1 WHERE key = ?", (data,))
        else:
            db.execute("UPDATE records SET number = x'ff' WHERE key = ?", (data,))
        db.commit()


def test_a_flipped_byte_is_refused_by_name(tmp_path):
    path = tmp_path / "states.db"
    with engine(path) as e:
        e.step_many(["before", "victim", "after"], SAMPLES[:3])
    row = next(s for s in [MODEL.stream("carry")] if s.step(SAMPLES[1]) is not None).snapshot().row
    flip(path, path.read_bytes().index(row.tobytes()) + 5)
    with engine(path) as e:
        assert e.stats()["damaged"] == 1
        for call in (lambda: e.step("victim", SAMPLES[3]), lambda: e.export("victim"), lambda: e.end("victim")):
            with pytest.raises(StoreError, match=r"stream 'victim': its record in the store is damaged; reset\(key, d"):
                call()
        for n, key in ((0, "before"), (2, "after")):
            assert e.step(key, SAMPLES[3]).value == alone(SAMPLES[[n, 3]])[1]


@pytest.mark.parametrize("how", ["record", "number", "small number", "no number"])
@pytest.mark.parametrize("away", [False, True])
def test_what_is_damaged_can_be_begun_anew(tmp_path, how, away):
    """Over crashes at every point, and whatever the damaged record seems to include."""
    path = tmp_path / "states.db"
    with engine(path) as e:
        e.step_many(["a", "victim", "b"], SAMPLES[:3], seq=[9, 9, 9])
    damage(path, "victim", how)
    folder = tmp_path / "crashed"
    folder.mkdir()

    def crash(e):
        image = crashed(path, folder)
        abandoned(e)
        for end in ("", "-wal"):
            os.replace(f"{image}{end}", f"{path}{end}")
        return engine(path, capacity=1)

    e = engine(path, capacity=1)
    with pytest.raises(StoreError, match="'victim': its record"):
        e.step("victim", SAMPLES[0])
    e.reset("victim", delete=True)
    e = crash(e)
    assert e.stats()["damaged"] == 0
    for n in range(1, 4):
        assert e.step("victim", SAMPLES[n], seq=n).value == alone(SAMPLES[1 : n + 1])[-1]
        if away:
            e.step("a", SAMPLES[0])  # the victim goes to the store
        e = crash(e)
        assert e.step("victim", SAMPLES[n], seq=n).duplicate
    e.snapshot()
    e = crash(e)
    assert e.step("victim", SAMPLES[4], seq=4).value == alone(SAMPLES[1:5])[-1]
    e.close()
    with engine(path, capacity=1) as e:
        assert {s.key: s.age for s in e.streams()} == {"a": 1 + 3 * away, "b": 1, "victim": 4}
        assert e._streams.vault.store.verify() == []


@pytest.mark.parametrize("how", ["record", "number", "no number"])
@pytest.mark.parametrize("deleted", [False, True])
def test_damage_under_a_stream_in_memory_is_written_over(tmp_path, how, deleted):
    """Nobody has seen it: the stream did not come from there."""
    path = tmp_path / "states.db"
    e = engine(path, capacity=1)
    e.step("victim", SAMPLES[0])
    e.snapshot()
    damage(path, "victim", how)
    if deleted:
        e.reset("victim", delete=True)
    e.step("victim", SAMPLES[1])
    e.step("other", SAMPLES[2])
    expected = alone(SAMPLES[[*([] if deleted else [0]), 1, 3]])[-1]
    assert e.step("victim", SAMPLES[3]).value == expected
    e.close()
    with engine(path) as e:
        assert e.step("victim", SAMPLES[4]).age == len([1, 3, 4]) + (not deleted)


def test_a_flipped_byte_in_a_key_keeps_nobody_out(tmp_path):
    """It names no stream, or another one; the index still leads to the record."""
    path = tmp_path / "states.db"
    with engine(path) as e:
        e.step_many(["victim of damage", "other"], SAMPLES[:2])
    data = path.read_bytes()
    places = [at for at in range(len(data)) if data.startswith(b"svictim of damage", at)]
    assert len(places) >= 2  # in the table, in its index, and in what the journal has left
    for at in places:
        for letter in (0, 3):
            path.write_bytes(data)
            flip(path, at + letter)
            with engine(path) as e:
                assert e.step("other", SAMPLES[2]).value == alone(SAMPLES[1:3])[-1]
                assert e.step("victim of damage", SAMPLES[2]).value == alone(SAMPLES[[0, 2]])[-1]


def test_a_flipped_byte_in_the_journal_is_refused_by_its_number(tmp_path):
    path = tmp_path / "states.db"
    e = engine(path)
    for n in range(5):
        e.step_many([f"entry {n}"], SAMPLES[n : n + 1])
    image = crashed(path, tmp_path)
    abandoned(e)
    with closing(sqlite3.connect(image)) as db:
        db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    flip(image, image.read_bytes().index(b"entry 2"))
    for _ in range(2):  # it stays as it is
        with pytest.raises(
            StoreError, match=r"copy\.db: expected journal entry 3 as it was written, got a damaged one"
        ):
            engine(image)


def test_a_damaged_bookmark_is_refused_unless_the_journal_has_a_newer(tmp_path):
    path = tmp_path / "states.db"
    with engine(path) as e:
        e.step_many(["a"], SAMPLES[:1], bookmark=lambda _: b"one")
    with closing(sqlite3.connect(path)) as db:
        db.execute("UPDATE records SET record = x'00', number = 99 WHERE key = ?", (b"l",))
        db.commit()
    with pytest.raises(
        StoreError, match="expected the bookmark as it was written, got a damaged one; restore a backup"
    ):
        engine(path)
    path.unlink()
    e = engine(path)
    e.step_many(["a"], SAMPLES[:1], bookmark=lambda _: b"one")
    e.snapshot()
    e.step_many(["a"], SAMPLES[:1], bookmark=lambda _: b"two")
    damage_bookmark = "UPDATE records SET record = x'00', number = 99 WHERE key = ?"
    with closing(sqlite3.connect(path)) as db:
        db.execute(damage_bookmark, (b"l",))
        db.commit()
    abandoned(e)
    for _ in range(2):
        with engine(path) as e:
            assert e.bookmark == b"two"


def test_opened_twice(tmp_path):
    path = tmp_path / "states.db"
    with engine(path) as e:
        e.step("a", SAMPLES[0])
        with pytest.raises(StoreError, match=f"no engine has, got one that is open in process {os.getpid()}"):
            engine(path)
        assert e.step("a", SAMPLES[1]).value == alone(SAMPLES[:2])[1]
    with engine(path) as e:
        assert e.export("a").age == 2


def test_a_table_too_small_for_the_journal_is_refused_and_a_larger_takes_it(tmp_path):
    path = tmp_path / "states.db"
    e = engine(path)
    e.step_many(list("abcd"), SAMPLES[:4])
    abandoned(e)
    with pytest.raises(InputError, match="at most 2 streams in a call, got 4; raise capacity="):
        engine(path, capacity=2)
    with engine(path, capacity=4) as e:
        assert len(e.streams()) == 4


# the clock


@pytest.mark.parametrize("how", ["goes on", "close", "crash"])
@BOTH
def test_a_clock_that_jumps_back_ends_no_session(how, journalled):
    store, clock = DictStore(journalled), Clock()

    def opened():
        return Engine(MODEL, "session(10)", store, clock=clock)

    e = opened()
    assert [e.step("k", SAMPLES[0]).age, e.step("young", SAMPLES[0]).age] == [1, 1]
    clock.now += 5
    assert e.step("k", SAMPLES[1]).age == 2
    clock.now = 100.0
    if how == "close":
        e.close()
    if how != "goes on":
        store.crash()
        e = opened()
    times = []
    for n in range(2, 5):
        r = e.step("k", SAMPLES[n])
        assert (r.age, r.value) == (n + 1, alone(SAMPLES[: n + 1])[-1])
        times.append(e.export("k").time)
        clock.now += 1
    assert times == sorted(times)
    assert times[0] >= 1005
    clock.now = 1016.0  # it is right again: 11 seconds after the last one that was
    assert e.step("k", SAMPLES[5]).age == 1
    store.crash()
    assert opened().export("k").age == 1


# the kernel

WITHOUT = """
import sys
sys.path[:0] = sys.argv[3:]
from make import question
from stepstream import Engine, StateError

try:
    e = Engine(question(), "carry", sys.argv[1], recover=sys.argv[2])
except StateError as error:
    print("refused", error)
else:
    print(e.stats()["recovery"], e.stats()["arithmetic"], {s.key: s.age for s in e.streams()})
    print(e.step("a", [0.4, 0.5, 0.6], seq=2).value)
    e.close()
"""


def test_without_the_kernel(tmp_path):
    """NumPy's arithmetic is another: a closed store opens; a journal would be replayed with other last bits."""
    if native() is None or MODEL.executor.arithmetic_id.startswith("numpy"):
        pytest.skip("there is no kernel to be without")

    def numpy(path, recover="exact"):
        command = [sys.executable, "-W", "ignore", "-c", WITHOUT, path, recover, Path(__file__).parents[1]]
        env = {**os.environ, "STEPSTREAM_ISA": "numpy"}
        return subprocess.run(command, env=env, capture_output=True, text=True, check=True).stdout.splitlines()

    path = tmp_path / "states.db"
    with engine(path) as e:
        e.step("a", [0.1, 0.2, 0.3], seq=1)
    kernels = MODEL.executor.arithmetic_id
    closed = numpy(path)
    assert closed[0].startswith("exact")
    assert kernels not in closed[0]
    stream = MODEL.stream("carry")
    stream.step([0.1, 0.2, 0.3])
    assert float(closed[1]) == pytest.approx(stream.step([0.4, 0.5, 0.6]), abs=1e-5)
    e = engine(path)  # and back
    assert e.stats()["recovery"] == "exact"
    e.step("a", [0.7, 0.8, 0.9], seq=3)
    abandoned(e)
    (refused,) = numpy(path)
    assert refused.startswith(f"refused expected a journal by arithmetic {closed[0].split()[1]}, got one by {kernels}")
    inexact = numpy(path, "inexact")
    assert inexact[0] == closed[0].replace("exact", "inexact").replace("'a': 1", "'a': 3")
    with engine(path) as e:
        assert e.export("a").age == 3
        assert e.stats()["recovery"] == "exact"


# callbacks, and warnings that are errors


def test_a_callback_that_fails_takes_nothing_from_the_others():
    told = []

    def fail(key):
        told.append(key)
        raise RuntimeError(f"told of {key}")

    store = DictStore()
    e = Engine(MODEL, "carry", store, capacity=3, on_evict=fail, on_end=fail)
    e.step_many(["a", "b", "c"], SAMPLES[:3])
    with pytest.raises(RuntimeError, match="told of"):
        e.step_many(["d", "e", "f"], SAMPLES[:3])
    assert sorted(told) == ["a", "b", "c"]
    with pytest.raises(RuntimeError, match="told of d"):
        e.step("d", SAMPLES[3], end=True)
    assert not e.broken
    f = Engine(MODEL, "carry", store.crash())
    assert {s.key: s.age for s in f.streams()} == dict.fromkeys("abcef", 1)


def test_a_slow_callback_holds_nobody_up():
    called, on = threading.Event(), threading.Event()

    def slow(key):
        called.set()
        assert on.wait(HANG)

    e = Engine(MODEL, "carry", DictStore(), capacity=1, on_evict=slow)
    e.step("a", SAMPLES[0])
    thread = threading.Thread(target=e.step, args=("b", SAMPLES[1]))
    thread.start()
    assert called.wait(HANG)
    assert e.step("b", SAMPLES[2]).value == alone(SAMPLES[1:3])[1]
    e.snapshot()
    on.set()
    thread.join(HANG)
    assert not thread.is_alive()


@pytest.mark.parametrize("ask", ["snapshot", "close"])
def test_a_callback_may_ask_for_a_snapshot(ask):
    store, clock = DictStore(), Clock()
    e = Engine(MODEL, "carry", store, idle_after=10, clock=clock, on_evict=lambda key: getattr(e, ask)())
    e.step_many(["a", "b"], SAMPLES[:2])
    clock.now += 20

    def run():
        with suppress(StoreError):  # closed meanwhile
            e.snapshot()

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(HANG)
    assert not thread.is_alive(), "it waits for itself"
    assert not store.entries
    assert len(store.kept) == 2


@BOTH
def test_a_warning_that_is_an_error_comes_after_the_fact(journalled):
    store = DictStore(journalled)
    e = Engine(MODEL, "auto", store)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(StepstreamWarning, match="restarts"):
            e.step_many(["k"] * 9, SAMPLES[:9])
    assert e.export("k").age == 2
    f = Engine(MODEL, "auto", store.crash())
    assert f.export("k") == e.export("k")


def test_a_state_that_no_record_can_hold_is_refused():
    """Or the journal could not be replayed."""
    model, store = EXAMPLES["repeat"](), DictStore()
    e = Engine(model, "carry", store)
    e.step("k", [*SAMPLES[0], 1, 2])
    state = e.export("k")
    for static in ((np.nan, 1.0), ("one", "two")):
        with pytest.raises(InputError, match="2 values without time"):
            e.restore("k", replace(state, static=static))
    assert Engine(model, "carry", store.crash()).export("k") == state


# interrupts


@BOTH
@pytest.mark.parametrize("made", [True, False])
def test_an_interrupted_commit_ends_the_engine(journalled, made):
    """Whether it was made, nobody knows until the store is opened again."""
    store = DictStore(journalled)
    e = Engine(MODEL, "carry", store)
    e.step("k", SAMPLES[0], seq=0)
    commit = store.commit

    def interrupted(*arguments):
        if made:
            commit(*arguments)
        raise KeyboardInterrupt

    store.commit = interrupted
    with pytest.raises(KeyboardInterrupt):
        e.step("k", SAMPLES[1], seq=1)
    store.commit = commit
    with pytest.raises(StoreError, match="it failed before: KeyboardInterrupt; close the engine and open it again"):
        e.step("k", SAMPLES[1], seq=1)
    f = Engine(MODEL, "carry", store.crash())
    r = f.step("k", SAMPLES[1], seq=1)
    assert (r.value, r.duplicate) == (alone(SAMPLES[:2])[1], made)


SMALL = model_of(recurrent("simple_rnn", 3, 4), dense(4, 1))
CALLS = {
    "step": lambda e: e.step("a", [0.1, 0.2, 0.3], seq=5),
    "step_many": lambda e: e.step_many(["a", "b"], SAMPLES[9:11], np.array([5, 5])),
    "the long way": lambda e: e.step_many(["a", "a", "c"], SAMPLES[9:12], [5, 6, 5], bookmark=lambda _: b"bookmark"),
    "end": lambda e: e.step("a", SAMPLES[9], seq=5, end=True),
    "out of the store": lambda e: e.step("c", SAMPLES[9], seq=5),
    "fork": lambda e: e.fork("a", "new"),
    "reset": lambda e: e.reset("a"),
    "delete": lambda e: e.reset("a", delete=True),
    "restore": lambda e: e.restore("c", e.export("a")),
    "snapshot": lambda e: e.snapshot(),
}


def interrupted(call, line):
    """Call, with an interrupt at the line-th line of the engine's code that it runs. Returns whether it came."""
    seen = 0

    def trace(frame, event, _):
        nonlocal seen
        name = frame.f_code.co_filename
        if f"{os.sep}live{os.sep}" not in name or "stepstream" not in name:
            return None
        # where a block begins, CPython looks for no interrupts
        if event == "line" and not linecache.getline(name, frame.f_lineno).strip().startswith(("with ", "try:")):
            seen += 1
            if seen == line:
                raise KeyboardInterrupt
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        call()
    except KeyboardInterrupt:
        pass
    finally:
        sys.settrace(before)
    return seen >= line


def used(journalled):
    """An engine with two streams in memory and two in the store, one deleted, and one changed since the snapshot."""
    store = DictStore(journalled)
    e = Engine(SMALL, "carry", store, capacity=2)
    e._tender.stop()
    e.step_many(["c", "d"], SAMPLES[:2], [1, 1])
    e.step("gone", SAMPLES[1])
    e.reset("gone", delete=True)
    e.step_many(["a", "b"], SAMPLES[2:4], [1, None])
    e.snapshot()
    e.step("a", SAMPLES[4], seq=2)
    return store, e


def all_of(e):
    states = {s.key: (s[1:5], e.export(s.key).row.tobytes()) for s in e.streams()}
    return states, e.bookmark


def test_a_snapshot_interrupted_anywhere_loses_nothing():
    """Not even a stream that began anew after its end, which the same snapshot has to write and to delete."""
    ended, line = 0, 1
    while True:
        store, e = used(journalled=True)
        e.step("gone", SAMPLES[5])
        e.step("d", SAMPLES[6], seq=2)
        now = all_of(e)
        if not interrupted(e.snapshot, line):
            break
        ended += e.broken
        if not e.broken:
            e.snapshot()
        assert all_of(Engine(SMALL, "carry", store.crash(), capacity=2)) == now, f"line {line}"
        line += 1
    assert line > 100
    assert ended > 0


@pytest.mark.parametrize("call", CALLS)
@BOTH
def test_interrupted_anywhere(journalled, call):
    """The engine goes on with all or nothing of the call, and its store with it; or it says that it must be opened
    again, and then has all or nothing.
    """
    expected = [all_of(used(journalled)[1])]
    store, e = used(journalled)
    CALLS[call](e)
    expected.append(all_of(e))
    ended, line = 0, 1
    while True:
        store, e = used(journalled)
        if not interrupted(lambda e=e: CALLS[call](e), line):
            break
        ended += e.broken
        if not e.broken:
            assert all_of(e) in expected, f"line {line}"
            e.step("b", SAMPLES[20])
            e.step("z", SAMPLES[21])
            now = all_of(e)
            assert all_of(Engine(SMALL, "carry", store.crash(), capacity=2)) == now, f"line {line}"
        else:
            assert all_of(Engine(SMALL, "carry", store.crash(), capacity=2)) in expected, f"line {line}"
        line += 7
    assert ended or call == "snapshot"
    assert line > 20
