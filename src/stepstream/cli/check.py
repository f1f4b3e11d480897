"""`stepstream check MODEL`."""

from __future__ import annotations

from typing import Annotated

import typer

from stepstream.cli.app import app, console, print_json
from stepstream.cli.options import (
    ArchitectureOption,
    JsonOption,
    ModelArgument,
    ScaleOption,
    TrainingLengthOption,
    load_model,
    names_of,
)
from stepstream.report import COLUMNS, Report


@app.command()
def check(
    model: ModelArgument,
    training_length: TrainingLengthOption = None,
    scale: ScaleOption = None,
    architecture: ArchitectureOption = None,
    features: Annotated[str | None, typer.Option(help="Feature names, separated by commas.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Say what a model is and whether it steps; exit 1 when something is in the way."""
    report = load_model(model, training_length, scale, architecture, names_of("--features", features)).check()
    if as_json:
        print_json(report.to_dict())
    else:
        show(report)
    raise typer.Exit(0 if report.ok else 1)


def show(report: Report) -> None:
    """The report as a Rich table."""
    from rich.markup import escape
    from rich.table import Table

    out = console()
    for line in report.summary():
        out.print(escape(line), soft_wrap=True)
    table = Table(*COLUMNS, header_style="bold", box=None, pad_edge=False)
    blocked = {b.layer for b in report.blockers}
    for row in report.rows:
        cells = [escape(c) for c in row.cells()]
        table.add_row(
            *cells, style="red" if row.layer in blocked else "dim" if not row.state and not row.multiply_adds else ""
        )
    out.print()
    out.print(table)
    out.print()
    out.print(report.verdict(), style="bold green" if report.ok else "bold red")
    for b in report.blockers:
        out.print(f"[bold]{escape(b.layer)}[/] ({escape(b.kind)}): {escape(b.reason)}", soft_wrap=True)
        out.print(f"  remedy: {escape(b.remedy)}", soft_wrap=True)
