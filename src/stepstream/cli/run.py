"""`stepstream run MODEL [INPUT]`: records in, one line with the model's answer out for each."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Annotated

import typer
from rich.console import Console

from stepstream.cli import files, position, sink
from stepstream.cli.app import app
from stepstream.cli.job import Job, Meaning
from stepstream.cli.options import (
    ArchitectureOption,
    JsonOption,
    ModelArgument,
    ScaleOption,
    TrainingLengthOption,
    load_model,
)
from stepstream.cli.rows import open_rows
from stepstream.cli.sink import Row
from stepstream.cli.watch import Watch, progress
from stepstream.errors import InputError
from stepstream.stores.opening import is_address
from stepstream.stores.sqlite import DURABILITIES, Durability


@app.command()
def run(
    model: ModelArgument,
    input: Annotated[
        Path | None, typer.Argument(help="CSV, JSON Lines or Parquet file (.gz too); default: standard input.")
    ] = None,
    features: Annotated[str | None, typer.Option(help="Feature columns, in the model's order, by commas.")] = None,
    key: Annotated[str | None, typer.Option(help="Column that says which stream a record belongs to.")] = None,
    time: Annotated[
        str | None,
        typer.Option(help="Column of times: ISO 8601 with dashes (naive: UTC), or a number of epoch seconds."),
    ] = None,
    end: Annotated[
        str | None, typer.Option(help="Column that is true on a stream's last record: reset after it.")
    ] = None,
    windowing: Annotated[str, typer.Option(help="auto, carry, tumbling(n), sliding(n) or session(gap).")] = "auto",
    state: Annotated[
        str | None,
        typer.Option(help="Store of the streams: go on from it, and keep them in it. A path, or redis://..."),
    ] = None,
    durability: Annotated[
        str | None,
        typer.Option(
            help="Of --state. sync: an answer means it is on the disk; interval: within a second; none: some time, and "
            "where the machine stops before, the next run may refuse --out."
        ),
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Write to this file instead of standard output.")] = None,
    on_bad: Annotated[str, typer.Option(help="stop or skip at a record that cannot be used.")] = "stop",
    delimiter: Annotated[str, typer.Option(help="CSV delimiter.")] = ",",
    header: Annotated[bool, typer.Option("--header/--no-header", help="Columns are 0, 1, ... without.")] = True,
    training_length: TrainingLengthOption = None,
    scale: ScaleOption = None,
    architecture: ArchitectureOption = None,
    watch: Annotated[bool, typer.Option("--watch", help="Show the streams live, on standard error.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Give the model's answer after every record; Ctrl-C, SIGTERM and a crash lose none with --state."""
    if on_bad not in {"stop", "skip"}:
        raise InputError(f"--on-bad: expected stop or skip, got {on_bad!r}")
    delimiter = "\t" if delimiter == r"\t" else delimiter
    if len(delimiter) != 1:
        raise InputError(f"--delimiter: expected one character, got {delimiter!r}")
    kept = _durability(durability, state)
    path = None if state is None or is_address(state) else Path(state)
    read = {"MODEL": model, "INPUT": input, "--scale": scale, "--architecture": architecture}
    files.different({**read, "--state": path, "--out": out})
    loaded = load_model(model, training_length, scale, architecture)
    if path is not None:
        position.check_state(path)
    stop = _Stop()
    source = open_rows(input, delimiter, header, stopped=lambda: stop.code is not None, whole_lines=state is not None)
    again = input if source.size is not None else None  # a file can be read again, a pipe cannot
    job = Job(loaded, source, windowing, Meaning(features, key, time, end, header), on_bad == "skip")
    new = state is None or (path is not None and not path.exists())
    if new and again is not None:
        job.look()
    view = Watch(Console(stderr=True), source.name, decides=loaded.decides) if watch else None
    quiet = view is not None and out is None and sys.stdout.isatty()
    columns = [] if quiet else job.columns
    with job.open(state, kept):
        before = None if state is None else job.resume(state, again)
        if not new and again is not None:
            job.look()  # behind the options of the run before, which say more
        with stop.listening(), sink.opened(out, before, as_json, columns) as answers, progress(source, view) as advance:

            def give(rows: Sequence[Row]) -> Mapping[str, int]:
                if not quiet:
                    answers.write(rows)
                if view is not None:
                    for key, _, age, first, *others, complete, beyond in rows:
                        decision = others[-1] if loaded.decides else None
                        shown = "" if decision is None else str(decision)
                        view.add(key or "stream", float(first), age, complete, beyond, shown)
                return answers.position(on_disk=kept != "none") if state is not None else {}

            try:
                job.begin(give)
                for batch in job.batches():
                    job.step(batch, give)
                    advance()
                    if stop.code is not None and again is not None:
                        break  # a pipe ends by itself, after the lines in hand
            finally:
                if job.skipped:
                    print(f"stepstream: {job.skipped} records skipped", file=sys.stderr)
    raise typer.Exit(stop.code or 0)


def _durability(given: str | None, state: str | None) -> Durability | None:
    if given is None:
        return None
    if state is None:
        raise InputError(f"--durability {given}: expected --state too, got none; without it nothing is kept")
    for known in DURABILITIES:
        if given == known:
            return known
    raise InputError(f"--durability: expected {', '.join(DURABILITIES)}, got {given!r}")


class _Stop:
    """SIGINT and SIGTERM ask for an end after the records in hand; a second one ends the process at once.

    The first cannot end a write to a pipe that nobody reads.
    """

    def __init__(self) -> None:
        self.code: int | None = None

    def _ask(self, number: int, _: FrameType | None) -> None:
        if self.code is not None:
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
        self.code = 128 + number

    @contextmanager
    def listening(self) -> Iterator[None]:
        before = {s: signal.signal(s, self._ask) for s in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
