"""How a stream is cut: a windowing decides, before each sample, whether the state restarts, or wraps the model."""

from __future__ import annotations

import re
import sys
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, replace
from numbers import Real
from typing import Any

from stepstream import limits
from stepstream.arguments import whole
from stepstream.arrays import short
from stepstream.errors import InputError
from stepstream.live.sliding import Recompute, States, Whole, cheaper
from stepstream.live.state import Executor


@dataclass(frozen=True)
class Windowing(ABC):
    """Equal windowings are equal values; `str` gives the form that `parse` reads."""

    @abstractmethod
    def restarts(self, age: int, last_time: float | None, time: float | None) -> bool:
        """Whether the stream restarts before a sample that comes at `time` (seconds), when it is `age` samples old."""

    def complete(self, age: int, training_length: int | None) -> bool:
        """Whether an answer at this age has seen as many samples as the model was trained on."""
        return training_length is None or age >= training_length

    def effective(self, age: int | None) -> int | None:
        """How many samples an answer at this age can have seen; None where nobody knows."""
        return age

    @property
    def needs_age(self) -> bool:
        """Whether it counts, so that a state of unknown age is of no use."""
        return False

    def on(self, executor: Whole) -> tuple[Windowing, Executor]:
        """This windowing with every choice made, and what steps under it: the model's executor, or one around it."""
        return self, executor


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
        object.__setattr__(self, "n", whole("tumbling", self.n, 1, of="samples"))

    def restarts(self, age: int, last_time: float | None, time: float | None) -> bool:
        return age >= self.n

    def complete(self, age: int, training_length: int | None) -> bool:
        return age == self.n

    @property
    def needs_age(self) -> bool:
        return True

    def __str__(self) -> str:
        return f"tumbling({self.n})"


@dataclass(frozen=True, init=False)
class Sliding(Windowing):
    """At every sample the model's answer on the last n samples.

    stride: with a stride of s the answer has seen between n - s + 1 and n samples; states=k is the stride ceil(n / k).
    by: "recompute" (from the last n samples) or "states" (a ring of states of the model, one for each stride); None
    leaves it to the model's costs. Raises InputError.
    """

    n: int
    stride: int
    by: str | None

    def __init__(self, n: int, stride: int | None = None, states: int | None = None, by: str | None = None) -> None:
        n = whole("sliding", n, 1, limits.MAX_WINDOW, "samples")
        if stride is not None and states is not None:
            raise InputError(f"sliding: expected a stride or a number of states, got both: {stride!r} and {states!r}")
        if by not in {None, "recompute", "states"}:
            raise InputError(f'sliding: expected by="recompute" or by="states", got {by!r}')
        if states is not None:
            stride = -(-n // whole("sliding", states, 1, n, "states"))
        stride = 1 if stride is None else whole("sliding", stride, 1, n, "samples as stride")
        for name, value in (("n", n), ("stride", stride), ("by", by)):
            object.__setattr__(self, name, value)

    @property
    def states(self) -> int:
        """How many states the ring has, by="states"."""
        return -(-self.n // self.stride)

    def restarts(self, age: int, last_time: float | None, time: float | None) -> bool:
        return False

    def complete(self, age: int, training_length: int | None) -> bool:
        return age >= self.n

    def effective(self, age: int | None) -> int | None:
        return self.n if age is None else min(age, self.n)

    @property
    def needs_age(self) -> bool:
        return True

    def on(self, executor: Whole) -> tuple[Windowing, Executor]:
        by = self.by or cheaper(executor, self.n, self.stride)
        if by == "states":
            return replace(self, by=by), States(executor, self.n, self.stride)
        return replace(self, by=by), Recompute(executor, self.n, self.stride)

    def __str__(self) -> str:
        stride = "" if self.stride == 1 else f", stride={self.stride}"
        return f"sliding({self.n}{stride}{'' if self.by is None else f', by={self.by}'})"


_LONGEST = sys.float_info.max  # a larger integer has no text as a float


@dataclass(frozen=True)
class Session(Windowing):
    """Restarts when more than `gap` seconds lie between two samples; every sample needs a time."""

    gap: float

    def __post_init__(self) -> None:
        if isinstance(self.gap, bool) or not isinstance(self.gap, Real) or not 0 < self.gap <= _LONGEST:
            raise InputError(f"session: expected a gap in seconds above 0, got {short(self.gap)}")

    def restarts(self, age: int, last_time: float | None, time: float | None) -> bool:
        if time is None:
            raise InputError(f"expected a time with every sample under {self}, got none; pass time= in seconds")
        return last_time is not None and time - last_time > self.gap

    def __str__(self) -> str:
        return f"session({str(float(self.gap)).removesuffix('.0')})"  # every digit: it is compared as text


def _sliding(text: str) -> Sliding:
    n, *options = text.split(",")
    named: dict[str, Any] = {}
    for option in options:
        name, _, value = (part.strip() for part in option.partition("="))
        if name in named or name not in {"stride", "states", "by"}:
            raise ValueError(name)
        named[name] = value if name == "by" else int(value)
    return Sliding(int(n), **named)


_FORMS: dict[str, Callable[[str], Windowing]] = {
    "tumbling": lambda text: Tumbling(int(text)),
    "sliding": _sliding,
    "session": lambda text: Session(float(text)),
}


def parse(text: str) -> Windowing:
    """ "carry", "tumbling(n)", "sliding(n)", "sliding(n, stride=s)", "sliding(n, states=k)" or "session(gap)".

    Raises InputError.
    """
    match = re.fullmatch(r"\s*([a-z]+)\s*(?:\(\s*([^()]*?)\s*\))?\s*", text)
    try:
        if match and match[1] == "carry" and match[2] is None:
            return Carry()
        if match and match[1] in _FORMS and match[2]:
            return _FORMS[match[1]](match[2])
    except ValueError as e:
        if isinstance(e, InputError):
            raise
    raise InputError(
        f'windowing: expected "auto", "carry", "tumbling(n)", "sliding(n)", "sliding(n, stride=s)", '
        f'"sliding(n, states=k)" or "session(gap)", got {text!r}'
    )
