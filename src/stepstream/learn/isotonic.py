"""An ascending map from probability to probability, fitted to what happened: isotonic regression over quantiles."""

from __future__ import annotations

import numpy as np

from stepstream.graph.ir import Array

BINS = 32  # of equal weight, which bounds the number of knots
EDGE = 1e-6  # what 0 becomes, and 1 - EDGE what 1 becomes: nothing is certain
LEAST = 1e-6  # between neighbouring knots: strictly ascending in float32, so that no two answers become one


def fit(p: Array, happened: Array, weight: Array) -> tuple[Array, Array]:
    """Knots (x, y), float32 (knots,) each, strictly ascending, from (0, almost 0) to (1, almost 1).

    p: probabilities (points, classes). happened: bool (points, classes). weight: (points,).
    All classes together make one map, so that the largest stays the largest; for two classes it is made symmetric,
    f(1 - p) = 1 - f(p), for the same reason. Each knot counts one more observation that says what the model said.
    """
    x, y, w = _bins(p.ravel(), happened.ravel().astype(np.float64), np.repeat(weight, p.shape[1]))
    x, y = _pooled(x, y, w)
    x, y = np.concatenate([[0.0], x, [1.0]]), np.concatenate([[0.0], y, [1.0]])
    if p.shape[1] > 2:
        return _ascending(x, y)
    half = np.unique(np.concatenate([x, 1 - x, [0.5]]))
    half = half[half <= 0.5]
    x, y = _ascending(half, (np.interp(half, x, y) + 1 - np.interp(1 - half, x, y)) / 2)
    return np.concatenate([x, 1 - x[-2::-1]]), np.concatenate([y, 1 - y[-2::-1]])


def apply(p: Array, knots: tuple[Array, Array]) -> Array:
    """The map on probabilities (points, classes), and each row divided by its sum, as in the model."""
    x, y = (k.astype(np.float64) for k in knots)
    y = np.interp(p, x, y)
    return y / y.sum(axis=1, keepdims=True)


def _bins(p: Array, y: Array, w: Array) -> tuple[Array, Array, Array]:
    """Mean probability, mean outcome and weight in bins of about equal weight; equal probabilities share a bin."""
    order = np.argsort(p, kind="stable")
    p, y, w = p[order], y[order], w[order]
    number = np.floor((np.cumsum(w) - w / 2) / w.sum() * BINS).astype(np.int64)
    values, place = np.unique(p, return_inverse=True)
    first = np.full(len(values), BINS)
    np.minimum.at(first, place, number)
    number = first[place]
    total = np.bincount(number, w)
    used = total > 0
    mean_p, mean_y = (np.bincount(number, v)[used] / total[used] for v in (w * p, w * y))
    return mean_p, mean_y, total[used]


def _pooled(x: Array, y: Array, w: Array) -> tuple[Array, Array]:
    """Neighbours that do not ascend become one (pool adjacent violators), each drawn to x by one observation."""
    blocks: list[tuple[float, float, float]] = []
    for xi, yi, wi in zip(x, (w * y + x) / (w + 1), w + 1, strict=True):
        blocks.append((float(xi), float(yi), float(wi)))
        while len(blocks) > 1 and blocks[-1][1] <= blocks[-2][1]:
            (x1, y1, w1), (x2, y2, w2) = blocks[-2:]
            total = w1 + w2
            blocks[-2:] = [((w1 * x1 + w2 * x2) / total, (w1 * y1 + w2 * y2) / total, total)]
    return np.array([b[0] for b in blocks]), np.array([b[1] for b in blocks])


def _ascending(x: Array, y: Array) -> tuple[Array, Array]:
    """Strictly ascending in both, in float32; knots closer than that are left out, the first and the last never."""
    y = np.clip(y, EDGE, 1 - EDGE)
    kept = [0]
    for i in range(1, len(x) - 1):
        near = x[i] - x[kept[-1]] < LEAST or y[i] - y[kept[-1]] < LEAST
        if not near and x[-1] - x[i] >= LEAST and y[-1] - y[i] >= LEAST:
            kept.append(i)
    kept.append(len(x) - 1)
    return x[kept].astype(np.float32), y[kept].astype(np.float32)
