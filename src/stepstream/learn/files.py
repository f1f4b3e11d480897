"""Labelled sequences from a file: CSV, Parquet, .npz or .ts."""

from __future__ import annotations

import zipfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from stepstream.arrays import short
from stepstream.errors import InputError
from stepstream.formats.files import regular_file
from stepstream.graph.ir import Array
from stepstream.learn.checkpoint import UNREADABLE
from stepstream.learn.data import Sequences, sequences, unnamed
from stepstream.learn.table_files import Columns, read_csv, read_parquet
from stepstream.learn.ts_files import read_ts
from stepstream.limits import MAX_DATA_BYTES, MAX_ZIP_ENTRIES

NAMES = ("X", "y", "lengths", "keys", "streams", "features", "classes")


def read(
    path: str | Path,
    *,
    key: str | None = None,
    time: str | None = None,
    label: str | None = None,
    features: Sequence[str] | None = None,
    stream: str | None = None,
    label_per: str | None = None,
    classes: Sequence[str] | None = None,
    regression: bool | None = None,
    delimiter: str | None = None,
    header: bool = True,
) -> Sequences:
    """Labelled sequences of a file, told apart by the end of its name.

    .csv, .tsv (.gz too), .parquet: one row for each sample. key: the column that says to which sequence a row belongs;
    without it the file is one sequence. time: a column that must go up within each sequence. stream: the column that
    says which sequences continue each other. label: the column of labels. features: all other columns of numbers by
    default. label_per: "sequence" or "sample"; by default per sequence where no label changes within one.
    delimiter: by default a comma, in .tsv files a tabulator. header=False: the columns are "0", "1", ..., and the
    features have no names.
    .npz: arrays X and y, perhaps lengths, as `sequences` takes them, keys, streams, features and classes.
    .ts: a file of the UEA and UCR archives. regression: of files with targets alone.
    features choose by name in .npz files too, and in these and .ts files, where there are no names, by number from "0".
    classes, regression: as in `sequences`. Raises InputError with the place in the file, and for an option that files
    of this kind have no use for.
    """
    path = Path(path)
    if label_per not in {None, "sequence", "sample"}:
        raise InputError(f'label_per: expected "sequence" or "sample", got {label_per!r}')
    end = "".join(s.lower() for s in path.suffixes[-2:]) if path.suffix.lower() == ".gz" else path.suffix.lower()
    table = end.removesuffix(".gz") in {".csv", ".tsv", ".txt", ".parquet"}
    try:
        with regular_file(path) as file:
            file.seek(0, 2)
            if file.tell() > MAX_DATA_BYTES:
                raise InputError(f"expected at most {MAX_DATA_BYTES} bytes, got {file.tell()}; read it in parts")
        if not table and end not in {".npz", ".ts"}:
            ending = f"the ending {end}" if end else "a name without ending"
            raise InputError(f"expected a .csv, .tsv or .txt (.gz too), .parquet, .npz or .ts file, got {ending}")
        separated = table and end != ".parquet"
        if not separated and (delimiter is not None or not header):
            option, got = ("header", header) if delimiter is None else ("delimiter", delimiter)
            raise InputError(
                f"{option}: expected none for a {end} file, as only .csv and the like have it, got {got!r}"
            )
        if table:
            if label is None:
                raise InputError("expected the name of the column with the labels, got none; give label= (--label)")
            chosen = None if features is None else tuple(features)
            columns = Columns(label, key, time, stream, chosen, label_per)
            used = [*columns.taken(), *(chosen or ())]
            if len(set(used)) != len(used):
                raise InputError(f"expected each column to mean one thing, got {used}")
            if end == ".parquet":
                return read_parquet(path, columns, classes, regression)
            if delimiter is not None and (len(delimiter) != 1 or delimiter in '"\r\n'):
                raise InputError(f"delimiter: expected one character, no quote and no end of a line, got {delimiter!r}")
            if delimiter is None:
                delimiter = "\t" if end.startswith(".tsv") else ","
            data = read_csv(path, columns, classes, regression, delimiter, header)
            return data if header else replace(data, features=unnamed(data.features))
        named = {"key": key, "time": time, "label": label, "stream": stream}
        if given := [option for option, column in named.items() if column is not None]:
            raise InputError(f"{given[0]}: expected none, as only tables have columns, got {named[given[0]]!r}")
        if end == ".npz":
            return _fitting(_npz(path, classes, regression, label_per), features, label_per, end)
        return _fitting(read_ts(path, classes, regression), features, label_per, end)
    except OSError as e:
        raise InputError(f"{path}: {e.strerror or e}") from e
    except InputError as e:
        raise InputError(f"{path}: {e}") from e


