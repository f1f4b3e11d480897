"""What is measured is what is served: the answers are a stream's, bit for bit."""

from functools import partial

import numpy as np
import pytest

from make import (
    SEQUENCE,
    STATIC,
    dense,
    explosive,
    graph_model,
    masked,
    model_of,
    question,
    random,
    recurrent,
    windowed,
)
from stepstream.errors import InputError
from stepstream.learn import answers
from stepstream.learn.answers import matched, probabilities
from stepstream.learn.data import sequences
from stepstream.model import Model


def ragged(*lengths, features=3, labels=None, **given):
    xs = [random(n, features, seed=i) for i, n in enumerate(lengths)]
    return sequences(xs, labels or [i % 2 for i in range(len(xs))], **given)


def softmax(units=3):
    return model_of(recurrent("gru", 3, 5, sequences=False), dense(5, units, "softmax"))


def model_of_static():
    """Two numbers a sample, and one without time beside them."""
    joined = ("j", "concatenate", ["h", "s"], {"axis": -1}, {})
    op, params, weights = recurrent("lstm", 2, 4, sequences=False)
    last, last_params, last_weights = dense(5, 1, "linear")
    nodes = [("h", op, ["x"], params, weights), joined, ("y", last, ["j"], last_params, last_weights)]
    return graph_model({"x": ((2,), SEQUENCE), "s": ((1,), STATIC)}, nodes, ["y"])


def named(model, features=None, classes=None):
    return Model(model.reading, features, classes)


@pytest.mark.parametrize("windowing", ["carry", "tumbling(4)", "sliding(4)", "sliding(7, stride=2)"])
@pytest.mark.parametrize("make", [question, softmax])
def test_as_a_stream_bit_for_bit(make, windowing, monkeypatch):
    monkeypatch.setattr(answers, "BLOCK", 5)  # so that sequences reach over several
    monkeypatch.setattr(answers, "MAX_ROWS", 3)
    model = make()
    data = ragged(3, 11, 1, 6, 11, labels=[0, 1, 0, 1, 0] if make is question else [0, 1, 2, 0, 1])
    found = probabilities(model, data, windowing)
    for x, p in zip(data.x, found, strict=True):
        stream = model.stream(windowing)
        expected = np.array([stream.step(row) for row in x], np.float32)
        assert p.dtype == np.float32
        if make is question:
            assert np.array_equal(p[:, 1], expected)
            assert np.array_equal(p[:, 0], 1 - expected)
        else:
            assert np.array_equal(p, expected)


def test_by_numpy_alone(monkeypatch):
    """Without a kernel the same code steps the NumPy executor."""
    model = question()
    data = ragged(3, 5, 2)
    by_kernel = probabilities(model, data)
    from stepstream.ops.executor import NumpyExecutor

    object.__setattr__(model, "_executor", NumpyExecutor(model.graph))
    for a, b in zip(by_kernel, probabilities(model, data), strict=True):
        assert np.allclose(a, b, atol=1e-5)


def test_numbers_are_given_as_they_are():
    model = model_of(recurrent("lstm", 3, 4, sequences=False), dense(4, 1, "linear"))
    data = ragged(3, 5, labels=[0.5, 1.5])
    found = probabilities(model, data)
    assert [p.shape for p in found] == [(3, 1), (5, 1)]
    assert found[0][2, 0] == model.stream("carry").steps(data.x[0])[-1, 0]


def test_windows_of_fixed_length():
    """A model that flattens windows of 7 has answers under the windowings of 7 alone."""
    model = named(windowed(7))
    data = ragged(7, 16, labels=[0.5, 1.5], regression=True)
    for windowing in ("tumbling(7)", "sliding(7)"):
        expected = model.stream(windowing).steps(data.x[1])
        assert np.array_equal(probabilities(model, data, windowing)[1], expected)
    with pytest.raises(InputError, match=r"sequence '1': expected at most 7 samples under carry, got 16.*sliding\(7\)"):
        probabilities(model, data, "carry")


