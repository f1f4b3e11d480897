"""What a model is worth at each sample, on one's own data, by the very kernel that serves."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

import numpy as np

from stepstream.errors import InputError
from stepstream.graph import attach
from stepstream.graph.ir import Array
from stepstream.learn import evaluation_pages, evaluation_plots, remarks
from stepstream.learn.answers import matched, probabilities
from stepstream.learn.by_step import CLUSTERS, Row, by_age, by_fraction, by_seen, points, total
from stepstream.learn.data import Sequences, by_class, extent, labelled
from stepstream.learn.decision_rules import Cost, Score, decisions, score
from stepstream.learn.guards import Finding, leaks
from stepstream.learn.kinds import about, of_kind
from stepstream.learn.metrics import Figures, harmonic_mean, log_loss, measure, measure_numbers
from stepstream.learn.padding import padded
from stepstream.learn.rule_families import threshold
from stepstream.learn.unseen import seen_by
from stepstream.limits import MAX_WINDOW
from stepstream.live.sliding import costs
from stepstream.live.windowing import Tumbling, Windowing, parse
from stepstream.model import Model

PATIENCE = 60e6  # microseconds that sliding(n) may take before it is left out unless asked for


@final
@dataclass(frozen=True)
class Run:
    """The figures of one windowing. seen: by number of samples; fraction: by share of the sequence, for labels per
    sequence; age: by samples since the restart, for labels per sample under tumbling(n); total: over all samples, or,
    for labels per sequence, at the end.
    """

    windowing: str
    seen: tuple[Row, ...]
    fraction: tuple[Row, ...]
    age: tuple[Row, ...]
    total: Row


@final
@dataclass(frozen=True)
class Baseline:
    """What costs nothing. figures: accuracy and the like; of rules that answer at the first sample also the earliness
    (share of the samples waited for) and the harmonic mean of accuracy and 1 - earliness.
    """

    name: str
    words: str
    figures: Figures


@final
@dataclass(frozen=True, eq=False)
class Evaluation:
    """What `evaluate` returns; prints as Markdown.

    about: model and data in plain types. runs: one for each windowing, the first is the one that pages show in full.
    padded: rows of the zero-padded way, by where the zeros are. baselines, findings: see there.
    decisions: what those of the model's trigger are worth under carry, beside deciding at the first sample and at the
    end, by the cost that the trigger was fitted for; empty for a model without one, for labels per sample, and where
    carry is not shown.
    """

    about: dict[str, Any]
    runs: tuple[Run, ...]
    padded: dict[str, tuple[Row, ...]]
    baselines: tuple[Baseline, ...]
    findings: tuple[Finding, ...]
    decisions: Mapping[str, Score]

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types."""
        return {
            "about": self.about,
            "windowings": {
                run.windowing: {
                    "total": run.total.to_dict(),
                    "by_seen": [r.to_dict() for r in run.seen],
                    "by_fraction": [r.to_dict() for r in run.fraction],
                    "by_age": [r.to_dict() for r in run.age],
                }
                for run in self.runs
            },
            "zero_padded": {_key(where): [r.to_dict() for r in rows] for where, rows in self.padded.items()},
            "baselines": {_key(b.name): {"words": b.words} | b.figures for b in self.baselines},
            "decisions": {_key(name): score.to_dict() for name, score in self.decisions.items()},
            "findings": [{"name": f.name, "words": f.words, "remedy": f.remedy} for f in self.findings],
        }

    def to_markdown(self) -> str:
        """All but the plots."""
        return evaluation_pages.markdown(self)

    def to_html(self) -> str:
        """One page with everything in it; raises InputError without matplotlib."""
        return evaluation_pages.html_page(self)

    def save_png(self, path: str | Path) -> None:
        """The plots as a picture; raises InputError without matplotlib."""
        evaluation_plots.png(self, path)

    def __str__(self) -> str:
        return self.to_markdown()


def _key(words: str) -> str:
    return words.replace(" ", "_")


