"""The entry point: all commands, and the way that errors end. Exit 0 done, 1 "no", 2 error."""

from __future__ import annotations

import os
import sys
import warnings
from typing import Any

from stepstream.cli import check, demo, run, state, verify
from stepstream.cli.app import app
from stepstream.errors import StepstreamError

COMMANDS = (check, demo, run, state, verify)  # importing a command adds it


def main() -> None:
    """Entry point of the `stepstream` script."""
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


def _show_warning(message: Warning | str, category: type[Warning], *_: Any, **__: Any) -> None:
    print(f"stepstream: warning: {message}", file=sys.stderr)
