"""sliding(n): at every sample the model's answer on the last n, both ways, and how a stream under it behaves."""

import pickle
from dataclasses import replace

import h5py
import numpy as np
import pytest

from make import EXAMPLES, dense, model_of, question, recurrent, windowed
from stepstream import InputError, Sliding, StateError
from stepstream.live.sliding import Recompute, States, cheaper, costs
from stepstream.live.windowing import parse
from stepstream.ops.executor import NumpyExecutor
from stepstream.testing import samples

WAYS = ["recompute", "states"]
SAMPLES = np.random.default_rng(5).normal(size=(1000, 3)).astype(np.float32)


def first(n, stride, t):
    """Where the window of sample t begins: the first multiple of the stride that leaves at most n samples."""
    return next(a for a in range(0, t + 1, stride) if t + 1 - a <= n)


def wholes(model, x, n, stride=1, mask=None):
    """The model's whole pass on the samples that each answer may have seen: (streams, time, features)."""
    out = []
    for t in range(x.shape[1]):
        seen = slice(first(n, stride, t), t + 1)
        out.append(np.concatenate(model.executor.last(x[:, seen], None if mask is None else mask[:, seen]), axis=1))
    return np.stack(out, axis=1)


def stepped(executor, x, mask=None):
    state, out = executor.initial_state(len(x)), []
    for t in range(x.shape[1]):
        ys, state = executor.step(x[:, t], state, None if mask is None else mask[:, t])
        out.append(np.concatenate(ys, axis=1))
    return np.stack(out, axis=1)


@pytest.mark.parametrize("by", WAYS)
@pytest.mark.parametrize("n", [7, 100])
def test_a_thousand_steps(n, by):
    """Against the whole model on the last n samples, at every one."""
    model = question()
    stream = model.stream(Sliding(n, by=by))
    answers = []
    for t, x in enumerate(SAMPLES, 1):
        answers.append(stream.step(x))
        assert (stream.age, stream.complete) == (t, t >= n)
    windows = np.stack([SAMPLES[t : t + n] for t in range(1000 - n + 1)])
    early = [model.run(SAMPLES[None, :t])[0, 0] for t in range(1, n)]
    expected = np.concatenate([early, model.run(windows)[:, 0]])
    assert np.float32(answers).tobytes() == expected.tobytes()
    assert np.ptp(answers) > 0.2


@pytest.mark.parametrize("name", sorted(EXAMPLES))
@pytest.mark.parametrize(("n", "stride"), [(1, 1), (5, 1), (7, 3), (6, 2), (4, 4)])
def test_both_ways_have_the_bits_of_the_whole_pass(name, n, stride):
    model, rng = EXAMPLES[name](), np.random.default_rng(1)
    x = samples(model, 3, 25)
    for mask in (None, rng.random((3, 25)) > 0.3):
        expected = wholes(model, x, n, stride, mask)
        for way in (Recompute, States):
            assert stepped(way(model.executor, n, stride), x, mask).tobytes() == expected.tobytes()


@pytest.mark.parametrize("by", WAYS)
def test_streams_of_other_ages_and_garbage_beside_it_change_nothing(by):
    model = question()
    executor = Sliding(5, stride=2, by=by).on(model.executor)[1]
    alone = stepped(executor, SAMPLES[None, :20])
    states = executor.initial_state(4)
    for age in range(9):  # stream 1 gets older than the others; stream 3 is full of NaN
        _, states[1:2] = executor.step(SAMPLES[None, age], states[1:2])
    _, states[3:] = executor.step(np.full((1, 3), np.nan, np.float32), states[3:])
    for t in range(20):
        x = np.stack([SAMPLES[t], SAMPLES[t + 9], SAMPLES[t], np.full(3, np.nan, np.float32)])
        (y,), states = executor.step(x, states)
        assert y[0].tobytes() == y[2].tobytes() == alone[0, t].tobytes()


