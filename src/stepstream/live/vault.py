"""Between an Engine's table and its store: records, evictions, the journal, recovery and snapshots."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from itertools import islice
from typing import NamedTuple

import numpy as np

from stepstream.errors import StateError, StepstreamWarning, StoreError
from stepstream.graph.ir import Array
from stepstream.kernel.keys import Key
from stepstream.live import journal
from stepstream.live.journal import BOOKMARK, LABEL, Operation
from stepstream.live.quality import Quality
from stepstream.live.records import CHANGED, COPIED, ENDED, LAYOUT, Records, decode_key, encode_key
from stepstream.live.stream import Stream
from stepstream.live.table import Table
from stepstream.stores.store import Header, Store, Stored

CHUNK = 1024  # records copied at a time: what a call may have to wait for while a snapshot runs

BOOKMARK_KEY = b"l"  # of the record that holds the bookmark; no stream has a key of that letter
QUALITY_KEY = b"q"  # of the record that holds what labels gave
NO_STREAMS = frozenset({BOOKMARK_KEY, QUALITY_KEY})
NO_ROWS = np.zeros(0, np.int64)
CURE = "reset(key, delete=True) begins it anew, and other streams go on"


class Found(NamedTuple):
    """Records out of the store: meta and rows as in the table, numbers: the last journal entry that each includes."""

    keys: list[Key]
    meta: Array
    rows: Array
    numbers: Array


class Copies(NamedTuple):
    """Records (key, record) of rows of the table on their way to the store; they include the journal up to `number`."""

    number: int
    rows: Array
    records: list[tuple[bytes, bytes]]


DECIDES = "decides"  # in the header: whether the answers that records remember end with a decision


class Vault:
    """Knows what of the table is in the store already. number: of the last journal entry that the table includes;
    bookmark: what the caller keeps beside the streams, None before the first; quality: what labels gave, None where
    the model takes none.
    """

    def __init__(self, store: Store, table: Table, records: Records, quality: Quality | None) -> None:
        self.store, self.table, self.records, self.quality = store, table, records, quality
        self.number = store.number
        self.bookmark: bytes | None = None
        self.broken: str | None = None
        self.damaged: set[bytes] = set()  # keys of records whose checksum is wrong
        # keys that are no longer, whose records may still be there, and since which journal entry
        self._gone: dict[bytes, int] = {}

    @contextmanager
    def _all_or_nothing(self) -> Iterator[None]:
        """What the store does not take is no longer what the table holds: only opening it again makes them equal."""
        try:
            yield
        except BaseException as e:
            self.fail(e)
            raise

    def fail(self, error: BaseException) -> None:
        """The first failure says why nothing goes on."""
        self.broken = self.broken or f"{error}" or type(error).__name__

    def encode(self, rows: Array) -> Iterator[tuple[bytes, bytes]]:
        """(key, record) of rows of the table, chunk by chunk."""
        for first in range(0, len(rows), CHUNK):
            part = rows[first : first + CHUNK]
            keys = [encode_key(self.table.keys.key(row)) for row in part.tolist()]
            yield from zip(keys, self.records.encode(self.table.meta[part], self.table.state[part]), strict=True)

    def put(self, rows: Array) -> None:
        """Write those that have changed since they were written last."""
        copies = self._copied(rows)
        self._write(copies)
        self._written(copies)

    def _copied(self, rows: Array) -> Copies:
        """Records of those that have changed."""
        flags = self.table.meta["flags"]
        rows = rows[(flags[rows] & CHANGED) != 0]
        flags[rows] |= COPIED
        return Copies(self.number, rows, list(self.encode(rows)))

    def _write(self, copies: Copies) -> None:
        if copies.records:
            with self._all_or_nothing():
                self.store.put(copies.number, copies.records)

    def _written(self, copies: Copies) -> None:
        """The records are in the store: ends before them count no more, and what has not changed since is not new."""
        for key, _ in copies.records if self._gone else ():
            if key in self._gone and self._gone[key] <= copies.number:
                del self._gone[key]
        flags, rows = self.table.meta["flags"], copies.rows
        # last: an interrupt before costs no more than another write
        flags[rows[(flags[rows] & COPIED) != 0]] &= ~np.uint32(CHANGED | COPIED)

    def fetch(self, keys: Sequence[Key]) -> tuple[Found, dict[Key, str]]:
        """What the store has of these; and of which it is damaged, in words."""
        return self._sound(self.store.get([d for d in map(encode_key, keys) if d not in self._gone]))

    def _sound(self, stored: Sequence[Stored]) -> tuple[Found, dict[Key, str]]:
        """What can be read; and of which streams nothing can, in words."""
        bad = dict[Key, str]()
        for s in stored:
            if s.record is None and s.key not in self._gone:
                self.damaged.add(s.key)
                with suppress(StoreError):  # where the damage is in the key, nobody knows whose it was
                    key = decode_key(s.key)
                    bad[key] = f"stream {key!r}: its record in the store is damaged; {CURE}"
        whole = [s for s in stored if s.record is not None]
        try:
            found = self._decoded(whole)
        except StoreError:  # one by one, to know which
            good = []
            for s in whole:
                try:
                    self._decoded([s])
                    good.append(s)
                except StoreError as e:
                    bad[decode_key(s.key)] = str(e)
            found = self._decoded(good)
        self.damaged.update(map(encode_key, bad))
        return found, bad

    def _decoded(self, stored: Sequence[Stored]) -> Found:
        keys = [decode_key(s.key) for s in stored]
        meta, rows = self.records.decode([s.key for s in stored], [s.record or b"" for s in stored])
        return Found(keys, meta, rows, np.array([s.number for s in stored], np.int64))

    def forget(self, keys: Iterable[Key]) -> None:
        """These are no longer: their records count no more, and go when the journal no longer needs them."""
        for key in keys:
            data = encode_key(key)
            self._gone.pop(data, None)  # the newest last
            self._gone[data] = self.number + 1
            self.damaged.discard(data)

    def commit(
        self, operations: Sequence[Operation], now: float, touched: Array, bookmark: Callable[[], bytes] | None = None
    ) -> None:
        """One group, which the table includes already. touched: rows int64, of any keys, some perhaps free again.
        bookmark: makes the new bookmark, the last thing before the store is asked.
        """
        journalled, store = self.store.keeps_journal, self.store
        with self._all_or_nothing():
            new = None if bookmark is None else bookmark()
            if new is not None:
                operations = [*operations, Operation(BOOKMARK, now, [], record=new)]

            def records() -> Iterator[tuple[bytes, bytes]]:
                rows = np.unique(touched)
                yield from self.encode(rows[self.table.meta["flags"][rows] != 0])
                if new is not None:
                    yield BOOKMARK_KEY, new
                if self.quality is not None and any(o.letter == LABEL for o in operations):
                    yield QUALITY_KEY, self.quality.encode()

            entry = journal.encode(operations) if journalled else b""
            self.number = store.commit(entry, records, () if journalled else list(self._gone))
            self.bookmark = self.bookmark if new is None else new
        if not journalled:  # the records are in the store
            self.table.meta["flags"][touched] &= ~np.uint32(CHANGED)
            self._gone.clear()

    def all(self) -> Iterator[Found]:
        """All that is in the store and not damaged, chunk by chunk."""
        found = (stored for stored in self.store.records() if stored.key not in NO_STREAMS)
        while part := list(islice(found, 4 * CHUNK)):
            yield self._sound(part)[0]

    def old(self, before: float) -> Iterator[list[Key]]:
        """Keys of records that were used last before then, chunk by chunk; to be looked at again under the lock."""
        for found in self.all():
            if keys := [found.keys[i] for i in np.flatnonzero(found.meta["used"] < before).tolist()]:
                yield keys

    def expired(self, keys: Sequence[Key], before: float) -> tuple[list[Key], set[Key]]:
        """Those of the keys that are not in memory and were used last before then; which of them are tombstones."""
        away = [key for key, row in zip(keys, self.table.keys.find(keys).tolist(), strict=True) if row < 0]
        found, _ = self.fetch(away)
        old = found.meta["used"] < before
        ended = old & ((found.meta["flags"] & ENDED) != 0)
        return [found.keys[i] for i in np.flatnonzero(old)], {found.keys[i] for i in np.flatnonzero(ended)}

    def elsewhere(self) -> Iterator[tuple[Key, Array]]:
        """Keys and `meta` of streams that are not in memory."""
        for found in self.all():
            for key, meta, row in zip(found.keys, found.meta, self.table.keys.find(found.keys).tolist(), strict=True):
                if row < 0 and encode_key(key) not in self._gone:
                    yield key, meta

    def load_bookmark(self) -> int | None:
        """What the store has as the bookmark; returns the journal entry that it includes, None where it is damaged."""
        for stored in self.store.get([BOOKMARK_KEY]):
            self.bookmark = stored.record
            return None if stored.record is None else stored.number
        return 0

    def load_quality(self) -> int:
        """What the store has of labels; returns the journal entry that it includes."""
        if self.quality is None:
            return 0
        for stored in self.store.get([QUALITY_KEY]):
            if stored.record == b"":  # of another model, before
                return stored.number
            try:
                if stored.record is None:
                    raise StoreError("expected the record as it was written, got a damaged one")
                self.quality.decode(stored.record)
            except StoreError as e:
                warnings.warn(f"what labels gave before begins anew: {e}", StepstreamWarning, stacklevel=1)
                return 0
            return stored.number
        return 0

    def snapshot(self, locked: Callable[[], AbstractContextManager[object]]) -> None:
        """Write every record that has changed, delete those of what is gone, and trim the journal.

        locked: held for every look at the table, and free while the disk is waited for: others commit meanwhile.
        """
        if not self.store.keeps_journal:  # each commit has done all of it
            return
        with locked():
            number, last, bookmark = self.number, self.table.keys.rows, self.bookmark
            quality = self.quality.encode() if self.quality else None
        if bookmark is not None:  # one that is empty replaces another
            self._write(Copies(number, NO_ROWS, [(BOOKMARK_KEY, bookmark)]))
        if quality is not None:
            self._write(Copies(number, NO_ROWS, [(QUALITY_KEY, quality)]))
        for first in range(0, last, CHUNK):
            with locked():
                copies = self._copied(self.table.rows(first, first + CHUNK))
            if copies.records:
                self._write(copies)
                with locked():
                    self._written(copies)
        self._bury(number, locked)
        with self._all_or_nothing():
            self.store.trim(number)

    def _bury(self, number: int, locked: Callable[[], AbstractContextManager[object]]) -> None:
        """Delete records of what was gone by journal entry `number`."""
        more = True
        while more:
            with locked():
                gone = {key: since for key, since in islice(self._gone.items(), CHUNK) if since <= number}
            if gone:
                with self._all_or_nothing():
                    self.store.delete(number, gone)
                with locked():
                    for key, since in gone.items():
                        if self._gone.get(key) == since:
                            del self._gone[key]
            more = len(gone) == CHUNK


def header_of(rules: Stream) -> dict[str, str]:
    """Of a store, as an engine of these rules writes it."""
    return {
        "fingerprint": rules.model.fingerprint,
        "windowing": str(rules._resolved),
        "layout": str(LAYOUT),
        "arithmetic": rules._executor.arithmetic_id,
        **({DECIDES: "yes"} if rules.model.decides else {}),
    }


def refuse_other(theirs: Header, ours: Header) -> None:
    """Raises StateError, naming both sides, for the store of another model, windowing or layout."""
    cures = {
        "fingerprint": "open it with the model that wrote it, bring its streams to this one with `stepstream state "
        "migrate`, or begin another store",
        "windowing": "open it with the windowing that wrote it, or begin another store",
        "layout": "open it with the version of stepstream that wrote it, or begin another store",
    }
    for name, cure in cures.items():
        if theirs.get(name) != ours[name]:
            raise StateError(f"expected a store of {name} {ours[name]}, got one of {theirs.get(name, 'none')}; {cure}")
