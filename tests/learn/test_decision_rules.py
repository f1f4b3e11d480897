"""What a trigger does with probabilities, and what its decisions are worth."""

import math

import numpy as np
import pytest

from stepstream.errors import InputError
from stepstream.learn.decision_rules import Cost, decisions, kappa, mean_costs, pareto, score, trace
from stepstream.learn.metrics import standard_error


def above(least):
    return [[1, 0, -least]]


def shares(*tops, classes=2):
    """Probabilities with the given (class, probability) on top."""
    out = []
    for name, p in tops:
        row = np.full(classes, (1 - p) / (classes - 1))
        row[name] = p
        out.append(row)
    return np.array(out, np.float32)


def test_decides_once_the_largest_probability_is_above_the_threshold():
    p = shares((0, 0.6), (1, 0.7), (1, 0.9), (0, 0.95))
    assert decisions(p, above(0.8)).tolist() == [-1, -1, 1, 1]
    assert decisions(p, above(0.8), latched=False).tolist() == [-1, -1, 1, 0]
    assert decisions(p, above(0.99)).tolist() == [-1] * 4
    assert decisions(p, above(0)).tolist() == [0] * 4


def test_samples_in_a_row_have_to_speak_for_the_same_class():
    p = shares((0, 0.9), (1, 0.9), (1, 0.9), (1, 0.6), (1, 0.9), (1, 0.9))
    assert decisions(p, above(0.8), k=2).tolist() == [-1, -1, 1, 1, 1, 1]
    assert decisions(p, above(0.8), k=2, latched=False).tolist() == [-1, -1, 1, -1, -1, 1]
    assert decisions(p, above(0.8), k=3).tolist() == [-1] * 6


def test_the_last_row_of_the_table_is_for_all_later_samples():
    p = shares(*[(1, 0.75)] * 5)
    assert decisions(p, [[1, 0, -0.9], [1, 0, -0.8], [1, 0, -0.7]]).tolist() == [-1, -1, 1, 1, 1]
    assert decisions(p, [[1, 0, -0.9]]).tolist() == [-1] * 5


def test_the_margin_is_that_over_the_second_class():
    sure = np.array([[0.5, 0.05, 0.45], [0.5, 0.25, 0.25]], np.float32)
    assert decisions(sure, [[0, 1, -0.2]]).tolist() == [-1, 0]


def test_of_equal_probabilities_the_first_class_is_decided_upon():
    assert decisions(np.full((1, 4), 0.25, np.float32), above(0)).tolist() == [0]


@pytest.mark.parametrize("latched", [True, False])
def test_many_rules_at_once_cost_what_each_costs(latched):
    rng = np.random.default_rng(0)
    p = [rng.dirichlet(np.ones(3), n).astype(np.float32) for n in rng.integers(1, 9, 40)]
    y, tables = rng.integers(0, 3, 40), rng.normal(size=(50, 4, 3)).astype(np.float32)
    for k in (1, 2):
        found = mean_costs(trace(p), y, tables, k, latched, Cost(2, 1), 8)
        for rule, cost in zip(tables, found, strict=True):
            assert score([decisions(q, rule, k, latched) for q in p], p, y, Cost(2, 1), 8).cost == pytest.approx(cost)


def test_score_counts_costs_and_steps():
    p = [shares((1, 0.9), (1, 0.9), (1, 0.9), (1, 0.9)), shares((0, 0.9), (0, 0.9), (1, 0.6), (1, 0.95))]
    decided = [decisions(q, above(0.8)) for q in p]
    s = score(decided, p, [1, 1], Cost(2.0, 1.0))
    assert (s.accuracy, s.earliness, s.undecided, s.changes) == (0.5, 0.25, 0, 0)
    assert s.cost == pytest.approx((0.25 + 2 + 0.25) / 2)
    assert s.accuracy_at_end == 1
    assert s.oracle_earliness == pytest.approx((1 / 4 + 3 / 4) / 2)
    assert s.least_cost == pytest.approx((0.25 + 0.75) / 2)


def test_without_a_decision_the_end_decides():
    p = [shares((0, 0.6), (1, 0.6))]
    s = score([decisions(p[0], above(0.9))], p, [1])
    assert (s.accuracy, s.earliness, s.undecided) == (1, 1, 1)


def test_a_revoked_decision_counts_from_where_it_stood_to_the_end():
    p = [shares((0, 0.9), (1, 0.9), (1, 0.5), (1, 0.9))]
    decided = [decisions(p[0], above(0.8), latched=False)]
    assert decided[0].tolist() == [0, 1, -1, 1]
    s = score(decided, p, [1])
    assert (s.accuracy, s.earliness, s.changes) == (1, 1, 2)


def test_sequences_of_different_lengths_end_where_they_end():
    p = [shares((1, 0.6), (1, 0.6)), shares(*[(0, 0.6)] * 3, (0, 0.95))]
    s = score([decisions(q, above(0.9)) for q in p], p, [1, 0], Cost(1, 1), n=8)
    assert (s.undecided, s.earliness, s.accuracy) == (1, 1, 1)
    assert s.cost == pytest.approx((2 / 8 + 4 / 8) / 2)


def test_scores_agree_with_scikit_learn():
    metrics = pytest.importorskip("sklearn.metrics")
    rng = np.random.default_rng(0)
    y, answers = rng.integers(0, 3, (2, 50))
    assert kappa(answers, y) == pytest.approx(metrics.cohen_kappa_score(answers, y))
    assert kappa(y * 0, y * 0) == 1


def test_small_figures():
    assert standard_error(np.array([1.0, 2, 3, 4])) == pytest.approx(np.sqrt(5 / 3) / 2)
    assert math.isnan(standard_error(np.array([1.0])))
    twice = standard_error(np.array([1.0, 1, 2, 2, 3, 3, 4, 4]), list("aabbccdd"))
    assert twice == pytest.approx(standard_error(np.array([1.0, 2, 3, 4])))


def test_pareto_leaves_what_is_beaten_out():
    points = [{"earliness": e, "accuracy": a} for e, a in ((0.5, 0.8), (0.2, 0.7), (0.6, 0.75), (0.2, 0.6), (1, 0.9))]
    assert [(p["earliness"], p["accuracy"]) for p in pareto(points)] == [(0.2, 0.7), (0.5, 0.8), (1, 0.9)]


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: Cost(error=0), "cost of error: expected a finite number above 0, got 0"),
        (lambda: Cost(delay=-1), "cost of delay: expected a finite number of at least 0"),
        (lambda: Cost(delay="1"), "cost of delay"),
        (lambda: decisions(np.array([[-2.0, 3]]), above(0)), "are they logits"),
        (lambda: decisions(np.array([[0.5]]), above(0)), "2 classes or more"),
        (lambda: decisions(shares((0, 0.9)), [[1, 0]]), "expected a table"),
        (lambda: score([np.array([0])], [shares((0, 0.9))], [0, 1]), "one label for each"),
        (lambda: score([np.array([0, 1])], [shares((0, 0.9))], [0]), "expected 1 decisions"),
        (lambda: score([], [], []), "at least one sequence"),
    ],
)
def test_what_does_not_fit_is_refused(call, says):
    with pytest.raises(InputError, match=says):
        call()
