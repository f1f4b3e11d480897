"""Training on small data, on the back end that KERAS_BACKEND names: what comes out, and that it can be relied on."""

import json
import os
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest

pytest.importorskip("keras")
pytest.importorskip("jax")
import stepstream  # (importorskip comes first)
from stepstream import BlockedError, InputError
from stepstream.learn import checkpoint
from stepstream.learn.answers import probabilities
from stepstream.learn.batches import batch
from stepstream.learn.cross_validation import sweep
from stepstream.learn.data import folds, sequences
from stepstream.learn.evaluation import evaluate
from stepstream.learn.learner import Learner
from stepstream.learn.recipe import Recipe
from stepstream.learn.training import train
from stepstream.learn.unseen import seen_by
from stepstream.testing import samples

pytestmark = pytest.mark.usefixtures("compiled_once")
SMALL = Recipe(units=(6,), epochs=3, batch=8, rate=0.01)


def steps(m=16, time=8, seed=0, classes=2):
    """The mean of feature 0 says the class; feature 1 is far from zero and says nothing."""
    rng = np.random.default_rng(seed)
    y = np.arange(m) % classes
    x = rng.normal(size=(m, time, 2)) + np.stack([y, 0 * y + 50], axis=-1)[:, None]
    return sequences(x, y, features=["level", "other"])


def keras_answers(model, x):
    import keras

    return keras.ops.convert_to_numpy(model(x, training=False))


@pytest.fixture(scope="module")
def training():
    return train(steps(), replace(SMALL, units=(8, 4), epochs=40, average=0), validation=0.25)


def test_the_model_answers_at_every_sample_as_keras_does_on_raw_samples(training):
    x = np.stack(steps(m=6, time=20, seed=1).x)
    ours = training.model.run(x)
    assert ours.shape == (6, 20, 1)
    np.testing.assert_allclose(ours, keras_answers(training.keras, x), atol=1e-5, rtol=1e-5)
    assert training.model.features == ("level", "other")
    assert training.model.training_length == 8
    assert training.trained_ages == (1, 8)
    assert training.model.verify(x).ok


def test_it_scales_by_itself_and_its_bundle_takes_no_second_scale(training, tmp_path):
    training.model.save(tmp_path / "model.stepstream")
    with pytest.raises(InputError, match="one already"):
        stepstream.load(tmp_path / "model.stepstream", scale=([0, 50], [1, 1]))
    assert samples(training.model)[..., 1].mean() == pytest.approx(50, abs=1)


@pytest.mark.parametrize(
    ("cut", "windowing"),
    [({}, "carry"), ({"window": 4}, "tumbling(4)"), ({"window": 4, "state_passing": 0.5}, "carry")],
)
def test_the_training_data_are_described_as_they_were_cut(cut, windowing):
    drift = train(steps(), replace(SMALL, epochs=1, **cut)).model.reports["drift"]
    assert drift["windowing"] == windowing
    assert set(drift["probability"]["by_step"]) == {"1", "2", "3"} | ({"5", "7"} if windowing == "carry" else set())


@pytest.mark.parametrize("windowing", ["auto", "carry", "sliding(8)"])
def test_an_engine_watches_the_probabilities_of_a_freshly_trained_model(training, windowing):
    engine = stepstream.Engine(training.model, windowing, watch=1)
    assert engine.stats()["drift"]["note"] is None


def test_the_whole_of_the_data_is_known_to_a_model_that_was_trained_on_most_of_it(training):
    for data, known in ((training.part, True), (steps(), True), (steps(seed=2), False)):
        assert (seen_by(training.model, data) is not None) is known


def test_it_learns(training):
    first, last = training.history[0], training.history[-1]
    assert last["validation_loss"] < first["validation_loss"]
    test = steps(m=40, seed=2)
    p = training.model.run(np.stack(test.x))[..., 0]
    assert ((p[:, -1] > 0.5) == np.array(test.y)).mean() > 0.85


