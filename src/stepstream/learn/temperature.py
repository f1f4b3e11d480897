"""Temperatures by step, fitted by maximum likelihood: logits are multiplied by scale[min(t, n) - 1] = 1 / T(t)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

import numpy as np

from stepstream.graph.ir import Array

# What is thought of log T before any data are seen: standard deviations. On 40 random walks with a known posterior that
# is right already, wider ones lost up to 0.1 of log loss; narrower ones gained less where it was not.
SPREAD = 0.5  # of its level
CHANGE = 0.3  # of what it changes by from the first sample to the last, or from one knot to the next
KNOTS = 24  # temperatures by step: one for each step up to here, and for longer sequences in between
LARGEST = 6.0  # of |log T|: beyond a factor of 400 nothing more happens to a probability
STEPS = 100  # of Newton's method; it takes about ten
ENOUGH = 1e-10  # a step that changes no log T by more has arrived


@final
@dataclass(frozen=True, eq=False)
class Points:
    """Labelled samples below each other.

    logits: float64 (points, classes). t: samples seen, from 1, int64. label: class index. weight: how much each counts;
    the sum is the number of independent observations. sequence: the number of the sequence that it belongs to.
    """

    logits: Array
    t: Array
    label: Array
    weight: Array
    sequence: Array

    def __len__(self) -> int:
        return len(self.t)

    def of(self, sequences: Array) -> Points:
        """Those of the sequences with these numbers."""
        chosen = np.isin(self.sequence, sequences)
        return Points(*(v[chosen] for v in (self.logits, self.t, self.label, self.weight, self.sequence)))


def points(logits: Sequence[Array], labels: Sequence[Array], ages: Sequence[Array]) -> Points:
    """logits: (time_i, classes) each. labels: () or, per sample, (time_i,) each. ages: samples seen, (time_i,) each.

    Steps of one sequence with one label say much the same, so that a sequence is one observation and its steps share
    its weight; with a label per sample each sample is an observation.
    """
    lengths = np.array([len(z) for z in logits])
    per_sample = np.ndim(labels[0]) > 0
    y = np.concatenate(labels) if per_sample else np.repeat(np.array(labels), lengths)
    weight = np.ones(len(y)) if per_sample else np.repeat(1 / lengths, lengths)
    z = np.concatenate(logits).astype(np.float64)
    return Points(z, np.concatenate(ages), y, weight, np.repeat(np.arange(len(lengths)), lengths))


def two_parameters(n: int) -> tuple[Array, Array]:
    """What log T is made of, (n, 2), and what is thought of it before: log T(t) = a + b * log(t) / log(n).

    A logarithm, because networks gain confidence fastest over the first samples; from 0 to 1, so that a is log T at the
    first sample, a + b at the n-th, and nothing can grow beyond them; T is above zero whatever a and b are.
    """
    basis = np.stack([np.ones(n), np.log(np.arange(1, n + 1)) / np.log(max(n, 2))], axis=1)
    return basis, np.diag([1 / SPREAD**2, 1 / CHANGE**2])


def knots(n: int) -> tuple[Array, Array]:
    """log T at up to `KNOTS` steps, on a line in between, (n, knots), and what is thought of it before.

    One for each step of a short sequence, each drawn to its neighbours.
    """
    at = np.unique(np.round(np.geomspace(1, n, KNOTS)).astype(np.int64)) if n > KNOTS else np.arange(1, n + 1)
    out = np.empty((n, len(at)))
    for i in range(len(at)):
        out[:, i] = np.interp(np.arange(1, n + 1), at, np.eye(len(at))[i])
    difference = np.diff(np.eye(len(at)), axis=0)
    return out, np.eye(len(at)) / len(at) / SPREAD**2 + difference.T @ difference / CHANGE**2


def fit(data: Points, basis: Array, prior: Array) -> Array:
    """The most likely log T, float64 (n,), in the span of the basis (n, parameters).

    Minimises the weighted log loss of all samples, by Newton's method with the curvature that is never negative
    (Gauss-Newton in log T), and halved steps. Parameters are drawn to T = 1, so that a handful of sequences that happen
    to be all right does not lead to infinite confidence. prior: (parameters, parameters), the inverse of a normal
    distribution's covariance, which counts as much as about one observation.
    """
    n, count = basis.shape
    row = np.minimum(data.t, n) - 1
    z = np.asfortranarray(data.logits)  # class by class, or sums over the few classes take most of the time
    own = np.take_along_axis(z, data.label[:, None], axis=1)[:, 0]

    def at(theta: Array) -> tuple[float, Array, Array]:
        """Loss, slope and curvature by step."""
        s = np.exp(-(basis @ theta)[row])
        scaled = z * s[:, None]
        scaled -= scaled.max(axis=1, keepdims=True)
        p = np.exp(scaled)
        total = p.sum(axis=1)
        p /= total[:, None]
        mean = (p * z).sum(axis=1)
        slope = s * (mean - own)
        curve = s**2 * (p * (z - mean[:, None]) ** 2).sum(axis=1)
        losses = np.log(total) - np.take_along_axis(scaled, data.label[:, None], axis=1)[:, 0]
        loss = (data.weight * losses).sum() + theta @ prior @ theta / 2
        by = [np.bincount(row, data.weight * v, n) for v in (-slope, curve)]  # log T = -log s
        return float(loss), by[0], by[1]

    theta = np.zeros(count)
    loss, slope, curve = at(theta)
    for _ in range(STEPS):
        step = np.linalg.solve(basis.T @ (curve[:, None] * basis) + prior, basis.T @ slope + prior @ theta)
        step *= min(1.0, 1 / max(abs(basis @ step).max(), 1e-300))  # at most a factor e at once
        while True:
            new = theta - step
            found = at(new)
            if found[0] <= loss or abs(step).max() < ENOUGH:
                break
            step = step / 2
        theta, (loss, slope, curve) = new, found
        if abs(step).max() < ENOUGH:
            break
    return np.clip(basis @ theta, -LARGEST, LARGEST)
