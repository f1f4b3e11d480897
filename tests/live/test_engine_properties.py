"""Whatever happens to an engine, in any order that Hypothesis can think of: every stream is its lonely run."""

import numpy as np
import pytest
from engines import DictStore

from make import dense, model_of, recurrent
from stepstream import Engine, InputError
from stepstream.live import journal
from stepstream.live.journal import Operation
from stepstream.live.records import decode_key, encode_key

hypothesis = pytest.importorskip("hypothesis")
from hypothesis import given, settings  # noqa: E402  (importorskip comes first)
from hypothesis import strategies as st  # noqa: E402
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule  # noqa: E402

op, params, weights = recurrent("simple_rnn", 3, 4)
MODEL = model_of((op, {**params, "activation": {"name": "linear"}}, weights), dense(4, 1, "linear"))  # 3e38 overflows
SAMPLES = np.random.default_rng(9).normal(size=(16, 3)).astype(np.float32)
BAD = [np.float32([0, np.nan, 0]), np.float32([np.inf, 0, 0])]
KEYS = ["a", b"a", 0, "0", -1]
REMEMBER = 2

keys = st.sampled_from(KEYS)
places = st.integers(0, 15)


class Lonely:
    """What a stream of the engine should be: a Stream of its own, and the numbers seen so far."""

    def __init__(self, windowing):
        self.stream, self.windowing = MODEL.stream(windowing), windowing
        self.last, self.answers = -1, []  # the newest numbers and their answers
        self.live = False

    def step(self, x, seq, time):
        """(value, duplicate), or None for a sample that is refused."""
        if seq is not None and seq <= self.last:
            return dict(self.answers).get(seq), True
        try:
            value = self.stream.step(x, time=time)
        except InputError:
            return None
        self.live = True
        if seq is not None:
            self.last = seq
            self.answers = [*self.answers, (seq, value)][-REMEMBER:]
        return value, False

    def copy(self):
        """For what may not happen."""
        twin = Lonely(self.windowing)
        twin.stream, twin.live, twin.last, twin.answers = self.stream.fork(), self.live, self.last, self.answers
        return twin

    def reset(self):
        self.stream = MODEL.stream(self.windowing)