def test_the_mean_of_the_weights_is_kept_and_validated():
    """After one update there is a tenth of the first weights in it; without it the last update's are kept."""
    recipe = replace(SMALL, epochs=1, batch=16)
    data = steps()
    made = [train(data, replace(recipe, average=a), validation=data).keras.get_weights() for a in (0.0, 0.98)]
    first = train(data, replace(recipe, average=0.0, rate=1e-12)).keras.get_weights()
    for last, mean, initial in zip(*made, first, strict=True):
        np.testing.assert_allclose(mean, 0.9 * last + 0.1 * initial, atol=1e-6)
    training = train(data, recipe, validation=data)
    p = training.model.run(np.stack(data.x))[:, -1, 0]
    assert training.history[-1]["end_accuracy"] == pytest.approx(((p > 0.5) == np.array(data.y)).mean())


def test_the_report_is_json_and_says_what_was_done(training):
    report = json.loads(json.dumps(training.report))
    assert report["data"]["sequences"] == 12
    assert report["validation"]["sequences"] == 4
    assert report["data"]["by_class"] == {"0": 6, "1": 6}
    assert abs(report["scaling"]["mean"][1] - 50) < 1
    assert len(report["history"]) == report["epochs"] == 40
    assert report["recipe"]["units"] == [8, 4]
    assert {"accuracy", "precision", "recall", "f1", "auc", "end_auc", "validation_loss"} <= set(report["history"][0])


def test_the_report_says_what_gives_the_future_away():
    x = np.random.default_rng(0).normal(size=(8, 20, 1))
    x = (x - x.mean(axis=1, keepdims=True)) / x.std(axis=1, keepdims=True)
    made = train(sequences(x, np.arange(8) % 2), replace(SMALL, epochs=1))
    assert [g["name"] for g in made.report["guards"]] == ["normalised"]


def test_leaks_are_told_before_the_first_epoch():
    x = np.random.default_rng(0).normal(size=(8, 20, 1))
    x = (x - x.mean(axis=1, keepdims=True)) / x.std(axis=1, keepdims=True)
    told = []
    train(
        sequences(x, np.arange(8) % 2),
        replace(SMALL, epochs=2),
        progress=lambda row: told.append(row["epoch"]),
        findings=lambda finding: told.append(finding.name),
    )
    assert told == ["normalised", 1, 2]


def test_names_that_nobody_gave_are_not_the_model_s():
    data = sequences(np.stack(steps(m=4).x), np.arange(4) % 2)
    made = train(data, replace(SMALL, epochs=1))
    assert made.model.features is None
    assert made.report["features"] is None
    named = replace(data, features=("level", "other"))
    assert evaluate(made.model, named).about["features"] == ["level", "other"]


def test_the_keras_file_takes_raw_samples_and_loads(training, tmp_path):
    training.save(keras=tmp_path / "model.keras")
    x = np.stack(steps(m=3).x)
    again = stepstream.load(tmp_path / "model.keras")
    np.testing.assert_allclose(again.run(x), training.model.run(x), atol=1e-6)


def test_one_file_never_takes_the_other_s_place(training, tmp_path):
    kept = tmp_path / "x.keras"
    kept.write_bytes(b"old")
    for places in ({"bundle": kept}, {"bundle": tmp_path / "x.KERAS"}, {"bundle": kept, "keras": kept}):
        with pytest.raises(InputError, match=r"expected a bundle's name, model.stepstream, got .*x\.(keras|KERAS)"):
            training.save(**places)
    with pytest.raises(InputError, match=r"ends in \.keras"):
        training.save(keras=tmp_path / "x.h5")
    (tmp_path / "link.stepstream").symlink_to(kept)
    with pytest.raises(InputError, match="expected two files"):
        training.save(bundle=tmp_path / "link.stepstream", keras=kept)
    assert kept.read_bytes() == b"old"
    training.save(tmp_path / "x.stepstream")
    assert stepstream.load(tmp_path / "x.stepstream").fingerprint == training.model.fingerprint
    assert stepstream.load(kept).n_features == 2


