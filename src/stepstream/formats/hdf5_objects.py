"""The structures of an HDF5 file: pyfive splits headers and walks indexes, this decides what is safe to follow.

Imported only when a file is opened. Numbers in comments are sections of the HDF5 File Format Specification, version 3.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np
from pyfive.btree import BTreeV1RawDataChunks
from pyfive.dataobjects import DataObjects

from stepstream import limits
from stepstream.formats.hdf5_meter import Meter, Refused

_SPACE, _TYPE, _EXTERNAL, _LAYOUT, _ATTRIBUTE = 1, 3, 7, 8, 12  # header messages, IV.A.2
_GROUP = {2, 6, 10, 17}  # link info, link, group info, symbol table
GZIP, SHUFFLE, FLETCHER32 = 1, 2, 3
_FILTERS = {4: "szip", 5: "n-bit", 6: "scale-offset", 32000: "lzf", 32001: "blosc", 32004: "lz4", 32015: "zstd"}
# (bytes, exponent bits, mantissa bits) -> NumPy's name; bfloat16 is the upper half of a float32
_FLOATS = {(2, 5, 10): "f2", (2, 8, 7): "V2", (4, 8, 23): "f4", (8, 11, 52): "f8"}


@dataclass(frozen=True)
class Type:
    """kind: "number", "bfloat16", "text" (fixed length) or "string" (in a heap). dtype: as it lies in the file."""

    kind: str
    dtype: np.dtype[Any]


@dataclass(frozen=True)
class Stored:
    """A dataset. layout: "compact", "contiguous" or "chunked". filters: ids in the order in which they were applied."""

    shape: tuple[int, ...]
    type: Type
    layout: str
    address: int
    compact: bytes
    chunk: tuple[int, ...]
    filters: tuple[int, ...]

    @property
    def bytes(self) -> int:
        return math.prod(self.shape) * self.type.dtype.itemsize


@dataclass(frozen=True)
class _Place:
    """Where an attribute's parts lie; its value is decoded only when somebody asks for it."""

    buffer: bytes
    type: int
    space: int
    data: int


