"""Shapes, roles, weights and order of a graph; run after every pass."""

from __future__ import annotations

import numpy as np

from stepstream.errors import GraphError
from stepstream.graph.ir import Graph, TensorSpec, TimeRole
from stepstream.ops import REGISTRY


def validate(graph: Graph) -> dict[str, TensorSpec]:
    """The spec of every input and node by id; raises GraphError naming the layer that breaks a rule."""
    specs = dict(graph.inputs)
    if len(specs) != len(graph.inputs) or not specs:
        raise GraphError("a graph needs at least one input, each with a name of its own")
    for node in graph.nodes:
        if node.id in specs:
            raise GraphError(f"two nodes are called {node.id!r}")
        if node.op not in REGISTRY:
            raise GraphError(f"layer {node.layer!r}: unknown op {node.op!r}")
        if len(node.inputs) != 1 or node.inputs[0] not in specs:
            raise GraphError(f"node {node.id!r}: expected one earlier node as input, got {node.inputs}")
        for name, weight in node.weights.items():
            if not np.isfinite(weight).all():
                raise GraphError(f"layer {node.layer!r}: weight {name!r} holds NaN or Inf")
        specs[node.id] = REGISTRY[node.op].infer(node, specs[node.inputs[0]])
    if not graph.outputs:
        raise GraphError("a graph needs an output")
    for name, source in graph.outputs:
        if source not in specs:
            raise GraphError(f"output {name!r}: no node {source!r}")
        if len(specs[source].shape) != 1:
            raise GraphError(f"output {name!r}: expected a vector per sample, got shape {specs[source].shape}")
        if specs[source].role is TimeRole.STATIC:
            raise GraphError(f"output {name!r} does not depend on the stream")
    return specs
