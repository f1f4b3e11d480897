"""Bundles: what comes back is what was saved, to the bit."""

import hashlib
import json
import os
import pickle
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
from bundle_making import LENGTH, tiny

import make
import stepstream
from make import EXAMPLES, dense, graph_model, model_of, question, recurrent
from stepstream import BlockedError, Engine, InputError, Model, ModelFileError, limits
from stepstream.formats import bundle
from stepstream.formats.reading import Provenance, Reading
from stepstream.graph.ir import Node, TimeRole
from stepstream.graph.streamable import blocker
from stepstream.ops.executor import NumpyExecutor
from stepstream.testing import samples, stepped

REPORTS = {"training": {"loss": [0.5, 0.25], "epochs": 2, "stopped": None}, "note": "é"}


def whole(model: Model, x) -> bytes:
    return b"".join(y.tobytes() for y in model.executor.whole(x))


# -- what comes back --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("op", sorted(EXAMPLES))
def test_every_op_comes_back_to_the_bit(op, path, tmp_path):
    model = EXAMPLES[op]()
    model.save(path)
    loaded = stepstream.load(path)
    x = samples(model)
    assert loaded.fingerprint == model.fingerprint
    assert whole(loaded, x) == whole(model, x)
    assert stepped(loaded.executor, x).tobytes() == stepped(model.executor, x).tobytes()
    oracles = NumpyExecutor(loaded.graph), NumpyExecutor(model.graph)
    assert stepped(oracles[0], x).tobytes() == stepped(oracles[1], x).tobytes()
    assert loaded.check().rows == model.check().rows
    before = path.read_bytes()
    loaded.save(path)
    assert path.read_bytes() == before


def test_it_loads_without_the_kernel_and_gives_what_numpy_gives(tmp_path):
    expected = {}
    for op, build in EXAMPLES.items():
        model = build()
        model.save(tmp_path / f"{op}.stepstream")
        np.save(tmp_path / f"{op}.npy", samples(model))
        y = stepped(NumpyExecutor(model.graph), samples(model))
        expected[f"{op}.stepstream"] = hashlib.sha256(y.tobytes()).hexdigest()
    code = (
        "import hashlib, json, pathlib, numpy, stepstream\n"
        "from stepstream.testing import stepped\n"
        "out = {}\n"
        "for path in pathlib.Path('.').glob('*.stepstream'):\n"
        "    model = stepstream.load(path)\n"
        "    assert model.runs_on == 'NumPy: as STEPSTREAM_ISA asks'\n"
        "    y = stepped(model.executor, numpy.load(path.with_suffix('.npy')))\n"
        "    out[path.name] = hashlib.sha256(y.tobytes()).hexdigest()\n"
        "print(json.dumps(out))"
    )
    env = {**os.environ, "STEPSTREAM_ISA": "numpy"}
    out = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=env, capture_output=True, check=True)
    assert json.loads(out.stdout) == expected


def test_states_and_stores_of_the_original_open_with_its_bundle(model, path, tmp_path):
    model.save(path)
    loaded = stepstream.load(path)
    x = np.random.default_rng(0).normal(size=(6, 3))
    stream = model.stream("carry")
    stream.steps(x[:4])
    stream.save(tmp_path / "state.h5")
    other = loaded.stream("carry")
    other.load(tmp_path / "state.h5")
    assert other.step(x[4]) == stream.step(x[4])
    with Engine(model, "carry", tmp_path / "states.db") as engine:
        engine.step("a", x[0])
    with Engine(loaded, "carry", tmp_path / "states.db") as engine:
        assert [(s.key, s.age) for s in engine.streams()] == [("a", 1)]
        again = model.stream("carry")
        again.step(x[0])
        assert engine.step("a", x[1]).value == again.step(x[1])


def test_all_that_was_said_of_a_model_comes_back(motions, path):
    given = {"training_length": 50, "scale": ([1, 2, 3], 2), "features": ["x", "y", "z"], "classes": ["badminton"]}
    model = stepstream.load(motions / "model.keras", **given)
    trained = Model(replace(model.reading, trained_ages=(1, 50)), model.features, model.classes)
    trained.save(path, REPORTS, date="2026-01-02")
    loaded = stepstream.load(path)
    assert (loaded.training_length, loaded.features, loaded.classes) == (50, ("x", "y", "z"), ("badminton",))
    assert loaded.trained_ages == (1, 50)
    assert loaded.reports == {"training": {"loss": (0.5, 0.25), "epochs": 2, "stopped": None}, "note": "é"}
    ours, theirs = loaded.check().to_dict(), model.check().to_dict()
    assert ours.pop("bundled").endswith(" on 2026-01-02")
    assert theirs.pop("bundled") is None
    assert ours == theirs
    assert "Keras" in str(loaded.check())
    assert "2026-01-02" in str(loaded.check())


