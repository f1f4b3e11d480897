"""HDF5 files from outside, read in pure Python within limits: no link, filter or count in a file can hurt.

The C library hangs on some damaged files (attribute counts that are no counts), and nothing inside a process can stop
it. pyfive decodes the structures; all that it reads passes a meter, and arrays are taken from the file here, after
what they promise was compared with what the file holds.
"""

from __future__ import annotations

import io
import math
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, BinaryIO, final

import numpy as np

from stepstream import limits
from stepstream.errors import ModelFileError, StepstreamError
from stepstream.formats.files import inflate, regular_file
from stepstream.formats.hdf5_meter import Meter, Refused, boundary
from stepstream.graph.ir import Array

SIGNATURE = b"\x89HDF\r\n\x1a\n"
Value = str | int | float | list[Any]


@contextmanager
def opened(
    source: str | Path | bytes,
    where: str,
    error: type[StepstreamError] = ModelFileError,
    most: int = limits.MAX_FILE_BYTES,
) -> Iterator[Group]:
    """The root group of a file, or of its bytes; all that is wrong with the file becomes one `error` in the block.

    where: how messages name the file. most: bytes that it may have. Raises error.
    """
    try:
        with io.BytesIO(source) if isinstance(source, bytes) else regular_file(source) as file:
            yield Group(_File(file, most), where, "", ())
    except Refused as e:
        raise error(f"{where}: {str(e)[: limits.MAX_MESSAGE]}") from e
    except OSError as e:
        raise error(f"{where}: {e.strerror or e}") from e


class _File:
    """What all groups of one file share: its meter, its objects by address, and how much was taken from it."""

    def __init__(self, file: BinaryIO, most: int) -> None:
        self.meter = Meter(file)
        if self.meter.size > most:
            raise Refused(f"expected at most {most} bytes, got {self.meter.size}")
        self.heaps: dict[int, Any] = {}
        self.objects: dict[int, Any] = {}
        self.links_left = limits.MAX_LINKS
        self.expands = min(limits.MAX_WEIGHT_BYTES, limits.FREE_BYTES + limits.MAX_EXPANSION * self.meter.size)
        self.taken = 0
        with boundary("superblock"):
            self.root = self._superblock()

    def _superblock(self) -> int:
        """The address of the root group (HDF5 File Format Specification, II.A)."""
        head = self.meter.take(0, min(self.meter.size, 96))
        if not head.startswith(SIGNATURE):
            raise Refused("expected an HDF5 file, got something else")
        version = head[8]
        sizes, at = {0: (13, 24), 1: (13, 28), 2: (9, 12), 3: (9, 12)}.get(version, (0, 0))
        if not sizes or head[sizes] != 8 or head[sizes + 1] != 8:
            raise Refused(f"expected a superblock of version 0 to 3 with 8-byte addresses, got version {version}")
        base, _, end = struct.unpack_from("<QQQ", head, at)
        (root,) = struct.unpack_from("<Q", head, at + 24 if version >= 2 else at + 40)
        if base:
            raise Refused(f"expected HDF5 from the first byte, got {base} bytes in front of it; copy it with h5repack")
        if end > self.meter.size:
            raise Refused(f"expected {end} bytes, got {self.meter.size}: the file is cut off; copy it again")
        return int(root)

    def object(self, address: int) -> Any:
        if address not in self.objects:
            from stepstream.formats.hdf5_objects import Header

            with self.meter.one_header():
                header = Header(self.meter, address, global_heaps=self.heaps)
            if len(header.msgs) > limits.MAX_HEADER_MESSAGES:
                raise Refused(f"expected at most {limits.MAX_HEADER_MESSAGES} entries in a header, got more")
            header.refuse_shared()
            self.objects[address] = header
        return self.objects[address]

    def spend(self, count: int) -> None:
        """Before anything is allocated: all arrays together may not outgrow the file beyond reason."""
        self.taken += count
        if self.taken > self.expands:
            raise Refused(
                f"expected arrays of at most {self.expands} bytes in a file of {self.meter.size}, got more; "
                "save the model without compression"
            )


@dataclass(frozen=True)
class Dataset:
    """What a dataset says of itself. kind: as in NumPy, "f", "i", "u", or "S" for texts."""

    shape: tuple[int, ...]
    kind: str


