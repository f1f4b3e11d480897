"""The entry point: all commands, and the way that errors end. Exit 0 done, 1 "no", 2 error."""

from __future__ import annotations

import os
import sys
import warnings
from typing import Any

from stepstream.cli import (
    bench,
    bundle,
    calibrate,
    check,
    decide,
    demo,
    evaluate,
    run,
    state,
    state_migrate,
    state_store,
    train,
    verify,
)
from stepstream.cli.app import app
from stepstream.errors import InputError, StepstreamError

LEARNING = (train, evaluate, calibrate, decide, bundle)
COMMANDS = (bench, check, demo, run, state, state_migrate, state_store, verify, *LEARNING)  # importing one adds it


def main() -> None:
    """Entry point of the `stepstream` script."""
    if sys.stderr is None:  # closed by the caller; print() would take standard output in its place
        sys.stderr = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115
    warnings.showwarning = _show_warning
    sys.exit(_status())


def _status() -> int | str | None:
    try:
        if sys.stdout is None:
            raise InputError("expected an open standard output, got a closed one")
        try:
            app()
        finally:
            sys.stdout.flush()  # an error here is an error, not a remark when Python ends
    except SystemExit as e:
        return (
            0 if isinstance(e.__context__, BrokenPipeError) else e.code
        )  # Typer ends with 1 where the reader has gone
    except BrokenPipeError:
        _drop_output()
        return 0
    except (StepstreamError, OSError) as e:
        print(f"stepstream: {e}", file=sys.stderr)
        _drop_output()
        return 2
    return 0


def _drop_output() -> None:
    """Keep what standard output did not take from failing again when Python ends."""
    if sys.stdout is not None:
        try:
            sys.stdout.flush()
        except OSError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _show_warning(message: Warning | str, category: type[Warning], *_: Any, **__: Any) -> None:
    print(f"stepstream: warning: {message}", file=sys.stderr)
