"""The file of a bundle: named JSON texts and float32 arrays in a safetensors file, under one SHA-256.

Format facts (huggingface/safetensors, README, "Format"): 8 bytes say how long the header is, little-endian; the header
is a JSON object, blanks behind it; `__metadata__` maps names to texts, every other name is an array with dtype, shape
and data_offsets, counted from the header's end; the arrays cover the rest of the file without holes.

Written and read here and not by the library, which puts metadata in another order each time, so that no two files
would be equal. The sum is the first text of all, so that it always lies at the same bytes: the SHA-256 of the file
that has 64 times "0" there, looked at before anything else. All other sums only name what is damaged.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from stepstream import limits
from stepstream.errors import InputError, ModelFileError, StepstreamError
from stepstream.formats import json_text
from stepstream.graph.ir import Array

PREFIX = b'{"__metadata__":{"sha256":"'
SUM = slice(8 + len(PREFIX), 8 + len(PREFIX) + 64)  # where it lies
_ZEROS = b"0" * 64
_WORDS = {
    "bundle": "the header",
    "check": "the check vectors",
    "graph": "the graph",
    "model": "the model's names and lengths",
    "provenance": "the provenance",
}


@dataclass(frozen=True)
class _Place:
    """Where an array lies, counted from the header's end."""

    shape: tuple[int, ...]
    begin: int
    end: int


def begins(head: bytes) -> bool:
    """Whether the first bytes of a file are those of a bundle."""
    return head[8 : SUM.start] == PREFIX


def packed(texts: Mapping[str, str], arrays: Mapping[str, Array]) -> list[bytes]:
    """The file, in pieces. Raises InputError for more than `unpacked` takes."""
    bodies = {name: array.astype("<f4", copy=False).tobytes() for name, array in arrays.items()}
    sums = {name: _short(part) for name, part in _parts(texts, bodies)}
    sums["sums"] = _short(_dump(sums))
    header: dict[str, Any] = {"__metadata__": {"sha256": _ZEROS.decode(), **texts, "sums": _dump(sums).decode()}}
    at = 0
    for name, array in arrays.items():
        header[name] = {"dtype": "F32", "shape": list(array.shape), "data_offsets": [at, at + 4 * array.size]}
        at += 4 * array.size
    text = _dump(header)
    text += b" " * (-len(text) % 8)  # so that the arrays lie as processors like it
    _bounded(text, len(arrays), at, "the model", InputError)
    for name, piece in {"header": text.decode(), **texts}.items():
        json_text.value(piece, f"the model's {name}", InputError)
    head = len(text).to_bytes(8, "little") + text
    total = _total([head, *bodies.values()]).encode()
    return [head[: SUM.start] + total + head[SUM.stop :], *bodies.values()]


