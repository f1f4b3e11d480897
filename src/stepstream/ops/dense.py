"""Affine maps of one sample: dense, and the matrix product that all ops share."""

from __future__ import annotations

import math
from typing import ClassVar

import numpy as np

from stepstream.errors import GraphError
from stepstream.graph.ir import Array, Node, TensorSpec
from stepstream.ops.activation import activate, activated_shape
from stepstream.ops.declared import ACTIVATION, whole
from stepstream.ops.op import Op, Weights, params_of, register


def project(x: Array, w: Array) -> Array:
    """x (..., i) times w (i, o) -> (..., o), each row by a vector-matrix product of its own.

    One matrix product for all rows gives other last bits for other numbers of rows.
    """
    rows = np.ascontiguousarray(x).reshape(-1, 1, x.shape[-1])
    return np.matmul(rows, w).reshape(*x.shape[:-1], w.shape[1])


@register
class Dense(Op):
    """y = activation(x W + b). params: units, activation; weights: kernel (features, units), bias (units,)."""

    name = "dense"
    params: ClassVar = {"units": whole(), "activation": ACTIVATION}
    weights = ("kernel", "bias")

    def infer(self, node: Node, *xs: TensorSpec) -> TensorSpec:
        (x,) = xs
        units, activation = params_of(node, "units", "activation")
        if not x.shape:
            raise GraphError(f"layer {node.layer!r}: expected a vector per sample, got a single number")
        self.expect(node, "kernel", (x.shape[-1], units))
        if "bias" in node.weights:
            self.expect(node, "bias", (units,))
        return TensorSpec(activated_shape(node, activation, (*x.shape[:-1], units)), x.role)

    def multiply_adds(self, node: Node, *xs: TensorSpec) -> int:
        return node.weights["kernel"].size * math.prod(xs[0].shape[:-1])

    def apply(self, node: Node, w: Weights, *xs: Array) -> Array:
        z = project(xs[0], w["kernel"])
        return activate(node.params["activation"], z + w["bias"] if "bias" in w else z)
