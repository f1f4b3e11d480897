"""What an Engine answers."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from stepstream.graph.ir import Array
from stepstream.kernel.keys import Key
from stepstream.live.decision import named
from stepstream.live.stream import Output

if TYPE_CHECKING:
    from stepstream.model import Model


class Result(NamedTuple):
    """The answer to one sample of one stream.

    value: as `Stream.step` returns it; None for a repeated sample whose answer is no longer remembered. age: samples
    since the stream's last reset, with this one; None where nobody knows. seq: as it was given. complete: whether the
    answer has seen a whole window; beyond_training_length: whether it has seen, or may have seen, more samples than
    the model was trained on. duplicate: the number had been there before, and nothing has changed. gap: how many
    numbers are missing between the one before and this one. decision: the class that the model's trigger has decided
    upon, None where it has not, or there is none.
    """

    value: Output | None
    key: Key
    age: int | None
    seq: int | None
    complete: bool
    beyond_training_length: bool
    duplicate: bool
    gap: int = 0
    decision: int | None = None


@dataclass(frozen=True, eq=False)
class Results:
    """The answers to many samples, in the order of the call; each array has one entry for each sample.

    values: float32 (samples, outputs), several outputs side by side; NaN where there is none: for bad samples, and for
    repeated ones whose answers are no longer remembered. age, seq: int64, -1 for none. complete,
    beyond_training_length, duplicate: bool. gap: int64. accepted: bool, false for bad samples alone, and reasons says
    why, by their place in the call. decision: int64, the class that the model's trigger has decided upon, -1 for none.
    """

    values: Array
    age: Array
    seq: Array
    complete: Array
    beyond_training_length: Array
    duplicate: Array
    gap: Array
    accepted: Array
    decision: Array
    reasons: dict[int, str] = field(default_factory=dict)

    def put(self, places: Array, others: Results) -> None:
        """The last answers of others are those at places (m,), their reasons too."""
        m = len(places)
        for name in ("values", "age", "complete", "beyond_training_length", "duplicate", "gap", "accepted", "decision"):
            getattr(self, name)[places] = getattr(others, name)[len(others) - m :]
        for i, why in others.reasons.items():
            self.reasons[int(places[i - (len(others) - m)])] = why

    def __len__(self) -> int:
        return len(self.values)


class StreamInfo(NamedTuple):
    """One stream as it is. time: of its last sample, seconds since 1970; seq: its last number; in_memory: or in the
    store; used: when it was last used, by the engine's clock.
    """

    key: Key
    age: int | None
    samples: int
    time: float | None
    seq: int | None
    in_memory: bool
    used: float


def result_of(model: Model, key: Key, seq: int | None, answers: Results, i: int = 0) -> Result:
    """The answer to sample i of a call."""
    there = not math.isnan(answers.values[i, 0])
    age = int(answers.age[i])
    return Result(
        value_of(model, answers.values[i]) if there else None,
        key,
        None if age < 0 else age,
        None if seq is None else int(seq),
        bool(answers.complete[i]),
        bool(answers.beyond_training_length[i]),
        bool(answers.duplicate[i]),
        int(answers.gap[i]),
        named(int(answers.decision[i])),
    )


def answered(model: Model) -> int:
    """Numbers that a model gives for one sample: its outputs side by side, and at the end the decision, if any."""
    return sum(model.output_sizes) + model.decides


def value_of(model: Model, out: Array) -> Output:
    """All outputs side by side, without a decision -> as `Stream.step` returns them."""
    sizes = model.output_sizes
    if sizes == (1,):
        return float(out[0])
    if len(sizes) == 1:
        return out.copy()
    parts = np.split(out, np.cumsum(sizes)[:-1])
    return {
        name: float(part[0]) if len(part) == 1 else part.copy()
        for name, part in zip(model.output_names, parts, strict=True)
    }


def info_of(key: Key, meta: Any, in_memory: bool) -> StreamInfo:
    """A stream by its row of `meta_dtype`."""
    age, time, seq = int(meta["age"]), float(meta["time"]), int(meta["seq"][0])
    return StreamInfo(
        key,
        None if age < 0 else age,
        int(meta["samples"]),
        None if math.isnan(time) else time,
        None if seq < 0 else seq,
        in_memory,
        float(meta["used"]),
    )
