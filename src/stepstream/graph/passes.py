"""Graph to graph. Each pass keeps the meaning; the caller validates afterwards."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from stepstream.arrays import float32
from stepstream.errors import InputError
from stepstream.graph.ir import Graph, Node


def drop_identities(graph: Graph) -> Graph:
    """Take out nodes that return their input: dropout, noise and linear activations outside training."""
    alias: dict[str, str] = {}
    kept = []
    for node in graph.nodes:
        source = alias.get(node.inputs[0], node.inputs[0])
        if node.op == "activation" and node.params["activation"]["name"] == "linear":
            alias[node.id] = source
        else:
            kept.append(replace(node, inputs=(source,)))
    return Graph(graph.inputs, tuple(kept), tuple((name, alias.get(i, i)) for name, i in graph.outputs))


def scale_input(graph: Graph, mean: Sequence[float], std: Sequence[float]) -> Graph:
    """Put (x - mean) / std in front of the first layer; both (features,) or one number for all."""
    name, spec = graph.inputs[0]
    arrays = []
    for label, values in (("mean", mean), ("std", std)):
        array = float32(values, f"{spec.shape[0]} numbers for {label} of scale")
        if array.ndim == 0:
            array = np.broadcast_to(array, spec.shape)
        if array.shape != spec.shape or not np.isfinite(array).all():
            raise InputError(f"scale: expected {spec.shape[0]} finite numbers for {label}, got {values!r}")
        arrays.append(array)
    if (arrays[1] <= 0).any():
        raise InputError(f"scale: expected standard deviations above zero, got {std!r}; use 1 for a constant feature")
    if any(n.op == "embedding" and n.inputs[0] == name for n in graph.nodes):
        raise InputError("scale: the model takes indices, which cannot be scaled")
    own = "scale"
    while any(own == n.id for n in graph.nodes) or own == name:
        own += "_"
    first = Node(own, "standardise", (name,), {}, {"mean": arrays[0], "std": arrays[1]}, own)
    moved = tuple(replace(n, inputs=tuple(own if i == name else i for i in n.inputs)) for n in graph.nodes)
    return Graph(graph.inputs, (first, *moved), graph.outputs)