def _fitting(data: Sequences, features: Sequence[str] | None, label_per: str | None, end: str) -> Sequences:
    """The features asked for, in that order, of data whose labels are as asked for; raises InputError."""
    if label_per is not None and (label_per == "sample") != data.per_sample:
        has = "sample" if data.per_sample else "sequence"
        raise InputError(f"label_per: expected {has} for this {end} file, which has a label for each, got {label_per}")
    if features is None:
        return data
    names = data.features if data.named else tuple(map(str, range(len(data.features))))
    if missing := [name for name in features if name not in names]:
        numbers = "" if data.named else ", numbers, as the file names none"
        raise InputError(f"features: expected some of {short(names)}{numbers}, got {missing[0]!r}")
    chosen = [names.index(name) for name in features]
    if not chosen:
        raise InputError("features: expected at least one, got none")
    return replace(
        data,
        x=tuple(np.ascontiguousarray(x[:, chosen]) for x in data.x),
        features=tuple(data.features[c] for c in chosen),
    )


def _npz(path: Path, classes: Sequence[str] | None, regression: bool | None, label_per: str | None) -> Sequences:
    try:
        with zipfile.ZipFile(path) as archive:
            _sized(archive)
        with np.load(path, allow_pickle=False) as file:
            if missing := {"X", "y"} - set(file.files):
                raise InputError(
                    f"expected the arrays X and y, got no {min(missing)} in {file.files}; "
                    "write it with numpy.savez(path, X=..., y=...)"
                )
            arrays: dict[str, Array] = {name: file[name] for name in NAMES if name in file.files}
    except InputError:
        raise
    except (MemoryError, *UNREADABLE) as e:
        raise InputError(f"not a readable .npz file: {e}; write it with numpy.savez(path, X=..., y=...)") from e
    texts = {n: arrays[n].reshape(-1).tolist() for n in ("keys", "streams", "features", "classes") if n in arrays}
    if classes is not None:
        texts["classes"] = list(classes)
    lengths = arrays.get("lengths")
    return sequences(
        arrays["X"],
        list(arrays["y"]) if label_per == "sample" and arrays["y"].ndim == 2 else arrays["y"],
        lengths=None if lengths is None else lengths.tolist(),
        regression=regression,
        **texts,
    )


def _sized(archive: zipfile.ZipFile) -> None:
    """Refuse an archive that unpacks to more than memory holds, or whose arrays claim to be larger than they are."""
    entries = archive.infolist()
    if len(entries) > MAX_ZIP_ENTRIES or sum(e.file_size for e in entries) > MAX_DATA_BYTES:
        raise InputError(
            f"expected at most {MAX_ZIP_ENTRIES} arrays of {MAX_DATA_BYTES} bytes together, got {len(entries)} of "
            f"{sum(e.file_size for e in entries)}"
        )
    for entry in entries:
        with archive.open(entry) as member:
            version = np.lib.format.read_magic(member)
            if version == (1, 0):
                shape, _, dtype = np.lib.format.read_array_header_1_0(member)
            elif version == (2, 0):
                shape, _, dtype = np.lib.format.read_array_header_2_0(member)
            else:
                raise InputError(f"array {entry.filename}: expected plain numbers or texts, got records")
        if dtype.hasobject:
            raise InputError(
                f"array {entry.filename}: expected numbers or texts, got Python objects, which may hold code; "
                "sequences of different lengths go below each other, (total, features), with an array of lengths"
            )
        if np.prod([float(n) for n in shape]) * dtype.itemsize > entry.file_size:
            raise InputError(f"array {entry.filename}: expected data for shape {shape}, got {entry.file_size} bytes")
