"""The short way of recovery: what the kernel does with the bytes of a journal is what the long way does, or nothing."""

from copy import deepcopy

import numpy as np
import pytest
from engines import Clock, DictStore

from make import question
from stepstream import Engine
from stepstream.kernel.executor import native
from stepstream.live import journal, plain, recovery
from stepstream.live.journal import END, STEPS, Operation

MODEL = question()
RNG = np.random.default_rng(5)
KEYS = ["a", b"a", 0, "0", -1, "é", b"\xff\0", "", 2**63 - 1, -(2**63), "a longer key, which has bytes of its own"]
N = 40  # samples of an entry, which then is long enough to lie in memory of its own
WINDOWINGS = ["carry", "tumbling(3)", "sliding(3, by=states)", "sliding(3, by=recompute)", "session(2)"]

pytestmark = pytest.mark.skipif(native() is None, reason="the native kernel is not built")


def steps(keys, seq=None, time=None, now=1000.0):
    return Operation(STEPS, now, keys, RNG.normal(size=(len(keys), 3)).astype(np.float32), seq, time)


def begun(windowing="carry", keys=KEYS):
    e = Engine(MODEL, windowing, capacity=16, remember=2, keep=2)
    e.step_many(list(keys), RNG.normal(size=(len(keys), 3)).astype(np.float32), time=[0.0] * len(keys))
    return e


class Twin:
    """An engine's streams, which go back to where they were for every try."""

    def __init__(self, windowing="carry"):
        self.streams = begun(windowing)._streams
        self.table, self.short = self.streams.table, self.streams.short
        self.short.asks = False
        self.streams.stepper.rules._says_restart = False
        self.before = self.contents()
        self.included = np.zeros(self.table.capacity, np.int64)

    def contents(self):
        return self.table.state.copy(), self.table.meta.copy()

    def equal(self, others):
        return all(a.tobytes() == b.tobytes() for a, b in zip(self.contents(), others, strict=True))

    def back(self):
        self.table.state[:], self.table.meta[:] = self.before
        self.short.now = -np.inf

    def replay(self, entry, at=1, number=1):
        self.back()
        return self.short.replay(entry, at, number, self.included)

    def slowly(self, operation, number=1):
        self.back()
        self.streams.included = self.included
        recovery._replay(self.streams, operation, number, self.included, {})

    def agrees(self, entry, number=1):
        """Where the kernel gets to; what it has done is what the long way does, and else it has done nothing."""
        after = self.replay(entry, 1, number)
        if after == 1:
            assert self.equal(self.before)
            return after
        found = self.contents()
        rest = iter(journal.decode(entry, 3, number))
        self.slowly(next(rest), number)
        assert self.equal(found)
        return after


@pytest.mark.parametrize("windowing", WINDOWINGS)
@pytest.mark.parametrize("numbered", [False, True, "some"])
@pytest.mark.parametrize("timed", [False, True])
def test_samples_are_what_the_long_way_makes_of_them(windowing, numbered, timed):
    twin = Twin(windowing)
    keys = [KEYS[i] for i in RNG.integers(0, len(KEYS), N).tolist()]
    seq = np.arange(N) if numbered else None
    if numbered == "some":
        seq[::3] = -1
    time = np.arange(float(N)) if timed else None
    entry = journal.encode([steps(keys, seq, time)])
    assert twin.agrees(entry) == len(entry)
    assert not twin.equal(twin.before)


@pytest.mark.parametrize("numbered", [False, True])
def test_what_records_include_is_left_out(numbered):
    twin = Twin()
    keys = [KEYS[i] for i in RNG.integers(0, len(KEYS), N).tolist()]
    entry = journal.encode([steps(keys, np.arange(N) if numbered else None, np.arange(float(N)))])
    rows = twin.table.keys.find(KEYS[:4])
    twin.included[rows] = [6, 7, 8, 9]
    assert twin.agrees(entry, 7) == len(entry)
    twin.replay(entry, 1, 7)
    same = (twin.table.state == twin.before[0]).all(axis=1)[twin.table.keys.find(KEYS)]
    assert same.tolist() == [False, True, True, True] + [False] * (len(KEYS) - 4)
    twin.included[:] = 7
    assert twin.agrees(entry, 7) == len(entry)
    assert twin.equal(twin.before)


