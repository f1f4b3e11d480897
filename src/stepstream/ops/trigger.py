"""When to decide: a rule over the probabilities so far. The probabilities themselves go on as they are."""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from stepstream.classes import as_classes
from stepstream.errors import GraphError
from stepstream.graph.ir import Array, Node, StateSlot, TensorSpec
from stepstream.limits import MAX_INDEX
from stepstream.ops.calibrate import counted, expect_vector, place
from stepstream.ops.declared import FLAG, whole
from stepstream.ops.op import Inputs, Op, State, Weights, register


@register
class Trigger(Op):
    """The class that is decided upon, (1,), or -1. params: k, latched; weight: rule (n, 3): a, b, c of each position.

    s_t = a[t] p1 + b[t] (p1 - p2) + c[t], t = min(seen, n); p1, p2: the largest and the second largest probability; one
    unit p counts as the classes (1 - p, p); seen: samples since the reset, masked ones too. s_t > 0 for k samples in a
    row with the same class on top decides for it. latched: the first decision stays until the reset; else it holds as
    long as its condition does. Of equal probabilities the first is on top. What is NaN decides nothing.
    Source of the form: Mori et al. 2017, Early classification of time series by simultaneously optimizing the accuracy
    and earliness.
    """

    name = "trigger"
    params: ClassVar = {"k": whole(1, MAX_INDEX), "latched": FLAG}
    weights: ClassVar = ("rule",)
    every_sample = True

    def infer(self, node: Node, *xs: TensorSpec) -> TensorSpec:
        (p,) = xs
        expect_vector(node, p)
        rule = node.weights.get("rule")
        if rule is None or rule.ndim != 2 or rule.shape[1] != 3 or not 1 <= len(rule) <= MAX_INDEX:
            got = "none" if rule is None else rule.shape
            raise GraphError(f"layer {node.layer!r}: expected a rule (n, 3), n from 1 to {MAX_INDEX}, got {got}")
        return TensorSpec((1,), p.role)

    def slots(self, node: Node) -> tuple[StateSlot, ...]:
        """Classes are counted from 1 here: 0 is none, as a state begins."""
        return tuple(StateSlot(name, (1,)) for name in ("count", "streak", "class", "decision"))

    def step(self, node: Node, w: Weights, xs: Inputs, state: State) -> tuple[Array, State]:
        """p (streams, units), state slots (streams, 1)."""
        (p,), (count, streak, last, decision), rule, k = xs, state, w["rule"], node.params["k"]
        assert p is not None
        p = as_classes(p)
        top = p.argmax(axis=1)[:, None]
        first = np.take_along_axis(p, top, axis=1)
        rest = p.copy()
        np.put_along_axis(rest, top, -np.inf, axis=1)
        second = rest.max(axis=1, keepdims=True)
        a, b, c = (rule[place(count, len(rule)), column] for column in range(3))  # (streams, 1) each
        fires = a * first + b * (first - second) + c > 0
        fires &= ~np.isnan(p).any(axis=1, keepdims=True)
        name = np.where(fires, top + 1, 0).astype(p.dtype)
        longer = np.minimum(np.where(name == last, streak + 1, 1), k)
        streak = np.where(fires, longer, 0).astype(p.dtype)
        now = np.where(streak >= k, name, 0).astype(p.dtype)
        if node.params["latched"]:
            now = np.where(decision > 0, decision, now)
        return now - 1, (counted(count, len(rule)), streak, name, now)

    def whole(self, node: Node, w: Weights, xs: Inputs, state: State) -> tuple[Array, State]:
        """p (streams, time, units) -> (streams, time, 1)."""
        (p,) = xs
        assert p is not None
        y = np.zeros((len(p), p.shape[1], 1), p.dtype)
        for t in range(p.shape[1]):
            y[:, t], state = self.step(node, w, (p[:, t],), state)
        return y, state
