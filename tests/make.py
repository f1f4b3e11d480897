"""Small models built directly as graphs, one for every op that exists, with weights large enough to matter."""

from __future__ import annotations

from functools import partial

import numpy as np

from stepstream.formats.reading import LayerInfo, Provenance, Reading
from stepstream.graph.attach import calibrated, with_trigger
from stepstream.graph.ir import Graph, Node, TensorSpec, TimeRole
from stepstream.graph.validate import validate
from stepstream.model import Model

FEATURES = 3


def random(*shape: int, scale: float = 0.7, seed: int = 0) -> np.ndarray:
    return (np.random.default_rng([seed, *shape]).normal(size=shape) * scale).astype(np.float32)


def recurrent(op: str, features: int, units: int, activation="tanh", gate="sigmoid", sequences=True, reset_after=True):
    gates = {"simple_rnn": 1, "gru": 3, "lstm": 4}[op]
    params = {
        "units": units,
        "activation": {"name": activation},
        "return_sequences": sequences,
        "zero_output_for_mask": False,
    }
    if gates > 1:
        params["recurrent_activation"] = {"name": gate}
    if op == "gru":
        params["reset_after"] = reset_after
    bias = (2, 3 * units) if op == "gru" and reset_after else (gates * units,)
    calm = 0.1 if activation == "exponential" else 1  # or its states grow beyond all bounds
    weights = {
        "kernel": random(features, gates * units, scale=calm),
        "recurrent": random(units, gates * units, scale=calm / np.sqrt(units)),
        "bias": random(*bias),
    }
    return op, params, weights


def dense(features: int, units: int, activation="sigmoid"):
    weights = {"kernel": random(features, units), "bias": random(units)}
    return "dense", {"units": units, "activation": {"name": activation}}, weights


SEQUENCE, STATIC = TimeRole.SEQUENCE, TimeRole.STATIC


def layer_infos(graph: Graph):
    specs = validate(graph)
    return tuple(LayerInfo(n.layer, n.op, specs[n.id]) for n in graph.nodes)


def graph_model(inputs, nodes, outputs, training_length: int | None = 7) -> Model:
    """inputs: {name: (shape, role)}; nodes: (id, op, inputs, params, weights); outputs: node ids."""
    made = tuple(Node(name, op, tuple(i), p, w, f"layer {name}", k) for k, (name, op, i, p, w) in enumerate(nodes))
    specs = tuple((name, TensorSpec(shape, role)) for name, (shape, role) in inputs.items())
    graph = Graph(specs, made, tuple((o, o) for o in outputs))
    layers = layer_infos(graph)
    return Model(Reading(graph, layers, (), training_length, Provenance("test", "test")))


def model_of(*ops, features: int = FEATURES, training_length: int | None = 7) -> Model:
    """A chain of (op, params, weights). One feature that goes into an embedding is an index."""
    nodes, source = [], "x"
    for i, (op, params, weights) in enumerate(ops):
        mask = ("#mask",) if op in {"simple_rnn", "lstm", "gru"} else ()  # as the readers have it
        nodes.append(Node(f"n{i}", op, (source, *mask), params, weights, f"{op}_{i}", i))
        source = f"n{i}"
    shape = () if ops[0][0] == "embedding" else (features,)
    graph = Graph((("x", TensorSpec(shape, TimeRole.SEQUENCE)),), tuple(nodes), ((source, source),))
    layers = layer_infos(graph)
    return Model(Reading(graph, layers, (), training_length, Provenance("test", "test")))


def explosive():
    """A sample of 3e38 overflows."""
    op, parameters, weights = recurrent("simple_rnn", 3, 4)
    return model_of((op, {**parameters, "activation": {"name": "linear"}}, weights), dense(4, 1, "linear"))


def question(features: int = FEATURES) -> Model:
    """LSTM 32 -> LeakyReLU -> LSTM 16 -> LeakyReLU -> Dense."""
    leaky = ("activation", {"activation": {"name": "leaky_relu", "negative_slope": 0.3}}, {})
    first = recurrent("lstm", features, 32)
    return model_of(first, leaky, recurrent("lstm", 32, 16, sequences=False), leaky, dense(16, 1), features=features)


