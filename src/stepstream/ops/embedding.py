"""Embedding: an index per sample to a vector."""

from __future__ import annotations

import numpy as np

from stepstream.errors import GraphError
from stepstream.graph.ir import Array, Node, TensorSpec
from stepstream.ops.op import Op, Weights, register


@register
class Embedding(Op):
    """weights: table (indices, features). The input is one index a sample, as a float that is a whole number."""

    name = "embedding"

    def infer(self, node: Node, x: TensorSpec) -> TensorSpec:
        table = node.weights.get("table")
        if x.shape != (1,) or table is None or table.ndim != 2:
            got = None if table is None else table.shape
            raise GraphError(
                f"layer {node.layer!r}: expected one index per sample and a table (indices, features), "
                f"got samples {x.shape} and a table {got}"
            )
        if table.shape[0] > 2**24:
            raise GraphError(f"layer {node.layer!r}: float32 holds indices up to 2**24, got {table.shape[0]}")
        return TensorSpec((table.shape[1],), x.role)

    def apply(self, node: Node, w: Weights, x: Array) -> Array:
        index = np.nan_to_num(x[..., 0], nan=0, posinf=0, neginf=0).astype(np.int64)
        y = w["table"][np.clip(index, 0, len(w["table"]) - 1)]
        valid = (x[..., 0] == index) & (index >= 0) & (index < len(w["table"]))
        return np.where(valid[..., None], y, np.asarray(np.nan, y.dtype))
