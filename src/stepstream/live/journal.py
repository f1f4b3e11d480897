"""What was done to streams, as bytes: one entry of a store's journal is what one call has changed.

An entry is the layout number and then operations. Each is a letter, the engine's clock, a count of streams, and their
keys; `steps` goes on with the samples, their numbers and times, `put` with the stream's record, `label` with what it
judges, `bookmark` with its bytes.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from stepstream.errors import StoreError
from stepstream.graph.ir import Array
from stepstream.kernel.keys import Key
from stepstream.live.records import LAYOUT, MAX_KEY, decode_key, encode_key

STEPS = b"s"  # samples of streams
RESET = b"r"  # back to nothing, the numbers stay
END = b"e"  # back to nothing, and a tombstone where there are numbers
DELETE = b"d"  # nothing is left
PUT = b"p"  # a record: what fork and restore make of a stream
LABEL = b"t"  # the truth about a stream, with the answers that it judges
BOOKMARK = b"l"  # ("label", once) what the caller keeps beside the streams; of no stream
_RECORDED = frozenset({PUT, LABEL, BOOKMARK})

_HEAD = struct.Struct("<cdIB")  # letter, clock, streams, 1 for numbers + 2 for times
_SIZE = struct.Struct("<I")


@dataclass(frozen=True, eq=False)
class Operation:
    """x float32 (n, features), seq int64 (n,) with -1 for none, time float64 (n,) with NaN for none: of STEPS alone,
    and seq of LABEL. record: of PUT, LABEL and BOOKMARK alone.
    """

    letter: bytes
    now: float
    keys: Sequence[Key]
    x: Array | None = None
    seq: Array | None = None
    time: Array | None = None
    record: bytes = b""


def encode(operations: Sequence[Operation]) -> bytes:
    """One entry."""
    parts = [bytes([LAYOUT])]
    for o in operations:
        seq = o.seq if o.seq is not None and (o.seq >= 0).any() else None
        time = o.time if o.time is not None and not np.isnan(o.time).all() else None
        keys = list(map(encode_key, o.keys))
        parts.append(_HEAD.pack(o.letter, o.now, len(keys), (seq is not None) + 2 * (time is not None)))
        parts.append(np.fromiter(map(len, keys), "<u2", len(keys)).tobytes())
        parts += keys
        if o.x is not None:
            parts.append(np.ascontiguousarray(o.x, "<f4").tobytes())
        if seq is not None:
            parts.append(np.ascontiguousarray(seq, "<i8").tobytes())
        if time is not None:
            parts.append(np.ascontiguousarray(time, "<f8").tobytes())
        if o.letter in _RECORDED:
            parts += [_SIZE.pack(len(o.record)), o.record]
    return b"".join(parts)


def _keys(entry: bytes, starts: list[int], ends: list[int]) -> list[Key]:
    first = starts[0] if starts else 0
    letters = np.frombuffer(entry, np.uint8)[starts]
    if (
        len(starts) and (letters == ord("s")).all() and (data := entry[first : ends[-1]]).isascii()
    ):  # the most common, in half the time
        text = data.decode()
        return [text[a + 1 - first : b - first] for a, b in zip(starts, ends, strict=True)]
    return [decode_key(entry[a:b]) for a, b in zip(starts, ends, strict=True)]


def _numbers(entry: bytes, dtype: str, count: int, at: int) -> Array:
    """A copy, as the kernel reads from aligned memory alone."""
    return np.frombuffer(entry, dtype, count, at).copy()


def decode(
    entry: bytes, features: int, number: int, done: Callable[[bytes, int], int] | None = None
) -> Iterator[Operation]:
    """The operations of entry `number`. Raises StoreError for other bytes.

    done: is shown where each operation begins, and may do it: then it returns where the next one begins, instead of the
    same place.
    """
    try:
        if entry[0] != LAYOUT:
            raise ValueError(f"layout {entry[0]}")
        at = 1
        while at < len(entry):
            if done is not None and (after := done(entry, at)) > at:
                at = after
                continue
            letter, now, n, flags = _HEAD.unpack_from(entry, at)
            at += _HEAD.size
            sizes = np.frombuffer(entry, "<u2", n, at)
            if sizes.max(initial=0) > MAX_KEY + 1:
                raise ValueError(f"a key of {sizes.max()} bytes")
            ends = np.cumsum(sizes, dtype=np.int64) + at + 2 * n
            starts = [at + 2 * n, *ends[:-1].tolist()] if n else []
            keys = _keys(entry, starts, ends.tolist())
            at = int(ends[-1]) if n else at
            x = seq = time = None
            if letter == STEPS:
                x = _numbers(entry, "<f4", n * features, at).reshape(n, features)
                at += 4 * n * features
            if flags & 1:
                seq = _numbers(entry, "<i8", n, at)
                at += 8 * n
            if flags & 2:
                time = _numbers(entry, "<f8", n, at)
                at += 8 * n
            record = b""
            if letter in _RECORDED:
                (size,) = _SIZE.unpack_from(entry, at)
                at += _SIZE.size
                record = entry[at : at + size]
                at += size
            elif letter not in {STEPS, RESET, END, DELETE}:
                raise ValueError(f"operation {letter!r}")
            if at > len(entry):
                raise ValueError("its end")
            yield Operation(letter, now, keys, x, seq, time, record)
    except (ValueError, IndexError, struct.error, StoreError) as e:
        raise StoreError(
            f"journal entry {number}: expected operations of layout {LAYOUT} of this model, got other bytes ({e}); "
            "restore the store from a backup"
        ) from e
