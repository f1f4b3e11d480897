"""Decide when to decide: fit a trigger to a model's probabilities, and put it into the model beside them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, final

import numpy as np

from stepstream.arguments import whole
from stepstream.errors import InputError
from stepstream.graph import attach
from stepstream.graph.ir import Array
from stepstream.learn import answers, guarantee, unseen
from stepstream.learn import decision_rules as rules
from stepstream.learn.data import Sequences
from stepstream.learn.decision_rules import Cost, Score, Trace
from stepstream.learn.kinds import of_kind, of_sequences
from stepstream.learn.metrics import or_none
from stepstream.learn.remarks import class_order
from stepstream.learn.rule_families import FAMILIES, Candidate, candidates, threshold, thresholds
from stepstream.learn.unseen import CALIBRATED, calibrated_on, fold_indices
from stepstream.learn.words import counted
from stepstream.limits import MAX_INDEX
from stepstream.model import Model

GAP = "accuracy gap"  # the family with a guarantee
DELAYS = (0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0)  # in costs of an error, for the curve of what could be had
FEW = 50  # streams


@final
@dataclass(frozen=True, eq=False)
class Trigger:
    """What `fit_trigger` made.

    model: the model with one more output, "decision"; its probabilities are what they were. This report is its report
    "trigger"; the others, such as that of a calibration, are still there. family: its name.
    rule, k, latched: see `decision_rules`; float32 (rows, 3). cost: what it was fitted for; n: the samples over which
    the delay is counted. report: JSON, with the cross-validated score of every candidate. warnings: in words.
    """

    model: Model
    family: str
    rule: Array
    k: int
    latched: bool
    cost: Cost
    n: int
    report: dict[str, Any]
    warnings: tuple[str, ...]

    def decisions(self, probabilities: Sequence[Array]) -> tuple[Array, ...]:
        """The decision in force at every sample, int64 (time_i,) each, -1 for none, as the model gives them."""
        return tuple(rules.decisions(p, self.rule, self.k, self.latched) for p in probabilities)

    def score(self, data: Sequences, probabilities: Sequence[Array] | None = None) -> Score:
        """What its decisions are worth on data that it was not fitted on, by this model's probabilities or given ones.

        Raises InputError for data without one class label per sequence.
        """
        p, labels = _known(self.model, data, probabilities)
        return rules.score(self.decisions(p), p, labels, self.cost, self.n, data.streams)

    def save(self, path: str | Path) -> None:
        """Write the model with its trigger as a bundle, with all reports. Raises as `Model.save`."""
        self.model.save(path)


def fit_trigger(
    model: Model,
    data: Sequences,
    *,
    family: str = "auto",
    cost: Cost | None = None,
    k: int | None = None,
    latched: bool = True,
    folds: int = 5,
    probabilities: Sequence[Array] | None = None,
    alpha: float = 0.05,
    delta: float = 0.1,
    seed: int = 0,
) -> Trigger:
    """Fit when to decide, over the model's probabilities alone.

    data: sequences with one label each. A model is surer of its own training data than of any other, and a trigger
    fitted on them decides too early: give data that it was not trained on, or `probabilities=` of models that had not
    seen each sequence, (time_i, classes) each, the columns in the order of the model's classes, best
    `calibrate(..., logits=out_of_fold(train, data).logits).probabilities`; `model` is then the calibrated one.
    family: "threshold" (p1 above one threshold, k times in a row), "stopping rule" (linear in p1, p1 - p2 and t / n),
    "expected cost" (as soon as waiting is not expected to pay), "accuracy gap", or "auto": of the first three the one
    with the least cross-validated cost (by stream), with its settings; that cost is the least of several and so a
    little too good, which `Trigger.score` on other data is not.
    "accuracy gap" does not look at the cost: it decides as early as one threshold allows so that, with probability
    1 - delta, at most alpha of accuracy is lost against waiting for the end; see `guarantee.find` for what this means.
    cost: `Cost()` by default. k: samples in a row that have to speak for the same class, by default whichever costs
    least. latched: the first decision stays until the reset; False: it can be revoked, and counts from the sample since
    which it has stood at the end.
    A model without names of features and classes gets those of the data; where another order of the classes would make
    its answers right far more often, a warning says so.
    It is fitted to decisions under carry; where sequences are longer than the training length, and streams are cut
    there by default, a warning says so.
    Raises InputError, also where the data are too few for the guarantee.
    """
    cost = Cost() if cost is None else cost
    of_kind("model", model, Model)
    of_kind("cost", cost, Cost)
    if family not in ("auto", *FAMILIES, GAP):
        raise InputError(f"family: expected auto, {', '.join(FAMILIES)} or {GAP}, got {family!r}")
    k = None if k is None else whole("k", k, 1, MAX_INDEX, "samples")
    if family == GAP and not latched:
        raise InputError("accuracy gap: expected a latched trigger, as its guarantee is for the first decision")
    attach.n_classes(model.graph)
    p, labels = _known(model, data, probabilities)
    data = answers.matched(model, data)
    if len(there := np.unique(labels)) < 2:
        raise InputError(
            f"expected sequences of at least 2 classes to learn when to decide, got {(data.classes or ())[there[0]]!r} "
            "alone: of these the first sample says enough; bring data of every class"
        )
    seen = rules.trace(p)
    n = model.training_length or int(seen.lengths.max())
    base = {
        "cost": asdict(cost),
        "latched": latched,
        "length": n,
        "sequences": len(data),
        "streams": len(set(data.streams)),
        "probabilities_given": probabilities is not None,
    }
    warnings = list[str]()
    if probabilities is None:
        warnings += unseen.warnings(model, data)
        warnings += [CALIBRATED] if calibrated_on(model, data) else []
    warnings += map(str, class_order(model, data, p))
    warnings += _warnings(data, model.training_length)
    if family == GAP:
        found = guarantee.find(seen, labels, data.streams, k or 1, alpha, delta, seed)
        if found.least >= 1:
            warnings.append("no threshold keeps the accuracy that was asked for: this trigger never decides early")
        rule, streak, settings = found.rule, k or 1, {"threshold": found.least}
        decided = rules.held(seen, rule[None], streak)[0]
        report: dict[str, Any] = {
            "guarantee": {
                "alpha": alpha,
                "delta": delta,
                "gap": found.gap,
                "tested_on_streams": found.tested,
                "p_value": or_none(found.p_value),
            },
            "on_its_own_data": rules.scored(decided, seen, labels, cost, n, data.streams).to_dict(),
        }
        chosen = GAP
    else:
        if len(set(data.streams)) < 2:
            raise InputError("expected at least 2 streams to choose a trigger by cross-validation, got 1; bring more")
        parts = list(fold_indices(data, folds, seed))
        crossed = [(c, _crossed(c, seen, labels, cost, n, parts)) for c in candidates(family, k, latched)]
        scores = [rules.scored(decided, seen, labels, cost, n, data.streams) for _, decided in crossed]
        best = min(range(len(scores)), key=lambda i: scores[i].cost)  # of equal ones the plainest
        candidate = crossed[best][0]
        rule, streak, settings = candidate.fit(seen, labels, cost, n), candidate.k, candidate.settings
        chosen = candidate.family
        report = {
            "tried": [_tried(c, s) for (c, _), s in zip(crossed, scores, strict=True)],
            "cross_validated": scores[best].to_dict(),
            "pareto": _curve(candidate, seen, labels, cost, n, parts),
        }
    beside = {
        name: rules.scored(rules.held(seen, threshold(least)[None])[0], seen, labels, cost, n, data.streams).to_dict()
        for name, least in (("at_the_first_sample", 0.0), ("at_the_end", 1.0))
    }
    report = {"family": chosen, "settings": settings, "k": streak, **base, **report, "beside": beside}
    report["warnings"] = warnings
    decides = answers.named(model, data).with_graph(
        attach.with_trigger(model.graph, rule, streak, latched), {**model.reports, "trigger": report}
    )
    return Trigger(decides, chosen, rule, streak, latched, cost, n, report, tuple(warnings))


def _known(model: Model, data: Sequences, probabilities: Sequence[Array] | None) -> tuple[Sequence[Array], Array]:
    """Probabilities and labels (m,) in the model's order of classes; raises InputError."""
    of_kind("data", data, Sequences)
    if data.classes is None or data.per_sample:
        kind = "numbers to be predicted" if data.classes is None else "a label for each sample"
        raise InputError(f"expected one class label for each sequence to decide upon, got {kind}")
    p = (
        answers.probabilities(model, data)
        if probabilities is None
        else of_sequences("probabilities", probabilities, data.keys)
    )
    labels = np.array(answers.matched(model, data).y)
    width = attach.n_classes(model.graph)
    for key, own, length in zip(data.keys, p, data.lengths, strict=True):
        if own.shape != (length, width):
            raise InputError(f"probabilities of sequence {key!r}: expected shape ({length}, {width}), got {own.shape}")
        right = ((own >= 0) & (own <= 1)).all(axis=1) & (abs(own.sum(axis=1) - 1) <= answers.SUM)
        if probabilities is not None and not right.all():
            t = int(right.argmin())
            raise InputError(
                f"probabilities of sequence {key!r}, sample {t + 1}: expected numbers from 0 to 1 that sum up to 1, "
                f"got {own[t].tolist()}; give out_of_fold(...).probabilities, not its logits"
            )
    return p, labels