def unpacked(data: bytes, where: str) -> tuple[dict[str, str], dict[str, Array]]:
    """Texts, and arrays that share the memory of data. Raises ModelFileError, naming what is damaged."""
    if len(data) < SUM.stop:
        raise ModelFileError(f"{where}: expected a bundle, got {len(data)} bytes: cut off; copy the file again")
    view = memoryview(data)
    total = _total([view[: SUM.start], _ZEROS, view[SUM.stop :]])
    if data[SUM] != total.encode():
        got = data[SUM].decode("ascii", "replace")
        raise ModelFileError(
            f"{where}: {_damaged(data, where)}: expected what the file was saved with, by its SHA-256 {got!r}, got "
            f"{total}; copy the file again"
        )
    texts, places, start = _read(data, where)
    arrays = {
        name: np.frombuffer(data, "<f4", (p.end - p.begin) // 4, start + p.begin).reshape(p.shape)
        for name, p in places.items()
    }
    return texts, arrays


def _read(data: bytes, where: str) -> tuple[dict[str, str], dict[str, _Place], int]:
    """Texts, where the arrays lie, and where the header ends. Raises ModelFileError for what is not laid out so."""
    length = int.from_bytes(data[:8], "little")
    if not begins(data) or length % 8 or not SUM.stop <= 8 + length <= len(data):
        raise ModelFileError(
            f"{where}: the header: expected one of a bundle, got a length of {length} and {data[8 : SUM.start]!r}"
        )
    start = 8 + length
    _bounded(data[8 : min(start, 8 + limits.MAX_JSON_BYTES + 1)], 0, len(data) - start, where, ModelFileError)
    header = json_text.parse(data[8:start], f"{where}: the header")
    texts = header.pop("__metadata__")
    if not isinstance(texts, dict) or not all(isinstance(v, str) for v in texts.values()):
        raise ModelFileError(f"{where}: the header: expected texts as metadata, got something else")
    if len(header) > limits.MAX_TENSORS:
        raise ModelFileError(f"{where}: the header: expected at most {limits.MAX_TENSORS} arrays, got {len(header)}")
    places: dict[str, _Place] = {}
    at = 0
    for name, entry in header.items():
        place = _place(entry, at)
        if place is None:
            raise ModelFileError(
                f"{where}: the header: expected float32 values from byte {at} as {name[:200]!r}, got {str(entry)[:200]}"
            )
        places[name], at = place, place.end
    if start + at != len(data):
        raise ModelFileError(f"{where}: expected {start + at} bytes as the header says, got {len(data)}: cut off?")
    del texts["sha256"]
    return texts, places, start


def _place(entry: Any, at: int) -> _Place | None:
    """None for an entry that is none, or of an array that does not begin where the one before ends."""
    if not isinstance(entry, dict) or set(entry) != {"dtype", "shape", "data_offsets"} or entry["dtype"] != "F32":
        return None
    shape = entry["shape"]
    if not isinstance(shape, list) or len(shape) > limits.MAX_RANK or any(type(n) is not int or n < 1 for n in shape):
        return None
    end = at + 4 * math.prod(shape)
    return _Place(tuple(shape), at, end) if entry["data_offsets"] == [at, end] else None


def _bounded(header: bytes, arrays: int, size: int, where: str, error: type[StepstreamError]) -> None:
    """Raises error for more than a file may hold: of JSON in all texts together, and of numbers."""
    if len(header) > limits.MAX_JSON_BYTES:
        raise error(f"{where}: expected a header of at most {limits.MAX_JSON_BYTES} bytes, got more")
    if sum(header.count(mark) for mark in (b",", b"[", b"{")) > limits.MAX_JSON_ELEMENTS:
        raise error(f"{where}: expected at most {limits.MAX_JSON_ELEMENTS} elements of JSON in the header, got more")
    if arrays > limits.MAX_TENSORS or size > limits.MAX_WEIGHT_BYTES:
        raise error(
            f"{where}: expected at most {limits.MAX_TENSORS} arrays and {limits.MAX_WEIGHT_BYTES} bytes of them, got "
            f"{arrays} and {size}"
        )


def _damaged(data: bytes, where: str) -> str:
    """What is not as its own sum says, in words."""
    try:
        texts, places, start = _read(data, where)
        sums = json_text.parse(texts.pop("sums", ""), where)
    except ModelFileError:
        return "the header is damaged, or the file was cut off"
    own = sums.pop("sums", None)
    view = memoryview(data)[start:]
    bodies = {name: view[p.begin : p.end] for name, p in places.items()}
    found = {name: _short(part) for name, part in _parts(texts, bodies)}
    if own != _short(_dump(sums)) or set(sums) != set(found):
        return "the header is damaged"
    wrong = list(dict.fromkeys(_words(name) for name in found if found[name] != sums[name]))
    if not wrong:
        return "the header is damaged"
    return f"{', '.join(wrong[:8])}{' and more' if len(wrong) > 8 else ''}: damaged"


def _words(name: str) -> str:
    """What a text or an array is, for an error."""
    kind, _, rest = name.partition("/")
    if kind == "weights":
        node, _, weight = rest.rpartition("/")
        return f"weight {weight!r} of node {node[:200]!r}"
    return f"report {rest[:200]!r}" if kind == "reports" else _WORDS.get(kind, "the header")


def _parts(texts: Mapping[str, str], bodies: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    yield from ((name, text.encode()) for name, text in texts.items())
    yield from bodies.items()


def _dump(value: Any) -> bytes:
    return json.dumps(value, separators=(",", ":"), allow_nan=False).encode()


def _total(pieces: Iterable[bytes | memoryview]) -> str:
    total = hashlib.sha256()
    for piece in pieces:
        total.update(piece)
    return total.hexdigest()


def _short(part: bytes | memoryview) -> str:
    """Enough to see damage by."""
    return hashlib.sha256(part).hexdigest()[:16]
