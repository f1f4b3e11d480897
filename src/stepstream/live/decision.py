"""What a trigger has decided: a part of the state, so that it is there again wherever the state is."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from stepstream.graph.ir import Array
from stepstream.graph.validate import validate
from stepstream.live.sliding import Recompute, States
from stepstream.live.state import Executor

if TYPE_CHECKING:
    from stepstream.model import Model


def decided(model: Model, executor: Executor, row: Array) -> int | None:
    """The class that was decided upon by the newest sample of a stream with this state row, or None.

    Under sliding(n) by recompute nothing of it is kept, and the model runs over the last samples once more.
    """
    if not model.decides:
        return None
    if isinstance(executor, Recompute):
        return named(executor.answers(row[None])[-1][0, 0]) if row[-1] > 0 else None
    trigger, at = model.graph.outputs[-1][1], 0
    for node, slot in executor.slots:
        if (node, slot.name) == (trigger, "decision"):
            break
        at += slot.size
    return named(row[at + (executor.oldest(row) if isinstance(executor, States) else 0)] - 1)


def wrong_decision(model: Model, slots: Mapping[tuple[str, str], Array]) -> str | None:
    """What is wrong with a trigger's part of a state, if anything: another class would be decided upon."""
    if not model.decides:
        return None
    trigger = next(n for n in model.graph.nodes if n.id == model.graph.outputs[-1][1])
    classes = max(2, validate(model.graph)[trigger.inputs[0]].size)
    most = {"streak": trigger.params["k"], "class": classes, "decision": classes}
    for name, limit in most.items():
        for value in slots[trigger.id, name].flat if (trigger.id, name) in slots else ():
            if not 0 <= value <= limit or value != int(value):
                return f"expected {name} of {trigger.layer!r} to be a whole number from 0 to {limit}, got {value}"
    return None


def named(decision: float) -> int | None:
    """As a trigger gives it, -1 for none."""
    return int(decision) if decision >= 0 else None


def decisions(answers: Array) -> Array:
    """The last column of answers (n, outputs) as int64 (n,), -1 for none, where nothing is remembered too."""
    last = answers[:, -1]
    return np.where(np.isnan(last), -1, last).astype(np.int64)
