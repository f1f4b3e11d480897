"""What we read equals what real Keras computes, on both back ends."""

import os
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest

import stepstream
from stepstream.formats.keras import foreign

HERE = Path(__file__).parent


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["jax", "torch"])
def test_every_layer_equals_keras(backend, tmp_path):
    pytest.importorskip("keras")
    pytest.importorskip(backend)
    out = subprocess.run(
        [sys.executable, "-W", "ignore", str(HERE / "keras_cases.py"), str(tmp_path)],
        env={**os.environ, "KERAS_BACKEND": backend},
        capture_output=True,
        text=True,
        check=False,
    )
    assert out.returncode == 0, out.stdout + out.stderr
    assert f"models on {backend}, 0 wrong" in out.stdout


@pytest.fixture
def keras():
    return pytest.importorskip("keras")


def small(keras, *, dtype=None):
    layers = keras.layers
    keras.utils.set_random_seed(1)
    return keras.Sequential(
        [
            layers.Input((7, 3)),
            layers.LSTM(4, dtype=dtype, recurrent_initializer="glorot_uniform"),  # orthogonal needs float32
            layers.Dense(1, activation="sigmoid", dtype=dtype),
        ]
    )


def test_content_decides_not_the_name(keras, tmp_path):
    model = small(keras)
    model.save(tmp_path / "model.keras")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model.save(tmp_path / "model.h5")
    (tmp_path / "model.keras").rename(tmp_path / "archive.h5")
    (tmp_path / "model.h5").rename(tmp_path / "hdf5.bin")
    archive, hdf5 = stepstream.load(tmp_path / "archive.h5"), stepstream.load(tmp_path / "hdf5.bin")
    assert archive.fingerprint == hdf5.fingerprint == stepstream.load(model).fingerprint
    assert archive.reading.provenance.format == ".keras"
    assert hdf5.reading.provenance.format == "HDF5"


@pytest.mark.parametrize("name", ["model.keras", "model.h5"])
def test_what_stands_beside_plain_layers_is_known(keras, tmp_path, name):
    """So that `verify` compares these files with Keras."""
    layers = keras.layers
    x = layers.Input((7, 3))
    masked = layers.Masking()(x)
    h = layers.LSTM(
        4,
        return_sequences=True,
        kernel_regularizer=keras.regularizers.L1L2(0.1),
        recurrent_constraint=keras.constraints.MinMaxNorm(),
        kernel_initializer=keras.initializers.VarianceScaling(),
    )(masked)
    g = layers.RNN([layers.GRUCell(3), layers.LSTMCell(4)], return_sequences=True)(masked)
    y = layers.Concatenate()([layers.Add()([h, g]), h])  # their masks are operations in the file
    y = layers.TimeDistributed(layers.Dense(2, activation=layers.LeakyReLU(0.1)))(y)
    model = keras.Model(x, y)
    model.compile("adam", "mse")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model.save(tmp_path / name)
    assert foreign(tmp_path / name) is None


def test_later_training_changes_nothing(keras):
    model = small(keras)
    ours = stepstream.load(model)
    x = np.ones((1, 7, 3), np.float32)
    before = ours.run(x)
    model.set_weights([w + 1 for w in model.get_weights()])
    np.testing.assert_array_equal(ours.run(x), before)


def test_custom_training_parts_do_not_matter(keras, tmp_path):
    model = small(keras)

    @keras.saving.register_keras_serializable("house")
    class Loss(keras.losses.Loss):
        def call(self, y_true, y_pred):
            return y_true - y_pred

    @keras.saving.register_keras_serializable("house")
    def metric(y_true, y_pred):
        return y_true - y_pred

    model.compile(optimizer="adam", loss=Loss(), metrics=[metric])
    model.save(tmp_path / "model.keras")
    assert stepstream.load(tmp_path / "model.keras").check().ok


@pytest.mark.parametrize("policy", ["float16", "mixed_float16", "float64", "bfloat16"])
def test_other_precisions_run_in_float32_and_say_so(keras, tmp_path, policy):
    small(keras, dtype=policy).save(tmp_path / "model.keras")
    report = stepstream.load(tmp_path / "model.keras").check()
    assert any(policy in note for note in report.notes)


def test_stateful_models_have_no_training_length(keras):
    layers = keras.layers
    model = keras.Sequential([layers.Input((7, 3), batch_size=1), layers.LSTM(4, stateful=True), layers.Dense(1)])
    assert stepstream.load(model).training_length is None
    assert stepstream.load(model, training_length=9).training_length == 9


def test_all_blockers_at_once_with_remedies(keras, tmp_path):
    layers = keras.layers
    model = keras.Sequential(
        [
            layers.Input((8, 3)),
            layers.Conv1D(4, 3, padding="same"),
            layers.Bidirectional(layers.LSTM(4, return_sequences=True)),
            layers.LSTM(4, return_sequences=True, go_backwards=True),
            layers.PReLU(),
            layers.BatchNormalization(axis=1),
            layers.Softmax(axis=1),
            layers.Flatten(),
            layers.Dense(1),
        ]
    )
    model.save(tmp_path / "model.keras")
    report = stepstream.load(tmp_path / "model.keras").check()
    assert not report.ok
    kinds = [b.kind for b in report.blockers]
    assert kinds == ["Conv1D", "Bidirectional", "LSTM", "PReLU", "BatchNormalization", "Softmax"]
    for b in report.blockers:
        assert b.remedy
        assert b.layer in str(report)
        assert b.layer in report._repr_html_()


