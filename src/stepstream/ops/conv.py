"""Small convolutional networks over one sample: convolution and pooling along a sample's own axes, channels last."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import ClassVar

import numpy as np

from stepstream.errors import GraphError
from stepstream.graph.ir import Array, Node, TensorSpec
from stepstream.limits import MAX_VALUES
from stepstream.ops.declared import one_of, several, whole
from stepstream.ops.dense import project
from stepstream.ops.op import Op, Weights, params_of, register


def _geometry(node: Node, shape: Sequence[int], size: Sequence[int], dilation: Sequence[int]) -> list[tuple[int, ...]]:
    """(output length, padding before, padding after) of each axis but the last; "same" as TensorFlow counts it."""
    strides, padding = params_of(node, "strides", "padding")
    spatial = shape[:-1]
    if (
        not len(spatial) == len(size) == len(strides) == len(dilation)
        or min((*size, *strides, *dilation), default=0) < 1
    ):
        raise GraphError(
            f"layer {node.layer!r}: expected {len(spatial)} sizes and strides from 1, got {size}, {strides}"
        )
    out: list[tuple[int, ...]] = []
    for length, k, stride, spread in zip(spatial, size, strides, dilation, strict=True):
        reach = (k - 1) * spread + 1
        steps = math.ceil(length / stride) if padding == "same" else (length - reach) // stride + 1
        pad = max((steps - 1) * stride + reach - length, 0) if padding == "same" else 0
        if steps < 1:
            raise GraphError(f"layer {node.layer!r}: expected at least {reach} values along each axis, got {spatial}")
        out.append((steps, pad // 2, pad - pad // 2))
    padded = shape[-1] * math.prod(n + a + b for n, (_, a, b) in zip(spatial, out, strict=True))
    patches = shape[-1] * math.prod(k * steps for k, (steps, *_) in zip(size, out, strict=True))
    if max(padded, patches) > MAX_VALUES:
        raise GraphError(f"layer {node.layer!r}: expected at most {MAX_VALUES} values to work on, got more")
    return out


def patches(node: Node, x: Array, size: Sequence[int], dilation: Sequence[int], fill: float) -> Array:
    """x (n, *spatial, channels) -> (n, *out, channels, *size), a view on the padded x."""
    geometry = _geometry(node, x.shape[1:], size, dilation)
    x = np.pad(x, [(0, 0), *((a, b) for _, a, b in geometry), (0, 0)], constant_values=x.dtype.type(fill))
    reach = [(k - 1) * d + 1 for k, d in zip(size, dilation, strict=True)]
    windows = np.lib.stride_tricks.sliding_window_view(x, reach, axis=tuple(range(1, x.ndim - 1)))
    steps = [slice(0, (out - 1) * s + 1, s) for (out, *_), s in zip(geometry, node.params["strides"], strict=True)]
    return windows[(slice(None), *steps, slice(None), *(slice(None, None, d) for d in dilation))]


_WHOLES = several(whole())
_PADDING = one_of("valid", "same")


@register
class Conv(Op):
    """params: strides, padding ("valid", "same"), dilation, groups. A cross-correlation, as in all frameworks.

    weights: kernel (*size, channels / groups, filters), bias (filters,).
    """

    name = "conv"
    params: ClassVar = {"strides": _WHOLES, "padding": _PADDING, "dilation": _WHOLES, "groups": whole()}
    weights = ("kernel", "bias")

    def infer(self, node: Node, *xs: TensorSpec) -> TensorSpec:
        dilation, groups = params_of(node, "dilation", "groups")
        (x,) = xs
        kernel = node.weights.get("kernel")
        fits = (
            kernel is not None
            and len(x.shape) == kernel.ndim - 1 >= 2
            and groups >= 1
            and x.shape[-1] == kernel.shape[-2] * groups
            and kernel.shape[-1] % groups == 0
        )
        if kernel is None or not fits:
            got = None if kernel is None else kernel.shape
            raise GraphError(f"layer {node.layer!r}: expected a kernel for samples {x.shape}, got {got}")
        if "bias" in node.weights:
            self.expect(node, "bias", kernel.shape[-1:])
        geometry = _geometry(node, x.shape, kernel.shape[:-2], dilation)
        return TensorSpec((*(out for out, *_ in geometry), kernel.shape[-1]), x.role)

    def multiply_adds(self, node: Node, *xs: TensorSpec) -> int:
        out = self.infer(node, *xs)
        return node.weights["kernel"].size * math.prod(out.shape[:-1])

    def apply(self, node: Node, w: Weights, *xs: Array) -> Array:
        (x,) = xs
        kernel, groups = w["kernel"], node.params["groups"]
        columns = patches(node, x, kernel.shape[:-2], node.params["dilation"], 0)  # (n, *out, channels, *size)
        rank = kernel.ndim - 2
        columns = np.moveaxis(columns, rank + 1, -1)  # (n, *out, *size, channels)
        lead, per_group, filters = columns.shape[: rank + 1], kernel.shape[-2], kernel.shape[-1] // groups
        parts = []
        for g in range(groups):
            own = columns[..., g * per_group : (g + 1) * per_group].reshape(*lead, -1)
            parts.append(project(own, kernel[..., g * filters : (g + 1) * filters].reshape(-1, filters)))
        y = np.concatenate(parts, axis=-1)
        return y + w["bias"] if "bias" in w else y


@register
class Pool(Op):
    """params: kind ("max", "average"), size, strides, padding. An average counts no padding."""

    name = "pool"
    params: ClassVar = {
        "kind": one_of("max", "average"),
        "size": _WHOLES,
        "strides": _WHOLES,
        "padding": _PADDING,
    }

    def infer(self, node: Node, *xs: TensorSpec) -> TensorSpec:
        kind, size = params_of(node, "kind", "size")
        (x,) = xs
        if kind not in {"max", "average"} or len(x.shape) < 2:
            raise GraphError(f"layer {node.layer!r}: expected samples with axes to pool over, got {x.shape} ({kind})")
        geometry = _geometry(node, x.shape, size, [1] * len(size))
        return TensorSpec((*(out for out, *_ in geometry), x.shape[-1]), x.role)

    def work(self, node: Node, *xs: TensorSpec) -> int:
        return super().work(node, *xs) + self.infer(node, *xs).size * math.prod(node.params["size"])

    def apply(self, node: Node, w: Weights, *xs: Array) -> Array:
        (x,) = xs
        size, ones = node.params["size"], [1] * len(node.params["size"])
        axes = tuple(range(-len(size), 0))
        if node.params["kind"] == "max":
            return patches(node, x, size, ones, -np.inf).max(axis=axes)
        count = patches(node, np.ones_like(x[:1]), size, ones, 0).sum(axis=axes)
        return patches(node, x, size, ones, 0).sum(axis=axes) / count


@register
class Pad(Op):
    """Zeros around a sample. params: padding, (before, after) of each axis of the sample."""

    name = "pad"
    params: ClassVar = {"padding": several(several(whole(0), 2))}

    def infer(self, node: Node, *xs: TensorSpec) -> TensorSpec:
        (padding,) = params_of(node, "padding")
        (x,) = xs
        if len(padding) != len(x.shape) or any(p < 0 for pair in padding for p in pair):
            raise GraphError(f"layer {node.layer!r}: expected a padding for each axis of {x.shape}, got {padding}")
        return TensorSpec(tuple(a + sum(p) for a, p in zip(x.shape, padding, strict=True)), x.role)

    def apply(self, node: Node, w: Weights, *xs: Array) -> Array:
        return np.pad(xs[0], [(0, 0), *node.params["padding"]])
