"""Long tables, one row for each sample, from CSV and Parquet, as labelled sequences."""

from __future__ import annotations

import csv
import gzip
import io
import zlib
from array import array
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from stepstream import cells
from stepstream.arrays import short
from stepstream.errors import InputError
from stepstream.formats.files import regular_file
from stepstream.learn.data import Sequences, sequences
from stepstream.limits import MAX_DATA_ROW

BOM = b"\xef\xbb\xbf"


@dataclass(frozen=True)
class Columns:
    """Which column means what. key, time, stream: None without. features: None for all others that hold numbers.

    label_per: "sequence", "sample", or None for what the labels look like.
    """

    label: str
    key: str | None = None
    time: str | None = None
    stream: str | None = None
    features: tuple[str, ...] | None = None
    label_per: str | None = None

    def taken(self) -> list[str]:
        """All columns that are no features."""
        return [name for name in (self.label, self.key, self.time, self.stream) if name is not None]


@dataclass
class _Part:
    """What one key has so far. label: the row where the label first differed from the first, or None."""

    stream: str
    first_time: float
    values: array[float] = field(default_factory=lambda: array("d"))
    labels: array[int] = field(default_factory=lambda: array("q"))
    last_time: float = float("-inf")
    changed: int | None = None


class Collector:
    """Rows of cells, in the order of the file, into sequences."""

    def __init__(self, columns: Columns, features: Sequence[str], row: str) -> None:
        self.columns, self.features, self.row = columns, tuple(features), row
        self.parts: dict[str, _Part] = {}
        self.labels: dict[str, int] = {}

    def add(self, number: int, x: Sequence[float], label: Any, key: Any, time: Any, stream: Any) -> None:
        """One row. x: finite numbers within float32. Raises InputError without the row's number."""
        columns = self.columns
        name = "0" if columns.key is None else cells.key(key, columns.key)
        of = name if columns.stream is None else cells.key(stream, columns.stream)
        when = 0.0 if columns.time is None else cells.seconds(time)
        part = self.parts.get(name)
        if part is None:
            part = self.parts[name] = _Part(of, when)
        elif part.stream != of:
            raise InputError(
                f"expected sequence {name!r} to stay in the stream {part.stream!r}, got {of!r} in {columns.stream!r}"
            )
        elif columns.time is not None and when <= part.last_time:
            how = "the same time twice" if when == part.last_time else "a time that runs backwards"
            raise InputError(
                f"expected a time after {part.last_time} of sequence {name!r}, got {when}: {how}; sort the rows by "
                "time and leave one of each"
            )
        text = _label(label, columns.label)
        value = self.labels.setdefault(text, len(self.labels))
        if part.changed is None and part.labels and value != part.labels[0]:
            part.changed = number
        part.last_time = when
        part.values.extend(x)
        part.labels.append(value)

    def sequences(
        self, classes: Sequence[str] | None, regression: bool | None, left_out: Sequence[str] = ()
    ) -> Sequences:
        """All that was added; raises InputError. left_out: see `Sequences`."""
        if not self.parts:
            raise InputError("expected at least one row, got none")
        per_sample = self.columns.label_per == "sample"
        for key, part in self.parts.items():
            if part.changed is not None and self.columns.label_per == "sequence":
                raise InputError(
                    f"{self.row} {part.changed}: expected the label {self._text(part.labels[0])!r} throughout sequence "
                    f"{key!r}, got another; take labels per sample"
                )
            per_sample |= part.changed is not None
        # sequences of one stream in the order of time
        order = sorted(self.parts, key=lambda k: self.parts[k].first_time) if self.columns.time else list(self.parts)
        parts = [self.parts[k] for k in order]
        named = _numbers(list(self.labels))
        found = sequences(
            [np.frombuffer(p.values, np.float64).reshape(-1, len(self.features)) for p in parts],
            [named[np.frombuffer(p.labels, np.int64)] if per_sample else named[p.labels[0]] for p in parts],
            keys=order,
            streams=[p.stream for p in parts],
            features=self.features,
            classes=classes,
            regression=regression,
        )
        return replace(found, left_out=tuple(left_out))

    def _text(self, value: int) -> str:
        return list(self.labels)[value]


def _label(value: Any, name: str) -> str:
    if isinstance(value, bytes):
        value = value.decode(errors="replace")
    if isinstance(value, float) and value.is_integer():
        value = int(value)  # a column of whole numbers with gaps arrives as floats
    text = str(int(value) if isinstance(value, bool) else "" if value is None else value).strip()
    if text.endswith(".0") and text[:-2].lstrip("-").isdecimal():
        text = text[:-2]  # as text too
    if not text or text.lower() == "nan":
        raise InputError(f"expected a label in {name!r}, got none; leave rows without one out")
    return text