def test_reports_are_kept_replaced_by_name_and_cannot_be_changed(path):
    tiny().save(path, REPORTS)
    loaded = stepstream.load(path)
    loaded.save(path, {"note": 1, "calibration": [True]})
    again = stepstream.load(path)
    assert again.reports["training"]["epochs"] == 2
    assert again.reports["note"] == 1
    assert again.reports["calibration"] == (True,)
    with pytest.raises(TypeError):
        again.reports["training"]["epochs"] = 3
    assert pickle.loads(pickle.dumps(again)).reports == again.reports


def test_shared_weights_are_in_the_file_once_and_shared_again(path):
    op, given, weights = recurrent("lstm", 3, 3)
    own = Node("a", op, ("x",), given, weights).weights  # frozen once
    nodes = [("a", op, ["x"], given, own), ("b", op, ["a"], given, own)]
    graph_model({"x": ((3,), TimeRole.SEQUENCE)}, nodes, ["b"]).save(path)
    a, b = stepstream.load(path).graph.nodes
    assert all(a.weights[name] is b.weights[name] for name in a.weights)
    with pytest.importorskip("safetensors").safe_open(path, framework="np") as file:
        assert sorted(n for n in file.keys() if n.startswith("weights")) == [  # noqa: SIM118
            "weights/a/bias", "weights/a/kernel", "weights/a/recurrent",
        ]  # fmt: skip


# -- arguments --------------------------------------------------------------------------------------------------------


def test_arguments_of_load_override_or_are_refused(motions, path):
    stepstream.load(motions / "model.keras", scale=(0, 2), features=["x", "y", "z"]).save(path)
    loaded = stepstream.load(path, training_length=20, features=["a", "b", "c"], classes=["yes"])
    assert (loaded.training_length, loaded.features, loaded.classes) == (20, ("a", "b", "c"), ("yes",))
    for wrong, message in (
        ({"scale": (0, 1)}, "one already"),
        ({"architecture": "{}"}, "a bundle has its own"),
        ({"features": ["a"]}, "3 different names"),
        ({"training_length": 0}, "from 1"),
    ):
        with pytest.raises(InputError, match=message):
            stepstream.load(path, **wrong)


def test_the_trained_ages_go_with_the_training_length(path):
    model = question()
    Model(replace(model.reading, trained_ages=(1, 7))).save(path)
    assert stepstream.load(path, training_length=7).trained_ages == (1, 7)
    assert stepstream.load(path, training_length=5).trained_ages is None


def test_a_scale_is_put_in_front_of_a_bundle_that_has_none(motions, path):
    plain = stepstream.load(motions / "model.keras")
    plain.save(path)
    scaled = stepstream.load(path, scale=(0, 2))
    assert scaled.fingerprint == stepstream.load(motions / "model.keras", scale=(0, 2)).fingerprint
    scaled.save(path)  # with check vectors of its own
    assert stepstream.load(path).fingerprint == scaled.fingerprint


LINEAR = ("activation", {"activation": {"name": "linear"}}, {})
OWN_SCALES = [
    ("standardise", {}, {"mean": np.array([100, -5, 0]), "std": np.array([10, 0.1, 1])}),
    ("scale", {}, {"factor": np.array([0.1, 10, 1]), "offset": np.array([-10, 50, 0])}),
]


@pytest.mark.parametrize("first", [[], [LINEAR]])
@pytest.mark.parametrize("scale", OWN_SCALES)
def test_a_bundle_that_scales_by_a_layer_takes_no_second_scale(scale, first, path):
    model_of(*first, scale, recurrent("lstm", 3, 4), dense(4, 1)).save(path)
    with pytest.raises(InputError, match="one already"):
        stepstream.load(path, scale=(0, 2))


@pytest.mark.parametrize("scale", OWN_SCALES)
def test_samples_lie_where_a_layer_expects_them(scale, path):
    model = model_of(LINEAR, scale, recurrent("lstm", 3, 4), dense(4, 1))
    x = (samples(model, streams=50) - np.array([100, -5, 0])) / np.array([10, 0.1, 1])
    np.testing.assert_allclose(x.mean(axis=(0, 1)), 0, atol=0.2)
    np.testing.assert_allclose(x.std(axis=(0, 1)), 1, atol=0.2)
    model.save(path)
    x = (stepstream.load(path).reading.vectors.x - np.array([100, -5, 0])) / np.array([10, 0.1, 1])
    assert 1 < np.abs(x).max() < 2.01


def test_the_window_of_a_flattened_model_cannot_be_overridden(path):
    make.windowed().save(path)
    with pytest.raises(InputError, match="flattens windows of 7"):
        stepstream.load(path, training_length=8)


def test_a_model_that_cannot_step_is_not_saved(path):
    blocked = Model(Reading(None, (), (blocker("both", "Bidirectional"),), 7, Provenance("test", "test")))
    with pytest.raises(BlockedError, match="both"):
        blocked.save(path)
    assert not path.exists()


