"""A stream as bytes, for a store: its key, and everything that it carries.

A key is one letter for its type (s, b or i) and then its UTF-8, its bytes or its decimal digits. A record is little-
endian and without gaps: layout number, flags and the stream's `Shape`, then the fields of `fields`, then the state row.
So it says by itself where what is, but what the numbers of the state row are, which its model knows.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache
from struct import Struct
from typing import Any, NamedTuple

import numpy as np

from stepstream.errors import StoreError
from stepstream.graph.ir import Array
from stepstream.kernel.keys import Key
from stepstream.live.ages import LADDER
from stepstream.live.snapshot import MAX_COUNT

LAYOUT = 1  # of a record and of the journal's entries; raise it when old code cannot read them
MAX_REMEMBERED = 1000  # answers of each stream: a table row has room for all of them
MAX_KEPT = 10_000  # samples of each stream
MAX_KEY = 1024  # bytes of a key, bits of one that is a number: kernel/keys.py has it too

# flags of a stream
ENDED = 1  # a tombstone: nothing is left but its numbers
CHANGED = 2  # since its record was written
STATIC = 4  # the values of the inputs without time are known
HERE = 8  # the row is in use
COPIED = 16  # its record is being written, and it has not changed since: whoever changes a row sets its flags anew
KEPT = ENDED | STATIC  # those that a record holds


def encode_key(key: Key) -> bytes:
    """str, bytes and int stay apart: 1, "1" and b"1" are three keys."""
    if isinstance(key, str):
        return b"s" + key.encode()
    if isinstance(key, bytes):
        return b"b" + key
    return b"i%d" % key.__index__()


def decode_key(data: bytes) -> Key:
    """The inverse; raises StoreError."""
    try:
        if len(data) > MAX_KEY + 1:
            raise ValueError
        if data[:1] == b"s":
            return data[1:].decode()
        if data[:1] == b"b":
            return data[1:]
        if data[:1] == b"i" and abs(number := int(data[1:])).bit_length() <= MAX_KEY:
            return number
    except ValueError:
        pass
    raise StoreError(f"expected the key of a stream, got {data[:40]!r}; the store is damaged")


class Shape(NamedTuple):
    """Of what a stream carries: answers that are remembered and samples that are kept, as the engine says; outputs,
    inputs without time and features, as the model says; rungs: ages whose answers wait for labels, as the engine says.
    """

    remember: int
    keep: int
    outputs: int
    statics: int
    features: int
    rungs: int = 0


@lru_cache(64)
def fields(shape: Shape) -> tuple[tuple[str, str, tuple[int, ...]], ...]:
    """What a stream carries beside its state row.

    age: -1 where nobody knows. samples: since the stream began. time: of the last sample that had one, NaN for none.
    used: when it was last used, by the engine's clock. seq, ages, outputs: the last numbers, newest first, -1 for
    none, and the ages and the answers that go with them. static: the inputs without time. kept: how many of the newest
    samples are in `newest`, the one that made `samples` n at place n - 1 modulo `keep`; there where any are to be.
    told: the numbers that a label has judged, plus 1, 0 for none. Of the newest sequence and of the one before it:
    since, until: the ages of the first and of the last answer that waits for the truth, 0 for none; ladder: the answers
    at the first ages of `ages.LADDER`, as far as they lie between, and the last one behind them. labelled: 1 if the
    newest sequence has been judged, plus 2 for the one before. These are there where there are rungs.
    """
    remember, keep, outputs, statics, features, rungs = shape
    ring = (("kept", "<u4", ()), ("newest", "<f4", (keep, features))) if keep else ()
    waiting = (
        ("told", "<i8", (remember,)),
        ("since", "<i8", (2,)),
        ("until", "<i8", (2,)),
        ("labelled", "<u4", ()),
        ("ladder", "<f4", (2, rungs + 1, outputs)),
    )
    return (
        ("age", "<i8", ()),
        ("samples", "<i8", ()),
        ("time", "<f8", ()),
        ("used", "<f8", ()),
        ("seq", "<i8", (remember,)),
        ("ages", "<i8", (remember,)),
        ("outputs", "<f4", (remember, outputs)),
        ("static", "<f4", (statics,)),
        ("flags", "<u4", ()),
        *ring,
        *(waiting if rungs else ()),
    )


def meta_dtype(shape: Shape) -> np.dtype[np.void]:
    """The table's form: a multiple of 16 bytes, 64 for what most models have, so that a row is one cache line."""
    known = list(fields(shape))
    padding = -np.dtype(known).itemsize % 16
    return np.dtype([*known, ("padding", f"V{padding}", ())] if padding else known)


