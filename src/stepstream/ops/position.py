"""A window of fixed length, joined into one vector (Flatten), as a sum that grows sample by sample.

Flatten -> Dense over n samples is act(b + sum_s W_s h_s): W_s are the rows of the kernel that belong to sample s.
"""

from __future__ import annotations

import math
from typing import ClassVar

import numpy as np

from stepstream.errors import GraphError
from stepstream.graph.ir import Array, Node, StateSlot, TensorSpec, TimeRole
from stepstream.limits import MAX_INDEX
from stepstream.ops.declared import whole
from stepstream.ops.op import Inputs, Op, State, Weights, params_of, register


@register
class Position(Op):
    """How many samples came before this one, 0 to n - 1. params: n. The input only says that a sample is there."""

    name = "position"
    params: ClassVar = {"n": whole(1, MAX_INDEX)}

    def infer(self, node: Node, *xs: TensorSpec) -> TensorSpec:
        (n,) = params_of(node, "n")
        if len(xs) != 1 or xs[0].role is not TimeRole.SEQUENCE or not 1 <= n <= MAX_INDEX:
            raise GraphError(f"layer {node.layer!r}: expected a sequence of 1 to {MAX_INDEX} samples, got {n}")
        return TensorSpec((), TimeRole.SEQUENCE)

    def slots(self, node: Node) -> tuple[StateSlot, ...]:
        return (StateSlot("count", (1,)),)

    def step(self, node: Node, w: Weights, xs: Inputs, state: State) -> tuple[Array, State]:
        return state[0][:, 0], (state[0] + 1,)

    def whole(self, node: Node, w: Weights, xs: Inputs, state: State) -> tuple[Array, State]:
        assert xs[0] is not None
        steps = np.arange(xs[0].shape[1], dtype=state[0].dtype)
        return state[0] + steps, (state[0] + state[0].dtype.type(len(steps)),)


@register
class PositionDense(Op):
    """The sum so far of h_s W_s, and the bias. inputs: h (features,), position; weights: kernel (n, features, units).

    weight bias (n, units): what to add after each sample, as the samples to come have a share of their own in it.
    """

    name = "position_dense"
    takes = ("x", "x")
    weights = ("kernel", "bias")

    def infer(self, node: Node, *xs: TensorSpec) -> TensorSpec:
        h, position = xs
        kernel = node.weights.get("kernel")
        if h.role is not TimeRole.SEQUENCE or position.role is not TimeRole.SEQUENCE:
            raise GraphError(f"layer {node.layer!r}: expected sequences, got {h.role}, {position.role}")
        if kernel is None or kernel.ndim != 3 or h.shape != kernel.shape[1:2] or position.shape:
            got = None if kernel is None else kernel.shape
            raise GraphError(f"layer {node.layer!r}: expected a kernel (n, {h.shape}, units), got {got}")
        self.expect(node, "bias", (kernel.shape[0], kernel.shape[2]))
        return TensorSpec(kernel.shape[2:], TimeRole.LATEST)

    def slots(self, node: Node) -> tuple[StateSlot, ...]:
        return (StateSlot("sum", node.weights["kernel"].shape[2:]),)

    def multiply_adds(self, node: Node, *xs: TensorSpec) -> int:
        return math.prod(node.weights["kernel"].shape[1:])

    def step(self, node: Node, w: Weights, xs: Inputs, state: State) -> tuple[Array, State]:
        """h (streams, features), position (streams,), sum (streams, units); NaN beyond the window."""
        h, position = xs
        assert h is not None
        assert position is not None
        n = len(w["kernel"])
        index = np.clip(np.nan_to_num(position), 0, n - 1).astype(np.int64)
        term = np.matmul(h[:, None], w["kernel"][index])[:, 0]  # a vector-matrix product for each stream
        total = state[0] + np.where((position == index)[:, None], term, term.dtype.type(np.nan))
        return total + w["bias"][index], (total,)

    def whole(self, node: Node, w: Weights, xs: Inputs, state: State) -> tuple[Array, State]:
        h, position = xs
        assert h is not None
        assert position is not None
        y = state[0]
        for t in range(h.shape[1]):
            y, state = self.step(node, w, (h[:, t], position[:, t]), state)
        return y, state


@register
class Flatten(Op):
    """All samples of a window side by side, params: n. Never steps: a pass takes it apart, or it blocks."""

    name = "flatten"
    steps = False
    params: ClassVar = {"n": whole(1, MAX_INDEX)}

    def infer(self, node: Node, *xs: TensorSpec) -> TensorSpec:
        (n,) = params_of(node, "n")
        (x,) = xs
        if x.role is not TimeRole.SEQUENCE:
            raise GraphError(f"layer {node.layer!r}: expected a sequence, got {x.role}")
        return TensorSpec((n * x.size,), TimeRole.LATEST)
