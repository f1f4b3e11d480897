"""What stands between a file from outside and the code that decodes its structures."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import BinaryIO

from stepstream import limits


class Refused(Exception):
    """What is wrong; `boundary` adds the place, once, and `hdf5.opened` makes it the error its caller asked for."""

    def __init__(self, reason: str, place: str | None = None) -> None:
        super().__init__(reason if place is None else f"{place}: {reason}")
        self.place = place


@contextmanager
def boundary(place: str) -> Iterator[None]:
    """pyfive raises whatever its code meets on a damaged file: struct.error, KeyError, AssertionError, ..."""
    try:
        yield
    except Refused as e:
        raise e if e.place else Refused(str(e), place) from e
    except OSError:
        raise
    except MemoryError as e:
        raise Refused("expected a readable HDF5 file, got one that needs more memory than there is", place) from e
    except Exception as e:  # whatever a parser throws at damaged bytes
        text = f"{type(e).__name__}: {e}" if str(e) else type(e).__name__
        damaged = f"expected a readable HDF5 file, got a damaged one ({text[:120]}); copy or save it again"
        raise Refused(damaged, place) from e


class Meter:
    """A file for pyfive: no read beyond its end, and no more reads and bytes than a real file needs."""

    closed = False

    def __init__(self, file: BinaryIO) -> None:
        self.file = file
        self.size = file.seek(0, os.SEEK_END)
        self.at = 0
        self.reads_left = limits.MAX_HDF5_READS
        self.bytes_left = min(limits.MAX_METADATA_BYTES, 2 * self.size + 2**16)
        self.blocks = 0

    def seek(self, offset: int) -> int:
        self.at = offset
        return offset

    def tell(self) -> int:
        return self.at

    def read(self, count: int) -> bytes:
        self.reads_left -= 1
        self.bytes_left -= count
        if self.reads_left < 0 or self.bytes_left < 0:
            raise Refused("expected a model or state file, got far more structure than one has, or a loop in it")
        data = self.take(self.at, count)
        self.at += count
        signature = data[:4]
        if signature == b"BTHD" and len(data) >= 14 and int.from_bytes(data[12:14], "little") > limits.MAX_TREE_DEPTH:
            raise Refused(f"expected an index of at most {limits.MAX_TREE_DEPTH} levels, got more")
        if signature == b"TREE" and len(data) >= 6 and data[5] > limits.MAX_TREE_DEPTH:
            raise Refused(f"expected an index of at most {limits.MAX_TREE_DEPTH} levels, got {data[5]}")
        if signature == b"FRHP":
            self.blocks = 0
        elif signature == b"FHDB":
            self.blocks += 1
            if self.blocks > limits.MAX_HEAP_BLOCKS:
                raise Refused(f"expected a heap of at most {limits.MAX_HEAP_BLOCKS} blocks, got more")
        return data

    def take(self, offset: int, count: int) -> bytes:
        """Bytes, all of them there; the file's own count is not trusted."""
        if not 0 <= offset <= offset + count <= self.size:
            raise Refused(
                f"expected {count} bytes at {offset}, got a file of {self.size} bytes: it is cut off or damaged"
            )
        self.file.seek(offset)
        data = self.file.read(count)
        if len(data) != count:
            raise Refused(f"expected {count} bytes at {offset}, got {len(data)}: it changed while it was read")
        return data

    @contextmanager
    def one_header(self) -> Iterator[None]:
        """Within it, no more is read than one object header may hold."""
        reads, data = self.reads_left, self.bytes_left
        self.reads_left, self.bytes_left = min(reads, limits.MAX_HEADER_READS), min(data, limits.MAX_HEADER_BYTES)
        had = self.reads_left, self.bytes_left
        try:
            yield
        finally:
            self.reads_left = reads - (had[0] - self.reads_left)
            self.bytes_left = data - (had[1] - self.bytes_left)
