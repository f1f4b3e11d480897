"""`stepstream evaluate MODEL DATA`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from stepstream.cli import files
from stepstream.cli.app import app, console, print_json
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
from stepstream.cli.options import (
    ArchitectureOption,
    JsonOption,
    ModelArgument,
    ScaleOption,
    TrainingLengthOption,
    load_model,
)
from stepstream.errors import InputError
from stepstream.learn import plotting
from stepstream.learn.evaluation import Evaluation
from stepstream.learn.evaluation import evaluate as evaluate_model
from stepstream.learn.evaluation_tables import Section, sections, summary


@app.command()
def evaluate(
    model: ModelArgument,
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
    windowing: Annotated[
        list[str] | None,
        typer.Option(
            help="carry, tumbling(n) or sliding(n), several times for several; default: those that the training length "
            "calls for."
        ),
    ] = None,
    at: Annotated[str | None, typer.Option(help="Numbers of samples seen that get a row, by commas.")] = None,
    train: Annotated[Path | None, typer.Option(help="Training data, as DATA: for class shares and leaks.")] = None,
    training_length: TrainingLengthOption = None,
    scale: ScaleOption = None,
    architecture: ArchitectureOption = None,
    as_json: JsonOption = False,
    markdown: Annotated[Path | None, typer.Option(help="Write all tables to this file as Markdown.")] = None,
    html: Annotated[Path | None, typer.Option(help="Write tables and plots to this file, one page.")] = None,
    png: Annotated[Path | None, typer.Option(help="Write the plots to this file.")] = None,
) -> None:
    """Say what a model is worth at each sample, on your data, for every way to cut a stream; by the kernel that
    serves.
    """
    out = {"--markdown": markdown, "--html": html, "--png": png}
    files.different(
        {"MODEL": model, "DATA": data, "--train": train, "--scale": scale, "--architecture": architecture, **out}
    )
    files.writable(out, {"--markdown": (".md", ".markdown", ".txt"), "--html": (".html", ".htm"), **files.PICTURES})
    if html is not None or png is not None:
        plotting.available()
    loaded = load_model(model, training_length, scale, architecture)
    options = (key, time, label, stream, features, classes, label_per, regression, header, delimiter)
    found = evaluate_model(
        loaded,
        read_data(data, *options),
        windowing,
        None if train is None else read_data(train, *options),
        _numbers(at),
    )
    if markdown is not None:
        _write(markdown, found.to_markdown())
    if html is not None:
        _write(html, found.to_html())
    if png is not None:
        found.save_png(png)
    if as_json:
        print_json(found.to_dict())
    else:
        show(found)


def _numbers(text: str | None) -> list[int] | None:
    if text is None:
        return None
    try:
        return [int(t) for t in text.split(",")]
    except ValueError:
        raise InputError(f"--at: expected whole numbers separated by commas, got {text!r}") from None


def _write(path: Path, text: str) -> None:
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as e:
        raise InputError(f"{path}: {e.strerror or e}") from e


def show(evaluation: Evaluation) -> None:
    """Findings and tables for the terminal."""
    from rich.padding import Padding
    from rich.text import Text

    out = console()
    for line in summary(evaluation):
        out.print(line, style="dim", markup=False)
    out.print()
    for f in evaluation.findings:
        out.print(Padding(Text.assemble(("! ", "bold yellow"), f.words), (0, 0, 0, 0)))
        out.print(Padding(Text.assemble(("remedy: ", "bold"), f.remedy), (0, 0, 0, 2)))
    if not evaluation.findings:
        out.print("nothing conspicuous", style="green")
    left_out: dict[str, None] = {}
    for section in sections(evaluation, brief=True):
        shown = section.fitting(out.width)
        left_out |= dict.fromkeys(c for c in section.columns if c not in shown.columns)
        out.print()
        out.print(section.title, style="bold", markup=False)
        if section.note:
            out.print(section.note, style="dim", markup=False)
        out.print(_table(shown))
    if left_out:
        out.print()
        out.print(f"a wider terminal, --html and --json have {', '.join(left_out)} too", style="dim", markup=False)


def _table(section: Section):  # type: ignore[no-untyped-def]  # Rich is imported when it is needed
    from rich.box import SIMPLE_HEAD
    from rich.table import Table
    from rich.text import Text

    table = Table(box=SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 1, 0, 0), header_style="bold cyan")
    words = section.columns[-1] == "that is"
    for i, column in enumerate(section.columns):
        last = words and i == len(section.columns) - 1
        table.add_column(Text(column), justify="left" if i == 0 or last else "right", no_wrap=not last)
    for i, row in enumerate(section.rows):
        if i in section.marks:
            table.add_section()
        table.add_row(*map(Text, row))
    return table
