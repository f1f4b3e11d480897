"""Bundles: what comes back is what was saved, to the bit; what was damaged or made up is refused, naming the place."""

import contextlib
import copy
import hashlib
import json
import os
import pickle
import random
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from test_hostile import opened_by_a_child

import make
import stepstream
from make import EXAMPLES, dense, graph_model, model_of, question, recurrent
from stepstream import BlockedError, Engine, InputError, Model, ModelFileError, limits, vectors
from stepstream.formats import bundle, bundle_file
from stepstream.formats.bundle_graph import built
from stepstream.formats.reading import CheckVectors, Provenance, Reading
from stepstream.graph.ir import Node, TimeRole
from stepstream.graph.passes import drop_identities, scale_input
from stepstream.graph.streamable import blocker
from stepstream.kernel.executor import executor_for
from stepstream.ops.executor import NumpyExecutor
from stepstream.testing import samples, stepped

REPORTS = {"training": {"loss": [0.5, 0.25], "epochs": 2, "stopped": None}, "note": "é"}
LENGTH = 8  # bytes that say how long the header is


def tiny() -> Model:
    """Its answers are exact: 0.5 x + 0.25."""
    kernel = {"kernel": np.array([[0.5]]), "bias": np.array([0.25])}
    return model_of(("dense", {"units": 1, "activation": {"name": "linear"}}, kernel), features=1, training_length=4)


def whole(model: Model, x) -> bytes:
    return b"".join(y.tobytes() for y in model.executor.whole(x))


@pytest.fixture
def path(tmp_path):
    return tmp_path / "model.stepstream"


@pytest.fixture
def saved(path):
    """The bytes of the tiny model's bundle."""
    tiny().save(path, {"training": {"epochs": 2}})
    return path.read_bytes()


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


def refused(path: Path, data: bytes) -> str:
    path.write_bytes(data)
    with pytest.raises(ModelFileError) as caught:
        stepstream.load(path)
    assert str(path) in str(caught.value)
    assert len(str(caught.value)) < 2 * limits.MAX_MESSAGE
    return str(caught.value)


def test_every_flipped_byte_is_refused(saved, path):
    with path.open("r+b", buffering=0) as file:
        for at, byte in enumerate(saved):
            for mask in (1 << at % 8, 0xFF):
                os.pwrite(file.fileno(), bytes([byte ^ mask]), at)
                with pytest.raises(ModelFileError, match=r"damaged|cut off"):
                    stepstream.load(path)
            os.pwrite(file.fileno(), bytes([byte]), at)
    stepstream.load(path)


def test_every_truncation_is_refused_and_so_is_more(saved, path):
    refused(path, saved + b"\0")
    for length in reversed(range(len(saved))):
        os.truncate(path, length)
        with pytest.raises(ModelFileError, match="cut off"):
            stepstream.load(path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b'"op', "the graph: damaged"),
        (b"epochs", "report 'training': damaged"),
        (b"trained_ages", "the model's names and lengths: damaged"),
        (b"stepstream 0", "the header: damaged"),
        (b'\\"kind', "the provenance: damaged"),
        (b'"sums', "the header is damaged"),
        (b"F32", "the header is damaged"),
    ],
)
def test_a_flipped_byte_of_the_header_is_named(text, message, saved, path):
    at = saved.index(text) + len(text) - 1
    flipped = saved[:at] + bytes([saved[at] ^ 1]) + saved[at + 1 :]
    assert message in refused(path, flipped)


def test_a_flipped_byte_of_the_numbers_is_named(saved, path):
    start = LENGTH + int.from_bytes(saved[:LENGTH], "little")
    for at, message in ((0, "weight 'bias' of node 'n0': damaged"), (4, "weight 'kernel'"), (8, "the check vectors")):
        flipped = bytearray(saved)
        flipped[start + at] ^= 1
        assert message in refused(path, bytes(flipped))
    assert "cut off" in refused(path, saved[:-1])


# -- made up ----------------------------------------------------------------------------------------------------------


def sealed(data: bytes) -> bytes:
    """With the right sum, as an attacker can have it too."""
    head, rest = data[: bundle_file.SUM.start], data[bundle_file.SUM.stop :]
    return head + hashlib.sha256(head + b"0" * 64 + rest).hexdigest().encode() + rest


