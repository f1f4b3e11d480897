"""Fitted triggers in models: what they decide, sample by sample, and what is reported of them."""

import json
from dataclasses import replace

import numpy as np
import pytest

from learn.walks import chances, labelled, passing, walks
from stepstream.errors import InputError
from stepstream.graph import attach
from stepstream.learn import decision_rules as rules
from stepstream.learn.answers import probabilities, raw_logits
from stepstream.learn.calibration import calibrate
from stepstream.learn.data import sequences
from stepstream.learn.decision_rules import Cost
from stepstream.learn.rule_families import FAMILIES, threshold
from stepstream.learn.trigger import GAP, fit_trigger

TIME = 12


@pytest.fixture(scope="module")
def data():
    y, z = walks(150, TIME)
    return labelled(y, z)


@pytest.fixture(scope="module")
def new():
    y, z = walks(1000, TIME, seed=9)
    return labelled(y, z)


@pytest.mark.parametrize(
    ("family", "latched"), [*((family, latched) for family in FAMILIES for latched in (True, False)), (GAP, True)]
)
def test_the_model_decides_as_the_simulation_does_bit_for_bit(data, family, latched):
    trigger = fit_trigger(passing(), data, family=family, latched=latched)
    expected = trigger.decisions(probabilities(passing(), data))
    for x, wanted in zip(data.x[:40], expected, strict=False):
        stream = trigger.model.stream("carry")
        got = []
        for sample in x:
            stream.step(sample)
            got.append(-1 if stream.decision is None else stream.decision)
        assert got == wanted.tolist()


@pytest.mark.parametrize("units", [1, 2, 5])
@pytest.mark.parametrize("latched", [True, False])
def test_random_rules_decide_in_the_model_as_in_the_simulation(units, latched):
    rng = np.random.default_rng(units)
    x = rng.normal(size=(30, 40, 1)).astype(np.float32) * 3
    for k in (1, 2, 5):
        rule = rng.normal(size=(17, 3)).astype(np.float32)
        model = passing(units)
        model = model.with_graph(attach.with_trigger(model.graph, rule, k, latched))
        for row in x:
            stream, p, got = model.stream("carry"), [], []
            for sample in row:
                p.append(np.atleast_1d(stream.step(sample)))
                got.append(-1 if stream.decision is None else stream.decision)
            p = np.array(p, np.float32).reshape(len(row), -1)
            p = np.concatenate([1 - p, p], axis=1) if units == 1 else p
            assert rules.decisions(p, rule, k, latched).tolist() == got


def test_the_cheapest_family_is_taken_and_all_are_reported(data, new):
    trigger = fit_trigger(passing(), data, cost=Cost(1, 0.5))
    tried = trigger.report["tried"]
    assert {t["family"] for t in tried} == set(FAMILIES)
    best = min(tried, key=lambda t: t["cost"])
    assert trigger.family == best["family"]
    assert trigger.report["cross_validated"]["cost"] == best["cost"]
    beside = trigger.report["beside"]
    score = trigger.score(new)
    assert score.least_cost < score.cost < min(beside[name]["cost"] for name in beside) + 0.03
    assert score.cost == pytest.approx(best["cost"], abs=4 * trigger.report["cross_validated"]["cost_error"])
    earliness = [p["earliness"] for p in trigger.report["pareto"]]
    accuracy = [p["accuracy"] for p in trigger.report["pareto"]]
    assert earliness == sorted(earliness)
    assert accuracy == sorted(accuracy)
    assert len(earliness) > 3
    json.dumps(trigger.report, allow_nan=False)


def test_dear_waiting_decides_early_and_cheap_waiting_late(data, new):
    early, late = (fit_trigger(passing(), data, cost=Cost(1, delay)).score(new) for delay in (2.0, 0.05))
    assert early.earliness < late.earliness - 0.2
    assert early.accuracy < late.accuracy


def test_the_probabilities_are_what_they_were(data):
    model = passing()
    trigger = fit_trigger(model, data)
    for a, b in zip(probabilities(model, data), probabilities(trigger.model, data), strict=True):
        np.testing.assert_array_equal(a, b)
    assert trigger.model.decides
    assert not model.decides


def test_a_trigger_replaces_the_one_before_and_stands_behind_a_calibration(data):
    y, z = walks(300, TIME)
    sure = labelled(y, 2 * z)
    calibration = calibrate(passing(), sure)
    trigger = fit_trigger(calibration.model, sure, family="threshold", probabilities=calibration.probabilities)
    again = fit_trigger(trigger.model, sure, family="threshold", probabilities=calibration.probabilities)
    assert again.model.graph == trigger.model.graph
    assert attach.without_trigger(trigger.model.graph) == calibration.model.graph
    assert trigger.report["probabilities_given"]


def test_the_guarantee_is_reported(data, new):
    trigger = fit_trigger(passing(), data, family=GAP, alpha=0.1, delta=0.1)
    promise = trigger.report["guarantee"]
    assert promise["gap"] < 0.1
    assert promise["p_value"] <= 0.1
    score = trigger.score(new)
    assert score.accuracy > score.accuracy_at_end - 0.1
    assert score.earliness < 0.95


def test_several_samples_in_a_row_if_the_user_says_so(data):
    trigger = fit_trigger(passing(), data, k=3)
    assert trigger.k == 3
    assert {t["k"] for t in trigger.report["tried"]} == {3}
    assert min((d >= 0).argmax() for d in trigger.decisions(probabilities(passing(), data)) if d.max() >= 0) >= 2


