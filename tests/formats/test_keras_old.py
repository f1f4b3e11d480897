"""What a file means is what its writer meant: old files against float64 passes over their raw arrays."""

import json

import h5py
import keras_old_1  # noqa: F401  these three fill CASES
import keras_old_2  # noqa: F401
import keras_old_3  # noqa: F401
import numpy as np
import pytest
import typer.main
from keras_old import (
    CASES,
    Draw,
    dense1,
    layer,
    named,
    rnn1,
    rnn2,
    sequential,
    write_apart,
    write_archive,
    write_v3,
    write_whole,
)
from keras_passes import hard_sigmoid_02, lstm, lstm_cell, scan, sigmoid, simple, zeros

import stepstream
from command import run
from stepstream.cli.main import app
from stepstream.testing import verify_contract

ARCHIVES = [name for name, case in CASES.items() if case.places]
WHOLE = [name for name, case in CASES.items() if not case.places and not case.apart_only]
APART = [name for name, case in CASES.items() if not case.places]
COMMANDS = typer.main.get_command(app).commands


def close(ours, theirs):
    np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-5)


def check(model, case):
    """Our whole pass against theirs, and our steps against our whole pass."""
    if case.optional and not model.check().ok:
        assert {b.layer for b in model.check().blockers} <= set(case.optional)
        return
    assert model.check().ok, model.check()
    x = case.inputs()
    if case.indices is not None:
        x = [v[..., None] for v in x]
    config = case.config["config"]
    given = config.get("input_layers") if isinstance(config, dict) else None
    given = [[name] for name, _ in model.graph.inputs] if given is None else given
    names = list(given) if isinstance(given, dict) else [name for name, *_ in given]
    ours = model.run(x[0] if len(x) == 1 else dict(zip(names, x, strict=True)))
    ours = list(ours.values()) if isinstance(ours, dict) else [ours]
    expected = case.expected()
    assert len(ours) == len(expected)
    for y, exact in zip(ours, expected, strict=True):
        assert y.shape == exact.shape
        close(y, exact)
    verify_contract(model)


@pytest.mark.parametrize("name", WHOLE)
def test_a_whole_model(name, tmp_path):
    case = CASES[name]
    model = stepstream.load(write_whole(tmp_path / "model.h5", case))
    check(model, case)
    assert case.version in str(model.check())


@pytest.mark.parametrize("name", APART)
def test_weights_and_architecture_apart(name, tmp_path):
    case = CASES[name]
    weights = write_apart(tmp_path / "weights.h5", case)
    architecture = case.json()
    if len(name) % 2:  # as text, or as a file
        path = tmp_path / "model.json"
        path.write_text(architecture)
        architecture = path
    check(stepstream.load(weights, architecture=architecture), case)


@pytest.mark.parametrize("name", ARCHIVES)
def test_an_archive(name, tmp_path):
    case = CASES[name]
    check(stepstream.load(write_archive(tmp_path / "model.keras", case)), case)


@pytest.mark.parametrize("name", [name for name in ARCHIVES if name.startswith("archives-3")])
def test_the_newer_weights_file_and_architecture_apart(name, tmp_path):
    """Neither names the version: the form of the architecture does."""
    case = CASES[name]
    write_v3(tmp_path / "model.weights.h5", case)
    check(stepstream.load(tmp_path / "model.weights.h5", architecture=case.json()), case)


@pytest.mark.parametrize("name", ["model.hdf5", "model.keras", "model.txt", "model"])
def test_any_extension_will_do(name, tmp_path):
    case = CASES["keras_2_lstm-2.0.5-tensorflow"]
    check(stepstream.load(write_whole(tmp_path / name, case)), case)


def test_how_it_was_written_changes_nothing(tmp_path):
    """The same arrays from both back ends, in one file or in two, are the same model."""
    prints = set()
    for name in ("keras_1_lstm-tensorflow", "keras_1_lstm-theano"):
        case = CASES[name]
        prints.add(stepstream.load(write_whole(tmp_path / "a.h5", case)).fingerprint)
        prints.add(stepstream.load(write_apart(tmp_path / "b.h5", case), architecture=case.json()).fingerprint)
    assert len(prints) == 1


def test_weights_alone_ask_for_the_architecture(tmp_path):
    path = write_apart(tmp_path / "weights.h5", CASES["keras_1_gru-theano"])
    with pytest.raises(stepstream.ModelFileError, match=r"weights\.h5.*architecture="):
        stepstream.load(path)