def test_a_stride_sees_between_n_minus_s_plus_one_and_n():
    """A model that counts: with a relu network that adds one for each sample, the answer is how many it has seen."""
    params = {"units": 1, "activation": {"name": "linear"}, "return_sequences": False, "zero_output_for_mask": False}
    weights = {"kernel": np.zeros((3, 1)), "recurrent": np.ones((1, 1)), "bias": np.ones(1)}
    model = model_of(("simple_rnn", params, weights))
    for n, stride in ((7, 1), (7, 3), (10, 5), (10, 10), (100, 7)):
        for by in WAYS:
            seen = model.stream(Sliding(n, stride=stride, by=by)).steps(SAMPLES[:350])[:, 0]
            assert seen[:n].tolist() == list(range(1, n + 1))
            assert set(seen[n:]) == set(range(n - stride + 1, n + 1))


def test_a_stride_of_n_is_tumbling():
    model = question()
    for by in WAYS:
        sliding = model.stream(Sliding(7, stride=7, by=by)).steps(SAMPLES[:50])
        assert sliding.tobytes() == model.stream("tumbling(7)").steps(SAMPLES[:50]).tobytes()


@pytest.mark.parametrize("by", WAYS)
def test_masked_samples_count_in_the_window(by):
    model = question()
    stream, one, none = model.stream(Sliding(4, by=by)), model.stream("carry"), model.stream("carry")
    for x in SAMPLES[:3]:
        stream.step(x)
    one.step(SAMPLES[2])
    answers = [stream.step(x, mask=False) for x in SAMPLES[3:7]]
    assert answers[2] == one.step(SAMPLES[5], mask=False)  # it has seen samples 3 to 6, of which 3 counts
    assert answers[3] == none.step(SAMPLES[6], mask=False) != answers[2]  # samples 4 to 7: all hidden


def test_age_complete_and_beyond_the_training_length():
    """The model was trained on 7 samples; what counts is how many an answer has seen."""
    model = question()
    for n, beyond in ((7, False), (6, False), (8, True)):
        stream = model.stream(f"sliding({n})")
        assert not stream.complete
        seen = []
        for x in SAMPLES[:20]:
            stream.step(x)
            seen.append((stream.age, stream.complete, stream.beyond_training_length))
        assert seen == [(t, t >= n, beyond and t >= 8) for t in range(1, 21)]
        stream.reset()
        assert (stream.age, stream.complete) == (0, False)


def test_times_are_kept_and_cut_nothing():
    stream, plain = question().stream("sliding(3)"), question().stream("sliding(3)")
    for t, x in enumerate(SAMPLES[:9]):
        assert stream.step(x, time=1000.0 * t) == plain.step(x)
    assert stream.time == 8000


@pytest.mark.parametrize("by", WAYS)
@pytest.mark.parametrize("bad", [[1, 2], [1, 2, np.nan], [1, 2, 1e39], None, ["a", "b", "c"]])
def test_bad_input_in_mid_window_changes_nothing(by, bad):
    stream, other = (question().stream(Sliding(5, by=by)) for _ in range(2))
    for x in SAMPLES[:7]:
        stream.step(x)
        other.step(x)
    before = stream.snapshot()
    with pytest.raises(InputError, match="sample 8 of"):
        stream.step(bad)
    assert stream.snapshot() == before
    assert stream.step(SAMPLES[7]) == other.step(SAMPLES[7])


@pytest.mark.parametrize("by", WAYS)
def test_an_overflow_changes_nothing_and_ends_with_its_sample(by):
    stream = model_of(recurrent("simple_rnn", 3, 4, activation="exponential")).stream(Sliding(3, by=by))
    stream.steps(SAMPLES[:4] / 10)
    before = stream.snapshot()
    with pytest.raises(InputError, match="overflowed"):
        stream.step([3e37, 3e37, -3e37])
    assert stream.snapshot() == before
    stream.step(SAMPLES[5] / 10)


def test_a_state_that_has_seen_enough_does_not_grow_on():
    """With a stride, states pass n before they are used again; what they would become must not refuse samples."""
    params = {"units": 1, "activation": {"name": "linear"}, "return_sequences": False, "zero_output_for_mask": False}
    weights = {"kernel": np.ones((1, 1)), "recurrent": np.full((1, 1), 1e9), "bias": np.zeros(1)}
    model = model_of(("simple_rnn", params, weights), features=1)
    for by in WAYS:
        model.stream(Sliding(5, stride=4, by=by)).steps(np.ones((50, 1)))  # the sixth would be 1e45