@final
class Group:
    """One group: attributes, names, groups and datasets below it by path ("a/b/c")."""

    def __init__(self, file: _File, where: str, path: str, above: tuple[int, ...], address: int | None = None) -> None:
        self._file = file
        self._address = file.root if address is None else address
        self._above = (*above, self._address)
        self.where = where
        self.path = path
        self._children: dict[str, Group] = {}
        with boundary(self._place):
            if len(self._above) > limits.MAX_GROUP_DEPTH:
                raise Refused(f"expected groups at most {limits.MAX_GROUP_DEPTH} deep, got more")
            if self._address in above:
                raise Refused("expected a tree of groups, got one that contains itself")
            self._object = file.object(self._address)
            if not self._object.is_a_group:
                raise Refused("expected a group, got something else")

    @property
    def _place(self) -> str:
        return self.path or "the root group"

    @cached_property
    def _links(self) -> dict[str, int]:
        links: dict[str, int] = {}
        with boundary(self._place):
            for name, address in self._object.links():
                self._file.links_left -= 1
                if self._file.links_left < 0:
                    raise Refused(f"expected at most {limits.MAX_LINKS} objects, got more")
                if name in links or not name or "/" in name or "\0" in name:
                    raise Refused(f"expected different names without slashes, got {name[:80]!r}")
                links[name] = address
        return links

    @cached_property
    def _attributes(self) -> dict[str, Any]:
        with boundary(self._place):
            return self._object.attributes()

    def names(self) -> list[str]:
        """What lies directly in the group, in the file's order."""
        return list(self._links)

    def attr_names(self) -> list[str]:
        return list(self._attributes)

    def attr(self, name: str) -> Value | None:
        """An attribute as str, int, float or a list of them, bytes decoded; None where there is none.

        Keras cuts lists above 64 KiB into `name0`, `name1`, ...: they come back as one.
        """
        if name in self._attributes:
            return self._attr(name)
        joined: list[Any] = []
        while f"{name}{len(joined)}" in self._attributes:
            joined.append(self._attr(f"{name}{len(joined)}"))
        if not joined or not all(isinstance(part, list) for part in joined):
            return None
        return [value for part in joined for value in part]

    def _attr(self, name: str) -> Value:
        with boundary(f"{self._place}: attribute {name!r}"):
            return self._object.value(self._attributes[name])

    def has(self, path: str) -> bool:
        return self._find(path) is not None

    def is_group(self, path: str) -> bool:
        found = self._find(path)
        return found is not None and found[0]._object_at(found[1]).is_a_group

    def group(self, path: str) -> Group:
        """Raises Refused where there is none."""
        owner, name = self._found(path)
        return owner._child(name)

    def dataset(self, path: str) -> Dataset | None:
        """A dataset's shape and kind, its data unread; None where there is no dataset."""
        found = self._find(path)
        if found is None or not found[0]._object_at(found[1]).is_a_dataset:
            return None
        owner, name = found
        with boundary(owner._join(name)):
            stored = owner._object_at(name).stored()
        kind = {"bfloat16": "f", "number": stored.type.dtype.kind}.get(stored.type.kind, "S")
        return Dataset(stored.shape, kind)

    def datasets(self) -> Iterator[str]:
        """The paths of all datasets below this group."""
        for name in self._links:
            header = self._object_at(name)
            if header.is_a_group:
                yield from (f"{name}/{path}" for path in self._child(name).datasets())
            elif header.is_a_dataset:
                yield name

    def array(self, path: str) -> Array:
        """A dataset of numbers as float32; what float32 cannot hold becomes Inf."""
        values = self.raw(path)
        if values.dtype.kind not in "fiu":
            owner, name = self._found(path)
            raise Refused("expected numbers, got texts", owner._join(name))
        with np.errstate(over="ignore"):
            return values.astype(np.float32)

    def raw(self, path: str) -> np.ndarray[Any, Any]:
        """A dataset as it is: numbers in their own type, bfloat16 as float32, texts as an object array of str."""
        owner, name = self._found(path)
        with boundary(owner._join(name)):
            header = owner._object_at(name)
            if not header.is_a_dataset:
                raise Refused("expected an array, got a group")
            return _read(self._file, header)

    def _object_at(self, name: str) -> Any:
        with boundary(self._join(name)):
            return self._file.object(self._links[name])

    def _child(self, name: str) -> Group:
        if name not in self._children:  # a group is listed once, however often something is looked for in it
            self._children[name] = Group(self._file, self.where, self._join(name), self._above, self._links[name])
        return self._children[name]

    def _join(self, name: str) -> str:
        return f"{self.path}/{name}" if self.path else name

    def _find(self, path: str) -> tuple[Group, str] | None:
        """The group that holds the last part of the path, and that part; None where it does not exist."""
        *groups, last = [part for part in path.split("/") if part] or [""]
        owner = self
        for part in groups:
            if part not in owner._links or not owner._object_at(part).is_a_group:
                return None
            owner = owner._child(part)
        return (owner, last) if last in owner._links else None

    def _found(self, path: str) -> tuple[Group, str]:
        found = self._find(path)
        if found is None:
            names = ", ".join(map(repr, self.names()[:8])) or "nothing"
            raise Refused(f"expected {path!r} in it, got {names}", self._place)
        return found


