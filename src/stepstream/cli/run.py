"""`stepstream run MODEL [INPUT]`: records in, one line with the model's answer out for each."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from time import monotonic
from types import FrameType
from typing import Annotated

import typer
from rich.console import Console

from stepstream.cli import position, sink
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
from stepstream.cli.watch import Watch, progress
from stepstream.errors import InputError


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
    state: Annotated[Path | None, typer.Option(help="State file: go on from it, and save to it.")] = None,
    out: Annotated[Path | None, typer.Option(help="Write to this file instead of standard output.")] = None,
    on_bad: Annotated[str, typer.Option(help="stop or skip at a record that cannot be used.")] = "stop",
    delimiter: Annotated[str, typer.Option(help="CSV delimiter.")] = ",",
    header: Annotated[bool, typer.Option("--header/--no-header", help="Columns are 0, 1, ... without.")] = True,
    training_length: TrainingLengthOption = None,
    scale: ScaleOption = None,
    architecture: ArchitectureOption = None,
    watch: Annotated[bool, typer.Option("--watch", help="Show the streams live, on standard error.")] = False,
    as_json: JsonOption = False,
    save_every: Annotated[float, typer.Option(min=0, help="Seconds between two savings of the state.")] = 5.0,
) -> None:
    """Give the model's answer after every record; Ctrl-C and SIGTERM save the state."""
    if on_bad not in {"stop", "skip"}:
        raise InputError(f"--on-bad: expected stop or skip, got {on_bad!r}")
    delimiter = "\t" if delimiter == r"\t" else delimiter
    if len(delimiter) != 1:
        raise InputError(f"--delimiter: expected one character, got {delimiter!r}")
    read = {"MODEL": model, "INPUT": input, "--scale": scale, "--architecture": architecture}
    _different_files({**read, "--state": state, "--out": out})
    loaded = load_model(model, training_length, scale, architecture)
    if state is not None:
        position.check_state(state)
    stop = _Stop()
    source = open_rows(input, delimiter, header, stopped=lambda: stop.code is not None, whole_lines=state is not None)
    again = input if source.size is not None else None  # a file can be read again, a pipe cannot
    job = Job(loaded, source, windowing, Meaning(features, key, time, end, header), on_bad == "skip")
    before = job.resume(state, again) if state is not None and state.exists() else None
    view = Watch(Console(stderr=True), source.name) if watch else None
    quiet = view is not None and out is None and sys.stdout.isatty()
    columns = [] if quiet else job.columns
    with stop.listening(), sink.opened(out, before, as_json, columns) as answers, progress(source, view) as advance:
        saved = monotonic()
        try:
            for answer in job.answers():
                if not quiet:
                    answers.write(answer)
                if view is not None:
                    view.add(answer["key"] or "stream", *job.newest)
                if state is not None and monotonic() - saved >= save_every:
                    job.save(state, again, answers.position())
                    saved = monotonic()
                advance()
                if stop.code is not None and again is not None:
                    break  # a pipe ends by itself, after the lines in hand
        finally:
            if answers.failed and not answers.is_file:
                job.take_back()  # each line to a pipe goes out at once, so this is the only one that did not
            # of a file nobody knows how much was written; the next run goes on from the state saved before
            if state is not None and not (answers.failed and answers.is_file):
                job.save(state, again, answers.position())
            if job.skipped:
                print(f"stepstream: {job.skipped} records skipped", file=sys.stderr)
    raise typer.Exit(stop.code or 0)


def _different_files(paths: Mapping[str, Path | None]) -> None:
    """No file is read and written in one run, nor written twice."""
    seen: dict[Path, str] = {}
    for name, path in paths.items():
        if path is not None and (other := seen.setdefault(path.resolve(), name)) != name:
            raise InputError(f"{name}: expected another file than that of {other}, got {path} for both")


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
