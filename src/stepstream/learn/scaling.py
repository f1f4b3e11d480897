"""Mean and standard deviation of every feature, from the training part alone."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import numpy as np

from stepstream.errors import InputError
from stepstream.graph.ir import Array
from stepstream.learn.data import Sequences

ROUNDING = 1e-6  # relative to the mean: a spread below it is what float32 makes of a constant

# Keras normalises by max(sqrt(variance), 1e-7), the variance in float32: beyond these a served model would not scale as
# its training did
LEAST, MOST = 1e-7, float(np.sqrt(np.finfo(np.float32).max))


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
    """Over all samples of all sequences, in float64. Give it the training part: the rest is the future.

    Raises InputError for a feature whose spread is too large or too small for a model in float32.
    """
    count = int(data.lengths.sum())
    mean = sum(x.sum(axis=0, dtype=np.float64) for x in data.x) / count
    square = sum(((x - mean) ** 2).sum(axis=0) for x in data.x) / count
    std = np.sqrt(square)
    still = std <= ROUNDING * np.abs(mean)
    wrong = ~still & ~((std > LEAST) & (std < MOST))
    if wrong.any():
        i = int(wrong.argmax())
        low, high = min(float(x[:, i].min()) for x in data.x), max(float(x[:, i].max()) for x in data.x)
        cure = "larger units, or mend a number that stands for a missing value" if std[i] > 1 else "smaller units"
        raise InputError(
            f"feature {data.features[i]!r}: expected a standard deviation between {LEAST:.3g} and {MOST:.3g}, got "
            f"{std[i]:.3g}, with values from {low:.3g} to {high:.3g}; give it in {cure}"
        )
    return Scaling(mean, np.where(still, 1.0, std), tuple(f for f, s in zip(data.features, still, strict=True) if s))