@pytest.mark.parametrize("name", [n for n, c in COMMANDS.items() if any(p.name == "model" for p in c.params)])
def test_commands_take_the_architecture_too(name, tmp_path):
    case = CASES["keras_1_gru-theano"]
    weights, architecture = write_apart(tmp_path / "weights.h5", case), tmp_path / "model.json"
    architecture.write_text(case.json())
    out, data = tmp_path / "model.stepstream", tmp_path / "data.npz"
    x = np.random.default_rng(0).normal(size=(12, 7, stepstream.load(write_whole(tmp_path / "a.h5", case)).n_features))
    np.savez(data, X=x, y=np.arange(12) % 4)
    more = {"run": ["--no-header"], "bundle": [out], "evaluate": [data]}.get(name, [])
    if name in {"calibrate", "decide"}:
        more = [data, "--out", out]
    assert b"--architecture" in run(name, weights, *more, data=b"", code=2).stderr
    if data in more:  # what comes next is that this model gives no probabilities
        assert b"probabilities" in run(name, weights, "--architecture", architecture, *more, data=b"", code=2).stderr
    else:
        assert run(name, weights, "--architecture", architecture, *more, data=b"").stdout


def test_weights_that_do_not_fit_the_architecture(tmp_path):
    path = write_apart(tmp_path / "weights.h5", CASES["keras_1_gru-theano"])
    with pytest.raises(stepstream.ModelFileError, match="lstm_1"):
        stepstream.load(path, architecture=CASES["keras_1_lstm-theano"].json())


def test_the_training_length(tmp_path):
    case = CASES["keras_1_gru-theano"]
    assert stepstream.load(write_whole(tmp_path / "a.h5", case)).training_length == 7
    for entry in case.config["config"]:
        entry["config"]["stateful"] = True
    try:
        assert stepstream.load(write_whole(tmp_path / "b.h5", case)).training_length is None
    finally:
        for entry in case.config["config"]:
            entry["config"]["stateful"] = False


def refused():
    bidirectional = layer("Bidirectional", "both", layer=rnn1("LSTM", "lstm"), merge_mode="concat")
    yield "both", "1.2.2", [bidirectional]
    yield "back", "2.0.9", [rnn2("GRU", "back", go_backwards=True)]
    yield "major", "2.15.0", [rnn2("LSTM", "major", time_major=True)]
    batch = layer("BatchNormalization", "bn", epsilon=1e-3, mode=2, axis=-1, momentum=0.99)
    yield "bn", "1.2.2", [batch, rnn1("SimpleRNN", "rnn")]
    over_time = layer("BatchNormalization", "bn", epsilon=1e-3, mode=0, axis=1, momentum=0.99)
    yield "bn", "1.2.2", [over_time, rnn1("SimpleRNN", "rnn")]
    code = layer("Lambda", "code", function="4wEAAAA=", function_type="lambda", output_shape=None, arguments={})
    yield "code", "1.2.2", [rnn1("SimpleRNN", "rnn"), code]
    yield "far", "1.2.2", [layer("Convolution1D", "far", nb_filter=2, filter_length=3, border_mode="valid")]
    yield "again", "1.2.2", [rnn1("SimpleRNN", "rnn"), layer("RepeatVector", "again", n=7), dense1("out")]


@pytest.mark.parametrize(("name", "version", "entries"), list(refused()))
def test_what_cannot_step_is_refused_with_reason_and_remedy(name, version, entries, tmp_path):
    case = CASES["keras_1_gru-theano"]
    groups = {e["config"]["name"]: [] for e in entries}
    if "rnn" in groups:
        groups["rnn"] = named("tensorflow", "rnn_", "W U b", Draw().recurrent(1))
    spoilt = type(case)(version, sequential(version, *entries), groups, case.forward)
    report = stepstream.load(write_whole(tmp_path / "model.h5", spoilt)).check()
    (blocker,) = [b for b in report.blockers if b.layer == name]
    assert blocker.reason
    assert blocker.remedy


def test_a_merge_by_code_is_refused(tmp_path):
    case = CASES["keras_1_merge-graph-sum"]
    config = json.loads(json.dumps(case.config))
    (merge,) = [e for e in config["config"]["layers"] if e["class_name"] == "Merge"]
    merge["config"] |= {"mode": ["4wEAAAA=", None, None], "mode_type": "lambda"}
    spoilt = type(case)(case.version, config, case.groups, case.forward)
    report = stepstream.load(write_whole(tmp_path / "model.h5", spoilt)).check()
    assert "merge_1" in {b.layer for b in report.blockers}


# files by others


def raw(path):
    """Layer -> (configuration, arrays in the order of the file)."""
    with h5py.File(path, "r") as file:
        config = json.loads(file.attrs["model_config"])
        root = file["model_weights"]
        out = {}
        for entry in config["config"]:
            group = root[entry["config"]["name"]]
            out[entry["class_name"]] = [np.asarray(group[n], np.float64) for n in group.attrs["weight_names"]]
        return config["config"], out


