"""An engine says where live samples and answers are not distributed as those in training."""

import json
from dataclasses import dataclass

import numpy as np
import pytest
from engines import MODEL

from make import dense, model_of, recurrent
from stepstream import Engine, InputError
from stepstream.learn.drift import reference
from stepstream.live.drift import ENOUGH, MOVED, MOVING, psi

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
    engine = Engine(model, "carry", watch=watch, reference=reference(model, sequences(200)), **options)
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
    found = drift(served(sequences(300, seed=2), model))
    assert found["warnings"] == []
    assert found["samples"] == 3600
    assert max(one["psi"] for one in found["inputs"].values()) < MOVING
    assert found["probability"].keys() == {"1", "2", "3", "5", "7", "10"}
    assert max(one["psi"] for one in found["probability"].values()) < MOVING
    json.dumps(found, allow_nan=False)


@pytest.mark.parametrize("how", ["many", "one", "long way"])
def test_a_sensor_that_has_moved_is_named(how):
    model = type(MODEL)(MODEL.reading, features=["x", "y", "z"])
    found = drift(served(sequences(40, seed=2, shift=2.0), model, how))
    assert found["inputs"]["x"]["psi"] > MOVED
    assert found["inputs"]["y"]["psi"] < MOVED
    assert found["inputs"]["x"]["mean"] == pytest.approx(2.0, abs=0.2)
    assert found["inputs"]["x"]["mean in training"] == pytest.approx(0.0, abs=0.1)
    (said,) = [w for w in found["warnings"] if w.startswith("feature x")]
    value = found["inputs"]["x"]["psi"]
    assert f"its distribution has moved, PSI {value:.2f} (over 0.25)" in said
    assert "check the sensor or retrain" in said


def test_answers_that_have_moved_are_named_by_their_age():
    found = drift(served(sequences(300, seed=2, shift=3.0), THREE))
    assert any(w.startswith("probability of ") and "at age 7" in w for w in found["warnings"])


def test_a_feature_of_two_values_is_compared_value_by_value():
    data = sequences(200, seed=2)
    for one in data.x:
        one[:, 2] = 1
    found = drift(served(data))
    assert found["inputs"]["2"]["psi"] > MOVED
    assert found["inputs"]["1"]["psi"] < MOVING


def test_nothing_is_said_of_a_few_samples():
    data = sequences(10, shift=9.0)
    engine = served(data)  # 120 samples
    assert drift(engine)["inputs"]["0"]["psi"] is None
    assert drift(engine)["warnings"] == []
    for i in range(ENOUGH - 120):
        engine.step("more", data.x[0][i % 12])
    assert drift(engine)["inputs"]["0"]["psi"] > MOVED


def test_some_of_many_are_looked_at_and_which_depends_on_nothing_else():
    first, second = (drift(served(sequences(300, seed=2), watch=10, how=how)) for how in ("many", "one"))
    for name, one in first["inputs"].items():
        assert one == pytest.approx(second["inputs"][name])
    assert first["samples"] == second["samples"]
    assert 300 < first["samples"] < 420  # of 3,600


def test_what_has_moved_back_is_forgotten():
    engine = served(sequences(100, seed=2, shift=5.0))
    assert drift(engine)["inputs"]["0"]["psi"] > MOVED
    calm = sequences(700, seed=3)
    for t in range(12):
        engine.step_many([f"calm {i}" for i in range(700)], np.stack([one[t] for one in calm.x]))
    assert drift(engine)["inputs"]["0"]["psi"] < MOVED


def test_refused_and_repeated_samples_are_not_looked_at():
    engine = Engine(MODEL, "carry", watch=1, reference=reference(MODEL, sequences(20)))
    engine.step("a", [1.0, 2.0, 0.0], seq=1)
    engine.step("a", [1.0, 2.0, 0.0], seq=1)
    engine.step_many(["a", "b"], [[np.nan, 0, 0], [1, 2, 3]], on_bad="skip")
    assert drift(engine)["samples"] == 2


def test_numbers_have_no_probabilities():
    found = drift(served(sequences(30), NUMBER))
    assert found["probability"] == {}
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


def test_a_reference_is_plain_numbers():
    made = reference(THREE, sequences(50))
    assert made == json.loads(json.dumps(made, allow_nan=False))
    assert len(made["inputs"]["quantiles"]) == 3
    assert [len(q) for q in made["inputs"]["quantiles"]] == [11] * 3
    assert [sum(c) for c in made["inputs"]["counts"]] == [600] * 3
    steps = made["probability"]["by step"]
    assert {age: np.sum(c) / 3 for age, c in steps.items()} == {
        "1": 50,
        "2": 50,
        "3": 100,
        "5": 100,
        "7": 150,
        "10": 150,
    }
    assert np.shape(reference(MODEL, sequences(5))["probability"]["by step"]["1"]) == (10,)


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({}, "expected what learn.drift.reference returns"),
        ({"inputs": {"mean": 1}}, "expected what learn.drift.reference returns"),
        (reference(model_of(dense(2, 1), features=2), Data([np.zeros((4, 2), np.float32)])), "one of 3 features"),
        (reference(THREE, sequences(3)), "1 probabilities"),
    ],
)
def test_another_reference_is_refused(given, says):
    with pytest.raises(InputError, match=says):
        Engine(MODEL, "carry", watch=10, reference=given)


def test_watching_needs_a_reference_and_a_reference_watching():
    with pytest.raises(InputError, match=r"learn\.drift\.reference\(model, data\)"):
        Engine(MODEL, "carry", watch=10)
    with pytest.raises(InputError, match="watch=n"):
        Engine(MODEL, "carry", reference=reference(MODEL, sequences(3)))
    with pytest.raises(InputError, match="watch: expected a whole number"):
        Engine(MODEL, "carry", watch=0.5)
    with pytest.raises(InputError, match="with samples, got none"):
        reference(MODEL, Data([]))
