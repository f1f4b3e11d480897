"""The streams that are in memory: keys -> rows of a state table and of what else each stream carries."""

from __future__ import annotations

import math
import mmap
import sys
from collections.abc import Sequence
from contextlib import suppress

import numpy as np
from numpy.typing import DTypeLike

from stepstream.errors import InputError
from stepstream.graph.ir import Array
from stepstream.kernel.keys import Key, KeyTable
from stepstream.live.records import CHANGED, ENDED, HERE, STATIC, Shape, kept, meta_dtype, put_kept
from stepstream.live.state import Executor, StreamState

_NO_RESERVE = 0x4000 if sys.platform == "linux" else 0  # MAP_NORESERVE, which Python names from 3.13 on
WIDE = 2**22  # bytes from which on a table, which is read all over, goes in large pages


def reserved(shape: tuple[int, ...], dtype: DTypeLike) -> Array:
    """Zeros that take no memory before something is written to them; raises InputError where even addresses run out."""
    size = math.prod(shape) * np.dtype(dtype).itemsize
    if size == 0:
        return np.zeros(shape, dtype)
    try:
        if hasattr(mmap, "MAP_PRIVATE"):
            memory = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | _NO_RESERVE)
        else:
            memory = mmap.mmap(-1, size)
        if size >= WIDE and hasattr(mmap, "MADV_HUGEPAGE"):
            with suppress(OSError):  # a wish: where it is refused, all works as well
                memory.madvise(mmap.MADV_HUGEPAGE)
    except (OSError, OverflowError, ValueError) as e:
        raise InputError(
            f"capacity: expected room for {shape[0]} streams, got none for {size} bytes; choose a smaller capacity, "
            "and a store takes the streams beyond it"
        ) from e
    return np.frombuffer(memory, dtype).reshape(shape)


class Table:
    """state: float32 (capacity, state_size); meta: `meta_dtype` (capacity,). Rows are given out from 0 on."""

    def __init__(self, capacity: int, executor: Executor, shape: Shape) -> None:
        self.capacity = capacity
        self.keys = KeyTable()
        self.state = reserved((capacity, executor.state_size), np.float32)
        self.meta = reserved((capacity,), meta_dtype(shape))
        self._keeps, self._waits = shape.keep > 0, shape.rungs > 0
        self._mark = reserved((capacity,), np.int32)
        self.nothing = executor.initial_state(1)[0]

    def __len__(self) -> int:
        return len(self.keys)

    def insert(self, keys: Sequence[Key], now: float) -> Array:
        """Rows int64 (keys,) of streams that have seen nothing; keys that are not there yet, each once."""
        rows = np.array(self.keys.insert(keys))
        self.clear(rows)
        meta = self.meta
        for name in ("seq", "ages"):
            meta[name][rows] = -1
        meta["outputs"][rows] = 0
        for name in ("told", "since", "until", "labelled") if self._waits else ():
            meta[name][rows] = 0
        meta["flags"][rows] = HERE
        meta["used"][rows] = now
        return rows

    def take(self, keys: Sequence[Key], meta: Array, state: Array) -> Array:
        """The same rows of what records hold, without a look at every row in between."""
        rows = np.array(self.keys.insert(keys))
        self.load(rows, meta, state)
        return rows

    def load(self, rows: Array, meta: Array, state: Array) -> None:
        """What records hold, into rows that are in use."""
        self.meta[rows], self.state[rows] = meta, state
        self.meta["flags"][rows] |= HERE

    def clear(self, rows: Array, flags: int = 0) -> None:
        """Back to nothing; the numbers and their answers stay."""
        self.state[rows] = self.nothing
        meta = self.meta
        meta["age"][rows] = meta["samples"][rows] = 0
        meta["time"][rows] = np.nan
        meta["static"][rows] = 0
        if self._keeps:
            meta["kept"][rows] = 0
        meta["flags"][rows] = HERE | CHANGED | flags

    def turn(self, rows: Array) -> None:
        """From now on the newest sequence of these, if it has answers that wait for a label, is the one before."""
        meta = self.meta
        rows = rows[meta["until"][rows, 0] > 0]
        for name in ("since", "until", "ladder"):
            meta[name][rows, 1] = meta[name][rows, 0]
        meta["since"][rows, 0] = meta["until"][rows, 0] = 0
        meta["labelled"][rows] = (meta["labelled"][rows] & 1) << 1

    def remove(self, rows: Array) -> None:
        """Their keys are no longer known."""
        self.keys.remove([self.keys.key(row) for row in rows.tolist()])
        self.meta["flags"][rows] = 0

    def rows(self, first: int = 0, end: int | None = None) -> Array:
        """Those in use, int64; of all, or from first to end."""
        last = self.keys.rows if end is None else min(end, self.keys.rows)
        return first + np.flatnonzero(self.meta["flags"][first:last])

    def distinct(self, rows: Array) -> bool:
        """Whether no row occurs twice."""
        order = np.arange(len(rows), dtype=np.int32)
        self._mark[rows] = order
        return bool((self._mark[rows] == order).all())

    def get(self, row: int) -> StreamState:
        """All that the stream carries but its numbers."""
        m = self.meta[row]
        age, time = int(m["age"]), float(m["time"])
        static = tuple(m["static"].tolist()) if m["flags"] & STATIC else None
        return StreamState(
            self.state[row].copy(),
            None if age < 0 else age,
            None if math.isnan(time) else time,
            int(m["samples"]),
            static=static,
        )

    def kept(self, row: int) -> Array | None:
        """The newest samples of a stream, as far as they are kept."""
        return kept(self.meta[row]) if self._keeps else None

    def set(self, row: int, state: StreamState, samples: Array | None = None) -> None:
        """The inverse of `get` and `kept`; the numbers stay, and answers that wait are of the sequence before."""
        self.state[row] = state.row
        m = self.meta
        m["age"][row] = -1 if state.age is None else state.age
        m["time"][row] = math.nan if state.time is None else state.time
        m["samples"][row] = state.samples
        m["static"][row] = 0 if state.static is None else state.static
        if self._waits:
            self.turn(np.array([row]))
        if self._keeps:
            put_kept(m, row, m["newest"][row][:0] if samples is None else samples)
        m["flags"][row] = HERE | CHANGED | (STATIC if state.static is not None else 0)

    def ended(self, row: int) -> bool:
        """Whether it is a tombstone."""
        return bool(self.meta["flags"][row] & ENDED)