def zoo_pass(path, x):
    """float64, from the raw arrays: twelve of an LSTM of Keras 1 lie in the order i, c, f, o."""
    entries, arrays = raw(path)
    config = entries[-1]["config"]
    if "Embedding" in arrays:
        x = arrays["Embedding"][0][x.astype(int)]
    x = x.astype(np.float64)
    if "SimpleRNN" in arrays:
        y = simple(x, arrays["SimpleRNN"])
    elif len(arrays["LSTM"]) == 12:
        gates = {k: tuple(arrays["LSTM"][3 * n : 3 * n + 3]) for n, k in enumerate("icfo")}
        y, _ = scan(lstm_cell(gates, hard_sigmoid_02), x, zeros(x, config["output_dim"], 2))
    else:
        y = lstm(x, arrays["LSTM"], hard_sigmoid_02)
    return y if config["return_sequences"] else y[:, -1]


ZOO = [f"{net}_{backend}" for net in ("embedding_lstm", "lstm", "simple_rnn") for backend in ("tensorflow", "theano")]


@pytest.mark.parametrize("name", ZOO)
def test_our_reference_pass_is_right(cases, name):
    reference = np.load(cases / "keras-zoo" / "reference.npz")
    path = cases / "keras-zoo" / f"{name}_2.h5"
    close(zoo_pass(path, reference[f"{path.name}|x0"]), reference[f"{path.name}|y0"])


@pytest.mark.parametrize("name", ZOO)
@pytest.mark.parametrize("keras", [1, 2])
def test_the_zoo(cases, name, keras):
    """The same nets by Keras 1.2.2 and 2.1.3, with both back ends."""
    reference = np.load(cases / "keras-zoo" / "reference.npz")
    path = cases / "keras-zoo" / f"{name}_{keras}.h5"
    x = reference[f"{name}_2.h5|x0"]
    model = stepstream.load(path)
    data = x[..., None].astype(np.float32) if x.ndim == 2 else x
    close(model.run(data), zoo_pass(path, x))
    if keras == 2:
        result = model.verify(data, reference[f"{path.name}|y0"])
        assert result.ok, result
    verify_contract(model, data)
    assert model.reading.provenance.writer.startswith(f"Keras {keras}.")


def test_bidirectional_models_of_the_zoo_are_refused_with_the_reason(cases):
    paths = sorted((cases / "keras-zoo").glob("bidirectional*.h5"))
    assert len(paths) == 8
    for path in paths:
        (blocker,) = stepstream.load(path).check().blockers
        assert blocker.kind == "Bidirectional"
        assert "future" in blocker.reason


def turbofan_pass(path, x):
    with h5py.File(path, "r") as file:
        root = file["model_weights"]
        w = {n: [np.asarray(root[n][k], np.float64) for k in root[n].attrs["weight_names"]] for n in root}
    y = lstm(lstm(x.astype(np.float64), w["lstm_1"], hard_sigmoid_02), w["lstm_2"], hard_sigmoid_02)[:, -1]
    y = y @ w["dense_1"][0] + w["dense_1"][1]
    return sigmoid(y) if path.name == "pm_bin.h5" else y


@pytest.mark.parametrize("source", ["float64", "stepstream"])
def test_turbofan_gives_its_authors_predictions(cases, source):
    """Hard sigmoid gates of Keras 2.0.5: with those of Keras 3 the remaining life is up to 34 cycles off."""
    folder = cases / "turbofan"
    golden, reference = np.load(folder / "author_golden.npz"), np.load(folder / "reference.npz")
    x = golden["X_test"]
    for name in ("pm_reg.h5", "pm_bin.h5"):
        path = folder / name
        model = None if source == "float64" else stepstream.load(path)
        run = model.run if model else lambda v, path=path: turbofan_pass(path, v)
        y = run(x)[:, 0]
        if name == "pm_reg.h5":
            np.testing.assert_allclose(y, golden["reg_pred_test"], rtol=5e-5)
        else:
            np.testing.assert_array_equal(y > 0.5, golden["bin_pred_test"] == 1)
        close(run(reference[f"{name}|x0"]), reference[f"{name}|y0"])
        if model:
            verify_contract(model, x[:3])


@pytest.mark.parametrize("name", ["model_lambda.h5", "sequential_lambda.h5"])
def test_files_with_code_inside_are_refused_by_name(cases, name):
    """Keras 2.0.9 wrote the bytecode of a lambda into the configuration."""
    report = stepstream.load(cases / "lambda" / name).check()
    assert not report.ok
    lambdas = [b for b in report.blockers if b.kind == "Lambda"]
    assert len(lambdas) == 2
    assert all("code" in b.reason and b.remedy for b in lambdas)


def test_a_file_without_a_version_is_taken_for_keras_1_and_says_so(tmp_path):
    path = write_whole(tmp_path / "m.h5", CASES["keras_1_lstm-tensorflow"])
    with h5py.File(path, "r+") as file:
        del file.attrs["keras_version"]
    model = stepstream.load(path)
    check(model, CASES["keras_1_lstm-tensorflow"])
    assert any("taken for Keras 1" in note for note in model.check().notes)
