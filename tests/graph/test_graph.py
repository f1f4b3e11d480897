"""The graph as data: JSON, equality, fingerprint, validation and passes."""

import json
from dataclasses import replace

import numpy as np
import pytest

from make import dense, graph_model, model_of, question, random, recurrent
from stepstream.errors import GraphError
from stepstream.graph.ir import Graph, Node, TensorSpec, TimeRole
from stepstream.graph.passes import drop_identities, input_scale, scale_input
from stepstream.graph.validate import validate
from stepstream.ops.executor import NumpyExecutor

X = (("x", TensorSpec((3,), TimeRole.SEQUENCE)),)
X_DATA = np.random.default_rng(4).normal(size=(2, 6, 3)).astype(np.float32)


def graph_of(*ops, inputs=X):
    """A chain that nobody has validated yet."""
    nodes, source = [], "x"
    for i, (op, params, weights) in enumerate(ops):
        nodes.append(Node(f"n{i}", op, (source,), params, weights, f"layer {i}", i))
        source = f"n{i}"
    return Graph(inputs, tuple(nodes), (("y", source),))


def test_a_graph_prints_as_json_and_compares():
    graph = graph_of(recurrent("lstm", 3, 4), dense(4, 2))
    data = json.loads(graph.to_json())
    assert [n["op"] for n in data["nodes"]] == ["lstm", "dense"]
    assert data["nodes"][0]["weights"]["kernel"][0] == [3, 16]
    same = graph_of(recurrent("lstm", 3, 4), dense(4, 2))
    assert graph == same
    assert hash(graph) == hash(same)
    assert graph != graph_of(recurrent("gru", 3, 4), dense(4, 2))


def test_the_fingerprint_sees_every_weight_and_parameter_and_no_name():
    base = graph_of(recurrent("lstm", 3, 4), dense(4, 2))
    prints = {base.fingerprint()}
    for i, node in enumerate(base.nodes):
        for name, weight in node.weights.items():
            changed = np.array(weight)
            changed.flat[-1] = np.nextafter(changed.flat[-1], np.float32(np.inf))
            other = replace(node, weights={**node.weights, name: changed})
            prints.add(replace(base, nodes=(*base.nodes[:i], other, *base.nodes[i + 1 :])).fingerprint())
        other = replace(node, params={**node.params, "activation": {"name": "relu"}})
        prints.add(replace(base, nodes=(*base.nodes[:i], other, *base.nodes[i + 1 :])).fingerprint())
    prints.add(scale_input(base, 0.0, 2.0).fingerprint())
    assert len(prints) == 1 + 3 + 2 + 2 + 1
    renamed = Graph(
        (("z", X[0][1]),),
        (replace(base.nodes[0], id="a", inputs=("z",), layer="q"), replace(base.nodes[1], id="b", inputs=("a",))),
        (("y", "b"),),
    )
    assert renamed.fingerprint() == base.fingerprint()


LATEST = recurrent("lstm", 3, 4, sequences=False)


def branches(op, merge, params=None):
    """One op and an LSTM of 4 units on the same input, merged."""
    one = Node("a", op[0], ("x",), *op[1:], "first")
    other = Node("b", "lstm", ("x",), *recurrent("lstm", 3, 4)[1:], "second")
    return Graph(X, (one, other, Node("m", merge, ("a", "b"), params or {}, {}, "merge")), (("y", "m"),))


@pytest.mark.parametrize(
    ("graph", "message"),
    [
        (graph_of(LATEST, recurrent("gru", 4, 2)), "layer 1.*cannot be fed back"),
        (graph_of(dense(4, 2)), r"layer 0.*kernel.*\(3, 2\).*\(4, 2\)"),
        (graph_of(("convolve", {}, {})), "unknown op 'convolve'"),
        (graph_of(("dense", {"units": 2}, dense(3, 2)[2])), r"parameters \['activation'\] are missing"),
        (graph_of(("dense", dense(3, 2)[1], {})), "kernel.*none"),
        (graph_of(("dense", dense(3, 2)[1], {"kernel": np.full((3, 2), np.nan)})), "NaN"),
        (graph_of(("activation", {"activation": {"name": "sine"}}, {})), "unknown activation"),
        (graph_of(("activation", {"activation": {"name": "relu", "knee": 1}}, {})), "knee"),
        (graph_of(dense(3, 3, "glu")), "even"),
        (graph_of(("prelu", {}, {"alpha": random(4)})), "alpha"),
        (graph_of(("scale", {}, {"factor": random(4), "offset": random(3)})), "factor"),
        (graph_of(("embedding", {}, {"table": random(5)})), r"a table \(indices, features\), got \(5,\)"),
        (Graph(X, (), ()), "needs an output"),
        (Graph(X, (), (("y", "z"),)), "no node 'z'"),
        (Graph((), (), (("y", "z"),)), "at least one input"),
        (Graph((("x", TensorSpec((3,), TimeRole.STATIC)),), (), (("y", "x"),)), "no output depends"),
        (Graph(X, (Node("x", "dense", ("x",)),), (("y", "x"),)), "two nodes"),
        (Graph(X, (Node("a", "dense", ("b",)),), (("y", "a"),)), "earlier node"),
        (graph_of(("lstm", *recurrent("lstm", 3, 4)[1:]), ("reshape", {"shape": (3,)}, {})), "4 values"),
        (graph_of(("transpose", {"axes": (1,)}, {})), "order of 1 axes"),
        (graph_of(("pad", {"padding": ((-1, 0),)}, {})), "padding"),
        (graph_of(("pool", {"kind": "max", "size": (2,), "strides": (2,), "padding": "valid"}, {})), "axes to pool"),
        (graph_of(("position", {"n": 0}, {})), "1 to"),
        (graph_of(LATEST, ("flatten", {"n": 3}, {})), "expected a sequence"),
        (Graph(X, (Node("a", "where", ("x", "x"), {"value": 0}),), (("y", "a"),)), "expected a mask"),
        (Graph(X, (Node("a", "mask_differs", ("x",), {"value": 0}),), (("y", "a"),)), "expected a vector"),
        (branches(LATEST, "add"), "cannot be fed back"),
        (branches(recurrent("lstm", 3, 5), "add"), "shapes that fit"),
        (branches(recurrent("lstm", 3, 5), "concatenate", {"axis": -3}), "axes in each"),
        (branches(recurrent("lstm", 3, 5), "dot", {"normalize": False}), "two vectors"),
    ],
)
def test_a_broken_graph_is_refused_naming_the_layer(graph, message):
    with pytest.raises(GraphError, match=message):
        validate(graph)