@pytest.mark.parametrize(
    "operation",
    [
        steps(["a", "nobody"]),
        steps(["a", 2**63]),
        steps(["a", -(2**100)]),
        steps([]),
        steps(["a"], seq=np.array([2**62 + 1])),
        steps(["a", "a"], seq=np.array([5, 5])),
        steps(["a"], time=np.array([-1.0])),
        steps(["a", "0"], time=np.array([np.nan, 1.0])),
        steps(["a"], time=np.array([np.inf])),
        steps(["a"], now=np.nan),
        Operation(STEPS, 1.0, ["a"] * N, np.full((N, 3), np.nan, np.float32)),
        Operation(END, 1.0, ["a"] * N),
    ],
)
def test_what_is_not_plain_is_left_to_the_long_way(operation):
    twin = Twin()
    assert twin.agrees(journal.encode([operation])) == 1


def test_operations_are_done_in_their_order():
    """The kernel does those around the one that it cannot do."""
    twin = Twin()
    first, last = steps(KEYS), steps(KEYS, now=1002.0)
    entry = journal.encode([first, Operation(END, 1001.0, ["a"]), steps(["a"], now=1001.5), last])
    shown = []

    def done(entry, at):
        after = twin.short.replay(entry, at, 1, twin.included)
        shown.append(after > at)
        return after

    twin.back()
    twin.streams.included = twin.included
    for operation in journal.decode(entry, 3, 1, done):
        recovery._replay(twin.streams, operation, 1, twin.included, {})
    assert shown == [True, False, False, True]
    rows = twin.table.keys.find(KEYS)
    assert twin.table.meta["samples"][rows].tolist() == [2] + [3] * (len(KEYS) - 1)


@pytest.mark.parametrize("numbered", [False, True])
@pytest.mark.parametrize("timed", [False, True])
def test_an_entry_that_ends_early_is_not_read_beyond_its_end(numbered, timed):
    twin = Twin()
    entry = journal.encode([steps(KEYS * 4, np.arange(4 * len(KEYS)) if numbered else None, np.ones(44) * timed)])
    for end in range(1, len(entry)):
        assert twin.replay(entry[:end]) == 1
    assert twin.equal(twin.before)
    assert twin.replay(entry, len(entry)) == len(entry)


@pytest.mark.parametrize("what", ["sizes", "count"])
def test_sizes_that_are_lies(what):
    twin = Twin()
    entry = bytearray(journal.encode([steps(KEYS * 4, np.arange(44))]))
    for value in (0, 1, 43, 45, 255, 256, 65535, 2**31, 2**32 - 1):
        bad = entry.copy()
        if what == "count":
            bad[10:14] = value.to_bytes(4, "little")
        else:
            bad[15:17] = (value & 65535).to_bytes(2, "little")
        twin.agrees(bytes(bad))


def test_a_damaged_byte_anywhere():
    twin = Twin()
    keys = [KEYS[i] for i in RNG.integers(0, len(KEYS), N).tolist()]
    entry = journal.encode([steps(keys, np.arange(N), np.arange(float(N)))])
    done = 0
    for place in range(1, len(entry)):
        bad = bytearray(entry)
        bad[place] ^= int(RNG.integers(1, 256))
        done += twin.agrees(bytes(bad)) > 1
    assert 0 < done < len(entry)


@pytest.mark.parametrize(
    "written", [b"i07", b"i-0", b"i", b"i-", b"i+7", b"i 7", b"i7 ", b"x7", b"", b"s\xff", b"i\xd9\xa1"]
)
def test_keys_that_no_engine_has_written(written):
    """The kernel takes them for what Python does, or leaves them alone."""
    twin = Twin()
    entry = journal.encode([steps(["k" * (len(written) - 1)] if written else [0])])
    at = 1 + 14
    bad = entry[:at] + len(written).to_bytes(2, "little") + written + entry[-12:]
    twin.agrees(bad)


def test_arguments_that_fit_nothing():
    twin = Twin()
    entry = journal.encode([steps(["a"])])
    for at in (-1, len(entry) + 1):
        with pytest.raises(ValueError, match="wrong shapes"):
            twin.short.replay(entry, at, 1, twin.included)
    for included in (np.zeros(15, np.int64), np.zeros(17, np.int64)):
        with pytest.raises(ValueError, match="wrong shapes"):
            twin.short.replay(entry, 1, 1, included)
    for wrong in (bytearray(entry), entry.decode("latin1"), None):
        with pytest.raises(TypeError):
            twin.short.replay(wrong, 1, 1, twin.included)


