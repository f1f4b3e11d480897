"""Whether what a model is asked, and what it answers, is distributed as it was in training.

A reference says into which cells the training data fell (`learn.drift.reference` makes it); live samples, chosen at
random, fall into the same. The distance of the two is the population stability index (PSI), the sum over cells of
(p - q) ln(p / q), with the thresholds that are customary in credit scoring (Siddiqi, Credit Risk Scorecards, 2006).
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, final

import numpy as np

from stepstream.errors import InputError
from stepstream.graph.ir import Array
from stepstream.live.ages import rung_of
from stepstream.live.quality import as_classes, classes_of
from stepstream.live.settings import whole

if TYPE_CHECKING:
    from stepstream.model import Model

WINDOW = 1000  # chosen samples: the weight of each falls by one part in so many with the next
ENOUGH = 200  # of them before anything is said
MOVING, MOVED = 0.1, 0.25  # of PSI: from where on a distribution is said to be moving, or to have moved
BINS = 10  # of a probability
SEED = 0


def psi(reference: Array, counts: Array) -> float:
    """Of two counts (cells,); half a sample more in every cell, so that an empty one says no more than the others."""
    p, q = ((c + 0.5) / (c.sum() + 0.5 * len(c)) for c in (reference, counts))
    return float(((q - p) * np.log(q / p)).sum())


def bins_of(p: Array) -> Array:
    """int64: the bin of each probability."""
    return np.clip((p * BINS).astype(np.int64), 0, BINS - 1)


@final
class Watch:
    """Looks at one of `every` samples, on average. reference: as `learn.drift.reference` returns it. classes: None for
    regression, whose answers are not compared. outputs: how many numbers of an answer are the model's, the first ones.

    Raises InputError for the reference of another model.
    """

    def __init__(
        self,
        reference: Any,
        every: int,
        names: Sequence[str],
        outputs: int,
        classes: int | None,
        units: Sequence[str] | None,
    ) -> None:
        self._names, self._every = list(names), every
        try:
            inputs = reference["inputs"]
            self._mean, self._std = (np.array(inputs[part], np.float64) for part in ("mean", "std"))
            self._edges = [np.array(edges, np.float64) for edges in inputs["edges"]]
            self._expected = [np.array(counts, np.float64) for counts in inputs["counts"]]
            steps = {} if classes is None else reference["probability"]["by step"]
            self._steps = {int(age): np.atleast_2d(np.array(counts, np.float64)) for age, counts in steps.items()}
        except (TypeError, KeyError, ValueError) as e:
            raise InputError(f"reference: expected what learn.drift.reference returns, got another form ({e!r})") from e
        columns = 0 if classes is None else classes if classes > 2 else 1
        sizes = {len(self._names)}
        cells = [len(counts) - len(edges) for edges, counts in zip(self._edges, self._expected, strict=False)]
        parts = self._mean, self._std, self._edges, self._expected
        if (
            {len(part) for part in parts} != sizes
            or set(cells) != {1}
            or any(counts.shape != (columns, BINS) for counts in self._steps.values())
        ):
            raise InputError(
                f"reference: expected one of {len(self._names)} features and {columns} probabilities, got one of "
                f"{len(self._edges)} features; make it with this model and its training data"
            )
        self._units, self._classes = units, classes
        self._outputs = outputs
        self._random = random.Random(SEED)  # whether a sample is chosen depends on nothing but how many came before
        self._left = self._gap()
        self.chosen = 0
        self._counts = [np.zeros(len(counts)) for counts in self._expected]
        self._sums = np.zeros((2, len(self._names)))  # weight, values
        self._answers: dict[int, Array] = {age: np.zeros_like(counts) for age, counts in self._steps.items()}
        self._seen = dict.fromkeys(self._steps, 0)

    def _gap(self) -> int:
        """Random, or samples that come in turns would always be those of the same streams."""
        return self._random.randint(0, 2 * self._every - 2)

    def due(self) -> bool:
        """Whether the next sample, if it comes alone, is to be seen; if not, it counts as passed."""
        if self._left:
            self._left -= 1
            return False
        return True

    def see(self, x: Array, ages: Array, answers: Array) -> None:
        """Samples (n, features) that were answered; ages int64 (n,), -1 where nobody knows; answers (n, outputs)."""
        if len(x) <= self._left:
            self._left -= len(x)
            return
        places, at = [], self._left
        while at < len(x):
            places.append(at)
            at += 1 + self._gap()
        self._left = at - len(x)
        self._count(x[places].astype(np.float64), rung_of(ages[places]), answers[places, : self._outputs])

    def _count(self, x: Array, rungs: Array, answers: Array) -> None:
        self.chosen += len(x)
        weight, keep = _weights(len(x))
        self._sums = self._sums * keep + np.stack([np.ones_like(x), x]).transpose(0, 2, 1) @ weight
        for column, edges in enumerate(self._edges):
            new = np.bincount(np.searchsorted(edges, x[:, column]), weight, len(edges) + 1)
            self._counts[column] = self._counts[column] * keep + new
        for age in set(rungs.tolist()) & self._steps.keys():
            p = columns_of(answers[rungs == age], self._classes)
            weight, keep = _weights(len(p))
            new = np.stack([np.bincount(column, weight, BINS) for column in bins_of(p).T])  # (columns, bins)
            self._answers[age] = self._answers[age] * keep + new
            self._seen[age] += len(p)

    def figures(self) -> dict[str, Any]:
        """None for what too few samples have come of."""
        enough, warnings = self.chosen >= ENOUGH, list[str]()
        mean = (self._sums[1] / np.maximum(self._sums[0], 1e-300)).tolist()
        inputs: dict[str, Any] = {}
        for i, name in enumerate(self._names):
            value = psi(self._expected[i], self._counts[i]) if enough else None
            trained = float(self._mean[i])
            inputs[name] = {"psi": value, "mean": mean[i] if self.chosen else None, "mean in training": trained}
            cure = f"its mean is {mean[i]:.3g}, {trained:.3g} in training; check the sensor or retrain"
            warnings += _said(f"feature {name}", value, cure)
        steps: dict[str, Any] = {}
        for age, expected in self._steps.items():
            found = None
            if self._seen[age] >= ENOUGH:
                found = [psi(e, c) for e, c in zip(expected, self._answers[age], strict=True)]
            steps[str(age)] = {"psi": None if found is None else max(found), "n": self._seen[age]}
            units = [f" of {u}" for u in self._units or range(self._classes or 0)][-len(expected) :]
            for unit, value in zip(units, found or (), strict=False):
                cure = "label some streams and look at their quality, or retrain"
                warnings += _said(f"probability{unit} at age {age}", value, cure)
        return {"samples": self.chosen, "window": WINDOW, "inputs": inputs, "probability": steps, "warnings": warnings}


def _weights(n: int) -> tuple[Array, float]:
    """Of n samples, the last of which weighs 1, and of all before them."""
    keep = 1 - 1 / WINDOW
    return keep ** np.arange(n - 1, -1, -1.0), keep**n


def columns_of(answers: Array, classes: int | None) -> Array:
    """Probabilities (n, columns) that are compared: of the second of two classes, or of every one of more."""
    p = as_classes(answers)
    return p[:, 1:] if classes == 2 else p


def _said(what: str, value: float | None, cure: str) -> list[str]:
    if value is None or value <= MOVING:
        return []
    if value <= MOVED:
        return [f"{what}: its distribution is moving, PSI {value:.2f} (over {MOVING}); {cure}"]
    return [f"{what}: its distribution has moved, PSI {value:.2f} (over {MOVED}); {cure}"]


def watch_of(model: Model, every: Any, reference: Mapping[str, Any] | None) -> Watch | None:
    """None where nothing is to be watched. reference: None for the one that the model has as its report "drift"."""
    whole("watch", every, 0, 2**31 - 1)
    if not every:
        if reference is not None:
            raise InputError("reference: expected watch=n too, one of how many samples is compared with it, got none")
        return None
    if reference is None:
        reference = model.reports.get("drift")
    if reference is None:
        raise InputError(
            "watch: expected a model that knows how its training data were distributed, got one that does not; give "
            "reference=, as stepstream.learn.drift.reference(model, data) returns it"
        )
    names = model.features or [str(i) for i in range(model.n_features)]
    classes = classes_of(model)
    units = model.classes if model.classes is not None and len(model.classes) == classes else None
    return Watch(reference, every, names, model.output_sizes[0], classes, units)
