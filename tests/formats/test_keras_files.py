"""Keras files written by hand: what the writer's version means, and files that contradict themselves.

No Keras is needed, so these hold in every environment. A fingerprint does not see names: equal means equal computation.
"""

import io
import json
import zipfile

import h5py
import numpy as np
import pytest

import stepstream
from make import dense, model_of, random, recurrent

LSTM, DENSE = recurrent("lstm", 3, 4, gate="hard_sigmoid", sequences=False), dense(4, 1)
CONFIGS = [
    (
        "LSTM",
        {
            "name": "lstm", "units": 4, "activation": "tanh", "recurrent_activation": "hard_sigmoid", "use_bias": True,
            "return_sequences": False, "batch_input_shape": [None, 7, 3],
        },
        LSTM[2],
    ),
    ("LeakyReLU", {"name": "leaky"}, {}),
    ("Dense", {"name": "dense", "units": 1, "activation": "sigmoid", "use_bias": True}, DENSE[2]),
]  # fmt: skip


def meant(gate):
    op, params, weights = LSTM
    leaky = ("activation", {"activation": {"name": "leaky_relu", "negative_slope": 0.3}}, {})
    return model_of((op, {**params, "recurrent_activation": {"name": gate}}, weights), leaky, DENSE)


def entries(configs, version):
    layers = [{"class_name": kind, "config": dict(config)} for kind, config, _ in configs]
    if version >= "3":
        shape = layers[0]["config"].pop("batch_input_shape")
        layers.insert(0, {"class_name": "InputLayer", "config": {"name": "in", "batch_shape": shape}})
    return {"class_name": "Sequential", "config": {"name": "s", "layers": layers}}


def write_h5(path, configs=CONFIGS, version="2.15.0", spoil=lambda file: None):
    with h5py.File(path, "w") as file:
        file.attrs["model_config"] = json.dumps(entries(configs, version))
        file.attrs["keras_version"] = version
        file.attrs["backend"] = "tensorflow"
        root = file.create_group("model_weights")
        for _, config, weights in configs:
            name = config["name"]
            group = root.create_group(name)
            names = [f"{name}/{key}:0" for key in weights]
            group.attrs["weight_names"] = [n.encode() for n in names]
            for n, value in zip(names, weights.values(), strict=True):
                group.create_dataset(n, data=value)
        spoil(file)
    return path


def write_archive(path, configs=CONFIGS, version="3.5.0", config=None, places=None):
    data = io.BytesIO()
    with h5py.File(data, "w") as file:
        for place, (_, _, weights) in zip(places or ["lstm", "leaky_re_lu", "dense"], configs, strict=True):
            inner = "cell/vars" if place.startswith("lstm") else "vars"
            group = file.create_group(f"layers/{place}/{inner}")
            for n, value in enumerate(weights.values()):
                group.create_dataset(str(n), data=value)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("config.json", json.dumps(config or entries(configs, version or "3")))
        archive.writestr("metadata.json", json.dumps({"keras_version": version}))
        archive.writestr("model.weights.h5", data.getvalue())
    return path


@pytest.mark.parametrize(
    ("version", "gate"), [("2.15.0", "hard_sigmoid_02"), ("2.3.1", "hard_sigmoid_02"), ("3.5.0", "hard_sigmoid")]
)
def test_hard_sigmoid_means_what_the_writer_meant(tmp_path, version, gate):
    model = stepstream.load(write_h5(tmp_path / "model.h5", version=version))
    assert model.fingerprint == meant(gate).fingerprint
    assert model.training_length == 7
    assert version in str(model.check())


def test_an_archive_by_keras_3(tmp_path):
    model = stepstream.load(write_archive(tmp_path / "model.keras"))
    assert model.fingerprint == meant("hard_sigmoid").fingerprint


def test_weights_are_found_by_class_and_count_not_by_name(tmp_path):
    """The second LSTM's weights lie in lstm_1, whatever the layers are called."""
    second = recurrent("lstm", 4, 4, gate="hard_sigmoid", sequences=False)
    first_config = {**CONFIGS[0][1], "name": "z", "return_sequences": True}
    second_config = {k: v for k, v in CONFIGS[0][1].items() if k != "batch_input_shape"} | {"name": "a"}
    configs = [("LSTM", first_config, LSTM[2]), ("LSTM", second_config, second[2]), CONFIGS[2]]
    model = stepstream.load(write_archive(tmp_path / "m.keras", configs, places=["lstm", "lstm_1", "dense"]))
    sequences = (LSTM[0], {**LSTM[1], "return_sequences": True}, LSTM[2])
    assert model.fingerprint == model_of(sequences, second, DENSE).fingerprint


