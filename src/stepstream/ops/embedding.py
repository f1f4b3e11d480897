"""Embedding: an index to a vector."""

from __future__ import annotations

import numpy as np

from stepstream.errors import GraphError
from stepstream.graph.ir import Array, Node, TensorSpec
from stepstream.limits import MAX_INDEX
from stepstream.ops.op import Op, Weights, register


@register
class Embedding(Op):
    """weights: table (indices, features). The input holds indices, floats that are whole numbers; others give NaN."""

    name = "embedding"
    weights = ("table",)

    def infer(self, node: Node, *xs: TensorSpec) -> TensorSpec:
        table = node.weights.get("table")
        (x,) = xs
        if table is None or table.ndim != 2:
            got = None if table is None else table.shape
            raise GraphError(f"layer {node.layer!r}: expected a table (indices, features), got {got}")
        if table.shape[0] > MAX_INDEX:
            raise GraphError(f"layer {node.layer!r}: float32 holds indices up to {MAX_INDEX}, got {table.shape[0]}")
        return TensorSpec((*x.shape, table.shape[1]), x.role)

    def apply(self, node: Node, w: Weights, *xs: Array) -> Array:
        (x,) = xs
        index = np.nan_to_num(x, nan=0, posinf=0, neginf=0).astype(np.int64)
        y = w["table"][np.clip(index, 0, len(w["table"]) - 1)]
        valid = (x == index) & (index >= 0) & (index < len(w["table"]))
        return np.where(valid[..., None], y, y.dtype.type(np.nan))
