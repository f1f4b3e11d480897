"""Zip archives from outside: the whole directory is checked before anything is unpacked, and nothing goes to disk.

Read here and not by zipfile, which believes the directory, takes the last of two entries of one name, and looks for
archives inside other files. Names in comments are sections of PKWARE's APPNOTE.TXT, version 6.3.
"""

from __future__ import annotations

import os
import stat
import struct
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, final

from stepstream import limits
from stepstream.errors import ModelFileError
from stepstream.formats.files import inflate, regular_file
from stepstream.formats.hdf5_meter import Refused

SIGNATURE = b"PK\x03\x04"
_LOCAL = struct.Struct("<4s5H3I2H")  # 4.3.7
_CENTRAL = struct.Struct("<4s6H3I5H2I")  # 4.3.12
_END = struct.Struct("<4s4H2IH")  # 4.3.16
_STORED, _DEFLATED = 0, 8
_METHODS = {1: "shrink", 6: "implode", 9: "deflate64", 12: "bzip2", 14: "lzma", 93: "zstd", 95: "xz", 99: "AES"}
_STREAMED, _UTF8 = 1 << 3, 1 << 11
_FLAGS = 0b110 | _STREAMED | _UTF8  # and how hard deflate tried
_FULL = 0xFFFFFFFF


@dataclass(frozen=True)
class _Entry:
    name: str
    flags: int
    method: int
    crc: int
    packed: int
    size: int
    offset: int


@contextmanager
def opened(path: str | Path) -> Iterator[Archive]:
    """A zip archive for reading. Raises ModelFileError, also for what is read of it in the block."""
    try:
        with regular_file(path) as file:
            yield Archive(file)
    except Refused as e:
        raise ModelFileError(f"{path}: {e}") from e
    except OSError as e:
        raise ModelFileError(f"{path}: {e.strerror or e}") from e


