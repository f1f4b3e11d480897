"""Opening a store: records, then the journal upon them, by the code that has written it."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from stepstream.arrays import short
from stepstream.errors import InputError, StateError, StoreError
from stepstream.graph.ir import Array
from stepstream.kernel.keys import Key
from stepstream.live import journal, truth
from stepstream.live.batch import Counts, Samples
from stepstream.live.journal import BOOKMARK, DELETE, END, LABEL, PUT, STEPS, Operation
from stepstream.live.records import CHANGED, encode_key
from stepstream.live.residents import Residents
from stepstream.live.vault import Vault, header_of, refuse_other
from stepstream.stores.store import Store

if TYPE_CHECKING:
    from stepstream.stores.sqlite import Durability


def chosen(store: str | Path | Store | None, durability: Durability | None, idle_after: float | None) -> Store | None:
    """What an engine was given as its store; raises InputError."""
    for name, given in (("idle_after", idle_after), ("durability", durability)):
        if given is not None and store is None:
            raise InputError(f"{name}: expected a store that streams go to, got none; give store=")
    if isinstance(store, str | os.PathLike):
        from stepstream.stores.opening import store_at  # imports databases

        return store_at(store, durability)
    if store is not None and not hasattr(store, "keeps_journal"):
        raise InputError(f"store: expected a path, an address or a Store, got {short(store)}")
    if durability is not None:
        raise InputError("durability: expected none beside a store, which has its own; give it to the store")
    return store


def take_up(streams: Residents, store: Store, inexactly: bool) -> bool:
    """Claim a store and take what it holds; returns whether all is exact, to the bit.

    inexactly: replay a journal that another arithmetic has written, too. Raises StateError for the store of another
    model, windowing or arithmetic, StoreError for one that is damaged; it is closed then, as it was.
    """
    header = header_of(streams.stepper.rules)
    found = store.open(header, lambda found: refuse_other(found, header))
    quality = None if streams.truth is None else streams.truth.quality
    vault = streams.vault = Vault(store, streams.table, streams.records, quality)
    try:
        other = found.get("arithmetic") != header["arithmetic"]
        replays = next(iter(store.journal()), None) is not None
        if other and replays and not inexactly:
            raise StateError(
                f"expected a journal by arithmetic {header['arithmetic']}, got one by {found.get('arithmetic')}: "
                "replaying it would give other last bits; open the store where it was written, or with "
                'recover="inexact"'
            )
        _recover(streams, vault)
        if other:  # from here on the journal is ours
            vault.snapshot(nullcontext)
            store.set_header({**found, **header})
    except BaseException:
        store.close()
        raise
    return not (other and replays)


def _recover(streams: Residents, vault: Vault) -> None:
    table, stepper, rules, native = streams.table, streams.stepper, streams.stepper.rules, streams.short
    included = streams.included = np.zeros(table.capacity, np.int64)
    strict, says, sweep = stepper.gap_is_error, rules._says_restart, streams.next_sweep
    stepper.gap_is_error = rules._says_restart = False  # what was taken once is taken
    if native is not None:
        native.gap_is_error = native.asks = False
        native.every, native.sweep = 0.0, math.inf
    for found in vault.all():
        room = table.capacity - len(table)
        rows = table.take(found.keys[:room], found.meta[:room], found.rows[:room])
        included[rows] = found.numbers[:room]
    bookmark_includes, quality_includes = vault.load_bookmark(), vault.load_quality()
    doubtful: dict[Key, str] = {}  # streams without a sample that they once took, and why they do not take it
    for number, entry in vault.store.journal():
        vault.number = number - 1
        plainly = (
            None
            if native is None or streams.sketches is not None
            else partial(native.replay, number=number, included=included)
        )
        all_here = False
        for operation in journal.decode(entry, rules.model.n_features, number, plainly):
            if operation.letter == BOOKMARK:
                if bookmark_includes is None or number > bookmark_includes:
                    vault.bookmark = operation.record
            elif operation.letter == DELETE:
                # also of a record that includes it, or is damaged: all that came later is in the journal
                streams.do(operation, table.keys.find(operation.keys))
                for key in operation.keys if doubtful else ():
                    doubtful.pop(key, None)
            else:
                if not all_here:
                    _bring(streams, journal.decode(entry, rules.model.n_features, number), operation.now)
                    all_here = True
                if operation.letter == LABEL and number > quality_includes:
                    truth.counted(streams.truth, operation.record)
                _replay(streams, operation, number, included, doubtful)
        vault.number = number
    for key, why in doubtful.items():
        raise StoreError(
            f"expected samples of stream {key!r} that were accepted before, got one that is not: {why}; restore the "
            "store from a backup"
        )
    if bookmark_includes is None and vault.bookmark is None:
        raise StoreError("expected the bookmark as it was written, got a damaged one; restore a backup")
    streams.included = None
    stepper.gap_is_error, rules._says_restart = strict, says
    if native is not None:
        native.gap_is_error, native.asks, native.every, native.sweep = strict, says, streams.every, sweep
        native.samples = native.gaps = 0
    stepper.counts, streams.due = Counts(), []
    streams.events = dict.fromkeys(streams.events, 0)


def _bring(streams: Residents, operations: Iterable[Operation], now: float) -> None:
    """All streams of an entry, before it is applied: what left memory in its midst would include a part of it."""
    keys = list(dict.fromkeys(key for o in operations if o.letter != DELETE for key in o.keys))
    nothing = Samples(keys, np.zeros((len(keys), 0), np.float32), np.full(len(keys), -1), np.full(len(keys), np.nan))
    streams.admit(nothing, np.array(streams.table.keys.find(keys)), now, strict=False)


def _replay(streams: Residents, o: Operation, number: int, included: Array, doubtful: dict[Key, str]) -> None:
    """Apply it to those streams whose records do not include it.

    doubtful: grows where a stream does not take a sample. So it is after a crash in a snapshot, when the record of a
    stream that is deleted later was gone already: it began from nothing, and comes to nothing.
    """
    n, table = len(o.keys), streams.table
    time = np.full(n, np.nan) if o.time is None else o.time
    seq = np.full(n, -1) if o.seq is None else o.seq
    x = np.zeros((n, 0), np.float32) if o.x is None else o.x
    samples = Samples(list(o.keys), x, seq, time)
    rows = streams.admit(samples, np.array(table.keys.find(samples.keys)), o.now, strict=False)
    new = (rows >= 0) & (included[rows] < number)
    rows = rows[new]
    keys = [key for key, chosen in zip(o.keys, new.tolist(), strict=True) if chosen]
    if o.letter == STEPS:
        some = Samples(keys, x[new], seq[new], time[new])
        answers = streams.stepper.run(some, rows, o.now, strict=False)
        for i, why in answers.reasons.items():
            doubtful.setdefault(keys[i], f"journal entry {number}, {why}")
    elif o.letter == END:
        streams.do(Operation(o.letter, o.now, keys), rows)
        for key in keys if doubtful else ():
            if streams.find(key) < 0:
                doubtful.pop(key, None)
    elif o.letter == PUT and keys:
        meta, state = streams.records.decode([encode_key(keys[0])], [o.record])
        table.load(rows, meta, state)
        table.meta["flags"][rows] |= CHANGED
    elif o.letter == LABEL:
        truth.marked(streams.truth, o.record, rows, seq[new])
    else:
        streams.do(Operation(o.letter, o.now, keys), rows)
