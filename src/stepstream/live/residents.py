"""Which streams an Engine has in memory, and what is done to them: one way for calls and for a journal."""

from __future__ import annotations

import math
from collections.abc import Callable, Container, Iterator
from functools import partial
from struct import Struct
from typing import Any, final

import numpy as np

from stepstream.errors import InputError, StoreError
from stepstream.graph.ir import Array
from stepstream.kernel.keys import Key
from stepstream.live import plain
from stepstream.live.ages import rungs
from stepstream.live.batch import Samples, Stepper
from stepstream.live.drift import Watch
from stepstream.live.journal import DELETE, END, PUT, RESET, STEPS, Operation
from stepstream.live.missing import Regular
from stepstream.live.records import ENDED, Records, Shape
from stepstream.live.results import Result, Results, StreamInfo, answered, info_of
from stepstream.live.settings import Settings
from stepstream.live.state import StreamState
from stepstream.live.stream import Stream
from stepstream.live.table import Table
from stepstream.live.truth import truth_of
from stepstream.live.vault import Vault

EVICTED_AT_ONCE = 64  # of the table, one part in so many: looking for the coldest streams costs a look at all
_ONE = Struct("<f")
SWEEPS = 8  # looks for idle streams in the time after which one is idle


def shape_of(rules: Stream, remember: int = 1, keep: int = 0, rungs: int = 0) -> Shape:
    """Of what streams of these rules carry; a decision is remembered beside the outputs."""
    return Shape(remember, keep, answered(rules.model), len(rules._static), rules.model.n_features, rungs)


