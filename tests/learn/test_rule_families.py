"""Fitted rules against the best that there is: optimal stopping by dynamic programming where the posterior is known."""

import numpy as np
import pytest

from learn.walks import chances, walks
from stepstream.errors import InputError
from stepstream.learn import guarantee
from stepstream.learn.decision_rules import Cost, costs, held, mean_costs, outcomes, trace
from stepstream.learn.rule_families import FAMILIES, STOPPING, candidates

DRIFT, TIME = 0.4, 20
ALWAYS, NEVER = np.array([[0, 0, 1]], np.float32), np.array([[0, 0, -1]], np.float32)


def least_cost(cost, drift=DRIFT, time=TIME):
    """Of optimal stopping, by backward induction over a grid of log odds."""
    grid = np.linspace(-12, 12, 1201)
    noise, weight = np.polynomial.hermite_e.hermegauss(21)
    weight = weight / weight.sum()
    up = 1 / (1 + np.exp(-grid))
    error = cost.error * np.minimum(up, 1 - up)
    value = error + cost.delay
    for t in range(time - 1, -1, -1):
        later = np.zeros_like(grid)
        for sign, chance in ((1, up), (-1, 1 - up)):
            for e, w in zip(noise, weight, strict=True):
                later += chance * w * np.interp(grid + 2 * drift * (sign * drift + e), grid, value)
        value = np.minimum(error + cost.delay * t / time, later) if t else later  # the first sample is always seen
    return np.interp(0, grid, value)


@pytest.mark.parametrize("delay", [0.3, 1.0])
@pytest.mark.parametrize("family", FAMILIES)
def test_the_best_of_each_family_comes_close_to_optimal_stopping(family, delay):
    cost = Cost(1, delay)
    y, z = walks(300, TIME, DRIFT)
    truth, test = walks(20_000, TIME, DRIFT, seed=1)
    seen, new = trace(chances(z)), trace(chances(test))
    found = [
        mean_costs(new, truth, c.fit(seen, y, cost, TIME)[None], c.k, True, cost, TIME)[0]
        for c in candidates(family, None, True)
    ]
    best = least_cost(cost)
    far = 1.1 if family == STOPPING else 1.04  # its three numbers fit 300 walks too well
    assert best * 0.98 < min(found) < best * far
    assert min(found) < min(mean_costs(new, truth, np.stack([ALWAYS, NEVER]), 1, True, cost, TIME))


@pytest.mark.parametrize("family", FAMILIES)
def test_where_waiting_costs_nothing_it_waits_and_where_it_costs_all_it_does_not(family):
    y, z = walks(200, TIME, DRIFT)
    seen = trace(chances(z))
    at_end = outcomes(held(seen, NEVER[None])[0], seen)
    for delay, low, high in ((0.0, 0.5, 1.0), (50.0, 0.0, 0.06)):
        c = next(candidates(family, 1, True))
        cost = Cost(1, delay)
        ended = outcomes(held(seen, c.fit(seen, y, cost, TIME)[None])[0], seen)
        assert low <= (ended.step / TIME).mean() <= high
        assert costs(ended, y, cost, TIME).mean() <= costs(at_end, y, cost, TIME).mean() + 0.02


@pytest.mark.parametrize("family", FAMILIES)
def test_a_fit_is_the_same_every_time(family):
    y, z = walks(60, TIME, DRIFT)
    seen = trace(chances(z))
    for c in candidates(family, 2, False):
        np.testing.assert_array_equal(c.fit(seen, y, Cost(), TIME), c.fit(seen, y, Cost(), TIME))


def test_sequences_of_different_lengths_are_learned_from_as_far_as_they_go():
    y, z = walks(100, TIME, DRIFT)
    seen = trace([p[: 3 + i % 18] for i, p in enumerate(chances(z))])
    short = np.flatnonzero(seen.lengths < TIME - 4)
    for c in candidates("auto", None, True):
        assert np.isfinite(c.fit(seen, y, Cost(), TIME)).all()
        assert np.isfinite(c.fit(seen.some(short), y[short], Cost(), TIME)).all()


def test_the_guarantee_holds():
    """In at most a share of delta of all repetitions may the gap be above alpha; the true gap from 20,000 walks."""
    alpha, delta, repetitions = 0.05, 0.1, 200
    truth, test = walks(20_000, 10, DRIFT, seed=1)
    new = trace(chances(2 * test))  # overconfident, which the guarantee need not know
    right = new.last == truth
    broken, gaps, early = 0, {}, 0
    for seed in range(repetitions):
        y, z = walks(200, 10, DRIFT, seed=seed + 2)
        found = guarantee.find(trace(chances(2 * z)), y, list(map(str, range(200))), 1, alpha, delta, seed)
        if found.least not in gaps:
            ended = outcomes(held(new, found.rule[None])[0], new)
            gaps[found.least] = (right & (ended.answer != truth)).mean()
        broken += gaps[found.least] > alpha
        early += found.least < 1
        assert found.gap < alpha
        assert found.p_value <= delta
    assert broken <= delta * repetitions
    assert early > 0.9 * repetitions


def test_too_few_streams_are_refused_with_how_many_it_takes():
    y, z = walks(60, 10, DRIFT)
    seen = trace(chances(z))
    assert guarantee.needed(0.05, 0.1) == 45
    with pytest.raises(InputError, match=r"expected at least 67 streams .* got 60"):
        guarantee.find(seen, y, list(map(str, range(60))), 1, 0.05, 0.1, 0)
    with pytest.raises(InputError, match=r"expected at least 67 streams .* got 30"):
        guarantee.find(seen, y, [str(i // 2) for i in range(60)], 1, 0.05, 0.1, 0)
    y, z = walks(67, 10, DRIFT)
    assert guarantee.find(trace(chances(z)), y, list(map(str, range(67))), 1, 0.05, 0.1, 0).tested >= 45
    with pytest.raises(InputError, match="alpha: expected a number between 0 and 1"):
        guarantee.find(seen, y, list(map(str, range(60))), 1, 1.5, 0.1, 0)


def test_p_values():
    assert guarantee.p_value(np.zeros(45), 0.05) == pytest.approx(0.95**45)
    assert guarantee.p_value(np.array([1.0] * 3 + [0.0] * 97), 0.1) == pytest.approx(0.0078, abs=1e-4)
    assert guarantee.p_value(np.full(100, 0.2), 0.1) == 1
    # the bound is never below the exact one, and falls with more streams
    assert guarantee.p_value(np.full(100, 0.031), 0.1) > 0.0078
    assert guarantee.p_value(np.full(1000, 0.031), 0.1) < 1e-6