@pytest.mark.parametrize("name", ["output_names", "output_sizes", "decides", "calibrated", "graph", "fingerprint"])
def test_a_model_that_cannot_step_says_so_wherever_it_is_asked(name):
    blocked = Model(Reading(None, (), (blocker("both", "Bidirectional"),), 7, Provenance("test", "test")))
    with pytest.raises(BlockedError, match="both"):
        getattr(blocked, name)


LOOP: list = []
LOOP.append(LOOP)


@pytest.mark.parametrize(
    ("reports", "message"),
    [
        ({"a": {"b": [1, np.float32(2)]}}, r"reports\['a'\]\['b'\]\[1\].*float32"),
        ({"a": float("nan")}, "finite numbers"),
        ({"a": {1: 2}}, "texts as names"),
        ({"a": LOOP}, "levels deep"),
        ({"a": {1, 2}}, "got set"),
        ({"a": "\ud800"}, "expected JSON"),
        ({1: 2}, "dict of JSON by name"),
        ([1], "dict of JSON by name"),
        ({"a": [0] * (limits.MAX_JSON_ELEMENTS + 1)}, "elements"),
        ({"a": "x" * limits.MAX_JSON_BYTES}, "bytes"),
    ],
    ids=range(10),
)
def test_reports_that_are_no_json_are_refused_and_the_old_file_stays(reports, message, path):
    path.write_bytes(b"old")
    with pytest.raises(InputError, match=message):
        tiny().save(path, reports)
    assert path.read_bytes() == b"old"
    assert [p.name for p in path.parent.iterdir()] == [path.name]


def test_where_it_cannot_be_written(tmp_path):
    with pytest.raises(ModelFileError, match=r"cannot be written.*No such file"):
        tiny().save(tmp_path / "no" / "m.stepstream")
    with pytest.raises(ModelFileError, match=r"cannot be written.*a folder"):
        tiny().save(tmp_path)
    with pytest.raises(InputError, match="path of a bundle"):
        tiny().save(None)
    with pytest.raises(InputError, match="date"):
        tiny().save(tmp_path / "m.stepstream", date=2026)
    assert list(tmp_path.iterdir()) == []


# -- the file ---------------------------------------------------------------------------------------------------------


def test_the_bytes_are_pinned(path, monkeypatch):
    """Raise FORMAT when this changes."""
    monkeypatch.setattr(bundle, "__version__", "1.2.3")
    tiny().save(path, {"training": {"epochs": 2}})
    data = path.read_bytes()
    header = json.loads(data[LENGTH : LENGTH + int.from_bytes(data[:LENGTH], "little")])
    texts = header.pop("__metadata__")
    assert {name: text for name, text in texts.items() if name not in {"sha256", "sums"}} == {
        "bundle": '{"date":null,"format":1,"writer":"stepstream 1.2.3"}',
        "model": '{"classes":null,"features":null,'
        '"fingerprint":"260b25aa0b38dfcd9b200151581c962407ebc68a86feb1835b65171df622d80c",'
        '"trained_ages":null,"training_length":4}',
        "graph": '{"inputs":[{"dtype":"float32","name":"x","role":"sequence","shape":[1]}],"nodes":[{"id":"n0",'
        '"inputs":["x"],"is_scale":false,"layer":"dense_0","layer_index":0,"op":"dense",'
        '"params":{"activation":{"name":"linear"},"units":1},'
        '"weights":{"bias":"weights/n0/bias","kernel":"weights/n0/kernel"}}],"outputs":[["n0","n0"]]}',
        "provenance": '{"date":null,"format":"test","layers":[{"kind":"dense","name":"dense_0","output":'
        '{"dtype":"float32","role":"sequence","shape":[1]}}],"notes":[],"writer":"test"}',
        "reports/training": '{"epochs":2}',
    }
    assert header == {
        "weights/n0/bias": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]},
        "weights/n0/kernel": {"dtype": "F32", "shape": [1, 1], "data_offsets": [4, 8]},
        "check/x": {"dtype": "F32", "shape": [3, 4, 1], "data_offsets": [8, 56]},
        "check/y": {"dtype": "F32", "shape": [3, 4, 1], "data_offsets": [56, 104]},
    }
    assert hashlib.sha256(data).hexdigest() == "a09c57357b8eee8719f11bb43ef7915ab98b5d0ece7f08493ebdd12cc542559e"


def test_other_programs_read_it_as_safetensors(path):
    question().save(path)
    with pytest.importorskip("safetensors").safe_open(path, framework="np") as file:
        assert json.loads(file.metadata()["graph"])["nodes"][0]["op"] == "lstm"
        np.testing.assert_array_equal(file.get_tensor("weights/n0/kernel"), question().graph.nodes[0].weights["kernel"])
