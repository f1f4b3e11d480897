"""Many keyed streams over one model: each is what it would be alone, whatever happens around it."""

import copy
import os
import pickle
import subprocess
import sys
import threading
import warnings
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
from engines import MODEL, SAMPLES, WINDOWINGS, DictStore, alone

from make import EXAMPLES, explosive, model_of, recurrent, windowed
from stepstream import Engine, InputError, Result, StepstreamWarning, StoreError

EXPLOSIVE = explosive()


def engine(model=MODEL, windowing="carry", **options):
    return Engine(model, windowing, **options)


@pytest.mark.parametrize("windowing", WINDOWINGS)
def test_each_stream_is_what_it_would_be_alone(windowing):
    """Interleaved, one by one and together, any number of samples of a key in a call."""
    rng = np.random.default_rng(1)
    keys = [["a", b"a", 1, "1", b"1", -5, 10**30][k] for k in rng.integers(0, 7, 60)]
    e, given, got = engine(windowing=windowing), {}, {}
    at = 0
    while at < 60:
        n = int(rng.integers(1, 14))
        part = range(at, min(60, at + n))
        some, times = [keys[i] for i in part], [float(i) for i in part]
        if n == 1:
            values = [e.step(some[0], SAMPLES[at], time=times[0]).value]
        else:
            values = e.step_many(some, SAMPLES[at : at + n], time=times).values[:, 0].tolist()
        for i, y in zip(part, values, strict=True):
            given.setdefault(keys[i], []).append(i)
            got.setdefault(keys[i], []).append(y)
        at += n
    assert len(given) == 7
    for key, places in given.items():
        assert got[key] == alone(SAMPLES[places], windowing, times=places)


def test_a_result_says_what_a_stream_says():
    e = engine(windowing="tumbling(3)")
    stream = MODEL.stream("tumbling(3)")
    many = engine(windowing="tumbling(3)").step_many(["k"] * 8, SAMPLES[:8])
    for i, x in enumerate(SAMPLES[:8]):
        value = stream.step(x)
        expected = Result(value, "k", stream.age, None, stream.complete, stream.beyond_training_length, False)
        assert e.step("k", x) == expected
        assert (many.values[i, 0], many.age[i]) == (value, stream.age)
        assert many.complete[i] == stream.complete
    assert len(many) == 8
    assert many.accepted.all()
    assert not many.reasons


@pytest.mark.parametrize("windowing", ["carry", "sliding(7)", "sliding(9)", "tumbling(9)"])
def test_how_much_an_answer_has_seen(windowing):
    stream, e = MODEL.stream(windowing), engine(windowing=windowing)
    for x in SAMPLES[:20]:
        stream.step(x)
        r = e.step("k", x)
        assert (r.age, r.complete, r.beyond_training_length) == (
            stream.age,
            stream.complete,
            stream.beyond_training_length,
        )


@pytest.mark.parametrize("windowing", WINDOWINGS)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_arrays_take_the_short_way_to_the_same_answers(windowing, dtype):
    e, keys = engine(windowing=windowing, remember=2), np.array(["a", "b", "c"])
    got = np.stack(
        [
            e.step_many(keys, SAMPLES[3 * t : 3 * t + 3].astype(dtype), np.full(3, t), np.full(3, 2.0 * t)).values[:, 0]
            for t in range(20)
        ]
    )
    for k, key in enumerate("abc"):
        assert got[:, k].tolist() == alone(SAMPLES[k::3], windowing, times=2.0 * np.arange(20))
        assert e.step(key, SAMPLES[0], seq=19).value == got[19, k]
        assert e.step(key, SAMPLES[0], seq=18).value == got[18, k]
    r = e.step_many(keys, SAMPLES[:3], np.array([22, 20, 21]), np.full(3, 40.0))
    assert r.gap.tolist() == [2, 0, 1]
    assert e.stats()["samples"] == 63
    before = [e.export(key) for key in "abc"]
    for seq, time in (([23, 21, -1], [41.0] * 3), ([23] * 3, [41.0, 41, 39]), ([23] * 3, [41.0, np.nan, 41])):
        with pytest.raises(InputError):
            e.step_many(keys, SAMPLES[:3], np.array(seq), np.array(time))
    with pytest.raises(InputError):
        e.step_many(keys, np.full((3, 3), 1e39), None, np.full(3, 41.0))
    assert [e.export(key) for key in "abc"] == before