@pytest.mark.parametrize(
    ("make", "data", "windowing", "words"),
    [
        (question, ragged(3, features=2), "carry", "expected 3 features, as the model takes, got 2"),
        (question, ragged(3), "session(5)", "needs times"),
        (question, ragged(3), "sideways", "windowing: expected"),
        (partial(masked, ("m", "mask_and", ["m0"], {}, {})), ragged(3), "carry", "one output, got h, y"),
        (lambda: model_of(dense(3, 1, "linear")), ragged(30), "carry", "sigmoid unit or in a softmax"),
        (lambda: model_of(dense(3, 3)), ragged(30), "carry", "sigmoid unit or in a softmax"),
    ],
)
def test_what_has_no_probabilities(make, data, windowing, words):
    with pytest.raises(InputError, match=words):
        probabilities(make(), data, windowing)


def test_what_has_no_time_may_change_at_a_restart_alone():
    model = model_of_static()
    x = random(6, 3)
    x[:, 2] = [1, 1, 1, 2, 2, 2]
    data = sequences([x], [0.5])
    with pytest.raises(InputError, match="sequence '0': expected the same 's' at every sample"):
        probabilities(model, data)
    stream = model.stream("tumbling(3)")
    assert np.array_equal(probabilities(model, data, "tumbling(3)")[0], stream.steps(x))


def test_overflow_is_named():
    xs = [np.ones((2, 3)), np.full((3, 3), 3e38)]
    with pytest.raises(InputError, match=r"overflowed \(sequence '1', sample 1\)"):
        probabilities(explosive(), sequences(xs, [0.5, 2.5]))


def test_features_by_name():
    model = named(question(), features=["x", "y", "z"])
    data = sequences([random(4, 4)], [1], features=["z", "t", "x", "y"])
    by_name = probabilities(model, data)[0]
    assert np.array_equal(by_name[:, 1], model.stream("carry").steps(data.x[0][:, [2, 3, 0]])[:, 0])
    assert matched(model, data).features == ("x", "y", "z")
    with pytest.raises(InputError, match="no z in x, y, w"):
        probabilities(model, sequences([random(4, 3)], [1], features=["x", "y", "w"]))


@pytest.mark.parametrize(
    ("model", "labels", "classes", "expected"),
    [
        (softmax(), ["b", "a", "c"], ("a", "b", "c"), [1, 0, 2]),
        (named(softmax(), classes=["c", "b", "a"]), ["b", "a"], ("c", "b", "a"), [1, 2]),
        (named(softmax(), classes=["c", "b", "a"]), [0, 2], ("c", "b", "a"), [0, 2]),
        (softmax(), [0, 2], ("0", "1", "2"), [0, 2]),
        (question(), [1, 1], ("0", "1"), [1, 1]),
        (question(), ["no", "yes"], ("no", "yes"), [0, 1]),
        (named(question(), classes=["badminton"]), ["badminton", "running"], ("running", "badminton"), [1, 0]),
        (named(question(), classes=["badminton"]), [0, 1], ("not badminton", "badminton"), [0, 1]),
    ],
)
def test_classes_in_the_order_of_the_model(model, labels, classes, expected):
    data = matched(model, ragged(*[3] * len(labels), labels=labels))
    assert data.classes == classes
    assert [int(y) for y in data.y] == expected


@pytest.mark.parametrize(
    ("model", "labels", "words"),
    [
        (softmax(), ["a", "b"], "expected 3 classes, as the model has, got 2: a, b"),
        (named(softmax(), classes=["c", "b", "a"]), ["d", "b"], "classes c, b, a, as the model has them, got b, d"),
        (softmax(), [0.5, 2.5], "one number as its answer"),
    ],
)
def test_classes_that_do_not_fit(model, labels, words):
    with pytest.raises(InputError, match=words):
        matched(model, ragged(3, 3, labels=labels))
