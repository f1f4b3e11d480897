"""Graph to graph. Each pass keeps the meaning; the caller validates afterwards."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from stepstream.arrays import float32
from stepstream.errors import InputError
from stepstream.graph.ir import Array, Graph, Node


def drop_identities(graph: Graph) -> Graph:
    """Take out nodes that return their input: dropout, noise and linear activations outside training."""
    alias: dict[str, str] = {}
    kept = []
    for node in graph.nodes:
        sources = tuple(alias.get(i, i) for i in node.inputs)
        if node.op == "activation" and node.params["activation"]["name"] == "linear":
            alias[node.id] = sources[0]
        else:
            kept.append(replace(node, inputs=sources))
    return Graph(graph.inputs, tuple(kept), tuple((name, alias.get(i, i)) for name, i in graph.outputs))


def scale_input(graph: Graph, mean: Sequence[float], std: Sequence[float]) -> Graph:
    """Put (x - mean) / std behind every input; both (features,) over all inputs side by side, or one number for all."""
    arrays = []
    for label, values in (("mean", mean), ("std", std)):
        array = float32(values, f"{graph.features} numbers for {label} of scale")
        if array.ndim == 0:
            array = np.broadcast_to(array, (graph.features,))
        if array.shape != (graph.features,) or not np.isfinite(array).all():
            got = f"shape {array.shape}" if array.shape != (graph.features,) else f"{array[~np.isfinite(array)][0]}"
            raise InputError(f"scale: expected {graph.features} finite numbers for {label}, got {got}")
        arrays.append(array)
    if (arrays[1] <= 0).any():
        raise InputError(
            f"scale: expected standard deviations above zero, got {arrays[1].min()}; use 1 for a constant feature"
        )
    taken = {n.id for n in graph.nodes} | {name for name, _ in graph.inputs}
    moved: dict[str, str] = {}
    first, at = [], 0
    for name, spec in graph.inputs:
        if any(n.op == "embedding" and n.inputs[0] == name for n in graph.nodes):
            raise InputError("scale: the model takes indices, which cannot be scaled")
        own = "scale"
        while own in taken:
            own += "_"
        taken.add(own)
        weights = {k: a[at : at + spec.size].reshape(spec.shape) for k, a in zip(("mean", "std"), arrays, strict=True)}
        first.append(Node(own, "standardise", (name,), {}, weights, own, is_scale=True))
        moved[name] = own
        at += spec.size
    nodes = tuple(replace(n, inputs=tuple(moved.get(i, i) for i in n.inputs)) for n in graph.nodes)
    return Graph(graph.inputs, (*first, *nodes), tuple((n, moved.get(i, i)) for n, i in graph.outputs))


def input_scale(graph: Graph) -> tuple[Array, Array] | None:
    """The scale that stands at the input, whoever put it there: mean and std, float64 (features,) over all inputs side
    by side, or None.

    It is what `scale_input` makes, or a layer of the model that takes the input: Keras' Normalization, or Rescaling,
    whose factor and offset are told as mean and std, which then may be below 0. An input without one has 0 and 1.
    """
    nodes, at, found = drop_identities(graph).nodes, 0, False
    mean, std = np.zeros(graph.features), np.ones(graph.features)
    for name, spec in graph.inputs:
        columns = slice(at, at + spec.size)
        at += spec.size
        node = next((n for n in nodes if n.op in {"standardise", "scale"} and n.inputs == (name,)), None)
        if node is None:
            continue
        found = True
        w = {k: np.broadcast_to(v, spec.shape).reshape(-1).astype(np.float64) for k, v in node.weights.items()}
        if node.op == "standardise":
            mean[columns], std[columns] = w["mean"], w["std"]
        else:
            factor = np.where(w["factor"] == 0, 1, w["factor"])  # times 0 all samples are the same
            mean[columns], std[columns] = -w["offset"] / factor, 1 / factor
    return (mean, std) if found else None