class Header(DataObjects):  # type: ignore[misc]
    """One object: its links, attributes, and its dataset if it is one."""

    @property
    def kinds(self) -> set[int]:
        return {m["type"] for m in self.msgs}

    @property
    def is_a_group(self) -> bool:
        return bool(self.kinds & _GROUP) and not self.is_a_dataset

    @property
    def is_a_dataset(self) -> bool:
        return {_SPACE, _TYPE, _LAYOUT} <= self.kinds

    def refuse_shared(self) -> None:
        """Messages that lie elsewhere (IV.A.1.a, flag 1) would be misread as if they lay here."""
        for m in self.msgs:
            if m["type"] and m["flags"] & 2:  # type 0 is a gap between messages, its flags anything
                raise Refused("expected every property in its own object, got a shared one; save the model with Keras")

    def links(self) -> Iterator[tuple[str, int]]:
        for name, target in self.iter_links():
            if isinstance(target, str):
                raise Refused(f"expected data, got a soft link {name!r} to {target[:80]!r}; {_COPY}")
            yield name, target

    @staticmethod
    def _decode_link_msg(data: bytes, offset: int) -> tuple[int | None, tuple[str, int]]:
        flags = data[offset + 1]
        kind = data[offset + 2] if flags & 8 else 0
        if kind:
            at = offset + 3 + (8 if flags & 4 else 0) + bool(flags & 16)
            width = 1 << (flags & 3)
            length = int.from_bytes(data[at : at + width], "little")
            name = data[at + width : at + width + min(length, 80)].decode("utf-8", "replace")
            what = {1: "a soft", 64: "an external"}.get(kind, "a user-defined")
            raise Refused(f"expected data, got {what} link {name!r}; {_COPY}")
        return DataObjects._decode_link_msg(data, offset)

    def attributes(self) -> dict[str, _Place]:
        """By name, undecoded: `_parse_attribute_msg` is what pyfive calls for each."""
        return self.get_attributes()

    def _parse_attribute_msg(self, buffer: bytes, offset: int) -> tuple[str, _Place]:
        version, flags, name_size, type_size, space_size = struct.unpack_from("<BBHHH", buffer, offset)  # IV.A.2.m
        if version not in (1, 2, 3):
            raise Refused(f"expected an attribute of version 1 to 3, got {version}")
        if version > 1 and flags & 3:
            raise Refused("expected an attribute with its own type, got a shared one; save the model with Keras")
        at = offset + (9 if version == 3 else 8)

        def skip(size: int) -> int:
            return at + (-(-size // 8) * 8 if version == 1 else size)

        name = bytes(buffer[at : at + name_size]).partition(b"\0")[0].decode()
        type_at = skip(name_size)
        at = type_at
        space_at = skip(type_size)
        at = space_at
        return name, _Place(buffer, type_at, space_at, skip(space_size))

    def value(self, place: _Place) -> Any:
        """str, int, float, or a list of them; a shape of more than one axis is flattened."""
        kind, shape = read_type(place.buffer, place.type), read_space(place.buffer, place.space)
        if shape is None:
            return []
        count, size = math.prod(shape), kind.dtype.itemsize
        if count > limits.MAX_ATTRIBUTE_ITEMS or place.data + count * size > len(place.buffer):
            raise Refused(f"expected an attribute's values, got fewer bytes than {count} values of {size} bytes")
        data = bytes(place.buffer[place.data : place.data + count * size])
        values = self.decode(data, kind)
        if isinstance(values, np.ndarray):
            values = values.tolist()
        return values if shape else values[0]

    def decode(self, data: bytes, kind: Type) -> Any:
        """An array of numbers, or a list of str."""
        if kind.kind == "text":
            size = kind.dtype.itemsize
            return [_text(data[i : i + size].partition(b"\0")[0]) for i in range(0, len(data), size)]
        if kind.kind == "string":
            texts, total = [], 0
            for i in range(0, len(data), 16):
                text = self._vlen_size_and_data(data, i)[1] or b""
                total += len(text)
                if total > limits.MAX_STRING_BYTES:
                    raise Refused(f"expected texts of at most {limits.MAX_STRING_BYTES} bytes, got more")
                texts.append(_text(text))
            return texts
        values = np.frombuffer(data, kind.dtype)
        if kind.kind == "bfloat16":
            return (values.view("<u2").astype(np.uint32) << 16).view(np.float32)
        return values

    def stored(self) -> Stored:
        """The dataset, compared with itself. Nothing of its data is read."""
        if _EXTERNAL in self.kinds:
            raise Refused(f"expected data, got a list of other files that hold it (external storage); {_COPY}")
        found = {kind: self.find_msg_type(kind) for kind in (_SPACE, _TYPE, _LAYOUT)}
        if any(len(messages) != 1 for messages in found.values()):
            raise Refused("expected one shape, one type and one layout, got several")
        at = {kind: messages[0]["offset_to_message"] for kind, messages in found.items()}
        shape = read_space(self.msg_data, at[_SPACE])
        if shape is None:
            raise Refused("expected an array, got an empty dataspace")
        kind = read_type(self.msg_data, at[_TYPE])
        filters = tuple(f["filter_id"] for f in self.filter_pipeline or ())
        for f in filters:
            if f not in (GZIP, SHUFFLE, FLETCHER32):
                raise Refused(
                    f"expected data plain or packed by gzip, shuffle or fletcher32, got the filter "
                    f"{_FILTERS.get(f, f)}; repack the file with `h5repack -f NONE`"
                )
        if len(set(filters)) != len(filters):
            raise Refused("expected every filter once, got one several times")
        layout, address, compact, chunk = self._layout(at[_LAYOUT])
        if layout == "chunked":
            if len(chunk) != len(shape) + 1 or chunk[-1] != kind.dtype.itemsize or 0 in chunk or not shape:
                raise Refused(f"expected chunks that fit an array of shape {shape}, got {chunk}")
            chunk = chunk[:-1]
        elif filters:
            raise Refused("expected filters on chunks only")
        return Stored(shape, kind, layout, address, compact, chunk, filters)

    def _layout(self, at: int) -> tuple[str, int, bytes, tuple[int, ...]]:
        """(layout, address, compact data, chunk shape and item size), IV.A.2.i."""
        data = self.msg_data
        version, kind = data[at], data[at + 1]
        if version not in (3, 4):
            raise Refused(f"expected a data layout of version 3 or 4, got {version}; copy the file with h5repack")
        if kind == 0:
            (size,) = struct.unpack_from("<H", data, at + 2)
            return "compact", at + 4, bytes(data[at + 4 : at + 4 + size]), ()
        if kind == 1:
            return "contiguous", struct.unpack_from("<Q", data, at + 2)[0], b"", ()
        if kind == 2 and version == 3:
            rank, address = struct.unpack_from("<BQ", data, at + 2)
            if rank > limits.MAX_RANK + 1:
                raise Refused(f"expected at most {limits.MAX_RANK} axes, got {rank - 1}")
            return "chunked", address, b"", struct.unpack_from(f"<{rank}I", data, at + 11)
        if kind == 2:
            raise Refused("expected chunks indexed as Keras does, got those of libver='latest'; copy it with h5repack")
        if kind == 3:
            raise Refused(f"expected data, got a virtual dataset, which lies in other files; {_COPY}")
        raise Refused(f"expected a data layout of class 0 to 3, got {kind}")


_COPY = "nothing but the file itself is read; save the model with Keras, with all its data in one file"


def chunks(meter: Meter, stored: Stored) -> Iterator[tuple[tuple[slice, ...], int, int]]:
    """(region, offset, bytes) of every chunk; each is there exactly once and begins where it should."""
    grid = [range(0, n, c) for n, c in zip(stored.shape, stored.chunk, strict=True)]
    expected = math.prod(map(len, grid))
    if expected > limits.MAX_CHUNKS:
        raise Refused(f"expected at most {limits.MAX_CHUNKS} chunks, got {expected}")
    found: dict[tuple[int, ...], tuple[int, int]] = {}
    tree = BTreeV1RawDataChunks(meter, stored.address, len(stored.shape) + 1)
    for node in tree.all_nodes[0]:
        for key, address in zip(node["keys"], node["addresses"], strict=True):
            if key["filter_mask"]:
                raise Refused("expected all chunks packed alike, got one that skips a filter")
            start = key["chunk_offset"][:-1]
            if start in found or len(found) >= expected:
                raise Refused(f"expected {expected} chunks, got {start} twice or more of them")
            found[start] = address, key["chunk_size"]
    for start in product(*grid):
        if start not in found:
            raise Refused(f"expected a chunk at {start}, got none: the file is incomplete")
        region = tuple(slice(s, min(s + c, n)) for s, c, n in zip(start, stored.chunk, stored.shape, strict=True))
        yield region, *found[start]


def read_space(data: bytes, at: int) -> tuple[int, ...] | None:
    """A shape, or None for "null" (IV.A.2.b)."""
    version, rank, flags = data[at], data[at + 1], data[at + 2]
    if version not in (1, 2) or rank > limits.MAX_RANK or flags & 2:
        raise Refused(f"expected a shape of at most {limits.MAX_RANK} axes, got version {version} with {rank} axes")
    if version == 2 and data[at + 3] == 2:
        return None
    return struct.unpack_from(f"<{rank}Q", data, at + (8 if version == 1 else 4))


def read_type(data: bytes, at: int) -> Type:
    """A type of numbers or texts (IV.A.2.d). What it does not say in NumPy's words is refused, never guessed."""
    head, bits, size = data[at] & 15, data[at + 1], struct.unpack_from("<I", data, at + 4)[0]
    order = ">" if bits & 1 else "<"
    if head == 0 and size in (1, 2, 4, 8):
        if struct.unpack_from("<HH", data, at + 8) == (0, 8 * size):
            return Type("number", np.dtype(f"{order}{'i' if bits & 8 else 'u'}{size}"))
    elif head == 1 and size in (2, 4, 8):
        offset, precision, e_at, e_bits, m_at, m_bits, bias = struct.unpack_from("<HHBBBBI", data, at + 8)
        name = _FLOATS.get((size, e_bits, m_bits))
        usual = (0, 8 * size, m_bits, 0, 2 ** (e_bits - 1) - 1) if e_bits else ()
        usual_bits = (0x20, 8 * size - 1)  # an implied leading 1; the place of the sign
        if (bits & ~1, data[at + 2]) == usual_bits and name and (offset, precision, e_at, m_at, bias) == usual:
            if name != "V2":
                return Type("number", np.dtype(f"{order}{name}"))
            if order == "<":
                return Type("bfloat16", np.dtype("V2"))
    elif head == 3 and 0 < size <= limits.MAX_JSON_BYTES:
        return Type("text", np.dtype(f"S{size}"))
    elif head == 5 and size == 2:
        return Type("bfloat16", np.dtype("V2"))
    elif head == 8 and data[at + 8] & 15 == 0:
        return read_type(data, at + 8)  # an enumeration, as h5py writes booleans
    elif head == 9 and bits & 15 == 1 and size == 16:
        return Type("string", np.dtype("V16"))
    names = {2: "times", 4: "bit fields", 6: "records", 7: "references", 9: "lists of changing length", 10: "arrays"}
    raise Refused(f"expected numbers or texts, got {names.get(head, f'type {head}')} of {size} bytes")


def _text(data: bytes) -> str:
    try:
        return data.decode()
    except UnicodeDecodeError as e:
        raise Refused(f"expected text in UTF-8, got {data[:40]!r}") from e