class Streams(RuleBasedStateMachine):
    @initialize(
        windowing=st.sampled_from(
            ["carry", "tumbling(3)", "sliding(3, by=states)", "sliding(3, by=recompute)", "session(2)"]
        ),
        journalled=st.booleans(),
        capacity=st.integers(len(KEYS) - 2, len(KEYS)),
    )
    def begin(self, windowing, journalled, capacity):
        self.store, self.windowing, self.capacity = DictStore(journalled), windowing, capacity
        self.engine = self.opened()
        self.lonely = {key: Lonely(windowing) for key in KEYS}
        self.time = 0.0

    def opened(self):
        return Engine(MODEL, self.windowing, self.store, capacity=self.capacity, remember=REMEMBER)

    def now(self, wait):
        self.time += wait
        return self.time

    @rule(key=keys, place=places, ahead=st.integers(-3, 2) | st.none(), wait=st.integers(0, 3), end=st.booleans())
    def step(self, key, place, ahead, wait, end):
        """ahead: of the last number; 1 is the next one, 0 and less are retries."""
        lonely, time = self.lonely[key], self.now(wait)
        seq = None if ahead is None else max(0, lonely.last + ahead)
        value, duplicate = lonely.step(SAMPLES[place], seq, time)
        r = self.engine.step(key, SAMPLES[place], seq, time, end)
        assert (r.value, r.duplicate) == (value, duplicate)
        if not duplicate:
            assert r.age == lonely.stream.age
            if end:
                self.ended(key)

    def ended(self, key):
        self.lonely[key].reset()
        self.lonely[key].live = False

    @rule(
        some=st.lists(
            st.tuples(st.integers(0, 2), places, st.booleans() | st.none(), st.booleans(), st.booleans()), max_size=9
        ),
        wait=st.integers(0, 3),
        ends=st.booleans(),
    )
    def step_many(self, some, wait, ends):
        """Of three of the keys; some of the samples bad, some the last, some without a number, some numbers twice."""
        time = self.now(wait)
        expected, x, numbers, accepted = [], [], [], []
        for k, place, numbered, bad, end in some:
            lonely = self.lonely[KEYS[k]]
            seq = None if numbered is None else max(0, lonely.last + numbered)
            x.append(BAD[place % 2] if bad and place > 9 else SAMPLES[place])
            numbers.append(seq)
            if not np.isfinite(x[-1]).all():
                accepted.append(False)
                expected.append(None)
                continue
            accepted.append(True)
            value, duplicate = lonely.step(x[-1], seq, time)
            expected.append(value)
            if ends and end and not duplicate:
                self.ended(KEYS[k])
        end = [end for *_, end in some] if ends else None
        chosen = [KEYS[k] for k, *_ in some]
        if not all(accepted):
            with pytest.raises(InputError, match="finite"):
                self.engine.step_many(chosen, x, numbers, [time] * len(some), end=end)
        r = self.engine.step_many(chosen, x, numbers, [time] * len(some), end=end, on_bad="skip")
        assert r.accepted.tolist() == accepted
        for value, y in zip(expected, r.values[:, 0].tolist(), strict=True):
            assert np.isnan(y) if value is None else y == value

    @rule(
        chosen=st.permutations(range(3)),
        n=st.integers(1, 3),
        place=places,
        numbered=st.booleans(),
        timed=st.booleans(),
        strict=st.booleans(),
        huge=st.integers(0, 20),
    )
    def step_arrays(self, chosen, n, place, numbered, timed, strict, huge):
        """One sample of each of some keys, as arrays; perhaps one that would overflow."""
        some = [KEYS[k] for k in chosen[:n]]
        x = np.stack([SAMPLES[(place + i) % 16] for i in range(n)])
        if huge < n:
            x[huge] = 3e38
        time = self.now(1)
        timed |= self.windowing == "session(2)"
        times = np.full(n, time) if timed else None
        numbers = np.array([self.lonely[k].last + 1 for k in some]) if numbered else None
        values, expected = [], []
        before = {k: self.lonely[k] for k in some}
        for i, k in enumerate(some):
            lonely = self.lonely[k].copy()
            answer = lonely.step(x[i], None if numbers is None else int(numbers[i]), time if timed else None)
            expected.append(answer is not None)
            values.append(np.nan if answer is None else answer[0])
            self.lonely[k] = lonely
        if strict and not all(expected):
            self.lonely |= before
            with pytest.raises(InputError, match="overflowed"):
                self.engine.step_many(some, x, numbers, times)
            return
        r = self.engine.step_many(some, x, numbers, times, on_bad="raise" if strict else "skip")
        assert r.accepted.tolist() == expected
        np.testing.assert_array_equal(r.values[:, 0], np.float32(values))
        for i, k in enumerate(some):
            if expected[i]:
                stream = self.lonely[k].stream
                assert (r.age[i], r.complete[i]) == (stream.age, stream.complete)
                assert r.beyond_training_length[i] == stream.beyond_training_length

    @rule(key=keys, other=keys)
    def overflows(self, key, other):
        """A neighbour in the same batch that would not stay finite."""
        time, huge = self.now(0), np.full(3, 3e38, np.float32)
        if key == other and type(key) is type(other):
            return
        before = self.lonely[key].stream.snapshot()
        taken = self.lonely[key].step(huge, None, time)
        value = self.lonely[other].step(SAMPLES[0], None, time)[0]
        r = self.engine.step_many([key, other], [huge, SAMPLES[0]], time=[time, time], on_bad="skip")
        assert r.accepted.tolist() == [taken is not None, True]
        assert r.values[1, 0] == value
        if taken is None:
            assert self.lonely[key].stream.snapshot() == before
        if self.lonely[key].live:
            assert self.engine.export(key) == self.lonely[key].stream.snapshot()

    @rule(key=keys, place=places)
    def peek(self, key, place):
        assert self.engine.peek(key, SAMPLES[place], self.time) == self.lonely[key].stream.peek(
            SAMPLES[place], self.time
        )

    @rule(key=keys, bad=st.sampled_from([*BAD, [1, 2], "x"]))
    def refused(self, key, bad):
        with pytest.raises(InputError):
            self.engine.step(key, bad, time=self.time)

    @rule(key=keys, delete=st.booleans())
    def reset(self, key, delete):
        self.engine.reset(key, delete)
        if delete:
            self.lonely[key] = Lonely(self.windowing)
        else:
            self.lonely[key].reset()

    @rule(key=keys)
    def end(self, key):
        self.engine.end(key)
        if self.lonely[key].last < 0:
            self.lonely[key] = Lonely(self.windowing)
        self.ended(key)

    @rule(key=keys, new=keys)
    def fork(self, key, new):
        if not self.lonely[key].live or self.lonely[new].live:
            with pytest.raises(InputError):
                self.engine.fork(key, new)
            return
        self.engine.fork(key, new)
        self.lonely[new].stream, self.lonely[new].live = self.lonely[key].stream.fork(), True

    @rule(key=keys, new=keys)
    def restore(self, key, new):
        if self.lonely[key].live:
            self.engine.restore(new, self.engine.export(key))
            self.lonely[new].stream, self.lonely[new].live = self.lonely[key].stream.fork(), True

    @rule()
    def snapshot(self):
        self.engine.snapshot()

    @rule()
    def close(self):
        self.engine.close()
        assert not self.store.entries
        self.engine = self.opened()

    @rule()
    def crash(self):
        self.store.crash()
        self.engine = self.opened()

    @invariant()
    def nobody_is_lost(self):
        if hasattr(self, "engine"):
            there = {(type(s.key), s.key): s for s in self.engine.streams()}
            for key, lonely in self.lonely.items():
                info = there.pop((type(key), key), None)
                assert lonely.live == (info is not None)
                if info is not None:
                    assert (info.age, info.samples) == (lonely.stream.age, lonely.stream.snapshot().samples)
            assert not there


