"""What an engine's answers were worth, by their age, as far as the truth about them has come.

Sums alone are kept: over everything, and once more with exponential forgetting. So their size does not depend on the
number of labels, and the same labels in the same order give the same bits.
"""

from __future__ import annotations

import math
import struct
from typing import TYPE_CHECKING, Any, NamedTuple, final

import numpy as np

from stepstream.classes import as_classes, brier_scores, log_losses
from stepstream.errors import InputError, StoreError
from stepstream.graph.attach import n_classes
from stepstream.graph.ir import Array
from stepstream.live.ages import LADDER, rung_of

if TYPE_CHECKING:
    from stepstream.model import Model

WINDOW = 1000  # labels: the weight of each in the recent figures falls by one part in so many with the next
BINS = 20  # of equal width, as only sums are kept; of the largest probability: a binary model fills the upper ten
NEWEST, BEFORE, SAMPLE = 0, 1, 2  # what a label is about: the newest sequence, the one before it, or one sample

_LAYOUT = 1
_FRONT = struct.Struct("<BIIqqI")  # layout, classes (0: regression), outputs, sequences, samples, ages
_JUDGED = struct.Struct("<BHI")  # what it is about, numbers in the truth, answers


class Judged(NamedTuple):
    """A label and the answers that it judges. about: NEWEST, BEFORE or SAMPLE. y: float64 (1,), a class; or (outputs,).
    ages: int64 (n,), -1 where nobody knows; answers: float32 (n, outputs). The last one is the newest, and stands once
    more among the others where its age is one of theirs.
    """

    about: int
    y: Array
    ages: Array
    answers: Array

    def encode(self) -> bytes:
        """For the journal."""
        front = _JUDGED.pack(self.about, len(self.y), len(self.ages))
        parts = self.y.astype("<f8"), self.ages.astype("<i8"), self.answers.astype("<f4")
        return front + b"".join(part.tobytes() for part in parts)


