"""`stepstream train`: from a CSV to a model that `stepstream run` takes."""

import json
from importlib.util import find_spec

import numpy as np
import pytest

import stepstream
from command import run

trains = pytest.mark.skipif(not all(map(find_spec, ("keras", "jax"))), reason="needs keras and jax")
QUICK = ("--label", "label", "--key", "key", "--units", "4", "--epochs", "2", "--batch", "8")


@pytest.fixture
def table(tmp_path):
    rng = np.random.default_rng(0)
    lines = ["key,a,b,label"]
    for key in range(8):
        lines += [
            f"{key},{v[0] + key % 2:.4f},{v[1]:.4f},{'up' if key % 2 else 'down'}" for v in rng.normal(size=(5, 2))
        ]
    path = tmp_path / "data.csv"
    path.write_text("\n".join(lines) + "\n")
    return path


@trains
def test_from_a_table_to_a_model(table, tmp_path):
    out = tmp_path / "model.keras"
    arguments = ("train", table, *QUICK, "--validation", "0.25", "--keras", out, "--folder", tmp_path / "checkpoints")
    report = json.loads(run(*arguments, "--json").stdout)
    assert report["classes"] == ["down", "up"]
    assert report["features"] == ["a", "b"]
    assert report["epochs"] == 2
    model = stepstream.load(out)
    assert model.run(np.zeros((1, 3, 2))).shape == (1, 3, 1)
    shown = run(*arguments).stdout.decode()  # goes on from the checkpoint: there is nothing left to do
    assert "trained on 6 sequences, 30 samples, 2 epochs" in shown
    assert "accuracy" in shown


@trains
def test_a_sweep_and_a_recipe_file(table, tmp_path):
    recipe = tmp_path / "recipe.json"
    recipe.write_text(json.dumps({"units": [3], "cell": "gru", "epochs": 1, "batch": 8}))
    arguments = ("--label", "label", "--key", "key", "--recipe", recipe, "--epochs", "2", "--sweep")
    out = run("train", table, *arguments, "--keras", tmp_path / "model.keras", "--json")
    report = json.loads(out.stdout)
    assert report["recipe"]["cell"] == "gru"
    assert len(report["sweep"]) == 6
    assert report["recipe"]["loss"] == report["sweep"][0]["loss"]
    assert report["recipe"]["epochs"] == report["sweep"][0]["epochs"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((), "expected a place for the model, got none; give --out, --keras or both"),
        (("--keras", "model.h5"), "expected a name for the Keras model that ends in .keras"),
        (("--out", "model.keras"), "expected a bundle's name, model.stepstream, got model.keras"),
        (("--keras", "model.keras", "--units", "a"), "--units: expected whole numbers separated by commas"),
        (("--keras", "model.keras", "--loss", "first"), "loss: expected one of last, mean, ramp"),
        (("--keras", "model.keras", "--sweep", "--validation", "0.25"), "--validation: expected none beside --sweep"),
        (("--keras", "model.keras", "--patience", "2"), "patience: expected none without a validation part"),
    ],
)
def test_what_is_refused(table, arguments, said):
    assert said in run("train", table, "--label", "label", "--key", "key", *arguments, code=2).stderr.decode()


def test_a_recipe_longer_than_any_is_refused_whole(table, tmp_path):
    recipe = tmp_path / "recipe.json"
    recipe.write_text('{"epochs": 1}' + " " * 2**20)  # cut off it would still be a recipe
    arguments = ("--label", "label", "--key", "key", "--recipe", recipe, "--keras", tmp_path / "model.keras")
    said = run("train", table, *arguments, code=2).stderr.decode()
    assert "recipe.json: expected a recipe of at most 1048576 bytes, got more" in " ".join(said.split())


@trains
def test_leaks_are_told_on_the_terminal_once(table, tmp_path):
    lines = table.read_text().splitlines()
    lines = [f"{line},{'tells' if not i else line.endswith('up') * 1}" for i, line in enumerate(lines)]
    table.write_text("\n".join(lines) + "\n")
    done = run("train", table, *QUICK, "--epochs", "1", "--keras", tmp_path / "model.keras", "--json")
    assert done.stderr.decode().count("feature tells: the value alone tells the label") == 1
    assert [g["name"] for g in json.loads(done.stdout)["guards"]] == ["label"]
