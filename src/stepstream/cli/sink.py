"""Answers as lines of CSV or JSON, to a file or a pipe."""

from __future__ import annotations

import csv
import io
import json
import os
import stat
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np

from stepstream.cli.position import HEAD_BYTES, Counts, digest
from stepstream.errors import InputError, StateError


@dataclass(frozen=True)
class Before:
    """What the run before left: its counts, the state file they are from, and whether its input goes on."""

    counts: Counts
    state: str
    same_input: bool


Row = tuple[Any, ...]  # of an answer, in the order of its columns: the two at the end are true or false


class Sink:
    """Rows to a file or a pipe, one line each, which all go out at once. failed: whether they could not be written."""

    def __init__(self, file: IO[bytes], name: str, columns: Sequence[str], as_json: bool, kept: int = 0) -> None:
        """kept: bytes of a file that stay; it stands right after them."""
        self._file, self._name, self._json, self._columns = file, name, as_json, columns
        self.is_file = file is not sys.stdout.buffer and stat.S_ISREG(os.fstat(file.fileno()).st_mode)
        self._written, self._head, self._tail = kept, b"", b""
        self.failed = False
        if kept:
            self._head, self._tail = _ends(file, kept)
        if columns and not as_json and not kept:
            self._lines([columns])

    def write(self, rows: Sequence[Row]) -> None:
        """Written and flushed, all or an error."""
        if not self._json:
            self._lines([(*row[:-2], _FLAGS[row[-2]], _FLAGS[row[-1]]) for row in rows])
            return
        objects = [{k: _plain(v) for k, v in zip(self._columns, row, strict=True)} for row in rows]
        self._bytes("".join(f"{json.dumps(o, allow_nan=False)}\n" for o in objects))

    def position(self, on_disk: bool) -> dict[str, int]:
        """How much of a file is written, which is on the disk then, and what tells it from others."""
        if not self.is_file:
            return {}
        if on_disk:
            with self._noticing():
                os.fsync(self._file.fileno())
        ends = {"out_head": digest(self._head), "out_tail": digest(self._tail)}
        return {"out": self._written, **ends, "out_json": int(self._json)}

    def _lines(self, rows: Sequence[Sequence[Any]]) -> None:
        buffer = io.StringIO()
        csv.writer(buffer, lineterminator="\n").writerows(rows)  # a float32 prints as its shortest exact form
        self._bytes(buffer.getvalue())

    def _bytes(self, text: str) -> None:
        data = text.encode()
        with self._noticing():
            self._file.write(data)
            self._file.flush()
        self._written += len(data)
        if len(self._head) < HEAD_BYTES:
            self._head = (self._head + data)[:HEAD_BYTES]
        self._tail = (self._tail + data)[-HEAD_BYTES:]

    @contextmanager
    def _noticing(self) -> Iterator[None]:
        try:
            yield
        except BrokenPipeError:
            self.failed = True
            raise
        except OSError as e:
            self.failed = True
            raise InputError(f"{self._name}: cannot be written: {e.strerror}") from e


@contextmanager
def opened(out: Path | None, before: Before | None, as_json: bool, columns: Sequence[str]) -> Iterator[Sink]:
    """Standard output, or a file that goes on where the run before stopped."""
    if out is None:
        yield Sink(sys.stdout.buffer, "standard output", columns, as_json)
        return
    as_json = as_json or out.suffix == ".jsonl"
    try:
        kept = 0 if before is None else _kept(out, before, as_json)
        file = out.open("r+b" if kept else "wb")
    except OSError as e:
        raise InputError(f"{out}: {e.strerror}") from e
    sink = None
    try:
        if kept:
            file.truncate(kept)
        sink = Sink(file, str(out), columns, as_json, kept)
        yield sink
        sink.position(on_disk=True)
    finally:
        with suppress(OSError) if sink and sink.failed else nullcontext():  # said already
            file.close()


def _kept(out: Path, before: Before, as_json: bool) -> int:
    """Bytes of the output that stay; raises StateError for a file that the run before did not write.

    Where its input goes on, answers after the saved state are cut off, because they come again; otherwise nothing gives
    them again, and only an unfinished line goes.
    """
    if out.exists() and not out.is_file():  # a pipe, a terminal
        return 0
    size = out.stat().st_size if out.exists() else 0
    done = before.counts.get("out", 0)
    if not size and (not done or not before.same_input):
        return 0  # a new file
    wanted = f"the output that goes on from {before.state}"
    if not done:
        raise StateError(
            f"{out}: expected {wanted}, got a file that the run before did not write; name a new file, or remove it"
        )
    if size < done:
        raise StateError(f"{out}: expected {wanted}, with at least {done} bytes, got {size}; {_CURE}")
    with out.open("rb") as file:
        head, tail = _ends(file, done)
        if (digest(head), digest(tail)) != (before.counts.get("out_head"), before.counts.get("out_tail")):
            raise StateError(f"{out}: expected {wanted}, got a file with other content; {_CURE}")
        if bool(before.counts.get("out_json")) != as_json:
            raise StateError(f"{out}: expected {wanted}, {'CSV' if as_json else 'JSON'}; add or leave out --json")
        if before.same_input:
            return done
        rest = max(done, size - 2**20)
        file.seek(rest)
        return rest + file.read().rfind(b"\n") + 1


_CURE = "put it back, write to standard output, or start anew with another --state"


def _ends(file: IO[bytes], size: int) -> tuple[bytes, bytes]:
    """The first and the last bytes of the first `size`, after which the file stands."""
    file.seek(0)
    head = file.read(min(HEAD_BYTES, size))
    file.seek(max(0, size - HEAD_BYTES))
    return head, file.read(min(HEAD_BYTES, size))


def _plain(value: Any) -> Any:
    return float(str(value)) if isinstance(value, np.float32) else value


_FLAGS = {True: "true", False: "false"}
