"""An evaluation as titled tables of texts, which the terminal, Markdown and HTML show alike."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, final

import numpy as np

from stepstream.learn.by_step import Row
from stepstream.learn.metrics import CLASSES, NUMBERS
from stepstream.learn.words import counted, fixed, percent

if TYPE_CHECKING:
    from stepstream.learn.evaluation import Evaluation, Run

TITLES = {
    "accuracy": "accuracy",
    "balanced_accuracy": "balanced",
    "precision": "precision",
    "recall": "recall",
    "f1": "F1",
    "auc": "AUC",
    "log_loss": "log loss",
    "brier": "Brier",
    "calibration_error": "cal. error",
    "confidence": "confidence",
    "changes": "changes",
    "mae": "MAE",
    "rmse": "RMSE",
    "r2": "R2",
}
# what a narrow page leaves out, the first of them first
LEAST = ("confidence", "precision", "recall", "brier", "balanced_accuracy", "changes", "calibration_error", "f1")
MANY = 12  # names of features in a line
WORDS = 26  # characters: no number is as long
SOME = (0.05, 0.1, 0.25, 0.5, 0.75, 1.0)  # fractions on a narrow page


@final
@dataclass(frozen=True)
class Section:
    """A table. note: what the reader has to know of it. optional: columns that a narrow page leaves out, the first of
    them first; marks: rows with a line above them.
    """

    title: str
    note: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    optional: tuple[str, ...] = ()
    marks: frozenset[int] = frozenset()

    def fitting(self, width: int) -> Section:
        """Without as many of the optional columns, and then of the last, as it takes to have room in so many
        characters: a number that is cut is another number.
        """
        if self._width() <= width or len(self.columns) < 3:
            return self
        leaves = next(iter(self.optional), self.columns[-1])
        kept = [i for i, c in enumerate(self.columns) if c != leaves]
        columns, rows = tuple(self.columns[i] for i in kept), tuple(tuple(r[i] for i in kept) for r in self.rows)
        return replace(self, columns=columns, rows=rows, optional=self.optional[1:]).fitting(width)

    def _width(self) -> int:
        """Of all columns, with two spaces between them; words can be wrapped."""
        cells = zip(self.columns, *self.rows, strict=True)
        return sum(min(max(map(len, column)), WORDS) + 2 for column in cells) - 2


def summary(evaluation: Evaluation) -> list[str]:
    """Model and data in a few lines."""
    a = evaluation.about
    unknown = "none, its state was carried on" if a["carried_in_training"] else "not known"
    length = f"{a['training_length']} samples" if a["training_length"] else unknown
    lengths = f"{a['longest']}" if a["shortest"] == a["longest"] else f"{a['shortest']} to {a['longest']}"
    streams = "" if a["streams"] == a["sequences"] else f" of {counted(a['streams'], 'stream')}"
    count = counted(a["sequences"], "sequence")
    each = "" if a["sequences"] == 1 else " each"
    lines = [
        f"model {a['model'][:12]}, written by {a['written_by']}; training length: {length}; runs on: {a['runs_on']}",
        f"{count}{streams}, {lengths} samples{each}, {a['samples']:,} in all; labels "
        f"{a['labels']}; {about_features(a['features'])}",
    ]
    if a["classes"] is not None:
        lines.append(about_classes(a["classes"]))
    return lines


def about_classes(counts: Mapping[str, int]) -> str:
    """Each with its share; of many the first."""
    total = sum(counts.values())
    some = [f"{c} {percent(n / total)} ({n:,})" for c, n in counts.items()][:MANY]
    return f"classes: {', '.join(some)}" + (f" and {len(counts) - MANY} more" if len(counts) > MANY else "")


def about_features(names: Sequence[str]) -> str:
    """By name where they have names; of many the first."""
    names = list(names)
    if names == [f"feature {i}" for i in range(len(names))]:
        return f"{counted(len(names), 'feature')} without names"
    return f"features: {', '.join(names[:MANY])}" + (f" and {len(names) - MANY} more" if len(names) > MANY else "")


def sections(evaluation: Evaluation, brief: bool = False) -> Iterator[Section]:
    """All tables. brief: fewer fractions, for a terminal."""
    first, per_sample = evaluation.runs[0], evaluation.about["labels"] == "per sample"
    if len(evaluation.runs) > 1:
        yield _windowings(evaluation, per_sample)
        yield _side_by_side(evaluation)
    elif evaluation.padded:
        yield _side_by_side(evaluation)
    note = "samples since the start of the sequence" if per_sample else _who(first)
    yield _table(f"By number of samples seen, {first.windowing}", note, "seen", first.seen, _mark(evaluation))
    if first.fraction and (evaluation.about["shortest"] != evaluation.about["longest"] or not brief):
        rows = [r for r in first.fraction if not brief or r.share in SOME]
        yield _table(f"By fraction of the sequence, {first.windowing}", "", "seen", rows)
    for run in evaluation.runs:
        if run.age:
            yield _table(f"By age, {run.windowing}", "samples since the last restart", "age", run.age)
    if evaluation.decisions:
        yield _decisions(evaluation)
    yield _baselines(evaluation)


def _who(run: Run) -> str:
    counts = {r.count for r in run.seen}
    return "" if len(counts) == 1 else "each over the sequences that are at least so long"


def _mark(evaluation: Evaluation) -> frozenset[int]:
    """The first row beyond the training length."""
    n = evaluation.about["training_length"] or np.inf
    beyond = [i for i, r in enumerate(evaluation.runs[0].seen) if r.first > n]
    return frozenset(beyond[:1])


def number(value: float | None) -> str:
    """Three digits behind the point of small numbers; a dash where there is none."""
    if value is None:
        return "-"
    size = abs(value)
    return fixed(value, 3) if size < 100 else f"{value:.1f}" if size < 1e5 else f"{value:.4g}"


def _accuracy(row: Row) -> str:
    """With half the width of its interval."""
    text = number(row.figures["accuracy"])
    return text if row.low is None or row.high is None else f"{text} ±{(row.high - row.low) / 2:.2f}"


def names(row: Row) -> list[str]:
    """The figures that a row has, in the order of pages."""
    return [n for n in (*CLASSES, "changes", *NUMBERS) if n in row.figures]


def _table(title: str, note: str, seen: str, rows: Sequence[Row], marks: frozenset[int] = frozenset()) -> Section:
    shown = names(rows[0])
    cells = []
    for r in rows:
        values = [_accuracy(r) if n == "accuracy" else number(r.figures[n]) for n in shown]
        cells.append((r.seen, f"{r.count:,}", *values))
    return Section(
        title,
        note,
        (seen, "answers", *(TITLES[n] for n in shown)),
        tuple(cells),
        tuple(TITLES[n] for n in LEAST),
        marks,
    )


def _windowings(evaluation: Evaluation, per_sample: bool) -> Section:
    n = evaluation.about["training_length"]
    parts = per_sample and n is not None and "accuracy" in evaluation.runs[0].total.figures
    rows = []
    for run in evaluation.runs:
        values = [number(run.total.figures[f]) for f in names(run.total)]
        if parts:
            ranges = ([r for r in run.seen if r.last <= n], [r for r in run.seen if r.first > n])
            values = [*(number(_pooled(some)) for some in ranges), *values]
        rows.append((run.windowing, *values))
    more = (f"up to {n}", f"beyond {n}") if parts else ()
    return Section(
        "The ways to cut a stream",
        ("accuracy up to and beyond the training length, then over all samples" if parts else "")
        if per_sample
        else "at the end of each sequence",
        ("windowing", *more, *(TITLES[f] for f in names(evaluation.runs[0].total))),
        tuple(rows),
        tuple(TITLES[f] for f in LEAST),
    )


def _pooled(rows: Sequence[Row]) -> float | None:
    found = [(r.figures["accuracy"], r.count) for r in rows]
    total = sum(count for _, count in found)
    return sum((a or 0) * count for a, count in found) / total if total else None


def _side_by_side(evaluation: Evaluation) -> Section:
    """The main figure of every windowing, and of the zero-padded way, by samples seen."""
    figure = "accuracy" if evaluation.about["classes"] is not None else "rmse"
    columns = {run.windowing: run.seen for run in evaluation.runs} | evaluation.padded
    found = {name: {r.last: r for r in rows} for name, rows in columns.items()}
    rows = []
    for r in evaluation.runs[0].seen:
        there = [rows_of.get(r.last) for rows_of in found.values()]
        rows.append((r.seen, *("" if t is None else number(t.figures[figure]) for t in there)))
    note = ""
    for padded in evaluation.padded.values():
        fewer = padded[0].count < evaluation.about["sequences"]
        of = f", of the first {padded[0].count:,} sequences" if fewer else ""
        note = f"beside the zero-padded way: the whole pass over a window filled up with zeros{of}"
    what = "Accuracy" if figure == "accuracy" else "Root mean square error"
    return Section(f"{what} by samples seen", note, ("seen", *found), tuple(rows), marks=_mark(evaluation))


def _decisions(evaluation: Evaluation) -> Section:
    figures = ("cost", "accuracy", "earliness", "harmonic_mean", "kappa")
    rows = []
    for name, score in evaluation.decisions.items():
        found = score.to_dict()
        rows.append((name, *(number(found[f]) for f in figures), str(score.undecided)))
    return Section(
        "Decisions, carry",
        "earliness is the share of the samples waited for; cost is what the trigger was fitted for",
        ("decided", *(f.replace("_", " ") for f in figures), "undecided"),
        tuple(rows),
        ("kappa", "undecided"),
    )


def _baselines(evaluation: Evaluation) -> Section:
    shown = list(dict.fromkeys(name for b in evaluation.baselines for name in b.figures))
    titles = {"earliness": "earliness", "harmonic_mean": "harmonic mean"} | TITLES
    rows = tuple(
        (b.name, *(number(b.figures[n]) if n in b.figures else "" for n in shown), b.words)
        for b in evaluation.baselines
    )
    note = "harmonic mean of accuracy and 1 - earliness, the share of the samples that an answer waits for"
    return Section(
        "What costs nothing",
        note if "earliness" in shown else "",
        ("rule", *(titles[n] for n in shown), "that is"),
        rows,
        tuple(titles[n] for n in ("brier", "balanced_accuracy", "log_loss", "earliness") if n in shown),
    )
