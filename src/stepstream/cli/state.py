"""`stepstream state show FILE`."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.markup import escape
from rich.table import Table

from stepstream.cli.app import app, console, print_json
from stepstream.cli.options import JsonOption
from stepstream.live import snapshot

state_app = typer.Typer(no_args_is_help=True, help="Look at saved states.")
app.add_typer(state_app, name="state")
MAX_ROWS = 50


@state_app.callback()
def state() -> None:
    """Look at saved states."""


@state_app.command()
def show(
    file: Annotated[Path, typer.Argument(help="A state file, of one stream or of many.", show_default=False)],
    as_json: JsonOption = False,
) -> None:
    """Say which model and windowing a state belongs to, and what it holds."""
    about = snapshot.describe(file)
    if as_json:
        print_json(about)
        return
    out = console()
    for name, value in about["attributes"].items():
        out.print(f"{name}: {value}", markup=False, soft_wrap=True)
    table = Table("stream", "age", "samples", "last time", header_style="bold", box=None, pad_edge=False)
    for stream in about["streams"][:MAX_ROWS]:
        age = "unknown" if stream["age"] is None else str(stream["age"])
        table.add_row(escape(stream["key"]), age, str(stream["samples"]), _time(stream["time"]))
    out.print(table)
    if len(about["streams"]) > MAX_ROWS:
        out.print(f"and {len(about['streams']) - MAX_ROWS} more; --json has them all")
    for name, norm in about["norms"].items():
        out.print(f"{name}: root mean square {norm:.4g}", markup=False)


def _time(value: Any) -> str:
    if value is None:
        return ""
    try:
        return datetime.fromtimestamp(value, UTC).isoformat()
    except (ValueError, OverflowError, OSError):  # seconds of another count, milliseconds for example
        return f"{value:.15g}"
