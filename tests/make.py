"""Small models built directly as graphs, one for every op that exists, with weights large enough to matter."""

from __future__ import annotations

import numpy as np

from stepstream.formats.reading import LayerInfo, Provenance, Reading
from stepstream.graph.ir import Graph, Node, TensorSpec, TimeRole
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
    scale = 1 / np.sqrt(units)
    weights = {
        "kernel": random(features, gates * units),
        "recurrent": random(units, gates * units, scale=scale),
        "bias": random(*bias),
    }
    return op, params, weights


def dense(features: int, units: int, activation="sigmoid"):
    weights = {"kernel": random(features, units), "bias": random(units)}
    return "dense", {"units": units, "activation": {"name": activation}}, weights


def model_of(*ops, features: int = FEATURES, training_length: int | None = 7) -> Model:
    """A chain of (op, params, weights)."""
    nodes, source = [], "x"
    for i, (op, params, weights) in enumerate(ops):
        nodes.append(Node(f"n{i}", op, (source,), params, weights, f"{op}_{i}", i))
        source = f"n{i}"
    graph = Graph((("x", TensorSpec((features,), TimeRole.SEQUENCE)),), tuple(nodes), ((source, source),))
    layers = tuple(LayerInfo(n.layer, n.op) for n in nodes)
    return Model(Reading(graph, layers, (), training_length, Provenance("test", "test")))


def question(features: int = FEATURES) -> Model:
    """LSTM 32 -> LeakyReLU -> LSTM 16 -> LeakyReLU -> Dense."""
    leaky = ("activation", {"activation": {"name": "leaky_relu", "negative_slope": 0.3}}, {})
    first = recurrent("lstm", features, 32)
    return model_of(first, leaky, recurrent("lstm", 32, 16, sequences=False), leaky, dense(16, 1), features=features)


EXAMPLES = {
    "simple_rnn": [recurrent("simple_rnn", 3, 5)],
    "gru": [recurrent("gru", 3, 5), recurrent("gru", 5, 4, reset_after=False, sequences=False)],
    "lstm": [recurrent("lstm", 3, 5), recurrent("lstm", 5, 4, sequences=False)],
    "dense": [dense(3, 4)],
    "activation": [("activation", {"activation": {"name": "softmax"}}, {}), recurrent("lstm", 3, 2)],
    "prelu": [recurrent("gru", 3, 5), ("prelu", {}, {"alpha": random(5)})],
    "embedding": [("embedding", {}, {"table": random(11, 6)}), recurrent("gru", 6, 4, sequences=False), dense(4, 2)],
    "scale": [("scale", {}, {"factor": random(3), "offset": random(3)}), recurrent("lstm", 3, 4)],
    "standardise": [("standardise", {}, {"mean": random(3), "std": abs(random(3)) + 0.1}), recurrent("lstm", 3, 4)],
    "batch_norm": [
        recurrent("lstm", 3, 4),
        ("batch_norm", {"epsilon": 1e-3}, {"gamma": random(4), "mean": random(4), "variance": abs(random(4)) + 0.1}),
    ],
    "layer_norm": [
        recurrent("lstm", 3, 4),
        ("layer_norm", {"epsilon": 1e-3, "centre": True}, {"gamma": random(4), "beta": random(4, seed=1)}),
    ],
}
