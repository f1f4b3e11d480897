"""Comparing with somebody else's model: its batch, its window, its state, its inputs and outputs, its errors."""

from dataclasses import replace

import numpy as np
import pytest

import stepstream
from make import dense, model_of, question, recurrent
from stepstream.formats.reading import LayerInfo, Provenance, Reading
from stepstream.graph.attach import calibrated, with_trigger
from stepstream.graph.ir import Graph, Node, TensorSpec, TimeRole
from stepstream.graph.passes import scale_input
from stepstream.model import Model
from stepstream.reference import Reference

X = np.random.default_rng(3).normal(size=(5, 7, 3)).astype(np.float32)


def two_outputs():
    """An LSTM's sequence, and the last value of another after it."""
    chain = [recurrent("lstm", 3, 4), recurrent("lstm", 4, 2, sequences=False)]
    nodes = tuple(Node(f"n{i}", op, (("x", "n0")[i],), p, w, f"lstm_{i}", i) for i, (op, p, w) in enumerate(chain))
    inputs = (("x", TensorSpec((3,), TimeRole.SEQUENCE)),)
    graph = Graph(inputs, nodes, (("n0", "n0"), ("n1", "n1")))
    return Model(Reading(graph, tuple(LayerInfo(n.layer, n.op) for n in nodes), (), 7, Provenance("test", "test")))


class Variable:
    def __init__(self, value):
        self.value = value

    def numpy(self):
        return self.value


class Other:
    """A model of another framework, which computes as ours does."""

    def __init__(self, model, input_shape=(None, None, 3), fault=lambda ys: ys):
        self.model, self.input_shape, self.fault = model, input_shape, fault
        self.batches = []

    def predict_on_batch(self, x):
        assert self.input_shape[0] in {None, len(x)}
        assert self.input_shape[1] in {None, x.shape[1]}
        self.batches.append(x.shape[:2])
        ys = self.model.run(x)
        return self.fault(ys)


class Layer:
    stateful = True

    def __init__(self, rows):
        self.rows = rows
        self.reset_states()

    def reset_states(self):
        self.states = [Variable(np.zeros_like(self.rows))]


class Stateful(Other):
    """forgets: as Keras' predict_on_batch on JAX does."""

    def __init__(self, model, input_shape, forgets=False, fault=lambda ys: ys):
        super().__init__(model, input_shape, fault)
        self.layers, self.forgets = [Layer(model.executor.initial_state(input_shape[0]))], forgets

    def predict_on_batch(self, x):
        assert x.shape[:2] == (self.input_shape[0], self.input_shape[1] or x.shape[1])
        (layer,) = self.layers
        state = layer.states[0].value
        for t in range(x.shape[1]):
            (y,), state = self.model.executor.step(x[:, t], state)
        if not self.forgets:
            layer.states = [Variable(state)]
        return self.fault(y)


def test_a_fixed_batch_is_filled():
    model = question()
    other = Other(model, (2, None, 3))
    result = model.verify(X, reference=other)
    assert result.ok, result
    assert {m for m, _ in other.batches} == {2}


@pytest.mark.parametrize("length", [None, 1, 2, 3])
@pytest.mark.parametrize("batch", [1, 2, 5, 8])
def test_a_stateful_reference_is_followed_through_the_whole_sequence(batch, length):
    model = question()
    other = Stateful(model, (batch, length, 3))
    other.layers[0].states[0].value += 1  # what the user left there
    result = model.verify(X, reference=other)
    assert result.ok, result
    assert result.checks[-1].compared_with == "live test_reference"
    assert "its states were reset" in result.notes[1]
    assert not other.layers[0].states[0].value.any()
    assert model.verify(reference=other).ok


def test_a_stateful_reference_that_goes_wrong_later_is_found():
    model = question()
    calls = []

    def late(y):
        calls.append(1)
        return y + 0.01 * (len(calls) == 5)

    (check,) = (c for c in model.verify(X, reference=Stateful(model, (5, 1, 3), fault=late)).checks if not c.ok)
    assert check.position == 4


def test_a_back_end_that_forgets_is_no_proof():
    model = question()
    result = model.verify(X, reference=Stateful(model, (5, 1, 3), forgets=True))
    assert "not compared" in result.notes[1]
    assert not any("reference" in c.name for c in result.checks)


def test_one_output_of_the_end_and_one_of_every_sample():
    model = two_outputs()
    shapes = {}
    for form in (lambda ys: list(ys.values()), dict, lambda ys: dict(reversed(ys.items()))):
        result = model.verify(X, reference=Other(model, fault=form))
        assert result.ok, result
        shapes[form] = [c.name for c in result.checks[-2:]]
        assert shapes[form] == ["step equals the reference, output 'n0'", "step equals the reference, output 'n1'"]
    wrong = Other(model, fault=lambda ys: [ys["n0"], ys["n1"] + np.float32(0.01)])
    assert [c.name[-4:] for c in model.verify(X, reference=wrong).checks if not c.ok] == ["'n1'"]


