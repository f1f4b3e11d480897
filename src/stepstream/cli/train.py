"""`stepstream train DATA`."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from stepstream.cli import files
from stepstream.cli.app import app, console, print_json
from stepstream.cli.data_options import (
    ClassesOption,
    DataArgument,
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
from stepstream.cli.options import JsonOption
from stepstream.errors import InputError
from stepstream.formats.files import regular_file
from stepstream.learn.cross_validation import Sweep, sweep
from stepstream.learn.guards import Finding, leaks
from stepstream.learn.learner import Row
from stepstream.learn.recipe import Recipe
from stepstream.learn.training import Training, places
from stepstream.learn.training import train as train_model

MAX_RECIPE_BYTES = 2**20  # a few hundred bytes, and the weights of a thousand classes by name
DEFAULT = Recipe()


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
    recipe: Annotated[Path | None, typer.Option(help="JSON file of settings; the options below go over it.")] = None,
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
    find: Annotated[bool, typer.Option("--sweep", help="Choose loss, noise and epochs by cross-validation.")] = False,
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
    files.different({"DATA": data, "--recipe": recipe, "--out": out, "--keras": keras})
    if out is None and keras is None:
        raise InputError("expected a place for the model, got none; give --out, --keras or both")
    _, beside = places(out, keras)
    files.different({"DATA": data, "--recipe": recipe, "the Keras model": beside})
    if find and validation is not None:
        raise InputError("--validation: expected none beside --sweep, which trains on all data in the end")
    given = {
        "cell": cell, "units": None if units is None else _units(units), "dropout": dropout, "rate": rate,
        "decay": decay, "epochs": epochs, "batch": batch, "loss": loss, "noise": noise, "prefixes": prefixes,
        "window": window, "state_passing": state_passing, "truncated": truncated, "patience": patience, "seed": seed,
        "class_weights": "balanced" if balanced else None,
    }  # fmt: skip
    settings = {**(_read(recipe).to_dict() if recipe else {}), **{k: v for k, v in given.items() if v is not None}}
    chosen = Recipe(**settings)
    loaded = read_data(data, key, time, label, stream, features, classes, label_per, regression, header)
    err = console(err=True)
    found = None
    told: set[str] = set()

    def tell_finding(finding: Finding) -> None:
        if str(finding) not in told:
            err.print(str(finding), markup=False, soft_wrap=True)
        told.add(str(finding))

    if find:
        for finding in leaks(loaded):  # a sweep takes longest of all
            tell_finding(finding)
        with _bar(err, "sweep", None) as tell:
            found = sweep(loaded, chosen, progress=lambda _recipe, _fold, row: tell(row))
        chosen, validation = found.best, None  # all data, as long as was best
    with _bar(err, "train", chosen.epochs) as tell:
        training = train_model(
            loaded, chosen, validation=validation, progress=tell, folder=folder, findings=tell_finding
        )
    training.save(bundle=out, keras=keras)
    if as_json:
        print_json({**training.report, "sweep": None if found is None else found.table()})
    else:
        _show(console(), training, found)


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


def _units(text: str) -> tuple[int, ...]:
    try:
        return tuple(int(n) for n in text.split(","))
    except ValueError as e:
        raise InputError(f"--units: expected whole numbers separated by commas, got {text!r}") from e


@contextmanager
def _bar(err: Console, what: str, epochs: int | None) -> Iterator[Callable[[Row], None]]:
    """A progress bar on a terminal; elsewhere nothing."""
    from rich.progress import Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

    columns = (
        *Progress.get_default_columns()[:-1],
        TimeRemainingColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.fields[now]}"),
    )
    with Progress(*columns, console=err, transient=True, disable=not err.is_terminal) as progress:
        task = progress.add_task(what, total=epochs, now="")

        def tell(row: Row) -> None:
            shown = [
                f"{n} {row[n]:.3f}" for n in ("loss", "validation_loss", "accuracy", "auc") if row.get(n) is not None
            ]
            progress.update(task, advance=1, now=", ".join(shown))

        yield tell


def _show(out: Console, training: Training, found: Sweep | None) -> None:
    from rich.table import Table

    if found is not None:
        out.print(_table(Table, found.table()))
    report = training.report
    data = report["data"]
    out.print(
        f"trained on {data['sequences']:,} sequences, {data['samples']:,} samples, {report['epochs']} epochs, "
        f"{report['seconds']:.0f} s; loss {training.history[-1]['loss']:.3f}",
        soft_wrap=True,
    )
    if report["validation"] is not None:
        row = training.history[report["kept_epoch"] - 1]
        out.print(f"{report['validation']['sequences']:,} held out, epoch {row['epoch']}:", soft_wrap=True)
        names = [n.removeprefix("end_") for n in row if n.startswith("end_")]
        rows = [
            {"samples": what, **{n: row[f"{prefix}{n}"] for n in names}}
            for what, prefix in (("mean", ""), ("last", "end_"))
        ]
        rows[0]["loss"] = row["validation_loss"]
        rows[1]["loss"] = None
        out.print(_table(Table, rows))


def _table(kind: Any, rows: list[Row]) -> Any:
    table = kind(*(n.replace("_", " ") for n in rows[0]), header_style="bold", box=None, pad_edge=False)
    for row in rows:
        table.add_row(*(f"{v:.3f}" if isinstance(v, float) else "" if v is None else str(v) for v in row.values()))
    return table