def evaluate(
    model: Model,
    data: Sequences,
    windowings: Sequence[str | Windowing] | None = None,
    train: Sequences | None = None,
    ages: Sequence[int] | None = None,
) -> Evaluation:
    """Figures by number of samples seen, by fraction and by age, for every windowing, and what they mean in words.

    windowings: by default carry, and, where sequences are longer than the training length n, tumbling(n) and
    sliding(n); n is the window of its recipe where a model's state was carried on in training. train: what the model
    was trained on: class shares come from it, and leaks are looked for between the two. ages: the numbers of samples
    seen that get a row, if not a ladder of them. Raises InputError for data that do not fit the model.
    """
    of_kind("model", model, Model)
    of_kind("data", data, Sequences)
    data = matched(model, data)
    if train is not None:
        of_kind("train", train, Sequences)
        with about("train (--train)"):
            if (train.classes is None) != (data.classes is None):
                kinds = ("classes", "numbers to be predicted")
                expected, got = (kinds[part.classes is None] for part in (data, train))
                raise InputError(f"expected labels of the same kind as in the data, {expected}, got {got}")
            train = matched(model, train)
    n = model.window_length or model.training_length or _trained_window(model)
    chosen, findings = _windowings(model, data, windowings, n)
    answers = {str(w): probabilities(model, data, w) for w in chosen}
    at = points(int(data.lengths.max()), [n] if n else [], ages)
    if ages is not None and (beyond := [age for age in ages if age > data.lengths.max()]):
        words = f"no sequence has {', '.join(map(str, beyond))} samples: the longest has {data.lengths.max()}"
        findings.append(Finding("beyond-the-longest", words, "ask for fewer (ages=, --at), or bring longer sequences"))
    runs = tuple(_run(data, w, answers[str(w)], at) for w in chosen)
    prior = _prior(data if train is None else train)
    baselines = tuple(_baselines(data, runs[0].windowing, answers[runs[0].windowing], prior, train is not None))
    if (known := seen_by(model, data)) is not None:
        remedy = "evaluate it on data that had no part in its training: stepstream.learn.split holds some out"
        findings.append(Finding("known-data", known, remedy))
    findings += _remarks(model, data, answers, runs, prior, n)
    findings += leaks(data, train, model)
    window = n or (None if data.per_sample else int(data.lengths.max()))
    # labels per sample give one answer a sequence: of a few the zero-padded way shows nothing
    enough = not data.per_sample or len(data) >= CLUSTERS
    zeros = padded(model, data, window, at) if window and enough else {}
    decided = _decisions(model, data, answers["carry"]) if "carry" in answers and not data.per_sample else {}
    return Evaluation(_about(model, data), runs, zeros, baselines, tuple(findings), decided)


def _carried(model: Model) -> bool:
    """Whether states were carried on in training, beyond the windows that errors went back through."""
    return model.trained_ages is not None and model.training_length is None


def _recipe(model: Model) -> Mapping[str, Any]:
    """The settings of the model's training, as far as it knows them."""
    training = model.reports.get("training")
    recipe = training.get("recipe") if isinstance(training, Mapping) else None
    return recipe if isinstance(recipe, Mapping) else {}


def _trained_window(model: Model) -> int | None:
    """Samples in a window, or through which errors went back, in a training that carried states; None where unknown."""
    if not _carried(model):
        return None
    recipe = _recipe(model)
    found = (recipe.get("window"), recipe.get("truncated"))
    return next((n for n in found if type(n) is int and 1 <= n <= MAX_WINDOW), None)


def _windowings(
    model: Model, data: Sequences, given: Sequence[str | Windowing] | None, n: int | None
) -> tuple[list[Windowing], list[Finding]]:
    if isinstance(given, str):
        raise InputError(f"windowings: expected a list, got {given!r}; give [{given!r}]")
    if given is not None:
        resolved = [model.stream(w).windowing for w in given or ["carry"]]  # "auto" is one of the others
        return list({str(w): w for w in resolved}.values()), []
    if n is None and _carried(model):
        return [parse("carry")], []
    if n is None:
        words = "the model does not say how many samples it was trained on, so carry alone is shown"
        return [parse("carry")], [
            Finding("no-training-length", words, "give training_length= to load() (--training-length)")
        ]
    if data.lengths.max() <= n:
        return [parse("carry")], []
    names = ["carry"] * (model.window_length is None) + [f"tumbling({n})"]
    seconds = min(costs(model.executor, n).values()) * float(data.lengths.sum()) / 1e6
    if seconds * 1e6 <= PATIENCE:
        return [parse(w) for w in (*names, f"sliding({n})")], []
    words = f"sliding({n}) was left out: it would take about {seconds / 60:.0f} minutes on these data"
    remedy = f'ask for it: windowings=["carry", "sliding({n})"] (--windowing), perhaps on part of the data'
    return [parse(w) for w in names], [Finding("left-out", words, remedy)]


def _run(data: Sequences, windowing: Windowing, p: Sequence[Array], at: Sequence[int]) -> Run:
    aged = data.per_sample and isinstance(windowing, Tumbling)
    return Run(
        str(windowing),
        by_seen(data, p, at),
        () if data.per_sample else by_fraction(data, p),
        by_age(data, p, windowing.n) if aged and isinstance(windowing, Tumbling) else (),
        total(data, p),
    )


