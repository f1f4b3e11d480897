"""Arguments of the wrong kind, refused with the cure; and which of several an error is about."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np

from stepstream.arrays import float32, short
from stepstream.errors import InputError
from stepstream.graph.ir import Array

CURES = {
    "Cost": "stepstream.learn.Cost(error=1, delay=0.25) is one",
    "Model": "stepstream.load(path) reads one",
    "Recipe": "stepstream.learn.Recipe(**settings) makes one of a dict",
    "Sequences": "stepstream.learn.sequences(X, y) makes them of arrays, stepstream.learn.read of a file",
    "Training": "stepstream.learn.train gives one",
}


def of_kind(what: str, value: Any, kind: type) -> None:
    """Raises InputError for a value of another type."""
    if not isinstance(value, kind):
        raise InputError(f"{what}: expected {kind.__name__}, got {type(value).__name__}; {CURES[kind.__name__]}")


def of_sequences(what: str, values: Any, keys: Sequence[str]) -> tuple[Array, ...]:
    """An array, or lists of numbers, for each sequence: float32 each. Raises InputError."""
    if not isinstance(values, list | tuple | np.ndarray) or len(values) != len(keys):
        count = f"{len(values)}" if isinstance(values, list | tuple | np.ndarray) else short(values)
        raise InputError(f"{what}: expected those of {len(keys)} sequences, (time, classes) each, got {count}")
    return tuple(float32(v, f"{what} of sequence {k!r} as numbers") for k, v in zip(keys, values, strict=True))


@contextmanager
def about(what: str) -> Iterator[None]:
    """Errors begin with what they are about."""
    try:
        yield
    except InputError as e:
        raise InputError(f"{what}: {e}") from e
