"""Other arrangements of one sample's values."""

from __future__ import annotations

import math
from typing import ClassVar

import numpy as np

from stepstream.errors import GraphError
from stepstream.graph.ir import Array, Node, TensorSpec, TimeRole
from stepstream.ops.declared import several, whole
from stepstream.ops.op import Op, Weights, params_of, register


@register
class Reshape(Op):
    """params: shape, of the sample; the values keep their row-major order."""

    name = "reshape"
    params: ClassVar = {"shape": several(whole())}

    def infer(self, node: Node, *xs: TensorSpec) -> TensorSpec:
        (shape,) = params_of(node, "shape")
        (x,) = xs
        if math.prod(shape) != x.size or min(shape, default=1) < 1:
            raise GraphError(f"layer {node.layer!r}: expected {x.size} values, as in {x.shape}, got {tuple(shape)}")
        return TensorSpec(tuple(shape), x.role)

    def apply(self, node: Node, w: Weights, *xs: Array) -> Array:
        (x,) = xs
        return x.reshape(len(x), *node.params["shape"])


@register
class Transpose(Op):
    """params: axes, the old axis of the sample for each new one, from 0."""

    name = "transpose"
    params: ClassVar = {"axes": several(whole(0))}

    def infer(self, node: Node, *xs: TensorSpec) -> TensorSpec:
        (axes,) = params_of(node, "axes")
        (x,) = xs
        if sorted(axes) != list(range(len(x.shape))):
            raise GraphError(f"layer {node.layer!r}: expected an order of {len(x.shape)} axes, got {list(axes)}")
        return TensorSpec(tuple(x.shape[a] for a in axes), x.role)

    def apply(self, node: Node, w: Weights, *xs: Array) -> Array:
        (x,) = xs
        return np.ascontiguousarray(x.transpose(0, *(a + 1 for a in node.params["axes"])))


@register
class Latest(Op):
    """The values of the sample at hand side by side, as the value so far: Flatten over a window of one sample."""

    name = "latest"

    def infer(self, node: Node, *xs: TensorSpec) -> TensorSpec:
        (x,) = xs
        if x.role is not TimeRole.SEQUENCE:
            raise GraphError(f"layer {node.layer!r}: expected a sequence, got {x.role}")
        return TensorSpec((x.size,), TimeRole.LATEST)

    def apply(self, node: Node, w: Weights, *xs: Array) -> Array:
        (x,) = xs
        return x.reshape(len(x), -1)


@register
class Repeat(Op):
    """A value without time, once for every sample of the stream that is the second input."""

    name = "repeat"
    takes = ("x", "x")

    def infer(self, node: Node, *xs: TensorSpec) -> TensorSpec:
        x, stream = xs
        if x.role is not TimeRole.STATIC or stream.role is not TimeRole.SEQUENCE:
            raise GraphError(
                f"layer {node.layer!r}: expected a static value and a sequence, got {x.role}, {stream.role}"
            )
        return TensorSpec(x.shape, TimeRole.SEQUENCE)

    def apply(self, node: Node, w: Weights, *xs: Array) -> Array:
        return xs[0]
