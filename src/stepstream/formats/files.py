"""What every reader of outside files begins with: a file that ends, and bytes that unpack to no more than said."""

from __future__ import annotations

import stat
import zlib
from pathlib import Path
from typing import BinaryIO

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