def composed(texts: dict[str, str], entries: dict, body: bytes) -> bytes:
    header = {"__metadata__": {"sha256": "0" * 64, **texts}, **entries}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return sealed(len(text).to_bytes(8, "little") + text + body)


def parted(data: bytes) -> tuple[dict, dict]:
    """Texts as JSON values, and arrays that can be changed."""
    texts, arrays = bundle_file.unpacked(data, "a file")
    return {n: json.loads(t) for n, t in texts.items()}, {n: np.array(a) for n, a in arrays.items()}


def joined(values: dict, arrays: dict, keep_fingerprint: bool = False) -> bytes:
    """The fingerprint is right too, where the graph can be built at all."""
    if not keep_fingerprint:
        weights = {name: a for name, a in arrays.items() if name.startswith("weights")}
        with contextlib.suppress(ModelFileError, KeyError, TypeError):
            values["model"]["fingerprint"] = drop_identities(built(values["graph"], weights, "x")).fingerprint()
    entries, at = {}, 0
    for name, a in arrays.items():
        entries[name] = {"dtype": "F32", "shape": list(a.shape), "data_offsets": [at, at + 4 * a.size]}
        at += 4 * a.size
    texts = {n: v if isinstance(v, str) else json.dumps(v) for n, v in values.items()}
    return composed(texts, entries, b"".join(np.float32(a).tobytes() for a in arrays.values()))


def node(values, arrays, **changes):
    values["graph"]["nodes"][0].update(changes)


def model_says(values, arrays, **changes):
    values["model"].update(changes)


def params(values, arrays, **changes):
    values["graph"]["nodes"][0]["params"].update(changes)


def cyclic(values, arrays):
    first = values["graph"]["nodes"][0]
    values["graph"]["nodes"] = [{**first, "id": "a", "inputs": ["b"]}, {**first, "id": "b", "inputs": ["a"]}]


def array(values, arrays, name, value):
    arrays[name] = np.float32(value)


def text(values, arrays, name, value):
    values[name] = value


def more(values, arrays, place, entry):
    values["graph"][place].append(entry)


def without(values, arrays, name):
    values.pop(name, None)
    arrays.pop(name, None)


