"""When a trigger decides: by hand, against plain Python, and what a file must not say."""

import numpy as np
import pytest

from make import dense, model_of, random, recurrent
from stepstream.errors import GraphError
from stepstream.graph.attach import with_trigger
from stepstream.ops.executor import NumpyExecutor
from stepstream.testing import stepped

ALWAYS = [[0, 0, 1]]


def trigger(rule=ALWAYS, k=1, latched=True):
    return "trigger", {"k": k, "latched": latched}, {"rule": np.float32(rule)}


def decide(p, rule=ALWAYS, k=1, latched=True):
    """p: (time,) of one unit, or (time, classes) -> decisions as a list."""
    p = np.float32(p)
    p = p.reshape(1, len(p), -1)
    executor = NumpyExecutor(model_of(trigger(rule, k, latched), features=p.shape[2]).graph)
    found = stepped(executor, p)
    assert executor.whole(p)[0].tolist() == found.tolist()
    return found.ravel().astype(int).tolist()


def test_one_unit_is_two_classes():
    assert decide([0.9, 0.1, 0.5], latched=False) == [1, 0, 0]  # of equal ones the first
    assert decide([[0.2, 0.3, 0.5], [0.4, 0.4, 0.2]], latched=False) == [2, 0]


def test_the_score_has_to_be_above_zero():
    above = np.nextafter(np.float32(0.75), np.float32(1))
    assert decide([0.75, above], rule=[[1, 0, -0.75]]) == [-1, 1]
    assert decide([0.75, above], rule=[[0, 1, -0.5]]) == [-1, 1]  # p1 - p2
    assert decide([[0.5, 0.3, 0.2], [0.5, 0.2, 0.3], [0.6, 0.2, 0.2]], rule=[[0, 1, -0.25]]) == [-1, -1, 0]


def test_each_position_has_its_rule_and_the_last_one_stays():
    rule = [[1, 0, -0.9], [1, 0, -0.7], [1, 0, -0.6]]
    assert decide([0.8] * 4, rule) == [-1, 1, 1, 1]
    assert decide([0.65] * 4, rule) == [-1, -1, 1, 1]
    assert decide([0.3] * 5, rule) == [-1, -1, 0, 0, 0]
    assert decide([0.55] * 5, rule) == [-1] * 5


def test_k_samples_in_a_row_of_one_class():
    p = [0.9, 0.9, 0.1, 0.1, 0.1, 0.9, 0.9, 0.9, 0.9]
    assert decide(p, k=3, latched=False) == [-1, -1, -1, -1, 0, -1, -1, 1, 1]
    assert decide(p, k=3, latched=True) == [-1, -1, -1, -1, 0, 0, 0, 0, 0]
    unsure = [0.9, 0.9, 0.6, 0.9, 0.9, 0.9]
    assert decide(unsure, rule=[[1, 0, -0.7]], k=3, latched=False) == [-1, -1, -1, -1, -1, 1]


def test_nan_decides_nothing_and_what_is_latched_stays():
    nan = float("nan")
    assert decide([nan, 0.9, nan, 0.9]) == [-1, 1, 1, 1]
    assert decide([nan, 0.9, nan, 0.9], latched=False) == [-1, 1, -1, 1]
    assert decide([[nan, 0.9, 0.1], [0.1, 0.9, nan], [0.1, 0.9, 0]], latched=False) == [-1, -1, 1]


def plainly(p, rule, k, latched):
    """The same sample by sample, in Python; p (time, classes) of float32."""
    streak, last, decision, out = 0, None, -1, []
    for t, row in enumerate(p):
        order = sorted(range(len(row)), key=lambda j: (-row[j], j))
        a, b, c = rule[min(t, len(rule) - 1)]
        first, second = row[order[0]], row[order[1]]
        if a * first + b * (first - second) + c > 0:
            streak, last = (streak + 1 if order[0] == last else 1), order[0]
        else:
            streak, last = 0, None
        now = last if streak >= k else -1
        decision = decision if latched and decision >= 0 else now
        out.append(decision)
    return out


@pytest.mark.parametrize("latched", [True, False])
@pytest.mark.parametrize("k", [1, 2, 4])
@pytest.mark.parametrize("classes", [1, 2, 3, 7])
def test_it_is_what_plain_python_says(classes, k, latched):
    rng = np.random.default_rng([classes, k])
    for seed in range(10):
        p = rng.random((30, max(classes, 2)), np.float32)
        p = p / p.sum(axis=1, keepdims=True)
        p[rng.random(30) < 0.5] = p[0]  # so that a class stays on top for a while
        rule = np.stack([1 + random(6, seed=seed), random(6, seed=seed + 50), -0.5 * np.ones(6)], 1).astype(np.float32)
        if classes == 1:
            p = np.stack([1 - p[:, 1], p[:, 1]], axis=1)
        found = decide(p[:, 1:] if classes == 1 else p, rule, k, latched)
        assert found == plainly(p, rule, k, latched)


@pytest.mark.parametrize(
    ("op", "message"),
    [
        (trigger(k=0), "expected k to be a whole number from 1 to 16777216, got 0"),
        (trigger(k=2**25), "expected k to be a whole number from 1 to 16777216, got 33554432"),
        (trigger(k=1.0), r"expected k to be a whole number from 1 to 16777216, got 1\.0"),
        (trigger(k=True), "got True"),
        (trigger(latched=1), "expected latched to be true or false, got 1"),
        (trigger([[0, 0]]), r"expected a rule \(n, 3\), n from 1 to 16777216, got \(1, 2\)"),
        (trigger(np.zeros((0, 3))), r"weights \['rule'\] hold no numbers"),
        (trigger([0, 0, 1]), r"got \(3,\)"),
        (trigger([[0, 0, np.nan]]), "weight 'rule' holds NaN or Inf"),
        (("trigger", {"k": 1, "latched": True}, {}), "got none"),
        (("trigger", {"k": 1}, {"rule": np.ones((1, 3))}), r"parameters \['latched'\] are missing"),
    ],
)
def test_a_file_that_says_something_else_is_refused(op, message):
    with pytest.raises(GraphError, match=message):
        model_of(op, features=2)


def test_a_model_that_gives_its_latest_value_alone_decides_as_one_that_gives_all():
    """The whole pass needs every probability for a decision, also where only the last is asked for."""
    x = np.random.default_rng(2).normal(size=(6, 9, 3)).astype(np.float32)
    found = []
    for sequences in (True, False):
        ops = recurrent("gru", 3, 4, sequences=True), recurrent("lstm", 4, 4, sequences=sequences), dense(4, 1)
        graph = with_trigger(model_of(*ops).graph, [[1, 0, -0.55]], k=2)
        executor = NumpyExecutor(graph)
        found.append(np.stack([executor.last(x[:, : t + 1])[1] for t in range(9)], axis=1))
        assert (stepped(executor, x)[..., -1:] == found[-1]).all()
    assert (found[0] == found[1]).all()
    assert len(np.unique(found[0])) > 1
