"""What we read equals what real Keras computes, on both back ends."""

import os
import subprocess
import sys
import types
import warnings
from pathlib import Path

import numpy as np
import pytest

import stepstream
from stepstream.formats import keras as keras_format
from stepstream.formats.keras import foreign

HERE = Path(__file__).parent


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["jax", "torch"])
def test_every_layer_equals_keras(backend, tmp_path):
    pytest.importorskip("keras")
    pytest.importorskip(backend)
    out = subprocess.run(
        [sys.executable, "-W", "ignore", str(HERE / "keras_cases.py"), str(tmp_path)],
        # each model is compiled for one pass
        env={**os.environ, "KERAS_BACKEND": backend, "XLA_FLAGS": "--xla_backend_optimization_level=0"},
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


def test_windows_as_long_as_in_no_training_are_refused(keras):
    layers = keras.layers
    model = keras.Sequential([layers.Input((1_000_001, 3)), layers.LSTM(4)])
    with pytest.raises(stepstream.ModelFileError, match="at most 1000000 samples, got 1000001"):
        stepstream.load(model)


def test_a_training_length_cannot_contradict_flatten(keras):
    layers = keras.layers
    model = keras.Sequential([layers.Input((7, 3)), layers.LSTM(4, return_sequences=True), layers.Flatten()])
    model.add(layers.Dense(1))
    assert stepstream.load(model, training_length=7).window_length == 7
    with pytest.raises(stepstream.InputError, match="training_length: expected 7, got 5: the model flattens"):
        stepstream.load(model, training_length=5)


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


def test_own_activations_by_another_name_of_keras_activations_are_named(keras, tmp_path):
    """Keras writes its own by the names silu and hard_silu alone, and a user's as an object."""

    def swish(x):
        return x * keras.ops.sigmoid(3.0 * x)

    def hard_swish(x):
        return 2 * x

    layers = keras.layers
    cell = layers.RNN(layers.LSTMCell(2, activation=swish), return_sequences=True, name="cell")
    own = [cell, layers.Dense(2, activation=swish, name="a"), layers.Activation(hard_swish, name="b")]
    model = keras.Sequential([layers.Input((7, 3)), *own, layers.Dense(2, activation="swish")])
    model.save(tmp_path / "model.keras")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model.save(tmp_path / "model.h5")
    for source in (model, tmp_path / "model.keras", tmp_path / "model.h5"):
        blockers = stepstream.load(source).check().blockers
        assert [b.layer for b in blockers] == ["cell", "a", "b"]
        assert "swish" in blockers[0].reason


def test_activations_that_keras_2_takes_from_tensorflow_are_its_own():
    """TensorFlow is not imported here: this is how tf_keras has them."""
    relu6, other, own = (types.FunctionType((lambda x: x).__code__, {}) for _ in range(3))
    relu6.__module__ = other.__module__ = "tensorflow.python.ops.nn_ops"

    def get(name):
        if name != "relu6":
            raise ValueError(name)
        return relu6

    framework = types.SimpleNamespace(activations=types.SimpleNamespace(get=get))
    assert not keras_format._is_own(relu6, "relu6", framework)
    for function, name in ((other, "relu6"), (relu6, "relu"), (own, "relu6")):
        assert keras_format._is_own(function, name, framework)


def test_a_reshape_that_takes_time_away_is_named_not_the_layer_that_misses_it(keras):
    layers = keras.layers
    chain = [layers.Reshape((6,), name="flat"), layers.Embedding(9, 4), layers.Dropout(0.1), layers.LSTM(3)]
    (blocker,) = stepstream.load(keras.Sequential([layers.Input((6, 1)), *chain])).check().blockers
    assert blocker.layer == "flat"


@pytest.mark.parametrize("nested", [False, True])
@pytest.mark.parametrize("second", ["LSTMCell", "GRUCell"])
def test_the_weights_of_a_frozen_cell_come_last_in_hdf5(keras, tmp_path, nested, second):
    layers = keras.layers
    keras.utils.set_random_seed(3)
    rnn = layers.RNN([layers.LSTMCell(3), getattr(layers, second)(3), layers.LSTMCell(3)])
    rnn.cell.cells[0].trainable = False
    model = keras.Sequential([layers.Input((7, 3)), rnn, layers.Dense(1)])
    model = keras.Sequential([layers.Input((7, 3)), model]) if nested else model
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model.save(tmp_path / "model.h5")
    assert stepstream.load(tmp_path / "model.h5").fingerprint == stepstream.load(model).fingerprint


@pytest.mark.parametrize("nested", [False, True])
def test_lora_is_merged_in_an_archive_and_named_elsewhere(keras, tmp_path, nested):
    layers = keras.layers
    dense = layers.Dense(4, name="adapted")
    model = keras.Sequential([layers.Input((7, 3)), dense, layers.LSTM(2)])
    dense.enable_lora(2)
    dense.lora_kernel_b.assign(np.ones((2, 4), np.float32))
    model = keras.Sequential([layers.Input((7, 3)), model]) if nested else model
    model.save(tmp_path / "model.keras")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model.save(tmp_path / "model.h5")
    assert stepstream.load(tmp_path / "model.keras").verify(reference=model).ok
    for source in (model, tmp_path / "model.h5"):
        (blocker,) = stepstream.load(source).check().blockers
        assert blocker.layer.endswith("adapted")
        assert "LoRA" in blocker.reason
        assert ".keras" in blocker.remedy


def test_several_indices_beside_a_stream_have_no_time_unless_they_are_as_long(keras):
    layers = keras.layers

    def model(time, indices, mask=False):
        main, cats = layers.Input((time, 4), name="main"), layers.Input((indices,), name="cats", dtype="int32")
        e = layers.Flatten()(layers.Embedding(10, 2, mask_zero=mask)(cats))
        return keras.Model([main, cats], layers.Dense(1)(layers.Concatenate()([layers.LSTM(5)(main), e])))

    for time, indices, assumed in ((None, 3, "taken to have no time"), (7, 3, None), (7, 7, "taken for a stream")):
        original = model(time, indices)
        ours = stepstream.load(original)
        static = indices == 3
        assert {r.layer: r.role for r in ours.check().rows}["cats"] == ("static" if static else "sequence")
        assert ours.training_length == time
        notes = [n for n in ours.check().notes if "'cats'" in n]
        assert len(notes) == (assumed is not None)
        assert all(assumed in n for n in notes)
        result = ours.verify(reference=original)
        assert result.ok, result
    stream = stepstream.load(model(None, 3)).stream("carry")
    assert isinstance(stream.step({"main": [1, 2, 3, 4], "cats": [1, 9, 4]}), float)
    with pytest.warns(UserWarning, match="mask"):
        masked = model(7, 3, mask=True)
    assert "mask_zero" in stepstream.load(masked).check().blockers[0].reason


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


def test_subclasses_without_a_call_of_their_own_are_read_from_memory(keras, tmp_path):
    layers = keras.layers

    class Own(keras.Model):
        def __init__(self):
            a, b = layers.Input((7, 3), name="a"), layers.Input((7, 2), name="b")
            super().__init__({"a": a, "b": b}, layers.LSTM(2)(layers.Concatenate()([a, b])))

    class Chain(keras.Sequential):
        def __init__(self):
            super().__init__([layers.Input((7, 3)), layers.LSTM(2)])

    for model in (Own(), Chain()):
        result = stepstream.load(model).verify(reference=model)
        assert result.ok, result
    Own().save(tmp_path / "model.keras")
    with pytest.raises(stepstream.ModelFileError, match=r"'Own'.*save keras.Model\(model.inputs, model.outputs\)"):
        stepstream.load(tmp_path / "model.keras")


@pytest.mark.parametrize("content", [b"", b"hello", b"PK\x03\x04garbage", b"\x89HDF\r\n\x1a\ngarbage"])
def test_files_that_are_no_models(tmp_path, content):
    (tmp_path / "model.keras").write_bytes(content)
    with pytest.raises(stepstream.ModelFileError, match=r"model\.keras"):
        stepstream.load(tmp_path / "model.keras")


def test_a_missing_file_is_named():
    with pytest.raises(stepstream.ModelFileError, match="nowhere"):
        stepstream.load("nowhere.keras")


def stateful(keras, time, *behind):
    layers = keras.layers
    keras.utils.set_random_seed(2)
    x = layers.Input(batch_shape=(1, time, 3))
    y = layers.LSTM(4, return_sequences=True, stateful=True)(x)
    for layer in behind:
        y = layer(y)
    return keras.Model(x, layers.Dense(2)(y))


def test_flatten_of_one_sample_keeps_the_state_of_a_stateful_layer(keras):
    layers = keras.layers
    x = np.random.default_rng(3).normal(size=(5, 3)).astype(np.float32)
    for behind in ([layers.Flatten()], [layers.Reshape((4,)), layers.BatchNormalization(axis=1)]):
        original = stateful(keras, 1, *behind)
        model = stepstream.load(original)
        assert model.window_length is None
        expected = [np.asarray(original(sample[None, None]))[0] for sample in x]  # call by call
        np.testing.assert_allclose(model.stream("carry").steps(x), expected, atol=1e-6)
        assert model.run(x[None]).shape == (1, 2)
        assert model.verify().ok


def test_flatten_of_windows_that_continue_one_another_blocks(keras):
    (blocker,) = stepstream.load(stateful(keras, 3, keras.layers.Flatten(name="flat"))).check().blockers
    assert blocker.layer == "flat"
    assert "windows of 3 samples" in blocker.reason
    assert "stateful=False" in blocker.remedy