@final
class Residents:
    """For one thread at a time. vault: where streams go, or None; short: what takes plain samples, or None."""

    def __init__(self, rules: Stream, settings: Settings, watch: Watch | None = None) -> None:
        executor, given, every = rules._executor, settings, settings.every
        shape = shape_of(rules, given.remember, given.keep, rungs(given.judge))
        self.table = Table(given.capacity, executor, shape)
        self._regular = Regular(every, given.hold, rules._resolved) if every is not None else None
        self.truth = truth_of(rules, self.table, given.judge)
        self.sketches = None if self.truth is None else self.truth.sketches
        self.watch = watch
        self.notes = self.sketches is not None or self.watch is not None
        self.stepper = Stepper(rules, self.table, given.gap_is_error, self.sketches)
        self.records = Records(shape, executor.state_size)
        self.vault: Vault | None = None
        self.every = every or 0.0
        self.short = plain.streams(rules, self.table, shape, given.gap_is_error, self.every)
        self.expire_after, self._idle_after = given.expire_after, given.idle_after
        self._on_evict, self._on_end = given.on_evict, given.on_end
        self.due: list[Callable[[], object]] = []  # callbacks that wait for the end of the call
        self.changing = False  # whether the call at hand has begun to change the table
        self.events = dict.fromkeys(("evicted", "returned", "ended", "expired"), 0)
        self.included: Array | None = None  # while recovering: the last entry that each row includes
        self._created = np.zeros(0, np.int64)  # rows of streams that begin with the call at hand
        self._now = -math.inf
        self.next_sweep = math.inf if given.idle_after is None and given.expire_after is None else -math.inf
        if self.short is not None:
            self.short.sweep = self.next_sweep

    def tick(self, clock: float) -> float:
        """The time, by a clock that never goes back."""
        last = self._now if self.short is None else self.short.now
        self._now = now = max(float(clock), math.nextafter(last, math.inf))
        if self.short is not None:
            self.short.now = now
        return now

    def cut_off(self, error: BaseException) -> None:
        """A change of the table was interrupted: nobody knows how far it came, and no store will ever have it."""
        if self.vault is not None:
            self.vault.fail(error)

    def find(self, key: Key) -> int:
        """Its row, or -1; raises InputError for what is no key."""
        try:
            return int(self.table.keys.find([key])[0])
        except (TypeError, ValueError) as e:
            raise InputError(str(e)) from e

    def row(self, key: Key, now: float) -> int | None:
        """The row of a stream or a tombstone, out of the store if need be; None where there is neither."""
        row = self.find(key)
        if row < 0:
            bad = self._bring([key], np.zeros(0, np.int64), now, create=False)
            if bad:
                raise StoreError(bad[key])
            row = self.find(key)
        return None if row < 0 else row

    def known(self, key: Key, now: float) -> int:
        row = self.row(key, now)
        if row is None or self.table.ended(row):
            raise InputError(f"expected the key of a stream, got {key!r}, which has none")
        return row

    def admit(self, samples: Samples, rows: Array, now: float, strict: bool) -> Array:
        """Rows for all good samples: streams come back from the store, and new ones begin."""
        missing = rows < 0
        self._created = rows[:0]
        if not missing.any():
            return rows
        wanted = [i for i in np.flatnonzero(missing).tolist() if i not in samples.reasons]
        bad = self._bring(list({samples.keys[i]: None for i in wanted}), rows[~missing], now, create=True)
        if bad:
            if strict:
                self.table.remove(self._created)
                raise StoreError(next(iter(bad.values())))
            samples.reasons.update((i, bad[samples.keys[i]]) for i in wanted if samples.keys[i] in bad)
        if wanted:
            rows[wanted] = self.table.keys.find([samples.keys[i] for i in wanted])
        return rows

    def _bring(self, keys: list[Key], keep: Array, now: float, create: bool) -> dict[Key, str]:
        """Into the table, from the store, or as new streams. keep: rows that must not make room for them.

        Returns what is damaged, and stays out.
        """
        vault, found, bad = self.vault, None, dict[Key, str]()
        if vault is not None:
            found, bad = vault.fetch(keys)
        known = found.keys if found is not None else []
        coming = known if not create else [key for key in keys if key not in bad]
        if not coming:
            return bad
        self.changing = True
        if (over := len(self.table) + len(coming) - self.table.capacity) > 0:
            self._evict(over, keep, len(coming))
        table = self.table
        rows = self._created = table.insert(coming, now)
        if self.included is not None:
            self.included[rows] = 0
        if found is not None and known:
            there = table.keys.find(known)
            table.load(there, found.meta, found.rows)
            self._created = rows[~np.isin(rows, there)]
            self.events["returned"] += len(known)
            if self.included is not None:
                self.included[there] = found.numbers
            elif self.expire_after is not None:
                old = np.flatnonzero(found.meta["used"] + self.expire_after < now).tolist()
                self.expire([known[i] for i in old], now)
                if old and create:
                    self._created = np.append(self._created, table.insert([known[i] for i in old], now))
            there = table.keys.find(coming)
            table.meta["used"][there[there >= 0]] = now
        return bad

    def _evict(self, over: int, keep: Array, coming: int) -> None:
        """Make room for `coming` streams, of which `over` are too many: the coldest go to the store."""
        table, capacity = self.table, self.table.capacity
        if self.vault is None:
            raise InputError(
                f"expected at most {capacity} streams, got {len(table)} and {coming} new ones; raise capacity=, end "
                "streams, or give a store= for those that are idle"
            )
        rows = table.rows()
        free = rows[~np.isin(rows, keep)]
        if len(free) < over:
            raise InputError(
                f"expected samples of at most {capacity} streams in a call, got {len(keep) + coming}; raise capacity= "
                "or make several calls"
            )
        count = min(len(free), max(over, capacity // EVICTED_AT_ONCE))
        self._move_out(free[np.argpartition(table.meta["used"][free], count - 1)[:count]])

    def _move_out(self, rows: Array) -> None:
        """Out of memory, into the store."""
        table, self.changing = self.table, True
        assert self.vault is not None
        self.vault.put(rows)
        if self._on_evict is not None:
            live = rows[(table.meta["flags"][rows] & ENDED) == 0].tolist()
            self.due += [partial(self._on_evict, table.keys.key(row)) for row in live]
        table.remove(rows)
        self.events["evicted"] += len(rows)

    def sweep(self, now: float) -> None:
        """Idle streams go to the store, expired ones go altogether."""
        waits = [seconds for seconds in (self._idle_after, self.expire_after) if seconds is not None]
        self.next_sweep = now + min(waits, default=math.inf) / SWEEPS
        if self.short is not None:
            self.short.sweep = self.next_sweep
        if not waits:
            return
        table = self.table
        if self.expire_after is not None:
            rows = table.rows()
            old = rows[table.meta["used"][rows] + self.expire_after < now]
            self.expire([table.keys.key(row) for row in old.tolist()], now)
        if self._idle_after is not None:
            rows = table.rows()
            idle = rows[table.meta["used"][rows] + self._idle_after < now]
            if len(idle):
                self._move_out(idle)

    def expire(self, keys: list[Key], now: float, ended: Container[Key] = ()) -> None:
        """Streams, in memory or not, and tombstones are no longer. ended: those not in memory that are tombstones."""
        if not keys:
            return
        rows = self.table.keys.find(keys).tolist()
        for key, row in zip(keys, rows, strict=True):
            if (key not in ended) if row < 0 else not self.table.ended(row):
                self.tell_end(key)
        self.change(DELETE, keys, now)
        self.events["expired"] += len(keys)

    def tell_end(self, key: Key) -> None:
        if self._on_end is not None:
            self.due.append(partial(self._on_end, key))

    def apply(
        self,
        samples: Samples,
        rows: Array,
        now: float,
        strict: bool,
        bookmark: Callable[[Results], bytes] | None = None,
    ) -> Results:
        """Step, and make it durable, with the bookmark that the answers give."""
        self.changing, self.stepper.restarted = True, False
        try:
            answers, taken = self._step(samples, rows, now, strict)
        except InputError:
            self.stepper.counts.bad += 1
            raise
        finally:  # what has begun with bad samples alone has not begun
            meta = self.table.meta[self._created]
            self.table.remove(self._created[(meta["samples"] == 0) & ((meta["flags"] & ENDED) == 0)])
        if self.watch is not None:
            new = answers.accepted & ~answers.duplicate
            self.watch.see(samples.x[new], answers.age[new], answers.values[new])
        rules = self.stepper.rules
        if self.stepper.restarted and rules._says_restart:
            self.due.append(rules._say_restart)  # later, as a warning may be made an error
        elif self.short is not None:
            self.short.asks = rules._says_restart
        rows = np.concatenate([part for _, part in taken])
        over = [
            (some.keys[i], int(part[i]))
            for some, part in taken
            if some.end is not None
            for i in np.flatnonzero(some.end).tolist()
        ]
        if over:
            ended = np.unique([row for _, row in over])
            ended = ended[(self.table.meta["flags"][ended] & ENDED) != 0]  # the others have begun anew
            self.do(Operation(END, now, [self.table.keys.key(row) for row in ended.tolist()]), ended)
        if self.vault is not None:
            done = [o for some, part in taken if some.keys for o in _operations(some, part, now)]
            if done or bookmark is not None:
                self.vault.commit(done, now, rows, None if bookmark is None else partial(bookmark, answers))
        for key, _ in over:
            self.tell_end(key)
        self.events["ended"] += len(over)
        return answers

    def note(self, rows: Array, x: Array, ages: Array, answers: Array) -> None:
        """What the short way has answered, for those who want to know."""
        if self.sketches is not None:
            alone = self.table.distinct(rows)
            for part in (slice(None),) if alone else self.stepper.rounds(np.arange(len(rows)), rows):
                self.sketches.note(rows[part], ages[part], answers[part])
        if self.watch is not None:
            self.watch.see(x, ages, answers)

    def note_one(self, result: Result) -> None:
        """As `note`, of what `short.step` has answered just now."""
        out: Any = result.value  # of one unit, or the bytes of several
        answer = out if isinstance(out, bytes) else _ONE.pack(out)
        age = -1 if result.age is None else result.age
        if self.sketches is not None:
            self.sketches.note_one(self.find(result.key), age, answer)
        if self.watch is not None and self.watch.due():
            x, y = (np.frombuffer(data, np.float32).reshape(1, -1) for data in (self.short.sample, answer))
            self.watch.see(x, np.array([age]), y)

    def infos(self) -> list[StreamInfo]:
        """All streams that have not ended, in memory and in the store."""
        table, rows = self.table, self.table.rows()
        rows = rows[(table.meta["flags"][rows] & ENDED) == 0]
        out = [info_of(table.keys.key(r), table.meta[r], True) for r in rows.tolist()]
        if self.vault is not None:
            others = self.vault.elsewhere()
            out += [info_of(key, meta, False) for key, meta in others if not meta["flags"] & ENDED]
        return out

    def stats(self) -> dict[str, Any]:
        """As `Engine.stats` has them."""
        counts, native, vault = self.stepper.counts, self.short, self.vault
        return {
            "streams": len(self.table),
            "samples": counts.samples + (native.samples if native else 0),
            "duplicates": counts.duplicates,
            "gaps": counts.gaps + (native.gaps if native else 0),
            "bad": counts.bad,
            **self.events,
            "damaged": len(vault.damaged) if vault else 0,
            "journal_bytes": vault.store.journal_bytes if vault else 0,
            "arithmetic": self.stepper.executor.arithmetic_id,
            "quality": None if self.truth is None else self.truth.figures(),
            "drift": None if self.watch is None else self.watch.figures(),
        }

    def _step(self, samples: Samples, rows: Array, now: float, strict: bool) -> tuple[Results, list[Taken]]:
        """The answers, and what was taken: with what stands in for missing samples."""
        regular, stepper = self._regular, self.stepper
        suspect = None if regular is None else regular.suspects(samples, rows, self.table)
        if suspect is not None and samples.reasons:
            suspect[list(samples.reasons)] = False
        if regular is None or suspect is None or not suspect.any():
            answers = stepper.run(samples, rows, now, strict)
            return answers, [_taken(samples, rows, answers)]
        table, touched, counts = self.table, np.unique(rows[rows >= 0]), vars(stepper.counts).copy()
        before = table.state[touched], table.meta[touched]
        answers, places = stepper.unanswered(samples), np.flatnonzero(~suspect)
        try:
            some = samples.some(places)
            got = stepper.run(some, rows[places], now, strict)
            answers.put(places, got)
            taken = [_taken(some, rows[places], got)]
            for i in np.flatnonzero(suspect).tolist():
                try:
                    some, part = regular.held(samples, i, int(rows[i]), table)
                    got = stepper.run(some, part, now, strict=True)
                except InputError as e:
                    if strict:
                        raise
                    stepper.counts.bad += 1
                    answers.accepted[i], answers.reasons[i] = False, str(e)
                else:
                    answers.put(np.array([i]), got)
                    taken.append(_taken(some, part, got))
        except BaseException:
            table.state[touched], table.meta[touched] = before
            vars(stepper.counts).update(counts)
            raise
        return answers, taken

    def held(self, key: Key, row: int, time: float | None) -> Iterator[tuple[Array, float]]:
        """The samples, and their times, that stand in for what is missing before a sample at this time; raises
        InputError. row: -1 for a new stream.
        """
        if self._regular is None or row < 0:
            return iter(())
        at = np.array([math.nan if time is None else time])
        sample = Samples([key], np.zeros((1, self.stepper.model.n_features), np.float32), np.array([-1]), at)
        held = self._regular.held(sample, 0, row, self.table).samples
        return zip(held.x[:-1], held.time[:-1].tolist(), strict=True)

    def change(self, letter: bytes, keys: list[Key], now: float) -> None:
        """Apply an operation other than a step, and make it durable."""
        operation, rows = Operation(letter, now, keys), self.table.keys.find(keys)
        self.changing = True
        self.do(operation, rows)
        if self.vault is not None:
            self.vault.commit([operation], now, rows[rows >= 0])

    def do(self, o: Operation, rows: Array) -> None:
        """Apply an operation other than a step to the table; rows: of its keys, -1 for those that are not there."""
        table = self.table
        there = rows[rows >= 0]
        if o.letter == RESET:
            table.clear(there)
        elif o.letter == END:
            stays = table.meta["seq"][there, 0] >= 0
            if self.sketches is not None:
                stays |= self.sketches.waits(there)
            table.clear(there[stays], ENDED)
            table.meta["used"][there] = o.now
            table.remove(there[~stays])
            if self.vault is not None:
                self.vault.forget([k for k, n in zip(o.keys, stays, strict=True) if not n])
        elif o.letter == DELETE:
            table.remove(there)
            if self.vault is not None:
                self.vault.forget(o.keys)

    def place(self, key: Key, state: StreamState, now: float, samples: Array | None = None) -> None:
        """The stream has this state and these kept samples now; its numbers stay."""
        if self.find(key) < 0:
            bad = self._bring([key], np.zeros(0, np.int64), now, create=True)
            if bad:
                raise StoreError(bad[key])
        row, self.changing = self.find(key), True
        self.table.set(row, state, samples)
        self.table.meta["used"][row] = now
        if self.vault is not None:
            rows = np.array([row])
            ((_, record),) = self.vault.encode(rows)
            self.vault.commit([Operation(PUT, now, [key], record=record)], now, rows)


Taken = tuple[Samples, Array]  # and the rows of their streams


def _taken(samples: Samples, rows: Array, answers: Results) -> Taken:
    """Those that have changed a stream."""
    chosen = answers.accepted & ~answers.duplicate
    return (samples, rows) if chosen.all() else (samples.some(np.flatnonzero(chosen)), rows[chosen])


def _operations(samples: Samples, rows: Array, now: float) -> Iterator[Operation]:
    """Steps and ends in an order that gives the same again: a stream's samples up to its end, then the end, then those
    after it.
    """
    if samples.end is None:
        yield Operation(STEPS, now, samples.keys, samples.x, samples.seq, samples.time)
        return
    by_row = np.argsort(rows, kind="stable")
    ends = samples.end[by_row]
    before = np.cumsum(ends) - ends  # of all rows that come first, too
    first = np.flatnonzero(np.diff(rows[by_row], prepend=-1))
    turns = np.empty(len(rows), np.int64)
    turns[by_row] = before - np.repeat(before[first], np.diff(first, append=len(rows)))
    order = np.argsort(turns, kind="stable")
    for part in np.split(order, np.flatnonzero(np.diff(turns[order])) + 1):
        some = samples.some(part)
        yield Operation(STEPS, now, some.keys, some.x, some.seq, some.time)
        if some.end is not None and (over := np.flatnonzero(some.end).tolist()):
            yield Operation(END, now, [some.keys[i] for i in over])
