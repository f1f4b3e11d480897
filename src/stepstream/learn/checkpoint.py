"""What a training needs to go on after an interruption: one file, arrays and JSON, replaced as a whole."""

from __future__ import annotations

import json
import os
import tokenize
import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np

from stepstream.errors import InputError
from stepstream.graph.ir import Array

NAME = "checkpoint.npz"
# what NumPy and zipfile raise for damaged arrays. RuntimeError: a flipped bit may ask for a password, or for a
# compression that Python does not know; the last two: a header that is no Python
UNREADABLE = (
    ValueError, KeyError, EOFError, RuntimeError, zipfile.BadZipFile, zlib.error, tokenize.TokenError, SyntaxError,
)  # fmt: skip


def write(folder: Path, about: dict[str, Any], arrays: dict[str, Array], name: str = NAME) -> None:
    """Put both in the folder in place of what was there; a crash leaves the old or the new file, never half of one."""
    folder.mkdir(parents=True, exist_ok=True)
    new = folder / f"{name}.new"
    try:
        with new.open("wb") as file:
            named: dict[str, Any] = {**arrays, "about": np.array(json.dumps(about))}
            np.savez(file, **named)
            file.flush()
            os.fsync(file.fileno())
        os.replace(new, folder / name)
    except BaseException:  # an interruption too
        new.unlink(missing_ok=True)
        raise


def read(folder: Path, name: str = NAME) -> tuple[dict[str, Any], dict[str, Array]] | None:
    """What `write` left there, or None. Raises InputError for a file that is damaged, and where no folder can be."""
    path = folder / name
    there = next(place for place in (folder, *folder.absolute().parents) if place.exists())
    if not there.is_dir():
        raise InputError(f"folder: expected a folder for checkpoints, got the file {there}; name another place")
    if not path.exists():
        return None
    try:
        with path.open("rb") as opened, np.load(opened, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
        about = json.loads(str(arrays.pop("about")))
    except (OSError, *UNREADABLE) as e:
        # NumPy's own text for a ValueError advises to load what may run code
        why = "" if isinstance(e, ValueError) else f": {e}"
        raise InputError(f"{path}: expected a checkpoint of a training, got a damaged file; delete it{why}") from e
    return about, arrays
