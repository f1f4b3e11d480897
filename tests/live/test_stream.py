"""Stream as its user sees it."""

import copy
import pickle
import subprocess
import sys
import threading
from dataclasses import replace

import numpy as np
import pytest

import stepstream
from make import dense, model_of, question, recurrent
from stepstream import InputError, StepstreamWarning
from stepstream.model import Model

SAMPLES = np.random.default_rng(5).normal(size=(20, 3)).astype(np.float32)


@pytest.fixture
def stream(model):
    return model.stream("carry")


def test_every_form_of_a_sample_gives_the_same_answer(model):
    x = SAMPLES[0]
    named = dict(zip("zyx", x[::-1].tolist(), strict=True))
    forms = [x.tolist(), tuple(x.tolist()), x, x[None], x[None, None], x.astype(np.float64), named]
    answers = [model.stream("carry").step(form) for form in forms]
    assert all(isinstance(a, float) for a in answers)
    assert len(set(answers)) == 1


def test_many_units_give_an_array():
    answer = model_of(recurrent("lstm", 3, 4), dense(4, 2, "softmax")).stream("carry").step([1, 2, 3])
    assert answer.shape == (2,)
    assert answer.dtype == np.float32


def test_steps_equal_step(model):
    one, many = model.stream("carry"), model.stream("carry")
    answers = [one.step(x) for x in SAMPLES]
    np.testing.assert_array_equal(many.steps(SAMPLES)[:, 0], np.float32(answers))
    np.testing.assert_array_equal(model.stream("carry").steps(SAMPLES[None]), model.stream("carry").steps(SAMPLES))
    assert many.age == 20


def test_peek_and_fork_leave_the_stream_alone(stream):
    stream.step(SAMPLES[0])
    ahead = stream.peek(SAMPLES[1])
    assert stream.age == 1
    twin = stream.fork()
    assert twin.step(SAMPLES[1]) == ahead
    assert stream.step(SAMPLES[1]) == ahead
    twin.step(SAMPLES[2])
    assert (twin.age, stream.age) == (3, 2)


def test_reset_equals_fresh(model, stream):
    first = stream.step(SAMPLES[0], time=100)
    stream.reset()
    assert stream.age == 0
    assert stream.step(SAMPLES[0], time=50) == first


def test_state_by_layer_name(stream):
    stream.step(SAMPLES[0])
    assert {name: sorted(slots) for name, slots in stream.state.items()} == {"lstm": ["c", "h"], "lstm_1": ["c", "h"]}
    assert stream.state["lstm"]["h"].shape == (32,)
    stream.state["lstm"]["h"][:] = 0
    assert np.any(stream.state["lstm"]["h"])


@pytest.mark.parametrize(
    ("sample", "options", "message"),
    [
        ([1, 2], {}, "expected 3 features"),
        ([1, 2, 3, 4], {}, "the features are x, y, z"),
        ([1, float("nan"), 3], {}, "got nan for feature y"),
        ([1, 2, float("inf")], {}, "got inf for feature z"),
        ([1, 2, 1e39], {}, "got inf"),
        (np.array([1, 2, 1e39]), {}, "got inf"),
        ([1, 2, 10**400], {}, "expected 3 numbers"),
        (np.ma.array([1, 2, 3], mask=[0, 1, 0]), {}, "masked"),
        (np.array([1, 2j, 3]), {}, "complex"),
        ([1, 2, 3], {"time": 10**400}, "expected a time"),
        (["a", "b", "c"], {}, "expected 3 numbers"),
        (None, {}, "expected 3"),
        ({"x": 1, "y": 2}, {}, "expected the features"),
        ([1, 2, 3], {"time": 99.0}, "time runs backwards"),
        ([1, 2, 3], {"time": float("nan")}, "expected a time"),
        ([1, 2, 3], {"time": 10**5000}, "expected a time"),
        ([1, 2, 3], {"time": "noon"}, "expected a time"),
        ([1, 2, 3], {"time": True}, "expected a time"),
        ([1, 2, 3], {"mask": "yes"}, "mask"),
    ],
)
def test_bad_input_changes_nothing(model, sample, options, message):
    stream, other = model.stream("carry"), model.stream("carry")
    for s in (stream, other):
        s.step(SAMPLES[0], time=100.0)
    with pytest.raises(InputError, match=message):
        stream.step(sample, **options)
    assert (stream.age, stream.time) == (1, 100.0)
    assert stream.step(SAMPLES[1]) == other.step(SAMPLES[1])


def test_a_bad_row_among_many_changes_nothing(stream):
    with pytest.raises(InputError, match="sample 5 of"):
        stream.steps(np.where(np.arange(20)[:, None] == 4, np.nan, SAMPLES))
    assert stream.age == 0


def test_an_overflow_changes_nothing():
    stream = model_of(recurrent("simple_rnn", 3, 4, activation="exponential")).stream("carry")
    stream.step([0.1, 0.1, 0.1])
    before = stream.snapshot()
    with pytest.raises(InputError, match="overflowed"):
        stream.step([3e37, 3e37, -3e37])
    assert stream.snapshot() == before


