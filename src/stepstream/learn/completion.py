"""From training data alone to a model that is calibrated and decides."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import count
from pathlib import Path
from typing import Any, final

from stepstream.errors import InputError
from stepstream.learn.calibration import Calibration, calibrate
from stepstream.learn.data import Sequences
from stepstream.learn.decision_rules import Cost
from stepstream.learn.kinds import of_kind
from stepstream.learn.learner import Row
from stepstream.learn.network import anew
from stepstream.learn.recipe import Recipe
from stepstream.learn.training import Training, train
from stepstream.learn.trigger import Trigger, fit_trigger
from stepstream.learn.unseen import out_of_fold
from stepstream.model import Model

FOLDS = 5


@final
@dataclass(frozen=True, eq=False)
class Completed:
    """training: with the model that is calibrated, and decides where there is a trigger; the Keras model is as it was.
    calibration, trigger: what was found on the way. Their reports are in the model, too.
    """

    training: Training
    calibration: Calibration
    trigger: Trigger | None


def fitting(data: Sequences, recipe: Recipe, decide: bool) -> None:
    """Raises InputError, before anything is trained, for data that `complete` can do nothing with."""
    if data.classes is None:
        raise InputError("expected data with classes to calibrate probabilities, got numbers to be predicted")
    if (streams := len(set(data.streams))) < 2:
        raise InputError(
            f"expected at least 2 streams, so that a model can answer what another was trained on, got {streams}"
        )
    if not decide:
        return
    if data.per_sample:
        raise InputError("expected one class label for each sequence to decide upon, got a label for each sample")
    if (n := _cut(data, recipe)) is not None:
        raise InputError(
            f"expected a training on whole sequences, or on carried states, for decisions, got windows of {n} samples; "
            "leave window out, or pass states on (state_passing, truncated)"
        )


def complete(
    training: Training,
    *,
    cost: Cost | None = None,
    folds: int = FOLDS,
    network: Any | Callable[[Recipe, int], Any] | None = None,
    progress: Callable[[int, Row], None] | None = None,
    folder: str | Path | None = None,
) -> Completed:
    """Calibrate a trained model, and let it decide, without other data than it was trained on.

    `folds` models are trained by its recipe, for as many epochs as were kept, each on all streams but a part; what they
    answer there, where they are as sure as on new data, takes the place of the model's own answers. cost: of decisions;
    None: the model is calibrated alone. network: as in the training; of a Keras model the layers alone, with new
    weights, as its own may have seen what is to be answered. Where they have not, and matter, give a function that
    builds it with them. progress: called with the fold, from 1, and the row of its history after each epoch. folder: of
    checkpoints; the folds have folders in it. Raises InputError as `fitting` does.
    """
    of_kind("training", training, Training)
    if cost is not None:
        of_kind("cost", cost, Cost)
    data, recipe = training.part, training.recipe
    fitting(data, recipe, cost is not None)
    core = anew(network)
    again = replace(recipe, epochs=training.report["kept_epoch"], patience=None)
    numbers = count(1)

    def made(rest: Sequences) -> Model:
        fold = next(numbers)
        tell = None if progress is None else lambda row: progress(fold, row)
        own = None if folder is None else Path(folder) / f"fold-{fold}"
        return train(rest, again, network=core, progress=tell, folder=own).model

    n = _cut(data, recipe)
    windowing = "carry" if n is None else f"tumbling({n})"
    outside = out_of_fold(made, data, folds, recipe.seed, windowing)
    calibration = calibrate(
        training.model, data, folds=folds, logits=outside.logits, windowing=windowing, seed=recipe.seed
    )
    model, trigger = calibration.model, None
    if cost is not None:
        p = calibration.probabilities
        trigger = fit_trigger(model, data, cost=cost, folds=folds, probabilities=p, seed=recipe.seed)
        model = trigger.model
    return Completed(replace(training, model=model), calibration, trigger)


def _cut(data: Sequences, recipe: Recipe) -> int | None:
    """Samples in a window where sequences were cut, and states not carried on; else None."""
    cut = recipe.window is not None and not recipe.carries and data.lengths.max() > recipe.window
    return recipe.window if cut else None
