"""`stepstream state migrate STORE`: the states of one model become those of another."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from stepstream.cli.app import console, print_json
from stepstream.cli.options import ArchitectureOption, JsonOption, ScaleOption, load_model
from stepstream.cli.state import StoreArgument, facts, state_app
from stepstream.errors import InputError


@state_app.command()
def migrate(
    store: StoreArgument,
    to: Annotated[Path, typer.Option(help="The new model, a .keras, .h5 or .stepstream file.", show_default=False)],
    how: Annotated[
        str,
        typer.Option(
            help="reset: begin anew; keep: for new weights, calibration or trigger; replay: the samples that were kept."
        ),
    ],
    before: Annotated[
        Path | None,
        typer.Option("--from", help="The model before; needed for keep, and where the journal is not empty."),
    ] = None,
    windowing: Annotated[str | None, typer.Option(help="With reset: another windowing from now on.")] = None,
    backup: Annotated[
        Path | None, typer.Option(help="Where the store as it was is kept; default: STORE.before-FINGERPRINT.")
    ] = None,
    no_backup: Annotated[bool, typer.Option("--no-backup", help="Keep none.")] = False,
    scale: ScaleOption = None,
    architecture: ArchitectureOption = None,
    from_scale: Annotated[Path | None, typer.Option(help="--scale of the model before.")] = None,
    from_architecture: Annotated[Path | None, typer.Option(help="--architecture of the model before.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Bring a store to another model: all streams of it, or none, over a crash too. For a store that no engine has: a
    Redis store is taken from the engine that has it.
    """
    from stepstream.live import migration  # imports databases

    if no_backup and backup is not None:
        raise InputError(f"--backup: expected none beside --no-backup, got {backup}")
    new = load_model(to, None, scale, architecture)
    old = None if before is None else load_model(before, None, from_scale, from_architecture)
    with _progress() as progress:
        done = migration.migrate(store, new, how, old, windowing, backup or not no_backup, progress)
    if as_json:
        print_json({**vars(done), "backup": None if done.backup is None else str(done.backup)})
        return
    pairs = {"model": new.fingerprint, "streams": f"{done.streams:,}"}
    if how == "replay":
        pairs["exact"] = f"{done.exact:,}, whose kept samples reach back to where their states begin"
        pairs["not exact"] = f"{done.streams - done.exact:,}, which begin with the samples that were kept"
    if done.ended:
        pairs["ended"] = f"{done.ended:,}, whose numbers are kept"
    pairs["backup"] = "none" if done.backup is None else str(done.backup)
    facts(pairs)


@contextmanager
def _progress() -> Iterator[Callable[[int, int], object]]:
    """A bar on a terminal."""
    err = console(err=True)
    if not err.is_terminal:
        yield lambda done, total: None
        return
    looks = TextColumn("streams"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
    with Progress(*looks, console=err, transient=True) as bar:
        task = bar.add_task("streams", total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)
