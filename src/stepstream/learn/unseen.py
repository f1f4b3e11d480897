"""Answers on sequences by models that have not seen them, and which data a model has seen."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, final

import numpy as np

from stepstream.arrays import short
from stepstream.errors import InputError
from stepstream.graph.ir import Array
from stepstream.learn.answers import class_columns, raw_logits
from stepstream.learn.data import Sequences, extent, folds
from stepstream.learn.kinds import of_kind
from stepstream.live.windowing import Windowing
from stepstream.model import Model
from stepstream.ops.activation import softmax


def fold_indices(data: Sequences, k: int, seed: int) -> Iterator[tuple[Array, Array]]:
    """k times the places of (the rest, one part), by stream; fewer times where there are fewer streams."""
    place = {key: i for i, key in enumerate(data.keys)}
    for rest, part in folds(data, min(k, len(set(data.streams))), seed):
        yield np.array([place[key] for key in rest.keys]), np.array([place[key] for key in part.keys])


@final
@dataclass(frozen=True, eq=False)
class OutOfFold:
    """For each sequence, what a model that has not seen its stream says of it, (time_i, classes) each, the columns in
    the order of the data's classes.
    """

    logits: tuple[Array, ...]
    probabilities: tuple[Array, ...]


def out_of_fold(
    train: Callable[[Sequences], Model],
    data: Sequences,
    k: int = 5,
    seed: int = 0,
    windowing: str | Windowing = "carry",
) -> OutOfFold:
    """Train k models, each on all streams but a k-th, and let each answer those that it has not seen.

    train: makes a model from training data, such as `lambda part: learn.train(part, recipe).model`. The way from
    training data alone to a model that is calibrated and decides, which `complete` goes for a training:

        outside = learn.out_of_fold(train, data)
        calibration = learn.calibrate(train(data), data, logits=outside.logits)
        trigger = learn.fit_trigger(calibration.model, data, probabilities=calibration.probabilities)

    windowing: how they answer. The probabilities here are those of uncalibrated models. Raises InputError for data
    without classes.
    """
    of_kind("data", data, Sequences)
    if not callable(train):
        raise InputError(f"train: expected a function that makes a Model of Sequences, got {short(train)}")
    if data.classes is None:
        raise InputError("expected data with classes, got numbers to be predicted")
    logits: list[Array] = [np.empty(0)] * len(data)
    for rest, part in fold_indices(data, k, seed):
        own = data.some(part)
        model = train(data.some(rest))
        columns = class_columns(model, own)
        for i, z in zip(part, raw_logits(model, own, windowing), strict=True):
            logits[i] = z[:, columns] if len(columns) == z.shape[1] else z  # a model may have further classes
    return OutOfFold(tuple(logits), tuple(softmax(z) for z in logits))


def described(data: Sequences) -> dict[str, Any]:
    """What data are known by when they are met again, for JSON; features in the order that `matched` gives."""
    return {**extent(data), "mean": np.concatenate(data.x).mean(axis=0, dtype=np.float64).tolist()}


def seen_by(model: Model, data: Sequences) -> str | None:
    """What the model's training, by its report, had to do with these very data, as `matched` has them, if anything.

    They may be the part that the weights were learned on, that and the validation part together, or, where it said when
    to stop, the validation part. A report of another form, which a user may have written, describes no data.
    """
    report = model.reports.get("training")
    part, held = _part(report, "data"), _part(report, "validation")
    means = _part(_part(report, "scaling"), "mean"), _part(held, "mean")
    if _same(part, means[0], data) or _same(*_together(part, held, means), data):
        return TRAINED
    return STOPPED if _part(_part(report, "recipe"), "patience") is not None and _same(held, means[1], data) else None


def warnings(model: Model, data: Sequences) -> list[str]:
    """The same for who learns from what the model says of the data."""
    words = seen_by(model, data)
    return [] if words is None else [f"{words}; {OTHERS}"]


def same(data: Sequences, other: Sequences) -> bool:
    """Whether these are the same data, in whatever order."""
    about = described(data)
    return _same(about, about["mean"], other)


def calibrated_on(model: Model, data: Sequences) -> bool:
    """Whether a model's calibration was fitted on these very data, as `matched` has them, by its report."""
    about = _part(model.reports.get("calibration"), "data")
    return model.calibrated and _same(about, _part(about, "mean"), data)


def _part(report: Any, name: str) -> Any:
    return report.get(name) if isinstance(report, Mapping) else None


def _together(part: Any, held: Any, means: tuple[Any, Any]) -> tuple[Any, Any]:
    """What the training and the validation part are in one, and the means of that; None where nobody knows."""
    counts = [_part(one, name) for one in (part, held) for name in EXTENT]
    if not all(isinstance(v, int) and 0 < v <= sys.maxsize for v in counts) or not all(map(_numbers, means)):
        return None, None
    if len(means[0]) != len(means[1]):
        return None, None
    about = {name: how((part[name], held[name])) for name, how in EXTENT.items()}
    share = part["samples"] / about["samples"]
    return about, [share * a + (1 - share) * b for a, b in zip(*means, strict=True)]


EXTENT: dict[str, Callable[[tuple[int, int]], int]]  # of two parts in one
EXTENT = {"sequences": sum, "streams": sum, "samples": sum, "shortest": min, "longest": max}


def _numbers(mean: Any) -> bool:
    numbers = isinstance(mean, list | tuple) and all(isinstance(v, int | float) for v in mean)
    return numbers and all(abs(v) <= sys.float_info.max for v in mean)


def _same(about: Any, mean: Any, data: Sequences) -> bool:
    """Whether there are as many, as long, with the same means."""
    if not isinstance(about, Mapping) or not _numbers(mean):
        return False
    own = described(data)
    found = own.pop("mean")
    return (
        all(about.get(name) == value for name, value in own.items())
        and len(mean) == len(found)
        and bool(np.allclose(found, np.array(mean, np.float64), rtol=1e-3, atol=1e-6))
    )


TRAINED = (
    "the model was trained on these very data, on which it is surer of itself and more often right than on any other"
)
STOPPED = (
    "these are the very data by which the model's training was stopped, on which it looks better than on any other"
)
OTHERS = "give data that it has not seen, or the answers of models that have not (stepstream.learn.out_of_fold)"
CALIBRATED = (
    "the model was calibrated on these very data, so that its probabilities fit them better than any other; give "
    "probabilities=calibration.probabilities, by calibrations that have not seen each stream (stepstream decide "
    "--calibrate, from the model before calibration), or data of their own"
)
