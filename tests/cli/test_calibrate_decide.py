"""calibrate and decide as a user calls them: from a model and a file of labelled data to a model that decides."""

import json

import numpy as np
import pytest

import stepstream
from command import run
from learn.walks import passing, walks
from stepstream import learn

TIME = 10


@pytest.fixture
def files(tmp_path):
    """Model, data and held-out data."""
    passing().save(tmp_path / "model.stepstream")
    for name, m, seed in (("data", 120, 0), ("more", 200, 1)):
        y, z = walks(m, TIME, seed=seed)
        np.savez(tmp_path / f"{name}.npz", X=2 * z[..., None].astype(np.float32), y=np.array(["down", "up"])[y])
    return tmp_path


def test_from_a_model_to_one_that_is_calibrated_and_decides(files):
    model, data, more = (files / name for name in ("model.stepstream", "data.npz", "more.npz"))
    told = run("calibrate", model, data, "--held-out", more, "--out", files / "calibrated.stepstream").stdout.decode()
    assert told.startswith("temperature\ntemperature 1.")
    for words in ("cross-validated", "held-out", "calibration error", "log loss at sample 10", "temperature by step"):
        assert (words in told) == (words != "temperature by step")  # for which 120 streams are too few
    calibrated = stepstream.load(files / "calibrated.stepstream")
    assert calibrated.calibrated
    assert calibrated.reports["calibration"]["method"] == "temperature"

    out = files / "decides.stepstream"
    told = run(
        "decide", files / "calibrated.stepstream", data, "--held-out", more, "--out", out, "--cost-delay", 0.5
    ).stdout.decode()
    for words in ("cross-validated", "held-out", "at the end", "an oracle", "tried", "what could be had"):
        assert words in told
    assert "the model was calibrated on these very data" in told
    decides = stepstream.load(out)
    assert decides.decides
    assert set(decides.reports) == {"calibration", "trigger"}
    assert decides.reports["trigger"]["held_out"]["sequences"] == 200
    stream = decides.stream("carry")
    for _ in range(TIME):
        stream.step([9.0])
    assert stream.decision == 1


def test_both_in_one_command_from_the_same_data(files):
    model, data, more = (files / name for name in ("model.stepstream", "data.npz", "more.npz"))
    out = files / "decides.stepstream"
    told = run("decide", model, data, "--calibrate", "--held-out", more, "--out", out).stdout.decode()
    assert told.startswith("temperature\ntemperature 1.")
    assert "an oracle" in told
    assert "very data" not in told
    decides = stepstream.load(out)
    assert decides.calibrated
    assert decides.decides
    calibration = learn.calibrate(stepstream.load(model), learn.read(data))
    p = calibration.probabilities
    trigger = learn.fit_trigger(calibration.model, learn.read(data), probabilities=p)
    assert decides.fingerprint == trigger.model.fingerprint
    report = json.loads(run("decide", model, data, "--calibrate", "--out", out, "--json").stdout)
    assert report["calibration"]["method"] == "temperature"


def test_json_for_a_program(files):
    model, data = files / "model.stepstream", files / "data.npz"
    report = json.loads(run("calibrate", model, data, "--out", files / "out.stepstream", "--json").stdout)
    assert report["method"] == "temperature"
    arguments = ("--out", files / "out.stepstream", "--family", "accuracy gap", "--alpha", 0.1, "--json")
    report = json.loads(run("decide", model, data, *arguments).stdout)
    assert report["guarantee"]["alpha"] == 0.1
    assert report["on_its_own_data"]["accuracy"] > 0.7


def test_a_guarantee_in_words(files):
    arguments = ("--out", files / "out.stepstream", "--family", "accuracy gap", "--alpha", 0.1)
    told = run("decide", files / "model.stepstream", files / "data.npz", *arguments).stdout.decode()
    assert "with probability 0.9 at most 0.1 of accuracy is lost" in " ".join(told.split())


def test_pictures(files):
    pytest.importorskip("matplotlib")
    for command in ("calibrate", "decide"):
        picture = files / f"{command}.png"
        run(command, files / "model.stepstream", files / "data.npz", "--out", files / "o.stepstream", "--png", picture)
        assert picture.read_bytes().startswith(b"\x89PNG")


def test_what_is_wrong_is_said_and_nothing_is_written(files):
    model, data, out = files / "model.stepstream", files / "data.npz", files / "out.stepstream"
    numbers = files / "numbers.npz"
    np.savez(numbers, X=np.ones((4, 3, 1)), y=[0.5, 1, 0, 1])
    for arguments, words in (
        (("calibrate", model, data, "--out", out, "--method", "platt"), "method: expected auto, identity"),
        (("calibrate", model, data, "--out", model), "expected another file"),
        (("calibrate", model, data, "--out", files), "--out: expected a file, got the folder"),
        (("calibrate", model, data, "--out", files / "out.keras"), "expected a bundle's name"),
        (("decide", model, data, "--out", files / "no" / "out"), "--out: expected a file in a folder that is there"),
        (("decide", model, data, "--out", out, "--png", "o.pdf"), "--png: expected a name that ends in .png"),
        (("decide", model, data, "--out", out, "--held-out", files / "no.npz"), "no.npz: No such file"),
        (("calibrate", model, data, "--out", out, "--held-out", numbers), "held_out (--held-out): expected data with"),
        (("decide", model, data, "--out", out, "--family", "soon"), "family: expected auto, threshold"),
        (("decide", model, data, "--out", out, "--cost-error", 0), "cost of error: expected a finite number above 0"),
        (("decide", model, data, "--out", out, "--family", "accuracy gap", "--alpha", 0.01), "expected at least 344"),
    ):
        assert words in run(*arguments, code=2).stderr.decode()
    assert not out.exists()


def test_a_picture_of_nothing_is_refused(files):
    pytest.importorskip("matplotlib")
    np.savez(files / "one.npz", X=np.ones((4, 3, 1)), y=[0, 1, 0, 1], streams=["a"] * 4)
    arguments = (files / "model.stepstream", files / "one.npz", "--out", files / "out.stepstream")
    done = run("calibrate", *arguments, "--png", files / "o.png", code=2)
    assert "--png: expected --held-out too" in done.stderr.decode()
