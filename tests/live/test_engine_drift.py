"""An engine says where live samples and answers are not distributed as those in training."""

import copy
import json
from dataclasses import dataclass

import numpy as np
import pytest
from engines import MODEL

from make import dense, model_of, recurrent
from stepstream import Engine, InputError
from stepstream.learn.distribution import drift_reference
from stepstream.live.drift import ENOUGH, MOVED, MOVING, WINDOW, excess, psi

THREE = model_of(recurrent("gru", 3, 4), dense(4, 3, "softmax"))
TWO = model_of(recurrent("gru", 3, 4), dense(4, 2, "softmax"))
NUMBER = model_of(recurrent("gru", 3, 4), dense(4, 1, "linear"))


@dataclass
class Data:
    x: list


def sequences(n, seed=1, shift=0.0):
    """Of 12 samples; the last of 3 features has two values."""
    x = np.random.default_rng(seed).normal(size=(n, 12, 3)).astype(np.float32)
    x[:, :, 2] = x[:, :, 2] > 0.2
    x[:, :, 0] += np.float32(shift)
    return Data(list(x))


def served(data, model=MODEL, how="many", watch=1, **options):
    """An engine that has answered them."""
    engine = Engine(model, "carry", watch=watch, reference=drift_reference(model, sequences(200)), **options)
    for t in range(12):
        if how == "many":
            engine.step_many(range(len(data.x)), np.stack([one[t] for one in data.x]))
        else:
            for key, one in enumerate(data.x):
                engine.step(key, one[t].tolist() if how == "one" else one[t : t + 1].tolist())
    return engine


def drift(engine):
    return engine.stats()["drift"]


@pytest.mark.parametrize("model", [MODEL, TWO, THREE])
def test_what_is_distributed_as_in_training_is_no_drift(model):
    found = drift(served(sequences(1000, seed=2), model))
    assert found["warnings"] == []
    assert found["note"] is None
    assert found["samples"] == 12_000
    assert max(one["psi"] for one in found["inputs"].values()) < MOVING
    assert found["probability"].keys() == {"1", "2", "3", "5", "7", "10"}
    assert max(one["psi"] for one in found["probability"].values()) < MOVING
    json.dumps(found, allow_nan=False)


@pytest.mark.parametrize("how", ["many", "one", "long way"])
def test_a_sensor_that_has_moved_is_named(how):
    model = type(MODEL)(MODEL.reading, features=["x", "y", "z"])
    found = drift(served(sequences(100, seed=2, shift=2.0), model, how))
    assert found["inputs"]["x"]["psi"] > MOVED
    assert found["inputs"]["y"]["psi"] < MOVED
    assert found["inputs"]["x"]["mean"] == pytest.approx(2.0, abs=0.2)
    assert found["inputs"]["x"]["mean_in_training"] == pytest.approx(0.0, abs=0.1)
    (said,) = [w for w in found["warnings"] if w.startswith("feature x")]
    value = found["inputs"]["x"]["psi"]
    assert f"its distribution has moved, PSI {value:.2f} (over 0.25)" in said
    assert "check the sensor or retrain" in said


def test_answers_that_have_moved_are_named_by_their_age():
    found = drift(served(sequences(600, seed=2, shift=3.0), THREE))
    assert any(w.startswith("probability of ") and "at age 7" in w for w in found["warnings"])


def test_a_feature_of_two_values_is_compared_value_by_value():
    data = sequences(200, seed=2)
    for one in data.x:
        one[:, 2] = 1
    found = drift(served(data))
    assert found["inputs"]["2"]["psi"] > MOVED
    assert found["inputs"]["1"]["psi"] < MOVING


def test_nothing_is_said_of_a_few_samples():
    data = sequences(80, shift=9.0)
    engine = served(data)  # 960 samples
    assert drift(engine)["inputs"]["0"]["psi"] is None
    assert drift(engine)["warnings"] == []
    for i in range(ENOUGH - 960):
        engine.step("more", data.x[0][i % 12])
    assert drift(engine)["inputs"]["0"]["psi"] > MOVED


def test_some_of_many_are_looked_at_and_which_depends_on_nothing_else():
    first, second = (drift(served(sequences(1100, seed=2), watch=10, how=how)) for how in ("many", "one"))
    for name, one in first["inputs"].items():
        assert one == pytest.approx(second["inputs"][name])
    assert first["samples"] == second["samples"]
    assert 1200 < first["samples"] < 1440  # of 13,200


