"""What calibration and triggers were found to do, as pictures, by matplotlib. Drawn from reports alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from stepstream.errors import InputError
from stepstream.learn.plotting import COLOURS, GREY, figure_of, styled, write_png

WIDTH, HEIGHT = 10.0, 3.8  # inches
BEFORE, AFTER = GREY, COLOURS[0]


def calibration_png(report: dict[str, Any], path: str | Path) -> None:
    """Log loss, and confidence less accuracy, by samples seen, before and after; of held-out data where there are any.

    report: of a `Calibration`. Raises InputError where nothing was validated, without matplotlib, and for a path that
    cannot be written.
    """
    part = next((p for p in ("held_out", "cross_validated") if p in report), None)
    if part is None:
        raise InputError("expected a calibration that was validated, to draw before and after; give held-out data")
    with styled():
        figure = figure_of(WIDTH, HEIGHT)
        left, right = figure.subplots(1, 2)
        left.set_title(f"Log loss, {part.replace('_', '-')}")
        right.set_title("Confidence less accuracy: 0 is calibrated")
        right.axhline(0, color="black", linewidth=1)
        for name, colour in (("before", BEFORE), ("after", AFTER)):
            for axis, what in ((left, "log_loss"), (right, "overconfidence")):
                values = report[part][name]["by_step"][what]
                there = [(t, v) for t, v in enumerate(values, 1) if v is not None]
                marker = "o" if len(there) < 40 else None
                axis.plot(*zip(*there, strict=True), color=colour, label=name, marker=marker, markersize=3.5)
                axis.set_xlabel("samples seen")
        left.set_ylim(0)
        left.legend()
        write_png(figure, path)


def trigger_png(report: dict[str, Any], path: str | Path) -> None:
    """Accuracy against earliness: what could be had, and what was taken.

    report: of a `Trigger`. Raises InputError without matplotlib, and for a path that cannot be written.
    """
    with styled():
        figure = figure_of(WIDTH / 1.6, HEIGHT)
        axis = figure.subplots()
        axis.set_title("What waiting buys")
        axis.set_xlabel("earliness: share of the sequence waited for")
        axis.set_ylabel("accuracy")
        if points := report.get("pareto"):
            x, y = ([p[name] for p in points] for name in ("earliness", "accuracy"))
            axis.plot(x, y, color=BEFORE, marker="o", markersize=3.5, label="what could be had")
        taken = report.get("cross_validated") or report["on_its_own_data"]
        marks = [(f"this trigger: {report['family']}", taken, "*", COLOURS[0])]
        marks += [
            (name.replace("_", " "), score, "s", COLOURS[1 + i])
            for i, (name, score) in enumerate(report["beside"].items())
        ]
        for name, score, marker, colour in marks:
            size = 13 if marker == "*" else 6
            place = [score["earliness"]], [score["accuracy"]]
            axis.plot(*place, color=colour, marker=marker, markersize=size, linestyle="", label=name)
        axis.plot(
            [taken["oracle_earliness"]],
            [taken["accuracy_at_end"]],
            color=COLOURS[3],
            marker="D",
            markersize=6,
            linestyle="",
            label="an oracle",
        )
        axis.set_xlim(0, 1.02)
        axis.legend()
        write_png(figure, path)