def _prior(data: Sequences) -> Array:
    """The share of each class (classes,), or the mean of the numbers (1,)."""
    y = np.concatenate([np.atleast_1d(v) for v in data.y])
    if data.classes is None:
        return np.array([y.mean(dtype=np.float64)])
    return np.bincount(y, minlength=len(data.classes)) / len(y)


def _baselines(
    data: Sequences, windowing: str, answers: tuple[Array, ...], prior: Array, trained: bool
) -> Iterator[Baseline]:
    y = np.concatenate([np.atleast_1d(v) for v in data.y])
    source = "the training data" if trained else "these data"
    if data.classes is None:
        words = f"always {prior[0]:.4g}, the mean of {source}"
        yield Baseline("mean", words, measure_numbers(y, np.full(len(y), prior[0])))
        return
    figures = measure(y, np.tile(prior, (len(y), 1)))
    kept = {name: figures[name] for name in ("accuracy", "balanced_accuracy", "log_loss", "brier")}
    often = data.classes[int(prior.argmax())]
    yield Baseline("prior", f"always the class shares of {source}, so always {often}", kept)
    if data.per_sample:
        return
    earliness = float((1 / data.lengths).mean())
    first = float(np.mean([p[0].argmax() == y for p, y in zip(answers, data.y, strict=True)]))
    accuracies = {
        "coin at the first sample": ("a guess among the classes, without a look", 1 / len(data.classes)),
        "prior at the first sample": (f"always {often}, without a look", figures["accuracy"] or 0.0),
        "model at the first sample": (f"the answer after one sample, under {windowing}", first),
    }
    for name, (words, accuracy) in accuracies.items():
        mean = harmonic_mean(accuracy, earliness)
        yield Baseline(name, words, {"accuracy": accuracy, "earliness": earliness, "harmonic_mean": mean})


def _decisions(model: Model, data: Sequences, answers: tuple[Array, ...]) -> dict[str, Score]:
    attached = attach.attached_to(model.graph)
    if attached.rule is None:
        return {}
    report = model.reports.get("trigger")
    try:
        cost = Cost(**report["cost"]) if isinstance(report, Mapping) else Cost()
    except (InputError, TypeError, KeyError):  # of a report that somebody else wrote
        cost = Cost()
    ways = {
        "the model's trigger": (attached.rule, attached.k, attached.latched),
        "at the first sample": (threshold(0.0), 1, True),
        "at the end": (threshold(1.0), 1, True),
    }
    labels, n = np.array(data.y), model.training_length or int(data.lengths.max())
    return {
        name: score([decisions(p, rule, k, latched) for p in answers], answers, labels, cost, n, data.streams)
        for name, (rule, k, latched) in ways.items()
    }


def _remarks(
    model: Model,
    data: Sequences,
    answers: dict[str, tuple[Array, ...]],
    runs: tuple[Run, ...],
    prior: Array,
    n: int | None,
) -> list[Finding]:
    ages = model.trained_ages
    bound = ages[1] if ages else 0
    trained = max(n or 0, data.lengths.max() if bound is None else bound)
    found: list[Finding] = []
    if data.classes is None:
        if n is not None:
            found += remarks.beyond_in_numbers(data, answers, n, trained)
        return found
    if n is not None:
        found += remarks.beyond(data, answers, n, trained)
    found += remarks.constant(data, answers[runs[0].windowing])
    # what state passing or another windowing is to mend is no matter of calibration
    best = runs[-1] if found and not _carried(model) else runs[0]
    found = [*remarks.class_order(model, data, answers[runs[0].windowing]), *found]
    if runs[0].fraction:
        y = np.array(data.y)
        loss = log_loss(y, np.tile(prior, (len(y), 1)))
        found += remarks.early(runs[0].fraction, loss, _recipe(model).get("loss"))
    found += remarks.calibration(best.windowing, best.fraction or (best.total,), len(set(data.streams)))
    found += remarks.about_the_data(data, by_class(data) or {})
    return found


def _about(model: Model, data: Sequences) -> dict[str, Any]:
    return {
        "model": model.fingerprint,
        "written_by": str(model.reading.provenance),
        "runs_on": model.runs_on,
        "training_length": model.window_length or model.training_length,
        "carried_in_training": _carried(model),
        **extent(data),
        "features": list(data.features),
        "classes": by_class(data),
        "labels": labelled(data),
    }