def test_a_keras_file_that_cannot_be_written_leaves_the_old_one(training, tmp_path, monkeypatch):
    kept = tmp_path / "x.keras"
    kept.write_bytes(b"old")

    def half(path):
        path.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(training.keras, "save", half)
    with pytest.raises(InputError, match=r"x\.keras: No space left on device"):
        training.save(keras=kept)
    assert kept.read_bytes() == b"old"
    assert [f.name for f in tmp_path.iterdir()] == ["x.keras"]


def test_the_same_seed_gives_the_same_weights_and_another_does_not():
    one, two, other = (train(steps(), replace(SMALL, seed=seed)).model.fingerprint for seed in (1, 1, 2))
    assert one == two
    assert one != other


def test_scaling_is_learned_on_the_training_part_only():
    data = steps()
    far = sequences(np.stack(data.x) + 1000, np.array(data.y), features=data.features)
    alone, beside = (train(data, SMALL, validation=v).report["scaling"] for v in (None, far))
    assert alone == beside


@pytest.mark.parametrize("recipe", [replace(SMALL, noise=0.1), replace(SMALL, state_passing=0.5, prefixes=0.5)])
def test_going_on_after_an_interruption_changes_nothing(tmp_path, recipe):
    recipe = replace(recipe, epochs=4, patience=2)
    whole = train(steps(), recipe, validation=0.25)

    class Stop(Exception):
        pass

    def stop(row):
        if row["epoch"] == 2:
            raise Stop

    with pytest.raises(Stop):
        train(steps(), recipe, validation=0.25, folder=tmp_path, progress=stop)
    seen = []
    again = train(steps(), recipe, validation=0.25, folder=tmp_path, progress=seen.append)
    assert seen[0]["epoch"] == 3
    assert again.history == whole.history
    assert again.model.fingerprint == whole.model.fingerprint
    done = train(steps(), recipe, validation=0.25, folder=tmp_path, progress=seen.append)
    assert done.model.fingerprint == whole.model.fingerprint


def test_a_checkpoint_of_something_else_is_refused(tmp_path):
    recipe = replace(SMALL, epochs=1)
    train(steps(), recipe, folder=tmp_path)
    with pytest.raises(InputError, match="got one of another recipe"):
        train(steps(), replace(recipe, rate=0.02), folder=tmp_path)
    with pytest.raises(InputError, match="got one of other data"):
        train(steps(seed=3), recipe, folder=tmp_path)
    (tmp_path / "checkpoint.npz").write_bytes(b"PK")
    with pytest.raises(InputError, match="damaged file"):
        train(steps(), recipe, folder=tmp_path)


def test_a_damaged_checkpoint_is_named_without_advice_to_run_it(tmp_path):
    checkpoint.write(tmp_path, {"a": 1}, {"x": np.arange(3.0)})
    path = tmp_path / "checkpoint.npz"
    whole = path.read_bytes()
    unknown = whole.find(b"PK\x01\x02") + 10  # the first entry's kind of compression
    header = whole.replace(b"'fortran_order'", bytes(15))
    for data in (b"no archive", whole[:-40], whole[:unknown] + b"\x63" + whole[unknown + 1 :], header):
        path.write_bytes(data)
        with pytest.raises(InputError, match=r"checkpoint.npz: expected .* got a damaged file; delete it") as raised:
            checkpoint.read(tmp_path)
        assert "pickle" not in str(raised.value)


def test_an_interrupted_checkpoint_leaves_nothing_behind(tmp_path, monkeypatch):
    checkpoint.write(tmp_path, {"a": 1}, {"x": np.arange(3.0)})

    def interrupted(_):
        raise KeyboardInterrupt

    monkeypatch.setattr(checkpoint.os, "fsync", interrupted)
    with pytest.raises(KeyboardInterrupt):
        checkpoint.write(tmp_path, {"a": 2}, {"x": np.arange(3.0)})
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint.npz"]
    assert checkpoint.read(tmp_path)[0] == {"a": 1}