DEEP = "[" * 200 + "]" * 200
FORGED = [
    (node, {"op": "dance"}, "unknown op 'dance'"),
    (node, {"op": "flatten", "params": {"n": 3}, "weights": {}}, "an op that steps"),
    (node, {"op": ["dense"]}, "op to be a text"),
    (node, {"inputs": ["x", "x"]}, "expected 1 inputs, got 2"),
    (node, {"inputs": []}, "earlier nodes"),
    (node, {"inputs": ["#mask"]}, "expected numbers as input 0"),
    (node, {"inputs": "x"}, "a list of a text"),
    (node, {"id": "x"}, "two nodes"),
    (node, {"id": None}, "id to be a text"),
    (node, {"layer_index": -2}, "layer_index"),
    (node, {"layer_index": True}, "layer_index"),
    (node, {"is_scale": 1}, "is_scale"),
    (node, {"more": 1}, "expected an object with"),
    (node, {"weights": {"kernel": "weights/n0/kernel", "bias": "check/x"}}, "expected its weights"),
    (node, {"weights": {"kernel": "weights/n0/kernel"}}, "a node for all weights"),
    (node, {"weights": {"kernel": 1}}, "weights to be an object of texts"),
    (node, {"weights": {"kernel": "weights/n0/kernel", "bias": "weights/n0/bias", "knee": "weights/n0/bias"}}, "knee"),
    (params, {"units": 2}, "of shape"),
    (params, {"units": "1"}, "units to be a whole number"),
    (params, {"units": 1.0}, "units to be a whole number"),
    (params, {"units": True}, "units to be a whole number"),
    (params, {"units": 10**300}, "units to be a whole number"),
    (params, {"knee": 1}, "knee"),
    (params, {"activation": "linear"}, "an activation with a name"),
    (params, {"activation": {"name": ["relu"]}}, "an activation with a name"),
    (params, {"activation": {"name": "dance"}}, "unknown activation"),
    (params, {"activation": {"name": "relu", "x": 1}}, "has no"),
    (params, {"activation": {"name": "relu", "max_value": "6"}}, "max_value of relu"),
    (params, {"activation": {"name": "relu", "threshold": 1e39}}, "threshold of relu"),
    (params, {"activation": {"name": "gelu", "approximate": 1}}, "approximate of gelu"),
    (cyclic, {}, "earlier nodes"),
    (more, {"place": "outputs", "entry": ["n0", "n0"]}, "different names"),
    (more, {"place": "outputs", "entry": ["other", "gone"]}, "no node 'gone'"),
    (more, {"place": "outputs", "entry": ["a"]}, "outputs"),
    (more, {"place": "inputs", "entry": {"name": "z"}}, "expected an object with"),
    (more, {"place": "inputs", "entry": {"name": "z", "shape": [0], "role": "static", "dtype": "float32"}}, "shape"),
    (more, {"place": "inputs", "entry": {"name": "z", "shape": [1], "role": "latest", "dtype": "float32"}}, "role"),
    (more, {"place": "inputs", "entry": {"name": "z", "shape": [1], "role": "static", "dtype": "bool"}}, "dtype"),
    (more, {"place": "inputs", "entry": {"name": "x", "shape": [1], "role": "static", "dtype": "float32"}}, "its own"),
    (array, {"name": "weights/n0/kernel", "value": [[np.nan]]}, "NaN or Inf"),
    (array, {"name": "weights/n0/kernel", "value": [[np.inf]]}, "NaN or Inf"),
    (array, {"name": "weights/n0/kernel", "value": [0.5]}, "of shape"),
    (array, {"name": "weights/other", "value": [1]}, "a node for all weights"),
    (array, {"name": "other", "value": [1]}, "a node for all weights"),
    (array, {"name": "check/x", "value": np.zeros((3, 4, 2))}, "check vectors: expected"),
    (array, {"name": "check/x", "value": np.full((3, 4, 1), np.nan)}, "finite samples"),
    (array, {"name": "check/y", "value": np.zeros((3, 4))}, "check vectors: expected"),
    (array, {"name": "check/y", "value": np.zeros((3, 4, 2))}, "check vectors: expected"),
    (array, {"name": "check/y", "value": np.zeros((3, 4, 1))}, "the outputs that the file was saved with"),
    (without, {"name": "check/y"}, "check vectors: expected"),
    (without, {"name": "graph"}, "expected model, graph and provenance"),
    (without, {"name": "sums"}, "expected model, graph and provenance"),
    (without, {"name": "bundle"}, "does not say its format"),
    (text, {"name": "other", "value": "{}"}, "expected model, graph and provenance"),
    (text, {"name": "graph", "value": "{}"}, "expected an object with"),
    (text, {"name": "graph", "value": "[]"}, "expected an object with"),
    (text, {"name": "graph", "value": "{"}, "graph: expected JSON"),
    (text, {"name": "graph", "value": '{"inputs":1,"inputs":2}'}, "'inputs' twice"),
    (text, {"name": "reports/a", "value": DEEP}, "levels deep"),
    (text, {"name": "reports/a", "value": "NaN"}, "NaN"),
    (text, {"name": "reports/a", "value": "1" * 500}, "digits"),
    (text, {"name": "reports/a", "value": "1e999"}, "float64"),
    (text, {"name": "bundle", "value": '{"format":2,"writer":"stepstream 9","date":null}'}, "format 1 or older, got 2"),
    (text, {"name": "bundle", "value": '{"format":0,"writer":"stepstream 9","date":null}'}, "format to be"),
    (model_says, {"training_length": 0}, "training_length"),
    (model_says, {"training_length": limits.MAX_WINDOW + 1}, "training_length"),
    (model_says, {"training_length": 7.0}, "training_length"),
    (model_says, {"trained_ages": [2, 1]}, "trained_ages"),
    (model_says, {"trained_ages": [0, 1]}, "trained_ages"),
    (model_says, {"trained_ages": [1]}, "trained_ages"),
    (model_says, {"features": ["a", "b"]}, "1 features"),
    (model_says, {"features": "a"}, "features to be"),
    (model_says, {"features": [1]}, "features to be"),
    (model_says, {"classes": []}, "classes to be"),
    (model_says, {"classes": ["a", "a"]}, "classes to be"),
    (model_says, {"classes": ["a", "b"]}, "1 different names"),
]


