"""What all commands share: the application that they add themselves to, and the console."""

from __future__ import annotations

import json
import math
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from stepstream.version import __version__

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


def console(err: bool = False) -> Console:
    """Data goes to stdout plainly, all else to stderr; Rich honours NO_COLOR and a missing terminal."""
    return Console(highlight=False, stderr=err)


def say(out: Console, text: str, style: str = "") -> None:
    """One line; on a terminal wrapped between words, elsewhere left whole for whoever searches it."""
    out.print(text, style=style, markup=False, soft_wrap=not out.is_terminal)


def table_with(*names: str) -> Table:
    """A table whose first column holds keys or names, and whose others hold numbers and times."""
    table = Table(header_style="bold", box=None, pad_edge=False)
    for i, name in enumerate(names):
        table.add_column(name, overflow="fold", no_wrap=i > 0, justify="left" if i == 0 else "right")
    return table


def print_json(data: Any) -> None:
    """JSON for a program. Infinity and NaN are no JSON, so they are null."""
    print(json.dumps(_finite(data), indent=2, allow_nan=False))


def _finite(data: Any) -> Any:
    if isinstance(data, dict):
        return {k: _finite(v) for k, v in data.items()}
    if isinstance(data, list | tuple):
        return [_finite(v) for v in data]
    return None if isinstance(data, float) and not math.isfinite(data) else data


def _version(asked: bool) -> None:
    if asked:
        print(f"stepstream {__version__}")
        raise typer.Exit


VersionOption = Annotated[
    bool, typer.Option("--version", callback=_version, is_eager=True, help="Say which version this is.")
]


@app.callback()
def options(version: VersionOption = False) -> None:
    """Run a trained sequence model on live streams, one sample at a time."""