def test_a_window_gives_the_last_answer_of_one_and_every_answer_of_the_other():
    model = two_outputs()
    result = model.verify(X, reference=Other(model, (None, 5, 3)))
    assert result.ok, result

    def broken(ys):
        ys["n0"][:, 2] += 0.01
        ys["n1"] += 0.01
        return ys

    result = model.verify(X, reference=Other(model, (None, 5, 3), broken))
    assert [c.position for c in result.checks if not c.ok] == [2, 4]


def test_a_calibrated_model_is_compared_without_what_the_reference_has_not():
    model = question()
    calibrated_too = model.with_graph(with_trigger(calibrated(model.graph, [0.5, 0.8]), [[1, 0, -0.6]]))
    result = calibrated_too.verify(reference=Other(model, (None, None, 3)))
    assert result.ok
    assert any("without the calibration" in note for note in result.notes)
    assert any(c.name == "decisions" for c in result.checks)
    x = np.random.default_rng(0).normal(size=(2, 5, 3))
    assert not calibrated_too.verify(x, model.run(x)).ok  # expected answers are those of the model as it is


class Unbuilt:
    def predict_on_batch(self, x):
        raise AssertionError("never asked")

    @property
    def input_shape(self):
        raise AttributeError("The layer has never been called")


def raising(ys):
    raise RuntimeError("out of memory\nat some place")


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (lambda m: object(), "expected a Keras model"),
        (lambda m: Unbuilt(), "known input shapes"),
        (lambda m: Other(m, None), "known input shapes"),
        (lambda m: Other(m, (None, None, 4)), "expected 3 features for input 'x'"),
        (lambda m: Other(m, (None, None)), "expected 3 features for input 'x'"),
        (lambda m: Other(m, [(None, None, 3), (None, None, 3)]), "with 1 inputs, got 2"),
        (lambda m: Other(m, {"a": (None, None, 1), "b": (None, None, 2)}), "with 1 inputs, got 2"),
        (lambda m: Other(m, (None, 9, 3)), "takes 9 samples, got 7"),
        (lambda m: Other(m, fault=raising), "predict_on_batch failed: RuntimeError: out of memory$"),
        (lambda m: Other(m, fault=lambda y: [y, y]), "expected 1 outputs, got 2"),
        (lambda m: Other(m, fault=lambda y: y[:, :0]), "expected output 'n4' of shape"),
        (lambda m: Other(m, fault=lambda y: y[:, 0]), "expected output 'n4' of shape"),
    ],
)
def test_a_reference_that_does_not_fit_is_refused(other, message):
    model = question()
    with pytest.raises(stepstream.InputError, match=message):
        model.verify(X, reference=other(model))


class Inputs:
    """Two inputs, as a list without names or as a dict in another order."""

    def __init__(self, names=()):
        self.inputs = [type("Tensor", (), {"name": n})() for n in names]
        self.input_shape = (
            [(None, None, 2), (None, None, 1)] if names == ("b", "a") else [(None, None, 1), (None, None, 2)]
        )

    def predict_on_batch(self, parts):
        a, b = parts if isinstance(parts, list) else (parts["a"], parts["b"])
        assert (a.shape[-1], b.shape[-1]) == (1, 2)
        return np.concatenate([a * 2, b], axis=-1)


@pytest.mark.parametrize("names", [(), ("a", "b"), ("b", "a")])
def test_a_sample_is_split_between_several_inputs(names):
    ours = [("a", TensorSpec((1,), TimeRole.SEQUENCE)), ("b", TensorSpec((2,), TimeRole.SEQUENCE))]
    (answers,), notes = Reference(Inputs(names), ours, [("y", 3)]).answers(X)
    assert (answers.values == X * np.float32([2, 1, 1])).all()
    assert notes == []


@pytest.fixture
def keras():
    pytest.importorskip("jax")
    return pytest.importorskip("keras")


@pytest.mark.parametrize("length", [None, 1])
def test_keras_with_a_state_of_its_own(keras, length):
    layers = keras.layers
    stateful = keras.Sequential(
        [keras.Input(batch_shape=(2, length, 3)), layers.LSTM(4, stateful=True), layers.Dense(1)]
    )
    before = [np.array(v) for v in stateful.get_weights()]
    stateful(X[:2, :1])
    model = stepstream.load(stateful)
    result = model.verify(X, reference=stateful)
    compared = [c for c in result.checks if "reference" in c.name]
    if keras.backend.backend() == "jax":  # predict_on_batch forgets
        assert not compared
        assert "not compared" in result.notes[1]
    else:
        assert len(compared) == 1
    assert result.ok, result
    assert "its states were reset" in result.notes[-1]
    assert not any(np.asarray(s.numpy()).any() for s in stateful.layers[0].states)
    assert all(map(np.array_equal, before, stateful.get_weights()))


def test_keras_with_an_embedding_and_with_a_window(keras):
    layers = keras.layers
    for network in (
        [keras.Input((6,)), layers.Embedding(9, 4), layers.LSTM(3)],
        [keras.Input((6, 3)), layers.LSTM(4, return_sequences=True)],
    ):
        original = keras.Sequential(network)
        result = stepstream.load(original).verify(reference=original)
        assert result.ok, result
        assert result.checks[-1].compared_with == "live keras"


