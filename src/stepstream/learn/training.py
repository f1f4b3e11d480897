"""Train a model that is worth asking at every sample."""

from __future__ import annotations

import hashlib
import json
import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, replace
from numbers import Real
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, final

import numpy as np

from stepstream.errors import InputError
from stepstream.formats.bundle import target
from stepstream.formats.files import path_of, replace_file
from stepstream.learn.batches import rows
from stepstream.learn.data import Sequences, by_class, extent, labelled, split
from stepstream.learn.distribution import drift_reference
from stepstream.learn.framework import keras
from stepstream.learn.guards import Finding, leaks, look_ahead, silent, unlearned
from stepstream.learn.kinds import about, of_kind
from stepstream.learn.learner import Learner, Progress, Row, best_epoch
from stepstream.learn.network import scaled
from stepstream.learn.recipe import Recipe
from stepstream.learn.scaling import Scaling, scaling
from stepstream.learn.unseen import described
from stepstream.model import Model, load
from stepstream.version import __version__


@final
@dataclass(frozen=True, eq=False)
class Training:
    """What a training gives.

    model: ready for streams, over samples as they come: the scaling is in its graph. keras: the same as a Keras model.
    history: a row for each epoch: `loss` of the recipe, and on the validation part `validation_loss` (mean over all
    samples), accuracy, precision, recall, f1, auc (means over the samples seen) and the same at the end, `end_...`.
    report: all that is known of the training, for JSON. trained_ages: the ages that training has shown the model, from
    and to; None: without a bound. part: the data that the weights were learned on.
    """

    model: Model
    keras: Any
    history: list[Row]
    recipe: Recipe
    report: dict[str, Any]
    trained_ages: tuple[int, int | None]
    part: Sequences

    def save(self, bundle: str | Path | None = None, keras: str | Path | None = None) -> None:
        """Write the bundle, `model.stepstream`, and the Keras model, by default beside it, `model.keras`.

        Files of these names are replaced; the old ones stay whole until the new ones are on the disk. Raises
        InputError for names that do not fit, and where the Keras model cannot be written; else as `Model.save`.
        """
        bundle, keras = places(bundle, keras)
        if bundle is not None:
            self.model.save(bundle)
        if keras is not None:
            _write_keras(self.keras, keras)


def train(
    data: Sequences,
    recipe: Recipe | None = None,
    *,
    validation: Sequences | float | None = None,
    network: Any | Callable[[Recipe, int], Any] | None = None,
    progress: Progress | None = None,
    folder: str | Path | None = None,
    findings: Callable[[Finding], None] | None = None,
) -> Training:
    """Train on `data` as the recipe says.

    validation: a part that plays no role in the weights, or the share of the streams to hold out for that; needed for
    early stopping. network: a Keras model over scaled (time, features), which is copied with its weights, or a function
    (recipe, features) that builds one; by default `stepstream.learn.network.default`. progress: called with the
    history's row after each epoch. folder: where a checkpoint is written after each epoch; called again with the same
    arguments, training goes on from there, to the same result as without the interruption. findings: called with each
    leak that is found in the data, before the first epoch, and in the network, after the last; all are in the report,
    too. Runs on the Keras back end that `KERAS_BACKEND` names, "jax" or "torch"; the same seed gives the same weights
    on the same machine. Raises InputError, and BlockedError for a network that cannot step.
    """
    recipe = Recipe() if recipe is None else recipe
    of_kind("recipe", recipe, Recipe)
    part, held = parts(data, recipe, validation)
    begin = time.perf_counter()
    found: list[Finding] = []

    def tell(more: Iterable[Finding]) -> None:
        for finding in more:
            found.append(finding)
            if findings is not None:
                findings(finding)

    tell(leaks(part, held))  # first: nobody wants to wait for a model that is worth nothing
    scale = scaling(part)
    tell(silent(part, scale.constant))
    learner = Learner.of(part, recipe, network)
    if not any(name.startswith("trainable") for name in learner.initial):
        raise InputError("network: expected weights that can be trained, got none; set layer.trainable = True")
    history = learner.fit(
        seen := rows(part, recipe, scale),
        recipe,
        None if held is None else rows(held, recipe, scale, validation=True),
        by_position(part, recipe),
        progress,
        None if folder is None else Path(folder),
        identity(part, held, learner) if folder is not None else "",
    )
    whole = scaled(learner.core, scale.mean, scale.std)
    ages = (1, None if recipe.state_passing else seen.longest)
    length = None if recipe.carries else seen.longest
    model = load(whole, training_length=length, features=part.features if part.named else None, classes=part.classes)
    tell(look_ahead(model))
    report = _report(part, held, recipe, learner.kind, scale, history)
    kept = report["kept_epoch"]  # the first epoch's loss is that of weights before training, too
    if part.classes is not None and recipe.class_weights is None and recipe.truncated is None and kept > 1:
        tell(unlearned(part, float(history[kept - 1]["loss"])))
    report |= {
        "trained_ages": list(ages),
        "guards": [asdict(finding) for finding in found],
        "seconds": round(time.perf_counter() - begin, 3),
    }
    cut = "carry" if recipe.carries or recipe.window is None else f"tumbling({recipe.window})"
    reports = {"training": report, "drift": drift_reference(model, part, cut)}
    model = Model(replace(model.reading, trained_ages=ages, reports=reports), model.features, model.classes)
    return Training(model, whole, history, recipe, report, ages, part)