def _read(file: _File, header: Any) -> np.ndarray[Any, Any]:
    from stepstream.formats.hdf5_objects import chunks

    stored = header.stored()
    count = math.prod(stored.shape)
    file.spend(max(stored.bytes, 4 * count))  # as it lies there, and as float32
    if not count:
        data = b""
    elif stored.layout == "compact":
        if len(stored.compact) < stored.bytes:
            raise Refused(f"expected {stored.bytes} bytes for shape {stored.shape}, got {len(stored.compact)}")
        data = stored.compact[: stored.bytes]
    elif stored.layout == "contiguous":
        if stored.address + stored.bytes > file.meter.size:
            raise Refused(
                f"expected {stored.bytes} bytes for shape {stored.shape}, got fewer: none were written, or the file "
                "is cut off; save or copy it again"
            )
        data = file.meter.take(stored.address, stored.bytes)
    else:
        size = math.prod(stored.chunk) * stored.type.dtype.itemsize
        grid = math.prod(-(-n // c) for n, c in zip(stored.shape, stored.chunk, strict=True))
        file.spend(size * grid)
        array = np.empty(stored.shape, stored.type.dtype)
        for region, offset, packed in chunks(file.meter, stored):
            piece = np.frombuffer(
                _unpack(file.meter.take(offset, packed), stored.filters, size, stored.type.dtype.itemsize),
                stored.type.dtype,
            )
            inside = tuple(slice(0, s.stop - s.start) for s in region)
            array[region] = piece.reshape(stored.chunk)[inside]
        data = array.tobytes()
    values = header.decode(data, stored.type)
    if isinstance(values, list):
        texts = np.empty(count, object)
        texts[:] = values
        values = texts
    return values.reshape(stored.shape)


def _unpack(data: bytes, filters: tuple[int, ...], size: int, item: int) -> bytes:
    """The filters undone, last first; exactly `size` bytes, and never more than that in memory."""
    from stepstream.formats.hdf5_objects import FLETCHER32, GZIP, SHUFFLE

    for f in reversed(filters):
        if f == GZIP:
            data = inflate(data, size + 8, 15)  # a checksum may have been packed too
        elif f == FLETCHER32:
            data, stored = data[:-4], data[-4:]
            if len(stored) != 4 or _fletcher32(data) != tuple(n % 65535 for n in struct.unpack("<HH", stored)):
                raise Refused("expected the chunk's checksum, got another: the file is damaged; copy it again")
        elif f == SHUFFLE:
            whole = len(data) // item * item
            data = np.frombuffer(data[:whole], np.uint8).reshape(item, -1).T.tobytes() + data[whole:]
    if len(data) != size:
        raise Refused(f"expected a chunk of {size} bytes, got {len(data)}")
    return data


def _fletcher32(data: bytes) -> tuple[int, int]:
    """HDF5's checksum: both sums of big-endian 16-bit words, modulo 65535; an odd byte is the upper half of a word."""
    words = np.frombuffer(data + b"\0" * (len(data) % 2), ">u2").astype(np.uint64)
    weights = np.arange(len(words), 0, -1, dtype=np.uint64) % np.uint64(65535)
    return int(words.sum()) % 65535, int((words * weights % np.uint64(65535)).sum()) % 65535
