"""The command line's frame: what all commands share, and the way errors end. Exit 0 done, 1 "no", 2 error."""

from __future__ import annotations

import os
import sys
import warnings
from typing import Any

import typer
from rich.console import Console

from stepstream.errors import StepstreamError

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Run a trained sequence model on live streams, one sample at a time.",
)


def main() -> None:
    """Entry point of the `stepstream` script."""
    from stepstream.cli import check, demo, run, state, verify

    assert all((check, demo, run, state, verify))  # importing a command adds it
    warnings.showwarning = _show_warning
    try:
        app()
    except StepstreamError as e:
        print(f"stepstream: {e}", file=sys.stderr)
        sys.exit(2)
    except BrokenPipeError:
        # the reader has gone: no traceback, and no second error when Python flushes at exit
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(0)


def console() -> Console:
    """Data goes to stdout plainly; Rich honours NO_COLOR and a missing terminal."""
    return Console(highlight=False)


def _show_warning(message: Warning | str, category: type[Warning], *_: Any, **__: Any) -> None:
    print(f"stepstream: warning: {message}", file=sys.stderr)