def test_a_file_in_place_of_the_folder_is_refused_before_training(tmp_path):
    (tmp_path / "file").write_text("mine")
    for folder in (tmp_path / "file", tmp_path / "file" / "deeper"):
        seen = []
        with pytest.raises(InputError, match=r"folder: expected a folder for checkpoints, got the file .*file;"):
            train(steps(), replace(SMALL, epochs=1), folder=folder, progress=seen.append)
        assert not seen
    assert (tmp_path / "file").read_text() == "mine"


def test_early_stopping_keeps_the_best_epoch():
    recipe = replace(SMALL, epochs=60, patience=3, rate=0.3, clip=None)  # too fast: it gets worse soon
    stopped = train(steps(), recipe, validation=0.25)
    losses = [row["validation_loss"] for row in stopped.history]
    best = int(np.argmin(losses)) + 1
    assert len(losses) == best + 3
    assert stopped.report["kept_epoch"] == best
    until = train(steps(), replace(recipe, epochs=best, patience=None), validation=0.25)
    assert until.model.fingerprint == stopped.model.fingerprint


@pytest.mark.parametrize(
    ("changes", "classes", "outputs"),
    [
        ({"cell": "gru"}, 2, 1),
        ({"cell": "rnn", "outputs": "classes"}, 2, 2),
        ({"loss": "ramp", "class_weights": "balanced"}, 3, 3),
        ({"window": 3, "state_passing": 0.5}, 2, 1),
        ({"truncated": 3, "loss": "last", "cell": "gru"}, 3, 3),
    ],
)
def test_every_way_gives_a_model(changes, classes, outputs):
    made = train(steps(classes=classes), replace(SMALL, epochs=1, **changes), validation=0.25)
    x = np.stack(steps(m=2, time=12).x)
    assert made.model.run(x).shape == (2, 12, outputs)
    np.testing.assert_allclose(made.model.run(x), keras_answers(made.keras, x), atol=1e-5)
    carries = "state_passing" in changes or "truncated" in changes
    assert made.trained_ages == (1, None if "state_passing" in changes else 8)  # truncated plays streams to their end
    assert (made.model.training_length is None) == carries


def test_regression_answers_in_the_units_of_the_labels():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(24, 6, 1))
    y = 1000 + 50 * x.mean(axis=1)[:, 0]
    made = train(sequences(x, y), replace(SMALL, epochs=120, dropout=0), validation=0.25)
    assert {"mae", "rmse", "end_mae"} <= set(made.history[0])
    error = made.model.run(x)[:, -1, 0] - y
    assert np.sqrt((error**2).mean()) < 0.6 * y.std()


def test_ragged_sequences_train_as_if_nothing_was_behind_their_ends():
    data = steps(m=8)
    ragged = sequences([x[: 3 + i % 5] for i, x in enumerate(data.x)], np.array(data.y), features=data.features)
    recipe = replace(SMALL, epochs=2, batch=8, dropout=0)
    made = train(ragged, recipe)
    assert made.trained_ages == (1, 7)

    def poisoned(*args):
        out = batch(*args)
        out.x[~out.there], out.y[~out.there] = 5, 1
        return out

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("stepstream.learn.batches.batch", poisoned)
        assert train(ragged, recipe).model.fingerprint == made.model.fingerprint
        passing = replace(recipe, state_passing=0.5)
        assert train(ragged, passing).model.fingerprint != made.model.fingerprint
    again = train(ragged, passing).model.fingerprint
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("stepstream.learn.batches.batch", poisoned)
        assert train(ragged, passing).model.fingerprint == again


def test_class_weights_count_in_batches_of_one():
    data = steps(m=8)
    recipe = replace(SMALL, epochs=2, batch=1, dropout=0)
    share = [
        float((train(data, replace(recipe, class_weights=w)).model.run(np.stack(data.x))[..., 0] > 0.5).mean())
        for w in ({"0": 100, "1": 0.01}, {"0": 0.01, "1": 100})
    ]
    assert share[0] < 0.3
    assert share[1] > 0.7