def test_weights_are_copied_once_and_then_shared():
    given = random(3, 4)
    kernel = Node("a", "dense", ("x",), {}, {"kernel": given}).weights["kernel"]
    assert not np.shares_memory(kernel, given)
    for shared in (kernel, kernel[1:], kernel.reshape(2, 6)):
        assert Node("b", "dense", ("x",), {}, {"kernel": shared}).weights["kernel"] is shared
    for other in (kernel.T, given.astype(np.float64), given.astype(">f4"), given[:, 0], np.float32(2), given[:0]):
        copy = Node("b", "dense", ("x",), {}, {"kernel": other}).weights["kernel"]
        assert copy.dtype == np.float32
        assert copy.shape == np.shape(other)
        np.testing.assert_array_equal(copy, other)


def test_dropping_identities_keeps_the_meaning():
    nothing = ("activation", {"activation": {"name": "linear"}}, {})
    something = ("activation", {"activation": {"name": "softmax"}}, {})
    graph = graph_of(nothing, recurrent("lstm", 3, 4), nothing, nothing, something, dense(4, 2), nothing)
    less = drop_identities(graph)
    assert [n.op for n in less.nodes] == ["lstm", "activation", "dense"]
    for a, b in zip(NumpyExecutor(graph).whole(X_DATA), NumpyExecutor(less).whole(X_DATA), strict=True):
        np.testing.assert_array_equal(a, b)


def test_a_model_of_identities_alone():
    stream = model_of(("activation", {"activation": {"name": "linear"}}, {})).stream("carry")
    np.testing.assert_array_equal(stream.step([1, 2, 3]), [1, 2, 3])
    given = X_DATA.copy()
    stream.model.run(given)[:] = 0
    np.testing.assert_array_equal(given, X_DATA)


def test_time_roles():
    model = question()
    roles = {r.layer: r.role for r in model.check().rows}
    assert roles == {
        "lstm_0": "sequence", "activation_1": "sequence", "lstm_2": "latest", "activation_3": "latest",
        "dense_4": "latest",
    }  # fmt: skip


def test_the_scale_at_the_input_is_found_whoever_put_it_there():
    inputs = {"a": ((2,), TimeRole.SEQUENCE), "b": ((2,), TimeRole.SEQUENCE), "c": ((1,), TimeRole.STATIC)}
    nodes = [
        ("dropout", "activation", ["a"], {"activation": {"name": "linear"}}, {}),
        ("norm", "standardise", ["dropout"], {}, {"mean": np.array([3.0, 4.0]), "std": np.array(2.0)}),
        ("rescaled", "scale", ["b"], {}, {"factor": np.array([0.5, 0.0]), "offset": np.array([-1.0])}),
        ("all", "concatenate", ["norm", "rescaled", "c"], {"axis": -1}, {}),
        ("later", "standardise", ["all"], {}, {"mean": np.array(1.0), "std": np.array(9.0)}),
    ]
    graph = graph_model(inputs, nodes, ["later"]).graph
    mean, std = input_scale(graph)
    assert mean.tolist() == [3, 4, 2, 1, 0]
    assert std.tolist() == [2, 2, 2, 1, 1]
    assert input_scale(question().graph) is None
    mean, std = input_scale(scale_input(question().graph, [1, 2, 3], 5))
    assert (mean.tolist(), std.tolist()) == ([1, 2, 3], [5, 5, 5])
