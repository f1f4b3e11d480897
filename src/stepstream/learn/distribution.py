"""How training data are distributed, for an engine to compare live samples with."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from stepstream.errors import InputError
from stepstream.graph.ir import Array
from stepstream.learn.answers import probabilities
from stepstream.learn.data import Sequences, unnamed
from stepstream.live.ages import rung_of
from stepstream.live.drift import BINS, bins_of, columns_of, form_of
from stepstream.live.quality import classes_of
from stepstream.live.windowing import Tumbling, Windowing

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from stepstream.model import Model


class HasSamples(Protocol):
    """Such as `learn.Sequences`."""

    @property
    def x(self) -> Sequence[Array]:
        """float32 (time_i, features) each."""


def drift_reference(model: Model, data: HasSamples, windowing: str | Windowing = "carry") -> dict[str, Any]:
    """Of the model's training data; plain numbers, for JSON; for `Engine(reference=)` or a model's report "drift".

    data: the labelled sequences, of which x alone is read. windowing: how the engine will cut its streams; one that
    cuts these sequences otherwise compares the inputs alone.
    Returns {"windowing": the same as text, "longest": samples in the longest sequence, "inputs": {"mean", "std": one
    number for each feature; "quantiles": 11 deciles for each; "edges", "counts": for each the upper edges of its cells,
    and how many samples fell into each cell, the last one without an edge}, "probability": {"by_step": {age: how many
    probabilities of the second class fell into each tenth}}}, where there are more than two classes a list for each. An
    age stands for all up to the next one of the ladder 1, 2, 3, 5, 7, 10, 15, 20, 30, 50, 70, 100, ... Without classes
    there are no probabilities. Raises InputError for data without samples, or that the model does not take.
    """
    if not len(data.x) or not sum(map(len, data.x)):
        raise InputError("data: expected sequences with samples, got none")
    x = np.concatenate([np.asarray(one, np.float64) for one in data.x])  # (samples, features)
    quantiles = np.quantile(x, np.linspace(0, 1, 11), axis=0).T  # (features, 11)
    edges = [_edges(column, deciles) for column, deciles in zip(x.T, quantiles, strict=True)]
    counts = [np.bincount(np.searchsorted(e, c), minlength=len(e) + 1) for e, c in zip(edges, x.T, strict=True)]
    cut = model.stream(windowing).windowing
    found: dict[str, Any] = {
        "windowing": form_of(cut),
        "longest": max(map(len, data.x)),
        "inputs": {
            "mean": x.mean(axis=0).tolist(),
            "std": x.std(axis=0).tolist(),
            "quantiles": quantiles.tolist(),
            "edges": [e.tolist() for e in edges],
            "counts": [c.tolist() for c in counts],
        },
    }
    classes = classes_of(model)
    return found if classes is None else {**found, "probability": {"by_step": _steps(model, data, cut, classes)}}


def _edges(values: Array, deciles: Array) -> Array:
    """A cell below the least value and one above the largest, and between them as many as there are different deciles.

    A decile between two values that occur is the lower one: a feature of few values has cells of one value each.
    """
    ordered = np.sort(values)
    inner = ordered[np.searchsorted(ordered, deciles, "right") - 1]
    return np.unique(np.append(inner, np.nextafter(ordered[0], -np.inf, dtype=np.float64)))


def renewed(
    known: Mapping[str, Any], probabilities: Array, lengths: Sequence[int], classes: int, windowing: Windowing
) -> dict[str, Any]:
    """A reference with the same inputs and other probabilities.

    probabilities: float32 (samples, classes), as they come under this windowing, of sequences of these lengths.
    """
    steps = _by_step(columns_of(probabilities, classes), np.concatenate(ages(lengths, windowing)))
    return {
        "windowing": form_of(windowing),
        "longest": max(lengths),
        "inputs": known["inputs"],
        "probability": {"by_step": steps},
    }


def _steps(model: Model, data: HasSamples, windowing: Windowing, classes: int) -> dict[str, Any]:
    xs = tuple(np.ascontiguousarray(x, np.float32) for x in data.x)
    names = tuple(map(str, range(len(xs))))
    y = (np.zeros((), np.float32),) * len(xs)
    unlabelled = Sequences(xs, y, names, names, unnamed(range(xs[0].shape[1])), None, False)
    p = np.concatenate(probabilities(model, unlabelled, windowing))
    return _by_step(columns_of(p, classes), np.concatenate(ages(map(len, xs), windowing)))


def ages(lengths: Iterable[int], windowing: Windowing) -> list[Array]:
    """Of the samples of sequences, int64 (time_i,) each, from 1, as an engine counts them."""
    found = [np.arange(1, length + 1) for length in lengths]
    return [(age - 1) % windowing.n + 1 for age in found] if isinstance(windowing, Tumbling) else found


def _by_step(p: Array, ages: Array) -> dict[str, Any]:
    """p: (samples, columns)."""
    rungs = rung_of(ages)
    found = {}
    for age in np.unique(rungs[rungs > 0]).tolist():
        counts = [np.bincount(column, minlength=BINS).tolist() for column in bins_of(p[rungs == age]).T]
        found[str(age)] = counts[0] if len(counts) == 1 else counts
    return found
