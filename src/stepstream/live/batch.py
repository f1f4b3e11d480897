"""Samples of many streams in one go: each key's in their order, different keys packed together.

A call is cut into rounds: the first sample of every key, then the second of those that have one, and so on. Within a
round all is done on whole arrays. A sample that one of the array's checks refuses goes to `Stream`'s own rules, which
say why; so bad samples cost time, and the messages are the same.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np

from stepstream.errors import InputError
from stepstream.graph.ir import Array
from stepstream.kernel.executor import update
from stepstream.kernel.keys import Key
from stepstream.live.decision import decisions
from stepstream.live.pending_answers import Sketches
from stepstream.live.records import CHANGED, ENDED, HERE, STATIC
from stepstream.live.results import Results
from stepstream.live.stream import Stream
from stepstream.live.table import Table
from stepstream.live.windowing import Session, Sliding, Tumbling


@dataclass(eq=False)
class Samples:
    """Of one call. x float32 (n, features); seq int64 (n,), -1 for none; time float64 (n,), NaN for none; end bool
    (n,): their streams end with these, None where none does.

    reasons: what is wrong with samples, by their place, as far as a sample alone can tell.
    """

    keys: list[Key]
    x: Array
    seq: Array
    time: Array
    reasons: dict[int, str] = field(default_factory=dict)
    end: Array | None = None

    def some(self, places: Array) -> Samples:
        """Those at places (m,), each once."""
        new = {old: i for i, old in enumerate(places.tolist())} if self.reasons else {}
        reasons = {new[i]: why for i, why in self.reasons.items() if i in new}
        end = None if self.end is None else self.end[places]
        return Samples(
            [self.keys[i] for i in places.tolist()], self.x[places], self.seq[places], self.time[places], reasons, end
        )

    def where(self, i: int, number: int) -> str:
        """The place of a sample, for errors."""
        return f"sample {number} of stream {self.keys[i]!r}"


class Counts:
    """What an engine has seen since it was opened."""

    def __init__(self) -> None:
        self.samples = self.duplicates = self.gaps = self.bad = 0


class Stepper:
    """Steps rows of a table by the rules of one stream."""

    def __init__(self, rules: Stream, table: Table, gap_is_error: bool, sketches: Sketches | None) -> None:
        self.sketches = sketches
        self.rules, self.table, self.gap_is_error = rules, table, gap_is_error
        self.counts = Counts()
        self.executor, self.windowing, self.model = rules._executor, rules.windowing, rules.model
        self.static = [column for _, column in rules._static]
        self.outputs = sum(self.model.output_sizes)
        self.decides = self.model.decides
        self.restarted = False  # whether a state has
        self.by_time = isinstance(self.windowing, Session)

    def run(self, samples: Samples, rows: Array, now: float, strict: bool) -> Results:
        """Step them; rows int64 (n,), -1 for bad ones. strict: the first bad sample raises InputError. Whatever is
        raised, no row of the table has changed. A stream that has ended is a tombstone, from which its next sample
        begins anew.
        """
        n, answers = len(rows), self.unanswered(samples)
        if samples.reasons and strict:
            raise InputError(samples.reasons[min(samples.reasons)])
        bad = list(samples.reasons)
        answers.accepted[bad] = False
        good = np.flatnonzero(answers.accepted) if bad else np.arange(n)
        table, all_rows = self.table, rows[good]
        alone = table.distinct(all_rows)
        touched = all_rows if alone else np.unique(all_rows)
        before = table.state[touched], table.meta[touched]
        try:
            for part in (good,) if alone else self.rounds(good, all_rows):
                self._round(samples, rows[part], part, now, strict, answers)
                if samples.end is not None:
                    over = part[samples.end[part] & answers.accepted[part] & ~answers.duplicate[part]]
                    table.clear(rows[over], ENDED)
        except BaseException:  # an interrupt too
            table.state[touched], table.meta[touched] = before
            raise
        counts = self.counts
        counts.bad += n - int(answers.accepted.sum())
        repeated = int(answers.duplicate.sum())
        counts.duplicates += repeated
        counts.samples += int(answers.accepted.sum()) - repeated
        counts.gaps += int(answers.gap.sum())
        self._judge(answers)
        return answers

    def unanswered(self, samples: Samples) -> Results:
        """Room for the answers."""
        n = len(samples.keys)
        return Results(
            values=np.full((n, self.outputs), np.nan, np.float32),
            age=np.full(n, -1),
            seq=samples.seq,
            complete=np.zeros(n, bool),
            beyond_training_length=np.zeros(n, bool),
            duplicate=np.zeros(n, bool),
            gap=np.zeros(n, np.int64),
            accepted=np.ones(n, bool),
            decision=np.full(n, -1),
            reasons=samples.reasons,
        )

    @staticmethod
    def rounds(places: Array, rows: Array) -> Iterator[Array]:
        """Places of the first samples of all rows, of the second ones, ..."""
        order = np.argsort(rows, kind="stable")
        starts = np.flatnonzero(np.diff(rows[order], prepend=-1))
        sizes = np.diff(starts, append=len(rows))
        by_size = np.argsort(-sizes, kind="stable")  # the longest first: those that are done fall off the end
        starts, sizes = starts[by_size], sizes[by_size]
        for turn in range(int(sizes[0]) if len(sizes) else 0):
            left = int(np.searchsorted(-sizes, -turn))
            yield places[order[starts[:left] + turn]]

    def _round(self, samples: Samples, rows: Array, i: Array, now: float, strict: bool, answers: Results) -> None:
        """One sample of each of different rows; i: their places in the call."""
        table = self.table
        meta = table.meta[rows]
        seq = samples.seq[i]
        numbered = seq >= 0
        any_numbered = bool(numbered.any())
        gap = None
        if any_numbered:
            last = meta["seq"][:, 0]
            old = numbered & (seq <= last)
            if old.any():
                self._repeat(meta[old], i[old], answers)
                new = ~old
                rows, i, meta, seq, numbered, last = rows[new], i[new], meta[new], seq[new], numbered[new], last[new]
            gap = np.where(numbered & (last >= 0), seq - last - 1, 0)
        time = samples.time[i]
        if self.by_time:
            time = np.where(np.isnan(time), np.fmax(now, meta["time"]), time)  # a clock that jumped back is no gap
        restarts = self._restarts(meta, time)
        wrong = self._wrong(samples.x, meta, i, time, restarts)
        if gap is not None and self.gap_is_error:
            wrong |= gap > 0
        if wrong.any():
            for k in np.flatnonzero(wrong).tolist():
                where = samples.where(int(i[k]), int(meta["samples"][k]) + 1)
                if gap is not None and self.gap_is_error and gap[k] > 0:
                    why = f"expected number {seq[k] - gap[k]}, got {seq[k]} ({where}); send what is missing first"
                else:
                    why = self._why(samples, int(i[k]), int(rows[k]), float(time[k]))
                self._refuse(int(i[k]), why, strict, answers)
            new = ~wrong
            rows, i, meta, seq, numbered = rows[new], i[new], meta[new], seq[new], numbered[new]
            time, restarts = time[new], restarts[new]
            gap = gap if gap is None else gap[new]
        if not len(i):
            return
        if restarts.any():
            self.restarted = True
            again = rows[restarts]
            old_rows = table.state[again]
            table.state[again] = table.nothing
            meta["age"][restarts] = 0
        out, finite = self._compute(rows, samples.x[i])
        if not finite.all():
            if restarts.any():
                undone = ~finite[restarts]
                table.state[again[undone]] = old_rows[undone]
            for k in np.flatnonzero(~finite).tolist():
                why = self._why(samples, int(i[k]), int(rows[k]), float(time[k]))
                self._refuse(int(i[k]), why, strict, answers)
            rows, i, meta, seq, numbered = rows[finite], i[finite], meta[finite], seq[finite], numbered[finite]
            time, out = time[finite], out[finite]
            gap = gap if gap is None else gap[finite]
        meta["age"] += meta["age"] >= 0
        meta["samples"] += 1
        meta["time"] = np.where(np.isnan(time), meta["time"], time)
        meta["used"] = now
        meta["flags"] = HERE | CHANGED | (STATIC if self.static else 0)
        if self.static:
            meta["static"] = samples.x[i][:, self.static]
        if "newest" in (meta.dtype.names or ()):
            ring = meta["newest"]
            ring[np.arange(len(i)), (meta["samples"] - 1) % ring.shape[1]] = samples.x[i]
            meta["kept"] = np.minimum(meta["kept"] + 1, ring.shape[1])
        if any_numbered:
            self._remember(meta, seq, numbered, out)
        table.meta[rows] = meta
        if self.sketches is not None:
            self.sketches.note(rows, meta["age"], out)
        self._answer(answers, i, out)
        answers.age[i] = meta["age"]
        samples.time[i] = time  # the clock's, where none was given and one is needed
        if gap is not None:
            answers.gap[i] = gap

    @staticmethod
    def _remember(meta: Array, seq: Array, numbered: Array, out: Array) -> None:
        """Numbers and answers, the newest in front."""
        if meta["seq"].shape[1] > 1:
            for name in ("seq", "ages", "outputs"):
                column = meta[name]
                column[numbered, 1:] = column[numbered, :-1]
        meta["seq"][numbered, 0] = seq[numbered]
        meta["ages"][numbered, 0] = meta["age"][numbered]
        meta["outputs"][numbered, 0] = out[numbered]

    def _answer(self, answers: Results, i: Array, out: Array) -> None:
        """What the model gave (i, outputs), the decision at the end, if any."""
        answers.values[i] = out[:, : self.outputs]
        if self.decides:
            answers.decision[i] = decisions(out)

    def _repeat(self, meta: Array, i: Array, answers: Results) -> None:
        """The answers that these samples had, as far as they are remembered."""
        answers.duplicate[i] = True
        at, which = np.nonzero(meta["seq"] == answers.seq[i][:, None])
        self._answer(answers, i[at], meta["outputs"][at, which])
        answers.age[i[at]] = meta["ages"][at, which]

    def _restarts(self, meta: Array, time: Array) -> Array:
        """bool: as `Windowing.restarts`."""
        if isinstance(self.windowing, Tumbling):
            return meta["age"] >= self.windowing.n
        if isinstance(self.windowing, Session):
            return time - meta["time"] > self.windowing.gap
        return np.zeros(len(meta), bool)

    def _wrong(self, X: Array, meta: Array, i: Array, time: Array, restarts: Array) -> Array:
        """bool: whether `Stream` would refuse the sample; what it says of a sample alone is known already."""
        wrong = time < meta["time"]
        n = self.model.window_length
        if n is not None and not isinstance(self.windowing, Sliding):
            wrong |= ~restarts & (meta["age"] >= n)
        if self.static:
            known = ((meta["flags"] & STATIC) != 0) & ~restarts
            wrong |= known & (X[i][:, self.static] != meta["static"]).any(axis=1)
        return wrong

    def _why(self, samples: Samples, i: int, row: int, time: float) -> str:
        """What a stream of its own says of the sample."""
        try:
            says, self.rules._says_restart = self.rules._says_restart, False
            self.rules._next(
                self.table.get(row),
                samples.x[i],
                None if math.isnan(time) else time,
                None,
                f"stream {samples.keys[i]!r}",
            )
        except InputError as e:
            return str(e)
        finally:
            self.rules._says_restart = says
        raise AssertionError("a sample was refused that a stream takes")

    @staticmethod
    def _refuse(i: int, why: str, strict: bool, answers: Results) -> None:
        if strict:
            raise InputError(why)
        answers.accepted[i] = False
        answers.reasons[i] = why

    def _compute(self, rows: Array, x: Array) -> tuple[Array, Array]:
        """Answers (n, outputs), and whether they and the states are finite; rows that would not be keep their state."""
        machine, table = self.executor.machine, self.table
        if machine is not None:
            return update(machine, table.state, rows, x)
        with np.errstate(all="ignore"):
            ys, new = self.executor.step(x, table.state[rows])
        out = np.concatenate(ys, axis=1)
        finite = np.isfinite(new).all(axis=1) & np.isfinite(out).all(axis=1)
        table.state[rows[finite]] = new[finite]
        return out, finite

    def _judge(self, answers: Results) -> None:
        """complete and beyond_training_length, as `Stream` has them, wherever there is an answer."""
        age = answers.age
        there = ~np.isnan(answers.values[:, 0])
        complete, beyond = answers.complete, answers.beyond_training_length
        length, n = self.model.training_length, self.model.window_length
        effective = np.minimum(age, self.windowing.n) if isinstance(self.windowing, Sliding) else age
        if n is not None:
            complete[:] = there & (effective == n)
        elif isinstance(self.windowing, Tumbling):
            complete[:] = there & (age == self.windowing.n)
        elif isinstance(self.windowing, Sliding):
            complete[:] = there & (age >= self.windowing.n)
        else:
            complete[:] = there & (age >= (length or 0))  # an unknown age is -1
        if length is not None:
            beyond[:] = there & ((age < 0) | (effective > length))
