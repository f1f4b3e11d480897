"""Engine: many keyed streams over one model, in one process."""

from __future__ import annotations

import math
import os
import threading
import time as clocks
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, cast, final
from weakref import WeakKeyDictionary, WeakSet

import numpy as np
from numpy.typing import ArrayLike

from stepstream.arguments import whole, word, yes
from stepstream.arrays import short
from stepstream.errors import InputError, StepstreamError, StoreError
from stepstream.graph.ir import Array
from stepstream.kernel.keys import Key
from stepstream.live import incoming, plain
from stepstream.live.drift import watch_of
from stepstream.live.journal import DELETE, END, RESET, STEPS, Operation
from stepstream.live.records import encode_key
from stepstream.live.recovery import chosen, take_up
from stepstream.live.residents import Residents
from stepstream.live.results import Result, Results, StreamInfo, result_of, value_of
from stepstream.live.sample import Sample
from stepstream.live.settings import seconds, settled
from stepstream.live.state import StreamState
from stepstream.live.stream import Output, Stream
from stepstream.live.tender import Tender
from stepstream.live.truth import label
from stepstream.live.windowing import Windowing
from stepstream.stores.store import Store

if TYPE_CHECKING:
    import asyncio

    from stepstream.live.front import Front
    from stepstream.model import Model
    from stepstream.stores.sqlite import Durability

MAX_WAIT = 60  # seconds for which concurrent calls are gathered; milliseconds are usual


_here: WeakSet[Engine] = WeakSet()  # engines of this process


def _forked() -> None:
    for engine in _here:
        engine._disown()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forked)


