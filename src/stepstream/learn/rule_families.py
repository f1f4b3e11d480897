"""Families of rules for deciding early, each fitted to probabilities and labels by the cost that its user states.

All are tables of the one form in `decision_rules`; they differ in what is free in them, and how that is found.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, final

import numpy as np

from stepstream.graph.ir import Array
from stepstream.learn.decision_rules import Cost, Trace, mean_costs

THRESHOLD, STOPPING, EXPECTED = "threshold", "stopping rule", "expected cost"
FAMILIES = (THRESHOLD, STOPPING, EXPECTED)
STREAKS = (1, 2, 3)  # samples in a row that a threshold may ask for, where the user does not say
THRESHOLDS = 100  # that are tried: quantiles of what occurs
NEIGHBOURS = 9  # thresholds that are judged together, by their mean; odd
DIRECTIONS = 400  # of a stopping rule that are tried first
FINER = (0.3, 0.1, 0.03)  # how far around the best of them is looked next
AROUND = 60  # tries at each
# how much labels count beside probabilities in the expected cost of an error; labels alone were worse everywhere on
# random walks, calibrated or twice too sure, 40 of them or 120
LABELS = {"probabilities": 0.0, "probabilities and labels": 0.5}
PULL = 16  # sequences that the next sample's regression counts for in the one before
PASSES = 3  # of each regression; every further one looks more at where its last line is near zero,
NEAR = 2.0  # a sequence whose prediction is 1 / NEAR of the mean size counts half

Fit = Callable[[Trace, Array, Cost, int], Array]


@final
@dataclass(frozen=True, eq=False)
class Candidate:
    """A family with its settings. fit: (trace, labels, cost, n) -> rule float32 (rows, 3)."""

    family: str
    k: int
    latched: bool
    fit: Fit
    settings: dict[str, Any] = field(default_factory=dict)


def candidates(family: str, k: int | None, latched: bool) -> Iterator[Candidate]:
    """Those of one family, or with "auto" of all, the plainest first."""
    if family in {"auto", THRESHOLD}:
        for streak in STREAKS if k is None else (k,):
            yield Candidate(THRESHOLD, streak, latched, _threshold(streak, latched))
    if family in {"auto", STOPPING}:
        yield Candidate(STOPPING, k or 1, latched, _stopping(k or 1, latched))
    if family in {"auto", EXPECTED}:
        for name, share in LABELS.items():
            yield Candidate(EXPECTED, k or 1, latched, _expected(share), {"errors_from": name})


def threshold(least: float) -> Array:
    """The rule p1 > least, float32 (1, 3)."""
    return np.array([[1, 0, -least]], np.float32)


def thresholds(seen: Trace, many: int = THRESHOLDS) -> Array:
    """Least probabilities worth trying, ascending: from 0, which decides at once, to 1, which never does."""
    return np.unique(np.concatenate([[0.0], np.quantile(seen.p1[seen.there], np.linspace(0, 1, many)), [1.0]]))


def _threshold(k: int, latched: bool) -> Fit:
    """p1 above one threshold, k times in a row."""

    def fit(seen: Trace, labels: Array, cost: Cost, n: int) -> Array:
        tried = thresholds(seen)
        found = mean_costs(seen, labels, np.stack([threshold(v) for v in tried]), k, latched, cost, n)
        return threshold(float(tried[_best_region(found)]))

    return fit


def _best_region(found: Array) -> int:
    """Where a running mean of neighbours is least, in the middle of equal ones: new data are a little different."""
    wide = np.pad(found, NEIGHBOURS // 2, mode="edge")
    mean = np.convolve(wide, np.ones(NEIGHBOURS) / NEIGHBOURS, "valid")
    equal = np.flatnonzero(mean <= mean.min() + 1e-12)
    ends = np.flatnonzero(np.diff(equal) > 1)
    first = equal[: ends[0] + 1] if len(ends) else equal
    return int(first[len(first) // 2])


def _stopping(k: int, latched: bool) -> Fit:
    """a p1 + b (p1 - p2) + c t / n > 0, by search over directions (a, b, c), always the same ones.

    Source: Mori, Mendiburu, Dasgupta & Lozano 2017, Early classification of time series by simultaneously optimizing
    the accuracy and earliness (its first rule; the search is ours).
    """

    def rules(directions: Array, n: int) -> Array:
        """(directions, 3) -> float32 (directions, n, 3)."""
        out = np.repeat(directions[:, None].astype(np.float32), n, axis=1)
        out[:, :, 2] *= (np.arange(1, n + 1) / n).astype(np.float32)
        return out

    def fit(seen: Trace, labels: Array, cost: Cost, n: int) -> Array:
        rng = np.random.default_rng(0)
        sure = [[1, 0, 0], [-1, 0, 0]]  # at once, and never
        tried = _unit(np.concatenate([sure, rng.normal(size=(DIRECTIONS, 3))]))
        found = mean_costs(seen, labels, rules(tried, n), k, latched, cost, n)
        best, least = tried[found.argmin()], found.min()
        for spread in FINER:
            tried = _unit(best + spread * rng.normal(size=(AROUND, 3)))
            found = mean_costs(seen, labels, rules(tried, n), k, latched, cost, n)
            if found.min() < least:
                best, least = tried[found.argmin()], found.min()
        return rules(best[None], n)[0]

    return fit


def _unit(directions: Array) -> Array:
    return directions / np.linalg.norm(directions, axis=1, keepdims=True)


def _expected(share: float) -> Fit:
    """Decide where deciding now is not dearer than what is to be expected of waiting.

    Backwards from the n-th sample, where it decides: at each sample a linear regression on (p1, p1 - p2, 1) predicts
    how much more waiting has cost, under the rule found for the later samples, than deciding would; the rule is that
    this is above zero. The cost of an error now and later is counted by the probabilities, or half by them and half by
    the labels, which is noisier and relies less on calibration. Each regression is drawn towards that of the next
    sample, as if by `PULL` sequences, and the last one to "waiting costs a sample and helps nothing", so that few
    sequences do. What waiting costs is no straight line in p1, and only where it crosses zero matters: further passes
    weigh by nearness to that.
    Source: Bilski & Jastrzebska 2023, CALIMERA (there kernel ridge regression, and the least cost to come).
    """

    def fit(seen: Trace, labels: Array, cost: Cost, n: int) -> Array:
        longest = min(n, int(seen.lengths.max()))  # of these: a part may lack the longest of all
        wrong = (1 - share) * (1 - seen.p1.astype(np.float64)) + share * (seen.top != labels[:, None])
        now = cost.error * wrong + cost.delay * np.arange(1, wrong.shape[1] + 1) / n  # (m, time)
        ends = np.minimum(seen.lengths, longest)
        later = now[np.arange(len(ends)), ends - 1]  # (m,), what each has cost so far, seen from its end
        rule = np.zeros((n, 3))
        rule[longest - 1 :] = 0, 0, 1
        beta = np.array([0, 0, cost.delay / n])
        for t in range(longest - 2, -1, -1):
            going = ends > t + 1
            x = np.stack([seen.p1[going, t], seen.margin[going, t], np.ones(going.sum())], axis=1, dtype=np.float64)
            more = later[going] - now[going, t]
            weight, before = np.ones(len(x)), beta
            for _ in range(PASSES):
                squares = x.T @ (weight[:, None] * x)
                # two classes have p1 - p2 = 2 p1 - 1, which the tiny ridge settles
                ridge = PULL / len(x) * (x.T @ x) + 1e-6 * np.eye(3)
                beta = np.linalg.solve(squares + ridge, x.T @ (weight * more) + ridge @ before)
                spread = max(float(abs(x @ beta).mean()), 1e-12)
                weight = 1 / (1 + (NEAR * x @ beta / spread) ** 2)
            rule[t] = beta
            decides = x @ beta > 0
            later[going] = np.where(decides, now[going, t], later[going])
        return rule.astype(np.float32)

    return fit
