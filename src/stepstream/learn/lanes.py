"""Training for streams that outlive windows: states passed from window to window, and streams played in lanes.

Both take the states that come in as constants: the gradient goes back to the start of a window, and the states that a
model meets on a long stream are met in training. Source of the second: Williams & Peng 1990, truncated back-propagation
through time.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import final

import numpy as np

from stepstream.graph.ir import Array
from stepstream.learn.batches import Batch, Rows


@final
class Pool:
    """Last states of the windows of the batch before, whatever their labels; a share of the next ones starts from them.

    A window that started from one passes its own on, so that states of every age go round.
    """

    def __init__(self, sizes: tuple[int, ...]) -> None:
        self.states = [np.zeros((1, size), np.float32) for size in sizes]

    def draw(self, size: int, share: float, rng: np.random.Generator) -> list[Array]:
        """First states of `size` windows, float32 (size, units) each: another's, or zeros."""
        if not self.states:
            return []
        passed = rng.random(size) < share
        donors = rng.integers(len(self.states[0]), size=size)
        return [np.where(passed[:, None], s[donors], 0) for s in self.states]

    def fill(self, finals: list[Array], count: int) -> None:
        """Keep the last states of the batch's first `count` windows; behind them is padding."""
        self.states = [f[:count] for f in finals]


def lanes(rows: Rows, order: Array, count: int, n: int) -> Iterator[tuple[Batch, Array]]:
    """Play streams side by side, n samples at a time; a lane that has played one to its end takes the next.

    Gives batches (count, n) and a bool (count,): which lanes begin a stream, and so start from zeros. What is behind a
    stream's end, and an idle lane, is padding. The batch's `rows` are not used here.
    """
    waiting = list(order[::-1])
    playing = np.full(count, -1)  # the row in each lane; -1: none
    at = np.zeros(count, np.int64)
    features = rows.x[0].shape[1]
    while True:
        begins = np.zeros(count, bool)
        for lane in range(count):
            if (playing[lane] < 0 or at[lane] >= len(rows.x[playing[lane]])) and (waiting or playing[lane] >= 0):
                playing[lane], at[lane], begins[lane] = waiting.pop() if waiting else -1, 0, True
        if (playing < 0).all():
            return
        x, there = np.zeros((count, n, features), np.float32), np.zeros((count, n), bool)
        y, w, c = (np.zeros((count, n), np.float32) for _ in "ywc")
        for lane in np.flatnonzero(playing >= 0).tolist():
            row, start = int(playing[lane]), int(at[lane])
            size = min(n, len(rows.x[row]) - start)
            for to, values in ((x, rows.x), (y, rows.y), (w, rows.w), (c, rows.c)):
                to[lane, :size] = values[row][start : start + size]
            there[lane, :size] = True
            at[lane] += n
        yield Batch(x, y, w, c, there, playing.copy()), begins