def test_sequences_of_different_lengths_and_several_classes():
    rng = np.random.default_rng(0)
    y, lengths = rng.integers(0, 3, 90), rng.integers(4, 15, 90)
    drift = np.array([-3, 0.7, 4])[y]
    x = [(d * np.linspace(0.2, 1, n) + rng.normal(size=n))[:, None] for d, n in zip(drift, lengths, strict=True)]
    trigger = fit_trigger(passing(3), sequences(x, y, classes=("a", "b", "c")), cost=Cost(1, 0.3))
    assert 0.4 < trigger.report["cross_validated"]["accuracy"] <= 1
    assert trigger.n == max(map(len, x))


def test_a_model_that_ends_after_its_training_length_counts_the_delay_over_that(data):
    trigger = fit_trigger(passing(training_length=24), data, family="expected cost")
    assert (trigger.n, len(trigger.rule)) == (24, 24)


def test_a_trigger_that_has_to_be_served_under_carry_says_so(data):
    beyond = fit_trigger(passing(training_length=5), data)
    (warning,) = beyond.warnings
    assert "up to 12 samples" in warning
    assert 'Engine(model, "carry")' in warning
    assert "run --windowing carry" in warning
    assert not fit_trigger(passing(training_length=TIME), data).warnings


def test_errors_are_those_of_streams_however_often_a_stream_occurs(data):
    """Twenty copies of a stream say no more than one of them."""
    some = data.some(range(60))
    copies = sequences(
        np.repeat(np.stack(some.x), 20, axis=0),
        np.repeat(np.array(some.y), 20),
        streams=np.repeat(some.streams, 20),
        classes=some.classes,
    )
    once, often = (fit_trigger(passing(), of, family="threshold", k=1) for of in (some, copies))
    assert often.score(copies).cost_error == pytest.approx(often.score(some).cost_error)
    assert often.report["beside"]["at_the_end"]["cost_error"] == pytest.approx(
        once.report["beside"]["at_the_end"]["cost_error"]
    )
    assert often.report["cross_validated"]["cost_error"] > 0.5 * once.report["cross_validated"]["cost_error"]
    assert often.report["tried"][0]["cost_error"] == often.report["cross_validated"]["cost_error"]


def test_little_data_is_said():
    y, z = walks(20, TIME)
    trigger = fit_trigger(passing(), labelled(y, z))
    assert "rests on 20 streams" in trigger.warnings[0]
    assert trigger.report["warnings"] == list(trigger.warnings)


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda d: fit_trigger(passing(), d, family="soon"), "family: expected auto, threshold"),
        (lambda d: fit_trigger(passing(), d, k=0), "k: expected a whole number"),
        (lambda d: fit_trigger(passing(), d, family=GAP, latched=False), "expected a latched trigger"),
        (lambda d: fit_trigger(passing(), d, family=GAP, alpha=0.01), "expected at least 344 streams"),
        (lambda d: fit_trigger(passing(), d, probabilities=chances([[0.5]])), "expected those of 150"),
        (lambda d: fit_trigger(passing(), d, probabilities=[np.zeros((2, 2))] * 150), r"expected shape \(12, 2\)"),
        (
            lambda d: fit_trigger(passing(), d, probabilities=[np.full((12, 2), 0.7)] * 150),
            "'0', sample 1: expected numbers from 0 to 1 that sum up to 1",
        ),
        (lambda d: fit_trigger(passing(), d, probabilities=[np.full((12, 2), np.nan)] * 150), "sum up to 1"),
        (lambda d: fit_trigger(passing(), d, probabilities=raw_logits(passing(), d)), "not its logits"),
        (lambda d: fit_trigger(passing(), d.some(np.array(d.y) == 1)), "at least 2 classes .*, got 'up' alone"),
        (
            lambda d: rules.decisions(np.full((12, 2), 0.5), threshold(0.5), k=0),
            "k: expected a whole number of samples",
        ),
        (lambda d: fit_trigger(passing(), replace(d, streams=("a",) * 150)), "at least 2 streams"),
        (lambda d: fit_trigger(passing(), sequences([[[0.5], [1]]] * 4, [[0, 1]] * 4)), "a label for each sample"),
        (lambda d: fit_trigger(passing(), sequences([[[0.5], [1]]] * 2, [0.5, 2])), "numbers to be predicted"),
    ],
)
def test_what_does_not_fit_is_refused(data, call, says):
    with pytest.raises(InputError, match=says):
        call(data)


def test_a_users_own_keras_model_is_calibrated_and_decides_without_retraining(model):
    rng = np.random.default_rng(0)
    y = rng.integers(0, 2, 30)
    x = rng.normal(size=(30, 9, 3)) + (2 * y - 1)[:, None, None]
    own = sequences(x, y, features=["x", "y", "z"])
    calibration = calibrate(model, own, method="temperature")
    trigger = fit_trigger(calibration.model, own, probabilities=calibration.probabilities, family="expected cost")
    stream = trigger.model.stream("carry")
    values = [stream.step(sample) for sample in own.x[0]]
    assert stream.decision in {0, 1}
    np.testing.assert_array_equal(values, probabilities(calibration.model, own)[0][:, 1])
    assert trigger.model.features == ("x", "y", "z")
