"""How far a run came: counts beside the streams, by which the next run knows its input and its output again.

Everything is a whole number; bytes and texts are hashed. A store keeps it as the engine's bookmark, in JSON.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path

from stepstream.errors import StateError

HEAD_BYTES = 4096  # enough of a file to know it again
_PIECE = 1 << 20
HDF5_MAGIC = b"\x89HDF\r\n\x1a\n"
Counts = Mapping[str, int]


def digest(data: bytes) -> int:
    """A number that tells these bytes from others."""
    return _number(hashlib.sha256(data))


def of_input(path: Path | None) -> dict[str, int]:
    """What tells this input from others; nothing for a pipe."""
    if path is None:
        return {}
    head = min(HEAD_BYTES, path.stat().st_size)
    return {"head": head, "input": _head(path, head), "path": _place(path)}


def is_of(saved: Counts, path: Path) -> bool:
    """Whether `saved` was counted in this input, which may have grown since.

    A file that was edited behind what was consumed alone, to mend a bad record, is still the same.
    """
    if "records" not in saved:
        return False
    if saved.get("input") == _head(path, saved.get("head", 0)):
        return True
    known = saved.get("consumed", 0) > 0 or not saved["records"]
    return known and saved.get("path") == _place(path) and Consumed(path).fits(saved)


def check_path(saved: Counts, path: Path, state: str) -> None:
    """Raises StateError for another input in the place of the one before."""
    if saved.get("path") == _place(path):
        raise StateError(
            f"{state}: expected {path} as it was when {saved['records']} of its records were read, got one that was "
            "edited, or other records; put it back, give other records in a file of another name, or start anew with "
            "another --state"
        )


class Consumed:
    """The bytes of an input that were consumed: how many, and a hash that goes on as they become more."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._hash = hashlib.sha256()
        self.size = 0

    def to(self, place: int) -> dict[str, int]:
        """The first `place` bytes, where these are more than before; what tells them from others.

        They are read a second time, from the system's memory: 50 kB for a batch take 0.1 ms.
        """
        if place > self.size:
            with self._path.open("rb") as file:
                file.seek(self.size)
                while data := file.read(min(_PIECE, place - self.size)):
                    self._hash.update(data)
                    self.size += len(data)
        return {"consumed": self.size, "consumed_hash": _number(self._hash)}

    def fits(self, saved: Counts) -> bool:
        """Whether what the saved run had consumed is still the same."""
        found = self.to(saved.get("consumed", 0))
        return not self.size or all(saved.get(name) == value for name, value in found.items())

    def go_on(self, saved: Counts, state: str) -> None:
        """Behind what the saved run had consumed. Raises StateError where that is not the same any more."""
        if not self.fits(saved):
            raise StateError(
                f"{state}: expected the {saved['records']} records of {self._path} that were read to be as they were, "
                "got a file that was edited; put it back, or start anew with another --state"
            )


def of_options(options: Mapping[str, object]) -> dict[str, int]:
    """Options that say what a record means."""
    return {f"option_{name}": digest(json.dumps(value).encode()) for name, value in options.items()}


def check_options(saved: Counts, options: Mapping[str, object], state: str) -> None:
    """Raises StateError where the saved run read the same input in another way."""
    for name, value in of_options(options).items():
        if saved.get(name) != value:
            option = name.removeprefix("option_")
            raise StateError(
                f"{state}: expected the --{option} of the run that saved it, got {options[option]!r}; "
                "give the same, or start anew with another --state"
            )


def to_bookmark(counts: Counts) -> bytes:
    """The counts as a store keeps them."""
    return json.dumps(counts).encode()


def of_bookmark(bookmark: bytes, state: str) -> dict[str, int]:
    """The inverse; raises StateError for what another program has put there."""
    try:
        counts = json.loads(bookmark)
        if isinstance(counts, dict) and all(type(count) is int and count >= 0 for count in counts.values()):
            return counts
    except ValueError:
        pass
    raise StateError(
        f"{state}: expected a bookmark by `stepstream run`, got {bookmark[:40]!r}, put there by another "
        "program; go on with that, or name another --state"
    )


def check_state(path: Path) -> None:
    """Raises StateError for what cannot be a store, before anything is written there."""
    if path.is_dir():
        raise StateError(f"--state {path}: expected a file, got a folder; name a file in it")
    if path.is_file():
        with path.open("rb") as file:
            if file.read(len(HDF5_MAGIC)) == HDF5_MAGIC:
                raise StateError(
                    f"--state {path}: expected a store, a SQLite file or redis://..., got HDF5, in which Stream.save "
                    "keeps one stream; go on from it in Python with Stream.load, or name another file"
                )


def _number(state: hashlib._Hash) -> int:
    return int.from_bytes(state.digest()[:7], "little")


def _place(path: Path) -> int:
    return digest(os.fsencode(path.resolve()))


def _head(path: Path, size: int) -> int:
    with path.open("rb") as f:
        return digest(f.read(size))