@pytest.mark.parametrize(("change", "arguments", "message"), FORGED, ids=[str(i) for i in range(len(FORGED))])
def test_what_is_made_up_is_refused(change, arguments, message, saved, path):
    values, arrays = parted(saved)
    change(values, arrays, **arguments)
    assert message in refused(path, joined(values, arrays))


def swapped(graph):
    graph["outputs"].reverse()


def alone(graph):
    del graph["outputs"][0]


def renamed(graph):
    graph["outputs"][1][0] = "other"


def one_more_output(graph):
    graph["outputs"].insert(0, ["more", "n0"])


def no_output(graph):
    del graph["outputs"][1]


def over_another(graph):
    graph["nodes"][-1]["inputs"] = ["n0"]


def taken_by_another(graph):
    again = {"op": "activation", "params": {"activation": {"name": "tanh"}}, "weights": {}}
    graph["nodes"].append({**graph["nodes"][-1], "id": "z", "inputs": ["trigger"], **again})


def state_taken_by_another(graph):
    taken_by_another(graph)
    graph["nodes"][-1]["inputs"] = ["trigger#streak"]


@pytest.mark.parametrize(
    "change",
    [swapped, alone, renamed, one_more_output, no_output, over_another, taken_by_another, state_taken_by_another],
)
def test_a_trigger_anywhere_else_is_refused(change, path):
    make.deciding().save(path)
    values, arrays = parted(path.read_bytes())
    change(values["graph"])
    assert "node 'trigger': expected a trigger over the only output" in refused(path, joined(values, arrays))


def test_another_graph_under_the_old_fingerprint_is_refused(saved, path):
    values, arrays = parted(saved)
    params(values, arrays, activation={"name": "tanh"})
    assert "fingerprint" in refused(path, joined(values, arrays, keep_fingerprint=True))


def test_a_window_and_a_training_length_that_differ_are_refused(path):
    make.windowed().save(path)
    values, arrays = parted(path.read_bytes())
    values["model"]["training_length"] = 8
    assert "expected 7 as training length" in refused(path, joined(values, arrays))


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({"dtype": "F64"}, "expected float32 values"),
        ({"dtype": "F16"}, "expected float32 values"),
        ({"shape": [2, 2]}, "expected float32 values"),
        ({"shape": [-1, -1]}, "expected float32 values"),
        ({"shape": [1.0, 1]}, "expected float32 values"),
        ({"shape": 1}, "expected float32 values"),
        ({"shape": [1] * 40}, "expected float32 values"),
        ({"shape": [2**62, 2**62]}, "expected float32 values"),
        ({"data_offsets": [0, 4]}, "expected float32 values"),  # over the bias
        ({"data_offsets": [8, 12]}, "expected float32 values"),  # a hole
        ({"data_offsets": [4]}, "expected float32 values"),
        ({"more": 1}, "expected float32 values"),
    ],
)
def test_arrays_that_overlap_or_are_no_float32_are_refused(entry, message, saved, path):
    start = LENGTH + int.from_bytes(saved[:LENGTH], "little")
    header = json.loads(saved[LENGTH:start])
    texts = header.pop("__metadata__")
    del texts["sha256"]
    header["weights/n0/kernel"] |= entry
    assert message in refused(path, composed(texts, header, saved[start:]))


def test_headers_that_lie_are_refused(saved, path):
    start = LENGTH + int.from_bytes(saved[:LENGTH], "little")
    head, body = saved[LENGTH:start], saved[start:]
    for length, message in (
        (0, "the header"), (start, "the header"), (2**63, "the header"), (len(head) + 8, "expected JSON"),
        (len(head) - 8, "expected JSON"),
    ):  # fmt: skip
        assert message in refused(path, sealed(length.to_bytes(8, "little") + head + body))
    twice = head.rstrip().removesuffix(b"}") + b',"check/x":{"dtype":"F32","shape":[],"data_offsets":[104,108]}}'
    twice += b" " * (-len(twice) % 8)
    assert "twice" in refused(path, sealed(len(twice).to_bytes(8, "little") + twice + body + b"1234"))
    long = head + b" " * limits.MAX_JSON_BYTES
    long += b" " * (-len(long) % 8)
    assert "header of at most" in refused(path, sealed(len(long).to_bytes(8, "little") + long + body))
    marks = composed({"a": "[" * limits.MAX_JSON_ELEMENTS}, {}, b"")
    assert "elements of JSON" in refused(path, marks)
    assert "texts as metadata" in refused(path, composed({"a": 1}, {}, b""))
    assert "bytes as the header says" in refused(path, sealed(saved + bytes(8)))
    many = {f"a{i}": {} for i in range(limits.MAX_TENSORS + 1)}
    assert "arrays, got" in refused(path, composed({}, many, b""))