_FRONT = Struct("<HBBHHIIIqqddq")  # layout, flags, rungs, and the rest as Head has it
_HEAD = (
    ("layout", "<u2", ()),
    ("flags", "u1", ()),
    ("rungs", "u1", ()),
    ("remember", "<u2", ()),
    ("keep", "<u2", ()),
    ("width", "<u4", ()),
    ("statics", "<u4", ()),
    ("features", "<u4", ()),
)
_WAITING = ("told", "since", "until", "labelled", "ladder")
_SHAPE = slice(3, 20)  # the bytes of a shape in a record


class Head(NamedTuple):
    """What a record says of a stream whatever its model: as in `Shape` and `fields`; seq: the newest number."""

    flags: int
    remember: int
    keep: int
    outputs: int
    statics: int
    features: int
    rungs: int
    age: int
    samples: int
    time: float
    used: float
    seq: int

    @property
    def shape(self) -> Shape:
        """Of the record."""
        return Shape(*self[1:7])


def head(key: bytes, record: bytes) -> Head:
    """Of one record; raises StoreError, naming the stream, where no engine has written it."""
    if len(record) >= _FRONT.size:
        layout, flags, rungs, *values = _FRONT.unpack_from(record)
        found = Head._make([flags, *values[:5], rungs, *values[5:]])
        remember, keep, outputs, statics, features, _ = found.shape
        good = layout == LAYOUT and not found.flags & ~KEPT and 1 <= remember <= MAX_REMEMBERED and keep <= MAX_KEPT
        good &= -1 <= found.age <= MAX_COUNT and 0 <= found.samples <= MAX_COUNT and found.seq >= -1
        good &= not math.isinf(found.time) and math.isfinite(found.used) and rungs <= len(LADDER)
        least = _FRONT.size - 8 + remember * (16 + 4 * outputs) + 4 * (statics + bool(keep) * (1 + keep * features))
        least += bool(rungs) * (36 + 8 * remember + 8 * (rungs + 1) * outputs)
        if good and len(record) >= least and len(record) % 4 == 0:
            return found
    raise StoreError(
        f"stream {decode_key(key)!r}: expected a record of layout {LAYOUT}, got other bytes; "
        "reset(key, delete=True) begins the stream anew"
    )


def kept(meta: Any) -> Array:
    """The newest samples of one stream, float32 (kept, features), the oldest first; meta with kept and newest."""
    newest = meta["newest"]
    n = min(int(meta["kept"]), len(newest))
    first: int = int(meta["samples"]) - n
    return np.array(newest[(first + np.arange(n)) % len(newest)])


def put_kept(meta: Array, row: int, samples: Array) -> None:
    """The inverse, of row `row` of many; at most as many samples as there is room for, and as the stream has had."""
    n, newest = len(samples), meta["newest"][row]
    newest[(int(meta["samples"][row]) - n + np.arange(n)) % len(newest)] = samples
    meta["kept"][row] = n


def columns(shape: Shape, records: Sequence[bytes]) -> Array:
    """Records of one shape and length as an array of named columns, whatever their model; their state rows in `row`."""
    size = (len(records[0]) - Records(shape, 0).size) // 4
    return np.frombuffer(b"".join(records), Records(shape, size)._dtype(shape))


def _shape_bytes(shape: Shape) -> bytes:
    return Struct("<BHHIII").pack(shape.rungs, *shape[:5])


