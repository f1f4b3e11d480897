"""Records from CSV, JSON Lines, Parquet or standard input, one at a time, in bounded memory."""

from __future__ import annotations

import csv
import gzip
import io
import json
import math
import os
import select
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from stepstream.errors import InputError

MAX_LINE_BYTES = 2**20
GZIP_MAGIC = b"\x1f\x8b"  # RFC 1952
POLL_SECONDS = 0.2  # how soon a signal is seen while no line arrives


@dataclass(frozen=True)
class Record:
    """One record: `line` counts from 1 in the file; `error` says why there are no fields.

    table: whether all records have the same columns, as in CSV and Parquet.
    """

    line: int
    fields: Mapping[str, Any]
    error: str | None = None
    table: bool = False


@dataclass(frozen=True)
class Source:
    """records: lazily read. size: bytes of a file, which can be read again; None for a pipe. consumed: of these."""

    name: str
    records: Iterator[Record]
    size: int | None = None
    consumed: Callable[[], int] = int


def open_rows(path: Path | None, delimiter: str, header: bool, stopped: Callable[[], bool]) -> Source:
    """The records of a file, told apart by its name, or of standard input, told apart by its first character.

    Without a header the columns are called "0", "1", ... `stopped` is asked while standard input is silent.
    """
    source = _open(path, delimiter, header, stopped)
    return replace(source, records=_named(source.name, source.records))


def _named(name: str, records: Iterator[Record]) -> Iterator[Record]:
    try:
        yield from records
    except InputError as e:
        raise InputError(f"{name}: {e}") from e


def _open(path: Path | None, delimiter: str, header: bool, stopped: Callable[[], bool]) -> Source:
    if path is None:
        lines = _pipe_lines(sys.stdin.fileno(), stopped)
        return Source("standard input", _parse(lines, None, delimiter, header))
    try:
        suffixes = [s.lower() for s in path.suffixes]
        if path.exists() and not path.is_file() and not path.is_dir():  # a named pipe, a terminal
            lines = _pipe_lines(os.open(path, os.O_RDONLY), stopped)
            return Source(str(path), _parse(lines, None, delimiter, header))
        size = path.stat().st_size
        if suffixes[-1:] == [".parquet"]:
            return _parquet(path, size)
        raw = path.open("rb")
    except OSError as e:
        raise InputError(f"{path}: {e.strerror}") from e
    compressed = raw.peek(2)[:2] == GZIP_MAGIC or suffixes[-1:] == [".gz"]
    kind = (suffixes[-2:-1] if suffixes[-1:] == [".gz"] else suffixes[-1:]) or [""]
    stream = gzip.GzipFile(fileobj=raw) if compressed else raw
    lines = _file_lines(io.BufferedReader(stream) if compressed else stream)
    if kind[0] == ".tsv" and delimiter == ",":
        delimiter = "\t"
    is_json = kind[0] in {".jsonl", ".ndjson", ".json"}
    return Source(str(path), _parse(lines, is_json, delimiter, header), size, raw.tell)


def _file_lines(stream: Any) -> Iterator[bytes]:
    try:
        while line := stream.readline(MAX_LINE_BYTES + 1):
            yield line
    except (OSError, EOFError) as e:
        raise InputError(f"cannot be read: {e}") from e


def _pipe_lines(descriptor: int, stopped: Callable[[], bool]) -> Iterator[bytes]:
    """Lines as they arrive. A signal must not lose one, so it only raises a flag, which is looked at in pauses."""
    pending = b""
    while not stopped():
        if not select.select([descriptor], [], [], POLL_SECONDS)[0]:
            continue
        data = os.read(descriptor, 65536)
        *lines, pending = (pending + data).split(b"\n")
        for line in lines:
            yield line + b"\n"
        if not data or len(pending) > MAX_LINE_BYTES:
            if pending:
                yield pending
            return


def _parse(lines: Iterator[bytes], is_json: bool | None, delimiter: str, header: bool) -> Iterator[Record]:
    text = _decoded(lines)
    first = next(text, None)
    if first is None:
        return
    if is_json is None:
        is_json = first.lstrip().startswith("{")
    chained = _chain(first, text)
    yield from _json_lines(chained) if is_json else _csv(chained, delimiter, header)


def _chain(first: str, rest: Iterator[str]) -> Iterator[str]:
    yield first
    yield from rest


def _decoded(lines: Iterator[bytes]) -> Iterator[str]:
    for number, line in enumerate(lines):
        if len(line) > MAX_LINE_BYTES:
            raise InputError(f"line {number + 1} is longer than {MAX_LINE_BYTES} bytes")
        yield line.decode("utf-8-sig" if number == 0 else "utf-8", "replace")


def _json_lines(lines: Iterator[str]) -> Iterator[Record]:
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            fields = json.loads(line)
        except (ValueError, RecursionError) as e:
            yield Record(number, {}, f"expected a JSON object, got {line.strip()[:60]!r}: {e}")
            continue
        if isinstance(fields, dict):
            yield Record(number, fields)
        else:
            yield Record(number, {}, f"expected a JSON object, got {type(fields).__name__}")


def _csv(lines: Iterator[str], delimiter: str, header: bool) -> Iterator[Record]:
    reader = csv.reader(lines, delimiter=delimiter)
    names: Sequence[str] | None = None
    while True:
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as e:
            yield Record(reader.line_num, {}, f"not readable as CSV: {e}")
            continue
        if not cells:
            continue
        if names is None:
            names = [c.strip() for c in cells] if header else [str(i) for i in range(len(cells))]
            if len(set(names)) != len(names):
                raise InputError(f"line 1: expected different column names, got {names}")
            if header:
                continue
        if len(cells) != len(names):
            yield Record(reader.line_num, {}, f"expected {len(names)} columns, got {len(cells)}")
        else:
            yield Record(reader.line_num, dict(zip(names, cells, strict=True)), table=True)


def _parquet(path: Path, size: int) -> Source:
    try:
        import pyarrow
        import pyarrow.parquet as pq
    except ImportError as e:
        raise InputError(f"{path}: Parquet needs pyarrow: pip install 'stepstream[parquet]'") from e
    done = total = 0

    def records() -> Iterator[Record]:
        nonlocal done, total
        try:
            with pq.ParquetFile(path) as file:
                total = file.metadata.num_rows
                for batch in file.iter_batches(batch_size=4096):
                    for fields in batch.to_pylist():
                        done += 1
                        yield Record(done, fields, table=True)
        except (pyarrow.ArrowException, OSError) as e:
            raise InputError(f"not a readable Parquet file: {e}") from e

    return Source(str(path), records(), size, lambda: size * done // max(1, total))


def seconds(value: Any) -> float:
    """Epoch seconds or ISO 8601 (without a zone: UTC) -> seconds since 1970; raises InputError."""
    if isinstance(value, datetime):
        return (value if value.tzinfo else value.replace(tzinfo=UTC)).timestamp()
    try:
        number = float(value)
    except (TypeError, ValueError):
        try:
            when = datetime.fromisoformat(str(value).strip())
        except ValueError:
            raise InputError(f"expected a time in ISO 8601 or epoch seconds, got {value!r}") from None
        return (when if when.tzinfo else when.replace(tzinfo=UTC)).timestamp()
    if not math.isfinite(number):
        raise InputError(f"expected a time in ISO 8601 or epoch seconds, got {value!r}")
    return number
