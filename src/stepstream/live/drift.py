"""Whether what a model is asked, and what it answers, is distributed as it was in training.

A reference says into which cells the training data fell (`learn.drift_reference` makes it); live samples, chosen at
random, fall into the same. The distance of the two is the population stability index (PSI), the sum over cells of
(p - q) ln(p / q), with the thresholds that are customary in credit scoring (Siddiqi, Credit Risk Scorecards, 2006).
"""

from __future__ import annotations

import random
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, final

import numpy as np

from stepstream.arguments import whole
from stepstream.arrays import short
from stepstream.classes import as_classes
from stepstream.errors import InputError
from stepstream.graph.ir import Array
from stepstream.live.ages import LADDER, rung_of
from stepstream.live.quality import classes_of
from stepstream.live.windowing import Carry, Sliding, Tumbling, Windowing, parse

if TYPE_CHECKING:
    from stepstream.model import Model

WINDOW = 1000  # chosen samples: the weight of each falls by one part in so many with the next
ENOUGH = 1000  # of them before anything is said: those of one stream are alike, and few streams are soon no chance
MOVING, MOVED = 0.1, 0.25  # of PSI: from where on a distribution is said to be moving, or to have moved
BINS = 10  # of a probability
SEED = 0


def psi(reference: Array, counts: Array) -> float:
    """Of two counts (cells,); half a sample more in every cell, so that an empty one gives a number: a large one, where
    the other has many.
    """
    p, q = ((c + 0.5) / (c.sum() + 0.5 * len(c)) for c in (reference, counts))
    return float(((q - p) * np.log(q / p)).sum())


def excess(reference: Array, counts: Array) -> float:
    """PSI above what chance alone makes of two samples of one distribution, (cells - 1) (1 / n + 1 / m); not below 0.

    That is the mean for samples that do not depend on each other; those of one stream do, and scatter more. counts:
    weights, the newest sample's 1, each earlier one's smaller by one part in WINDOW.
    """
    weight = counts.sum()
    n = weight * (2 * WINDOW - 1) / (2 * WINDOW - weight)  # (sum of weights)^2 / sum of their squares
    cells = np.count_nonzero(reference + counts)
    return max(0.0, psi(reference, counts) - (cells - 1) * (1 / n + 1 / float(reference.sum())))


def bins_of(p: Array) -> Array:
    """int64: the bin of each probability."""
    return np.clip((p * BINS).astype(np.int64), 0, BINS - 1)


def form_of(windowing: Windowing) -> str:
    """How streams are cut, as text, in whichever way the answers are computed."""
    return str(replace(windowing, by=None)) if isinstance(windowing, Sliding) else str(windowing)


@final
@dataclass(frozen=True, eq=False)
class Expected:
    """A reference that fits a model. mean: float64 (features,). edges, counts: of each feature, float64 (cells - 1,)
    and (cells,). steps: by age, float64 (columns, BINS). windowing: under which those came, of sequences that had at
    most `longest` samples; None where there are none, or nobody says how long they were.
    """

    mean: Array
    edges: list[Array]
    counts: list[Array]
    steps: dict[int, Array]
    windowing: Windowing | None
    longest: int | None

    def under(self, windowing: Windowing) -> bool:
        """Whether answers under this windowing have seen at each age what those of the reference had seen."""
        if self.windowing is None or form_of(self.windowing) == form_of(windowing):
            return self.windowing is not None
        return self.longest is not None and all(_uncut(w, self.longest) for w in (self.windowing, windowing))


def _uncut(windowing: Windowing, longest: int) -> bool:
    """Whether sequences of so many samples are answered as under carry."""
    return isinstance(windowing, Carry) or (isinstance(windowing, Tumbling | Sliding) and windowing.n >= longest)


def expected_of(reference: Any, features: int, classes: int | None, source: str) -> Expected:
    """What `learn.drift_reference` returned, checked: a file may hold anything. source: where it is from, in words.

    Raises InputError.
    """
    look = _Look(source)
    inputs = look.part(reference, "inputs", "")
    mean = look.numbers(inputs.get("mean"), "inputs.mean", features)
    look.numbers(inputs.get("std"), "inputs.std", features, least=0)
    edges, counts = list[Array](), list[Array]()
    lists = look.lists(inputs.get("edges"), "inputs.edges", features)
    for i, (one, many) in enumerate(
        zip(lists, look.lists(inputs.get("counts"), "inputs.counts", features), strict=True)
    ):
        rising = look.numbers(one, f"inputs.edges[{i}]")
        if not (rising[1:] > rising[:-1]).all():
            raise look.error("rising numbers", one, f"inputs.edges[{i}]")
        edges.append(rising)
        counts.append(look.counts(many, f"inputs.counts[{i}]", len(rising) + 1))
    steps, windowing, longest = dict[int, Array](), None, None
    if classes is not None and "probability" in reference:
        cut = reference.get("windowing")
        if not isinstance(cut, str):
            raise look.error("how streams were cut, as text", cut, "windowing")
        windowing = parse(cut)
        if (said := reference.get("longest")) is not None:
            longest = int(look.numbers([said], "longest", 1, least=1)[0])
        columns = classes if classes > 2 else 1
        found = look.part(look.part(reference, "probability", ""), "by_step", "probability.")
        for age, given in found.items():
            where = f"probability.by_step.{age}"
            if age not in _AGES:
                raise look.error("one of the ages 1, 2, 3, 5, 7, 10, ...", age, "probability.by_step")
            rows = [given] if columns == 1 else look.lists(given, where, columns)
            steps[_AGES[age]] = np.stack([look.counts(row, where, BINS) for row in rows])
    return Expected(mean, edges, counts, steps, windowing, longest)


