"""How good answers are, as training goes on."""

from __future__ import annotations

import numpy as np

from stepstream.classes import as_logits
from stepstream.graph.ir import Array
from stepstream.learn.metrics import Figures, log_loss, measure, measure_numbers
from stepstream.ops.activation import softmax

POSITIONS = 10  # numbers of samples seen at which the figures are taken: training would wait for more of them
KEPT = ("accuracy", "precision", "recall", "f1", "auc")
NUMBERS = ("mae", "rmse")


def activated(kind: str, z: Array) -> Array:
    """Of raw answers (n, outputs): (n, classes); numbers as they are for regression. float64."""
    z = z.astype(np.float64)
    if kind == "regression":
        return z
    return softmax(as_logits(z) if kind == "binary" else z)


def step_loss(kind: str, answers: list[Array], labels: list[Array]) -> float:
    """Mean over sequences of the mean over their samples: log loss, or the squared error."""
    means = []
    for p, y in zip(answers, labels, strict=True):
        if kind == "regression":
            means.append(((p[:, 0] - y) ** 2).mean())
        else:
            means.append(log_loss(y.astype(int), p))
    return float(np.mean(means))


def scores(kind: str, answers: list[Array], labels: list[Array], by_position: bool) -> Figures:
    """Figures of `stepstream.learn.metrics` as means over the samples seen, and as `end_...` at the last samples.

    answers: (time_i, classes) each. labels: (time_i,) each. by_position: figures are taken after each of ten numbers of
    samples, over the sequences that are so long, and the mean of these is given; else over all samples at once, as fits
    long streams with a label per sample.
    """
    ends = _figures(kind, [p[-1:] for p in answers], [y[-1:] for y in labels])
    if not by_position:
        over = _figures(kind, answers, labels)
    else:
        longest = max(map(len, answers))
        found = []
        for t in np.unique(np.linspace(longest / POSITIONS, longest, POSITIONS).astype(int).clip(1)).tolist():
            there = [i for i, p in enumerate(answers) if len(p) >= t]
            found.append(_figures(kind, [answers[i][t - 1 : t] for i in there], [labels[i][t - 1 : t] for i in there]))
        over = {name: mean([f[name] for f in found]) for name in ends}
    return over | {f"end_{name}": value for name, value in ends.items()}


def _figures(kind: str, answers: list[Array], labels: list[Array]) -> Figures:
    p, y = np.concatenate(answers), np.concatenate(labels)
    if kind == "regression":
        found = measure_numbers(y, p[:, 0])
        return {name: found[name] for name in NUMBERS}
    found = measure(y.astype(int), p)
    return {name: found[name] for name in KEPT}


def mean(values: list[float | None]) -> float | None:
    """Over those that have a meaning."""
    there = [v for v in values if v is not None]
    return float(np.mean(there)) if there else None