def test_a_place_without_a_state_holds_nothing():
    """Not yet started, or with more samples than the window has: state 0 of two has seen 8."""
    stream = question().stream("sliding(5, stride=4, by=states)")
    for age, used in ((1, 0), (8, 1)):
        while stream.age < age:
            stream.step(SAMPLES[stream.age])
        for slots in (stream.state["lstm_0"], stream.state["lstm_2"]):
            for value in slots.values():
                assert value[used].any()
                assert not value[1 - used].any()


def test_the_cheaper_way_is_taken_and_said():
    small, wide = question(), model_of(recurrent("lstm", 3, 8, sequences=False), dense(8, 1500), dense(1500, 1500))
    for executor in (small.executor, NumpyExecutor(small.graph)):
        assert cheaper(executor, 1) == "recompute"
        assert cheaper(executor, 50) == "states"
        assert cheaper(executor, 100_000) == "recompute"  # 96 floats for each state are too many
        assert costs(executor, 100)["states"] < costs(executor, 100)["recompute"]
    for executor in (wide.executor, NumpyExecutor(wide.graph)):
        assert cheaper(executor, 7) == "recompute"  # its large layers need only the last value
    for model in (small, wide):
        assert cheaper(NumpyExecutor(model.graph), 7, stride=7 if model is wide else 1) == "states"  # fewer calls
    stream = small.stream("sliding(50)")
    assert str(stream.windowing) == "sliding(50)"
    assert repr(stream).startswith("<Stream sliding(50, by=states), age 0, of <Model")
    assert repr(wide.stream("sliding(7)")).startswith("<Stream sliding(7, by=recompute)")
    assert repr(small.stream("sliding(50, by=recompute)")).startswith("<Stream sliding(50, by=recompute)")


def test_too_large_a_ring_is_refused():
    with pytest.raises(InputError, match="by=recompute"):
        question().stream("sliding(1000000, by=states)")
    question().stream("sliding(1000000)")


def test_as_objects_and_texts():
    assert parse("sliding(100, states=10)") == Sliding(100, states=10) == Sliding(100, stride=10)
    assert str(Sliding(100, states=30)) == "sliding(100, stride=4)"
    assert Sliding(100, states=30).states == 25
    assert str(Sliding(np.int64(7), by="states")) == "sliding(7, by=states)"
    assert pickle.loads(pickle.dumps(Sliding(7, 2))) == Sliding(7, 2) != Sliding(7)
    for bad in ({"n": 0}, {"n": True}, {"n": 7.0}, {"n": 7, "stride": 8}, {"n": 7, "stride": 2, "states": 2}):
        with pytest.raises(InputError, match="sliding"):
            Sliding(**bad)


def test_the_state_by_layer():
    model = question()
    stream = model.stream("sliding(5, by=states)")
    stream.steps(SAMPLES[:7])
    assert stream.state["lstm_0"]["h"].shape == (5, 32)
    assert stream.state["sliding"]["count"] == 7
    stream = model.stream("sliding(5, by=recompute)")
    stream.steps(SAMPLES[:7])
    assert sorted(stream.state) == ["sliding"]
    np.testing.assert_array_equal(stream.state["sliding"]["samples"], SAMPLES[2:7])


