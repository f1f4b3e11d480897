"""Calibration: logits scaled by how many samples were seen, and probabilities mapped along a rising line of pieces.

Everything is one float32 operation after the other, so that the kernel gives the bits that NumPy gives.
"""

from __future__ import annotations

from functools import reduce
from typing import ClassVar

import numpy as np

from stepstream.errors import GraphError
from stepstream.graph.ir import Array, Node, StateSlot, TensorSpec, TimeRole
from stepstream.limits import MAX_INDEX
from stepstream.ops.op import Inputs, Op, State, Weights, register


def place(count: Array, n: int) -> Array:
    """Which of n values by position belongs to the sample after `count` others; the last one to all that come later."""
    return np.clip(np.nan_to_num(count), 0, n - 1).astype(np.int64)


def counted(count: Array, n: int) -> Array:
    """The count with one more sample, which stops at n: from there on nothing depends on it."""
    return np.minimum(count + 1, count.dtype.type(n))


def expect_vector(node: Node, x: TensorSpec) -> None:
    if x.role is TimeRole.STATIC or len(x.shape) != 1 or not x.shape[0] or x.dtype != "float32":
        raise GraphError(f"layer {node.layer!r}: expected a vector that depends on the stream, got {x}")


@register
class Calibrate(Op):
    """y_t = x_t * scale[min(t, n) - 1], t: samples since the reset, masked ones too, from 1. weight: scale (n,).

    A temperature T is the scale 1 / T. Source: Guo et al. 2017 (arXiv:1706.04599), here one for each position.
    """

    name = "calibrate"
    weights: ClassVar = ("scale",)
    every_sample = True

    def infer(self, node: Node, *xs: TensorSpec) -> TensorSpec:
        (x,) = xs
        expect_vector(node, x)
        scale = node.weights.get("scale")
        if scale is None or scale.ndim != 1 or not 1 <= len(scale) <= MAX_INDEX:
            got = "none" if scale is None else scale.shape
            raise GraphError(f"layer {node.layer!r}: expected 1 to {MAX_INDEX} scales, (n,), got {got}")
        if not (scale > 0).all():
            raise GraphError(f"layer {node.layer!r}: expected scales above 0, got {scale.min()}")
        return x

    def slots(self, node: Node) -> tuple[StateSlot, ...]:
        return (StateSlot("count", (1,)),)

    def step(self, node: Node, w: Weights, xs: Inputs, state: State) -> tuple[Array, State]:
        """x (streams, units), count (streams, 1)."""
        (x,), (count,), n = xs, state, len(w["scale"])
        assert x is not None
        return x * w["scale"][place(count, n)], (counted(count, n),)

    def whole(self, node: Node, w: Weights, xs: Inputs, state: State) -> tuple[Array, State]:
        """x (streams, time, units)."""
        (x,), (count,), n = xs, state, len(w["scale"])
        assert x is not None
        time = x.shape[1]
        counts = count + np.arange(time, dtype=x.dtype)  # (streams, time)
        return x * w["scale"][place(counts, n)][..., None], (np.minimum(count + x.dtype.type(time), x.dtype.type(n)),)


@register
class Isotonic(Op):
    """Probabilities along straight pieces between knots, level outside. weights: x, y (knots,), both rising.

    Several units, the classes of a softmax, go each by itself and are then divided by their sum; where all are 0 they
    become equal. Source: Zadrozny & Elkan 2002, Transforming classifier scores into accurate multiclass probability
    estimates.
    """

    name = "isotonic"
    weights: ClassVar = ("x", "y")

    def infer(self, node: Node, *xs: TensorSpec) -> TensorSpec:
        (p,) = xs
        expect_vector(node, p)
        x, y = node.weights.get("x"), node.weights.get("y")
        if x is None or y is None or x.ndim != 1 or x.shape != y.shape or not 2 <= len(x) <= MAX_INDEX:
            got = [None if k is None else k.shape for k in (x, y)]
            raise GraphError(f"layer {node.layer!r}: expected knots x and y, 2 or more of each, got {got}")
        if not (np.diff(x) > 0).all():
            raise GraphError(f"layer {node.layer!r}: expected knots whose x rise, got {x[:8].tolist()}")
        if not (np.diff(y) >= 0).all() or y[0] < 0 or y[-1] > 1:
            raise GraphError(f"layer {node.layer!r}: expected knots whose y rise within 0 to 1, got {y[:8].tolist()}")
        return p

    def apply(self, node: Node, w: Weights, *xs: Array) -> Array:
        (p,) = xs
        x, y = w["x"], w["y"]
        p = np.clip(p, x[0], x[-1])
        i = np.clip(np.searchsorted(x, p, side="right") - 1, 0, len(x) - 2)
        mapped = y[i] + (p - x[i]) / (x[i + 1] - x[i]) * (y[i + 1] - y[i])
        units = p.shape[-1]
        if units == 1:
            return mapped
        total = reduce(np.add, (mapped[..., j : j + 1] for j in range(units)))  # in this order
        return np.where(total == 0, p.dtype.type(1) / p.dtype.type(units), mapped / total)
