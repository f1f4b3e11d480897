"""Calibration and triggers put on a graph and taken off: what is computed, and what is refused."""

from dataclasses import replace

import numpy as np
import pytest

from make import KNOTS, RULE, SCALE, dense, graph_model, masked, model_of, question, recurrent, windowed
from stepstream.errors import InputError
from stepstream.graph.attach import (
    attached_to,
    calibrated,
    logits,
    n_classes,
    uncalibrated,
    with_trigger,
    without_trigger,
)
from stepstream.graph.ir import Node, TimeRole
from stepstream.kernel.executor import executor_for
from stepstream.ops.executor import NumpyExecutor
from stepstream.testing import stepped, verify_contract

X = np.random.default_rng(0).normal(size=(5, 9, 3)).astype(np.float32)
LINEAR = ("activation", {"activation": {"name": "linear"}}, {})


def apart(units, activation):
    """Dense and its activation, a node each."""
    return [dense(4, units, "linear"), ("activation", {"activation": {"name": activation}}, {})]


def flattened():
    graph = windowed().graph
    last = Node("p", "activation", ("y",), {"activation": {"name": "softmax"}}, {}, "p")
    return replace(graph, nodes=(*graph.nodes, last), outputs=(("p", "p"),))


GRAPHS = {
    "fused sigmoid": model_of(recurrent("lstm", 3, 4, sequences=False), dense(4, 1)).graph,
    "fused softmax": model_of(recurrent("gru", 3, 4), dense(4, 3, "softmax")).graph,
    "sigmoid apart": model_of(recurrent("lstm", 3, 4), *apart(1, "sigmoid")).graph,
    "softmax apart": model_of(recurrent("lstm", 3, 4, sequences=False), *apart(4, "softmax")).graph,
    "behind": model_of(recurrent("lstm", 3, 4), dense(4, 2, "softmax"), LINEAR, ("latest", {}, {})).graph,
    "the input itself": model_of(("activation", {"activation": {"name": "softmax"}}, {})).graph,
    "flattened": flattened(),
    "question": question().graph,
}


def answers(graph, kind):
    executor = NumpyExecutor(graph) if kind == "NumPy" else executor_for(graph)[0]
    x = X[:, :7] if graph.window else X
    return stepped(executor, x)


def sigmoid(x):
    return 1 / (1 + np.exp(-x.astype(np.float64)))


def probabilities(z):
    if z.shape[-1] == 1:
        return sigmoid(z)
    e = np.exp(z.astype(np.float64) - z.max(axis=-1, keepdims=True))
    return e / e.sum(axis=-1, keepdims=True)


@pytest.mark.parametrize("kind", ["NumPy", "kernel"])
@pytest.mark.parametrize("name", GRAPHS)
def test_it_computes_what_it_says(name, kind):
    graph = GRAPHS[name]
    raw = answers(logits(graph), kind)
    np.testing.assert_allclose(probabilities(raw), answers(graph, kind), atol=1e-6)
    position = np.minimum(np.arange(raw.shape[1]), len(SCALE) - 1)
    expected = probabilities(raw * SCALE[position][:, None])
    np.testing.assert_allclose(answers(calibrated(graph, SCALE), kind), expected, atol=1e-6)
    mapped = np.interp(expected, *KNOTS)
    mapped = mapped if mapped.shape[-1] == 1 else mapped / mapped.sum(axis=-1, keepdims=True)
    both = calibrated(graph, SCALE, KNOTS)
    np.testing.assert_allclose(answers(both, kind), mapped, atol=2e-6)
    deciding = answers(with_trigger(both, RULE), kind)
    assert (deciding[..., :-1] == answers(both, kind)).all()
    assert set(np.unique(deciding[..., -1])) <= set(range(-1, n_classes(graph)))


@pytest.mark.parametrize("name", GRAPHS)
def test_taken_off_again_it_is_the_graph_that_it_was(name):
    graph = GRAPHS[name]
    full = with_trigger(calibrated(graph, SCALE, KNOTS), RULE, k=3, latched=False)
    assert uncalibrated(without_trigger(full)) == graph
    assert without_trigger(uncalibrated(full)) == graph
    assert uncalibrated(full) == with_trigger(graph, RULE, k=3, latched=False)
    assert without_trigger(full) == calibrated(graph, SCALE, KNOTS)
    assert uncalibrated(graph) == without_trigger(graph) == graph
    assert logits(full) == logits(graph)
    assert n_classes(full) == n_classes(graph)
    assert [o for o, _ in full.outputs] == [graph.outputs[0][0], "decision"]


@pytest.mark.parametrize("name", GRAPHS)
def test_what_is_there_is_replaced(name):
    graph = GRAPHS[name]
    first = with_trigger(calibrated(graph, SCALE, KNOTS), RULE)
    second = with_trigger(calibrated(first, SCALE[:2]), RULE[:1], k=2)
    assert second == with_trigger(calibrated(graph, SCALE[:2]), RULE[:1], k=2)
    attached = attached_to(second)
    assert attached.scale.tolist() == SCALE[:2].tolist()
    assert attached.knots is None
    assert (attached.rule.tolist(), attached.k, attached.latched) == (RULE[:1].tolist(), 2, True)