@pytest.mark.parametrize("keep", [0, 3])
@pytest.mark.parametrize("windowing", WINDOWINGS)
def test_an_engine_opened_the_short_way_is_the_one_opened_the_long_way(windowing, keep, monkeypatch):
    store, same = DictStore(), {"capacity": 4, "remember": 2, "keep": keep}
    e = Engine(MODEL, windowing, store, **same, clock=iter(range(1000, 9999)).__next__)
    keys = ["a", 1, b"c", "d", "e"]
    for first in range(12):
        some = [keys[(first + i) % 5] for i in RNG.integers(0, 3, 6).tolist()]
        e.step_many(some, RNG.normal(size=(6, 3)), np.arange(6) + 6 * first, np.full(6, float(first)))
        if first == 5:
            e.snapshot()
    store.crash()
    found = []
    for short in (True, False):
        if not short:
            monkeypatch.setattr(plain, "streams", lambda *_: None)
        streams = Engine(MODEL, windowing, deepcopy(store), **same)._streams
        table = streams.table
        found.append({(type(k), k): (table.state[r].tobytes(), table.meta[r].tobytes()) for k, r in table.keys.items()})
    assert found[0] == found[1]


@pytest.mark.parametrize("form", ["array", "list"])
def test_a_clock_that_was_wrong_before_a_crash_is_forgotten(form):
    store, clock = DictStore(), Clock()
    clock.now = 4e9
    e = Engine(MODEL, "session(30)", store, clock=clock)
    for _ in range(3):
        e.step("a", [0.0, 0.0, 0.0])
    clock.now = 1.7e9
    e = Engine(MODEL, "session(30)", store.crash(), clock=clock)
    ages = []
    for _ in range(2):
        ages.append(e.step("new", np.zeros(3) if form == "array" else [0.0, 0.0, 0.0]).age)
        clock.now += 1000
    assert ages == [1, 1]  # a session each


def test_when_a_stream_was_used_is_known_after_a_crash():
    """By the clock as it was, also where several operations share one reading, and where it went back."""
    store, clock = DictStore(), Clock()
    e = Engine(MODEL, "carry", store, clock=clock)
    e.step_many(["a", "b", "c"], RNG.normal(size=(3, 3)))
    for now in (1000.0, 1000.0, 2000.0):
        clock.now = now
        e.step_many(["a", "b", "a"], RNG.normal(size=(3, 3)), end=[False, True, False])
        e.step_many(["b", "c"], RNG.normal(size=(2, 3)))
    clock.now = 500.0
    e = Engine(MODEL, "carry", store.crash(), clock=clock)
    e.step("a", [0.0, 0.0, 0.0])
    expected = {s.key: s.used for s in e.streams()}
    assert expected["a"] == 500.0
    assert expected["c"] == 2000.0000000000002
    assert {s.key: s.used for s in Engine(MODEL, "carry", store.crash(), clock=clock).streams()} == expected


@pytest.mark.parametrize("form", ["float32", "float64", "list", "new streams"])
def test_the_journal_has_what_was_stepped_whatever_becomes_of_it_meanwhile(form):
    """bookmark= comes between the step and the journal, and may write into the arrays, and into the list of keys."""
    store = DictStore()
    e = Engine(MODEL, "carry", store)
    keys, x = ["a", "b"], RNG.normal(size=(2, 3)).astype("float64" if form == "float64" else "float32")
    if form != "new streams":
        e.step_many(keys, x)
    seq, time = np.array([1, 2]), np.array([1.0, 2.0])

    def bookmark(answers):
        x[:], seq[:], time[:], keys[:] = np.nan, 7, 99.0, ["c", "d"]
        return b"1"

    given = x.tolist() if form == "list" else x
    e.step_many(keys, given, seq, time, bookmark=bookmark)
    again = Engine(MODEL, "carry", store.crash())
    assert {s.key: s for s in again.streams()} == {s.key: s for s in e.streams()}
    assert {s.key: s.seq for s in again.streams()} == {"a": 1, "b": 2}
    assert all(again.export(key) == e.export(key) for key in "ab")


@pytest.mark.parametrize("form", [list, np.array])
def test_a_sample_is_read_once(form):
    """Another thread writes into it right after the step."""
    store, x = DictStore(), form([0.1, 0.2, 0.3])
    e = Engine(MODEL, "carry", store)
    e.step("a", x)
    native = e._streams.short

    class Between:
        def step(self, *given):
            result = native.step(*given)
            x[:] = [9.0, 9.0, 9.0]
            return result

        def __getattr__(self, name):
            return getattr(native, name)

    e._streams.short = Between()
    assert e.step("a", x).age == 2
    assert Engine(MODEL, "carry", store.crash()).export("a") == e.export("a")