def merged(op: str, params=None, out: int = 4) -> Model:
    """Two recurrent branches, one value without time, and a recurrent layer on what the op makes of them."""
    nodes = [
        ("a", *_flat(recurrent("lstm", 3, 4))),
        ("b", *_flat(recurrent("gru", 3, 4))),
        ("m", op, ["a", "b"], params or {}, {}),
        ("with_static", "concatenate", ["m", "s"], {"axis": -1}, {}),
        ("y", *_flat(recurrent("simple_rnn", out + 2, 3, sequences=False))),
    ]
    sources = {"a": ["x"], "b": ["x"], "y": ["with_static"]}
    nodes = [(n[0], n[1], sources.get(n[0], n[2]), *n[3:]) for n in nodes]
    return graph_model({"x": ((3,), SEQUENCE), "s": ((2,), STATIC)}, nodes, ["y"])


def _flat(op):
    name, params, weights = op
    return name, [], params, weights


def repeated() -> Model:
    """A value without time beside every sample, in a layer that takes sequences alone."""
    nodes = [
        ("r", "repeat", ["s", "x"], {}, {}),
        ("y", *_flat(recurrent("lstm", 2, 3))),
    ]
    nodes[-1] = ("y", nodes[-1][1], ["r"], *nodes[-1][3:])
    return graph_model({"x": ((3,), SEQUENCE), "s": ((2,), STATIC)}, nodes, ["y"])


def masked(*joins, zero: bool = False) -> Model:
    """Samples whose first value is 0 are masked by one mask, those with a 0 in the second by another; both joined."""
    op, params, weights = recurrent("lstm", 3, 4)

    def pick(column):
        return {"units": 1, "activation": {"name": "linear"}}, {"kernel": np.eye(3)[:, [column]]}

    nodes = [
        ("first", "dense", ["x"], *pick(0)),
        ("second", "dense", ["x"], *pick(1)),
        ("m0", "mask_differs", ["first"], {"value": 0.0}, {}),
        ("m1", "mask_differs", ["second"], {"value": 0.0}, {}),
        *joins,
        ("h", op, ["x", "m"], {**params, "zero_output_for_mask": zero}, weights),
        ("y", "where", ["h", "m0"], {"value": 0.5}, {}),
    ]
    return graph_model({"x": ((3,), SEQUENCE)}, nodes, ["h", "y"])


def windowed(n: int = 7) -> Model:
    """What Flatten -> Dense becomes."""
    op, params, weights = recurrent("lstm", 3, 4)
    nodes = [
        ("h", op, ["x"], params, weights),
        ("t", "position", ["x"], {"n": n}, {}),
        ("y", "position_dense", ["h", "t"], {}, {"kernel": random(n, 4, 2), "bias": random(n, 2)}),
    ]
    return graph_model({"x": ((3,), SEQUENCE)}, nodes, ["y"], training_length=n)


def pictures() -> Model:
    """A small convolutional network over each sample of 4 x 3 x 2 values, in front of a recurrent layer."""
    conv = {"strides": (1, 1), "padding": "same", "dilation": (1, 1), "groups": 1}
    deep = {"strides": (1, 1), "padding": "valid", "dilation": (1, 2), "groups": 4}
    nodes = [
        ("shaped", "reshape", ["x"], {"shape": (4, 3, 2)}, {}),
        ("padded", "pad", ["shaped"], {"padding": ((1, 0), (0, 1), (0, 0))}, {}),
        ("conv", "conv", ["padded"], conv, {"kernel": random(2, 3, 2, 4), "bias": random(4)}),
        ("pool", "pool", ["conv"], {"kind": "max", "size": (2, 1), "strides": (2, 1), "padding": "same"}, {}),
        ("turned", "transpose", ["pool"], {"axes": (1, 0, 2)}, {}),
        ("mean", "pool", ["turned"], {"kind": "average", "size": (2, 2), "strides": (1, 1), "padding": "same"}, {}),
        ("deep", "conv", ["mean"], deep, {"kernel": random(2, 2, 1, 4)}),
        ("row", "reshape", ["deep"], {"shape": (12,)}, {}),
        ("y", *_flat(recurrent("gru", 12, 3))),
    ]
    nodes[-1] = ("y", nodes[-1][1], ["row"], *nodes[-1][3:])
    return graph_model({"x": ((24,), SEQUENCE)}, nodes, ["y"])