def test_arrays_may_lie_anywhere():
    """In read-only memory, at odd addresses, backwards."""
    e, keys = engine(), ["a", "b", "c"]
    odd = np.frombuffer(b"x" + SAMPLES[:3].tobytes(), np.float32, 9, 1).reshape(3, 3)
    numbers = np.frombuffer(b"x" + np.arange(3, dtype=np.int64).tobytes(), np.int64, 3, 1)
    for x in (SAMPLES[:3], odd, SAMPLES[:3][::-1][::-1], np.asfortranarray(SAMPLES[:3])):
        r = e.step_many(keys, x, numbers, numbers.astype(np.float64))
        assert r.values[:, 0].tolist() == [alone(SAMPLES[i : i + 1])[0] for i in range(3)]
        for key in keys:
            e.reset(key, delete=True)


def test_values_come_as_a_stream_gives_them():
    several = EXAMPLES["where"]()
    stream, e = several.stream("carry"), engine(several)
    value, expected = e.step("k", SAMPLES[0]).value, stream.step(SAMPLES[0])
    assert value.keys() == expected.keys()
    assert all(np.array_equal(value[name], expected[name]) for name in expected)
    two = EXAMPLES["latest"]()
    value = engine(two).step("k", SAMPLES[0]).value
    assert value.shape == (2,)
    np.testing.assert_array_equal(value, two.stream("carry").step(SAMPLES[0]))


def test_samples_in_any_form():
    e = engine()
    first = alone(SAMPLES[:1])[0]
    for i, x in enumerate([SAMPLES[0], SAMPLES[0].tolist(), SAMPLES[0][None], SAMPLES[0].astype(np.float64)]):
        assert e.step(i, x).value == first
    mixed = e.step_many(["a", "b"], [SAMPLES[0].tolist(), SAMPLES[0][None]])
    assert mixed.values.ravel().tolist() == [first, first]
    assert len(e.step_many([], [])) == 0
    assert e.step_many(np.array([7, 8]), SAMPLES[:2]).values[0, 0] == first
    assert {s.key for s in e.streams()} == {0, 1, 2, 3, "a", "b", 7, 8}


def test_auto_says_once_that_it_restarts():
    e = Engine(MODEL)
    with pytest.warns(StepstreamWarning, match=r"tumbling\(7\)") as said:
        e.step_many(["a"] * 20, SAMPLES[:20])
    assert len(said) == 1
    e.step_many(["b"] * 20, SAMPLES[:20])
    with pytest.warns(StepstreamWarning, match="does not say how many") as said:
        Engine(model_of(recurrent("lstm", 3, 4), training_length=None))
    assert said[0].filename == __file__


# peek, fork, reset, end, export, restore


def test_peek_changes_nothing():
    e = engine()
    assert e.peek("k", SAMPLES[0]) == alone(SAMPLES[:1])[0]
    assert e.streams() == []
    e.step("k", SAMPLES[0])
    before = e.export("k")
    assert e.peek("k", SAMPLES[1]) == alone(SAMPLES[:2])[1]
    assert e.export("k") == before


def test_a_fork_goes_on_by_itself():
    e = engine()
    e.step_many(["k"] * 3, SAMPLES[:3], seq=[1, 2, 3])
    e.fork("k", "l")
    e.step("k", SAMPLES[5])
    assert e.step("l", SAMPLES[3], seq=1).value == alone(SAMPLES[:4])[3]  # numbers of its own
    for key, new, message in (("no", "m", "'no', which has none"), ("k", "l", "'l', which has a stream")):
        with pytest.raises(InputError, match=message):
            e.fork(key, new)


def test_a_reset_keeps_the_numbers_unless_it_deletes():
    e = engine()
    e.step_many(["k"] * 3, SAMPLES[:3], seq=[1, 2, 3])
    e.reset("k")
    assert e.step("k", SAMPLES[2], seq=3).duplicate
    r = e.step("k", SAMPLES[0], seq=4)
    assert (r.value, r.age, r.gap) == (alone(SAMPLES[:1])[0], 1, 0)
    e.reset("k", delete=True)
    assert not e.step("k", SAMPLES[0], seq=4).duplicate
    e.reset("nobody")
    e.reset("nobody", delete=True)
    assert [s.key for s in e.streams()] == ["k"]


