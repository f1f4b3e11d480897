"""How far a run came: counts beside the saved states, by which the next run knows its input and its output again.

Everything is a whole number, as the state file keeps it; bytes and texts are hashed.
"""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections.abc import Mapping
from pathlib import Path

from stepstream.errors import StateError
from stepstream.live import snapshot

HEAD_BYTES = 4096  # enough of a file to know it again
Counts = Mapping[str, int]


def digest(data: bytes) -> int:
    """A number that tells these bytes from others."""
    return int.from_bytes(hashlib.sha256(data).digest()[:7], "little")


def of_input(path: Path | None) -> dict[str, int]:
    """What tells this input from others; nothing for a pipe."""
    if path is None:
        return {}
    head = min(HEAD_BYTES, path.stat().st_size)
    return {"head": head, "input": _head(path, head)}


def is_of(saved: Counts, path: Path) -> bool:
    """Whether `saved` was counted in this input, which may have grown since."""
    return "records" in saved and saved.get("input") == _head(path, saved.get("head", 0))


def of_options(options: Mapping[str, object]) -> dict[str, int]:
    """Options that say what a record means."""
    return {f"option_{name}": digest(json.dumps(value).encode()) for name, value in options.items()}


def check_options(saved: Counts, options: Mapping[str, object], state: Path) -> None:
    """Raises StateError where the saved run read the same input in another way."""
    for name, value in of_options(options).items():
        if saved.get(name) != value:
            option = name.removeprefix("option_")
            raise StateError(
                f"{state}: expected the --{option} of the run that saved it, got {options[option]!r}; "
                "give the same, or start anew with another --state"
            )


def check_state(state: Path) -> None:
    """Raises StateError before the first record, where the state could not be saved after the last."""
    try:
        with tempfile.TemporaryFile(dir=state.resolve().parent):
            pass
    except OSError as e:
        raise StateError(f"--state {state}: expected a folder that can be written to: {e.strerror}") from e
    if state.exists():
        if not state.is_file():
            raise StateError(f"--state {state}: expected a file, got something else")
        with snapshot.opened(state) as file:
            if not file.has("keys"):
                raise StateError(
                    f"--state {state}: expected states that `stepstream run` saved, got a file without keys, as of one "
                    "stream; go on from it in Python with Stream.load, or name another file"
                )


def _head(path: Path, size: int) -> int:
    with path.open("rb") as f:
        return digest(f.read(size))
