"""`stepstream calibrate MODEL DATA`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from stepstream.cli import files
from stepstream.cli.app import app, console, print_json, say, table_with
from stepstream.cli.data_options import (
    ClassesOption,
    DataArgument,
    DelimiterOption,
    FeaturesOption,
    HeaderOption,
    KeyOption,
    LabelOption,
    LabelPerOption,
    StreamOption,
    TimeOption,
    read_data,
)
from stepstream.cli.options import (
    ArchitectureOption,
    JsonOption,
    ModelArgument,
    ScaleOption,
    TrainingLengthOption,
    load_model,
)
from stepstream.errors import InputError
from stepstream.formats.bundle import target
from stepstream.learn import plotting
from stepstream.learn.calibration import IDENTITY
from stepstream.learn.calibration import calibrate as calibrate_model
from stepstream.learn.report_plots import calibration_png
from stepstream.learn.words import counted, fixed


@app.command()
def calibrate(
    model: ModelArgument,
    data: DataArgument,
    out: Annotated[Path, typer.Option(help="The calibrated model: a .stepstream file.", show_default=False)],
    key: KeyOption = None,
    time: TimeOption = None,
    label: LabelOption = None,
    stream: StreamOption = None,
    features: FeaturesOption = None,
    classes: ClassesOption = None,
    label_per: LabelPerOption = None,
    header: HeaderOption = True,
    delimiter: DelimiterOption = None,
    held_out: Annotated[Path | None, typer.Option(help="More data, as DATA, to show before and after on.")] = None,
    method: Annotated[
        str, typer.Option(help='auto, identity, temperature, "temperature by step" or isotonic.')
    ] = "auto",
    windowing: Annotated[
        str, typer.Option(help="How the model will be served: carry, tumbling(n) or sliding(n).")
    ] = "carry",
    folds: Annotated[int, typer.Option(min=2, help="Parts in cross-validation, by stream.")] = 5,
    seed: Annotated[int, typer.Option(min=0, help="Of the division into parts.")] = 0,
    training_length: TrainingLengthOption = None,
    scale: ScaleOption = None,
    architecture: ArchitectureOption = None,
    as_json: JsonOption = False,
    png: Annotated[Path | None, typer.Option(help="Draw before and after, by samples seen, to this file.")] = None,
) -> None:
    """Calibrate a model's probabilities by samples seen, on data that it was not trained on."""
    inputs = {"MODEL": model, "DATA": data, "--held-out": held_out, "--scale": scale, "--architecture": architecture}
    files.different({**inputs, "--out": out, "--png": png})
    files.writable({"--out": target(out), "--png": png}, files.PICTURES)
    if png is not None:
        plotting.available()
    options = (key, time, label, stream, features, classes, label_per, False, header, delimiter)
    loaded, more = read_data(data, *options), None if held_out is None else read_data(held_out, *options)
    if png is not None and more is None and len(set(loaded.streams)) < 2:
        raise InputError("--png: expected --held-out too, as data of one stream leave nothing to validate and to draw")
    found = calibrate_model(
        load_model(model, training_length, scale, architecture),
        loaded,
        method=method,
        folds=folds,
        held_out=more,
        windowing=windowing,
        seed=seed,
    )
    found.save(out)
    if png is not None:
        calibration_png(found.report, png)
    if as_json:
        print_json(found.report)
    else:
        show(found.report)


def show(report: dict[str, Any]) -> None:
    """The report of a calibration for the terminal."""
    out = console()
    at = ", ".join(f"{value:.3g} at sample {t}" for t, value in report["temperature"].items())
    on = f"{counted(report['sequences'], 'sequence')} of {counted(report['streams'], 'stream')}"
    out.print(report["method"], style="bold", markup=False)
    how = "the probabilities stay as they are" if report["method"] == IDENTITY else f"temperature {at}"
    say(out, f"{how}; learned from {on}", "dim")
    for part in ("cross_validated", "held_out"):
        if part not in report:
            continue
        found = report[part]
        table = table_with(part.replace("_", "-"), "before", "after")
        for name in ("log_loss", "brier", "calibration_error"):
            table.add_row(name.replace("_", " "), *(f"{found[when][name]:.4f}" for when in ("before", "after")))
        n = report["length"]
        for t in sorted({1, max(1, n // 4), max(1, n // 2), n}):
            losses = [found[when]["by_step"]["log_loss"][t - 1] for when in ("before", "after")]
            if None not in losses:
                table.add_row(f"log loss at sample {t}", *(f"{v:.4f}" for v in losses))
        out.print()
        out.print(table)
        how = "higher" if fixed(found["gain"], 4).startswith("-") else "lower"
        out.print(f"log loss is {how} by {fixed(abs(found['gain']), 4)}{_error(found['gain_error'])}", markup=False)
    if len(report["tried"]) > 1:
        table = table_with("tried", "log loss", "gain", "±")
        for t in report["tried"]:
            numbers = (t["log_loss"], t["gain"], t["gain_error"])
            table.add_row(t["method"], *("" if v is None else fixed(v, 4) for v in numbers))
        out.print()
        out.print(table)
    for line in report["warnings"]:
        say(out, f"! {line}", "yellow")


def _error(value: float | None) -> str:
    return "" if value is None else f" ± {value:.4f}"