Streams.TestCase.settings = settings(deadline=None, derandomize=True, max_examples=60, stateful_step_count=40)
TestStreams = Streams.TestCase

any_key = st.text(st.characters(exclude_categories=["Cs"]), max_size=20) | st.binary(max_size=20) | st.integers()


@settings(deadline=None, derandomize=True, max_examples=60)
@given(any_key)
def test_a_key_reads_back_from_its_bytes(key):
    back = decode_key(encode_key(key))
    assert back == key
    assert type(back) is type(key)


@settings(deadline=None, derandomize=True, max_examples=60)
@given(
    st.lists(
        st.tuples(st.sampled_from("sredpt"), st.lists(any_key, max_size=5), st.booleans(), st.booleans()), max_size=4
    ),
    st.binary(max_size=30),
)
def test_an_entry_reads_back(parts, record):
    rng, operations = np.random.default_rng(1), []
    for letter, some, numbered, timed in parts:
        n, steps = len(some), letter == "s"
        x = rng.normal(size=(n, 3)).astype(np.float32) if steps else None
        seq = np.where(rng.random(n) < 0.5, -1, 5) if steps and numbered else None
        time = np.where(rng.random(n) < 0.5, np.nan, 5.0) if steps and timed else None
        operations.append(Operation(letter.encode(), 1.5, some, x, seq, time, record if letter in "pt" else b""))
    for o, back in zip(operations, journal.decode(journal.encode(operations), 3, 1), strict=True):
        assert (o.letter, o.now, list(o.keys), o.record) == (back.letter, back.now, list(back.keys), back.record)
        assert [type(k) for k in o.keys] == [type(k) for k in back.keys]
        if o.x is not None:
            np.testing.assert_array_equal(o.x, back.x)
            np.testing.assert_array_equal(-1 if o.seq is None else o.seq, -1 if back.seq is None else back.seq)
            np.testing.assert_array_equal(
                np.nan if o.time is None else o.time, np.nan if back.time is None else back.time
            )
