"""What every reader of outside files begins with, a file that ends, and bytes that unpack to no more than said; and
how files are written: whole or not at all.
"""

from __future__ import annotations

import os
import secrets
import stat
import zlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any, BinaryIO

from stepstream.arrays import short
from stepstream.errors import InputError
from stepstream.formats.hdf5_meter import Refused


def regular_file(path: str | Path) -> BinaryIO:
    """A file open for reading. A pipe or a device might never end. Raises OSError."""
    try:
        regular = stat.S_ISREG(Path(path).stat().st_mode)
    except ValueError as e:  # a NUL in its name
        raise OSError(str(e)) from e
    if not regular:
        raise OSError("expected a file, got a folder, a pipe or a device")
    return open(path, "rb")


def replace_file(path: str | Path, pieces: Iterable[bytes | memoryview]) -> None:
    """Write beside the target, flush to disk, rename: a full disk or a crash leaves the old file. Raises OSError."""
    target = Path(os.path.realpath(path))  # a link stays a link
    temporary = target.with_name(f".{target.name}.{secrets.token_hex(4)}")
    try:
        if target.exists() and not target.is_file():
            raise OSError("expected a file, got a folder, a pipe or a device")
        with open(temporary, "xb") as f:
            if target.exists():
                temporary.chmod(target.stat().st_mode & 0o777)
            for piece in pieces:
                f.write(piece)
            f.flush()
            os.fsync(f.fileno())
        os.replace(temporary, target)
    finally:
        temporary.unlink(missing_ok=True)


def path_of(path: Any, what: str) -> Path:
    """Raises InputError for what names no file."""
    try:
        if b"\0" not in os.fsencode(path := Path(path)):
            return path
    except (TypeError, UnicodeEncodeError):
        pass
    raise InputError(f"expected the path of {what}, got {short(path)}")


def inflate(data: bytes, most: int, window: int) -> bytes:
    """Deflated bytes, at most so many: a bomb is stopped while it goes off. window: as in zlib. Raises Refused."""
    stream = zlib.decompressobj(window)
    try:
        out = stream.decompress(data, most + 1)
    except zlib.error as e:
        raise Refused(f"expected deflated data, got damaged ones ({e}); copy the file again") from e
    if len(out) > most:
        raise Refused(f"expected at most {most} bytes after unpacking, got more; save the model without compression")
    if not stream.eof or stream.unused_data:
        raise Refused("expected deflated data with an end, got them cut off or with something behind")
    return out
