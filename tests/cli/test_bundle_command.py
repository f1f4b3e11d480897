"""`stepstream bundle`, and every command that takes a model, with a bundle."""

import json

import numpy as np
import pytest

import stepstream
from command import HEADER, KEYED, ages, rows, run
from stepstream import Engine


@pytest.fixture
def bundle(path, tmp_path):
    out = tmp_path / "model.stepstream"
    said = run("bundle", path, out, "--features", "x,y,z", "--training-length", "50", "--date", "today").stdout
    assert said.decode().strip() == stepstream.load(out).fingerprint
    return out


def test_it_holds_what_was_said(bundle, model):
    loaded = stepstream.load(bundle)
    assert loaded.fingerprint == model.fingerprint
    assert (loaded.features, loaded.training_length) == (("x", "y", "z"), 50)


def test_check_verify_and_bench_take_it(bundle, model):
    said = json.loads(run("check", bundle, "--json").stdout)
    assert said["fingerprint"] == model.fingerprint
    assert said["bundled"].endswith("on today")
    verified = json.loads(run("verify", bundle, "--json").stdout)
    assert verified["ok"]
    assert any("Keras does not open" in note for note in verified["notes"])
    assert json.loads(run("bench", bundle, "--rounds", "1", "--json").stdout)["runs_on"]


def test_run_takes_it_and_finds_its_features_by_name(bundle, path, recording, tmp_path):
    expected = rows(run("run", path, recording, *KEYED))
    got = rows(run("run", bundle, recording, *KEYED))
    assert [r["dense"] for r in got] == [r["dense"] for r in expected]
    key, time, *names = recording.read_text().splitlines()[0].split(",")
    turned = "\n".join(",".join([*line.split(",")[:2], *line.split(",")[:1:-1]]) for line in
                       recording.read_text().splitlines())  # fmt: skip
    (tmp_path / "turned.csv").write_text(turned + "\n")
    assert turned.startswith(",".join([key, time, *names[::-1]]))
    assert [r["dense"] for r in rows(run("run", bundle, tmp_path / "turned.csv", *KEYED))] == [
        r["dense"] for r in expected
    ]
    bare = tmp_path / "bare.csv"
    bare.write_text("1,2,3\n")
    by_place = run("run", bundle, bare, "--no-header", "--windowing", "carry").stdout
    assert by_place == run("run", path, bare, "--no-header", "--windowing", "carry").stdout
    assert HEADER.encode() in run("run", bundle, recording, *KEYED).stdout
    other = tmp_path / "other.csv"
    other.write_text("a,b,c\n1,2,3\n")
    assert b"expected a column 'x'" in run("run", bundle, other, "--windowing", "carry", code=2).stderr


def test_run_takes_its_features_by_name_in_any_order(bundle, recording):
    expected = run("run", bundle, recording, *KEYED).stdout
    assert run("run", bundle, recording, *KEYED, "--features", "z,x,y").stdout == expected
    said = run("run", bundle, recording, *KEYED, "--features", "x,y,up", code=2).stderr
    assert b"--features: expected x, y, z, as the model has them, got x, y, up" in said


def test_a_store_is_migrated_between_bundles(bundle, model, motions, tmp_path):
    store, new = tmp_path / "states.db", tmp_path / "new.stepstream"
    stepstream.load(motions / "model.keras", scale=(0, 2)).save(new)
    with Engine(model, "carry", store) as engine:
        engine.step("a", np.ones(3))
    run("state", "migrate", store, "--to", new, "--how", "reset", "--from", bundle)
    assert ages(stepstream.load(new), store) == {"a": 0}


def test_a_damaged_bundle_and_a_bad_place_are_errors(bundle, path, tmp_path):
    data = bundle.read_bytes()
    bundle.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    assert b"check vectors: damaged" in run("check", bundle, code=2).stderr
    assert b"another file than that of MODEL" in run("bundle", path, path, code=2).stderr
    assert b"cannot be written" in run("bundle", path, tmp_path / "no" / "m.stepstream", code=2).stderr
