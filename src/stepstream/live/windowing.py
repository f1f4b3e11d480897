"""How a stream is cut. A windowing decides, before each sample, whether the state restarts."""

from __future__ import annotations

import math
import re
from abc import ABC, abstractmethod
from dataclasses import dataclass
from numbers import Integral, Real

from stepstream.errors import InputError


@dataclass(frozen=True)
class Windowing(ABC):
    """Equal windowings are equal values; `str` gives the form that `parse` reads."""

    @abstractmethod
    def restarts(self, age: int, last_time: float | None, time: float | None) -> bool:
        """Whether the stream restarts before a sample that comes at `time` (seconds), when it is `age` samples old."""

    def complete(self, age: int, training_length: int | None) -> bool:
        """Whether an answer at this age has seen as many samples as the model was trained on."""
        return training_length is None or age >= training_length


@dataclass(frozen=True)
class Carry(Windowing):
    """Never restarts."""

    def restarts(self, age: int, last_time: float | None, time: float | None) -> bool:
        return False

    def __str__(self) -> str:
        return "carry"


@dataclass(frozen=True)
class Tumbling(Windowing):
    """Restarts after every n samples."""

    n: int

    def __post_init__(self) -> None:
        if isinstance(self.n, bool) or not isinstance(self.n, Integral) or self.n < 1:
            raise InputError(f"tumbling: expected a whole number of samples from 1, got {self.n!r}")

    def restarts(self, age: int, last_time: float | None, time: float | None) -> bool:
        return age >= self.n

    def complete(self, age: int, training_length: int | None) -> bool:
        return age == self.n

    def __str__(self) -> str:
        return f"tumbling({self.n})"


@dataclass(frozen=True)
class Session(Windowing):
    """Restarts when more than `gap` seconds lie between two samples; every sample needs a time."""

    gap: float

    def __post_init__(self) -> None:
        if isinstance(self.gap, bool) or not isinstance(self.gap, Real) or not 0 < self.gap < math.inf:
            raise InputError(f"session: expected a gap in seconds above 0, got {self.gap!r}")

    def restarts(self, age: int, last_time: float | None, time: float | None) -> bool:
        if time is None:
            raise InputError(f"expected a time with every sample under {self}, got none; pass time= in seconds")
        return last_time is not None and time - last_time > self.gap

    def __str__(self) -> str:
        return f"session({str(float(self.gap)).removesuffix('.0')})"  # every digit: it is compared as text


def parse(text: str) -> Windowing:
    """ "carry", "tumbling(n)" or "session(gap)"; raises InputError."""
    match = re.fullmatch(r"\s*(carry|tumbling|session)\s*(?:\(\s*([^()]*?)\s*\))?\s*", text)
    try:
        if match and match[1] == "carry" and match[2] is None:
            return Carry()
        if match and match[1] == "tumbling" and match[2]:
            return Tumbling(int(match[2]))
        if match and match[1] == "session" and match[2]:
            return Session(float(match[2]))
    except ValueError as e:
        if isinstance(e, InputError):
            raise
    raise InputError(f'windowing: expected "auto", "carry", "tumbling(n)" or "session(gap)", got {text!r}')
