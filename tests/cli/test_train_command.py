"""`stepstream train`: from a CSV to a model that `stepstream run` takes."""

import json
import os
import signal
import subprocess
import time
from importlib.util import find_spec

import numpy as np
import pytest

import stepstream
from command import STEPSTREAM, run

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
    assert len(report["sweep"]) == 10
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


def test_what_cannot_be_written_is_refused_before_training(table, tmp_path):
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder.keras").mkdir()
    data = ("train", table, "--label", "label", "--key", "key", "--epochs", "100000")  # which nobody would wait for
    for arguments, words in (
        (("--out", tmp_path / "nowhere" / "m.stepstream"), "--out: expected a file in a folder that is there"),
        (("--out", tmp_path / "folder"), "--out: expected a file, got the folder"),
        (("--out", tmp_path / "folder.stepstream", "--keras", tmp_path / "folder.keras"), "--keras: expected a file"),
        (("--out", tmp_path / "model.h5"), "expected a bundle's name, model.stepstream"),
        (("--out", tmp_path / "m.stepstream", "--folder", table), "--folder: expected a folder, got the file"),
        (("--keras", tmp_path / "m.keras", "--decide"), "--calibrate, --decide: expected --out too"),
        (("--out", tmp_path / "m.stepstream", "--cost-delay", "1"), "--cost-delay: expected --decide too"),
    ):
        assert words in run(*data, *arguments, code=2).stderr.decode()


@trains
def test_one_line_from_one_file_to_a_model_that_is_calibrated_and_decides(table, tmp_path):
    out = tmp_path / "model.stepstream"
    done = run("train", table, *QUICK, "--decide", "--cost-delay", "0.5", "--out", out)
    shown = done.stdout.decode()
    for words in (
        "trained on 8 sequences",
        "calibration, by models that had not seen",
        "decisions, by models",
        "tried",
    ):
        assert words in shown
    model = stepstream.load(out)
    assert model.decides
    assert model.reports["trigger"]["cost"]["delay"] == 0.5
    assert model.reports["trigger"]["probabilities_given"]
    assert model.reports["calibration"]["out_of_fold_logits"]
    report = json.loads(run("train", table, *QUICK, "--calibrate", "--out", out, "--json").stdout)
    assert report["calibration"]["sequences"] == 8
    assert not stepstream.load(out).decides


@trains
def test_a_network_of_ones_own_is_trained_on(table, tmp_path):
    import keras

    made = [keras.layers.Input((None, 2)), keras.layers.GRU(3), keras.layers.Dense(1, activation="sigmoid")]
    keras.Sequential(made).save(own := tmp_path / "own.keras")
    out = tmp_path / "model.stepstream"
    run("train", table, *QUICK, "--network", own, "--rate", "1e-9", "--out", out, "--calibrate")
    trained, given = stepstream.load(out), keras.saving.load_model(own)
    x = np.random.default_rng(0).normal(size=(4, 5, 2)).astype(np.float32)
    scale = trained.reports["training"]["scaling"]
    wanted = given.predict((x - np.array(scale["mean"])) / np.array(scale["std"]), verbose=0)
    np.testing.assert_allclose(trained.run(x)[:, -1], wanted, atol=1e-5)
    for path, said in ((tmp_path / "model.keras", "scales them once more"), (out, "expected a file that Keras opens")):
        refused = run("train", table, *QUICK, "--network", path, "--out", tmp_path / "b.stepstream", code=2)
        assert said in refused.stderr.decode()


@trains
def test_it_says_what_it_learns_from(table, tmp_path):
    lines = table.read_text().splitlines()
    table.write_text("\n".join([f"{lines[0]},same", *(f"{line},7" for line in lines[1:])]) + "\n")
    arguments = (*QUICK, "--classes", "down,up,sideways", "--validation", "0.25", "--keras", tmp_path / "m.keras")
    said = run("train", table, *arguments).stderr.decode()
    assert "6 sequences, 30 samples; features: a, b, same" in said
    assert "classes: down 50% (3), up 50% (3), sideways 0% (0)" in said
    assert "held out: 2 sequences, 10 samples" in said
    assert "feature same: never changes in the training data" in said
    assert "no training data of class sideways" in said


@trains
def test_a_sweep_fits_a_narrow_terminal(table, tmp_path):
    arguments = (*QUICK, "--epochs", "1", "--sweep", "--patience", "1", "--keras", tmp_path / "model.keras")
    shown = run("train", table, *arguments, env={"COLUMNS": "80"}).stdout.decode()
    head, *rest = shown.splitlines()
    for name in ("noise", "epochs", "val. loss", "accuracy", "end auc"):
        assert name in head
    assert "…" not in shown
    assert max(map(len, (head, *rest[:6]))) <= 80
    assert len({len(line.split()) for line in rest[:6]}) == 1


@trains
@pytest.mark.skipif(os.name != "posix", reason="needs signals")
@pytest.mark.parametrize("kept", [True, False])
def test_ctrl_c_says_where_it_stopped_and_how_to_go_on(table, tmp_path, kept):
    folder = tmp_path / "checkpoints"
    arguments = ["train", table, *QUICK, "--epochs", "100000", "--out", tmp_path / "model.stepstream"]
    arguments += ["--folder", folder] if kept else []
    with subprocess.Popen([*STEPSTREAM, *map(str, arguments)], stderr=subprocess.PIPE, stdout=subprocess.PIPE) as job:
        end = time.monotonic() + 100
        if kept:
            while not (folder / "checkpoint.npz").exists() and time.monotonic() < end:
                time.sleep(0.05)
        else:
            assert b"8 sequences" in job.stderr.readline()
        job.send_signal(signal.SIGINT)
        _, said = job.communicate(timeout=100)
    assert job.returncode == 130
    last = said.decode().splitlines()[-1]
    assert last.startswith("stepstream: stopped by Ctrl-C (")
    if kept:
        assert "(train, after epoch" in last or "(train, in epoch 1 of 100000)" in last
        assert "of 100000): no model was written" in last
        assert f"the same command goes on from the checkpoint in {folder}" in last
    else:
        assert "nothing was written; with --folder the same command would go on" in last
    assert "Traceback" not in said.decode()
    assert not (tmp_path / "model.stepstream").exists()