@pytest.mark.parametrize("end", ["layer", "activation", "distributed"])
def test_the_loss_of_a_network_that_ends_in_a_softmax_is_that_of_the_served_model(end):
    import keras
    from keras import layers

    ends = {
        "layer": [layers.Dense(3), layers.Softmax()],
        "activation": [layers.Dense(3, "softmax")],
        "distributed": [layers.TimeDistributed(layers.Dense(3)), layers.TimeDistributed(layers.Softmax())],
    }
    network = keras.Sequential([layers.Input((None, 2)), layers.LSTM(4, return_sequences=True), *ends[end]])
    data = steps(m=18, classes=3)
    made = train(data, SMALL, validation=data, network=network)
    p = np.stack(probabilities(made.model, data))
    served = -np.log(p[np.arange(18), :, np.array(data.y)]).mean()
    assert made.history[-1]["validation_loss"] == pytest.approx(served, abs=1e-4)


def test_batch_normalization_never_learns_from_padding():
    import keras
    from keras import layers

    def build(recipe, features):
        made = [layers.LSTM(3, return_sequences=True), layers.Dense(1, "sigmoid")]
        return keras.Sequential([layers.Input((None, 2)), layers.BatchNormalization(momentum=0), *made])

    data = steps(m=9)  # one more than a batch has
    made = train(data, replace(SMALL, epochs=1, batch=8), network=build)
    (norm,) = [la for la in made.keras.layers if isinstance(la, layers.BatchNormalization)]
    last = np.abs(np.asarray(norm.moving_mean)).max()
    assert last > 0.05, "the statistics of the last sequence alone, without zeros beside it"
    assert np.asarray(norm.moving_variance)[1] > 0.3
    for changes in ({"starts": 0.5}, {"prefixes": 0.5}, {"truncated": 4}, {"window": 3}):
        with pytest.raises(InputError, match="would learn from the padding"):
            train(data, replace(SMALL, **changes), network=build)


def test_a_checkpoint_of_another_network_is_refused(tmp_path):
    import keras
    from keras import layers

    def build(activation):
        made = [layers.LSTM(3, activation=activation, return_sequences=True), layers.Dense(1, "sigmoid")]
        return lambda recipe, features: keras.Sequential([layers.Input((None, 2)), *made])

    train(steps(), SMALL, network=build("relu"), folder=tmp_path)
    with pytest.raises(InputError, match="other data or another network"):
        train(steps(), SMALL, network=build("tanh"), folder=tmp_path)


def test_an_own_network_is_trained_and_left_as_it_was():
    import keras
    from keras import layers

    keras.utils.set_random_seed(0)
    network = keras.Sequential(
        [layers.Input((8, 2)), layers.GRU(5, return_sequences=True), layers.LSTM(4), layers.Dense(1, "sigmoid")]
    )
    before = [w.copy() for w in network.get_weights()]
    made = train(steps(), SMALL, network=network)
    assert all((a == b).all() for a, b in zip(before, network.get_weights(), strict=True))
    x = np.stack(steps(m=3, time=11).x)
    assert made.model.run(x).shape == (3, 11, 1), "its last recurrent layer answers at every sample"
    np.testing.assert_allclose(made.model.run(x), keras_answers(made.keras, x), atol=1e-5)


def test_an_untrained_own_network_gives_the_answers_it_gave():
    """The conversion to answers at every sample is exact: at a window's end they are those of the original."""
    import keras
    from keras import layers

    from stepstream.learn.network import own

    network = keras.Sequential(
        [layers.Input((8, 2)), layers.LSTM(4), layers.BatchNormalization(), layers.Dense(3), layers.Softmax()]
    )
    model, kind = own(network, SMALL, 2, 3)
    x = np.stack(steps(m=3).x)
    assert kind == "classes"
    np.testing.assert_allclose(keras_answers(model, x)[:, -1], keras_answers(network, x), atol=1e-6)


def test_a_builder_gets_the_recipe():
    import keras
    from keras import layers

    def build(recipe, features):
        x = layers.Input((None, features))
        y = layers.LSTM(recipe.units[0], return_sequences=True)(x)
        return keras.Model(x, layers.TimeDistributed(layers.Dense(2, activation="softmax"))(y))

    made = train(steps(), replace(SMALL, state_passing=0.5), network=build)
    assert made.report["outputs"] == "classes"
    assert made.model.fingerprint == train(steps(), replace(SMALL, state_passing=0.5), network=build).model.fingerprint