def test_what_is_no_bundle_at_all_is_refused_by_its_name(path, motions, recording):
    for data in (b"", b"x", (motions / "model.keras").read_bytes(), recording.read_bytes(), bytes(1000)):
        refused(path, data)
    path.unlink()
    with pytest.raises(ModelFileError, match="No such file"):
        stepstream.load(path)
    path.mkdir()
    with pytest.raises(ModelFileError, match="a folder"):
        stepstream.load(path)


def test_a_bundle_is_known_by_its_first_bytes_too(saved, tmp_path):
    (tmp_path / "model.bin").write_bytes(saved)
    assert stepstream.load(tmp_path / "model.bin").fingerprint == tiny().fingerprint


def test_many_nodes_over_one_weight_are_refused(saved, path, monkeypatch):
    monkeypatch.setattr(limits, "MAX_REPEATED_BYTES", 20)
    values, arrays = parted(saved)
    first = values["graph"]["nodes"][0]
    values["graph"]["nodes"] += [{**first, "id": f"m{i}"} for i in range(3)]
    assert "share fewer weights" in refused(path, joined(values, arrays))
    monkeypatch.setattr(limits, "MAX_NODES", 3)
    assert "at most 3 nodes" in refused(path, joined(values, arrays))
    model = model_of(*[dense(3, 3)] * 4)
    with pytest.raises(InputError, match="at most 3 nodes"):
        model.save(path)


def test_limits_hold_for_what_is_saved_too(path, monkeypatch):
    monkeypatch.setattr(limits, "MAX_TENSORS", 3)
    with pytest.raises(InputError, match="at most 3 arrays"):
        tiny().save(path)
    monkeypatch.undo()
    tiny().save(path)
    monkeypatch.setattr(limits, "MAX_BUNDLE_BYTES", 100)
    with pytest.raises(ModelFileError, match="at most 100 bytes"):
        stepstream.load(path)


# -- check vectors ----------------------------------------------------------------------------------------------------


def test_check_vectors_lie_where_the_scaling_expects_samples(motions, path):
    mean, std = np.array([100, -5, 0]), np.array([10, 0.1, 1])
    stepstream.load(motions / "model.keras", scale=(mean, std)).save(path)
    x = stepstream.load(path).reading.vectors.x
    assert x.shape == (3, 32, 3)  # of a training length of 100
    scaled = (x - mean) / std
    assert np.abs(scaled).max() < 2.01
    assert scaled.std(axis=(0, 1)).min() > 1


def test_check_vectors_take_indices_and_repeat_what_has_no_time(path):
    make.looked_up().save(path)
    x = stepstream.load(path).reading.vectors.x
    assert x.shape == (3, 7, 1)
    assert set(x.ravel()) <= set(range(11))
    assert len(set(x.ravel())) > 5
    make.repeated().save(path)
    x = stepstream.load(path).reading.vectors.x
    assert (x[:, :, 3:] == x[:, :1, 3:]).all()
    assert (x[0] != x[1]).any()


def test_every_load_runs_the_check_vectors_on_what_will_serve(path, monkeypatch):
    question().save(path)
    values, arrays = parted(path.read_bytes())
    for off, fits in ((5e-6, True), (1e-3, False)):
        moved = {**arrays, "check/y": arrays["check/y"] + np.float32(off)}
        if fits:
            path.write_bytes(joined(copy.deepcopy(values), moved))
            stepstream.load(path)
        else:
            message = refused(path, joined(copy.deepcopy(values), moved))
            assert "check vectors: expected the outputs that the file was saved with" in message
            assert "0.001" in message


