"""Lines of bytes from a file or a pipe, and as text."""

from __future__ import annotations

import gzip
import io
import os
import select
import sys
import zlib
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from stepstream.errors import InputError

MAX_LINE_BYTES = 2**20
POLL_SECONDS = 0.2  # how soon a signal is seen while no line arrives
BOM = b"\xef\xbb\xbf"


class Line(NamedTuple):
    """number: from 1. error: why there is no text."""

    number: int
    text: str
    error: str | None = None


def file_lines(raw: Any, compressed: bool, name: str, whole: bool) -> Iterator[bytes]:
    """The lines of an open file. whole: leave a last line without its end, which somebody may still be writing."""
    stream = io.BufferedReader(gzip.GzipFile(fileobj=raw)) if compressed else raw
    try:
        while line := stream.readline(MAX_LINE_BYTES + 1):
            if whole and not line.endswith(b"\n") and len(line) <= MAX_LINE_BYTES:
                print(
                    f"stepstream: {name}: the last line has no end yet and is left for the next run; "
                    "if the file is complete, end it with a newline",
                    file=sys.stderr,
                )
                return
            yield line
    except (OSError, EOFError, zlib.error) as e:
        raise InputError(f"cannot be read: {e}") from e
    finally:
        raw.close()


class PipeLines:
    """Lines as they arrive. A signal must lose none, so it only raises a flag, which is looked at in pauses and when
    all lines in hand have been given. `select` on a pipe is POSIX; Windows has it for sockets alone.

    more: whether there is a record in hand behind the line that was given last.
    """

    def __init__(self, descriptor: int, name: str, stopped: Callable[[], bool]) -> None:
        self._descriptor, self._name, self._stopped = descriptor, name, stopped
        self.more = False

    def __iter__(self) -> Iterator[bytes]:
        pending = b""
        while not self._stopped():
            try:
                if not select.select([self._descriptor], [], [], POLL_SECONDS)[0]:
                    continue
                data = os.read(self._descriptor, 65536)
            except OSError as e:
                raise InputError(f"cannot be read: {e.strerror}") from e
            *lines, pending = (pending + data).split(b"\n")
            last = max((i for i, line in enumerate(lines) if not _blank(line)), default=-1)
            for i, line in enumerate(lines):
                self.more = i < last
                yield line + b"\n"
            if not data or len(pending) > MAX_LINE_BYTES:
                if pending:
                    yield pending
                return
        if pending:
            print(
                f"stepstream: {self._name}: stopped within a line: {len(pending)} bytes of it are dropped",
                file=sys.stderr,
            )


def _blank(line: bytes) -> bool:
    """Whether it is no record."""
    return not line.strip(b" \r\n")


class Passing:
    """How many lines that are not blank are passed over next, without a look at what they say."""

    left = 0


def text_lines(lines: Iterator[bytes], passing: Passing) -> Iterator[Line]:
    """UTF-8 without blank lines. Strictly: replacing what cannot be decoded would make one key of two."""
    for number, line in enumerate(lines, 1):
        if len(line) > MAX_LINE_BYTES:
            raise InputError(f"line {number} is longer than {MAX_LINE_BYTES} bytes")
        content = line.removeprefix(BOM) if number == 1 else line
        if _blank(content):
            continue
        if passing.left:
            passing.left -= 1
            continue
        try:
            yield Line(number, content.decode())
        except UnicodeDecodeError as e:
            yield Line(number, "", f"expected UTF-8, got byte 0x{content[e.start]:02x} at column {e.start + 1}")