def test_what_has_moved_back_is_forgotten():
    engine = served(sequences(100, seed=2, shift=5.0))
    assert drift(engine)["inputs"]["0"]["psi"] > MOVED
    calm = sequences(700, seed=3)
    for t in range(12):
        engine.step_many([f"calm {i}" for i in range(700)], np.stack([one[t] for one in calm.x]))
    assert drift(engine)["inputs"]["0"]["psi"] < MOVED


def test_refused_and_repeated_samples_are_not_looked_at():
    engine = Engine(MODEL, "carry", watch=1, reference=drift_reference(MODEL, sequences(20)))
    engine.step("a", [1.0, 2.0, 0.0], seq=1)
    engine.step("a", [1.0, 2.0, 0.0], seq=1)
    engine.step_many(["a", "b"], [[np.nan, 0, 0], [1, 2, 3]], on_bad="skip")
    assert drift(engine)["samples"] == 2


def test_numbers_have_no_probabilities():
    found = drift(served(sequences(90), NUMBER))
    assert found["probability"] == {}
    assert found["note"] is None
    assert found["inputs"]["0"]["psi"] < MOVING


def test_an_engine_that_is_not_told_to_watch_says_nothing():
    engine = Engine(MODEL, "carry")
    engine.step("a", [1.0, 2.0, 3.0])
    assert drift(engine) is None


def test_psi_is_that_of_the_textbook():
    expected = np.array([1000.0, 3000.0, 6000.0])
    got = np.array([3000.0, 3000.0, 4000.0])
    p, q = expected / 10_000, got / 10_000
    assert psi(expected, got) == pytest.approx(((q - p) * np.log(q / p)).sum(), rel=1e-3)
    assert psi(expected, expected / 10) == pytest.approx(0, abs=1e-5)


def test_chance_alone_is_no_drift():
    """Of so many samples as are asked for, weighed as they are, and a reference of a thousand, in 12 cells."""
    rng = np.random.default_rng(0)
    weight = (1 - 1 / WINDOW) ** np.arange(ENOUGH)
    plain, found = [], []
    for _ in range(300):
        one = np.bincount(rng.integers(0, 12, 1000), minlength=12).astype(float)
        other = np.bincount(rng.integers(0, 12, ENOUGH), weight, 12)
        plain.append(psi(one, other))
        found.append(excess(one, other))
    assert np.mean(plain) == pytest.approx(11 * (1 / 1000 + 1 / 924), rel=0.1)
    assert np.mean(np.array(found) == 0) > 0.5
    assert max(found) < MOVING / 2
    assert excess(one, np.roll(one * np.arange(12), 3)) > MOVED


@pytest.mark.parametrize(
    ("made", "served", "compared"),
    [
        ("carry", "carry", True),
        ("carry", "tumbling(4)", False),
        ("carry", "sliding(4)", False),
        ("carry", "session(9)", False),
        ("tumbling(4)", "tumbling(4)", True),
        ("tumbling(4)", "tumbling(5)", False),
        ("tumbling(4)", "carry", False),
        ("sliding(4, by=states)", "sliding(4, by=recompute)", True),
        ("carry", "tumbling(12)", True),  # no sequence has more than 12 samples: the answers are the same
        ("carry", "sliding(15)", True),
        ("tumbling(12)", "carry", True),
        ("tumbling(12)", "tumbling(11)", False),
        ("sliding(13)", "tumbling(12)", True),
    ],
)
def test_probabilities_are_compared_where_streams_are_cut_as_in_the_reference(made, served, compared):
    engine = Engine(MODEL, served, watch=1, reference=drift_reference(MODEL, sequences(400), made))
    data = sequences(1000, seed=2)
    for t in range(12):
        times = [float(t)] * 1000 if served.startswith("session") else None
        engine.step_many(range(1000), np.stack([one[t] for one in data.x]), time=times)
    found = drift(engine)
    assert found["warnings"] == []
    assert {one["psi"] < MOVING for one in found["inputs"].values()} == {True}
    if compared:
        assert found["note"] is None
        assert found["probability"]["3"]["psi"] < MOVING
    else:
        assert found["probability"] == {}
        assert f"under {made}, and this engine cuts by {served}" in found["note"]