@final
class Archive:
    """The entries of one archive, by name."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._size = file.seek(0, os.SEEK_END)
        self._entries = {e.name: e for e in self._directory()}
        self._left = min(limits.MAX_WEIGHT_BYTES, limits.FREE_BYTES + limits.MAX_EXPANSION * self._size)

    @property
    def names(self) -> list[str]:
        return list(self._entries)

    def read(self, name: str, most: int) -> bytes:
        """An entry's bytes, at most so many. Raises Refused."""
        e = self._entries[name]
        if e.size > most:
            raise Refused(f"{name}: expected at most {most} bytes, got {e.size}")
        self._left -= e.size
        if self._left < 0:
            raise Refused(
                f"{name}: expected an archive that unpacks to at most {limits.MAX_EXPANSION} times its size, got "
                f"{e.size} bytes from {e.packed}; save the model again"
            )
        data = self._take(self._data_offset(e), e.packed)
        if e.method == _DEFLATED:
            try:
                data = inflate(data, e.size, -15)
            except Refused as refused:
                raise Refused(f"{name}: {refused}") from refused
        if len(data) != e.size:
            raise Refused(f"{name}: expected {e.size} bytes as the directory says, got {len(data)}")
        if zlib.crc32(data) != e.crc:
            raise Refused(f"{name}: expected its checksum, got another: the file is damaged; copy it again")
        return data

    def _take(self, offset: int, count: int) -> bytes:
        if not 0 <= offset <= offset + count <= self._size:
            raise Refused(f"expected {count} bytes at {offset}, got a file of {self._size}: cut off or damaged")
        self._file.seek(offset)
        data = self._file.read(count)
        if len(data) != count:
            raise Refused(f"expected {count} bytes at {offset}, got {len(data)}: it changed while it was read")
        return data

    def _directory(self) -> list[_Entry]:
        end = self._size - _END.size
        sign, disk, disk2, here, total, size, offset, comment = _END.unpack(self._take(end, _END.size))
        if sign != b"PK\x05\x06" or comment:
            raise Refused("expected a zip archive that ends with its directory, got one cut off or with more behind it")
        if 0xFFFF in (here, total) or _FULL in (size, offset):
            raise Refused("expected an archive below 4 GiB, got zip64")
        if disk or disk2 or here != total:
            raise Refused("expected an archive in one file, got one part of several")
        if total > limits.MAX_ZIP_ENTRIES or size > limits.MAX_ZIP_DIRECTORY_BYTES:
            raise Refused(f"expected at most {limits.MAX_ZIP_ENTRIES} entries, got {total} in {size} bytes")
        if offset + size != end:
            raise Refused("expected the directory right before the end, got it elsewhere: something was added")
        entries = self._entries_of(self._take(offset, size), total)
        names: set[str] = set()
        at = 0
        for e in sorted(entries, key=lambda e: e.offset):
            if e.name in names:
                raise Refused(f"expected every entry once, got {e.name[:80]!r} twice")
            names.add(e.name)
            if e.offset < at or (at == 0 and e.offset):
                raise Refused(f"{e.name[:80]!r}: expected entries one after the other, got overlaps or bytes in front")
            at = self._data_offset(e) + e.packed
            if at > offset:
                raise Refused(f"{e.name[:80]!r}: expected {e.packed} bytes before the directory, got fewer")
        return entries

    def _entries_of(self, data: bytes, total: int) -> list[_Entry]:
        entries: list[_Entry] = []
        at = 0
        for _ in range(total):
            if at + _CENTRAL.size > len(data):
                raise Refused(f"expected {total} entries in the directory, got {len(entries)}")
            fields = _CENTRAL.unpack_from(data, at)
            sign, _, _, flags, method, _, _, crc, packed, size, n, extra, comment, disk, _, mode, offset = fields
            name = data[at + _CENTRAL.size : at + _CENTRAL.size + n]
            at += _CENTRAL.size + n + extra + comment
            if sign != b"PK\x01\x02" or at > len(data):
                raise Refused("expected a directory of entries, got a damaged one; copy the file again")
            entries.append(_checked(name, flags, method, crc, packed, size, disk, mode >> 16, offset))
        if at != len(data):
            raise Refused(f"expected {total} entries in the directory, got more")
        return entries

    def _data_offset(self, e: _Entry) -> int:
        """Where its bytes begin, after a header that says what the directory says."""
        head = self._take(e.offset, _LOCAL.size)
        sign, _, flags, method, _, _, crc, packed, size, n, extra = _LOCAL.unpack(head)
        rest = self._take(e.offset + _LOCAL.size, n + extra)
        if sign != SIGNATURE or rest[:n] != e.name.encode():
            raise Refused(f"{e.name[:80]!r}: expected an entry of that name, got another; the directory lies")
        if _FULL in (packed, size):  # room for large sizes was kept, 4.5.3
            size, packed = _zip64(rest[n:], size, packed)
        said = (e.method, e.flags, e.crc, e.packed, e.size)
        if (method, flags, crc, packed, size) != said and not (
            flags & _STREAMED and (method, flags, crc, packed, size) == (e.method, e.flags, 0, 0, 0)
        ):
            raise Refused(f"{e.name[:80]!r}: expected what the directory says of it, got another size, sum or method")
        return e.offset + _LOCAL.size + n + extra


def _checked(
    raw: bytes, flags: int, method: int, crc: int, packed: int, size: int, disk: int, mode: int, offset: int
) -> _Entry:
    try:
        name = raw.decode()
    except UnicodeDecodeError as e:
        raise Refused(f"expected names in UTF-8, got {raw[:80]!r}") from e
    short = name[:80]
    parts = name.removesuffix("/").split("/")
    if not name or "\\" in name or ":" in name or not name.isprintable() or {"", ".", ".."} & set(parts):
        raise Refused(f"expected paths inside the archive, got {short!r}")
    if flags & ~_FLAGS:
        raise Refused(f"{short!r}: expected a plain entry, got {'an encrypted' if flags & 0x2041 else 'a special'} one")
    if method not in (_STORED, _DEFLATED):
        method_name = _METHODS.get(method, method)
        raise Refused(f"{short!r}: expected entries stored or deflated, got {method_name}; zip the files again")
    if stat.S_IFMT(mode) not in (0, stat.S_IFREG, stat.S_IFDIR):
        raise Refused(f"{short!r}: expected a file, got a link or a device")
    if disk or _FULL in (packed, size, offset) or (method == _STORED and packed != size):
        raise Refused(f"{short!r}: expected the size of its {packed} bytes, got {size}")
    return _Entry(name, flags, method, crc, packed, size, offset)


def _zip64(extra: bytes, size: int, packed: int) -> tuple[int, int]:
    at = 0
    while at + 4 <= len(extra):
        kind, length = struct.unpack_from("<HH", extra, at)
        if kind == 1 and length == 16 and at + 20 <= len(extra) and size == packed == _FULL:
            return struct.unpack_from("<QQ", extra, at + 4)
        at += 4 + length
    raise Refused("expected a large entry's sizes, got none")
