"""What an Engine is told when it is made, looked at once."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from numbers import Integral, Real
from typing import Any

import numpy as np

from stepstream.arrays import short
from stepstream.errors import InputError
from stepstream.kernel.keys import Key


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
    on_evict: Callable[[Key], object] | None
    on_end: Callable[[Key], object] | None


def whole(name: str, value: Any, least: int, most: int) -> int:
    """Raises InputError for anything but a whole number."""
    if isinstance(value, bool) or not isinstance(value, Integral) or not least <= int(value) <= most:
        raise InputError(f"{name}: expected a whole number from {least} to {most}, got {short(value)}")
    return int(value)


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


def yes(name: str, value: Any) -> bool:
    """Raises InputError for anything but True or False."""
    if not isinstance(value, bool | np.bool_):
        raise InputError(f"{name}: expected True or False, got {short(value)}")
    return bool(value)


def word(name: str, value: Any, *known: str) -> str:
    """Raises InputError for any other."""
    if not isinstance(value, str) or value not in known:
        raise InputError(f"{name}: expected one of {', '.join(known)}, got {short(value)}")
    return value
