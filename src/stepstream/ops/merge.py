"""Element-wise sums, products and the like of several tensors of one sample, concatenation and dot product."""

from __future__ import annotations

from collections.abc import Callable
from functools import reduce
from typing import ClassVar

import numpy as np

from stepstream.errors import GraphError
from stepstream.graph.ir import Array, Node, TensorSpec
from stepstream.limits import MAX_RANK
from stepstream.ops.declared import FLAG, whole
from stepstream.ops.op import Op, Weights, joint_role, params_of, register


class _Elementwise(Op):
    """Two or more inputs of shapes that broadcast, as NumPy does, after ones are put in front of the shorter."""

    function: Callable[[Array, Array], Array]
    takes = ("x", "x*")

    def infer(self, node: Node, *xs: TensorSpec) -> TensorSpec:
        role = joint_role(node, *xs)
        try:
            return TensorSpec(np.broadcast_shapes(*(x.shape for x in xs)), role)
        except ValueError as e:
            raise GraphError(
                f"layer {node.layer!r}: expected shapes that fit each other, got {[x.shape for x in xs]}"
            ) from e

    def apply(self, node: Node, w: Weights, *xs: Array) -> Array:
        rank = max(x.ndim for x in xs)
        return reduce(type(self).function, (x.reshape(len(x), *[1] * (rank - x.ndim), *x.shape[1:]) for x in xs))


@register
class Add(_Elementwise):
    """x1 + x2 + ..."""

    name = "add"
    function = np.add


@register
class Subtract(_Elementwise):
    """x1 - x2."""

    name = "subtract"
    function = np.subtract


@register
class Multiply(_Elementwise):
    """x1 * x2 * ..."""

    name = "multiply"
    function = np.multiply


@register
class Maximum(_Elementwise):
    """The largest of each place."""

    name = "maximum"
    function = np.maximum


@register
class Minimum(_Elementwise):
    """The smallest of each place."""

    name = "minimum"
    function = np.minimum


@register
class Concatenate(Op):
    """params: axis, counted within a sample's shape from its end (-1 is the last)."""

    name = "concatenate"
    takes = ("x", "x*")
    params: ClassVar = {"axis": whole(-MAX_RANK, -1)}

    def infer(self, node: Node, *xs: TensorSpec) -> TensorSpec:
        (axis,) = params_of(node, "axis")
        shapes, rank = [x.shape for x in xs], len(xs[0].shape)
        if any(len(s) != rank for s in shapes) or not -rank <= axis < 0:
            raise GraphError(f"layer {node.layer!r}: expected {rank} axes in each, got {shapes}")
        at = axis + rank
        if len({(*s[:at], *s[at + 1 :]) for s in shapes}) != 1:
            raise GraphError(f"layer {node.layer!r}: expected shapes equal but for axis {axis}, got {shapes}")
        joined = (*shapes[0][:at], sum(s[at] for s in shapes), *shapes[0][at + 1 :])
        return TensorSpec(joined, joint_role(node, *xs))

    def apply(self, node: Node, w: Weights, *xs: Array) -> Array:
        return np.concatenate(xs, axis=node.params["axis"])


@register
class Dot(Op):
    """Sum of products of two vectors; params: normalize (both to unit length first, as Keras' cosine)."""

    name = "dot"
    takes = ("x", "x")
    params: ClassVar = {"normalize": FLAG}

    def infer(self, node: Node, *xs: TensorSpec) -> TensorSpec:
        params_of(node, "normalize")
        if len(xs) != 2 or len(xs[0].shape) != 1 or xs[0].shape != xs[1].shape:
            raise GraphError(f"layer {node.layer!r}: expected two vectors of one length, got {[x.shape for x in xs]}")
        return TensorSpec((1,), joint_role(node, *xs))

    def apply(self, node: Node, w: Weights, *xs: Array) -> Array:
        a, b = (_unit(x) for x in xs) if node.params["normalize"] else xs
        return (a * b).sum(axis=-1, keepdims=True)


def _unit(x: Array) -> Array:
    """x / |x|, with Keras' floor of 1e-12 under the squared length."""
    return x / np.sqrt(np.maximum((x * x).sum(axis=-1, keepdims=True), x.dtype.type(1e-12)))
