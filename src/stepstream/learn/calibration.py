"""Calibrate a model by step, so that of the answers given with probability 0.8 about 80 % are right."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, final

import numpy as np

from stepstream.classes import as_logits, brier_scores, log_losses
from stepstream.errors import InputError
from stepstream.graph import attach
from stepstream.graph.ir import Array
from stepstream.learn import distribution, isotonic, temperature, unseen
from stepstream.learn.answers import SUM, class_columns, matched, named, raw_logits
from stepstream.learn.data import Sequences
from stepstream.learn.kinds import about, of_kind, of_sequences
from stepstream.learn.metrics import calibration_error, or_none, standard_error
from stepstream.learn.remarks import class_order
from stepstream.learn.temperature import Points
from stepstream.learn.unseen import described, fold_indices
from stepstream.learn.words import counted
from stepstream.live.windowing import Session, Sliding, Windowing
from stepstream.model import Model
from stepstream.ops.activation import softmax

IDENTITY, TEMPERATURE, BY_STEP, ISOTONIC = "identity", "temperature", "temperature by step", "isotonic"
METHODS = (IDENTITY, TEMPERATURE, BY_STEP, ISOTONIC)  # from the plainest on
LEAST = {BY_STEP: 200, ISOTONIC: 500}  # streams below which "auto" does not try: two dozen parameters, thirty knots
FEW = 100  # streams: below, a calibration is a guess that cross-validation can hardly judge
FEW_OF_A_CLASS = 10  # streams
TAKEN_OFF = (
    "the model's trigger was fitted on other probabilities than it now gives, and has been taken off; fit it again by "
    "stepstream decide or fit_trigger(calibration.model, data, probabilities=calibration.probabilities)"
)


@final
@dataclass(frozen=True, eq=False)
class Correction:
    """What a calibration does: logits times scale[min(t, n) - 1], float32 (n,), then perhaps a map of probabilities."""

    scale: Array
    knots: tuple[Array, Array] | None = None

    def apply(self, logits: Array, t: Array) -> Array:
        """logits (points, classes), samples seen (points,) -> probabilities float64 (points, classes)."""
        z = logits.astype(np.float64) * self.scale[np.minimum(t, len(self.scale)) - 1, None]
        p = softmax(z)
        return p if self.knots is None else isotonic.apply(p, self.knots)


@final
@dataclass(frozen=True, eq=False)
class Calibration:
    """What `calibrate` made.

    model: the model with the calibration in its graph; the raw logits are still there (`graph.attach.logits`). Its
    reports are those that still hold, this one as "calibration".
    method: one of `METHODS`. correction: the numbers. report: JSON: log loss, Brier score and calibration error, before
    and after, cross-validated and on the held-out data. warnings: in words. probabilities: of each sequence that it
    was fitted on, float32 (time_i, classes), by calibrations fitted without that sequence's stream: what
    `fit_trigger(..., probabilities=)` should learn from. Without folds (one stream) they are those of the final one.
    """

    model: Model
    method: str
    correction: Correction
    report: dict[str, Any]
    warnings: tuple[str, ...]
    probabilities: tuple[Array, ...]

    def save(self, path: str | Path) -> None:
        """Write the calibrated model as a bundle, with all reports. Raises as `Model.save`."""
        self.model.save(path)


def calibrate(
    model: Model,
    data: Sequences,
    *,
    method: str = "auto",
    folds: int = 5,
    held_out: Sequences | None = None,
    logits: Sequence[Array] | None = None,
    windowing: str | Windowing = "carry",
    seed: int = 0,
) -> Calibration:
    """Fit a calibration of the model's probabilities by step, and put it into the model.

    data: labelled sequences that the model was **not** trained on: on its own training data it is surer of itself, and
    more often right, than anywhere else. Where there are no others, let `out_of_fold` train models on parts of the
    training data, and give `logits=` the answers of those that had not seen each sequence: (time_i, classes) each, the
    columns in the order of the data's classes, which then has to be the model's; of one sigmoid unit z alone,
    (time_i, 1), or (0, z), as `out_of_fold` gives it.
    method: "auto", or one of `METHODS` by name. "auto" goes from the plainest on, and takes a further one only where
    its cross-validated log loss (by stream) is lower by more than the standard error of the difference, or twice that
    with fewer than 100 streams, of which it is a guess itself: "identity"
    leaves the model as it is; "temperature" divides the logits by T(t), log T(t) = a + b log(t) / log(n);
    "temperature by step", from 200 streams on, has a T for each step (in between beyond 24); "isotonic", from 500 on,
    maps the probabilities of the first along an ascending line. None of them changes which class is on top.
    A model without names of features and classes gets those of the data; where another order of the classes would make
    its answers right far more often, a warning says so.
    n is the training length, else the longest sequence; later samples are treated as the n-th. With one label per
    sample each sample is one observation at its age. windowing: how the model will be served. A calibration that the
    model has is replaced. held_out: data to show before and after on, not used otherwise.
    Where other probabilities come out than before, a trigger is taken off, as it was fitted on the old ones, with a
    warning; and of the report "drift", by which an engine watches, the probabilities become those that the calibration
    gives on `data` under `windowing`, as in `Calibration.probabilities`; its inputs stay those of the training.
    Raises InputError for data or a model without classes, and for a method that is none.
    """
    of_kind("model", model, Model)
    of_kind("data", data, Sequences)
    if held_out is not None:
        of_kind("held_out", held_out, Sequences)
        with about("held_out (--held-out)"):
            if held_out.classes is None:
                raise InputError("expected data with classes, got numbers to be predicted")
            matched(model, held_out)  # before anything is fitted
    if method not in ("auto", *METHODS):
        raise InputError(f"method: expected auto, {', '.join(METHODS)}, got {method!r}")
    classes = attach.n_classes(model.graph)
    if data.classes is None:
        raise InputError("expected data with classes to calibrate probabilities, got numbers to be predicted")
    cut = model.stream(windowing).windowing  # refuses what does not fit the model, and says what "auto" is
    given = logits if logits is None else of_sequences("logits", logits, data.keys)
    raw = raw_logits(model, data, cut) if given is None else tuple(map(as_logits, given))
    if given is not None:
        _same_order(model, data, classes)
    data = matched(model, data)
    ages = _ages(data, cut)
    _check(raw, data, classes)
    if given is not None:
        _check_given(model, given, data.keys)
    n = model.training_length or max(int(age.max()) for age in ages)
    every = temperature.points(raw, data.y, ages)
    warnings = unseen.warnings(model, data) if logits is None else []
    warnings += map(str, class_order(model, data, raw))
    warnings += _warnings(data)
    parts = list(fold_indices(data, folds, seed)) if len(set(data.streams)) > 1 else []
    if not parts:
        warnings.append(
            "all data belong to one stream, so that no calibration can be validated"
            + ("; the model is left as it is" if method == "auto" else f"; {method} is taken on trust")
        )
    one = len(np.unique(every.label)) == 1 and method == "auto"
    if one:
        warnings.append("all data belong to one class, of which no calibration is learned; the model is left as it is")
    tried = _tried(method, len(set(data.streams))) if parts and not one else [IDENTITY]
    crossed = {name: _crossed(name, every, n, parts) for name in dict.fromkeys([IDENTITY, *tried])}
    losses = {name: _losses(every, p, len(data)) for name, p in crossed.items()}
    chosen = _choose(tried, losses, data) if method == "auto" else method
    correction = FITS[chosen](every, n)
    report: dict[str, Any] = {
        "method": chosen,
        "sequences": len(data),
        "streams": len(set(data.streams)),
        "length": n,
        "windowing": str(cut),
        "out_of_fold_logits": logits is not None,
        "data": described(data),
        "temperature": {str(t): round(float(1 / correction.scale[t - 1]), 4) for t in sorted({1, (n + 1) // 2, n})},
        "tried": [_candidate(name, losses, data) for name in losses],
    }
    if parts:
        report["cross_validated"] = _before_after(every, crossed[IDENTITY], crossed[chosen], data, n)
    if held_out is not None:
        with about("held_out (--held-out)"):
            report["held_out"] = _on_held_out(model, held_out, correction, n, cut)
            warnings += _known(model, data, matched(model, held_out))
    before = attach.without_trigger(model.graph)
    graph = attach.uncalibrated(before)
    if chosen != IDENTITY:
        graph = attach.calibrated(graph, correction.scale, correction.knots)
    final = (crossed[chosen] if parts else correction.apply(every.logits, every.t)).astype(np.float32)
    reports = dict(model.reports)
    if graph == before:  # the same probabilities: all that was found out about them still holds
        graph = model.graph
    else:
        warnings += [TAKEN_OFF] if model.decides else []
        reports.pop("trigger", None)
        if isinstance(known := reports.get("drift"), Mapping) and "inputs" in known:
            reports["drift"] = distribution.renewed(known, final, data.lengths.tolist(), classes, cut)
    report["warnings"] = warnings
    calibrated = named(model, data).with_graph(graph, {**reports, "calibration": report})
    ends = np.cumsum(data.lengths)[:-1]
    return Calibration(calibrated, chosen, correction, report, tuple(warnings), tuple(np.split(final, ends)))


def _identity(data: Points, n: int) -> Correction:
    return Correction(np.ones(n, np.float32))


def _temperature(data: Points, n: int) -> Correction:
    return Correction(np.exp(-temperature.fit(data, *temperature.two_parameters(n))).astype(np.float32))


def _by_step(data: Points, n: int) -> Correction:
    return Correction(np.exp(-temperature.fit(data, *temperature.knots(n))).astype(np.float32))


def _isotonic(data: Points, n: int) -> Correction:
    scaled = _temperature(data, n)
    p = scaled.apply(data.logits, data.t)
    return replace(scaled, knots=isotonic.fit(p, data.label[:, None] == np.arange(p.shape[1]), data.weight))


FITS = {IDENTITY: _identity, TEMPERATURE: _temperature, BY_STEP: _by_step, ISOTONIC: _isotonic}


def _tried(method: str, streams: int) -> list[str]:
    return [m for m in METHODS if streams >= LEAST.get(m, 0)] if method == "auto" else [method]


def _crossed(name: str, data: Points, n: int, parts: list[tuple[Array, Array]]) -> Array:
    """Probabilities (points, classes), each by a calibration that was fitted without its stream."""
    if name == IDENTITY:
        return _identity(data, n).apply(data.logits, data.t)
    out = np.empty(data.logits.shape)
    for rest, part in parts:
        own = np.isin(data.sequence, part)
        out[own] = FITS[name](data.of(rest), n).apply(data.logits[own], data.t[own])
    return out


def _losses(data: Points, p: Array, m: int) -> Array:
    """Mean log loss of each sequence over its steps, (m,)."""
    own = log_losses(p, data.label)
    return np.bincount(data.sequence, own, m) / np.bincount(data.sequence, minlength=m)


def _weighing(data: Sequences) -> Array:
    """How much each sequence counts, with the mean 1: all the same, or by its labels where each sample has one."""
    lengths = data.lengths
    return lengths / lengths.mean() if data.per_sample else np.ones(len(lengths))


def _choose(tried: list[str], losses: dict[str, Array], data: Sequences) -> str:
    chosen, errors = tried[0], 1 if len(set(data.streams)) >= FEW else 2
    for name in tried[1:]:
        gain = (losses[chosen] - losses[name]) * _weighing(data)
        if gain.mean() > errors * standard_error(gain, data.streams):
            chosen = name
    return chosen


def _candidate(name: str, losses: dict[str, Array], data: Sequences) -> dict[str, Any]:
    gain = (losses[IDENTITY] - losses[name]) * _weighing(data)
    return {
        "method": name,
        "log_loss": float((losses[name] * _weighing(data)).mean()),
        "gain": float(gain.mean()),
        "gain_error": or_none(standard_error(gain, data.streams)),
    }


def quality(p: Array, data: Points, n: int) -> dict[str, Any]:
    """Log loss, Brier score and calibration error over all steps, as in `metrics`, and by step.

    Log loss and Brier score weigh each sequence the same, or with labels per sample each sample.
    """
    weight = data.weight / data.weight.sum()
    own = log_losses(p, data.label)
    confidence, right = p.max(axis=1), p.argmax(axis=1) == data.label
    row = np.minimum(data.t, n) - 1
    count = np.bincount(row, minlength=n)
    with np.errstate(invalid="ignore"):
        by_step = np.bincount(row, own, n) / count
        gap = np.bincount(row, confidence - right, n) / count
    return {
        "log_loss": float(weight @ own),
        "brier": float(weight @ brier_scores(p, data.label)),
        "calibration_error": calibration_error(data.label, p),
        "by_step": {
            "log_loss": [None if np.isnan(v) else float(v) for v in by_step],
            "overconfidence": [None if np.isnan(v) else float(v) for v in gap],
        },
    }


def _before_after(data: Points, before: Array, after: Array, sequences: Sequences, n: int) -> dict[str, Any]:
    gain = (_losses(data, before, len(sequences)) - _losses(data, after, len(sequences))) * _weighing(sequences)
    return {
        "before": quality(before, data, n),
        "after": quality(after, data, n),
        "gain": float(gain.mean()),
        "gain_error": or_none(standard_error(gain, sequences.streams)),
    }


def _on_held_out(model: Model, held_out: Sequences, correction: Correction, n: int, cut: Windowing) -> dict[str, Any]:
    raw = raw_logits(model, held_out, cut)
    held_out = matched(model, held_out)
    data = temperature.points(raw, held_out.y, _ages(held_out, cut))
    before = softmax(data.logits)
    return _before_after(data, before, correction.apply(data.logits, data.t), held_out, n)


def _known(model: Model, data: Sequences, held_out: Sequences) -> Iterator[str]:
    """data, held_out: as `matched` has them. Held-out data that are none."""
    if unseen.same(data, held_out):
        yield "the held-out data are those that the calibration was fitted on, and say nothing of others; give others"
    elif (words := unseen.seen_by(model, held_out)) is not None:
        yield f"held-out data: {words}; give others"


def _ages(data: Sequences, windowing: Windowing) -> list[Array]:
    """Samples seen since the reset, as the calibration in the model counts them: int64 (time_i,) each, from 1."""
    if isinstance(windowing, Session):
        raise InputError(f"windowing: expected carry, tumbling(n) or sliding(n), got {windowing}, which needs times")
    ages = distribution.ages(data.lengths, windowing)
    if isinstance(windowing, Sliding):  # from the oldest start, every stride samples, that is not too long ago
        n, stride = windowing.n, windowing.stride
        return [age - stride * np.maximum(-((n - age) // stride), 0) for age in ages]
    return ages


def _same_order(model: Model, data: Sequences, classes: int) -> None:
    """Logits that were given belong to the data, and a column of them to the model: nobody says whose order they have
    where the two differ.
    """
    columns = class_columns(model, data)
    if len(columns) == classes and (columns != np.arange(classes)).any():
        expected = ",".join(matched(model, data).classes or ())
        raise InputError(
            f"logits: expected data with their classes in the model's order, {expected}, as columns of logits have it, "
            f"got {','.join(data.classes or ())}; name the classes so when the data are read or made (classes=)"
        )


def _check_given(model: Model, logits: Sequence[Array], keys: Sequence[str]) -> None:
    """Raises InputError for what are no logits, or none of a model with such an end."""
    if all(_probable(z) for z in logits):
        raise InputError(
            "logits: expected answers before the last activation, got numbers from 0 to 1"
            + ("" if logits[0].shape[1:] == (1,) else " that sum up to 1 at each sample")
            + ": are these probabilities? Give out_of_fold(...).logits, or log(p) of a softmax and log(p / (1 - p)) "
            "of a sigmoid, with zeros in a column before it, (0, z)"
        )
    one = model.with_graph(attach.logits(model.graph)).output_sizes[0] == 1
    for key, z in zip(keys, logits, strict=True):
        if z.shape[1:] == (1,) and not one:
            raise InputError(f"logits of sequence {key!r}: expected a column for each class, got shape {z.shape}")
        if one and z.shape[1:] == (2,) and z[:, 0].any():
            raise InputError(
                f"logits of sequence {key!r}: expected (0, z) at each sample for a model with one sigmoid unit, got "
                f"{z[z[:, 0] != 0][0].tolist()}; give z alone, (time, 1)"
            )


def _probable(z: Array) -> bool:
    """Whether these look like probabilities, with a column for each class or for the second of two."""
    inside = z.ndim == 2 and bool(((z >= 0) & (z <= 1)).all())
    return inside and (z.shape[1] == 1 or bool((abs(z.sum(axis=1) - 1) <= SUM).all()))


def _check(logits: Sequence[Array], data: Sequences, classes: int) -> None:
    for key, z, length in zip(data.keys, logits, data.lengths, strict=True):
        if z.shape != (length, classes) or not np.isfinite(z).all():
            raise InputError(f"logits of sequence {key!r}: expected finite ({length}, {classes}), got shape {z.shape}")


def _warnings(data: Sequences) -> Iterator[str]:
    streams = len(set(data.streams))
    if streams < FEW:
        yield (
            f"the calibration rests on {counted(streams, 'stream')}; with fewer than {FEW} its log loss on new data is "
            "uncertain, so compare before and after on held-out data"
        )
    if not data.per_sample and data.classes is not None:
        y = np.array(data.y)
        for i, name in enumerate(data.classes):
            if (count := len({s for s, label in zip(data.streams, y, strict=True) if label == i})) < FEW_OF_A_CLASS:
                yield f"class {name!r} has {counted(count, 'stream')} to calibrate on, fewer than {FEW_OF_A_CLASS}"
