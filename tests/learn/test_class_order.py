"""Whose classes are whose: a model without names takes the data's, and is asked about where they seem to be swapped."""

import json

import numpy as np
import pytest

import stepstream
from command import run
from learn.walks import passing, walks
from make import model_of
from stepstream import Model
from stepstream.learn.calibration import calibrate
from stepstream.learn.data import sequences
from stepstream.learn.evaluation import evaluate
from stepstream.learn.trigger import fit_trigger

TIME = 10
SAID = "would be if the classes stood in the order"


def labels(m=120, names=("fall", "rise"), per_sample=False, seed=0, **more):
    """Walks with names as labels. Sorted by name as here, or in the order of `classes=`."""
    y, z = walks(m, TIME, seed=seed)
    texts = np.array(names)[np.repeat(y[:, None], TIME, axis=1) if per_sample else y]
    return sequences(2 * z[..., None].astype(np.float32), texts, features=["drift"], **more)


def told(data, model=None):
    """Which of the three calls ask whether the order is right."""
    model = passing() if model is None else model
    found = {
        "evaluate": [f.words for f in evaluate(model, data).findings],
        "calibrate": calibrate(model, data).warnings,
    }
    if not data.per_sample:
        found["decide"] = fit_trigger(model, data).warnings
    return {name for name, lines in found.items() if any(SAID in line for line in lines)}


def test_the_names_of_the_data_go_into_a_model_without_any():
    for made in (calibrate(passing(), labels()).model, fit_trigger(passing(), labels()).model):
        assert made.features == ("drift",)
        assert made.classes == ("fall", "rise")


def test_names_that_the_model_has_stay():
    model = Model(passing().reading, classes=["no", "yes"])
    data = labels(names=(0, 1))
    for made in (calibrate(model, data).model, fit_trigger(model, data).model):
        assert made.classes == ("no", "yes")


def test_features_that_nobody_named_stay_without_names():
    y, z = walks(60, TIME)
    assert calibrate(passing(), sequences(z[..., None], y)).model.features is None


@pytest.mark.parametrize("per_sample", [False, True])
def test_an_order_by_the_alphabet_that_is_not_the_model_s_is_asked_about(per_sample):
    swapped = labels(names=("wax", "ebb"), per_sample=per_sample)  # the model's first class is wax, the alphabet's ebb
    assert told(swapped) == {"evaluate", "calibrate"} | (set() if per_sample else {"decide"})
    assert told(labels(names=("wax", "ebb"), per_sample=per_sample, classes=("wax", "ebb"))) == set()


def test_two_of_three_classes_that_are_swapped_are_found():
    rng = np.random.default_rng(0)
    y = rng.integers(0, 3, 200)
    x = 4 * np.eye(3)[y][:, None] + rng.normal(size=(200, TIME, 3))
    weights = {"kernel": np.eye(3, dtype=np.float32), "bias": np.zeros(3, np.float32)}
    model = model_of(("dense", {"units": 3, "activation": {"name": "softmax"}}, weights), features=3)
    names = np.array(["a", "c", "b"])
    assert told(sequences(x, names[y]), model) == {"evaluate", "calibrate", "decide"}
    assert told(sequences(x, names[y], classes=("a", "c", "b")), model) == set()


def test_a_model_that_knows_nothing_or_says_one_thing_is_not_asked_about():
    rng = np.random.default_rng(0)
    for seed in range(20):
        x = rng.normal(size=(40, TIME, 1))
        assert told(sequences(x, rng.integers(0, 2, 40), classes=("a", "b"))) == set(), seed
    x = np.abs(rng.normal(size=(60, TIME, 1)))  # always the second class, which is rare
    assert told(sequences(x, (rng.random(60) < 0.1).astype(int), classes=("a", "b"))) == set()
    few = labels(m=5, names=("wax", "ebb"))
    assert "evaluate" not in told(few)  # five coins fall alike now and then


def test_a_model_with_names_is_told_to_compare_them():
    model = Model(passing().reading, classes=["rise", "fall"])  # the wrong way round
    words = [w for w in calibrate(model, labels()).warnings if SAID in w]
    assert "compare the labels with the names of the model's classes" in words[0]


def test_the_commands_name_the_option(tmp_path):
    passing().save(tmp_path / "model.stepstream")
    y, z = walks(120, TIME)
    texts = np.array(["wax", "ebb"])[y]
    np.savez(tmp_path / "data.npz", X=2 * z[..., None].astype(np.float32), y=texts, features=["drift"])
    files = tmp_path / "model.stepstream", tmp_path / "data.npz"
    for command, *more in (("evaluate",), ("calibrate", "--out", tmp_path / "o"), ("decide", "--out", tmp_path / "o")):
        wrong = " ".join(run(command, *files, *more).stdout.decode().split())
        assert "they may be in the wrong order, now ebb,wax" in wrong
        assert "--classes" in wrong
        right = run(command, *files, *more, "--classes", "wax,ebb", "--json").stdout.decode()
        assert SAID not in right
        json.loads(right)
    written = stepstream.load(tmp_path / "o")
    assert written.classes == ("wax", "ebb")
    assert written.features == ("drift",)
