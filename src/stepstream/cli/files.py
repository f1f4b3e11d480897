"""The files of one command: what it writes must not be another of them, by whatever name."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path

from stepstream.errors import InputError

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


def _beside(name: str, store: Path) -> Iterator[tuple[str, Path]]:
    real = Path(os.path.realpath(store))
    for end in BESIDE:
        yield f"{name}, which keeps {real.name}{end}", real.with_name(f"{real.name}{end}")


def _same(one: Path, other: Path) -> bool:
    """One file: by its path, or, through a hard link, by what it is."""
    if one.resolve() == other.resolve():
        return True
    return one.is_file() and other.is_file() and one.samefile(other)