def test_streams_end_and_begin_anew_within_a_call():
    ended = []
    e = engine(on_end=ended.append)
    first = e.step_many(["a", "a", "a", "b", "a"], SAMPLES[[0, 1, 0, 0, 1]], end=[False, True, False, True, True])
    assert first.age.tolist() == [1, 2, 1, 1, 2]
    assert first.values[[0, 1], 0].tolist() == first.values[[2, 4], 0].tolist()
    assert ended == ["a", "b", "a"]
    assert e.stats()["ended"] == 3
    assert e.streams() == []
    again = e.step_many(["a", "b"], SAMPLES[[0, 1]], end=np.array([False, False]))
    assert again.age.tolist() == [1, 1]
    with pytest.raises(InputError, match="finite"):
        e.step_many(["a", "a", "c"], [SAMPLES[1], SAMPLES[2], [np.nan] * 3], end=[True, False, False])
    huge = np.full(3, 3e38)
    r = e.step_many(["a", "a", "b"], [SAMPLES[1], [np.nan] * 3, SAMPLES[0]], end=[False, True, True], on_bad="skip")
    assert (r.age.tolist(), r.accepted.tolist()) == ([2, -1, 2], [True, False, True])
    assert [s.key for s in e.streams()] == ["a"]
    overflows = engine(EXPLOSIVE)
    overflows.step_many(["a", "b"], SAMPLES[:2], seq=[1, 1])
    with pytest.raises(InputError, match="overflowed"):  # in the third round, when "a" has ended twice
        overflows.step_many(["a", "a", "a", "c"], [*SAMPLES[:2], huge, SAMPLES[3]], end=[True, True, False, True])
    assert {s.key: (s.age, s.seq) for s in overflows.streams()} == {"a": (1, 1), "b": (1, 1)}
    for wrong in (True, "ab", [True], [1, 0], np.array([1, 0]), [True, None]):
        with pytest.raises(InputError, match="end: expected 2 times True or False"):
            e.step_many(["a", "b"], SAMPLES[:2], end=wrong)


def test_a_stream_ends_with_the_sample_that_others_stand_in_before():
    e = engine(every=1, on_missing="hold")
    r = e.step_many(["a"] * 3, SAMPLES[[0, 1, 2]], time=[0, 3, 9], end=[False, True, False])
    assert r.age.tolist() == [1, 4, 1]
    assert e.step("a", SAMPLES[0], time=11, end=True).age == 3
    assert e.streams() == []


def test_a_retry_after_the_end_is_harmless(clock):
    ended = []
    e = engine(expire_after=100, clock=clock, on_end=ended.append)
    e.step("k", SAMPLES[0], seq=1)
    last = e.step("k", SAMPLES[1], seq=2, end=True)
    assert e.streams() == []
    assert e.step("k", SAMPLES[1], seq=2, end=True) == last._replace(duplicate=True)
    e.end("k")
    assert ended == ["k"]
    assert e.streams() == []
    r = e.step("k", SAMPLES[5], seq=3)  # whoever goes on begins anew
    assert (r.value, r.age) == (alone(SAMPLES[5:6])[0], 1)
    e.end("k")
    clock.now += 150
    e.step("other", SAMPLES[0])
    assert not e.step("k", SAMPLES[1], seq=2).duplicate  # the tombstone is gone
    e.step("plain", SAMPLES[0])
    e.end("plain")
    assert e.stats()["streams"] == 2  # without numbers nothing is left


def test_states_move_between_engines_and_streams():
    e, stream = engine(), MODEL.stream("carry")
    e.step_many(["k"] * 3, SAMPLES[:3], time=[1, 2, 3])
    state = e.export("k")
    stream.restore(state)
    assert stream.snapshot() == state
    f = engine()
    f.restore("l", stream.snapshot())
    assert f.step("l", SAMPLES[3], time=4).value == alone(SAMPLES[:4])[3]
    with pytest.raises(InputError, match="time runs backwards"):
        f.step("l", SAMPLES[3], time=3)
    for bad, message in (
        (replace(state, fingerprint="other"), "one of other"),
        (replace(state, row=state.row[:5]), "96 floats"),
        (replace(state, row=state.row * np.float32(np.nan)), "finite"),
    ):
        with pytest.raises(InputError, match=message):
            f.restore("l", bad)
    with pytest.raises(InputError, match="which has none"):
        f.export("nobody")


