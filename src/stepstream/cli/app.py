"""What all commands share: the application that they add themselves to, and the console."""

from __future__ import annotations

import typer
from rich.console import Console

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Run a trained sequence model on live streams, one sample at a time.",
)


def console() -> Console:
    """Data goes to stdout plainly; Rich honours NO_COLOR and a missing terminal."""
    return Console(highlight=False)
