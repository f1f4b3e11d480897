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
CLUSTERS = 5  # streams, from which their spread says anything
NORMAL = 1.96  # standard errors, of a 95 % interval
FRACTIONS = tuple(i / 20 for i in range(1, 21))


@final
@dataclass(frozen=True)
class Row:
    """Figures over `count` answers, those after `first` to `last` samples.

    share: of the sequence that was seen, in a row by fraction. low, high: the 95 % interval of accuracy. Answers on one
    stream are not independent, so that where it has several, as with labels per sample, the interval comes from the
    differences between streams, and there is none below five of them.
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


Chosen = Sequence[tuple[str, Array, Array, float]]  # stream, labels, answers (n, classes), changes of mind so far


def row(
    data: Sequences,
    chosen: Chosen,
    first: int,
    last: int,
    share: float | None = None,
) -> Row:
    """Over these answers of each sequence."""
    found = figures(data, [y for _, y, _, _ in chosen], [p for _, _, p, _ in chosen])
    count = sum(len(p) for _, _, p, _ in chosen)
    low = high = None
    if data.classes is not None:
        found["changes"] = float(np.mean([changes for _, _, _, changes in chosen]))
        accuracy = found["accuracy"]
        if accuracy is not None:
            alone = not data.per_sample and len({stream for stream, _, _, _ in chosen}) == len(chosen)
            low, high = interval(accuracy, count) if alone else _by_stream(chosen, accuracy)
    return Row(first, last, count, found, share, low, high)


def _by_stream(chosen: Chosen, accuracy: float) -> tuple[float | None, float | None]:
    """By the spread between streams, each with the weight of its answers."""
    streams, place = np.unique([stream for stream, _, p, _ in chosen if len(p)], return_inverse=True)
    if len(streams) < CLUSTERS:
        return None, None
    off = [(p.argmax(axis=1) == y).sum() - len(p) * accuracy for _, y, p, _ in chosen if len(p)]
    error = grouped_error(np.bincount(place, off), sum(len(p) for _, _, p, _ in chosen))
    if not error:  # all alike, which so many streams may be by chance
        return interval(accuracy, len(streams))
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
            (stream, y[first:s] if data.per_sample else y, answers[first:s], float(c[min(s, len(c)) - 1]))
            for stream, y, answers, c in zip(data.streams, data.y, p, changes, strict=True)
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
        each = zip(data.streams, data.y, p, changes, at, strict=True)
        chosen = [(stream, y, a[i : i + 1], float(c[i])) for stream, y, a, c, i in each]
        rows.append(row(data, chosen, int(at.min()) + 1, int(at.max()) + 1, share))
    return tuple(rows)


def by_age(data: Sequences, p: Sequence[Array], n: int) -> tuple[Row, ...]:
    """Of labels per sample under tumbling(n): for each age, from 1 after a restart to n."""
    at, before, rows = points(n), 0, []
    for age in at:
        chosen = []
        for stream, y, answers in zip(data.streams, data.y, p, strict=True):
            place = np.arange(len(y)) % n
            inside = (before <= place) & (place < age)
            chosen.append((stream, y[inside], answers[inside], 0.0))
        found = row(data, chosen, before + 1, age)
        found.figures.pop("changes", None)  # has no meaning across windows
        if found.count:
            rows.append(found)
        before = age
    return tuple(rows)


def total(data: Sequences, p: Sequence[Array]) -> Row:
    """All samples; of labels per sequence the last of each."""
    each = zip(data.streams, data.y, p, _changes(data, p), strict=True)
    if data.per_sample:
        chosen = [(stream, y, a, float(c[-1])) for stream, y, a, c in each]
        return row(data, chosen, 1, int(data.lengths.max()))
    chosen = [(stream, y, a[-1:], float(c[-1])) for stream, y, a, c in each]
    return row(data, chosen, int(data.lengths.min()), int(data.lengths.max()), 1.0)


def _changes(data: Sequences, p: Sequence[Array]) -> list[Array]:
    if data.classes is None:
        return [np.zeros(len(a), np.int64) for a in p]
    return [changes_of_mind(a) for a in p]
