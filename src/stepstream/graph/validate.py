"""Shapes, roles, weights and order of a graph; run after every pass."""

from __future__ import annotations

import numpy as np

from stepstream.errors import GraphError
from stepstream.graph.ir import MASK, Graph, Node, TensorSpec, TimeRole, state_ref
from stepstream.limits import MAX_VALUES
from stepstream.ops import REGISTRY
from stepstream.ops.declared import check


def validate(graph: Graph) -> dict[str, TensorSpec]:
    """The spec of every input, node and state by id; raises GraphError naming the layer that breaks a rule."""
    specs = {MASK: TensorSpec((), TimeRole.SEQUENCE, "bool"), **dict(graph.inputs)}
    if len(specs) != len(graph.inputs) + 1 or not graph.inputs:
        raise GraphError("a graph needs at least one input, each with a name of its own")
    for node in graph.nodes:
        specs |= infer(node, specs)
    values = sum(spec.size for spec in specs.values())
    if values > MAX_VALUES:
        raise GraphError(f"expected at most {MAX_VALUES} values for one sample in all layers together, got {values}")
    if not graph.outputs:
        raise GraphError("a graph needs an output")
    for name, source in graph.outputs:
        if source not in specs:
            raise GraphError(f"output {name!r}: no node {source!r}")
        if len(specs[source].shape) != 1 or specs[source].dtype != "float32":
            raise GraphError(f"output {name!r}: expected a vector per sample, got shape {specs[source].shape}")
    if all(specs[source].role is TimeRole.STATIC for _, source in graph.outputs):
        raise GraphError("no output depends on the stream")
    return specs


def infer(node: Node, specs: dict[str, TensorSpec]) -> dict[str, TensorSpec]:
    """What one node adds to the specs: its output, and its state slots as `latest` tensors."""
    if node.id in specs:
        raise GraphError(f"two nodes are called {node.id!r}")
    op = REGISTRY.get(node.op)
    if op is None:
        raise GraphError(f"layer {node.layer!r}: unknown op {node.op!r}")
    if not node.inputs or any(i not in specs for i in node.inputs):
        raise GraphError(f"node {node.id!r}: expected earlier nodes as inputs, got {node.inputs}")
    for name, weight in node.weights.items():
        if not np.isfinite(weight).all():
            raise GraphError(f"layer {node.layer!r}: weight {name!r} holds NaN or Inf")
    xs = [specs[i] for i in node.inputs]
    check(op, node, xs)
    found = {node.id: op.infer(node, *xs)}
    for slot in op.slots(node):
        found[state_ref(node.id, slot.name)] = TensorSpec(slot.shape, TimeRole.LATEST)
    if taken := [name for name in found if name in specs]:
        raise GraphError(f"node {node.id!r}: expected a name for its state that nobody has, got {taken[0]!r}")
    values = max(spec.size for spec in found.values())
    if values > MAX_VALUES:
        raise GraphError(f"layer {node.layer!r}: expected at most {MAX_VALUES} values for one sample, got {values}")
    return found