@pytest.mark.parametrize("by", WAYS)
def test_a_file_of_one_stream_has_columns(by, tmp_path):
    model = question()
    stream = model.stream(Sliding(5, by=by))
    stream.steps(SAMPLES[:7])
    stream.save(tmp_path / "state.h5")
    with h5py.File(tmp_path / "state.h5") as file:
        assert file.attrs["windowing"] == f"sliding(5, by={by})"
        shapes = {f"{node}/{slot}": d.shape for node, group in file["state"].items() for slot, d in group.items()}
        own = {f"lstm_{i}/{s}": (1, 5, units) for i, units in ((0, 32), (2, 16)) for s in "hc"}
        raw = {"sliding/samples": (1, 5, 3), "sliding/mask": (1, 5)}
        assert shapes == {"sliding/count": (1,), **(own if by == "states" else raw)}
        assert file["state/sliding/count"][()].tolist() == [7 if by == "states" else 5]  # wraps at once without a ring
    twin = model.stream(Sliding(5, by=by))
    twin.load(tmp_path / "state.h5")
    assert twin.age == 7
    assert twin.step(SAMPLES[7]) == stream.step(SAMPLES[7])
    other = model.stream(Sliding(5, by=WAYS[by == "recompute"]))
    with pytest.raises(
        StateError, match=r"expected the state of windowing sliding\(5, by=.*got one of sliding\(5, by="
    ):
        other.load(tmp_path / "state.h5")
    assert other.age == 0


@pytest.mark.parametrize("count", [-1, 3, 1e9, np.nan, 6.5])
def test_a_count_that_is_not_that_of_the_age_is_refused(count, tmp_path):
    stream = question().stream("sliding(5, by=states)")
    stream.steps(SAMPLES[:7])
    stream.save(tmp_path / "state.h5")
    with h5py.File(tmp_path / "state.h5", "r+") as file:
        file["state/sliding/count"][0] = count
    before = stream.snapshot()
    with pytest.raises(StateError, match=r"count of 7|NaN"):
        stream.load(tmp_path / "state.h5")
    assert stream.snapshot() == before


@pytest.mark.parametrize("windowing", ["carry", "tumbling(7)", "sliding(7, by=states)"])
@pytest.mark.parametrize("steps", [0, 1, 3, 7])
def test_a_place_in_a_flattened_window_that_is_not_that_of_the_age_is_refused(windowing, steps, tmp_path):
    stream = EXAMPLES["position"]().stream(windowing)
    stream.steps(SAMPLES[:steps])
    stream.save(tmp_path / "state.h5")
    stream.load(tmp_path / "state.h5")
    with h5py.File(tmp_path / "state.h5", "r+") as file:
        places = file["state/layer t/count"]
        places[(0, steps % 7, 0) if "sliding" in windowing else (0, 0)] = 2
    before = stream.snapshot()
    with pytest.raises(StateError, match=f"count of .* at age {steps}, got 2"):
        stream.load(tmp_path / "state.h5")
    assert stream.snapshot() == before


@pytest.mark.parametrize("n", [1, 2, 7])
@pytest.mark.parametrize("by", WAYS)
def test_a_state_file_of_a_flattened_window_loads_at_every_age(n, by, tmp_path):
    model = windowed(n)
    stream = model.stream(Sliding(n, by=by))
    for x in SAMPLES[: 3 * n]:
        stream.step(x)
        stream.save(tmp_path / "state.h5")
        stream.load(tmp_path / "state.h5")
        stream.restore(stream.snapshot())


@pytest.mark.parametrize(
    "changed",
    [
        *({"age": age} for age in (0, -5, 1.5, 7, "x", True, 2**63)),
        *({"samples": count} for count in (None, -1, 2.0, 2**63)),
        *({"time": time} for time in ("x", np.nan, 10**400)),
    ],
)
@pytest.mark.parametrize("model", [question, EXAMPLES["position"]])
def test_a_snapshot_that_no_stream_gave_is_refused(model, changed):
    model = model()
    stream = model.stream(f"sliding({model.window_length or 5})")
    stream.steps(SAMPLES[:3])
    before = stream.snapshot()
    with pytest.raises(InputError, match="expected a"):
        stream.restore(replace(before, **changed))
    assert stream.snapshot() == before
    stream.restore(before)


def test_an_unknown_age_is_refused(tmp_path):
    stream = question().stream("sliding(5)")
    stream.save(tmp_path / "state.h5")
    with h5py.File(tmp_path / "state.h5", "r+") as file:
        file["age"][0] = -1
    with pytest.raises(StateError, match="age"):
        stream.load(tmp_path / "state.h5")
    question().stream("carry").save(tmp_path / "recipe.h5")
    with pytest.raises(StateError, match="recipe"):
        stream.load(tmp_path / "recipe.h5")