def _numbers(texts: list[str]) -> np.ndarray[Any, Any]:
    """Labels as whole numbers where all are, as floats where all are numbers, else as texts."""
    try:
        numbers = [float(t) for t in texts if "_" not in t or float("no number")]
    except ValueError:
        return np.array(texts)
    whole = all(n.is_integer() and abs(n) < 2**53 for n in numbers)
    return np.array(numbers, np.int64 if whole else np.float64)


def read_csv(
    path: Path,
    columns: Columns,
    classes: Sequence[str] | None,
    regression: bool | None,
    delimiter: str = ",",
    header: bool = True,
) -> Sequences:
    """A CSV file, perhaps gzipped; a record is one line, as in `stepstream run`. Without a header the columns are
    "0", "1", ... Raises InputError that names the line.
    """
    collector, names, at, places, rest = None, list[str](), list[int](), list[int | None](), list[_LeftOut]()
    for number, row in _csv_rows(path, delimiter):
        first: Sequence[str] | None = row
        if collector is None and header:  # outside: an error there names its own line
            first = next(_csv_rows(path, delimiter, number), (0, None))[1]
        try:
            if collector is None:
                names = [c.strip() for c in row] if header else [str(i) for i in range(len(row))]
                _known(columns, names)
                collector = Collector(columns, columns.features or _numeric(columns, names, first), "line")
                at = [names.index(f) for f in collector.features]
                rest = [] if columns.features else _left_out(columns, names, collector.features)
                places = [None if c is None else names.index(c) for c in _order(columns)]
                if header:
                    continue
            if len(row) != len(names):
                raise InputError(f"expected {len(names)} columns, got {len(row)}")
            x = [cells.number(row[i], names[i]) for i in at]
            collector.add(number, x, *(None if i is None else row[i] for i in places))
            for column in rest:
                column.add(number, row[column.place])
        except InputError as e:
            raise InputError(f"line {number}: {e}") from e
    if collector is None:
        raise InputError("expected a table, got an empty file")
    for column in rest:
        column.check()
    return collector.sequences(classes, regression, [column.name for column in rest])


@dataclass
class _LeftOut:
    """A column that is no feature, as its first cell holds no number. first: that cell; line: of the first number."""

    name: str
    place: int
    first: str | None = None
    numbers: int = 0
    texts: int = 0
    line: int = 0

    def add(self, number: int, cell: str) -> None:
        self.first = cell if self.first is None else self.first
        if cell.strip().lower() in {"", "nan"}:
            return
        if _is_number(cell):
            self.line = self.line or number
            self.numbers += 1
        else:
            self.texts += 1

    def check(self) -> None:
        """A note may hold a number now and then; a column of numbers is a feature, or is to be left out knowingly."""
        if self.numbers > self.texts:
            raise InputError(
                f"line {self.line}: expected no number in {self.name!r}, whose first cell is {short(self.first)}, got "
                f"{self.numbers} cells with numbers; name the features with features= (--features), with or without it"
            )


def _left_out(columns: Columns, names: Sequence[str], features: Sequence[str]) -> list[_LeftOut]:
    """The columns that mean nothing, in the order of the file."""
    used = {*columns.taken(), *features}
    return [_LeftOut(name, i) for i, name in enumerate(names) if name not in used]


def _order(columns: Columns) -> tuple[str | None, ...]:
    return columns.label, columns.key, columns.time, columns.stream


def _known(columns: Columns, names: Sequence[str]) -> None:
    if len(set(names)) != len(names):
        raise InputError(f"expected different column names, got {short(list(names))}")
    if missing := [n for n in (*columns.taken(), *(columns.features or ())) if n not in names]:
        other = next((d for d in ";\t|" if len(names) == 1 and d in names[0]), None)
        if other is not None:
            raise InputError(
                f"expected a column {missing[0]!r}, got one column, {short(names[0])}; if {other!r} divides it, say "
                f"delimiter={other!r} (--delimiter {other!r})"
            )
        without = all(map(_is_number, names)) and list(names) != [str(i) for i in range(len(names))]
        cure = "; the first line holds numbers: say header=False (--no-header)" if without else ""
        raise InputError(f"expected a column {missing[0]!r}, got {short(list(names))}{cure}")


def _numeric(columns: Columns, names: Sequence[str], first: Sequence[str] | None) -> list[str]:
    """The columns that hold a number in the first record, and mean nothing else."""
    if first is None or len(first) != len(names):
        first = ["0"] * len(names)  # what is wrong with it is said when it is read
    found = [n for n, cell in zip(names, first, strict=True) if n not in columns.taken() and _is_number(cell)]
    if not found:
        raise InputError(f"expected columns of numbers beside {columns.taken()}, got none in {short(list(names))}")
    return found


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return text.strip().lower() in {"true", "false"}  # as `cells.number` reads them
    return True