def test_custom_layers_and_branches_are_named(keras, tmp_path):
    layers = keras.layers

    @keras.saving.register_keras_serializable("house")
    class Twice(layers.Layer):
        def call(self, x):
            return 2 * x

    x = layers.Input((8, 3))
    h = layers.LSTM(4, return_sequences=True)(x)
    y = layers.Add(name="merge")([h, Twice(name="twice")(h)])
    model = keras.Model(x, layers.Dropout(0.5, name="on")(layers.Dense(1)(y), training=True))
    model.save(tmp_path / "model.keras")
    blockers = {b.layer: b.reason for b in stepstream.load(tmp_path / "model.keras").check().blockers}
    assert set(blockers) == {"twice", "on"}
    assert "training=True" in blockers["on"]


def test_custom_activations_are_named(keras):
    def wave(x):
        return keras.ops.sin(x)

    model = keras.Sequential([keras.layers.Input((8, 3)), keras.layers.LSTM(4, activation=wave, name="odd")])
    (blocker,) = stepstream.load(model).check().blockers
    assert blocker.layer == "odd"
    assert "activation" in blocker.reason


def test_own_classes_and_functions_with_a_standard_name_are_named(keras, tmp_path):
    """A file says `Dense`, and means something else: never Keras' own numbers in its place."""
    layers = keras.layers

    class LSTM(layers.LSTM):
        def call(self, sequences, initial_state=None, mask=None, training=False):
            return 2 * super().call(sequences, initial_state, mask, training)

    @keras.saving.register_keras_serializable("house")
    class Dense(layers.Dense):
        def call(self, x):
            return 2 * super().call(x)

    @keras.saving.register_keras_serializable("house")
    class LeakyReLU(layers.LeakyReLU):
        def call(self, x):
            return -x

    @keras.saving.register_keras_serializable("house")
    def tanh(x):
        return 2 * x

    model = keras.Sequential(
        [
            layers.Input((7, 3)),
            LSTM(4, return_sequences=True, name="a"),
            layers.TimeDistributed(Dense(3), name="b"),
            layers.LSTM(4, activation=tanh, name="c"),
            layers.Dense(3, activation=LeakyReLU(), name="d"),
            Dense(3, name="e"),
            layers.Dense(1, name="f"),
        ]
    )
    model.save(tmp_path / "model.keras")
    for source in (model, tmp_path / "model.keras"):
        assert [b.layer for b in stepstream.load(source).check().blockers] == ["a", "b", "c", "d", "e"]


def test_an_own_activation_called_relu_is_told_apart_in_memory(keras):
    def relu(x):
        return 2 * x

    model = keras.Sequential([keras.layers.Input((7, 3)), keras.layers.GRU(3, activation=relu)])
    (blocker,) = stepstream.load(model).check().blockers
    assert "relu" in blocker.reason


def test_operations_and_options_of_calls_are_named(keras):
    layers = keras.layers
    x = layers.Input((7, 3))
    y = layers.LSTM(4, name="on")(x, training=False)
    y = keras.ops.softmax(y)
    y = layers.BatchNormalization(name="batch")(y, training=True)
    reasons = {b.layer: b.reason for b in stepstream.load(keras.Model(x, y)).check().blockers}
    assert len(reasons) == 2
    assert "training=True" in reasons["batch"]
    assert any("operation" in reason for reason in reasons.values())


def test_several_outputs_by_name(keras):
    layers = keras.layers
    x = layers.Input((8, 3))
    h = layers.GRU(4)(x)
    model = keras.Model(x, [layers.Dense(1, name="risk")(h), layers.Dense(3, name="kind")(h)])
    ours = stepstream.load(model)
    answer = ours.stream().step([1, 2, 3])
    assert list(answer) == ["risk", "kind"]
    assert isinstance(answer["risk"], float)
    assert answer["kind"].shape == (3,)
    result = ours.verify(reference=model)
    assert result.ok, result


def test_verify_compares_with_a_live_model(keras):
    model = small(keras)
    ours = stepstream.load(model)
    assert ours.verify(reference=model).ok
    model.set_weights([w + 0.5 for w in model.get_weights()])
    result = ours.verify(reference=model)
    assert not result.ok
    failed = [c for c in result.checks if not c.ok]
    assert [c.compared_with for c in failed] == ["live keras"]
    assert failed[0].position == 6


def test_verify_makes_samples_as_long_as_the_reference_takes(keras):
    layers = keras.layers
    model = keras.Sequential([layers.Input((60, 3)), layers.GRU(4), layers.Dense(1)])
    result = stepstream.load(model).verify(reference=model)
    assert result.ok
    assert result.checks[-1].position == 59


def test_subclassed_models_are_refused(keras):
    class Own(keras.Model):
        def call(self, x):
            return x

    class Twice(keras.Sequential):
        def call(self, *args, **kwargs):
            return 2 * super().call(*args, **kwargs)

    for model in (Own(), Twice([keras.layers.Input((7, 3)), keras.layers.LSTM(2)])):
        with pytest.raises(stepstream.InputError, match="Functional"):
            stepstream.load(model)


@pytest.mark.parametrize("content", [b"", b"hello", b"PK\x03\x04garbage", b"\x89HDF\r\n\x1a\ngarbage"])
def test_files_that_are_no_models(tmp_path, content):
    (tmp_path / "model.keras").write_bytes(content)
    with pytest.raises(stepstream.ModelFileError, match=r"model\.keras"):
        stepstream.load(tmp_path / "model.keras")


def test_a_missing_file_is_named():
    with pytest.raises(stepstream.ModelFileError, match="nowhere"):
        stepstream.load("nowhere.keras")
