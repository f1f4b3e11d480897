"""Figures by number of samples seen, by fraction of a sequence, and by age within a window."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, final

import numpy as np

from stepstream.arguments import whole
from stepstream.errors import InputError
from stepstream.graph.ir import Array
from stepstream.learn.data import Sequences
from stepstream.learn.metrics import Figures, changes_of_mind, grouped_error, interval, measure, measure_numbers
from stepstream.live.ages import LADDER

ALL = 30  # up to here every number of samples has a row; beyond, those of the ladder at which engines judge
CLUSTERS = 5  # sequences, from which their spread says anything
NORMAL = 1.96  # standard errors, of a 95 % interval
FRACTIONS = tuple(i / 20 for i in range(1, 21))


@final
@dataclass(frozen=True)
class Row:
    """Figures over `count` answers, those after `first` to `last` samples.

    share: of the sequence that was seen, in a row by fraction. low, high: the 95 % interval of accuracy. Samples of one
    sequence are not independent, so that with labels per sample it comes from the differences between sequences, and
    there is none below five of them.
    """

    first: int
    last: int
    count: int
    figures: Figures
    share: float | None = None
    low: float | None = None
    high: float | None = None

    @property
    def seen(self) -> str:
        """The number of samples, or from where to where."""
        if self.share is not None:
            return f"{self.share:.0%}"
        return f"{self.first}" if self.first == self.last else f"{self.first}-{self.last}"

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types, the figures beside the rest."""
        own = {"first": self.first, "last": self.last, "count": self.count, "share": self.share}
        return {k: v for k, v in own.items() if v is not None} | self.figures | {"low": self.low, "high": self.high}


def points(longest: int, also: Sequence[int] = (), ages: Sequence[int] | None = None) -> list[int]:
    """Numbers of samples seen that get a row: all of a few, else a ladder, and the last.

    also: training lengths, which have a row, and all numbers up to them where they are a few.
    ages: instead of the ladder. Raises InputError.
    """
    if ages is not None:
        if not len(ages):
            raise InputError("ages: expected numbers of samples from 1, got none")
        chosen = sorted({whole("ages", age, 1, of="samples") for age in ages})
        return [age for age in chosen if age <= longest] or [longest]
    if longest <= ALL:
        return list(range(1, longest + 1))
    steps = set(LADDER)
    for n in also:
        steps |= {n, *range(1, n if n <= ALL else 1)}
    return sorted({s for s in steps if s < longest} | {longest})


def figures(data: Sequences, y: Sequence[Array], p: Sequence[Array]) -> Figures:
    """What the data's kind of label has: of classes or of numbers."""
    truth, answer = np.concatenate([np.atleast_1d(v) for v in y]), np.concatenate(p)
    return measure_numbers(truth, answer[:, 0]) if data.classes is None else measure(truth, answer)


def row(
    data: Sequences,
    chosen: Sequence[tuple[Array, Array, float]],
    first: int,
    last: int,
    share: float | None = None,
) -> Row:
    """chosen: labels, answers (n, classes) and changes of mind so far, of each sequence."""
    found = figures(data, [y for y, _, _ in chosen], [p for _, p, _ in chosen])
    count = sum(len(p) for _, p, _ in chosen)
    low = high = None
    if data.classes is not None:
        found["changes"] = float(np.mean([changes for _, _, changes in chosen]))
        accuracy = found["accuracy"]
        if accuracy is not None:
            low, high = _interval(chosen, accuracy) if data.per_sample else interval(accuracy, count)
    return Row(first, last, count, found, share, low, high)


def _interval(chosen: Sequence[tuple[Array, Array, float]], accuracy: float) -> tuple[float | None, float | None]:
    """By the spread between sequences, each with the weight of its samples."""
    sizes = np.array([len(p) for _, p, _ in chosen])
    if (sizes > 0).sum() < CLUSTERS:
        return None, None
    right = np.array([(p.argmax(axis=1) == y).sum() for y, p, _ in chosen])
    error = grouped_error((right - sizes * accuracy)[sizes > 0], int(sizes.sum()))
    return max(0.0, accuracy - NORMAL * error), min(1.0, accuracy + NORMAL * error)


def by_seen(data: Sequences, p: Sequence[Array], at: Sequence[int]) -> tuple[Row, ...]:
    """A row for each number of samples, over the sequences that are so long; labels per sample: for each range up to
    the next number.
    """
    changes = _changes(data, p)
    rows, before = [], 0
    for s in at:
        first = before if data.per_sample else s - 1
        chosen = [
            (y[first:s] if data.per_sample else y, answers[first:s], float(c[min(s, len(c)) - 1]))
            for y, answers, c in zip(data.y, p, changes, strict=True)
            if len(answers) > first
        ]
        if chosen:
            rows.append(row(data, chosen, first + 1, s))
        before = s
    return tuple(rows)


def by_fraction(data: Sequences, p: Sequence[Array]) -> tuple[Row, ...]:
    """Of labels per sequence: after 5 %, 10 %, ... of its samples, rounded up."""
    changes, rows = _changes(data, p), []
    for share in FRACTIONS:
        at = np.ceil(data.lengths * share - 1e-9).astype(int) - 1
        chosen = [(y, a[i : i + 1], float(c[i])) for y, a, c, i in zip(data.y, p, changes, at, strict=True)]
        rows.append(row(data, chosen, int(at.min()) + 1, int(at.max()) + 1, share))
    return tuple(rows)


def by_age(data: Sequences, p: Sequence[Array], n: int) -> tuple[Row, ...]:
    """Of labels per sample under tumbling(n): for each age, from 1 after a restart to n."""
    at, before, rows = points(n), 0, []
    for age in at:
        chosen = []
        for y, answers in zip(data.y, p, strict=True):
            place = np.arange(len(y)) % n
            inside = (before <= place) & (place < age)
            chosen.append((y[inside], answers[inside], 0.0))
        found = row(data, chosen, before + 1, age)
        found.figures.pop("changes", None)  # has no meaning across windows
        if found.count:
            rows.append(found)
        before = age
    return tuple(rows)


def total(data: Sequences, p: Sequence[Array]) -> Row:
    """All samples; of labels per sequence the last of each."""
    changes = _changes(data, p)
    if data.per_sample:
        chosen = [(y, a, float(c[-1])) for y, a, c in zip(data.y, p, changes, strict=True)]
        return row(data, chosen, 1, int(data.lengths.max()))
    chosen = [(y, a[-1:], float(c[-1])) for y, a, c in zip(data.y, p, changes, strict=True)]
    return row(data, chosen, int(data.lengths.min()), int(data.lengths.max()), 1.0)


def _changes(data: Sequences, p: Sequence[Array]) -> list[Array]:
    if data.classes is None:
        return [np.zeros(len(a), np.int64) for a in p]
    return [changes_of_mind(a) for a in p]