# sequence numbers


def test_the_newest_number_returns_its_answer_and_changes_nothing():
    e = engine()
    first = e.step("k", SAMPLES[0], seq=5)
    second = e.step("k", SAMPLES[1], seq=6)
    before = e.export("k")
    assert e.step("k", SAMPLES[1], seq=6) == second._replace(duplicate=True)
    old = e.step("k", SAMPLES[0], seq=5)
    assert old == Result(None, "k", None, 5, False, False, True)
    assert first.value is not None
    assert e.export("k") == before
    assert e.stats()["duplicates"] == 2


def test_more_answers_are_remembered_if_asked():
    e = engine(remember=3)
    answers = [e.step("k", x, seq=i) for i, x in enumerate(SAMPLES[:5])]
    for i in (4, 3, 2):
        assert e.step("k", SAMPLES[i], seq=i) == answers[i]._replace(duplicate=True)
    assert e.step("k", SAMPLES[1], seq=1).value is None
    again = e.step_many(["k"] * 6, SAMPLES[:6], seq=range(6))
    assert again.duplicate.tolist() == [True] * 5 + [False]
    assert again.values[2:5, 0].tolist() == [a.value for a in answers[2:]]
    assert np.isnan(again.values[:2]).all()
    assert again.values[5, 0] == alone(SAMPLES[:6])[5]


def test_a_number_twice_in_a_call_counts_once():
    e = engine()
    r = e.step_many(["k", "k", "k"], SAMPLES[[0, 0, 1]], seq=[1, 1, 2])
    assert r.duplicate.tolist() == [False, True, False]
    assert r.values[0] == r.values[1]
    assert r.values[2, 0] == alone(SAMPLES[:2])[1]


def test_gaps_are_reported_or_refused():
    e = engine()
    assert e.step("k", SAMPLES[0], seq=5).gap == 0  # the first number is where a stream begins
    assert e.step("k", SAMPLES[1], seq=9).gap == 3
    assert e.step_many(["k", "k"], SAMPLES[:2], seq=[10, 12]).gap.tolist() == [0, 1]
    assert e.stats()["gaps"] == 4
    strict = engine(on_gap="error")
    strict.step("k", SAMPLES[0], seq=5)
    with pytest.raises(InputError, match=r"expected number 6, got 7 \(sample 2 of stream 'k'\)"):
        strict.step("k", SAMPLES[1], seq=7)
    assert strict.step("k", SAMPLES[1], seq=6).value == alone(SAMPLES[:2])[1]


def test_samples_without_numbers_go_between():
    e = engine()
    e.step("k", SAMPLES[0], seq=1)
    assert e.step("k", SAMPLES[1]).seq is None
    r = e.step_many(["k", "k"], SAMPLES[2:4], seq=[None, 2])
    assert r.seq.tolist() == [-1, 2]
    assert r.values[1, 0] == alone(SAMPLES[:4])[3]


# bad input changes nothing

BAD = [
    ({"x": [1, 2]}, r"expected 3 features per sample, got shape \(2,\) \(sample 2 of stream 'k'\)"),
    ({"x": [1, 2, np.nan]}, "expected finite numbers, got nan for feature 2"),
    ({"x": [1, 2, np.inf]}, "expected finite numbers, got inf"),
    ({"x": "abc"}, "expected 3 numbers"),
    ({"time": 4.0}, r"expected a time from 5.0 on, got 4.0 \(sample 2 of stream 'k'\): time runs backwards"),
    ({"time": np.nan}, "expected a time in seconds"),
    ({"time": "now"}, "expected a time in seconds"),
    ({"seq": -1}, "expected a sequence number from 0"),
    ({"seq": 1.5}, "expected a sequence number"),
    ({"seq": True}, "expected a sequence number"),
    ({"key": 1.5}, "expected a key of type str, bytes or int, got float"),
    ({"key": None}, "expected a key of type"),
    ({"key": True}, "expected a key of type"),
    ({"key": "k" * 1025}, "expected a key of at most 1024 bytes, got 1025"),
    ({"key": "\ud800"}, "surrogate"),
]