@pytest.mark.parametrize("units", [1, 3])
def test_of_a_model_that_decides_outputs_and_decisions_are_checked(units, path, monkeypatch):
    make.deciding(units).save(path)
    values, arrays = parted(path.read_bytes())
    numbers, decided = arrays["check/y"].copy(), arrays["check/y"].copy()
    numbers[..., 0] += 1e-3
    decided[1, 4, -1] += 1
    for wrong, position in ((numbers, None), (decided, 4)):
        message = refused(path, joined(copy.deepcopy(values), {**arrays, "check/y": wrong}))
        assert "check vectors: expected the outputs that the file was saved with" in message
        assert position is None or f"at sample {position}" in message
    monkeypatch.setattr(vectors, "TOLERANCE", -1.0)  # as if float32 could do no better: the long way
    make.deciding(units).save(path)
    assert stepstream.load(path).decides


def test_a_bundle_without_check_vectors_is_refused_unless_its_samples_cost_too_much(path, monkeypatch):
    question().save(path)
    values, arrays = parted(path.read_bytes())
    bare = joined(values, {name: a for name, a in arrays.items() if not name.startswith("check")})
    assert "expected check vectors, got none" in refused(path, bare)
    monkeypatch.setattr(limits, "MAX_CHECK_WORK", 50_000)  # a sample counts as about 21,000
    stepstream.load(path)
    question().save(path)
    assert stepstream.load(path).reading.vectors is None
    assert "check vectors: expected at most 2 samples" in refused(path, joined(values, arrays))
    monkeypatch.setattr(limits, "MAX_CHECK_WORK", 300_000)
    question().save(path)
    assert stepstream.load(path).reading.vectors.x.shape == (3, 5, 3)


def test_vectors_of_another_graph_are_not_kept(path):
    model = question()
    old = CheckVectors(np.zeros((1, 1, 3)), np.zeros((1, 1, 1)), "another")
    Model(replace(model.reading, vectors=old)).save(path)
    assert stepstream.load(path).reading.vectors.x.shape == (3, 7, 3)


def test_a_model_that_overflows_comes_back(path):
    model = make.explosive()
    grown = Model(replace(model.reading, graph=scale_input(model.reading.graph, 0.0, 1e-38)))
    grown.save(path)
    assert stepstream.load(path).fingerprint == grown.fingerprint


# -- random graphs ----------------------------------------------------------------------------------------------------

ODD = (None, True, 0, 1, -1, 2, 7, 2**31, 2**63, 1.5, -0.0, 1e30, "", "x", "n0", "n0#h", "#mask", "tanh", "softmax",
       "lstm", "add", "where", "position", [], {}, [1, 2], {"name": "glu"}, {"x": 1})  # fmt: skip


def mutated(value, rng: random.Random):
    """One to three places exchanged, left out, doubled, or of another type."""
    top = [copy.deepcopy(value)]
    for _ in range(rng.choice((1, 1, 2, 3))):
        places, stack = [], [top]
        while stack:
            owner = stack.pop()
            keys = list(owner) if isinstance(owner, dict) else range(len(owner))
            places += [(owner, key) for key in keys]
            stack += [owner[key] for key in keys if isinstance(owner[key], dict | list)]
        (owner, key), (other, from_key) = rng.choice(places), rng.choice(places)
        kind = rng.randrange(6)
        if kind < 2:
            owner[key] = copy.deepcopy(rng.choice(ODD))
        elif kind < 4:
            owner[key] = copy.deepcopy(other[from_key])
        elif kind < 5 and owner is not top:
            del owner[key]
        elif isinstance(owner, list) and owner is not top:
            owner.insert(key, copy.deepcopy(owner[key]))
    return top[0]