def layers_of(*inner, shape=(8, 2)):
    import keras

    return keras.Sequential([keras.layers.Input(shape), *inner])


def test_a_training_that_learned_nothing_is_told(training):
    made = train(steps(), replace(SMALL, rate=30.0, average=0, clip=None))
    (found,) = [g for g in made.report["guards"] if g["name"] == "learned-nothing"]
    assert "above the 0.693 of always answering with the shares" in found["words"]
    assert "lower the rate" in found["remedy"]
    assert not [g for g in training.report["guards"] if g["name"] == "learned-nothing"]


def test_networks_that_cannot_be_are_refused():
    from keras import layers

    refused = [
        (layers_of(layers.LSTM(4, return_sequences=True), layers.Flatten(), layers.Dense(1, "sigmoid")), "Flatten"),
        (layers_of(layers.LSTM(4), layers.RepeatVector(8), layers.Dense(1, "sigmoid")), "network|RepeatVector"),
        (layers_of(layers.LSTM(4), layers.Dense(1)), "expected a last layer with activation 'sigmoid'"),
        (layers_of(layers.LSTM(4), layers.Dense(5, "softmax")), "expected 1 .binary. or 2 .classes. outputs"),
        (layers_of(layers.LSTM(4), layers.Dense(1, "sigmoid"), shape=(8, 3)), "expected one input of .time, 2."),
        ("lstm", "expected a Keras model or a function"),
        (lambda recipe, features: None, "expected a function that returns a Keras model"),
    ]
    frozen = layers_of(layers.LSTM(4), layers.Dense(1, "sigmoid"))
    frozen.trainable = False
    refused.append((frozen, "network: expected weights that can be trained, got none"))
    for network, said in refused:
        with pytest.raises((InputError, BlockedError), match=said):
            train(steps(), SMALL, network=network)
    both = layers_of(layers.Bidirectional(layers.LSTM(4, return_sequences=True)), layers.Dense(1, "sigmoid"))
    with pytest.raises(BlockedError, match="Bidirectional"):
        train(steps(), SMALL, network=both)
    inner = layers_of(layers.LSTM(4, return_sequences=True), shape=(None, 2))
    nested = layers_of(inner, layers.Dense(1, "sigmoid"), shape=(None, 2))
    with pytest.raises(InputError, match="expected recurrent layers alone to remember samples"):
        train(steps(), replace(SMALL, truncated=4), network=nested)


def test_arguments_that_do_not_fit_are_refused():
    with pytest.raises(InputError, match="expected Sequences, got list"):
        train([1, 2], SMALL)
    with pytest.raises(InputError, match="patience: expected none without a validation part"):
        train(steps(), replace(SMALL, patience=2))
    with pytest.raises(InputError, match="validation: expected classes"):
        train(steps(), SMALL, validation=steps(classes=3))
    with pytest.raises(InputError, match="outputs: expected classes, as there are 3 of them"):
        train(steps(classes=3), replace(SMALL, outputs="binary"))
    with pytest.raises(InputError, match="outputs: expected binary or classes"):
        train(steps(), replace(SMALL, outputs="regression"))
    with pytest.raises(InputError, match="lower the rate"):
        train(sequences(np.full((4, 3, 1), 1.0), [0.5, 1e30, 2, 3], regression=True), replace(SMALL, rate=1e30))