@pytest.mark.parametrize(("changed", "message"), BAD)
def test_a_bad_sample_changes_nothing(changed, message):
    e = engine()
    e.step("k", SAMPLES[0], seq=1, time=5)
    before = e.export("k")
    with pytest.raises(InputError, match=message):
        e.step(**{"key": "k", "x": SAMPLES[1], "seq": 2, "time": 6, **changed})
    assert e.export("k") == before
    assert [s.key for s in e.streams()] == ["k"]
    assert e.step("k", SAMPLES[1], seq=2, time=6).value == alone(SAMPLES[:2])[1]


@pytest.mark.parametrize(("changed", "message"), BAD)
def test_a_bad_sample_in_a_call_stops_it_or_is_left_out(changed, message):
    message = message.partition(r" \(sample")[0]
    bad = {"key": "k", "x": SAMPLES[1], "seq": 2, "time": 6, **changed}
    args = (["new", bad["key"], "k"], [SAMPLES[0].tolist(), bad["x"], SAMPLES[1].tolist()])
    numbers = {"seq": [1, bad["seq"], 3], "time": [6, bad["time"], 7]}
    e = engine()
    e.step("k", SAMPLES[0], seq=1, time=5)
    before = e.export("k")
    with pytest.raises(InputError, match=message):
        e.step_many(*args, **numbers)
    assert e.export("k") == before
    assert [s.key for s in e.streams()] == ["k"]
    r = e.step_many(*args, **numbers, on_bad="skip")
    assert r.accepted.tolist() == [True, False, True]
    assert list(r.reasons) == [1]
    with pytest.raises(InputError, match=message):
        raise InputError(r.reasons[1])
    assert np.isnan(r.values[1, 0])
    assert r.values[2, 0] == alone(SAMPLES[:2])[1]
    assert {s.key for s in e.streams()} == {"k", "new"}
    assert e.stats()["bad"] == 2


def test_arrays_that_do_not_fit_together():
    e = engine()
    for args, options, message in (
        ((["a"], SAMPLES[:2]), {}, "1 keys and 2 samples"),
        (("ab", SAMPLES[:2]), {}, "expected a sequence with one key"),
        ((["a"], SAMPLES[:1]), {"seq": [1, 2]}, "seq: expected 1"),
        ((["a"], SAMPLES[:1]), {"time": 3}, "time: expected 1"),
        ((["a"], SAMPLES[:1, :2]), {}, "expected shape"),
        ((["a"], SAMPLES[:1]), {"on_bad": "drop"}, "on_bad"),
    ):
        with pytest.raises(InputError, match=message):
            e.step_many(*args, **options)
    assert e.streams() == []


@pytest.mark.parametrize("windowing", ["carry", "tumbling(2)", "sliding(3, by=states)"])
def test_what_would_overflow_keeps_its_state(windowing):
    huge = np.full(3, 3e38, np.float32)
    e = engine(EXPLOSIVE, windowing)
    e.step_many(["a", "a", "b", "b"], SAMPLES[:4])
    before = e.export("a"), e.export("b")
    with pytest.raises(InputError, match=r"overflowed \(sample 3 of stream 'b'\)"):
        e.step("b", huge)
    with pytest.raises(InputError, match=r"overflowed \(sample 4 of stream 'b'\)"):
        e.step_many(["c", "a", "b", "b"], [SAMPLES[0], SAMPLES[4], SAMPLES[5], huge])
    assert (e.export("a"), e.export("b")) == before
    assert {s.key for s in e.streams()} == {"a", "b"}
    assert not e.step_many(["b"], [huge], on_bad="skip").accepted[0]
    assert (e.export("a"), e.export("b")) == before
    r = e.step_many(["a", "b", "c", "b"], [SAMPLES[4], huge, huge, SAMPLES[5]], on_bad="skip")
    assert r.accepted.tolist() == [True, False, False, True]
    assert r.values[3, 0] == alone(SAMPLES[[2, 3, 5]], windowing, model=EXPLOSIVE)[2]
    assert {s.key for s in e.streams()} == {"a", "b"}


@pytest.mark.parametrize("windowing", WINDOWINGS)
def test_a_neighbour_that_overflows_makes_nobody_else_bad(windowing):
    e = engine(EXPLOSIVE, windowing)
    e.step("a", SAMPLES[0], time=1)
    r = e.step_many(["b", "a"], [[3e38] * 3, SAMPLES[1]], time=[1, 2], on_bad="skip")
    assert r.accepted.tolist() == [False, True]
    assert r.values[1, 0] == alone(SAMPLES[:2], windowing, [1, 2], EXPLOSIVE)[1]