@pytest.mark.parametrize("kind", ["NumPy", "kernel"])
@pytest.mark.parametrize("name", GRAPHS)
def test_a_scale_of_one_gives_the_same_bits(name, kind):
    graph = GRAPHS[name]
    assert answers(calibrated(graph, [1]), kind).tobytes() == answers(graph, kind).tobytes()


@pytest.mark.parametrize("name", GRAPHS)
def test_the_contract_holds(name):
    model = model_of(recurrent("gru", 3, 4), dense(4, 3, "softmax"), training_length=GRAPHS[name].window or 7)
    verify_contract(model.with_graph(with_trigger(calibrated(GRAPHS[name], SCALE, KNOTS), RULE, k=2)))


@pytest.mark.parametrize(
    ("graph", "message"),
    [
        (model_of(recurrent("lstm", 3, 4)).graph, r"sigmoid or a softmax, .* ends with 'lstm_0' \(lstm\)"),
        (model_of(dense(3, 1, "linear")).graph, r"ends with 'dense_0' \(linear\)"),
        (model_of(dense(3, 1, "tanh")).graph, r"ends with 'dense_0' \(tanh\)"),
        (model_of(LINEAR).graph, "ends with an input"),
        (model_of(dense(3, 4, "sigmoid")).graph, "got a sigmoid of 4 units"),
        (model_of(dense(3, 1, "softmax")).graph, "got a softmax of 1 unit"),
        (masked(("m", "mask_and", ["m0"], {}, {})).graph, r"one output, got \['h', 'y'\]"),
    ],
)
def test_a_model_without_probabilities_of_classes_is_refused(graph, message):
    for change in (
        n_classes,
        logits,
        uncalibrated,
        without_trigger,
        lambda g: calibrated(g, [1]),
        lambda g: with_trigger(g, [[1, 0, 0]]),
    ):
        with pytest.raises(InputError, match=message):
            change(graph)
    assert attached_to(graph).calibration is attached_to(graph).trigger is None


def test_classes_over_two_axes_are_none():
    shaped = {"x": ((4,), TimeRole.SEQUENCE)}
    nodes = [
        ("r", "reshape", ["x"], {"shape": (2, 2)}, {}),
        ("p", "activation", ["r"], {"activation": {"name": "softmax"}}, {}),
        ("y", "latest", ["p"], {}, {}),
    ]
    with pytest.raises(InputError, match=r"got a softmax of shape \(2, 2\)"):
        n_classes(graph_model(shaped, nodes, ["y"]).graph)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda g: calibrated(g, []), "hold no numbers"),
        (lambda g: calibrated(g, ["a"]), "expected numbers as scale, got"),
        (lambda g: calibrated(g, [0.5, 0]), "expected scales above 0"),
        (lambda g: calibrated(g, [np.inf]), "holds NaN or Inf"),
        (lambda g: calibrated(g, [1], [0.5]), r"knots: expected \(x, y\), got \[0\.5\]"),
        (lambda g: calibrated(g, [1], ([0, 0], [0, 1])), "knots whose x rise"),
        (lambda g: with_trigger(g, [1, 2, 3]), r"expected a rule \(n, 3\)"),
        (lambda g: with_trigger(g, RULE, k=0), "k: expected a whole number of samples from 1"),
        (lambda g: with_trigger(g, RULE, k=1.5), "k: expected a whole number of samples from 1 to .*, got 1.5"),
        (lambda g: with_trigger(g, RULE, latched="no"), "latched: expected True or False, got 'no'"),
    ],
)
def test_values_that_do_not_do_are_refused(change, message):
    with pytest.raises(InputError, match=message):
        change(question().graph)


def test_numbers_of_numpy_do_as_well():
    graph = with_trigger(question().graph, RULE.tolist(), k=np.int64(2), latched=np.False_)
    assert graph == with_trigger(question().graph, RULE, k=2, latched=False)
    assert (attached_to(graph).calibration, attached_to(graph).trigger) == (
        None,
        "a rule by sample, up to sample 4, after 2 in a row, revocable",
    )
    words = attached_to(calibrated(question().graph, SCALE, KNOTS)).calibration
    assert words == "logits times 0.4 at sample 1 to 1.6 from sample 4 on, probabilities along 4 knots"


def test_names_that_are_taken_stay_their_owners():
    model = model_of(recurrent("lstm", 3, 4), dense(4, 1))
    renamed = {"n0": "calibration", "n1": "trigger"}
    nodes = tuple(
        replace(n, id=renamed[n.id], inputs=tuple(renamed.get(i, i) for i in n.inputs)) for n in model.graph.nodes
    )
    graph = replace(model.graph, nodes=nodes, outputs=(("y", "trigger"),))
    full = with_trigger(calibrated(graph, SCALE), RULE)
    assert len({n.id for n in full.nodes}) == len(full.nodes)
    assert uncalibrated(without_trigger(full)) == graph


def test_an_output_that_is_called_decision_takes_no_trigger():
    graph = question().graph
    named = replace(graph, outputs=(("decision", graph.outputs[0][1]),))
    with pytest.raises(InputError, match=r"expected an output of another name, got 'decision'.*rename the layer"):
        with_trigger(named, RULE)
    assert attached_to(calibrated(named, SCALE)).scale.tolist() == SCALE.tolist()