@final
class Engine:
    """Many streams by key. A call either succeeds or raises and changes nothing; any thread may call.

    Close it, or use `with`: the store of an engine that was dropped instead stays claimed until the process ends.

    model: shared by all streams. windowing: as for `Model.stream`.
    store: where streams go that are idle, and what a new engine goes on from. "states.db", any path: SQLite;
    "redis://host/0?prefix=name": Redis; a `Store`; None: nothing survives the process.
    durability: of a path; "sync": an answer means that it is on the disk; "interval": it is within a second; "none":
    that is left to the system. In all three, what was answered survives the death of this process. None: "sync", or
    what a Redis server is set to; "sync" refuses one that answers before it has written.
    capacity: streams in memory. Beyond it, and after idle_after seconds without a sample, the coldest go to the store
    and come back with their next sample, bit for bit. expire_after: seconds without a sample after which a stream, or
    what an ended one has left, is deleted.
    remember: how many numbered samples of each stream, the newest, answer a repetition with what they answered before.
    on_gap: "accept" or "error", where a sequence number is left out.
    every, on_missing: seconds from each sample of a stream to the next, and what to do where some are missing, by their
    times: "raise"; "hold": the sample before stands in for them, as often as needed; "skip": nothing, as without every.
    keep: how many of each stream's newest samples are kept beside its state, for a later model to start from.
    judge: the last age at which answers wait for `label`; 0: none do. Of each stream's newest sequence and of the one
    before it those at ages 1, 2, 3, 5, 7, 10, 15, 20, 30, 50, 70, 100, ... up to judge wait, and the last one: 8 bytes
    for each age and output, and 36 + 8 * remember. What is left of streams that have ended stays until expire_after.
    watch: one of so many samples, by chance, is compared with the training data; 0: none. reference: what of them, as
    `stepstream.learn.drift_reference` returns it; None: what the model brings along.
    on_evict, on_end: called with the key when a stream has gone to the store, or has ended or expired; in the thread
    that made the call, after it, so that what they raise comes out of a call that has succeeded.
    snapshot_bytes, snapshot_every: size of the journal, and seconds, after which a thread of the engine takes the next
    snapshot; the journal is what opening after a crash has to replay.
    recover: "exact" or "inexact", the latter to replay a journal that another arithmetic has written.
    batch, wait: how many concurrent calls `astep` gathers at most, and for how many seconds.
    clock: seconds since 1970.
    Raises InputError, BlockedError, StateError for the store of another model or windowing, StoreError.
    """

    def __init__(
        self,
        model: Model,
        windowing: str | Windowing = "auto",
        store: str | Path | Store | None = None,
        durability: Durability | None = None,
        *,
        capacity: int = 1_000_000,
        idle_after: float | None = None,
        expire_after: float | None = None,
        remember: int = 1,
        on_gap: str = "accept",
        every: float | None = None,
        on_missing: str = "raise",
        keep: int = 0,
        judge: int = 0,
        watch: int = 0,
        reference: Mapping[str, Any] | None = None,
        on_evict: Callable[[Key], object] | None = None,
        on_end: Callable[[Key], object] | None = None,
        snapshot_bytes: int = 1 << 28,
        snapshot_every: float | None = 300.0,
        recover: str = "exact",
        batch: int = 1024,
        wait: float = 0.0,
        clock: Callable[[], float] = clocks.time,
    ) -> None:
        if not hasattr(model, "fingerprint"):
            raise InputError(f"expected a model, as stepstream.load returns it, got {short(model)}")
        rules = Stream(model, windowing)
        settings = settled(
            capacity, idle_after, expire_after, remember, on_gap, every, on_missing, keep, judge, on_evict, on_end
        )
        inexactly = word("recover", recover, "exact", "inexact") == "inexact"
        journal_bytes = whole("snapshot_bytes", snapshot_bytes, 1, 2**62)
        snapshot_seconds = seconds("snapshot_every", snapshot_every) or math.inf
        if isinstance(wait, bool) or not isinstance(wait, int | float) or not 0 <= wait <= MAX_WAIT:
            raise InputError(f"wait: expected seconds from 0 to {MAX_WAIT}, got {short(wait)}")
        self._gather = whole("batch", batch, 1, 2**20), float(wait)
        store = chosen(store, durability, idle_after)
        self.model, self.windowing = model, rules.windowing
        self._rules, self._clock = rules, clock
        self._streams = Residents(rules, settings, watch_of(model, rules.windowing, watch, reference))
        self._lock, self._snapshots = threading.Lock(), threading.Lock()
        self._closed, self._exact, self._marking = False, True, 0
        self._why_closed = "was closed; open another"
        self._tender: Tender | None = None
        self._fronts: WeakKeyDictionary[asyncio.AbstractEventLoop, Front] = WeakKeyDictionary()
        if store is not None:
            self._exact = take_up(self._streams, store, inexactly)
            self._tender = Tender(self, journal_bytes, snapshot_seconds)
        _here.add(self)

    def __repr__(self) -> str:
        return f"<Engine {self._rules._resolved}, {len(self._streams.table)} streams in memory, of {self.model!r}>"

    def __enter__(self) -> Engine:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # samples

    def step(self, key: Key, x: Sample, seq: int | None = None, time: float | None = None, end: bool = False) -> Result:
        """One sample of one stream, which begins with its first. x, time: as for `Stream.step`; under session(gap) the
        engine's clock stands in for a time that is not given.

        seq: its number, larger than the stream's last. The last `remember` numbers return their answers again and
        change nothing; older ones return the value None, with duplicate=True. end: the stream ends with this sample.
        """
        end = yes("end", end)
        self._outside()
        clock = None
        with self._lock:
            native = self._streams.short
            if native is not None and not end and not self._stopped():
                clock = float(self._clock())
                try:
                    result = native.step(key, x, seq, time, clock)
                    if result is not None:
                        return self._plainly(result, key, seq, time)
                except BaseException as e:
                    self._streams.cut_off(e)
                    raise
        with self._using(clock=clock) as now:
            row = self._streams.find(key)
            number = 1 if row < 0 else int(self._streams.table.meta["samples"][row]) + 1
            try:
                samples = incoming.one(self.model, key, x, seq, time, number)
                samples.end = np.array([True]) if end else None
            except InputError:
                self._streams.stepper.counts.bad += 1
                raise
            rows = self._streams.admit(samples, np.array([row]), now, strict=True)
            answers = self._streams.apply(samples, rows, now, strict=True)
            return result_of(self.model, key, seq, answers)

    def step_many(
        self,
        keys: Sequence[Key] | Array,
        X: ArrayLike | Mapping[str, ArrayLike],
        seq: Sequence[int | None] | Array | None = None,
        time: Sequence[float | None] | Array | None = None,
        on_bad: str = "raise",
        bookmark: Callable[[Results], bytes] | None = None,
        end: Sequence[bool] | Array | None = None,
    ) -> Results:
        """Samples of many streams, X (n, features) and as `Stream.steps` takes them, keys, seq, time and end (n,).

        The order within a key is kept, and any number of samples may have the same key. end: where it is true, the
        stream ends with the sample, and begins anew with its next one, perhaps in the same call. on_bad: "raise"
        applies all or nothing of the call; "skip" leaves bad samples out and says so in the answer.
        bookmark: is given the answers before anything is durable, and returns bytes that are kept with it, all or
        nothing: how far an input was read, for example. What it raises ends the engine, as an error of the store does.
        """
        strict = word("on_bad", on_bad, "raise", "skip") == "raise"
        if bookmark is not None:
            if not callable(bookmark):
                raise InputError(
                    f"bookmark: expected a function of the answers that returns bytes, got {short(bookmark)}"
                )
            if self._streams.vault is None:
                raise InputError("bookmark: expected a store that keeps it, got none; give the engine a store=")
            bookmark = partial(self._bookmark, bookmark)
        return self._many(keys, X, seq, time, end, strict, bookmark)

    def _many(
        self,
        keys: Any,
        X: Any,
        seq: Any,
        time: Any,
        end: Any = None,
        strict: bool = False,
        bookmark: Callable[[Results], bytes] | None = None,
        later: list[Callable[[], object]] | None = None,
    ) -> Results:
        """As `step_many`. later: as in `_using`."""
        self._outside()
        if (quick := self._quick_many(keys, X, seq, time, end, bookmark)) is not None:
            return quick
        samples = incoming.many(self.model, keys, X, seq, time, end)
        with self._using(later=later) as now:
            rows = incoming.rows_of_keys(self._streams.table.keys, samples)
            if strict and samples.reasons:
                self._streams.stepper.counts.bad += 1
                raise InputError(samples.reasons[min(samples.reasons)])
            rows = self._streams.admit(samples, rows, now, strict)
            return self._streams.apply(samples, rows, now, strict, bookmark=bookmark)

    async def astep(self, key: Key, x: Sample, seq: int | None = None, time: float | None = None) -> Result:
        """As `step`, for many callers in an event loop: calls that wait at the same time go through the model, and to
        the store, together.
        """
        import asyncio

        from stepstream.live.front import Front

        loop = asyncio.get_running_loop()
        front = self._fronts.get(loop)
        if front is None:
            front = self._fronts[loop] = Front(self._each, *self._gather, apart=self._streams.vault is not None)
        sample = x.copy() if isinstance(x, list | np.ndarray) else x  # its caller may fill it anew meanwhile
        return await front.step(incoming.Call(key, sample, seq, time))

    def _each(self, calls: Sequence[incoming.Call]) -> list[Result | Exception]:
        """The answers to calls, or what they raise."""
        if len(calls) == 1:
            return [self.step(*calls[0])]
        keys, xs, seqs, times = (list(column) for column in zip(*calls, strict=True))
        due = list[Callable[[], object]]()
        try:
            answers = self._many(keys, *plain.arrays(xs, seqs, times), later=due)
        except StepstreamError:  # of all together, as of too many streams at once: nothing has changed
            if self._stopped():
                raise
            return [self._alone(call) for call in calls]
        _tell(due)
        reasons = answers.reasons
        return [
            self._refusal(call, reasons[i]) if i in reasons else result_of(self.model, call.key, call.seq, answers, i)
            for i, call in enumerate(calls)
        ]

    def _alone(self, call: incoming.Call) -> Result | Exception:
        try:
            return self.step(*call)
        except Exception as e:  # raised to the caller whose sample it was, not to those beside it
            return e

    def _refusal(self, call: incoming.Call, why: str) -> Result | Exception:
        """What a call raises that was refused among others."""
        vault = self._streams.vault
        with suppress(InputError):
            if vault is not None and vault.damaged and encode_key(incoming.check_key(call.key)) in vault.damaged:
                return self._alone(call)  # another error, of the store
        return InputError(why)

    def peek(self, key: Key, x: Sample, time: float | None = None) -> Output:
        """The value that `step` would return; the stream stays as it is. An unknown key is a new stream."""
        with self._using() as now:
            row = self._streams.row(key, now)
            state = self._rules.snapshot() if row is None else self._streams.table.get(row)
            if time is None and self._streams.stepper.by_time:
                time = now if state.time is None else max(now, state.time)
            held = self._streams.held(key, -1 if row is None else row, time)
            says, self._rules._says_restart = self._rules._says_restart, False
            try:
                for sample, at in held:
                    state = self._rules._next(state, sample, at, None, f"stream {key!r}")[1]
                return self._rules._next(state, x, time, None, f"stream {key!r}")[0]
            finally:
                self._rules._says_restart = says

    def _plainly(self, result: Result, key: Key, seq: int | None, time: float | None) -> Result:
        """What a sample of the short way still needs: durability, and its value in its form."""
        if self._streams.notes:
            self._streams.note_one(result)
        if self._streams.vault is not None:
            rows = self._streams.table.keys.find([key])
            timed = time is not None or self._streams.stepper.by_time
            times = self._streams.table.meta["time"][rows] if timed else None
            native, number = self._streams.short, None if seq is None else np.array([seq])
            row, now = np.frombuffer(native.sample, np.float32).reshape(1, -1), native.now
            self._streams.vault.commit([Operation(STEPS, now, [key], row, number, times)], now, rows)
        if self._streams.stepper.outputs == 1:
            return result
        return result._replace(value=value_of(self.model, np.frombuffer(cast(bytes, result.value), np.float32)))

    def _quick_many(
        self, keys: Any, X: Any, seq: Any, time: Any, end: Any, bookmark: Callable[[Results], bytes] | None
    ) -> Results | None:
        """Arrays of samples with nothing out of the ordinary, of streams that are there; else None."""
        kept = self._streams.vault is not None  # what was stepped, whatever the caller does to his own meanwhile
        x = plain.floats(X, self.model.n_features, apart=kept)
        if self._streams.short is None or x is None or not plain.columns(seq, time, len(x)):
            return None
        if not plain.nothing_ends(end, len(x)):
            return None
        keys = keys.tolist() if isinstance(keys, np.ndarray) else keys
        if not isinstance(keys, list | tuple):
            return None
        if kept:
            keys, seq = tuple(keys), None if seq is None else seq.copy()
        with self._lock:
            native, n = self._streams.short, len(x)
            if native is None or self._stopped():
                return None
            stepper = self._streams.stepper
            answers, given, rows, times = plain.room(n, stepper.outputs, stepper.decides, seq)
            clock = float(self._clock())
            try:
                if not plain.run(native, keys, x, seq, time, clock, answers, given, rows, times):
                    return None
                if self._streams.notes:
                    self._streams.note(rows, x, answers.age, answers.values)
                if self._streams.vault is not None:
                    done, now = [Operation(STEPS, native.now, keys, x, seq, times)], native.now
                    self._streams.vault.commit(
                        done, now, rows, None if bookmark is None else partial(bookmark, answers)
                    )
                return answers
            except BaseException as e:
                self._streams.cut_off(e)
                raise

    # streams

    def fork(self, key: Key, new: Key) -> None:
        """A second stream, `new`, goes on from the state of `key`; sequence numbers belong to a key, and stay there.

        Raises InputError where there is no stream `key`, or a stream `new` already.
        """
        with self._using() as now:
            row = self._streams.known(key, now)
            state, samples = self._streams.table.get(row), self._streams.table.kept(row)
            there = self._streams.row(new, now)
            if there is not None and not self._streams.table.ended(there):
                raise InputError(f"expected a new key, got {new!r}, which has a stream; reset or end it first")
            self._streams.place(new, state, now, samples)

    def reset(self, key: Key, delete: bool = False) -> None:
        """Back to a stream that has seen nothing; its numbers stay. delete: they go too, and nothing is left."""
        delete = yes("delete", delete)
        with self._using() as now:
            if delete:
                incoming.check_key(key)
                self._streams.change(DELETE, [key], now)
            elif (row := self._streams.row(key, now)) is not None and not self._streams.table.ended(row):
                self._streams.change(RESET, [key], now)

    def end(self, key: Key) -> None:
        """The stream is over. If its samples had numbers, they stay until `expire_after`, so that a retry of the last
        sample is known as such.
        """
        with self._using() as now:
            row = self._streams.row(key, now)
            if row is not None and not self._streams.table.ended(row):
                self._streams.change(END, [key], now)
                self._streams.tell_end(key)
                self._streams.events["ended"] += 1

    def export(self, key: Key) -> StreamState:
        """All that the stream carries, as `Stream.snapshot` gives it and `Stream.restore` takes it."""
        with self._using() as now:
            state = self._streams.table.get(self._streams.known(key, now))
        return StreamState(
            state.row, state.age, state.time, state.samples, self.model.fingerprint, str(self.windowing), state.static
        )

    def restore(self, key: Key, state: StreamState) -> None:
        """The stream, new or not, goes on from a state of `export` or `Stream.snapshot`; its numbers stay.

        Raises InputError for another model's or windowing's.
        """
        self._rules._check(state)
        with self._using() as now:
            self._streams.row(key, now)
            self._streams.place(key, state, now)

    def streams(self) -> list[StreamInfo]:
        """All that have not ended, in memory and in the store."""
        with self._using():
            return self._streams.infos()

    def __contains__(self, key: Key) -> bool:
        """Whether there is a stream of this key, in memory or in the store, that has not ended."""
        with self._using() as now:
            row = self._streams.row(key, now)
            return row is not None and not self._streams.table.ended(row)

    def label(self, key: Key, y: Any, seq: int | None = None, *, over: bool = False) -> int:
        """The truth about a stream, as it turned out; what it says of the answers is in `stats()["quality"]`.

        y: the class, by its index or its name; for regression the number, or (outputs,). Without seq it is the truth
        about a sequence, all samples since the last reset, restart or end, and judges its answers so far, as many as
        wait for it (`judge`): those of the newest sequence, or with `over` of the newest that is over, which is another
        once the stream has begun anew. A fork or a restored stream begins a sequence. seq: the truth about one sample
        alone, of this number, whose answer is remembered (`remember`).

        Returns how many answers were judged: 0 where none are left, counted as missed, and where this sequence or
        sample has been judged before, counted as a duplicate. Neither changes anything else. A label is as durable as
        a sample. Raises InputError for what is no key or no truth of the model, and for an engine without `judge`.
        """
        over = yes("over", over)
        with self._using() as now:
            return label(self._streams, key, y, seq, over, now)

    def stats(self) -> dict[str, Any]:
        """Counts since the engine was opened; streams: in memory now, tombstones too; gaps: numbers left out.

        quality: what labels say of the answers, from before the store was opened, too; drift: how far samples and
        answers are from those in training, by what `watch` has chosen. None where there is nothing to say.
        """
        self._outside()
        with self._lock:
            return {**self._streams.stats(), "recovery": "exact" if self._exact else "inexact"}

    # durability

    @property
    def bookmark(self) -> bytes:
        """The newest of `step_many`, also from before the store was opened; empty where there was none."""
        vault = self._streams.vault
        return (vault.bookmark if vault is not None else None) or b""

    def snapshot(self) -> None:
        """Write every record that has changed to the store, while other threads go on, and trim its journal; delete
        what has expired.
        """
        self._outside()
        due: list[Callable[[], object]] = []
        try:
            with self._snapshots:
                self._snapshot(due)
        finally:  # callbacks, which may raise, come when all is done
            _tell(due)

    def _snapshot(self, due: list[Callable[[], object]]) -> None:
        with self._using(due) as now:
            self._streams.sweep(now)
            vault, expire_after = self._streams.vault, self._streams.expire_after
        if vault is None:
            return
        if expire_after is not None:
            for keys in list(vault.old(now - expire_after)):  # the store is not read and written at once
                with self._using(due) as now:
                    old, ended = vault.expired(keys, now - expire_after)
                    self._streams.expire(old, now, ended)
        vault.snapshot(lambda: self._using(due))

    def close(self) -> None:
        """Snapshot and close the store; again: nothing. After an error of the store it is closed as it is."""
        self._outside()
        if self._closed:
            return
        if self._tender is not None:
            self._tender.stop()
        vault = self._streams.vault
        try:
            if vault is not None and vault.broken is None:
                self.snapshot()
        except StoreError:
            if not self._closed:  # by another thread
                raise
        finally:
            with self._snapshots, self._lock:  # one that another thread has begun comes to its end
                if not self._closed:
                    self._closed = True
                    if vault is not None:
                        vault.store.close()

    def tend(self) -> int:
        """Do what is due by the clock; the engine's own thread calls it. Returns the bytes of the journal."""
        with self._using():
            return self._streams.vault.store.journal_bytes if self._streams.vault is not None else 0

    @property
    def broken(self) -> bool:
        """Whether the store has failed: close the engine and open it again."""
        return self._streams.vault is not None and self._streams.vault.broken is not None

    # the inside, under the lock

    @contextmanager
    def _using(self, later: list[Callable[[], object]] | None = None, clock: float | None = None) -> Iterator[float]:
        """The lock, and the time by a clock that never goes back; callbacks come when the lock is free again, or join
        those that come later. clock: what it shows, where somebody has looked already.
        """
        self._outside()
        with self._lock, np.errstate(all="ignore"):  # whatever the caller wants to be told of his own arithmetic
            if self._closed:
                raise StoreError(f"expected an open engine, got one that {self._why_closed}")
            if (vault := self._streams.vault) is not None and vault.broken is not None:
                raise StoreError(
                    f"expected a store that takes what it is given, but it failed before: {vault.broken}; close the "
                    "engine and open it again: what was acknowledged is safe"
                )
            clock = float(self._clock()) if clock is None else clock
            if not math.isfinite(clock):
                raise InputError(f"clock: expected seconds since 1970, got {clock}")
            now = self._streams.tick(clock)
            self._streams.changing = False
            try:
                if now >= self._streams.next_sweep:
                    self._streams.sweep(now)
                yield now
            except BaseException as e:
                if self._streams.changing and not isinstance(e, StepstreamError):  # that is a refusal, and no change
                    self._streams.cut_off(e)
                raise
            due, self._streams.due = self._streams.due, []
        if later is None:
            _tell(due)
        else:
            later += due

    def _bookmark(self, bookmark: Callable[[Results], bytes], answers: Results) -> bytes:
        """What the caller's function returns, while the lock is held."""
        self._marking = threading.get_ident()
        try:
            made = bookmark(answers)
        finally:
            self._marking = 0
        if not isinstance(made, bytes):
            raise InputError(f"bookmark: expected bytes of the function, got {short(made)}")
        return made

    def _outside(self) -> None:
        """Whether the caller is not a bookmark, which has the lock already."""
        if self._marking and self._marking == threading.get_ident():
            raise InputError("expected no call of the engine by bookmark=, got one; call it before or after step_many")

    def _disown(self) -> None:
        """In a process that was forked off: the store belongs to the one before; two would write over each other."""
        if self._streams.vault is not None:
            self._lock, self._snapshots = threading.Lock(), threading.Lock()
            self._closed, self._why_closed = True, "another process opened, before it forked; open one in this process"

    def __reduce__(self) -> NoReturn:
        raise TypeError("an Engine is neither copied nor pickled; export(key) gives a stream, snapshot() a store")

    def _stopped(self) -> bool:
        """Whether nothing goes on, for a reason that `_using` says."""
        vault = self._streams.vault
        return self._closed or (vault is not None and vault.broken is not None)


def _tell(callbacks: Sequence[Callable[[], object]]) -> None:
    """All of them, in their order; then what one of them has raised comes out."""
    with ExitStack() as told:
        for callback in reversed(callbacks):
            told.callback(callback)
