"""Records from CSV, JSON Lines, Parquet or standard input, one at a time, in bounded memory."""

from __future__ import annotations

import csv
import json
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

from stepstream.cli.lines import Line, Passing, PipeLines, file_lines, text_lines
from stepstream.errors import InputError

GZIP_MAGIC = b"\x1f\x8b"  # RFC 1952
PARQUET_MAGIC = b"PAR1"
MAX_CELL = csv.field_size_limit()  # characters that `csv` takes


class Record(NamedTuple):
    """One record: `line` counts from 1 in the file; `error` says why there are no fields."""

    line: int
    fields: Mapping[str, Any]
    error: str | None = None


@dataclass(frozen=True)
class Source:
    """records: lazily read. size: bytes of a file, which can be read again; None for a pipe. consumed: of these, by the
    records that were given; of a compressed file, perhaps some behind them too.
    more: whether, after a record, another is there without waiting. passing: what passes over records behind the first.
    """

    name: str
    records: Iterator[Record]
    size: int | None = None
    consumed: Callable[[], int] = int
    more: Callable[[], bool] = lambda: True
    passing: Passing | None = None


def open_rows(
    path: Path | None, delimiter: str, header: bool, stopped: Callable[[], bool], whole_lines: bool = False
) -> Source:
    """The records of a file, told apart by its name, or of standard input, told apart by its first character.

    A record is one line; an unclosed quote must not swallow those after it, nor hold up a pipe. Without a header the
    columns are called "0", "1", ... `stopped` is asked while a pipe is silent. whole_lines: leave a file's last line
    where it has no end.
    """
    source = _open(path, delimiter, header, stopped, whole_lines)
    return replace(source, records=_named(source.name, source.records))


def _named(name: str, records: Iterator[Record]) -> Iterator[Record]:
    try:
        yield from records
    except InputError as e:
        raise InputError(f"{name}: {e}") from e


def _open(path: Path | None, delimiter: str, header: bool, stopped: Callable[[], bool], whole_lines: bool) -> Source:
    if path is None:
        if sys.stdin is None:
            raise InputError("expected records on standard input, got a closed one; name a file")
        return _pipe("standard input", sys.stdin.fileno(), delimiter, header, stopped)
    try:
        suffixes = [s.lower() for s in path.suffixes]
        if path.exists() and not path.is_file() and not path.is_dir():  # a named pipe, a terminal
            return _pipe(str(path), os.open(path, os.O_RDONLY), delimiter, header, stopped)
        size = path.stat().st_size
        if suffixes[-1:] == [".parquet"]:
            return _parquet(path, size)
        raw = path.open("rb")
    except OSError as e:
        raise InputError(f"{path}: {e.strerror}") from e
    compressed = raw.peek(2)[:2] == GZIP_MAGIC or suffixes[-1:] == [".gz"]
    kind = (suffixes[-2:-1] if suffixes[-1:] == [".gz"] else suffixes[-1:]) or [""]
    lines = file_lines(raw, compressed, str(path), whole_lines)
    if kind[0] == ".tsv" and delimiter == ",":
        delimiter = "\t"
    is_json = kind[0] in {".jsonl", ".ndjson", ".json"}
    passing = Passing()
    records = _parse(lines, is_json, delimiter, header, passing)
    return Source(str(path), records, size, lambda: size if raw.closed else raw.tell(), passing=passing)


def _pipe(name: str, descriptor: int, delimiter: str, header: bool, stopped: Callable[[], bool]) -> Source:
    lines = PipeLines(descriptor, name, stopped)
    records = _parse(_uncompressed(iter(lines)), None, delimiter, header, Passing())
    return Source(name, records, more=lambda: lines.more)


def _uncompressed(lines: Iterator[bytes]) -> Iterator[bytes]:
    first = next(lines, b"")
    for magic, cure in (
        (GZIP_MAGIC, "gzip; pipe it through `gzip -dc`"),
        (PARQUET_MAGIC, "Parquet, which is read from its end; name the file"),
    ):
        if first.startswith(magic):
            raise InputError(f"expected lines of CSV or JSON, got {cure}")
    yield from chain([first] if first else [], lines)


def _parse(
    lines: Iterator[bytes], is_json: bool | None, delimiter: str, header: bool, passing: Passing
) -> Iterator[Record]:
    text = text_lines(lines, passing)
    first = next(text, None)
    if first is None:
        return
    if is_json is None:
        is_json = first.text.lstrip().startswith("{")
    chained = chain([first], text)
    yield from _json_lines(chained) if is_json else _csv(chained, delimiter, header)