def test_auto_is_tumbling_and_says_so_once():
    model = question()
    stream, exact = model.stream(), model.stream("carry")
    first = [stream.step(x) for x in SAMPLES[:7]]
    assert first == [exact.step(x) for x in SAMPLES[:7]]
    assert stream.complete
    with pytest.warns(StepstreamWarning, match=r"tumbling\(7\)"):
        eighth = stream.step(SAMPLES[7])
    assert eighth == model.stream("carry").step(SAMPLES[7])
    assert (stream.age, stream.complete) == (1, False)
    stream.steps(SAMPLES)  # and no second warning


def test_auto_without_a_training_length_carries_and_warns():
    model = model_of(recurrent("lstm", 3, 4), training_length=None)
    with pytest.warns(StepstreamWarning, match="training_length="):
        stream = model.stream()
    assert str(stream.windowing) == "carry"
    stream.step([1, 2, 3])
    assert (stream.complete, stream.beyond_training_length) == (True, False)


def test_auto_carries_what_was_carried_in_training_without_a_word():
    reading = model_of(recurrent("lstm", 3, 4), training_length=None).reading
    assert str(Model(replace(reading, trained_ages=(1, None))).stream().windowing) == "carry"


def test_carry_says_when_it_is_beyond_the_training_length():
    stream = question().stream("carry")
    seen = []
    for x in SAMPLES[:9]:
        stream.step(x)
        seen.append((stream.age, stream.complete, stream.beyond_training_length))
    assert seen[5:] == [(6, False, False), (7, True, False), (8, True, True), (9, True, True)]


def test_session_restarts_after_a_gap():
    model = question()
    stream = model.stream("session(10)")
    stream.step(SAMPLES[0], time=0)
    stream.step(SAMPLES[1], time=10)
    assert stream.age == 2
    assert stream.step(SAMPLES[2], time=20.5) == model.stream("carry").step(SAMPLES[2])
    assert stream.age == 1
    with pytest.raises(InputError, match="time"):
        stream.step(SAMPLES[3])


@pytest.mark.parametrize(
    "text",
    [
        *("tumbling", "tumbling(0)", "tumbling(x)", "session(-1)", "carry(3)", "weekly", ""),
        *("sliding", "sliding()", "sliding(0)", "sliding(x)", "sliding(1.5)", "sliding(1000001)", "sliding(7, 2)"),
        *("sliding(7, stride=0)", "sliding(7, stride=8)", "sliding(7, states=8)", "sliding(7, stride=x)"),
        *(
            "sliding(7, stride=2, states=2)",
            "sliding(7, stride=2, stride=2)",
            "sliding(7, by=magic)",
            "sliding(7, pace=2)",
        ),
    ],
)
def test_unknown_windowings(model, text):
    with pytest.raises(InputError, match="expected"):
        model.stream(text)


def test_windowings_as_objects(model):
    assert str(model.stream(stepstream.Tumbling(7)).windowing) == "tumbling(7)"
    assert model.stream("session(0.5)").windowing == stepstream.Session(0.5)
    with pytest.raises(InputError):
        stepstream.Tumbling(True)
    for gap in (10**400, 10**5000, np.inf, np.nan, True):
        with pytest.raises(InputError, match="session: expected a gap"):
            stepstream.Session(gap)


def test_two_threads_at_once_raise(model, monkeypatch):
    stream = model.stream("carry")
    inside, leave = threading.Event(), threading.Event()
    step = type(model.executor).step

    def slow(self, *args):
        inside.set()
        leave.wait(30)
        return step(self, *args)

    monkeypatch.setattr(type(model.executor), "step", slow)
    worker = threading.Thread(target=stream.step, args=([1, 2, 3], None, True))  # a mask takes the long way
    worker.start()
    inside.wait(30)
    with pytest.raises(stepstream.ConcurrentUseError):
        stream.step([1, 2, 3])
    leave.set()
    worker.join()
    assert stream.age == 1


def test_copies_go_on_by_themselves_and_streams_are_not_pickled(model):
    stream = model.stream("carry")
    stream.step([1, 2, 3])
    expected = stream.peek([4, 5, 6])
    for twin in (copy.copy(stream), copy.deepcopy(stream)):
        assert twin.step([4, 5, 6]) == expected
    assert stream.age == 1
    with pytest.raises(TypeError, match="save"):
        pickle.dumps(stream)


def test_an_answer_is_its_own_memory():
    from make import model_of

    x = np.ones(3, np.float32)
    identity = model_of(("activation", {"activation": {"name": "linear"}}, {}))
    y = identity.stream("carry").step(x)
    x[:] = 5
    assert y.tolist() == [1, 1, 1]