def test_half_precision_weights(tmp_path):
    """float16 as numbers, bfloat16 as two opaque bytes: the upper half of a float32."""
    kernel, bias = random(3, 2), random(2)
    upper = (kernel.view(np.uint32) >> 16).astype("<u2")
    weights = {"kernel": upper.view("V2"), "bias": bias.astype(np.float16)}
    config = {"name": "d", "units": 2, "activation": "linear", "batch_input_shape": [None, 7, 3]}
    model = stepstream.load(write_h5(tmp_path / "m.h5", [("Dense", config, weights)]))
    exact = {
        "kernel": (upper.astype(np.uint32) << 16).view(np.float32),
        "bias": bias.astype(np.float16).astype(np.float32),
    }
    dense_op = ("dense", {"units": 2, "activation": {"name": "linear"}}, exact)
    assert model.fingerprint == model_of(dense_op).fingerprint


def without(key):
    config = {k: v for k, v in CONFIGS[0][1].items() if k != key}
    return [("LSTM", config, LSTM[2]), *CONFIGS[1:]]


@pytest.mark.parametrize(
    ("configs", "message"),
    [
        (without("units"), "units"),
        (without("name"), "name"),
        ([("LSTM", CONFIGS[0][1], {"kernel": random(3, 16)}), *CONFIGS[1:]], "lstm.*expected 3 weights.*got 1"),
        (
            [("LSTM", CONFIGS[0][1], {**LSTM[2], "kernel": random(5, 16)}), *CONFIGS[1:]],
            r"lstm.*kernel.*\(3, 16\).*\(5, 16\)",
        ),
        (
            [("LSTM", CONFIGS[0][1], {**LSTM[2], "kernel": np.full((3, 16), np.inf)}), *CONFIGS[1:]],
            "lstm.*NaN or Inf",
        ),
        ([("LSTM", CONFIGS[0][1], {**LSTM[2], "kernel": np.full((3, 16), b"x")}), *CONFIGS[1:]], "expected numbers"),
        ([CONFIGS[0], ("LeakyReLU", {"name": "leaky", "alpha": "steep"}, {}), CONFIGS[2]], "leaky.*number"),
        ([CONFIGS[0], ("LeakyReLU", {"name": "lstm"}, {}), CONFIGS[2]], "lstm"),
    ],
)
def test_a_file_that_contradicts_itself_names_the_place(tmp_path, configs, message):
    path = tmp_path / "model.h5"
    if "name" not in configs[0][1] or configs[1][1]["name"] == "lstm":
        write_h5(path)
        with h5py.File(path, "r+") as file:
            file.attrs["model_config"] = json.dumps(entries(configs, "2.15.0"))
    else:
        write_h5(path, configs)
    with pytest.raises(stepstream.ModelFileError, match=rf"model\.h5.*{message}"):
        stepstream.load(path)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ([], "JSON object"),
        ({"class_name": "Sequential"}, "incomplete"),
        ({"class_name": "Sequential", "config": {"layers": []}}, "incomplete|layers"),
        ({"class_name": "Transformer", "config": {"layers": []}}, "Sequential or Functional"),
        ({"class_name": "Functional", "config": {"layers": [{}], "output_layers": []}}, "incomplete"),
    ],
)
def test_a_broken_configuration_names_the_file(tmp_path, config, message):
    path = write_archive(tmp_path / "model.keras", config=config or [0])
    with pytest.raises(stepstream.ModelFileError, match=rf"model\.keras.*({message})"):
        stepstream.load(path)


def test_weights_alone_are_no_model(tmp_path):
    path = write_h5(tmp_path / "model.h5", spoil=lambda file: file.attrs.__delitem__("model_config"))
    with pytest.raises(stepstream.ModelFileError, match="weights alone"):
        stepstream.load(path)


def test_an_architecture_is_text_or_a_path_with_or_without_a_byte_order_mark(tmp_path):
    def weights_alone(file):
        del file.attrs["model_config"]
        file["model_weights"].attrs["layer_names"] = list(file["model_weights"])

    path, config = write_h5(tmp_path / "w.h5", spoil=weights_alone), entries(CONFIGS, "2.15.0")
    text = "\ufeff" + json.dumps(config)
    (tmp_path / "a.json").write_text(text, encoding="utf-8")
    for given in (text, tmp_path / "a.json"):
        assert stepstream.load(path, architecture=given).fingerprint == meant("hard_sigmoid_02").fingerprint
    for wrong in (config, [config], 1, text.encode()):
        with pytest.raises(stepstream.InputError, match=rf"architecture: .*to_json.*{type(wrong).__name__}"):
            stepstream.load(path, architecture=wrong)


