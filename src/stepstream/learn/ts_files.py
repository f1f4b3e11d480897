"""The .ts files of the UEA and UCR archives and of aeon: one sequence a line, channels by colons, the label last.

Format: https://www.aeon-toolkit.org/en/stable/api_reference/file_specifications/ts.html
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from stepstream.arrays import short
from stepstream.errors import InputError
from stepstream.formats.files import regular_file
from stepstream.graph.ir import Array
from stepstream.learn.data import Sequences, class_names, sequences
from stepstream.limits import MAX_DATA_LINE

Header = dict[str, list[str]]


def read_ts(path: Path, classes: Sequence[str] | None = None, regression: bool | None = None) -> Sequences:
    """Equal or different lengths, one channel or several, classes or numbers as labels.

    Raises InputError that names the line, for missing values and time stamps too, which have no place in a sequence of
    samples.
    """
    lines = _lines(path)
    header = _header(lines)
    if _says(header, "timestamps"):
        raise InputError("expected @timeStamps false, got true; write the values alone, one for each sample")
    targets = _says(header, "targetlabel")
    named = header.get("classlabel", ["false"])
    if not targets and not _true(named[0]):
        raise InputError("expected @classLabel true or @targetLabel true, got neither: the sequences have no labels")
    xs, ys = [], []
    for number, line in lines:
        *channels, label = line.split(":")
        try:
            xs.append(_channels(channels, header))
        except InputError as e:
            raise InputError(f"line {number}: {e}") from e
        ys.append(label.strip())
        if not targets and named[1:] and ys[-1] not in named[1:]:
            raise InputError(f"line {number}: expected one of the classes {short(named[1:])}, got {short(ys[-1])}")
    if not xs:
        raise InputError("expected sequences behind @data, got none")
    if targets:
        return sequences(
            xs, _targets(ys), regression=classes is None if regression is None else regression, classes=classes
        )
    if regression:
        raise InputError("regression: expected a .ts file with @targetLabel true, got one of classes")
    known = class_names(np.array(named[1:] or ys))
    return sequences(xs, ys, classes=classes or known)


def _targets(ys: list[str]) -> list[float]:
    try:
        return [float(y) for y in ys]
    except ValueError as e:
        raise InputError(f"expected numbers as targets: {e}") from e


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    with regular_file(path) as file:
        number = 0
        while line := file.readline(MAX_DATA_LINE + 1):
            number += 1
            if len(line) > MAX_DATA_LINE:
                raise InputError(f"line {number} is longer than {MAX_DATA_LINE} bytes")
            try:
                text = line.decode("utf-8-sig" if number == 1 else "utf-8").strip()
            except UnicodeDecodeError as e:
                if line.startswith(b"#"):
                    continue  # older files credit their authors in other encodings
                raise InputError(f"line {number}: expected UTF-8, got byte 0x{line[e.start]:02x}") from e
            if text and not text.startswith(("#", "%")):
                yield number, text


def _header(lines: Iterator[tuple[int, str]]) -> Header:
    """The @ lines up to @data, by name in lower case."""
    header: Header = {}
    for number, line in lines:
        name, *values = line.split()
        if not name.startswith("@"):
            raise InputError(f"line {number}: expected @data before the sequences, got {short(line)}")
        if name.lower() == "@data":
            return header
        header[name[1:].lower()] = values or [""]
    raise InputError("expected a line @data, got none: not a .ts file, or one that is cut off")


def _true(text: str) -> bool:
    return text.lower() == "true"


def _says(header: Header, name: str) -> bool:
    return _true(header.get(name, ["false"])[0])


def _channels(channels: list[str], header: Header) -> Array:
    """The text of each channel -> float32 (time, channels)."""
    expected = header.get("dimensions", header.get("dimension", [""]))[0]
    if _says(header, "univariate"):
        expected = "1"
    if not channels or (expected.isdecimal() and len(channels) != int(expected)):
        raise InputError(f"expected {expected or 'some'} channels and a label between colons, got {len(channels)}")
    rows = []
    for i, text in enumerate(channels, 1):
        values = text.strip().removesuffix(",").split(",")
        try:
            if "_" in text:
                raise ValueError(f"could not convert {short(text)}")
            rows.append(np.array(values, np.float64))
        except ValueError as e:
            if any(v.strip() in {"?", ""} for v in values):
                raise InputError(
                    f"expected a value at every sample, got a missing one in channel {i}; fill it with the value "
                    "before it, or leave the sample out in all channels"
                ) from e
            raise InputError(f"expected numbers in channel {i}: {e}") from e
    if len({len(r) for r in rows}) != 1:
        raise InputError(f"expected channels of the same length, got {[len(r) for r in rows]}")
    length = header.get("serieslength", [""])[0]
    if _says(header, "equallength") and length.isdecimal() and len(rows[0]) != int(length):
        raise InputError(f"expected {length} samples, as the header says, got {len(rows[0])}")
    with np.errstate(over="ignore"):  # Inf is refused with its place
        return np.stack(rows, axis=1).astype(np.float32)
