"""Samples that are missing in regular time, and what stands in for them."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from stepstream.errors import InputError
from stepstream.graph.ir import Array
from stepstream.live.batch import Samples
from stepstream.live.records import kept
from stepstream.live.table import Table
from stepstream.live.windowing import Session, Windowing

MAX_HELD = 10_000  # samples that one sample can be held for


class Held(NamedTuple):
    """A sample with those that stand in for the missing ones before it."""

    samples: Samples
    rows: Array


class Regular:
    """Streams with a sample every so many seconds; half of that early or late is in time. hold: a missing sample is the
    one before once more, otherwise it is an error.
    """

    def __init__(self, every: float, hold: bool, windowing: Windowing) -> None:
        self.every, self._hold = every, hold
        self._session = windowing.gap if isinstance(windowing, Session) else math.inf

    def missing(self, last: Array, time: Array) -> Array:
        """How many samples are missing between two times, float64 or int64 each; NaN for no time."""
        wait = time - last
        with np.errstate(over="ignore"):
            count = np.floor(np.nan_to_num(wait, posinf=0.0) / self.every + 0.5) - 1
        return np.where(wait > self._session, 0, np.clip(count, 0, 2.0**53))

    def suspects(self, samples: Samples, rows: Array, table: Table) -> Array:
        """bool (n,): the samples of streams that may miss one in this call, or have no time; rows: -1 for bad ones."""
        order = np.argsort(rows, kind="stable")
        row, time = rows[order], samples.time[order]
        first = np.diff(row, prepend=-2) != 0
        last = np.where(first, table.meta["time"][row], np.roll(time, 1))
        wrong = (self.missing(last, time) > 0) | np.isnan(time)
        wrong |= ~first  # of several of a stream some may be refused
        return np.isin(rows, row[wrong & (row >= 0)])

    def held(self, samples: Samples, i: int, row: int, table: Table) -> Held:
        """Sample i, after those that it misses; raises InputError."""
        where = samples.where(i, int(table.meta["samples"][row]) + 1)
        time, seq, last = float(samples.time[i]), int(samples.seq[i]), float(table.meta["time"][row])
        if math.isnan(time):
            raise InputError(f"expected a time, as streams have a sample every {self.every:g} s, got none ({where})")
        old = 0 <= seq <= int(table.meta["seq"][row, 0])  # a repeated one
        n = 0 if old else int(self.missing(np.array(last), np.array(time)))
        if n and not self._hold:
            raise InputError(
                f"expected a sample every {self.every:g} s, the next one at {last + self.every:.15g}, got {time:.15g} "
                f'({where}); send what is missing first, reset the stream, or open the engine with on_missing="hold"'
            )
        if n > MAX_HELD:
            raise InputError(
                f"expected at most {MAX_HELD} missing samples, got {n} ({where}); reset the stream, and it begins anew"
            )
        before = kept(table.meta[row])[-1:] if n else samples.x[:0]
        if n > 0 and not len(before):
            raise InputError(
                f"expected the sample before, to be held, got none, as the stream was restored without it ({where}); "
                "send what is missing first, or reset the stream"
            )
        times = last + self.every * np.arange(1, n + 1)
        return Held(
            Samples(
                [samples.keys[i]] * (n + 1),
                np.concatenate([np.repeat(before, n, axis=0), samples.x[i : i + 1]]),
                np.append(np.full(n, -1), seq),
                np.append(times, time),
                end=None if samples.end is None else np.append(np.zeros(n, bool), samples.end[i]),
            ),
            np.full(n + 1, row),
        )