_AGES = {str(age): age for age in LADDER}


@final
class _Look:
    """Takes a reference to pieces, with one error for all that may be wrong."""

    def __init__(self, source: str) -> None:
        self._source = source

    def error(self, expected: str, got: Any, where: str) -> InputError:
        return InputError(
            f"{self._source}: expected what learn.drift_reference returns for this model, {expected} at {where!r}, got "
            f"{short(got)}; make it with this model and its training data, and give it as reference="
        )

    def part(self, found: Any, name: str, where: str) -> Mapping[Any, Any]:
        part = found.get(name) if isinstance(found, Mapping) else found
        if not isinstance(part, Mapping):
            raise self.error("an object", part, where + name)
        return part

    def lists(self, found: Any, where: str, size: int) -> Sequence[Any]:
        if not isinstance(found, list | tuple) or len(found) != size:
            raise self.error(f"{size} lists", found, where)
        return found

    def numbers(self, found: Any, where: str, size: int | None = None, least: float = -sys.float_info.max) -> Array:
        """float64 (size,), or of any size from 1 on."""
        if (
            not isinstance(found, list | tuple)
            or len(found) != (size or max(1, len(found)))
            or not all(isinstance(v, int | float) and not isinstance(v, bool) for v in found)
            or not all(least <= v <= sys.float_info.max for v in found)
        ):
            kind = "finite numbers" if least < 0 else f"finite numbers from {least:g}"
            raise self.error(f"{'' if size is None else f'{size} '}{kind}", found, where)
        return np.array(found, np.float64)

    def counts(self, found: Any, where: str, size: int) -> Array:
        """How many samples, not all of them 0, and as many as can be counted."""
        counts = self.numbers(found, where, size, least=0)
        if not 0 < counts.max() <= _MOST:
            raise self.error(f"{size} counts, the largest from 1 to 2**53", found, where)
        return counts


_MOST = 2.0**53


@final
class Watch:
    """Looks at one of `every` samples, on average. classes: None for regression, whose answers are not compared; nor
    are they where the reference has those under another windowing that cuts its sequences elsewhere, as answers have
    then seen something else at the same age. outputs: how many numbers of an answer are the model's, the first ones.
    """

    def __init__(
        self,
        expected: Expected,
        every: int,
        names: Sequence[str],
        outputs: int,
        classes: int | None,
        units: Sequence[str] | None,
        windowing: Windowing,
    ) -> None:
        self._names, self._every = list(names), every
        self._mean, self._edges, self._expected = expected.mean, expected.edges, expected.counts
        own = form_of(windowing)
        self._steps = expected.steps if expected.under(windowing) else {}
        self._note = None
        if classes is not None and not expected.steps:
            self._note = "probabilities are not compared: the reference has none"
        elif expected.steps and not self._steps:
            made = "" if expected.windowing is None else form_of(expected.windowing)
            self._note = (
                f"probabilities are not compared: the reference has those under {made}, and this engine "
                f'cuts by {own}; give reference=learn.drift_reference(model, data, "{own}")'
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
        """PSI above chance; None for what too few samples have come of. note: what is not compared, and why."""
        enough, warnings = self.chosen >= ENOUGH, list[str]()
        mean = (self._sums[1] / np.maximum(self._sums[0], 1e-300)).tolist()
        inputs: dict[str, Any] = {}
        for i, name in enumerate(self._names):
            value = excess(self._expected[i], self._counts[i]) if enough else None
            trained = float(self._mean[i])
            inputs[name] = {"psi": value, "mean": mean[i] if self.chosen else None, "mean_in_training": trained}
            cure = f"its mean is {mean[i]:.3g}, {trained:.3g} in training; check the sensor or retrain"
            warnings += _said(f"feature {name}", value, cure)
        steps: dict[str, Any] = {}
        for age, expected in self._steps.items():
            found = None
            if self._seen[age] >= ENOUGH:
                found = [excess(e, c) for e, c in zip(expected, self._answers[age], strict=True)]
            steps[str(age)] = {"psi": None if found is None else max(found), "n": self._seen[age]}
            units = [f" of {u}" for u in self._units or range(self._classes or 0)][-len(expected) :]
            for unit, value in zip(units, found or (), strict=False):
                cure = "label some streams and look at their quality, or retrain"
                warnings += _said(f"probability{unit} at age {age}", value, cure)
        return {
            "samples": self.chosen,
            "window": WINDOW,
            "inputs": inputs,
            "probability": steps,
            "note": self._note,
            "warnings": warnings,
        }


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


def watch_of(model: Model, windowing: Windowing, every: Any, reference: Mapping[str, Any] | None) -> Watch | None:
    """None where nothing is to be watched. reference: None for the one that the model has as its report "drift".

    Raises InputError, also for a reference that is none, or that of another model.
    """
    whole("watch", every, 0, 2**31 - 1)
    if not every:
        if reference is not None:
            raise InputError("reference: expected watch=n too, one of how many samples is compared with it, got none")
        return None
    source = "reference"
    if reference is None:
        reference, source = model.reports.get("drift"), "the model's report 'drift'"
    if reference is None:
        raise InputError(
            "watch: expected a model that knows how its training data were distributed, got one that does not; give "
            "reference=, as stepstream.learn.drift_reference(model, data) returns it"
        )
    names = model.features or [str(i) for i in range(model.n_features)]
    classes = classes_of(model)
    units = model.classes if model.classes is not None and len(model.classes) == classes else None
    expected = expected_of(reference, model.n_features, classes, source)
    return Watch(expected, every, names, model.output_sizes[0], classes, units, windowing)
