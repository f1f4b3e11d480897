"""`stepstream run MODEL [INPUT]`: records in, one line with the model's answer out for each."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import os
import signal
import stat
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext, suppress
from datetime import datetime
from pathlib import Path
from time import monotonic
from types import FrameType
from typing import IO, Annotated, Any

import numpy as np
import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from stepstream.cli.app import app
from stepstream.cli.options import JsonOption, ModelArgument, ScaleOption, TrainingLengthOption, load_model
from stepstream.cli.rows import Record, Source, open_rows, seconds
from stepstream.cli.watch import Watch
from stepstream.errors import InputError, StateError
from stepstream.live import snapshot
from stepstream.live.stream import Stream
from stepstream.live.windowing import Windowing
from stepstream.model import Model

BAR_FROM_BYTES = 2**20
FLOAT32_MAX = float(np.finfo(np.float32).max)
HEAD_BYTES = 4096  # enough of an input to know it again
_TRUE = {"1", "true", "t", "yes", "y"}
_FALSE = {"0", "false", "f", "no", "n", ""}


@app.command()
def run(
    model: ModelArgument,
    input: Annotated[
        Path | None, typer.Argument(help="CSV, JSON Lines or Parquet file (.gz too); default: standard input.")
    ] = None,
    features: Annotated[str | None, typer.Option(help="Feature columns, in the model's order, by commas.")] = None,
    key: Annotated[str | None, typer.Option(help="Column that says which stream a record belongs to.")] = None,
    time: Annotated[str | None, typer.Option(help="Column with ISO 8601 (naive: UTC) or epoch seconds.")] = None,
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
    _different_files({"MODEL": model, "INPUT": input, "--state": state, "--out": out, "--scale": scale})
    loaded = load_model(model, training_length, scale)
    stop = _Stop()
    source = open_rows(input, delimiter, header, stopped=lambda: stop.code is not None)
    again = input if source.size is not None else None  # a file can be read again, a pipe cannot
    job = _Job(loaded, source, windowing, features, key, time, end, on_bad == "skip")
    done = job.resume(state, again, out)
    view = Watch(Console(stderr=True), source.name) if watch else None
    quiet = view is not None and out is None and sys.stdout.isatty()
    columns = [] if quiet else job.columns
    with stop.listening(), _writer(out, done, as_json, columns) as sink, _progress(source, view) as advance:
        saved = monotonic()
        try:
            for answer in job.answers():
                if not quiet:
                    sink.write(answer)
                if view is not None:
                    view.add(answer["key"] or "stream", *job.newest)
                if state is not None and monotonic() - saved >= save_every:
                    job.save(state, again, sink.position())
                    saved = monotonic()
                advance()
                if stop.code is not None:
                    break
        finally:
            # an answer that could not be written is not in the saved state, so that the next run gives it
            if state is not None and not sink.failed:
                job.save(state, again, sink.position())
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
    """SIGINT and SIGTERM ask for an end after the record in hand."""

    def __init__(self) -> None:
        self.code: int | None = None

    def _ask(self, number: int, _: FrameType | None) -> None:
        self.code = 128 + number

    @contextmanager
    def listening(self) -> Iterator[None]:
        before = {s: signal.signal(s, self._ask) for s in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


class _Job:
    """The streams of one run and how far the input was read."""

    def __init__(
        self, model: Model, source: Source, windowing: str, features: str | None,
        key: str | None, time: str | None, end: str | None, skip: bool,
    ) -> None:  # fmt: skip
        self.model, self.source, self.skip = model, source, skip
        self.key, self.time, self.end = key, time, end
        self.features = [f.strip() for f in features.split(",")] if features else None
        first = model.stream(windowing)
        self.windowing: Windowing = first.windowing
        self._first = first
        self.streams: dict[str, Stream] = {}
        self.records = self.skipped = 0
        self._columns_known = False
        names = [
            name if size == 1 else f"{name}_{i}"
            for name, size in zip(model.output_names, model.output_sizes, strict=True)
            for i in range(size)
        ]
        taken = {"key", "time", "age", "complete", "beyond_training_length"}
        names = [f"output_{name}" if name in taken else name for name in names]
        self.columns = ["key", "time", "age", *names, "complete", "beyond_training_length"]
        self.newest: tuple[float, int | None, bool, bool] = (0.0, 0, False, False)

    def resume(self, state: Path | None, input: Path | None, out: Path | None) -> int | None:
        """Take up the saved streams; skip the part of the input that they have seen. Returns bytes of output done."""
        if state is None or not state.exists():
            return None
        states, position = snapshot.load_streams(state, self.model, self.windowing)
        for key, value in states.items():
            self._stream(key).restore(value)
        if input is None:
            return None
        if position.get("input") != _head(input, position.get("head", 0)):
            print(f"stepstream: {state} is of another input: its streams go on with {input}", file=sys.stderr)
            return None
        for self.records in range(1, position["records"] + 1):
            if next(self.source.records, None) is None:
                raise StateError(f"{state}: expected {position['records']} records in {input}, got {self.records - 1}")
        self.skipped = 0
        return position["out"] if out is not None else None

    def save(self, state: Path, input: Path | None, written: int) -> None:
        position = {"records": self.records, "out": written}
        if input is not None:
            head = min(HEAD_BYTES, input.stat().st_size)
            position |= {"head": head, "input": _head(input, head)}
        states = {key: stream.snapshot() for key, stream in self.streams.items()}
        snapshot.save_streams(state, self.model, self.windowing, states, position)

    def answers(self) -> Iterator[dict[str, Any]]:
        """The output row of each record that could be used."""
        for record in self.source.records:
            if record.table and not self._columns_known:
                self._check_columns(record.fields)  # not a matter of one bad record
            try:
                row = self._answer(record)
            except InputError as e:
                message = f"{self.source.name}, line {record.line}: {e}"
                if not self.skip:
                    raise InputError(message) from e
                print(f"stepstream: skipped {message}", file=sys.stderr)
                self.skipped += 1
                self.records += 1
                continue
            self.records += 1
            yield row

    def _stream(self, key: str) -> Stream:
        if key not in self.streams:
            self.streams[key] = self._first.fork()  # keeps "auto" and its one warning
        return self.streams[key]

    def _answer(self, record: Record) -> dict[str, Any]:
        if record.error is not None:
            raise InputError(record.error)
        fields = record.fields
        key = "" if self.key is None else _field(fields, self.key)
        if key is None:
            raise InputError(f"expected a key in {self.key!r}, got none")
        key = str(key)
        written = "" if self.time is None else _field(fields, self.time)
        ended = self.end is not None and _flag(_field(fields, self.end), self.end)
        names = self._feature_columns(fields)
        values = [_number(_field(fields, name), name) for name in names]
        stream = self._stream(key)
        answer = stream.step(values, time=None if self.time is None else seconds(written))
        parts = list(answer.values()) if isinstance(answer, dict) else [answer]
        numbers = np.concatenate([np.atleast_1d(np.float32(p)) for p in parts])
        self.newest = (float(numbers[0]), stream.age, stream.complete, stream.beyond_training_length)
        when = written.isoformat() if isinstance(written, datetime) else str(written)
        row = [key, when, stream.age, *numbers, stream.complete, stream.beyond_training_length]
        if ended:
            stream.reset()
        return dict(zip(self.columns, row, strict=True))

    def _check_columns(self, fields: Mapping[str, Any]) -> None:
        try:
            for name in (self.key, self.time, self.end, *self._feature_columns(fields)):
                if name is not None:
                    _field(fields, name)
        except InputError as e:
            raise InputError(f"{self.source.name}: {e}") from e
        self._columns_known = True

    def _feature_columns(self, fields: Mapping[str, Any]) -> list[str]:
        if self.features is None:
            rest = [n for n in fields if n not in {self.key, self.time, self.end}]
            if len(rest) != self.model.n_features:
                raise InputError(
                    f"expected {self.model.n_features} feature columns, got {rest}; name them with --features"
                )
            self.features = rest
        if len(self.features) != self.model.n_features:
            raise InputError(f"--features: expected {self.model.n_features} columns, got {self.features}")
        return self.features


def _field(fields: Mapping[str, Any], name: str) -> Any:
    if name not in fields:
        raise InputError(f"expected a column {name!r}, got {list(fields)}")
    return fields[name]


def _number(value: Any, name: str) -> float:
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        raise InputError(f"expected a number in {name!r}, got {value!r}") from None
    if not abs(number) <= FLOAT32_MAX:  # NaN too
        raise InputError(f"expected a finite number in {name!r}, within float32, got {value!r}")
    return number


def _flag(value: Any, name: str) -> bool:
    text = "" if value is None else str(value).strip().lower()
    if text not in _TRUE | _FALSE:
        raise InputError(f"expected true or false in {name!r}, got {value!r}")
    return text in _TRUE


def _head(path: Path, size: int) -> int:
    """A number that tells this input from others: a hash of its first bytes."""
    with path.open("rb") as f:
        return int.from_bytes(hashlib.sha256(f.read(size)).digest()[:7], "little")


class _Sink:
    """Rows to a file or a pipe. failed: whether one could not be written."""

    def __init__(self, file: IO[bytes], name: str, columns: list[str], as_json: bool, done: int) -> None:
        self._file, self._name, self._json = file, name, as_json
        self._is_file = file is not sys.stdout.buffer and stat.S_ISREG(os.fstat(file.fileno()).st_mode)
        self._written = done
        self.failed = False
        if columns and not as_json and not done:
            self._line(columns)

    def write(self, row: Mapping[str, Any]) -> None:
        if self._json:
            self._bytes(json.dumps({k: _plain(v) for k, v in row.items()}) + "\n")
        else:
            self._line([_text(v) for v in row.values()])

    def position(self) -> int:
        """Bytes written, which are on the disk now if this is a file."""
        self._flush(to_disk=True)
        return self._written

    def _line(self, cells: list[str]) -> None:
        buffer = io.StringIO()
        csv.writer(buffer, lineterminator="\n").writerow(cells)
        self._bytes(buffer.getvalue())

    def _bytes(self, text: str) -> None:
        data = text.encode()
        with self._noticing():
            self._file.write(data)
        self._written += len(data)
        if not self._is_file:
            self._flush()

    def _flush(self, to_disk: bool = False) -> None:
        with self._noticing():
            self._file.flush()
            if to_disk and self._is_file:
                os.fsync(self._file.fileno())

    @contextmanager
    def _noticing(self) -> Iterator[None]:
        try:
            yield
        except BrokenPipeError:
            self.failed = True
            raise
        except OSError as e:
            self.failed = True
            raise InputError(f"{self._name}: cannot be written: {e.strerror}") from e


def _plain(value: Any) -> Any:
    return float(str(value)) if isinstance(value, np.float32) else value


def _text(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    return "" if value is None else str(value)  # a float32 prints as its shortest exact form


@contextmanager
def _writer(out: Path | None, done: int | None, as_json: bool, columns: list[str]) -> Iterator[_Sink]:
    """Standard output, or a file that is cut back to what the run before had done."""
    if out is None:
        yield _Sink(sys.stdout.buffer, "standard output", columns, as_json, 0)
        return
    try:
        if done is not None and out.exists() and out.stat().st_size < done:
            raise StateError(f"{out}: expected at least {done} bytes from the run before, got {out.stat().st_size}")
        file = out.open("r+b" if done and out.exists() else "wb")
    except OSError as e:
        raise InputError(f"{out}: {e.strerror}") from e
    sink = None
    try:
        if done:
            file.truncate(done)
            file.seek(done)
        sink = _Sink(file, str(out), columns, as_json or out.suffix == ".jsonl", done or 0)
        yield sink
        sink.position()
    finally:
        with suppress(OSError) if sink and sink.failed else nullcontext():  # said already
            file.close()


@contextmanager
def _progress(source: Source, view: Watch | None) -> Iterator[Any]:
    """A view, a bar on long files when a person watches, or nothing."""
    if view is not None:
        with view:
            yield lambda: None
    elif source.size is not None and source.size >= BAR_FROM_BYTES and sys.stderr.isatty():
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.percentage:>3.0f} %"),
            TimeRemainingColumn(),
        )
        with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
            task: TaskID = bar.add_task(source.name, total=source.size)
            yield lambda: bar.update(task, completed=source.consumed())
    else:
        yield lambda: None
