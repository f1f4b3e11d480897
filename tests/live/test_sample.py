"""Samples by input name, and streams over a model that has answers for windows of one length alone."""

from dataclasses import replace
from types import SimpleNamespace

import h5py
import numpy as np
import pytest

from make import EXAMPLES, graph_model, model_of, question, recurrent
from stepstream import InputError, Model, StateError, StepstreamWarning
from stepstream.graph.ir import Graph, TensorSpec, TimeRole
from stepstream.live.sample import row_of, rows_of

SAMPLES = np.random.default_rng(5).normal(size=(20, 3)).astype(np.float32)
INPUTS = (
    ("motion", TensorSpec((3,), TimeRole.SEQUENCE)),
    ("image", TensorSpec((2, 2), TimeRole.SEQUENCE)),
    ("site", TensorSpec((2,), TimeRole.STATIC)),
)
COLUMNS = {"motion": slice(0, 3), "image": slice(3, 7), "site": slice(7, 9)}


def three_inputs(features=None):
    """What `row_of` needs to know of a model."""
    graph = Graph(INPUTS, (), (("motion", "motion"),))
    return SimpleNamespace(
        n_features=9,
        features=features,
        input_columns=COLUMNS,
        index_columns={8: 5},
        graph=graph,
        sample_shapes={(9,)},
    )


def test_columns_follow_the_inputs():
    graph = Graph(INPUTS, (), (("motion", "motion"),))
    model = object.__new__(Model)
    model.__dict__.update(reading=SimpleNamespace(blockers=()), _executor=SimpleNamespace(graph=graph))
    assert model.n_features == 9
    assert model.input_columns == COLUMNS


def test_a_sample_by_input_name_or_flat():
    flat = np.float32([1, 2, 3, 4, 5, 6, 7, 8, 3])
    named = {"site": (8, 3), "image": [[4, 5], [6, 7]], "motion": np.array([[1, 2, 3]])}
    for x in (flat, flat[None], named):
        np.testing.assert_array_equal(row_of(three_inputs(), x, "here"), flat[None])
    features = tuple("abcdefghi")
    by_feature = dict(zip(features[::-1], flat[::-1], strict=True))
    for x in (named, by_feature):
        np.testing.assert_array_equal(row_of(three_inputs(features), x, "here"), flat[None])


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"site": (8,)}, r"expected 2 numbers for input 'site', got shape \(1,\) \(here\)"),
        ({"image": [[4, 5], [6]]}, "expected 4 numbers for input 'image'"),
        ({"motion": [1, np.nan, 3]}, "got nan"),
        ({"other": 1}, r"expected the inputs \['motion', 'image', 'site'\]"),
        ({"site": (8, 5)}, "expected a whole number from 0 to 4, got 5.0"),
    ],
)
def test_bad_values_for_an_input(changed, message):
    sample = {"site": (8, 3), "image": [[4, 5], [6, 7]], "motion": [1, 2, 3], **changed}
    with pytest.raises(InputError, match=message):
        row_of(three_inputs(), sample, "here")


def test_names_of_neither_inputs_nor_features():
    with pytest.raises(InputError, match=r"expected the features \['a'.*or the inputs \['motion'"):
        row_of(three_inputs(tuple("abcdefghi")), {"motion": [1, 2, 3]}, "here")


