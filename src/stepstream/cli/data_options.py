"""Options of commands that read labelled data, and the reading."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from stepstream.cli.options import names_of
from stepstream.learn.data import Sequences
from stepstream.learn.files import read

DataArgument = Annotated[
    Path, typer.Argument(help="CSV (.gz too), Parquet, .npz (X, y) or .ts file with labels.", show_default=False)
]
KeyOption = Annotated[str | None, typer.Option(help="Column that says which sequence a row belongs to.")]
TimeOption = Annotated[str | None, typer.Option(help="Column of times, which must go up within each sequence.")]
LabelOption = Annotated[str | None, typer.Option(help="Column of labels.")]
StreamOption = Annotated[str | None, typer.Option(help="Column that says which sequences continue each other.")]
FeaturesOption = Annotated[
    str | None, typer.Option(help="Feature columns, by commas; default: all other columns of numbers.")
]
ClassesOption = Annotated[str | None, typer.Option(help="Class names in the model's order, by commas.")]
LabelPerOption = Annotated[
    str | None, typer.Option(help="sequence or sample; default: sequence where no label changes within one.")
]
RegressionOption = Annotated[
    bool, typer.Option("--regression", help="Labels are numbers to be predicted, even where they are whole.")
]
HeaderOption = Annotated[bool, typer.Option("--header/--no-header", help="Columns are 0, 1, ... without.")]
DelimiterOption = Annotated[str | None, typer.Option(help="Of CSV; default: a comma, in .tsv files a tabulator.")]


def read_data(
    path: Path,
    key: str | None,
    time: str | None,
    label: str | None,
    stream: str | None,
    features: str | None,
    classes: str | None,
    label_per: str | None,
    regression: bool,
    header: bool,
    delimiter: str | None,
) -> Sequences:
    """`learn.read` with the options as they are written."""
    names: Sequence[str] | None = names_of("--features", features)
    return read(
        path,
        key=key,
        time=time,
        label=label,
        stream=stream,
        features=names,
        classes=names_of("--classes", classes),
        label_per=label_per,
        regression=True if regression else None,
        header=header,
        delimiter="\t" if delimiter == r"\t" else delimiter,
    )
