"""States of one model for another that differs from it in weights, calibration or trigger alone."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from stepstream.errors import InputError
from stepstream.graph.attach import ATTACHED, attached_to, taken_off
from stepstream.graph.ir import Array, Graph, Node, StateSlot
from stepstream.live.sliding import Recompute, States
from stepstream.live.stream import Stream


def bare(graph: Graph) -> Graph:
    """Without calibration and trigger; as it is where it can have none."""
    try:
        return taken_off(graph)[0]
    except InputError:
        return graph


def is_bare(graph: Graph) -> bool:
    """Whether it has neither."""
    attached = attached_to(graph)
    return attached.calibration is attached.trigger is None


def adopted(old: Stream, new: Stream, ages: Array, rows: Array) -> Array:
    """State rows under one stream's rules -> under the other's; ages int64 (streams,), -1 where nobody knows.

    The network's states stay. A count becomes what it would be by now: it is the age, as far as it goes. What a trigger
    has seen and decided stays where there was one before; else it begins with the next sample.
    """
    if isinstance(new._executor, Recompute):
        return rows  # samples alone
    theirs = {(node.op, slot.name): rows[:, at] for node, slot, at in _slots(old) if node.op in ATTACHED}
    network = (rows[:, at] for node, _, at in _slots(old) if node.op not in ATTACHED)
    parts = []
    for node, slot, at in _slots(new):
        if node.op not in ATTACHED:
            parts.append(next(network))
            continue
        before = theirs.get((node.op, slot.name), np.zeros((len(rows), at.stop - at.start), rows.dtype))
        if slot.name == "count":
            seen = np.where((ages < 0)[:, None], before, _seen(new, ages))
            before = np.minimum(seen, len(node.weights["scale" if node.op == "calibrate" else "rule"]))
        elif slot.name == "streak":
            before = np.minimum(before, node.params["k"])
        parts.append(before)
    if isinstance(new._executor, States):
        parts.append(rows[:, -1:])  # the count of the ring
    return np.concatenate(parts, axis=1, dtype=rows.dtype)


def _slots(rules: Stream) -> Iterator[tuple[Node, StateSlot, slice]]:
    """Node, slot and columns of each part of a row that a node owns."""
    nodes, at = {n.id: n for n in rules.model.graph.nodes}, 0
    for name, slot in rules._executor.slots:
        node = nodes.get(name)
        if node is not None:
            yield node, slot, slice(at, at + slot.size)
        at += slot.size


def _seen(rules: Stream, ages: Array) -> Array:
    """Samples that each state of a row has seen: (streams, 1), or a ring's (streams, states)."""
    executor = rules._executor
    if not isinstance(executor, States):
        return ages[:, None]
    different, which = np.unique(np.maximum(ages, 0), return_inverse=True)
    return np.stack([executor.ages(age) for age in different.tolist()])[which]