def places(bundle: str | Path | None, keras: str | Path | None) -> tuple[Path | None, Path | None]:
    """Where a bundle and a Keras model go: the latter, where it has no name, beside the former. Raises InputError."""
    if bundle is not None:
        bundle = target(bundle)
        keras = bundle.with_suffix(".keras") if keras is None else keras
    if keras is not None:
        keras = path_of(keras, "a Keras model")
        if keras.suffix != ".keras":
            raise InputError(f"expected a name for the Keras model that ends in .keras, got {keras}")
        if bundle is not None and keras.resolve() == bundle.resolve():
            raise InputError(f"expected two files for the bundle and the Keras model, got {bundle} and {keras}")
    return bundle, keras


def _write_keras(model: Any, path: Path) -> None:
    """Keras writes into its target as it goes, so it gets another one."""
    try:
        with TemporaryDirectory() as folder:
            model.save(made := Path(folder) / "model.keras")
            replace_file(path, [made.read_bytes()])
    except OSError as e:
        raise InputError(f"{path}: {e.strerror or e}") from e


def parts(data: Sequences, recipe: Recipe, validation: Any) -> tuple[Sequences, Sequences | None]:
    """The training and the validation part, or InputError."""
    of_kind("data", data, Sequences)
    if validation is None:
        if recipe.patience is not None:
            raise InputError(
                f"patience: expected none without a validation part, got {recipe.patience}; "
                "give validation=0.25, or data of its own"
            )
        return data, None
    if isinstance(validation, Real) and not isinstance(validation, bool):
        if not 0 < float(validation) < 1:
            raise InputError(f"validation: expected a share between 0 and 1, or Sequences, got {validation}")
        with about("validation"):
            return split(data, float(validation), recipe.seed)
    of_kind("validation, where it is no share", validation, Sequences)
    for what in ("features", "classes", "per_sample"):
        if getattr(validation, what) != getattr(data, what):
            raise InputError(
                f"validation: expected {what} {getattr(data, what)} as in the data, got {getattr(validation, what)}"
            )
    return data, validation


def by_position(data: Sequences, recipe: Recipe) -> bool:
    """Whether a sample's number in its row says how much of the sequence had been seen."""
    return not data.per_sample and recipe.truncated is None


def identity(part: Sequences, held: Sequences | None, learner: Learner) -> str:
    """SHA-256 of the data, the network's layers and its first weights, on this back end."""
    digest = hashlib.sha256(repr((keras().backend.backend(), part.classes, part.features)).encode())
    for data in (part, held):
        for x, y, stream in zip(data.x, data.y, data.streams, strict=True) if data is not None else ():
            digest.update(repr((x.shape, y.shape, stream)).encode() + x.tobytes() + y.tobytes())
        digest.update(b"|")
    for layer in learner.core.layers:
        settings = {k: v for k, v in layer.get_config().items() if k != "name"}
        digest.update(json.dumps([type(layer).__name__, settings], sort_keys=True, default=str).encode())
    for name, value in learner.initial.items():
        if name.startswith("trainable"):
            digest.update(repr(value.shape).encode() + value.tobytes())
    return digest.hexdigest()


def _report(
    part: Sequences, held: Sequences | None, recipe: Recipe, kind: str, scale: Scaling, history: list[Row]
) -> dict[str, Any]:
    engine = keras().backend.backend()
    return {
        "recipe": recipe.to_dict(),
        "outputs": kind,
        "data": _about(part),
        "validation": None if held is None else {**_about(held), "mean": described(held)["mean"]},
        "features": list(part.features) if part.named else None,
        "classes": None if part.classes is None else list(part.classes),
        "scaling": {"mean": scale.mean.tolist(), "std": scale.std.tolist(), "constant": list(scale.constant)},
        "epochs": len(history),
        "best_epoch": best_epoch(history) if held is not None else None,
        "kept_epoch": best_epoch(history) if recipe.patience is not None else len(history),
        "history": history,
        "versions": {
            "stepstream": __version__,
            "keras": keras().__version__,
            engine: sys.modules[engine].__version__,
            "numpy": np.__version__,
        },
    }


def _about(data: Sequences) -> dict[str, Any]:
    return {**extent(data), "labels": labelled(data), "by_class": by_class(data)}
