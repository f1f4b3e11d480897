"""The files of one command: what it writes must not be another of them, by whatever name."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path

from stepstream.errors import InputError

PICTURES = {"--png": (".png",)}
BESIDE = ("-wal", "-shm", "-journal", "-claim")  # what SQLite, and the claim to a store, add to a store's name


def different(paths: Mapping[str, Path | None]) -> None:
    """No file is read and written in one command, nor written twice. Raises InputError.

    paths: by the options that name them. A store, "--state" or "STORE", has files beside it.
    """
    seen: list[tuple[str, Path]] = []
    for name, path in paths.items():
        if path is None:
            continue
        mine = [(name, path), *(_beside(name, path) if name in {"--state", "STORE"} else ())]
        for one in mine:
            for other in seen:
                if _same(one[1], other[1]):
                    raise InputError(f"{name}: expected another file than that of {other[0]}, got {path} for both")
        seen += mine


def writable(paths: Mapping[str, Path | None], endings: Mapping[str, tuple[str, ...]] | None = None) -> None:
    """Every output can be written: said before the work that it is of. Raises InputError.

    paths: by the options that name them. endings: that a name may have; what is written to such a file may as well go
    to a pipe or a device.
    """
    for name, path in paths.items():
        if path is None:
            continue
        if path.is_dir():
            raise InputError(f"{name}: expected a file, got the folder {path}")
        known = (endings or {}).get(name)
        if path.exists() and not path.is_file():
            if known is None:
                raise InputError(f"{name}: expected a file, got a pipe or a device, {path}")
            continue
        if known is not None and path.suffix.lower() not in known:
            raise InputError(f"{name}: expected a name that ends in {' or '.join(known)}, got {path}")
        place = Path(os.path.realpath(path)).parent
        if not place.is_dir():
            raise InputError(f"{name}: expected a file in a folder that is there, got {path}: no folder {place}")
        if not os.access(place, os.W_OK | os.X_OK) or (path.exists() and not os.access(path, os.W_OK)):
            raise InputError(f"{name}: expected a file that may be written, got {path}: permission denied")


def folder(name: str, path: Path | None) -> None:
    """A folder that is there and may be written to, or can be made. Raises InputError."""
    if path is None:
        return
    there = next(place for place in (path, *path.absolute().parents) if place.exists())
    if not there.is_dir():
        raise InputError(f"{name}: expected a folder, got the file {there}; name another place")
    if not os.access(there, os.W_OK | os.X_OK):
        raise InputError(f"{name}: expected a folder that may be written to, got {there}: permission denied")


def _beside(name: str, store: Path) -> Iterator[tuple[str, Path]]:
    real = Path(os.path.realpath(store))
    for end in BESIDE:
        yield f"{name}, which keeps {real.name}{end}", real.with_name(f"{real.name}{end}")


def _same(one: Path, other: Path) -> bool:
    """One file: by its path, or, through a hard link, by what it is."""
    if one.resolve() == other.resolve():
        return True
    return one.is_file() and other.is_file() and one.samefile(other)