@final
class Quality:
    """Of one model. classes: None for regression."""

    def __init__(self, classes: int | None, outputs: int) -> None:
        self.classes, self.outputs = classes, outputs
        self.sequences = self.samples = 0  # labels
        self._width = 1 + 2 * outputs if classes is None else 4 + 2 * classes + 3 * BINS
        self._sums: dict[int, Array] = {}  # age, 0 for the newest answers -> float64 (2, width): all, recent

    def __len__(self) -> int:
        return self.sequences + self.samples

    def take(self, judged: Judged) -> None:
        """Count a label."""
        if judged.about == SAMPLE:
            self.samples += 1
        else:
            self.sequences += 1
        found = self._errors(judged) if self.classes is None else self._hits(judged)
        ages = rung_of(judged.ages)
        ages[-1] = 0
        for age, new in zip(ages.tolist(), found, strict=True):
            sums = self._sums.setdefault(age, np.zeros((2, self._width)))
            sums[1] *= 1 - 1 / WINDOW
            sums += new

    def _errors(self, judged: Judged) -> Array:
        """float64 (n, width): 1, absolute errors, squares of errors."""
        off = np.abs(judged.answers.astype(np.float64) - judged.y)
        return np.concatenate([np.ones((len(off), 1)), off, off**2], axis=1)

    def _hits(self, judged: Judged) -> Array:
        """float64 (n, width): 1, hit, log loss, Brier; how many of each class, and of them hits; and in each bin how
        many, probabilities and hits.
        """
        assert self.classes is not None
        p, y, n = as_classes(judged.answers.astype(np.float64)), int(judged.y[0]), len(judged.answers)
        hit = (p.argmax(axis=1) == y).astype(np.float64)
        out, truth, top, rows = np.zeros((n, self._width)), np.full(n, y), p.max(axis=1), np.arange(n)
        out[:, :4] = np.stack([np.ones(n), hit, log_losses(p, truth), brier_scores(p, truth)], axis=1)
        out[:, 4 + y], out[:, 4 + self.classes + y] = 1, hit
        at = 4 + 2 * self.classes + np.clip((top * BINS).astype(np.int64), 0, BINS - 1)
        out[rows, at], out[rows, at + BINS], out[rows, at + 2 * BINS] = 1, top, hit
        return out

    def figures(self, names: tuple[str, ...] | None) -> dict[str, Any]:
        """By age, and of the newest answer that each label judged: over all labels, and over recent ones."""
        newest = self._sums.get(0, np.zeros((2, self._width)))
        by_age = {str(age): self._pair(self._sums[age], names) for age in sorted(self._sums) if age}
        return {
            "labels": len(self),
            "sequences": self.sequences,
            "samples": self.samples,
            "window": WINDOW,
            "newest": self._pair(newest, names),
            "by_age": by_age,
        }

    def _pair(self, sums: Array, names: tuple[str, ...] | None) -> dict[str, Any]:
        both = ("all", sums[0]), ("recent", sums[1])
        return {name: self._of(s) if self.classes is None else self._rates(s, self.classes, names) for name, s in both}

    def _of(self, sums: Array) -> dict[str, Any]:
        n, (off, square) = float(sums[0]), sums[1:].reshape(2, -1).mean(axis=1).tolist()
        return {"n": n, "mae": off / n if n else None, "rmse": math.sqrt(square / n) if n else None}

    @staticmethod
    def _rates(sums: Array, classes: int, names: tuple[str, ...] | None) -> dict[str, Any]:
        n, hits, loss, brier = sums[:4].tolist()
        there, right = sums[4 : 4 + 2 * classes].reshape(2, classes).tolist()
        recall = [right[i] / there[i] if there[i] else None for i in range(classes)]
        known = [r for r in recall if r is not None]
        _, sure, good = sums[4 + 2 * classes :].reshape(3, BINS)
        return {
            "n": n,
            "accuracy": hits / n if n else None,
            "balanced_accuracy": sum(known) / len(known) if len(known) > 1 else None,  # as in learn.metrics
            "recall": dict(zip(names or map(str, range(classes)), recall, strict=True)),
            "log_loss": loss / n if n else None,
            "brier": brier / n if n else None,
            "calibration_error_equal_width": float(np.abs(sure - good).sum()) / n if n else None,
        }

    # as bytes

    def encode(self) -> bytes:
        """For a store: the inverse is `decode`."""
        ages = sorted(self._sums)
        counts = self.sequences, self.samples, len(ages)
        front = _FRONT.pack(_LAYOUT, self.classes or 0, self.outputs, *counts)
        sums = np.array([self._sums[age] for age in ages], "<f8")
        return front + np.array(ages, "<i8").tobytes() + sums.tobytes()

    def decode(self, data: bytes) -> None:
        """Take what `encode` wrote, of the same model; raises StoreError for anything else, and nothing has changed."""
        try:
            layout, classes, outputs, sequences, samples, n = _FRONT.unpack_from(data)
            if (layout, classes, outputs) != (_LAYOUT, self.classes or 0, self.outputs) or n > 1 + len(LADDER):
                raise ValueError(f"layout {layout}, {classes} classes, {outputs} outputs")
            if len(data) != _FRONT.size + 8 * n * (1 + 2 * self._width) or min(sequences, samples) < 0:
                raise ValueError(f"{len(data)} bytes")
            ages = np.frombuffer(data, "<i8", n, _FRONT.size).tolist()
            sums = np.frombuffer(data, "<f8", offset=_FRONT.size + 8 * n).reshape(n, 2, self._width)
            if not np.isfinite(sums).all() or not {0, *LADDER}.issuperset(ages):
                raise ValueError("other numbers")
        except (ValueError, struct.error) as e:
            raise StoreError(
                f"expected what labels gave, of layout {_LAYOUT} of this model, got other bytes ({e})"
            ) from e
        self.sequences, self.samples = sequences, samples
        self._sums = {age: one.copy() for age, one in zip(ages, sums, strict=True)}

    def judged(self, data: bytes) -> Judged:
        """The inverse of `Judged.encode`; raises StoreError for what is no label of this model."""
        try:
            about, k, n = _JUDGED.unpack_from(data)
            at = _JUDGED.size
            if len(data) != at + 8 * k + 8 * n + 4 * n * self.outputs or not n or about > SAMPLE:
                raise ValueError(f"{len(data)} bytes")
            y, ages = np.frombuffer(data, "<f8", k, at).copy(), np.frombuffer(data, "<i8", n, at + 8 * k).copy()
            answers = np.frombuffer(data, "<f4", offset=at + 8 * (k + n)).reshape(n, self.outputs).copy()
            if k != (self.outputs if self.classes is None else 1) or not np.isfinite(y).all():
                raise ValueError("another truth")
            if self.classes is not None and y[0] not in range(self.classes):
                raise ValueError(f"class {y[0]}")
            if not np.isfinite(answers).all():
                raise ValueError("answers that are none")
        except (ValueError, struct.error) as e:
            raise StoreError(
                f"expected a label of this model, got other bytes ({e}); restore the store from a backup"
            ) from e
        return Judged(about, y, ages, answers)


def classes_of(model: Model) -> int | None:
    """How many classes a model tells apart: 2 for one sigmoid unit, units of a softmax; None: numbers."""
    try:
        return n_classes(model.graph)
    except InputError:
        return None
