"""An evaluation as one picture of four plots, by matplotlib."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stepstream.learn.by_step import Row
from stepstream.learn.plotting import COLOURS, GREY, figure_of, styled, write_png

if TYPE_CHECKING:
    from stepstream.learn.evaluation import Evaluation

FEW = 10  # answers, below which a point is noise and is left out where others are not
LOGARITHMIC = 200  # samples, from which the axis is one
WIDTH, HEIGHT = 11.0, 7.4  # inches


def svg(evaluation: Evaluation) -> str:
    """The picture as an SVG element, the same bytes for the same evaluation."""
    out = io.StringIO()
    with styled():
        _figure(evaluation).savefig(out, format="svg", metadata={"Date": None, "Creator": None})
    text = out.getvalue()
    return text[text.index("<svg") :]


def png(evaluation: Evaluation, path: str | Path) -> None:
    """The picture as a PNG file."""
    with styled():
        write_png(_figure(evaluation), path)


def _figure(evaluation: Evaluation) -> Any:
    numbers = evaluation.about["classes"] is None
    figure = figure_of(WIDTH, HEIGHT / 2 if numbers else HEIGHT)
    if numbers:
        left, right = figure.subplots(1, 2)
        _lines(left, evaluation, "rmse", "Root mean square error")
        _lines(right, evaluation, "mae", "Mean absolute error")
        axes = [left, right]
    else:
        (one, two), (three, four) = figure.subplots(2, 2)
        _lines(one, evaluation, "accuracy", "Accuracy")
        _lines(two, evaluation, "auc", "AUC")
        _lines(three, evaluation, "log_loss", "Log loss")
        _confidence(four, evaluation)
        _chance(one, two, three, evaluation)
        axes = [one, two, three, four]
    for axis in axes:
        _samples(axis, evaluation, axis is axes[0])
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=min(len(labels), 6))
    return figure


def _firm(rows: Sequence[Row]) -> list[Row]:
    """Without the few sequences that are longer than nearly all."""
    return [r for r in rows if r.count >= FEW] or list(rows)


def _xy(rows: Sequence[Row], figure: str) -> tuple[list[float], list[float]]:
    found = [((r.first + r.last) / 2, value) for r in _firm(rows) if (value := r.figures[figure]) is not None]
    return [x for x, _ in found], [y for _, y in found]


def _lines(axis: Any, evaluation: Evaluation, figure: str, title: str) -> None:
    """A line for each windowing, and for the zero-padded way."""
    axis.set_title(title)
    for run, colour in zip(evaluation.runs, COLOURS * len(evaluation.runs), strict=False):
        x, y = _xy(run.seen, figure)
        axis.plot(x, y, color=colour, label=run.windowing, marker="o" if len(x) < 40 else None, markersize=3.5)
        bounds = [((r.first + r.last) / 2, r.low, r.high) for r in _firm(run.seen) if r.low is not None]
        if figure == "accuracy" and bounds:
            where, low, high = zip(*bounds, strict=True)
            axis.fill_between(where, low, high, color=colour, alpha=0.12, linewidth=0)
    for (where_zeros, rows), dash in zip(evaluation.padded.items(), ((0, (4, 2)), (0, (1, 1.5))), strict=False):
        x, y = _xy(rows, figure)
        axis.plot(x, y, color=GREY, linestyle=dash, label=where_zeros)


def _chance(accuracy: Any, auc: Any, loss: Any, evaluation: Evaluation) -> None:
    """What an answer without a look at the samples gets."""
    prior = next(b for b in evaluation.baselines if b.name == "prior").figures
    for axis, value in ((accuracy, prior["accuracy"]), (auc, 0.5), (loss, prior["log_loss"])):
        axis.axhline(value, color="black", linewidth=1, linestyle=(0, (6, 3)), label="without a look", zorder=2)
    for axis in (accuracy, auc):
        axis.set_ylim(min(0.45, axis.get_ylim()[0]), 1.01)
    loss.set_ylim(0, min(loss.get_ylim()[1], 4 * (prior["log_loss"] or 1)))


def _confidence(axis: Any, evaluation: Evaluation) -> None:
    axis.set_title("Confidence less accuracy: 0 is calibrated")
    axis.axhline(0, color="black", linewidth=1, zorder=2)
    for run, colour in zip(evaluation.runs, COLOURS * len(evaluation.runs), strict=False):
        x, y = [], []
        for r in _firm(run.seen):
            confidence, accuracy = r.figures["confidence"], r.figures["accuracy"]
            if confidence is not None and accuracy is not None:
                x.append((r.first + r.last) / 2)
                y.append(confidence - accuracy)
        axis.plot(x, y, color=colour, marker="o" if len(x) < 40 else None, markersize=3.5)
    low, high = axis.get_ylim()
    axis.set_ylim(min(low, -0.1), max(high, 0.1))


def _samples(axis: Any, evaluation: Evaluation, first: bool) -> None:
    """The horizontal axis, with the training length on it."""
    longest, n = evaluation.about["longest"], evaluation.about["training_length"]
    axis.set_xlabel("samples seen")
    if longest >= LOGARITHMIC:
        from matplotlib.ticker import FuncFormatter, NullFormatter

        axis.set_xscale("log")
        axis.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:,.0f}"))
        axis.xaxis.set_minor_formatter(NullFormatter())
    if n is not None and n < longest:
        axis.axvline(n + 0.5, color="#555555", linewidth=1)
        if first:
            place = {"xycoords": ("data", "axes fraction"), "fontsize": 8.5, "color": "#555555"}
            axis.annotate(f" trained on {n}", (n + 0.5, 0.02), **place)
