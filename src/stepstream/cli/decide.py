"""`stepstream decide MODEL DATA`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from stepstream.cli import calibrate as calibrating
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
from stepstream.formats.bundle import target
from stepstream.learn import plotting
from stepstream.learn.calibration import calibrate
from stepstream.learn.decision_rules import Cost
from stepstream.learn.kinds import about
from stepstream.learn.report_plots import trigger_png
from stepstream.learn.trigger import fit_trigger
from stepstream.learn.words import counted, fixed

FIGURES = {"cost": "cost", "accuracy": "accuracy", "earliness": "earliness", "harmonic_mean": "harmonic"}


@app.command()
def decide(
    model: ModelArgument,
    data: DataArgument,
    out: Annotated[Path, typer.Option(help="The model with its trigger: a .stepstream file.", show_default=False)],
    key: KeyOption = None,
    time: TimeOption = None,
    label: LabelOption = None,
    stream: StreamOption = None,
    features: FeaturesOption = None,
    classes: ClassesOption = None,
    header: HeaderOption = True,
    delimiter: DelimiterOption = None,
    held_out: Annotated[Path | None, typer.Option(help="More data, as DATA, to score the decisions on.")] = None,
    calibrated: Annotated[
        bool,
        typer.Option(
            "--calibrate", help="Calibrate first, and learn from what calibrations say of data that they have not seen."
        ),
    ] = False,
    cost_error: Annotated[float, typer.Option(help="What a wrong decision costs.")] = 1.0,
    cost_delay: Annotated[
        float, typer.Option(help="What waiting for the training length, else the longest sequence, costs.")
    ] = 0.25,
    family: Annotated[
        str,
        typer.Option(
            help='auto (the cheapest of the next three), threshold, "stopping rule", "expected cost" or "accuracy gap".'
        ),
    ] = "auto",
    k: Annotated[
        int | None, typer.Option("--in-a-row", min=1, help="Samples in a row that have to speak for the same class.")
    ] = None,
    revocable: Annotated[bool, typer.Option("--revocable", help="A decision holds while its reason does.")] = False,
    alpha: Annotated[float, typer.Option(help="accuracy gap: what may be lost against waiting for the end.")] = 0.05,
    delta: Annotated[float, typer.Option(help="accuracy gap: how improbable it may be that more is.")] = 0.1,
    folds: Annotated[int, typer.Option(min=2, help="Parts in cross-validation, by stream.")] = 5,
    seed: Annotated[int, typer.Option(min=0, help="Of the division into parts.")] = 0,
    training_length: TrainingLengthOption = None,
    scale: ScaleOption = None,
    architecture: ArchitectureOption = None,
    as_json: JsonOption = False,
    png: Annotated[Path | None, typer.Option(help="Draw accuracy against earliness to this file.")] = None,
) -> None:
    """Learn when to decide, by a model's probabilities on data that it was not trained on; they stay what they are."""
    inputs = {"MODEL": model, "DATA": data, "--held-out": held_out, "--scale": scale, "--architecture": architecture}
    files.different({**inputs, "--out": out, "--png": png})
    files.writable({"--out": target(out), "--png": png}, files.PICTURES)
    if png is not None:
        plotting.available()
    options = (
        key,
        time,
        label,
        stream,
        features,
        classes,
        "sequence" if label is not None else None,
        False,
        header,
        delimiter,
    )
    loaded, more = read_data(data, *options), None if held_out is None else read_data(held_out, *options)
    chosen, probabilities = load_model(model, training_length, scale, architecture), None
    if calibrated:
        calibration = calibrate(chosen, loaded, folds=folds, held_out=more, seed=seed)
        chosen, probabilities = calibration.model, calibration.probabilities
    trigger = fit_trigger(
        chosen,
        loaded,
        family=family,
        cost=Cost(cost_error, cost_delay),
        k=k,
        latched=not revocable,
        folds=folds,
        probabilities=probabilities,
        alpha=alpha,
        delta=delta,
        seed=seed,
    )
    report = trigger.report
    if more is not None:
        with about("--held-out"):
            report = {**report, "held_out": trigger.score(more).to_dict()}
    trigger.model.save(out, reports={"trigger": report})
    if png is not None:
        trigger_png(report, png)
    if as_json:
        print_json({**report, "calibration": calibration.report} if calibrated else report)
        return
    if calibrated:
        calibrating.show(calibration.report)
        console().print()
    show(report)


def show(report: dict[str, Any]) -> None:
    """The report of a trigger for the terminal."""
    out = console()
    settings = "".join(f", {name.replace('_', ' ')} {_short(value)}" for name, value in report["settings"].items())
    kind = "the first decision stays" if report["latched"] else "revocable"
    on = f"{counted(report['sequences'], 'sequence')} of {counted(report['streams'], 'stream')}"
    row = "" if report["k"] == 1 else f", {report['k']} samples in a row"
    out.print(report["family"], style="bold", markup=False)
    say(out, f"{kind}{row}{settings}; learned from {on}", "dim")
    if "guarantee" in report:
        g = report["guarantee"]
        out.print(
            f"with probability {1 - g['delta']:g} at most {g['alpha']:g} of accuracy is lost against waiting for the "
            f"end; lost on {g['tested_on_streams']} test streams: {fixed(g['gap'], 4)}",
            markup=False,
        )
    table = table_with("", *FIGURES.values(), "kappa", "undecided")
    rows = {name.replace("_", "-"): report.get(name) for name in ("cross_validated", "on_its_own_data", "held_out")}
    rows |= {name.replace("_", " "): score for name, score in report["beside"].items()}
    for name, score in rows.items():
        if score is not None:
            table.add_row(
                name, *(f"{score[f]:.4f}" for f in FIGURES), fixed(score["kappa"], 4), str(score["undecided"])
            )
    taken = report.get("cross_validated") or report["on_its_own_data"]
    oracle = (f"{taken['least_cost']:.4f}", f"{taken['accuracy_at_end']:.4f}", f"{taken['oracle_earliness']:.4f}")
    table.add_row("an oracle", *oracle, "", "", "", style="dim")
    out.print()
    out.print(table)
    for title, rows in (("tried", report.get("tried", [])), ("what could be had", report.get("pareto", []))):
        if rows:
            out.print()
            out.print(_rows(title, rows))
    for line in report["warnings"]:
        say(out, f"! {line}", "yellow")


def _rows(title: str, rows: list[dict[str, Any]]) -> Any:
    table = table_with(title, *FIGURES.values())
    for r in rows:
        others = [f"{k} {v}" for k, v in r.items() if k not in {*FIGURES, "family", "rule", "cost_error"}]
        name = r.get("rule") or ", ".join([r["family"], *others]).replace("_", " ")
        table.add_row(name, *(f"{r[f]:.4f}" for f in FIGURES))
    return table


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
