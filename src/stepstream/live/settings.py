"""What an Engine is told when it is made, looked at once."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from numbers import Real
from typing import Any

from stepstream.arguments import whole, word
from stepstream.arrays import short
from stepstream.errors import InputError
from stepstream.kernel.keys import Key
from stepstream.live.ages import LADDER
from stepstream.live.records import MAX_KEPT, MAX_REMEMBERED


@dataclass(frozen=True)
class Settings:
    """Of the streams; the words are those of `Engine`. every: None where missing samples are of no concern; hold:
    whether another sample stands in for them, or they are an error.
    """

    capacity: int
    idle_after: float | None
    expire_after: float | None
    remember: int
    gap_is_error: bool
    every: float | None
    hold: bool
    keep: int
    judge: int
    on_evict: Callable[[Key], object] | None
    on_end: Callable[[Key], object] | None


def settled(
    capacity: Any,
    idle_after: Any,
    expire_after: Any,
    remember: Any,
    on_gap: Any,
    every: Any,
    on_missing: Any,
    keep: Any,
    judge: Any,
    on_evict: Any,
    on_end: Any,
) -> Settings:
    """Of what an engine was given; raises InputError."""
    missing = word("on_missing", on_missing, "raise", "hold", "skip")
    spacing = seconds("every", every)
    if missing == "hold" and every is None:
        raise InputError("on_missing: expected every= too, the seconds between two samples, got none")
    return Settings(
        whole("capacity", capacity, 1, 2**31 - 1),
        seconds("idle_after", idle_after),
        seconds("expire_after", expire_after),
        whole("remember", remember, 1, MAX_REMEMBERED),
        word("on_gap", on_gap, "accept", "error") == "error",
        spacing if missing != "skip" else None,
        missing == "hold",
        max(whole("keep", keep, 0, MAX_KEPT), int(missing == "hold")),
        whole("judge", judge, 0, LADDER[-1]),
        callback("on_evict", on_evict),
        callback("on_end", on_end),
    )


def seconds(name: str, value: Any) -> float | None:
    """None stays; raises InputError for anything else but a number above 0."""
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, Real) or not 0 < float(value) < math.inf:
        raise InputError(f"{name}: expected seconds above 0, or None, got {short(value)}")
    return float(value)


def callback(name: str, value: Any) -> Callable[[Key], object] | None:
    """Raises InputError for what cannot be called, and is not None."""
    if value is not None and not callable(value):
        raise InputError(f"{name}: expected a function of a key, or None, got {short(value)}")
    function: Callable[[Key], object] | None = value
    return function