def test_keras_that_is_not_built(keras):
    unbuilt = keras.Sequential([keras.layers.LSTM(4)])
    with pytest.raises(stepstream.InputError, match="known input shapes"):
        model_of(recurrent("lstm", 3, 4), dense(4, 1)).verify(X, reference=unbuilt)


@pytest.mark.parametrize("as_dict", [False, True])
def test_keras_with_several_inputs(keras, as_dict):
    layers = keras.layers
    a, b = keras.Input((None, 1), name="a"), keras.Input((None, 2), name="b")
    y = layers.LSTM(3, return_sequences=True)(layers.Concatenate()([a, b]))
    model = keras.Model({"b": b, "a": a} if as_dict else [b, a], {"y": y} if as_dict else y)
    ours = [("a", TensorSpec((1,), TimeRole.SEQUENCE)), ("b", TensorSpec((2,), TimeRole.SEQUENCE))]
    (answers,), _ = Reference(model, ours, [("y", 3)]).answers(X)
    expected = model.predict_on_batch({"a": X[..., :1], "b": X[..., 1:]})
    assert np.allclose(answers.values, expected["y"] if as_dict else expected)


@pytest.mark.parametrize(("policy", "most"), [("mixed_float16", 0.02), ("mixed_bfloat16", 0.2), ("bfloat16", 0.2)])
def test_keras_in_half_precision_is_held_to_its_rounding(keras, policy, most):
    layers = keras.layers
    keras.utils.set_random_seed(3)
    gru = layers.GRU(6, recurrent_initializer="glorot_uniform", dtype=policy)
    original = keras.Sequential([keras.Input((None, 3)), gru, layers.Dense(2, dtype=policy)])
    model = stepstream.load(original)
    result = model.verify(reference=original)
    assert result.ok, result
    check = result.checks[-1]
    assert 1e-5 < check.error < check.tolerance < most
    assert f"computes in {policy.removeprefix('mixed_')}" in check.note
    gru.set_weights([-w for w in gru.get_weights()])
    assert not model.verify(reference=original).ok


class Keyed(Inputs):
    """As tf.keras has it: shapes by key, and `inputs` in the order of the keys."""

    def __init__(self):
        super().__init__(("a", "b"))
        a, b = self.inputs
        self.input = {"second": b, "first": [a]}
        self.input_shape = {"second": (None, None, 2), "first": (None, None, 1)}

    def predict_on_batch(self, parts):
        return super().predict_on_batch([parts["first"][0], parts["second"]])


def test_inputs_go_by_the_keys_of_the_model():
    ours = [("a", TensorSpec((1,), TimeRole.SEQUENCE)), ("b", TensorSpec((2,), TimeRole.SEQUENCE))]
    (answers,), _ = Reference(Keyed(), ours, [("y", 3)]).answers(X)
    assert (answers.values == X * np.float32([2, 1, 1])).all()


@pytest.mark.filterwarnings("ignore:When providing `inputs` as a dict, all keys")  # which Keras still takes
@pytest.mark.parametrize("keys", [("k0", "k1"), ("k1", "k0"), ("a", "b")])
def test_keras_with_inputs_under_other_keys_than_their_names(keras, keys):
    b, a = keras.Input((None, 2), name="b"), keras.Input((None, 2), name="a")
    y = keras.layers.LSTM(3)(keras.layers.Concatenate()([b, keras.layers.Dense(2)(a)]))
    model = keras.Model(dict(zip(keys, (b, a), strict=True)), y)
    result = stepstream.load(model).verify(reference=model)
    assert result.ok, result


def test_a_reference_knows_nothing_of_the_scale():
    model, scale = question(), ([1, 2, 3], [2, 3, 4])
    scaled = Model(replace(model.reading, graph=scale_input(model.reading.graph, *scale)))
    assert scaled.verify(X, reference=Other(model)).ok
    assert not scaled.verify(X, reference=Other(scaled)).ok


@pytest.mark.parametrize("scale", [None, (1.0, 2.0)])
def test_a_normalisation_of_the_model_is_no_scale(keras, scale):
    """Only what load(scale=...) put in front is unknown to the reference."""
    layers = keras.layers
    x = layers.Input((None, 3))
    first = layers.Normalization(mean=[1.0, 2, 3], variance=[4.0, 1, 2], name="scale")(x)
    behind = layers.Normalization(mean=0.5, variance=4.0, axis=None)(layers.LSTM(4, return_sequences=True)(x))
    inside = layers.TimeDistributed(layers.Normalization(mean=0.5, variance=4.0, axis=None))(x)
    for y in (first, behind, inside):
        model = keras.Model(x, layers.LSTM(4)(y))
        ours = stepstream.load(model, scale=scale)
        result = ours.verify(reference=model)
        assert result.ok, result
        assert [r.kind for r in ours.check().rows].count("(x - mean) / std") == (scale is not None)