def test_a_reference_without_probabilities_compares_inputs():
    made = drift_reference(MODEL, sequences(20))
    del made["probability"]
    found = drift(Engine(MODEL, "carry", watch=1, reference=made))
    assert found["probability"] == {}
    assert "the reference has none" in found["note"]


def test_a_reference_is_plain_numbers():
    made = drift_reference(THREE, sequences(50))
    assert made == json.loads(json.dumps(made, allow_nan=False))
    assert len(made["inputs"]["quantiles"]) == 3
    assert [len(q) for q in made["inputs"]["quantiles"]] == [11] * 3
    assert [sum(c) for c in made["inputs"]["counts"]] == [600] * 3
    steps = made["probability"]["by_step"]
    assert {age: np.sum(c) / 3 for age, c in steps.items()} == {
        "1": 50,
        "2": 50,
        "3": 100,
        "5": 100,
        "7": 150,
        "10": 150,
    }
    assert np.shape(drift_reference(MODEL, sequences(5))["probability"]["by_step"]["1"]) == (10,)


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({}, "an object at 'inputs', got None"),
        (5, "an object at 'inputs', got 5"),
        ({"inputs": {"mean": 1}}, "expected what learn.drift_reference returns .*'inputs.mean', got 1; make it"),
        (
            drift_reference(model_of(dense(2, 1), features=2), Data([np.zeros((4, 2), np.float32)])),
            "3 finite numbers at",
        ),
        (drift_reference(THREE, sequences(3)), "10 finite numbers from 0 at 'probability.by_step.1'"),
    ],
)
def test_another_reference_is_refused(given, says):
    with pytest.raises(InputError, match=says):
        Engine(MODEL, "carry", watch=10, reference=given)


GOOD = drift_reference(MODEL, sequences(3))


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("windowing", 5),
        ("windowing", None),
        ("windowing", "never"),
        ("longest", 0),
        ("longest", "12"),
        ("longest", float("inf")),
        ("inputs", [1]),
        ("inputs.mean", 5),
        ("inputs.mean", [0.0, 1.0, "2"]),
        ("inputs.mean", [0.0, 1.0, 10**400]),
        ("inputs.std", [1.0, 1.0, -1.0]),
        ("inputs.std", [1.0, 1.0, float("nan")]),
        ("inputs.edges", {"0": 1}),
        ("inputs.edges", GOOD["inputs"]["edges"][:2]),
        ("inputs.edges", [[2.0, 1.0]] * 3),
        ("inputs.edges", [[]] * 3),
        ("inputs.counts", [[1, 2]] * 3),
        ("inputs.counts", [[-1] * len(counts) for counts in GOOD["inputs"]["counts"]]),
        ("inputs.counts", [[0] * len(counts) for counts in GOOD["inputs"]["counts"]]),
        ("inputs.counts", [[1e300] * len(counts) for counts in GOOD["inputs"]["counts"]]),
        ("probability", 3),
        ("probability.by_step", [1]),
        ("probability.by_step", {"1": 3}),
        ("probability.by_step", {"1": [1] * 9}),
        ("probability.by_step", {"1": [[1] * 10]}),
        ("probability.by_step", {"1": [-1, *[1] * 9]}),
        ("probability.by_step", {"4": [1] * 10}),
        ("probability.by_step", {"one": [1] * 10}),
    ],
)
def test_whatever_a_file_says_is_checked(path, value):
    given = copy.deepcopy(GOOD)
    *parents, last = path.split(".")
    at = given
    for name in parents:
        at = at[name]
    at[last] = value
    with pytest.raises(InputError, match="expected"):
        Engine(MODEL, "carry", watch=1, reference=given)


def test_a_report_that_is_wrong_is_named():
    model = MODEL.with_graph(MODEL.graph, {"drift": {**GOOD, "inputs": 5}})
    with pytest.raises(InputError, match=r"the model's report 'drift': expected .* got 5; make it with this model"):
        Engine(model, "carry", watch=1)


def test_watching_needs_a_reference_and_a_reference_watching():
    with pytest.raises(InputError, match=r"learn\.drift_reference\(model, data\)"):
        Engine(MODEL, "carry", watch=10)
    with pytest.raises(InputError, match="watch=n"):
        Engine(MODEL, "carry", reference=drift_reference(MODEL, sequences(3)))
    with pytest.raises(InputError, match="watch: expected a whole number"):
        Engine(MODEL, "carry", watch=0.5)
    with pytest.raises(InputError, match="with samples, got none"):
        drift_reference(MODEL, Data([]))