class Records:
    """Rows of a table <-> records. size: floats in a state row."""

    def __init__(self, shape: Shape, size: int) -> None:
        self.shape, self._size = shape, size
        self._names = [name for name, _, _ in fields(shape)]

    @property
    def size(self) -> int:
        """Bytes of a record."""
        return self._dtype(self.shape).itemsize

    def _dtype(self, shape: Shape) -> np.dtype[np.void]:
        rest = [field for field in fields(shape) if field[0] != "flags"]
        return np.dtype([*_HEAD, *rest, ("row", "<f4", (self._size,))])

    def encode(self, meta: Array, rows: Array) -> list[bytes]:
        """meta (b,) of `meta_dtype`, rows float32 (b, size) -> b records."""
        records = np.empty(len(meta), self._dtype(self.shape))
        records["layout"], records["row"] = LAYOUT, rows
        for name, value in zip(("remember", "keep", "width", "statics", "features", "rungs"), self.shape, strict=True):
            records[name] = value
        for name in self._names:
            records[name] = meta[name]
        records["flags"] &= KEPT
        data, n = records.tobytes(), records.dtype.itemsize
        return [data[i : i + n] for i in range(0, len(data), n)]

    def decode(self, keys: Sequence[bytes], records: Sequence[bytes]) -> tuple[Array, Array]:
        """The inverse, checked; an engine that remembers or keeps more or less than the one before takes what there is.

        Raises StoreError, naming the first stream whose record no engine of this model has written.
        """
        if not records:
            return np.zeros(0, meta_dtype(self.shape)), np.zeros((0, self._size), np.float32)
        ours = self._dtype(self.shape)
        if {(len(r), r[_SHAPE]) for r in records} == {(ours.itemsize, _shape_bytes(self.shape))}:
            found = np.frombuffer(b"".join(records), ours)
        else:
            found = np.concatenate([self._converted(k, r) for k, r in zip(keys, records, strict=True)])
        good = (found["layout"] == LAYOUT) & np.isfinite(found["row"]).all(axis=1) & np.isfinite(found["used"])
        for name, least in (("age", -1), ("samples", 0)):
            good &= (found[name] >= least) & (found[name] <= MAX_COUNT)
        good &= ~np.isinf(found["time"]) & ((found["flags"] & ~np.uint16(KEPT)) == 0)
        good &= (found["seq"] >= -1).all(axis=1) & (found["ages"] >= -1).all(axis=1)
        good &= np.isfinite(found["static"]).all(axis=1)
        if not good.all():
            self._refuse(keys[int(np.flatnonzero(~good)[0])])
        if self.shape.keep:
            good = (found["kept"] <= np.minimum(self.shape.keep, found["samples"])) & np.isfinite(found["newest"]).all(
                axis=(1, 2)
            )
            if not good.all():
                self._refuse(keys[int(np.flatnonzero(~good)[0])])
        if self.shape.rungs:
            good = (found["since"] >= 0).all(axis=1) & (found["since"] <= found["until"]).all(axis=1)
            good &= (found["until"] <= MAX_COUNT).all(axis=1) & np.isfinite(found["ladder"]).all(axis=(1, 2, 3))
            if not good.all():
                self._refuse(keys[int(np.flatnonzero(~good)[0])])
        meta = np.zeros(len(found), meta_dtype(self.shape))
        for name in self._names:
            meta[name] = found[name]
        return meta, found["row"]

    def _converted(self, key: bytes, record: bytes) -> Array:
        """A record that may remember and keep another number, as one of ours."""
        theirs = head(key, record).shape
        remember, keep = theirs[:2]
        if theirs[2:5] != self.shape[2:5] or len(record) != self._dtype(theirs).itemsize:
            self._refuse(key)
        found = np.frombuffer(record, self._dtype(theirs))
        out = np.zeros(1, self._dtype(self.shape))
        out["seq"] = out["ages"] = -1
        both = min(remember, self.shape.remember)
        for name in self._names:
            if name in {"seq", "ages", "outputs"}:
                out[name][:, :both] = found[name][:, :both]
            elif name not in {"kept", "newest", *_WAITING}:
                out[name] = found[name]
        out["layout"], out["row"] = found["layout"], found["row"]
        if theirs.rungs and self.shape.rungs:
            self._convert_waiting(found, out, min(theirs.rungs, self.shape.rungs))
        if keep and self.shape.keep:
            put_kept(out, 0, kept(found[0])[-self.shape.keep :])
        return out

    @staticmethod
    def _convert_waiting(found: Array, out: Array, both: int) -> None:
        for name in ("since", "until", "labelled"):
            out[name] = found[name]
        out["ladder"][:, :, :both], out["ladder"][:, :, -1] = found["ladder"][:, :, :both], found["ladder"][:, :, -1]
        told = found["told"][np.isin(found["told"] - 1, out["seq"]) & (found["told"] > 0)]
        out["told"][0, : len(told)] = told

    @staticmethod
    def _refuse(key: bytes) -> None:
        raise StoreError(
            f"stream {decode_key(key)!r}: expected a record of layout {LAYOUT} of this model, got other bytes; "
            "reset(key, delete=True) begins the stream anew"
        )