def test_many_samples_by_input_name():
    motion, image = SAMPLES[:5], np.arange(20).reshape(5, 2, 2)
    for site in ([8, 3], np.tile([8, 3], (5, 1))):
        rows = rows_of(three_inputs(), {"motion": motion, "image": image, "site": site})
        assert rows.shape == (5, 9)
        np.testing.assert_array_equal(rows[:, :3], motion)
        np.testing.assert_array_equal(rows[:, 3:7], image.reshape(5, 4))
        np.testing.assert_array_equal(rows[:, 7:], np.tile([8, 3], (5, 1)))
    assert len(rows_of(three_inputs(), {"motion": motion[:0], "image": image[:0], "site": [8, 3]})) == 0


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"image": np.zeros((4, 2, 2))}, "equally many samples"),
        ({"image": np.zeros((5, 5))}, r"expected shape \(5, 4\) for input 'image', got \(5, 5\)"),
        ({"site": np.zeros((2, 2))}, r"expected shape \(2,\) or \(5, 2\) for input 'site'"),
        ({"site": 3}, "for input 'site'"),
        ({"motion": 3}, "equally many samples"),
        ({"more": 3}, "expected the inputs"),
    ],
)
def test_bad_arrays_for_an_input(changed, message):
    inputs = {"motion": SAMPLES[:5], "image": np.zeros((5, 4)), "site": [8, 3], **changed}
    with pytest.raises(InputError, match=message):
        rows_of(three_inputs(), inputs)


@pytest.mark.parametrize("shape", [(), (1, 3), (3, 1), (2, 3), (2, 3, 1)])
def test_an_only_input_keeps_its_shape(shape):
    """As Keras takes the frames of a film, or indices."""
    size = int(np.prod(shape))
    op, params, weights = recurrent("lstm", size, 4, sequences=False)
    first = ("embedding", {}, {"table": np.eye(5)[:, :1]}) if not shape else ("reshape", {"shape": (size,)}, {})
    nodes = [("first", first[0], ["x"], *first[1:]), ("y", op, ["first"], params, weights)]
    model = graph_model({"x": (shape, TimeRole.SEQUENCE)}, nodes, ["y"])
    flat = np.random.default_rng(1).integers(0, 5, (2, 4, size)).astype(np.float32)
    x = flat.reshape(2, 4, *shape)
    expected = model.run(flat)
    assert model.run(x).tobytes() == expected.tobytes()
    assert model.verify(x, expected).ok
    for rows in (x[1], x[1:], flat[1], flat[1:]):
        stream, twin = model.stream("carry"), model.stream("carry")
        assert stream.steps(rows)[-1].tobytes() == expected[1].tobytes()
        for t in range(4):
            one = x[1, t]
            ys = [twin.peek(sample) for sample in (one, one[None], one[None, None], flat[1, t], flat[1, t][None])]
            assert len({y.tobytes() for y in [*ys, twin.step(one)]}) == 1
    for call, wrong in ((model.run, x[None]), (model.run, x[..., None, None]), (stream.step, x[1]), (stream.steps, x)):
        with pytest.raises(InputError, match="expected"):
            call(wrong)


WITH_STATIC = EXAMPLES["repeat"]()


@pytest.mark.parametrize("windowing", ["carry", "sliding(5, by=states)", "sliding(5, by=recompute)"])
def test_what_has_no_time_stays_the_same_from_reset_to_reset(windowing, tmp_path):
    first, other = np.tile([1, 2], (3, 1)), np.array([[1, 2], [1, 3]])
    stream = WITH_STATIC.stream(windowing)
    for call in (stream.step, stream.peek):  # nothing is known before the first sample
        call({"x": SAMPLES[0], "s": [1, 2]})
    stream.reset()
    stream.steps({"x": SAMPLES[:3], "s": first})
    before = stream.snapshot()
    for call, x in (
        (stream.step, {"x": SAMPLES[3], "s": [1, 3]}),
        (stream.peek, {"x": SAMPLES[3], "s": [1, 3]}),
        (stream.fork().step, [*SAMPLES[3], 1, 3]),
        (stream.steps, {"x": SAMPLES[3:5], "s": other}),
    ):
        with pytest.raises(InputError, match=r"the same 's' .* no time, got 3.0 after 2.0 \(sample [45] .*reset\(\)"):
            call(x)
    assert stream.snapshot() == before
    twin = WITH_STATIC.stream(windowing)
    twin.restore(before)
    with pytest.raises(InputError, match="no time"):
        twin.step([*SAMPLES[3], 1, 3])
    with pytest.raises(InputError, match="2 values without time"):
        twin.restore(replace(before, static=(1.0,)))
    stream.save(tmp_path / "state.h5")
    stream.load(tmp_path / "state.h5")  # a file does not hold the values
    stream.step([*SAMPLES[3], 1, 3])
    with pytest.raises(InputError, match=r"got 2.0 after 3.0"):
        stream.step([*SAMPLES[3], 1, 2])
    stream.reset()
    stream.step([*SAMPLES[3], 1, 2])