def _json_lines(lines: Iterator[Line]) -> Iterator[Record]:
    for number, text, error in lines:
        fields: Any = {}
        if error is None:
            try:
                fields = json.loads(text, object_pairs_hook=_different)
            except (ValueError, RecursionError) as e:
                error = f"expected a JSON object, got {text.strip()[:60]!r}: {e}"
        if isinstance(fields, dict):
            yield Record(number, fields, error)
        else:
            yield Record(number, {}, f"expected a JSON object, got {type(fields).__name__}")


def _different(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    fields = dict(pairs)
    if len(fields) != len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"expected different names, got {[n for n in fields if names.count(n) > 1]} twice")
    return fields


def _csv(lines: Iterator[Line], delimiter: str, header: bool) -> Iterator[Record]:
    names: Sequence[str] | None = None
    for line in lines:
        cells, error = _cells(line, delimiter)
        if names is None and error is None:
            names = _column_names(cells, line.number) if header else [str(i) for i in range(len(cells))]
            if header:
                continue
        if names is None and header:
            raise InputError(f"line {line.number}: {error}")
        if error is None and names is not None and len(cells) != len(names):
            error = f"expected {len(names)} columns, got {len(cells)}"
        yield Record(line.number, {} if error else dict(zip(names or (), cells, strict=True)), error)


def _cells(line: Line, delimiter: str) -> tuple[list[str], str | None]:
    if line.error is not None:
        return [], line.error
    text = line.text.rstrip("\r\n")
    if '"' not in text and "\r" not in text and len(text) <= MAX_CELL and delimiter not in '"\r\n':
        return text.split(delimiter), None  # the same in half the time
    try:
        cells = next(csv.reader([text + "\n"], delimiter=delimiter))
    except csv.Error as e:
        return [], f"not readable as CSV: {e}"
    if cells[-1].endswith("\n"):  # the line's end is within quotes
        return [], "expected a closing quote: a record is one line"
    return cells, None


def _column_names(cells: Sequence[str], line: int) -> list[str]:
    names = [c.strip() for c in cells]
    if len(set(names)) != len(names):
        raise InputError(f"line {line}: expected different column names, got {names}")
    # pandas calls unnamed columns 0, 1, 2, ...
    if all(map(_is_number, names)) and names != [str(i) for i in range(len(names))]:
        raise InputError(f"line {line}: expected column names, but the header holds numbers {names}; use --no-header")
    return names


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _parquet(path: Path, size: int) -> Source:
    try:
        import pyarrow
        import pyarrow.parquet as pq
    except ImportError as e:
        raise InputError(f"{path}: Parquet needs pyarrow: pip install 'stepstream[parquet]'") from e
    done = total = footer = 0  # the footer, at the end, is another when the file has grown

    def records() -> Iterator[Record]:
        nonlocal done, total, footer
        try:
            with pq.ParquetFile(path) as file:
                total = file.metadata.num_rows
                footer = file.metadata.serialized_size + len(PARQUET_MAGIC) + 4
                names = file.schema_arrow.names
                if len(set(names)) != len(names):
                    raise InputError(f"expected different column names, got {names}")
                for batch in file.iter_batches(batch_size=4096):
                    table = pyarrow.Table.from_batches([batch])
                    kinds = [f.with_type(_in_microseconds(f.type)) for f in table.schema]
                    for fields, error in _plain_rows(table.cast(pyarrow.schema(kinds), safe=False)):
                        done += 1
                        yield Record(done, fields, error)
        except (pyarrow.ArrowException, OSError) as e:
            raise InputError(f"not a readable Parquet file: {e}") from e

    return Source(str(path), records(), size, lambda: (size - footer) * done // max(1, total))


def _plain_rows(table: Any) -> Iterator[tuple[dict[str, Any], str | None]]:
    """Rows of Python values, and why one has none: a time may lie outside the years, or zones, that Python knows."""
    try:
        rows = table.to_pylist()
    except (ValueError, OverflowError, KeyError) as e:
        if len(table) == 1:
            yield {}, f"not readable as Python values: {e}"
            return
        for i in range(len(table)):
            yield from _plain_rows(table.slice(i, 1))
    else:
        for fields in rows:
            yield fields, None


def _in_microseconds(kind: Any) -> Any:
    """Python's times have no nanoseconds; without the cast they need pandas."""
    import pyarrow
    from pyarrow import types

    if types.is_timestamp(kind) and kind.unit == "ns":
        return pyarrow.timestamp("us", kind.tz)
    if types.is_time64(kind) and kind.unit == "ns":
        return pyarrow.time64("us")
    if types.is_duration(kind) and kind.unit == "ns":
        return pyarrow.duration("us")
    return kind