SCALE = np.float32([0.4, 0.7, 1.1, 1.6])
KNOTS = np.float32([0.0, 0.3, 0.6, 1.0]), np.float32([0.05, 0.2, 0.7, 0.9])
RULE = np.float32([[1, 0, -0.9], [1, 0.3, -0.85], [0.9, 0.5, -0.7], [1, 0, -0.52]])


def deciding(units: int = 3, k: int = 2, latched: bool = False, knots=KNOTS, sequences: bool = True) -> Model:
    """Calibrated, and with a trigger; one unit is a sigmoid, more are a softmax."""
    last = dense(4, units, "sigmoid" if units == 1 else "softmax")
    model = model_of(recurrent("lstm", 3, 4, sequences=sequences), last)
    return model.with_graph(with_trigger(calibrated(model.graph, SCALE, knots), RULE, k, latched))


def looked_up() -> Model:
    return model_of(("embedding", {}, {"table": random(11, 6)}), recurrent("gru", 6, 4, sequences=False), dense(4, 2))


def chain(*ops):
    return lambda: model_of(*ops)


NORM = {"gamma": random(4), "mean": random(4), "variance": abs(random(4)) + 0.1}
# op -> a model in which it matters; a new op needs one, and then the contract is tested for it
EXAMPLES = {
    "simple_rnn": chain(recurrent("simple_rnn", 3, 5)),
    "gru": chain(recurrent("gru", 3, 5), recurrent("gru", 5, 4, reset_after=False, sequences=False)),
    "lstm": chain(recurrent("lstm", 3, 5), recurrent("lstm", 5, 4, sequences=False)),
    "dense": chain(dense(3, 4)),
    "activation": chain(("activation", {"activation": {"name": "softmax"}}, {}), recurrent("lstm", 3, 2)),
    "prelu": chain(recurrent("gru", 3, 5), ("prelu", {}, {"alpha": random(5)})),
    "embedding": looked_up,
    "scale": chain(("scale", {}, {"factor": random(3), "offset": random(3)}), recurrent("lstm", 3, 4)),
    "standardise": chain(
        ("standardise", {}, {"mean": random(3), "std": abs(random(3)) + 0.1}), recurrent("lstm", 3, 4)
    ),
    "batch_norm": chain(recurrent("lstm", 3, 4), ("batch_norm", {"epsilon": 1e-3}, NORM)),
    "layer_norm": chain(
        recurrent("lstm", 3, 4),
        ("layer_norm", {"epsilon": 1e-3, "centre": True}, {"gamma": random(4), "beta": random(4, seed=1)}),
    ),
    **{op: partial(merged, op) for op in ("add", "subtract", "multiply", "maximum", "minimum")},
    "concatenate": partial(merged, "concatenate", {"axis": -1}, 8),
    "dot": partial(merged, "dot", {"normalize": True}, 1),
    "mask_differs": partial(masked, ("m", "mask_and", ["m0"], {}, {})),
    "mask_and": partial(masked, ("m", "mask_and", ["m0", "m1"], {}, {})),
    "mask_or": partial(masked, ("m", "mask_or", ["m0", "m1"], {}, {})),
    "where": partial(masked, ("m", "mask_and", ["m1"], {}, {}), zero=True),
    "repeat": repeated,
    "latest": chain(recurrent("lstm", 3, 4), ("latest", {}, {}), dense(4, 2)),
    "position": windowed,
    "position_dense": partial(windowed, 12),
    "calibrate": partial(deciding, 1, knots=None),
    "isotonic": partial(deciding, 3, sequences=False),
    "trigger": partial(deciding, 2, latched=True),
    **dict.fromkeys(("reshape", "transpose", "conv", "pool", "pad"), pictures),
}
NEVER_STEPS = {"flatten"}  # a pass takes it apart