def test_an_input_without_time_stays_the_same_between_resets():
    model = EXAMPLES["repeat"]()
    e = engine(model)
    e.step("k", [*SAMPLES[0], 1, 2])
    for call in (e.step, e.peek):
        with pytest.raises(
            InputError, match=r"the same 's' at every sample.*got 3.0 after 2.0 \(sample 2 of stream 'k'"
        ):
            call("k", [*SAMPLES[1], 1, 3])
    with pytest.raises(InputError, match="the same 's'"):
        e.step_many(["k", "l", "l"], [[*SAMPLES[1], 1, 2], [*SAMPLES[1], 1, 2], [*SAMPLES[1], 0, 2]])
    e.reset("k")
    e.step("k", [*SAMPLES[1], 1, 3])
    assert e.export("k").static == (1.0, 3.0)
    f = engine(model)
    f.restore("k", e.export("k"))
    with pytest.raises(InputError, match="the same 's'"):
        f.step("k", [*SAMPLES[1], 1, 2])
    by_name = f.step_many(["a", "b"], {"x": SAMPLES[:2], "s": [1, 2]})
    assert by_name.values[0].tolist() == list(model.stream("carry").step([*SAMPLES[0], 1, 2]))


def test_a_flattened_window_has_an_end():
    model = windowed()
    n = model.window_length
    e = engine(model)
    r = e.step_many(["k"] * n, SAMPLES[:n])
    assert r.complete.tolist() == [False] * (n - 1) + [True]
    with pytest.raises(InputError, match=rf"at most {n} samples.*sample {n + 1} of stream 'k'"):
        e.step("k", SAMPLES[n])
    e.reset("k")
    e.step("k", SAMPLES[n])
    assert engine(model, f"tumbling({n})").step_many(["k"] * 2 * n, SAMPLES[: 2 * n]).age[-1] == n


def test_an_embedding_takes_whole_numbers():
    e = engine(EXAMPLES["embedding"]())
    e.step_many(["a", "b"], [[3], [4]])
    for bad in (-1, 11, 0.5):
        with pytest.raises(InputError, match="whole number from 0 to 10"):
            e.step_many(["a", "b"], [[3], [bad]])


# sessions and clocks


def test_sessions_go_by_the_clock_where_no_time_is_given(clock):
    e = engine(windowing="session(10)", clock=clock)
    ages = []
    for wait in (0, 10, 10.001, 5, -500, 1, 12):
        clock.now += wait
        ages.append(e.step("k", SAMPLES[0]).age)
    # after the jump back the gap is none, until the clock is where it was
    assert ages == [1, 2, 1, 2, 3, 4, 5]
    clock.now += 600
    assert e.peek("k", SAMPLES[0]) == alone(SAMPLES[:1])[0]
    assert e.step("k", SAMPLES[0]).age == 1


def test_a_clock_behind_the_samples_opens_no_gap(clock):
    e = engine(windowing="session(10)", clock=clock)
    e.step("k", SAMPLES[0], time=5000)
    r = e.step("k", SAMPLES[1])
    assert r.age == 2
    assert e.step_many(["k"], [SAMPLES[2].tolist()]).age[0] == 3
    assert e.export("k").time == 5000


@pytest.mark.parametrize("store", [lambda: None, DictStore])
@pytest.mark.parametrize("shown", [np.nan, np.inf, -np.inf])
def test_a_clock_that_shows_no_time_is_refused_and_changes_nothing(store, shown, clock):
    e = engine(store=store(), clock=clock)
    e.step("k", SAMPLES[0])
    right, clock.now = clock.now, shown
    for call in (lambda: e.step("k", SAMPLES[1]), lambda: e.step_many(["k"], SAMPLES[1:2]), lambda: e.reset("k")):
        with pytest.raises(InputError, match=f"clock: expected seconds since 1970, got {shown}"):
            call()
    clock.now = right
    assert e.step("k", SAMPLES[1]).value == alone(SAMPLES[:2])[1]