def test_what_was_assumed_is_said(tmp_path):
    def notes(config=None, **options):
        model = stepstream.load(write_archive(tmp_path / "m.keras", config=config, **options))
        assert model.verify().notes[1:-1] == model.check().notes
        return model.training_length, " ".join(model.check().notes)

    def built(shape, **lstm):
        config = entries(CONFIGS, "3.5.0")
        config["config"]["build_input_shape"] = config["config"]["layers"][0]["config"]["batch_shape"] = shape
        config["config"]["layers"][1]["config"] |= lstm
        return config

    assert notes() == (7, "")
    assert notes(built([None, 7, 3])) == (7, "")
    length, text = notes(built([32, 7, 3]))
    assert length == 7
    assert "a guess, from the first data that the model saw, (32, 7, 3)" in text
    assert "training_length=" in text
    length, text = notes(built([32, 7, 3], stateful=True))
    assert length is None
    assert "windows of 7 samples continue one another" in text
    assert "does not say which Keras 3" in notes(version=None)[1]


@pytest.mark.parametrize(
    ("version", "gate"),
    [("1.2.2", "hard_sigmoid_02"), ("2.2.4", "hard_sigmoid_02"), ("2.3.1", "sigmoid"), ("3.5.0", "sigmoid")],
)
def test_gates_that_the_file_does_not_name(tmp_path, version, gate):
    config = {k: v for k, v in CONFIGS[0][1].items() if k != "recurrent_activation"} | {"output_dim": 4}
    dense = CONFIGS[2][1] | {"output_dim": 1}
    configs = [("LSTM", config | {"consume_less": "gpu"}, LSTM[2]), CONFIGS[1], ("Dense", dense, DENSE[2])]
    assert stepstream.load(write_h5(tmp_path / "m.h5", configs, version)).fingerprint == meant(gate).fingerprint


@pytest.mark.parametrize(("version", "after"), [("2.3.1", False), ("2.15.0", True), ("3.5.0", True)])
@pytest.mark.parametrize("biased", [True, False])
def test_a_reset_gate_that_the_file_does_not_place(tmp_path, version, after, biased):
    """The shape of the bias tells it, and where there is none the version."""
    op, params, weights = recurrent("gru", 3, 4, sequences=False, reset_after=after)
    if not biased:
        del weights["bias"]
    config = CONFIGS[0][1] | {"recurrent_activation": "sigmoid", "use_bias": biased}
    model = stepstream.load(write_h5(tmp_path / "m.h5", [("GRU", config, weights)], version))
    assert model.fingerprint == model_of((op, params, weights)).fingerprint


def test_a_variance_below_zero_is_refused(tmp_path):
    weights = {"mean": np.zeros(4), "variance": np.array([1, 1, -0.01, 1])}
    norm = ("BatchNormalization", {"name": "norm", "scale": False, "center": False, "epsilon": 1e-3}, weights)
    with pytest.raises(stepstream.ModelFileError, match=r"norm.*variance"):
        stepstream.load(write_h5(tmp_path / "m.h5", [CONFIGS[0], norm, CONFIGS[2]]))


def test_a_shared_layer_in_cudnn_form_is_converted_once(tmp_path):
    """However often it is called, the weights are the same arrays."""
    weights = {"a": random(4, 16), "b": random(4, 16), "c": random(32)}
    path = write_h5(tmp_path / "m.h5", [("CuDNNLSTM", {"name": "r", "batch_input_shape": None}, weights)])
    with h5py.File(path, "r+") as file:
        calls = [[["x", 0, 0, {}]], [["r", 0, 0, {}]], [["r", 1, 0, {}]]]
        options = {"name": "r", "units": 4, "return_sequences": True}
        layers = [
            {"class_name": "InputLayer", "config": {"name": "x", "batch_input_shape": [None, 7, 4]}},
            {"class_name": "CuDNNLSTM", "config": options, "inbound_nodes": calls},
        ]
        body = {"name": "m", "layers": layers, "input_layers": [["x", 0, 0]], "output_layers": [["r", 2, 0]]}
        file.attrs["model_config"] = json.dumps({"class_name": "Functional", "config": body})
    first, *others = stepstream.load(path).graph.nodes
    assert len(others) == 2
    for name, weight in first.weights.items():
        assert all(node.weights[name] is weight for node in others)


def test_a_model_that_memory_cannot_hold_is_a_bad_file(tmp_path, monkeypatch):
    def full(*_):
        raise MemoryError

    monkeypatch.setattr("stepstream.formats.keras_model.convert", full)
    with pytest.raises(stepstream.ModelFileError, match=r"m\.h5.*memory"):
        stepstream.load(write_h5(tmp_path / "m.h5"))
