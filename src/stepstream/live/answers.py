"""What an Engine answers."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

from stepstream.graph.ir import Array
from stepstream.kernel.keys import Key
from stepstream.live.stream import Output


class Result(NamedTuple):
    """The answer to one sample of one stream.

    value: as `Stream.step` returns it; None for a repeated sample whose answer is no longer remembered. age: samples
    since the stream's last reset, with this one; None where nobody knows. seq: as it was given. complete: whether the
    answer has seen a whole window; beyond_training_length: whether it has seen, or may have seen, more samples than
    the model was trained on. duplicate: the number had been there before, and nothing has changed. gap: how many
    numbers are missing between the one before and this one.
    """

    value: Output | None
    key: Key
    age: int | None
    seq: int | None
    complete: bool
    beyond_training_length: bool
    duplicate: bool
    gap: int = 0


@dataclass(frozen=True, eq=False)
class Results:
    """The answers to many samples, in the order of the call; each array has one entry for each sample.

    values: float32 (samples, outputs), several outputs side by side; NaN where there is none: for bad samples, and for
    repeated ones whose answers are no longer remembered. age, seq: int64, -1 for none. complete,
    beyond_training_length, duplicate: bool. gap: int64. accepted: bool, false for bad samples alone, and reasons says
    why, by their place in the call.
    """

    values: Array
    age: Array
    seq: Array
    complete: Array
    beyond_training_length: Array
    duplicate: Array
    gap: Array
    accepted: Array
    reasons: dict[int, str] = field(default_factory=dict)

    def put(self, places: Array, others: Results) -> None:
        """The last answers of others are those at places (m,), their reasons too."""
        m = len(places)
        for name in ("values", "age", "complete", "beyond_training_length", "duplicate", "gap", "accepted"):
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