def _crossed(
    candidate: Candidate, seen: Trace, labels: Array, cost: Cost, n: int, parts: list[tuple[Array, Array]]
) -> Array:
    """Decisions (m, time), each by a rule that was fitted without the sequence's stream."""
    out = np.empty(seen.top.shape, np.int32)
    for rest, part in parts:
        rule = candidate.fit(seen.some(rest), labels[rest], cost, n)
        out[part] = rules.held(seen.some(part), rule[None], candidate.k, candidate.latched)[0]
    return out


def _tried(candidate: Candidate, score: Score) -> dict[str, Any]:
    numbers = {name: score.to_dict()[name] for name in ("cost", "cost_error", "accuracy", "earliness", "harmonic_mean")}
    return {"family": candidate.family, "k": candidate.k, **candidate.settings, **numbers}


def _curve(
    candidate: Candidate, seen: Trace, labels: Array, cost: Cost, n: int, parts: list[tuple[Array, Array]]
) -> list[dict[str, Any]]:
    """What could be had: the family refitted, cross-validated, for other costs of delay, and plain thresholds."""
    points = []
    for delay in DELAYS:
        other = Cost(cost.error, cost.error * delay)
        score = rules.scored(_crossed(candidate, seen, labels, other, n, parts), seen, labels, cost, n)
        points.append(_point(f"{candidate.family}, delay {other.delay:g}", score))
    for least in thresholds(seen, 20):
        score = rules.scored(rules.held(seen, threshold(float(least))[None])[0], seen, labels, cost, n)
        points.append(_point(f"p1 > {least:.4g}", score))
    return rules.pareto(points)


def _point(name: str, score: Score) -> dict[str, Any]:
    return {"rule": name, **{v: score.to_dict()[v] for v in ("earliness", "accuracy", "harmonic_mean", "cost")}}


def _warnings(data: Sequences, trained: int | None) -> Iterator[str]:
    """trained: the training length, after which a stream starts anew by default."""
    if trained is not None and (longest := int(data.lengths.max())) > trained:
        yield (
            f"sequences have up to {longest} samples, and the model was trained on {trained}: the trigger is fitted to "
            "states that are carried on beyond, as no stream does by default; serve it so, by "
            'Engine(model, "carry") or run --windowing carry, or fit it on sequences of at most '
            f"{trained} samples for tumbling({trained})"
        )
    if (streams := len(set(data.streams))) < FEW:
        yield (
            f"the trigger rests on {counted(streams, 'stream')}; with fewer than {FEW} its cost on new data is "
            "uncertain, so look at the standard errors, and score it on held-out data"
        )