def test_a_sweep_says_which_recipe_is_best_and_trains_like_train():
    data, recipe = steps(m=12), replace(SMALL, epochs=2)
    told = []
    options = {"losses": ["last", "mean"], "noises": [0, 0.1], "k": 2}
    found = sweep(data, recipe, progress=lambda *a: told.append(a), **options)
    table = found.table()
    settings = ("loss", "noise", "starts")
    assert [[row[s] for s in settings] for row in table] == [
        [getattr(t.recipe, s) for s in settings] for t in sorted(found.tried, key=lambda t: t.loss)
    ]
    assert len(table) == 4 + 1  # random starts with the best of the four
    assert len(told) == 5 * 2 * 2
    assert [getattr(found.best, s) for s in settings] == [table[0][s] for s in settings]
    least = min(found.tried[:4], key=lambda t: t.loss).recipe
    assert found.tried[4].recipe == replace(least, starts=0.5)
    assert found.best.epochs == table[0]["epochs"]
    alone = [
        train(part, found.tried[0].recipe, validation=held).history[-1]["validation_loss"]
        for part, held in folds(data, 2, recipe.seed)
    ]
    np.testing.assert_allclose(found.tried[0].curve[-1], np.mean(alone), rtol=1e-4)
    patient = sweep(data, replace(recipe, patience=1), **options)
    assert [t.curve.tolist() for t in patient.tried] == [t.curve.tolist() for t in found.tried]


def test_a_sweep_goes_on_where_it_was_interrupted(tmp_path):
    data, recipe = steps(m=12), replace(SMALL, epochs=2)
    options = {"losses": ["mean"], "noises": [0.1], "k": 2}

    def until(last):
        told = []

        def progress(_recipe, fold, row):
            told.append((fold, row["epoch"]))
            if len(told) == last:
                raise KeyboardInterrupt

        return told, progress

    told, progress = until(6)
    with pytest.raises(KeyboardInterrupt):
        sweep(data, recipe, progress=progress, folder=tmp_path, **options)
    with pytest.raises(InputError, match="expected the histories of a sweep on these data"):
        sweep(data.some(np.arange(8)), recipe, folder=tmp_path, **options)
    trained = []
    fit = Learner.fit
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Learner, "fit", lambda *a, **o: trained.append(1) or fit(*a, **o))
        told, progress = until(-1)
        found = sweep(data, recipe, progress=progress, folder=tmp_path, **options)
    assert len(trained) == 2  # of four folds: the third was not over, the fourth not begun
    assert told == [(fold, epoch) for _ in range(2) for fold in (0, 1) for epoch in (1, 2)]
    whole = sweep(data, recipe, **options)
    assert [t.curve.tolist() for t in found.tried] == [t.curve.tolist() for t in whole.tried]
    assert found.best == whole.best


@pytest.mark.slow
def test_the_other_back_end_gives_the_same_kind_of_result():
    code = """
import tempfile

import numpy as np
from stepstream.learn.data import sequences
from stepstream.learn.recipe import Recipe
from stepstream.learn.training import train

rng = np.random.default_rng(0)
y = np.arange(16) % 2
data = sequences(rng.normal(size=(16, 6, 2)) + y[:, None, None], y)
for changes in ({"epochs": 8}, {"epochs": 1, "state_passing": 0.5, "prefixes": 0.5}, {"epochs": 1, "truncated": 4}):
    recipe = Recipe(units=(6,), batch=8, rate=0.03, **changes)
    one, two = (train(data, recipe, validation=0.25) for _ in range(2))
    assert one.model.fingerprint == two.model.fingerprint
    x = np.stack(data.x)
    np.testing.assert_allclose(one.model.run(x), one.keras(x).detach().numpy(), atol=1e-5)
    if changes["epochs"] == 8:
        assert one.history[-1]["validation_loss"] < one.history[0]["validation_loss"]
    print(sorted(one.report["versions"]))

recipe = Recipe(units=(6,), batch=8, dropout=0.3, epochs=4)
whole = train(data, recipe)

def stop(row):
    if row["epoch"] == 2:
        raise KeyboardInterrupt

with tempfile.TemporaryDirectory() as folder:
    try:
        train(data, recipe, folder=folder, progress=stop)
    except KeyboardInterrupt:
        pass
    again = train(data, recipe, folder=folder)
assert again.history == whole.history
assert again.model.fingerprint == whole.model.fingerprint
"""
    env = {**os.environ, "KERAS_BACKEND": "torch"}
    out = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=False)
    assert out.returncode == 0, out.stderr
    assert out.stdout.splitlines() == ["['keras', 'numpy', 'stepstream', 'torch']"] * 3