@pytest.mark.parametrize("to", [int, float])
def test_the_clock_is_asked_once_for_a_sample(to):
    asked = []

    def clock():
        asked.append(to(1000 + len(asked)))
        return asked[-1]

    e = engine(clock=clock)
    for n, x in enumerate([SAMPLES[0], SAMPLES[1], SAMPLES[2] > 0, SAMPLES[3]], 1):  # the third is none of floats
        e.step("k", x)
        assert len(asked) == n
    assert e.streams()[0].used == 1003
    assert e._streams.short is None or e._streams.short.samples == 2


# arguments


@pytest.mark.parametrize("given", [{"seq": np.arange(3)}, {"time": np.zeros(1)}])
def test_numbers_or_times_of_another_length_are_refused_and_change_nothing(given):
    e = engine(store=DictStore())
    e.step_many(["a", "b"], SAMPLES[:2])
    (name,) = given
    with pytest.raises(InputError, match=f"{name}: expected 2, one for each sample"):
        e.step_many(["a", "b"], SAMPLES[2:4], **given)
    assert e.step("a", SAMPLES[2]).value == alone(SAMPLES[[0, 2]])[1]


@pytest.mark.parametrize("store", [None, DictStore()])
def test_what_a_caller_asks_of_his_own_arithmetic_is_no_matter_of_the_engine(store):
    tiny = np.full((2, 3), 1e-50)
    e = engine(store=store, every=0.001)
    with np.errstate(all="raise"):
        for time in (0.0, 0.0):
            e.step_many(["a", "b"], tiny, time=np.full(2, time))
            e.step("a", tiny[0], time=time)
            e.step("a", tiny[0].tolist(), time=time)
            e.step_many(["a", "b"], tiny.tolist(), time=[time, time])
        with pytest.raises(InputError, match=r"a sample every 0\.001 s"):
            e.step("a", tiny[0], time=1e300)
    assert e.export("a").samples == 8
    assert not e.broken


def test_arguments_are_looked_at():
    for options, message in (
        ({"capacity": 0}, "capacity: expected a whole number from 1"),
        ({"capacity": True}, "capacity"),
        ({"remember": 0}, "remember: expected"),
        ({"idle_after": 0, "store": DictStore()}, "idle_after: expected seconds above 0"),
        ({"expire_after": "1"}, "expire_after: expected seconds"),
        ({"idle_after": 5}, "idle_after: expected a store"),
        ({"on_gap": "wait"}, "on_gap: expected one of accept, error, got 'wait'"),
        ({"on_missing": "hold"}, "on_missing: expected every= too"),
        ({"every": 0}, "every: expected seconds above 0"),
        ({"keep": -1}, "keep: expected a whole number from 0"),
        ({"recover": "maybe"}, "recover: expected one of exact, inexact"),
        ({"windowing": "hopping(3)"}, "windowing"),
    ):
        with pytest.raises(InputError, match=message):
            engine(**options)


def test_a_closed_engine_says_so():
    with engine() as e:
        e.step("k", SAMPLES[0])
    e.close()
    for call in (lambda: e.step("k", SAMPLES[0]), lambda: e.step_many(["k"], SAMPLES[:1]), e.streams, e.snapshot):
        with pytest.raises(StoreError, match="one that was closed"):
            call()


def test_threads_share_an_engine():
    e, errors = engine(), []
    expected = alone(SAMPLES)

    def work(key):
        try:
            got = [e.step(key, x).value for x in SAMPLES[:30]] + e.step_many([key] * 30, SAMPLES[30:]).values[
                :, 0
            ].tolist()
            assert got == expected
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(4)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert not errors


def test_nothing_is_said_in_passing():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        e = engine()
        e.step_many(["a"] * 5, SAMPLES[:5])
    assert "1 streams in memory" in repr(e)


def test_an_engine_without_a_store_has_an_end():
    e = engine(capacity=2)
    e.step_many(["a", "b"], SAMPLES[:2])
    with pytest.raises(InputError, match="expected at most 2 streams, got 2 and 1 new ones; raise capacity="):
        e.step("c", SAMPLES[0])
    assert e.step("a", SAMPLES[1]).value == alone(SAMPLES[:2])[1]
    e.end("b")
    e.step("c", SAMPLES[0])


