"""Masks: which samples count. True counts; every mask is bool, one value per sample."""

from __future__ import annotations

from functools import reduce
from typing import Any, ClassVar

import numpy as np

from stepstream.errors import GraphError
from stepstream.graph.ir import Array, Node, TensorSpec, TimeRole
from stepstream.ops.declared import number
from stepstream.ops.op import Op, Weights, joint_role, params_of, register


def expect_mask(node: Node, x: TensorSpec) -> None:
    if x.dtype != "bool" or x.shape:
        raise GraphError(f"layer {node.layer!r}: expected a mask, got {x}")


@register
class MaskDiffers(Op):
    """True where any value of the sample's vector differs from params: value. What Masking and mask_zero say."""

    name = "mask_differs"
    params: ClassVar = {"value": number()}

    def infer(self, node: Node, *xs: TensorSpec) -> TensorSpec:
        params_of(node, "value")
        (x,) = xs
        if len(x.shape) > 1 or x.role is not TimeRole.SEQUENCE:
            raise GraphError(f"layer {node.layer!r}: expected a sequence of vectors, got {x.role} of shape {x.shape}")
        return TensorSpec((), x.role, "bool")

    def apply(self, node: Node, w: Weights, *xs: Array) -> Array:
        (x,) = xs
        return (x.reshape(len(x), -1) != x.dtype.type(node.params["value"])).any(axis=1)


class _Logical(Op):
    """Masks joined; one that was not given does not count."""

    function: Any
    takes = ("mask", "mask*")

    def infer(self, node: Node, *xs: TensorSpec) -> TensorSpec:
        for x in xs:
            expect_mask(node, x)
        return TensorSpec((), joint_role(node, *xs), "bool")

    def apply(self, node: Node, w: Weights, *xs: Array | None) -> Any:
        given = [x for x in xs if x is not None]
        return reduce(type(self).function, given) if given else None


@register
class MaskAnd(_Logical):
    """True where all masks are."""

    name = "mask_and"
    function = np.logical_and


@register
class MaskOr(_Logical):
    """True where any mask is; one that was not given is true everywhere."""

    name = "mask_or"
    function = np.logical_or

    def apply(self, node: Node, w: Weights, *xs: Array | None) -> Any:
        return None if any(x is None for x in xs) else super().apply(node, w, *xs)


@register
class Where(Op):
    """inputs x, mask and perhaps y: x where the mask is true, else y, or params: value without a y."""

    name = "where"
    takes = ("x", "mask", "x?")
    params: ClassVar = {"value": number().or_missing()}

    def infer(self, node: Node, *xs: TensorSpec) -> TensorSpec:
        expect_mask(node, xs[1])
        if len(xs) == 2:
            params_of(node, "value")
        elif xs[2].shape != xs[0].shape:
            raise GraphError(f"layer {node.layer!r}: expected {xs[0].shape} for both, got {xs[2].shape}")
        return TensorSpec(xs[0].shape, joint_role(node, *xs))

    def apply(self, node: Node, w: Weights, *xs: Array | None) -> Array:
        x, mask = xs[0], xs[1]
        assert x is not None
        if mask is None:
            return x
        other = xs[2] if len(xs) == 3 else x.dtype.type(node.params["value"])
        assert other is not None
        return np.where(mask.reshape(-1, *[1] * (x.ndim - 1)), x, other)
