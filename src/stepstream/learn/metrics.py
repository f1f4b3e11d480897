"""What answers are worth, against the truth; None where a figure has no meaning, as AUC has with one class alone.

y: int64 (n,) class indices. p: (n, classes) probabilities. All arithmetic in float64.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from stepstream.classes import brier_scores, log_losses
from stepstream.graph.ir import Array

Figures = dict[str, float | None]

CLASSES = (
    "accuracy",
    "balanced_accuracy",
    "precision",
    "recall",
    "f1",
    "auc",
    "log_loss",
    "brier",
    "calibration_error",
    "confidence",
)
NUMBERS = ("mae", "rmse", "r2")
BINS = 10  # of the calibration error, with at least as many answers in each


def measure(y: Array, p: Array) -> Figures:
    """All figures by name, as in CLASSES. Two classes: precision, recall and F1 of the second; more: their mean over
    the classes that occur or are answered. The answer is the class of the largest probability, the first of equals.
    """
    if not len(y):
        return dict.fromkeys(CLASSES)
    p = np.asarray(p, np.float64)
    top = p.argmax(axis=1)
    precision, recall, f1 = _precision_recall_f1(y, top, p.shape[1])
    return {
        "accuracy": float((top == y).mean()),
        "balanced_accuracy": _balanced(y, top),
        "precision": precision,
        "recall": recall,
        "f1": f1,
        "auc": auc(y, p),
        "log_loss": log_loss(y, p),
        "brier": float(brier_scores(p, y).mean()),
        "calibration_error": calibration_error(y, p),
        "confidence": float(p.max(axis=1).mean()),
    }


def measure_numbers(y: Array, predicted: Array) -> Figures:
    """As in NUMBERS, for regression: y and predicted float (n,)."""
    if not len(y):
        return dict.fromkeys(NUMBERS)
    error = np.asarray(predicted, np.float64) - y
    spread = float(((y - np.mean(y, dtype=np.float64)) ** 2).sum())
    return {
        "mae": float(np.abs(error).mean()),
        "rmse": float(np.sqrt((error**2).mean())),
        "r2": 1 - float((error**2).sum()) / spread if spread else None,
    }


def _balanced(y: Array, top: Array) -> float | None:
    """The mean recall of the classes that occur."""
    there = np.unique(y)
    return float(np.mean([(top[y == c] == c).mean() for c in there])) if len(there) > 1 else None


def _precision_recall_f1(y: Array, top: Array, classes: int) -> tuple[float | None, float | None, float | None]:
    of = [1] if classes == 2 else np.union1d(y, top).tolist()
    right, answered, there = (
        np.array([counted.sum() for counted in kind], np.float64)
        for kind in (
            [(top == c) & (y == c) for c in of],
            [top == c for c in of],
            [y == c for c in of],
        )
    )
    several = classes > 2  # a class that is never answered, or never there, counts as 0 in the mean
    return (
        _mean_share(right, answered, several),
        _mean_share(right, there, several),
        _mean_share(2 * right, answered + there, several),
    )


def _mean_share(part: Array, whole: Array, several: bool) -> float | None:
    if not several and not whole.all():
        return None
    return float(np.divide(part, whole, out=np.zeros_like(part), where=whole > 0).mean())


def auc(y: Array, p: Array) -> float | None:
    """Area under the ROC curve, ties counted half; of more classes each against the rest, and their mean.

    Source: Mann & Whitney 1947. A class that is nowhere, or everywhere, is left out.
    """
    of = [1] if p.shape[1] == 2 else range(p.shape[1])
    areas = [_area(y == c, p[:, c]) for c in of if 0 < (y == c).sum() < len(y)]
    return float(np.mean(areas)) if areas else None


def _area(positive: Array, score: Array) -> float:
    _, place, count = np.unique(score, return_inverse=True, return_counts=True)
    ranks = (np.cumsum(count) - (count - 1) / 2)[place]  # equal scores share the mean of their ranks
    n = float(positive.sum())
    return float((ranks[positive].sum() - n * (n + 1) / 2) / (n * (len(score) - n)))


def log_loss(y: Array, p: Array) -> float:
    """Mean of -ln p of the true class; n at least 1."""
    return float(log_losses(p, y).mean())


def calibration_error(y: Array, p: Array) -> float:
    """Expected calibration error of the top class: |confidence - accuracy|, over bins of equally many answers.

    Answers of one confidence stay in one bin. Source: Nguyen & O'Connor 2015, arXiv:1508.05154; equal-mass bins.
    """
    confidence, right = p.max(axis=1), p.argmax(axis=1) == y
    bins = int(np.clip(len(y) // BINS, 1, BINS))
    ends = np.sort(confidence)[[len(y) * (i + 1) // bins - 1 for i in range(bins - 1)]]
    place = np.searchsorted(np.unique(ends), confidence)
    gaps = np.bincount(place, weights=confidence - right)
    return float(np.abs(gaps).sum() / len(y))


def changes_of_mind(p: Array) -> Array:
    """How often the top class has changed up to each sample: p (time, classes) -> int64 (time,)."""
    top = p.argmax(axis=1)
    return np.concatenate([[0], np.cumsum(top[1:] != top[:-1])])


def interval(share: float, n: int) -> tuple[float, float]:
    """The 95 % interval of a share of n independent cases. Source: Wilson 1927."""
    z = 1.959964
    middle = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * np.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    return max(0.0, float(middle - half)), min(1.0, float(middle + half))


def standard_error(values: Array, streams: Sequence[str] | None = None) -> float:
    """Of the mean of independent values, or of values that belong to independent streams; NaN for one alone."""
    off = values - values.mean()
    if streams is not None:
        off = np.bincount(np.unique(np.asarray(streams), return_inverse=True)[1], off)
    return grouped_error(off, len(values))


def grouped_error(off: Array, n: int) -> float:
    """The standard error of a mean of n values in independent groups, by each group's sum of what its values are off.

    NaN for one group. Linearised, as the mean is a ratio of two sums over groups: the cluster-robust variance.
    """
    k = len(off)
    return float(np.sqrt((off**2).sum() * k / (k - 1)) / n) if k > 1 else math.nan


def or_none(value: float) -> float | None:
    """For JSON, which has no NaN."""
    return None if math.isnan(value) else value


def harmonic_mean(accuracy: float, earliness: float) -> float:
    """Of accuracy and of 1 - earliness, the share of the samples that was not waited for."""
    total = accuracy + 1 - earliness
    return 2 * accuracy * (1 - earliness) / total if total else 0.0


def joined(parts: Sequence[Array]) -> Array:
    """Arrays below each other, in float64 where they hold numbers with a fraction."""
    whole = np.concatenate([np.atleast_1d(part) for part in parts])
    return whole.astype(np.float64) if whole.dtype.kind == "f" else whole