def test_many_samples_with_times_and_a_mask(model):
    x, times, mask = SAMPLES[:4], [0, 1, 9, 9.5], [True, False, True, True]
    one, many = model.stream("session(5)"), model.stream("session(5)")
    singly = [one.step(row, time=t, mask=m) for row, t, m in zip(x, times, mask, strict=True)]
    assert many.steps(x, np.array(times), np.array(mask))[:, 0].tolist() == singly
    assert many.age == one.age == 2
    for wrong in ({"time": times[:3]}, {"time": 1.0}, {"time": times, "mask": [True]}):
        with pytest.raises(InputError, match="one for each sample"):
            many.steps(x, **wrong)


def test_a_model_is_immutable_and_picklable(model):
    for part, name in ((model, "features"), (model, "fingerprint"), (model.executor, "state_size")):
        with pytest.raises(AttributeError, match="immutable"):
            setattr(part, name, 3)
        with pytest.raises(AttributeError, match="immutable"):
            delattr(part, name)
    for columns in (model.input_columns, model.index_columns):
        with pytest.raises(AttributeError):
            columns.clear()
    node = model.graph.nodes[0]
    with pytest.raises(ValueError, match="read-only"):
        node.weights["kernel"][0] = 1
    with pytest.raises(ValueError, match="WRITEABLE"):
        node.weights["kernel"].setflags(write=True)
    with pytest.raises(TypeError):
        node.params["units"] = 3
    with pytest.raises(TypeError):
        node.params["activation"]["name"] = "relu"
    twin = pickle.loads(pickle.dumps(model))
    assert twin.fingerprint == model.fingerprint
    assert twin.stream("carry").step([1, 2, 3]) == model.stream("carry").step([1, 2, 3])
    with pytest.raises(ValueError, match="read-only"):
        twin.graph.nodes[0].weights["kernel"][0] = 1


def test_scale_is_applied_and_part_of_the_fingerprint(model, motions):
    mean, std = [1.0, 2.0, 3.0], [2.0, 4.0, 0.5]
    scaled = stepstream.load(motions / "model.keras", scale=(mean, std))
    assert scaled.fingerprint != model.fingerprint
    assert scaled.stream("carry").step([3.0, 6.0, 3.5]) == model.stream("carry").step([1.0, 1.0, 1.0])
    for bad in (([1, 2], [1, 1]), (mean, [1, 0, 1]), (mean, [1, np.nan, 1]), (mean,)):
        with pytest.raises(InputError, match="scale"):
            stepstream.load(motions / "model.keras", scale=bad)


def test_a_layer_may_be_called_scale():
    from stepstream.graph.passes import scale_input

    graph = question().graph
    graph = replace(graph, nodes=(replace(graph.nodes[0], id="scale"), *graph.nodes[1:]))
    graph = replace(graph, nodes=(graph.nodes[0], replace(graph.nodes[1], inputs=("scale",)), *graph.nodes[2:]))
    assert [n.id for n in scale_input(graph, 0.0, 2.0).nodes][:2] == ["scale_", "scale"]


@pytest.mark.parametrize("value", [0, -1, 2.5, True, "7", 1_000_001, 10**30])
def test_bad_training_lengths(motions, value):
    with pytest.raises(InputError, match="training_length"):
        stepstream.load(motions / "model.keras", training_length=value)


def test_names_must_fit(motions):
    with pytest.raises(InputError, match="3 different names"):
        stepstream.load(motions / "model.keras", features=["a", "a", "b"])
    with pytest.raises(InputError, match="1 different names"):
        stepstream.load(motions / "model.keras", classes=["a", "b", "c"])
    for names in ({"x", "y", "z"}, "xyz", b"xyz", dict.fromkeys("xyz"), iter("xyz")):
        with pytest.raises(InputError, match="features: expected a list of names"):
            stepstream.load(motions / "model.keras", features=names)


def test_embedding_takes_whole_numbers_in_range():
    from make import EXAMPLES

    stream = EXAMPLES["embedding"]().stream("carry")
    stream.step([10])
    for bad in ([11], [-1], [1.5]):
        with pytest.raises(InputError, match="whole number from 0 to 10"):
            stream.step(bad)
    assert stream.age == 1


def test_a_saved_state_goes_on_in_another_process_bit_for_bit(model, motions, tmp_path):
    stream = model.stream("carry")
    for n, x in enumerate(SAMPLES[:5]):
        stream.save(tmp_path / f"{n}.h5")
        stream.step(x)
    expected = stream.steps(SAMPLES[5:]).tobytes().hex()
    code = (
        "import sys, numpy as np, stepstream\n"
        f"m = stepstream.load({str(motions / 'model.keras')!r})\n"
        f"x = np.frombuffer(bytes.fromhex({SAMPLES.tobytes().hex()!r}), np.float32).reshape(-1, 3)\n"
        "for n in range(5):\n"
        "    s = m.stream('carry')\n"
        f"    s.load({str(tmp_path)!r} + f'/{{n}}.h5')\n"
        "    assert s.age == n\n"
        "    s.steps(x[n:5])\n"
        "    print(s.steps(x[5:]).tobytes().hex())\n"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.split() == [expected] * 5
