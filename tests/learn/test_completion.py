"""From training data alone to a model that is calibrated and decides."""

from dataclasses import replace

import numpy as np
import pytest

pytest.importorskip("keras")
pytest.importorskip("jax")
import stepstream  # (importorskip comes first)
from learn.walks import walks
from stepstream import InputError
from stepstream.learn.calibration import calibrate
from stepstream.learn.completion import complete, fitting
from stepstream.learn.cross_validation import cross_validate, sweep
from stepstream.learn.data import sequences
from stepstream.learn.decision_rules import Cost
from stepstream.learn.recipe import Recipe
from stepstream.learn.training import train
from stepstream.learn.unseen import out_of_fold

pytestmark = pytest.mark.usefixtures("compiled_once")
RECIPE = Recipe(units=(4,), epochs=4, batch=8, rate=0.02, dropout=0)
TIME = 6


def walked(m=24, per_sample=False, regression=False, streams=None):
    y, z = walks(m, TIME)
    if regression:
        return sequences(z[..., None], y + 0.5, streams=streams)
    labels = np.repeat(y[:, None], TIME, axis=1) if per_sample else y
    return sequences(z[..., None], labels, features=["odds"], streams=streams)


def test_it_is_the_chain_that_one_would_write_by_hand(tmp_path):
    data = walked()
    training = train(data, RECIPE)
    told = []
    found = complete(training, cost=Cost(1, 0.5), folds=3, progress=lambda fold, row: told.append((fold, row["epoch"])))
    assert told == [(fold, epoch) for fold in (1, 2, 3) for epoch in range(1, 5)]

    outside = out_of_fold(lambda part: train(part, RECIPE).model, data, 3, RECIPE.seed)
    calibration = calibrate(training.model, data, logits=outside.logits, folds=3)
    assert found.calibration.report == calibration.report
    for ours, by_hand in zip(found.calibration.probabilities, calibration.probabilities, strict=True):
        np.testing.assert_array_equal(ours, by_hand)
    assert not any("these very data" in w for w in (*found.calibration.warnings, *found.trigger.warnings))

    found.training.save(tmp_path / "model.stepstream")
    model = stepstream.load(tmp_path / "model.stepstream")
    assert model.decides
    assert {"training", "calibration", "trigger"} <= set(model.reports)
    assert model.reports["trigger"]["cost"]["delay"] == 0.5
    assert (tmp_path / "model.keras").exists()


def test_without_costs_it_is_calibrated_alone_and_early_stopping_is_not_repeated():
    training = train(walked(32), replace(RECIPE, patience=1), validation=0.25)
    epochs = []
    found = complete(training, folds=2, progress=lambda _, row: epochs.append(row["epoch"]))
    assert max(epochs) == training.report["kept_epoch"]
    assert found.trigger is None
    assert not found.training.model.decides
    assert found.calibration.report["sequences"] == 24  # those that the weights were learned on


def test_windows_are_answered_as_they_were_trained():
    training = train(walked(), replace(RECIPE, window=3))
    assert complete(training, folds=2).calibration.report["windowing"] == "tumbling(3)"


def test_folds_begin_anew_whatever_a_given_network_has_learned():
    """Of its weights nobody knows on which data they were learned; perhaps on the part that a fold has to answer."""
    import keras

    data = walked()
    given = keras.Sequential([keras.Input((None, 1)), keras.layers.LSTM(3), keras.layers.Dense(1, "sigmoid")])
    learned = keras.models.clone_model(given)
    learned.set_weights([w + 1 for w in given.get_weights()])
    folds, last, swept = [], [], []
    for network in (given, learned):
        training = train(data, RECIPE, network=network)
        last.append(training.history)
        found = []
        complete(training, folds=2, network=network, progress=lambda *row, found=found: found.append(row))
        folds.append(found)
        swept.append(cross_validate(data, RECIPE, 2, network).curve.tolist())
    assert folds[0] == folds[1]
    assert swept[0] == swept[1]
    assert last[0] != last[1]
    own = sweep(data, RECIPE, losses=["mean"], noises=[0.0], starts=[0.0], k=2, network=learned)
    assert own.tried[0].curve.tolist() == swept[0]


def test_folds_go_on_from_their_checkpoints(tmp_path):
    training = train(walked(), RECIPE, folder=tmp_path)
    complete(training, folds=2, folder=tmp_path)
    again = []
    complete(training, folds=2, folder=tmp_path, progress=lambda *_: again.append(1))
    assert again == []
    assert (tmp_path / "fold-2" / "checkpoint.npz").exists()


@pytest.mark.parametrize(
    ("data", "recipe", "said"),
    [
        (walked(regression=True), RECIPE, "expected data with classes"),
        (walked(streams=["one"] * 24), RECIPE, "expected at least 2 streams"),
        (walked(per_sample=True), RECIPE, "expected one class label for each sequence"),
        (walked(), replace(RECIPE, window=3), "got windows of 3 samples"),
    ],
)
def test_what_cannot_be_is_refused_before_it_is_trained(data, recipe, said):
    with pytest.raises(InputError, match=said):
        fitting(data, recipe, decide=True)
