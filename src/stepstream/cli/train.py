"""`stepstream train DATA`."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer

from stepstream.cli import calibrate as calibrating
from stepstream.cli import decide as deciding
from stepstream.cli import files
from stepstream.cli.app import app, console, print_json
from stepstream.cli.course import Course, show, table
from stepstream.cli.data_options import (
    ClassesOption,
    DataArgument,
    DelimiterOption,
    FeaturesOption,
    HeaderOption,
    KeyOption,
    LabelOption,
    LabelPerOption,
    RegressionOption,
    StreamOption,
    TimeOption,
    read_data,
)
from stepstream.cli.live_keras import live_keras
from stepstream.cli.options import JsonOption
from stepstream.errors import InputError
from stepstream.formats.files import regular_file
from stepstream.learn import framework
from stepstream.learn.completion import FOLDS, complete, fitting
from stepstream.learn.cross_validation import NOISES, STARTS, sweep
from stepstream.learn.decision_rules import Cost
from stepstream.learn.guards import leaks
from stepstream.learn.recipe import LOSSES, Recipe
from stepstream.learn.training import parts, places
from stepstream.learn.training import train as train_model
from stepstream.model import load

MAX_RECIPE_BYTES = 2**20  # a few hundred bytes, and the weights of a thousand classes by name
DEFAULT, COST = Recipe(), Cost()
TRIED = len(LOSSES) * len(NOISES) + len(STARTS) - 1  # recipes in a sweep, at most


@app.command()
def train(
    data: DataArgument,
    key: KeyOption = None,
    time: TimeOption = None,
    label: LabelOption = None,
    stream: StreamOption = None,
    features: FeaturesOption = None,
    classes: ClassesOption = None,
    label_per: LabelPerOption = None,
    regression: RegressionOption = False,
    header: HeaderOption = True,
    delimiter: DelimiterOption = None,
    recipe: Annotated[Path | None, typer.Option(help="JSON file of settings; the options below go over it.")] = None,
    network: Annotated[
        Path | None,
        typer.Option(
            help="Keras model, .keras or .h5, over scaled samples; its weights are the first ones of the model, but "
            "those trained on parts of the data, by --sweep, --calibrate and --decide, begin with new weights."
        ),
    ] = None,
    cell: Annotated[str | None, typer.Option(help=f"lstm, gru or rnn. \\[default: {DEFAULT.cell}]")] = None,
    units: Annotated[
        str | None, typer.Option(help="Units of each recurrent layer, by commas. \\[default: 32,16]")
    ] = None,
    dropout: Annotated[float | None, typer.Option(help=f"\\[default: {DEFAULT.dropout}]")] = None,
    rate: Annotated[float | None, typer.Option(help=f"Of Adam. \\[default: {DEFAULT.rate}]")] = None,
    decay: Annotated[
        float | None, typer.Option(help=f"Of the rate, inverse time. \\[default: {DEFAULT.decay}]")
    ] = None,
    epochs: Annotated[int | None, typer.Option(help=f"\\[default: {DEFAULT.epochs}]")] = None,
    batch: Annotated[int | None, typer.Option(help=f"Windows, or lanes. \\[default: {DEFAULT.batch}]")] = None,
    loss: Annotated[
        str | None, typer.Option(help=f"At the samples: last, mean, ramp. \\[default: {DEFAULT.loss}]")
    ] = None,
    noise: Annotated[float | None, typer.Option(help="Added to the scaled inputs: its spread. \\[default: 0]")] = None,
    prefixes: Annotated[float | None, typer.Option(help="Share of sequences cut at random. \\[default: 0]")] = None,
    starts: Annotated[
        float | None, typer.Option(help="Share of sequences that begin at a random sample. \\[default: 0]")
    ] = None,
    average: Annotated[
        float | None,
        typer.Option(help=f"Of the running mean of the weights, which is kept. \\[default: {DEFAULT.average}]"),
    ] = None,
    window: Annotated[int | None, typer.Option(help="Cut sequences into windows of n samples.")] = None,
    state_passing: Annotated[
        float | None, typer.Option(help="Share of windows that start from another's last state. \\[default: 0]")
    ] = None,
    truncated: Annotated[
        int | None, typer.Option(help="Carry states through whole streams, back-propagate through n samples.")
    ] = None,
    balanced: Annotated[bool, typer.Option("--balanced", help="Give each class the same weight.")] = False,
    patience: Annotated[
        int | None, typer.Option(help="Stop after n epochs that are no better. \\[default: never]")
    ] = None,
    seed: Annotated[int | None, typer.Option(help=f"\\[default: {DEFAULT.seed}]")] = None,
    validation: Annotated[float | None, typer.Option(help="Share of the streams held out. \\[default: none]")] = None,
    find: Annotated[
        bool, typer.Option("--sweep", help="Choose loss, noise, starts and epochs by cross-validation.")
    ] = False,
    calibrated: Annotated[
        bool,
        typer.Option(
            "--calibrate",
            help=f"Calibrate, by the answers of {FOLDS} models that are trained on parts of the data for the rest.",
        ),
    ] = False,
    decides: Annotated[
        bool, typer.Option("--decide", help="Calibrate, and learn when to decide, by the same answers.")
    ] = False,
    cost_error: Annotated[
        float | None, typer.Option(help=f"Of --decide: what a wrong decision costs. \\[default: {COST.error:g}]")
    ] = None,
    cost_delay: Annotated[
        float | None,
        typer.Option(
            help="Of --decide: what waiting for the training length, else the longest sequence, costs. "
            f"\\[default: {COST.delay:g}]"
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            help="Bundle to write, model.stepstream; without --keras also the Keras model beside it, model.keras. "
            "Files of these names are replaced."
        ),
    ] = None,
    keras: Annotated[Path | None, typer.Option(help="Keras model to write, or to replace, model.keras.")] = None,
    folder: Annotated[Path | None, typer.Option(help="Checkpoints: the same command goes on from there.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Train a model that answers at every sample. Keras runs on JAX, or as KERAS_BACKEND says."""
    if out is None and keras is None:
        raise InputError("expected a place for the model, got none; give --out, --keras or both")
    bundle, beside = places(out, keras)
    name = "--keras" if keras is not None else "the Keras model"
    files.different({"DATA": data, "--recipe": recipe, "--network": network, "--out": bundle, name: beside})
    files.writable({"--out": bundle, name: beside})
    files.folder("--folder", folder)
    if find and validation is not None:
        raise InputError("--validation: expected none beside --sweep, which trains on all data in the end")
    calibrated |= decides
    if calibrated and out is None:
        raise InputError("--calibrate, --decide: expected --out too, got none: a Keras model holds neither")
    costs = {name: value for name, value in (("error", cost_error), ("delay", cost_delay)) if value is not None}
    if costs and not decides:
        raise InputError(f"--cost-{next(iter(costs))}: expected --decide too, got none")
    cost = Cost(**costs) if decides else None
    given = {
        "cell": cell, "units": None if units is None else _units(units), "dropout": dropout, "rate": rate,
        "decay": decay, "epochs": epochs, "batch": batch, "loss": loss, "noise": noise, "prefixes": prefixes,
        "starts": starts, "average": average,
        "window": window, "state_passing": state_passing, "truncated": truncated, "patience": patience, "seed": seed,
        "class_weights": "balanced" if balanced else None,
    }  # fmt: skip
    settings = {**(_read(recipe).to_dict() if recipe else {}), **{k: v for k, v in given.items() if v is not None}}
    chosen = Recipe(**settings)
    course = Course(console(err=True), folder)
    with course.interruptible():
        loaded = read_data(data, key, time, label, stream, features, classes, label_per, regression, header, delimiter)
        # a sweep needs no validation part to stop early: it has its folds
        part, held = parts(loaded, replace(chosen, patience=None) if find else chosen, validation)
        if calibrated:
            fitting(part, chosen, decides)
        own = None if network is None else _network(network)
        course.say_data(part, held)
        found = None
        if find:
            for finding in leaks(loaded):  # a sweep takes longest of all
                course.say(finding)
            with course.stage("sweep", TRIED * FOLDS * chosen.epochs) as tell:
                found = sweep(
                    loaded,
                    chosen,
                    k=FOLDS,
                    network=own,
                    progress=lambda _recipe, _fold, row: tell(row),
                    folder=folder,
                )
            chosen = found.best  # all data, as long as was best
        with course.stage("train", chosen.epochs) as tell:
            training = train_model(
                part, chosen, validation=held, network=own, progress=tell, folder=folder, findings=course.say
            )
        completed = None
        if calibrated:
            epochs = training.report["kept_epoch"]
            with course.stage("calibrate", FOLDS * epochs) as tell:
                completed = complete(
                    training, cost=cost, network=own, progress=lambda _fold, row: tell(row), folder=folder
                )
            training = completed.training
        training.save(bundle=out, keras=keras)
    reports = {}
    if completed is not None:
        reports = {"calibration": completed.calibration.report}
        if completed.trigger is not None:
            reports["trigger"] = completed.trigger.report
    if as_json:
        print_json({**training.report, "sweep": None if found is None else found.table(), **reports})
        return
    out_console = console()
    if found is not None:
        out_console.print(table(found.table(), out_console.width))
    show(out_console, training)
    for title, report, view in (
        ("calibration", reports.get("calibration"), calibrating.show),
        ("decisions", reports.get("trigger"), deciding.show),
    ):
        if report is not None:
            out_console.print(f"\n{title}, by models that had not seen what they answered", style="dim")
            view(report)


def _read(path: Path) -> Recipe:
    try:
        with regular_file(path) as file:
            text = file.read(MAX_RECIPE_BYTES + 1)
        if len(text) > MAX_RECIPE_BYTES:
            raise InputError(f"expected a recipe of at most {MAX_RECIPE_BYTES} bytes, got more")
        return Recipe.from_json(text.decode())
    except OSError as e:
        raise InputError(f"{path}: {e.strerror or e}") from e
    except (UnicodeDecodeError, InputError) as e:
        raise InputError(f"{path}: {e}") from e


def _network(path: Path) -> Any:
    """The file opened by Keras, after our own reader has looked through it."""
    framework.keras()  # on the back end of training
    opened, why = live_keras(load(path), path)
    if opened is None:
        raise InputError(f"--network: expected a file that Keras opens, got {path} ({why})")
    return opened


def _units(text: str) -> tuple[int, ...]:
    try:
        return tuple(int(n) for n in text.split(","))
    except ValueError as e:
        raise InputError(f"--units: expected whole numbers separated by commas, got {text!r}") from e
