"""Decide early, and lose at most so much accuracy against waiting for the end, with a guarantee.

Source: Ringel, Cohen, Freedman, Elad & Romano 2024, arXiv:2402.00857 (its marginal guarantee), by Learn-then-Test
(Angelopoulos et al. 2021, arXiv:2110.01052) with fixed-sequence testing.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import count
from typing import final

import numpy as np

from stepstream.errors import InputError
from stepstream.graph.ir import Array
from stepstream.learn.decision_rules import Trace, held, outcomes
from stepstream.learn.rule_families import threshold, thresholds

LEVELS = 50  # thresholds that are tested at most, from the most careful one on
DESIGN = 1 / 3  # of the streams, which say what thresholds are worth testing; the others test them


@final
@dataclass(frozen=True, eq=False)
class Guaranteed:
    """least: the probability from which on it decides; 1: never, as not even the first threshold passed.

    gap: share of the test sequences that the end would have had right and the early answer has wrong. tested: streams
    that the guarantee rests on. p_value: of the threshold that was taken.
    """

    least: float
    rule: Array
    gap: float
    tested: int
    p_value: float


def needed(alpha: float, delta: float) -> int:
    """Test streams without which not even a faultless rule could pass."""
    return math.ceil(math.log(delta) / math.log1p(-alpha))


def find(
    seen: Trace, labels: Array, streams: Sequence[str], k: int, alpha: float, delta: float, seed: int
) -> Guaranteed:
    """The smallest threshold of p1 whose accuracy gap is at most alpha, with probability 1 - delta over the data.

    The gap is the share of sequences that the answer at the end has right and the early one has wrong: it is never less
    than the loss of accuracy. Thresholds from the most careful on are each tested for "the gap is above alpha", at the
    level delta, until one is not refuted. They are chosen on other streams than they are tested on. The guarantee is
    for streams that come as these did (exchangeable), on average over them, and for a latched trigger on sequences that
    end as these do. A stream with several sequences counts as one, with their mean.
    Raises InputError where the data are too few to guarantee anything.
    """
    for name, value in (("alpha", alpha), ("delta", delta)):
        if not isinstance(value, float) or not 0 < value < 1:
            raise InputError(f"{name}: expected a number between 0 and 1, got {value!r}")
    names, group = np.unique(np.asarray(streams), return_inverse=True)
    least = needed(alpha, delta)
    total = next(n for n in count(least) if n - int(n * DESIGN) >= least)
    order = np.random.default_rng(seed).permutation(len(names))
    design = np.isin(group, order[: int(len(names) * DESIGN)])
    tested = len(names) - int(len(names) * DESIGN)
    if tested < least or not design.any():
        raise InputError(
            f"accuracy gap: expected at least {total} streams to guarantee a gap of at most {alpha} with probability "
            f"{1 - delta:g}, got {len(names)}; bring more, allow a larger alpha or delta, or choose another family"
        )
    levels = thresholds(seen.some(design), LEVELS)[::-1]
    test, truth = seen.some(~design), labels[~design]
    of = np.unique(group[~design], return_inverse=True)[1]
    size = np.bincount(of)
    chosen = Guaranteed(1.0, threshold(1.0), 0.0, tested, math.nan)
    right = test.last == truth
    for level in levels:
        rule = threshold(float(level))
        ended = outcomes(held(test, rule[None], k)[0], test)
        lost = np.bincount(of, right & (ended.answer != truth)) / size  # (streams,)
        p = p_value(lost, alpha)
        if p > delta:
            break
        chosen = Guaranteed(float(level), rule, float(lost.mean()), tested, p)
    return chosen


def p_value(losses: Array, alpha: float) -> float:
    """Of "the mean of such losses, independent and from 0 to 1, is above alpha".

    Exact (binomial) where each is 0 or 1, else the bound of Hoeffding and Bentkus.
    """
    n, mean = len(losses), float(losses.mean())
    if np.isin(losses, (0, 1)).all():
        return _binomial(round(mean * n), n, alpha)
    if mean >= alpha:
        return 1.0
    divergence = (mean * math.log(mean / alpha) if mean else 0.0) + (1 - mean) * math.log((1 - mean) / (1 - alpha))
    return min(math.exp(-n * divergence), math.e * _binomial(math.ceil(mean * n), n, alpha))


def _binomial(k: int, n: int, p: float) -> float:
    """P(at most k of n)."""
    terms = (
        math.lgamma(n + 1) - math.lgamma(i + 1) - math.lgamma(n - i + 1) + i * math.log(p) + (n - i) * math.log1p(-p)
        for i in range(k + 1)
    )
    return min(1.0, math.fsum(math.exp(term) for term in terms))