def test_the_wrong_number_of_features_changes_nothing():
    e = engine(store=DictStore())
    e.step_many(["a", "b"], SAMPLES[:2])
    for width in (0, 1, 2, 4, 6):
        for X in (np.ones((2, width)), np.ones((2, width)).tolist()):
            for on_bad in ("raise", "skip"):
                if on_bad == "raise" or isinstance(X, np.ndarray):
                    with pytest.raises(InputError, match="3 features"):
                        e.step_many(["a", "b"], X, on_bad=on_bad)
                else:
                    assert not e.step_many(["a", "b"], X, on_bad=on_bad).accepted.any()
    assert [s.age for s in e.streams()] == [1, 1]


def test_what_is_no_answer_to_yes_or_no_ends_no_stream():
    e = engine()
    e.step("a", SAMPLES[0], seq=1)
    with pytest.raises(InputError, match="end: expected True or False, got 'False'"):
        e.step("a", SAMPLES[0], end="False")
    with pytest.raises(InputError, match="delete: expected True or False, got 'no'"):
        e.reset("a", delete="no")
    assert e.export("a").age == 1


def test_arguments_of_the_wrong_kind():
    with pytest.raises(InputError, match=r"expected a model, as stepstream.load returns it, got 'model.keras'"):
        Engine("model.keras")
    with pytest.raises(InputError, match="store: expected a path"):
        Engine(MODEL, "carry", 5)
    with pytest.raises(InputError, match="on_end: expected a function"):
        Engine(MODEL, "carry", on_end="x")
    e = engine()
    with pytest.raises(InputError, match="on_bad: expected one of raise, skip"):
        e.step_many(["a"], SAMPLES[:1], on_bad=["raise"])
    for name in ("seq", "time"):
        with pytest.raises(InputError, match=f"{name}: expected 1, one for each sample"):
            e.step_many(["a"], SAMPLES[:1], **{name: np.array(3)})
        with pytest.raises(InputError, match=f"{name}: expected an array without a mask"):
            e.step_many(["a"], SAMPLES[:1], **{name: np.ma.array([3], mask=[True])})
    assert type(e.step("a", SAMPLES[0], seq=np.int64(3)).seq) is int
    for copied in (copy.copy, copy.deepcopy, pickle.dumps):
        with pytest.raises(TypeError, match="neither copied nor pickled"):
            copied(e)


def test_bookmarks_are_bytes_and_leave_the_engine_alone():
    e = engine(store=DictStore())
    with pytest.raises(InputError, match="bookmark: expected a function of the answers"):
        e.step_many(["a"], SAMPLES[:1], bookmark=b"abc")
    assert e.step("a", SAMPLES[0]).age == 1
    calls = {"step": ("a", SAMPLES[0]), "step_many": (["a"], SAMPLES[:1]), "streams": (), "stats": ()}
    for name, arguments in {**calls, "snapshot": (), "close": ()}.items():
        e = engine(store=DictStore())
        call = partial(getattr(e, name), *arguments)
        with pytest.raises(InputError, match="expected no call of the engine by bookmark="):
            e.step_many(["a"], SAMPLES[:1], bookmark=lambda _, call=call: call() and b"")
    e = engine(store=DictStore())
    with pytest.raises(InputError, match="bookmark: expected bytes of the function, got None"):
        e.step_many(["a"], SAMPLES[:1], bookmark=lambda _: None)


FORKING = """
import os, sys
import numpy as np
import stepstream
from stepstream import Engine, StoreError

model, path, x = stepstream.load(sys.argv[1]), sys.argv[2], [0.1, 0.2, 0.3]
with Engine(model, "carry", path) as e:
    e.step("a", x, seq=1)
    child = os.fork()
    if child == 0:
        code = 1
        try:
            e.step("a", x, seq=2)
        except StoreError as error:
            code = 0 if "another process opened" in str(error) else 2
        finally:
            e.close()
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert [e.step("a", x, seq=n).age for n in (2, 3)] == [2, 3]
with Engine(model, "carry", path) as e:
    print(e.export("a").age)
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
def test_a_forked_process_does_not_touch_the_store(tmp_path, path):
    """In a process of its own, as a fork concerns all that was imported in this one."""
    command = [sys.executable, "-W", "ignore", "-c", FORKING, path, str(tmp_path / "states.db")]
    out = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert (out.returncode, out.stdout) == (0, "3\n"), out.stderr
