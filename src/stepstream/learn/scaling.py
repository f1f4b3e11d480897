"""Mean and standard deviation of every feature, from the training part alone."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import numpy as np

from stepstream.graph.ir import Array
from stepstream.learn.data import Sequences

ROUNDING = 1e-6  # relative to the mean: a spread below it is what float32 makes of a constant


@final
@dataclass(frozen=True, eq=False)
class Scaling:
    """What `stepstream.load(scale=(mean, std))` and the graph's own first node take.

    mean, std: float64 (features,). constant: the names of features that never change, whose std is 1.
    """

    mean: Array
    std: Array
    constant: tuple[str, ...]

    @property
    def pair(self) -> tuple[list[float], list[float]]:
        """(mean, std) as lists."""
        return self.mean.tolist(), self.std.tolist()


def scaling(data: Sequences) -> Scaling:
    """Over all samples of all sequences, in float64. Give it the training part: the rest is the future."""
    count = int(data.lengths.sum())
    mean = sum(x.sum(axis=0, dtype=np.float64) for x in data.x) / count
    square = sum(((x - mean) ** 2).sum(axis=0) for x in data.x) / count
    std = np.sqrt(square)
    still = std <= ROUNDING * np.abs(mean)
    return Scaling(mean, np.where(still, 1.0, std), tuple(f for f, s in zip(data.features, still, strict=True) if s))
