"""The three networks of bench/step.py, by name: their weights, and ours made of them.

S: LSTM 32 -> LeakyReLU -> LSTM 16 -> LeakyReLU -> Dense 1, 3 features. G: GRU 128 -> Dense 1, 16 features.
B: LSTM 256 -> LSTM 256 -> Dense 1, 40 features. LeakyReLU's slope is 0.3; the answer goes through a sigmoid.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from stepstream.formats.reading import LayerInfo, Provenance, Reading
from stepstream.graph.ir import Array, Graph, Node, TensorSpec, TimeRole
from stepstream.graph.validate import validate
from stepstream.model import Model

SLOPE = 0.3


@dataclass
class Network:
    """layers: (kind, weights) with kind "lstm", "gru" or "dense"; weights as Keras stores them. leaky: after each."""

    features: int
    layers: list[tuple[str, dict[str, Array]]]
    leaky: bool

    @property
    def units(self) -> list[int]:
        return [w["recurrent"].shape[0] for kind, w in self.layers if kind != "dense"]


def _recurrent(rng: np.random.Generator, kind: str, features: int, units: int) -> tuple[str, dict[str, Array]]:
    gates = 4 if kind == "lstm" else 3
    bias = (2, 3 * units) if kind == "gru" else (4 * units,)

    def draw(scale: float, *shape: int) -> Array:
        return (rng.normal(size=shape) * scale).astype(np.float32)

    return kind, {
        "kernel": draw(features**-0.5, features, gates * units),
        "recurrent": draw(units**-0.5, units, gates * units),
        "bias": draw(0.1, *bias),
    }


def networks() -> dict[str, Network]:
    rng = np.random.default_rng(0)

    def dense(features: int) -> tuple[str, dict[str, Array]]:
        weights = {"kernel": rng.normal(size=(features, 1)) * features**-0.5, "bias": np.zeros(1)}
        return "dense", {k: v.astype(np.float32) for k, v in weights.items()}

    return {
        "S": Network(3, [_recurrent(rng, "lstm", 3, 32), _recurrent(rng, "lstm", 32, 16), dense(16)], True),
        "G": Network(16, [_recurrent(rng, "gru", 16, 128), dense(128)], False),
        "B": Network(40, [_recurrent(rng, "lstm", 40, 256), _recurrent(rng, "lstm", 256, 256), dense(256)], False),
    }


def ours(network: Network, training_length: int | None = None) -> Model:
    nodes: list[Node] = []
    source = "x"
    last = max(i for i, (kind, _) in enumerate(network.layers) if kind != "dense")
    for i, (kind, weights) in enumerate(network.layers):
        if kind == "dense":
            params: dict[str, object] = {"units": 1, "activation": {"name": "sigmoid"}}
        else:
            params = {
                "units": weights["recurrent"].shape[0], "activation": {"name": "tanh"},
                "recurrent_activation": {"name": "sigmoid"}, "return_sequences": i < last,
                "zero_output_for_mask": False, **({"reset_after": True} if kind == "gru" else {}),
            }  # fmt: skip
        nodes.append(Node(f"{kind}{i}", kind, (source,), params, weights, f"{kind}{i}", i))
        source = nodes[-1].id
        if network.leaky and kind != "dense":
            leaky = {"activation": {"name": "leaky_relu", "negative_slope": SLOPE}}
            nodes.append(Node(f"leaky{i}", "activation", (source,), leaky, {}, f"leaky{i}", i))
            source = nodes[-1].id
    graph = Graph((("x", TensorSpec((network.features,), TimeRole.SEQUENCE)),), tuple(nodes), ((source, source),))
    specs = validate(graph)
    layers = tuple(LayerInfo(n.layer, n.op, specs[n.id]) for n in nodes)
    return Model(Reading(graph, layers, (), training_length, Provenance("bench", "bench")))
