"""Arguments from outside, looked at once: what each is expected to be, or one clear error."""

from __future__ import annotations

from numbers import Integral
from typing import Any

import numpy as np

from stepstream.arrays import short
from stepstream.errors import InputError


def whole(name: str, value: Any, least: int, most: int | None = None, of: str = "") -> int:
    """Raises InputError for anything but a whole number. of: what it counts, in words; most: None without a bound."""
    fits = isinstance(value, Integral) and not isinstance(value, bool) and least <= int(value)
    if not fits or (most is not None and int(value) > most):
        upper = "" if most is None else f" to {most}"
        what = f" of {of}" if of else ""
        raise InputError(f"{name}: expected a whole number{what} from {least}{upper}, got {short(value)}")
    return int(value)


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