def test_what_has_no_time_may_change_where_a_windowing_restarts():
    stream = WITH_STATIC.stream("tumbling(2)")
    stream.steps([[*x, s, 0] for x, s in zip(SAMPLES[:6], [1, 1, 2, 2, 3, 3], strict=True)])
    stream.step([*SAMPLES[6], 4, 0])
    with pytest.raises(InputError, match=r"got 5.0 after 4.0"):
        stream.step([*SAMPLES[7], 5, 0])


@pytest.fixture
def flat(monkeypatch):
    """A model that says it flattens windows of 7; the windowing is what is looked at here."""
    monkeypatch.setattr(Model, "window_length", property(lambda self: 7))
    return question()


def test_a_flattened_window_has_an_end(flat):
    for windowing, options in (("carry", {}), ("session(10)", {"time": 0})):
        stream = flat.stream(windowing)
        complete = []
        for x in SAMPLES[:7]:
            stream.step(x, **options)
            complete.append(stream.complete)
        assert complete == [False] * 6 + [True]
        before = stream.snapshot()
        for call in (stream.step, stream.peek):
            with pytest.raises(InputError, match=r"at most 7.*sample 8.*reset\(\).*tumbling\(7\) or sliding\(7\)"):
                call(SAMPLES[7], **options)
        assert stream.snapshot() == before
        stream.reset()
        stream.step(SAMPLES[7], **options)
    stream = flat.stream("session(10)")
    for x in SAMPLES[:7]:
        stream.step(x, time=0)
    stream.step(SAMPLES[7], time=11)  # the session is over
    assert (stream.age, stream.complete) == (1, False)


def test_a_flattened_window_starts_anew_or_slides(flat):
    stream = flat.stream("tumbling(7)")
    assert [stream.step(x) is not None and stream.complete for x in SAMPLES] == [t % 7 == 0 for t in range(1, 21)]
    stream = flat.stream("sliding(7)")
    assert [stream.step(x) is not None and stream.complete for x in SAMPLES] == [t >= 7 for t in range(1, 21)]
    assert not stream.beyond_training_length


@pytest.mark.parametrize(
    "windowing", ["tumbling(6)", "tumbling(8)", "sliding(6)", "sliding(8)", "sliding(7, stride=2)"]
)
def test_other_windows_of_a_model_that_flattens_are_refused(flat, windowing):
    with pytest.raises(InputError, match=r"expected (tumbling|sliding)\(7\), got .*flattens windows of 7 samples"):
        flat.stream(windowing)


def test_auto_is_the_flattened_window_even_where_the_training_length_is_unknown(monkeypatch):
    monkeypatch.setattr(Model, "window_length", property(lambda self: 7))
    stream = model_of(recurrent("lstm", 3, 4), training_length=None).stream()
    assert str(stream.windowing) == "tumbling(7)"
    stream.steps(SAMPLES[:7])
    with pytest.warns(StepstreamWarning, match=r"one sample alone; sliding\(7\) answers on the last 7"):
        stream.step(SAMPLES[7])


def test_a_state_of_unknown_age_is_of_no_use_for_a_flattened_window(flat, tmp_path):
    stream = flat.stream("carry")
    stream.steps(SAMPLES[:3])
    stream.save(tmp_path / "state.h5")
    with h5py.File(tmp_path / "state.h5", "r+") as file:
        del file.attrs["age"]
    with pytest.raises(StateError, match="flattens windows of 7 samples needs the state's age"):
        stream.load(tmp_path / "state.h5")
    assert stream.age == 3