@pytest.mark.parametrize("op", sorted(EXAMPLES))
def test_mutated_graphs_are_refused_or_step(op, path):
    """Whatever is accepted runs, on NumPy and on the kernel, and gives the same."""
    EXAMPLES[op]().save(path)
    values, arrays = parted(path.read_bytes())
    weights = {name: a for name, a in arrays.items() if name.startswith("weights")}
    rng, accepted = random.Random(op), 0
    for _ in range(150):
        data = mutated(values["graph"], rng)
        used = set(json.dumps(data).split('"')) & set(weights)
        try:
            graph = built(data, {name: weights[name] for name in used}, "made up")
        except ModelFileError:
            continue
        accepted += 1
        executor, _ = executor_for(drop_identities(graph))
        x = np.random.default_rng(0).normal(size=(2, 3, graph.features)).astype(np.float32)
        both = stepped(executor, x), stepped(NumpyExecutor(graph), x)
        np.testing.assert_allclose(*both, rtol=1e-3, atol=1e-3)
        assert stepped(executor, x[:1]).tobytes() == both[0][:1].tobytes()
    assert accepted > 3


# -- in a process that watches ----------------------------------------------------------------------------------------


@pytest.mark.slow
def test_hostile_bundles_run_nothing_and_take_little(saved, tmp_path, path):
    question().save(path)
    seeds, rng = [saved, path.read_bytes()], random.Random(0)
    path.unlink()
    for i, (change, arguments, _) in enumerate(FORGED):
        values, arrays = parted(saved)
        change(values, arrays, **arguments)
        (tmp_path / f"model-forged-{i}.stepstream").write_bytes(joined(values, arrays))
    for i in range(200):
        values, arrays = parted(seeds[i % 2])
        name = rng.choice([n for n in values if n not in {"sums", "bundle"}])
        values[name] = mutated(values[name], rng)
        (tmp_path / f"model-mutated-{i}.stepstream").write_bytes(joined(values, arrays))
    for name, data in bombs(saved):
        (tmp_path / f"model-{name}.stepstream").write_bytes(data)
    rows = opened_by_a_child(tmp_path)
    assert {row["result"] for row in rows} == {"ModelFileError", "loaded"}
    assert {row["result"] for row in rows if "forged" in row["file"]} == {"ModelFileError"}


def bombs(saved: bytes):
    """Small files that ask for much."""
    values, arrays = parted(saved)
    first, entry = values["graph"]["nodes"][0], values["graph"]["inputs"][0]

    def graph(nodes, inputs=(entry,), outputs=(("n0", "n0"),)):
        made = {**values, "graph": {"inputs": list(inputs), "nodes": nodes, "outputs": [list(o) for o in outputs]}}
        return joined(copy.deepcopy(made), arrays)

    def other(name, op, sources, **given):
        return {**first, "id": name, "op": op, "inputs": sources, "params": given, "weights": {}}

    wide = {**entry, "name": "w", "shape": [2**25]}
    yield "wide", graph([first], [entry, wide])
    yield "wider", graph([first], [entry, {**wide, "shape": [2**26, 2**26]}])
    yield "many-inputs", graph([first, other("s", "add", ["n0"] * (limits.MAX_NODE_INPUTS - 1))], outputs=[("s", "s")])
    yield "too-many-inputs", graph([first, other("s", "add", ["n0"] * limits.MAX_NODE_INPUTS)], outputs=[("s", "s")])
    yield "doubling", graph([first, *[other(f"c{i}", "concatenate", [f"c{i - 1}" if i else "n0"] * 2, axis=-1)
                                      for i in range(60)]])  # fmt: skip
    chain = [other(f"a{i}", "activation", [f"a{i - 1}" if i else "n0"], activation={"name": "tanh"})
             for i in range(limits.MAX_NODES - 1)]  # fmt: skip
    yield "chain", graph([first, *chain])
    big = {**entry, "shape": [2**13, 1]}
    pools = [other(f"p{i}", "pool", ["x"], kind="max", size=[2**12], strides=[1], padding="valid") for i in range(2000)]
    row = other("r", "reshape", [f"p{len(pools) - 1}"], shape=[2**12 + 1])
    yield "pools", graph([*pools, row, {**first, "inputs": ["p0"]}], [big], [("r", "r")])
    yield "long-window", graph([first, other("t", "position", ["x"], n=2**24)])
    yield "deep", composed({"bundle": DEEP * 1000, "sums": "{}"}, {}, b"")
    yield "brackets", sealed((2**24).to_bytes(8, "little") + bundle_file.PREFIX + b"0" * 64 + b"[" * (2**24))