def _csv_rows(path: Path, delimiter: str, after: int = 0) -> Iterator[tuple[int, list[str]]]:
    """(line number, cells) of every line behind the first `after` that is not blank."""
    with regular_file(path) as raw:
        gzipped = raw.read(2) == b"\x1f\x8b"  # RFC 1952
        raw.seek(0)
        lines = io.BufferedReader(gzip.GzipFile(fileobj=raw)) if gzipped else raw
        number = 0
        try:
            while line := lines.readline(MAX_DATA_ROW + 1):
                number += 1
                if len(line) > MAX_DATA_ROW:
                    raise InputError(f"line {number} is longer than {MAX_DATA_ROW} bytes")
                line = line.removeprefix(BOM) if number == 1 else line
                if number > after and line.strip():
                    yield number, _cells(line, delimiter, number)
        except (EOFError, zlib.error, gzip.BadGzipFile) as e:
            raise InputError(f"damaged behind line {number}: {e}; copy the file again") from e


def _cells(line: bytes, delimiter: str, number: int) -> list[str]:
    try:
        text = line.decode().rstrip("\r\n")
        if '"' not in text and "\r" not in text:
            return text.split(delimiter)
        row = next(csv.reader([text + "\n"], delimiter=delimiter))
    except UnicodeDecodeError as e:
        raise InputError(f"line {number}: expected UTF-8, got byte 0x{line[e.start]:02x}") from e
    except csv.Error as e:
        raise InputError(f"line {number}: not readable as CSV: {e}") from e
    if row[-1].endswith("\n"):
        raise InputError(f"line {number}: expected a closing quote: a record is one line")
    return row


def read_parquet(path: Path, columns: Columns, classes: Sequence[str] | None, regression: bool | None) -> Sequences:
    """A Parquet file; raises InputError that names the row, from 1."""
    try:
        import pyarrow
        import pyarrow.parquet as pq
    except ImportError as e:
        raise InputError("Parquet needs pyarrow: pip install 'stepstream[parquet]'") from e
    try:
        with pq.ParquetFile(path) as file:
            schema = file.schema_arrow
            _known(columns, schema.names)
            features = columns.features or _number_columns(columns, schema)
            collector = Collector(columns, features, "row")
            used = {*columns.taken(), *features}
            left_out = [] if columns.features else [name for name in schema.names if name not in used]
            wanted = [c for c in dict.fromkeys((*features, *_order(columns))) if c is not None]
            done = 0
            for batch in file.iter_batches(batch_size=4096, columns=wanted):
                x = [_floats(batch.column(f), f, done) for f in features]
                others = [[None] * len(batch) if c is None else _python(batch.column(c)) for c in _order(columns)]
                _add(collector, done, np.stack(x, axis=1).tolist(), others)
                done += len(batch)
    except InputError:
        raise
    # texts that are no UTF-8, times and zones that Python does not know
    except (pyarrow.ArrowException, OSError, ValueError, OverflowError, KeyError) as e:
        raise InputError(f"not a readable Parquet file: {e}") from e
    return collector.sequences(classes, regression, left_out)


def _add(collector: Collector, done: int, rows: list[list[float]], others: Iterable[list[Any]]) -> None:
    for i, (x, *rest) in enumerate(zip(rows, *others, strict=True), done + 1):
        try:
            collector.add(i, x, *rest)
        except InputError as e:
            raise InputError(f"row {i}: {e}") from e


def _number_columns(columns: Columns, schema: Any) -> list[str]:
    from pyarrow import types

    kinds = (types.is_integer, types.is_floating, types.is_decimal, types.is_boolean)
    found = [f.name for f in schema if f.name not in columns.taken() and any(kind(f.type) for kind in kinds)]
    if not found:
        raise InputError(f"expected columns of numbers beside {columns.taken()}, got none in {short(schema.names)}")
    return found


def _floats(column: Any, name: str, done: int) -> np.ndarray[Any, Any]:
    """A column as float64, finite within float32."""
    import pyarrow

    try:
        values = np.asarray(column.cast(pyarrow.float64()).to_numpy(zero_copy_only=False), np.float64)
    except pyarrow.ArrowException as e:
        raise InputError(f"expected numbers in {name!r}, got {column.type}") from e
    wrong = ~(np.abs(values) <= cells.FLOAT32_MAX)
    if wrong.any():
        i = int(wrong.argmax())
        raise InputError(
            f"row {done + i + 1}: expected a finite number in {name!r}, within float32, got {column[i].as_py()}"
        )
    return values


def _python(column: Any) -> list[Any]:
    """Values as Python has them; times of nanoseconds, which it has not, in microseconds."""
    import pyarrow
    from pyarrow import types

    if types.is_timestamp(column.type) and column.type.unit == "ns":
        column = column.cast(pyarrow.timestamp("us", column.type.tz), safe=False)
    return column.to_pylist()
