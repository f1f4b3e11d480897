"""The ages at which answers are kept and judged: each about half as large again as the one before."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from stepstream.graph.ir import Array

LADDER: tuple[int, ...] = (
    *(1, 2, 3, 5, 7),
    *(rung * 10**power for power in range(5) for rung in (10, 15, 20, 30, 50, 70)),
    1_000_000,
)
_LADDER = np.array(LADDER)


def rungs(most: int) -> int:
    """How many of them are at most so large."""
    return int(np.searchsorted(_LADDER, most, "right"))


def rung_of(ages: ArrayLike) -> Array:
    """int64: for each age the last of `LADDER` that is not above it; 0 for one below 1, which nobody knows."""
    place: Any = np.searchsorted(_LADDER, ages, "right")
    return np.where(place > 0, _LADDER[place - 1], 0)
