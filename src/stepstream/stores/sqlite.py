"""States in one SQLite file: a journal of what was done, and records that snapshots bring up to date."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager, suppress
from pathlib import Path
from threading import Lock
from typing import Literal, TypeVar

from stepstream.errors import StoreError
from stepstream.stores import sqlite_tables as tables
from stepstream.stores.checkpoints import Checkpoints
from stepstream.stores.checksum import checksum
from stepstream.stores.sqlite_file import PAGE, Claim, connect, create, explained, look, new_file, one, prepare
from stepstream.stores.store import Header, Records, Stored
from stepstream.stores.turns import Turns

Durability = Literal["sync", "interval", "none"]
DURABILITIES: tuple[Durability, ...] = ("sync", "interval", "none")
Row = TypeVar("Row")

# one turn of `put`, `delete` or `trim`, behind which a commit may have to wait: about 3 ms for random keys
_CHUNK_ROWS = 256
_CHUNK_BYTES = 1 << 20
_CHUNK_ENTRIES = 64

_PUT = """INSERT INTO records (key, number, checksum, record) VALUES (?, ?, ?, ?)
ON CONFLICT (key) DO UPDATE SET number = excluded.number, checksum = excluded.checksum, record = excluded.record
WHERE excluded.number >= records.number
OR NOT whole(records.key, records.number, records.checksum, records.record)"""  # its number may be any
_DELETE = "DELETE FROM records WHERE key = ? AND (number <= ? OR NOT whole(key, number, checksum, record))"


class SqliteStore:
    """A file, with its write-ahead log beside it while it is open (and `-claim`, which says who has it).

    durability: "sync" answers a commit when it is on the disk; "interval" has all on the disk every `interval`
    seconds; "none" leaves that to the system. A crash of this process loses nothing in any of them; one of the machine
    loses the newest commits in the latter two, as a whole each, and never damages the file.
    Every error of writing breaks the store: after a failed fsync nobody knows what is on the disk. To open it again
    writes all of the log into the file, which settles that.
    """

    keeps_journal = True

    def __init__(self, path: str | Path, durability: Durability = "sync", interval: float = 1.0) -> None:
        """Opens nothing yet. Raises StoreError at a wrong argument."""
        if durability not in DURABILITIES:
            raise StoreError(f"expected durability to be one of {', '.join(DURABILITIES)}, got {durability!r}")
        if not 0 < interval < float("inf"):
            raise StoreError(f"expected an interval in seconds above 0, got {interval!r}")
        if not os.fspath(path) or "\0" in os.fspath(path):
            raise StoreError(f"expected the path of a store, got {os.fspath(path)!r}")
        if isinstance(path, str) and (path == ":memory:" or path.startswith("file:")):
            raise StoreError(
                f"expected the path of a store, got {path!r}, which SQLite takes for something else; write ./{path} "
                "for a file of this name, and name no store to keep streams in memory alone"
            )
        self.path = Path(os.path.realpath(path))  # one claim for all links to it
        self._full = durability == "sync"
        self._interval = interval if durability == "interval" else None
        self._turns = Turns()
        self._reading = Lock()  # of the connection that reads single records
        self._state: StoreError | Literal["open", "closed"] = "closed"
        self._undo = ExitStack()
        self._last = 0  # number of the newest journal entry
        self._trimmed = 0
        self._journal_bytes = 0

    def open(self, header: Header, check: Callable[[Header], None] | None = None) -> Header:
        if self._state != "closed":
            raise StoreError(f"{self.path}: expected a closed store, got an open one; close it first")
        with ExitStack() as undo, explained(self.path, "a store that can be read and written"):
            claim = Claim(self.path)
            undo.callback(claim.release)
            try:
                db = undo.enter_context(closing(connect(self.path)))
                old = look(db, self.path)
            except BaseException:
                claim.withdraw()
                raise
            found = tables.read_header(db, self.path) if old else dict(header)
            if check is not None:
                check(found)
            prepare(db)
            db.create_function("whole", 4, _whole, deterministic=True)
            # what a failed fsync may have kept from the disk is in the log: written once more, and synced
            db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
            db.execute("PRAGMA synchronous=FULL")
            db.execute("BEGIN IMMEDIATE")
            if not old:
                create(db)
                tables.write_header(db, header)
            self._trimmed = tables.read_trimmed(db, self.path) if old else 0
            tables.write_trimmed(db, self._trimmed)  # in any case: a disk that takes no writes is found out now
            db.execute("COMMIT")
            self._last = max(self._trimmed, one(db, "SELECT coalesce(max(number), 0) FROM journal"))
            self._journal_bytes = one(
                db, f"SELECT coalesce(sum(length(entry)), 0) FROM journal WHERE number > {self._trimmed}"
            )
            self._db = db
            self._set_full(self._full)
            self._reader = undo.enter_context(closing(connect(self.path)))
            self._checkpoints = Checkpoints(self.path, self._turns, self._reading, self._interval, self._break)
            self._state = "open"
            undo.callback(self._checkpoints.stop)  # the first to go
            self._undo = undo.pop_all()
        try:
            self._sweep()
        except BaseException:
            self.close()
            raise
        return found

    def set_header(self, header: Header) -> None:
        with self._turns, self._transaction("a new header to be written", full=True) as db:
            db.execute("DELETE FROM header")
            tables.write_header(db, header)
            self._checkpoints.wrote(PAGE)

    def rewrite(self, header: Header, records: Records) -> None:
        number = self._last
        rows = ((key, number, checksum(key, number, record), record) for key, record in records)
        with self._turns, self._transaction("all records to be written anew", full=True) as db:
            db.execute("DELETE FROM header")
            tables.write_header(db, header)
            db.executemany(_PUT, rows)
            self._checkpoints.wrote(PAGE)

    def records(self) -> Iterator[Stored]:
        self._ready()
        return self._records()

    def _records(self) -> Iterator[Stored]:
        with explained(self.path, "its records to be readable"), closing(connect(self.path)) as db:
            yield from tables.records(db)

    def journal(self) -> Iterator[tuple[int, bytes]]:
        self._ready()
        return self._entries()

    def _entries(self) -> Iterator[tuple[int, bytes]]:
        with explained(self.path, "its journal to be readable"), closing(connect(self.path)) as db:
            yield from tables.entries(db, self.path, self._trimmed)

    def commit(self, entry: bytes, touched: Callable[[], Records], gone: Iterable[bytes]) -> int:
        with self._turns:
            number = self._last + 1
            check = checksum(b"", number, entry)
            with self._transaction(f"commit {number} to be written", full=self._full) as db:
                db.execute("INSERT INTO journal (number, checksum, entry) VALUES (?, ?, ?)", (number, check, entry))
            self._last = number
            self._journal_bytes += len(entry)
            self._checkpoints.wrote(len(entry) + PAGE)
        return number

    def put(self, number: int, records: Records) -> None:
        rows = ((key, number, checksum(key, number, record), record) for key, record in records)
        for chunk in _chunks(rows, _CHUNK_ROWS, lambda row: len(row[3])):
            self._write_chunk(_PUT, chunk, "records to be written")

    def get(self, keys: Sequence[bytes]) -> list[Stored]:
        self._ready()
        sql = "SELECT number, checksum, record FROM records WHERE key = ?"
        with self._reading, explained(self.path, "records to be readable"):
            rows = [(key, self._reader.execute(sql, (key,)).fetchone()) for key in keys]
        return [tables.stored(key, *row) for key, row in rows if row is not None]

    def delete(self, number: int, keys: Iterable[bytes]) -> None:
        for chunk in _chunks(((key, number) for key in keys), _CHUNK_ROWS, lambda row: len(row[0])):
            self._write_chunk(_DELETE, chunk, "records to be deleted")

    def trim(self, number: int) -> None:
        assert number <= self._last, "only what was committed can be in all records"
        with self._turns:
            if number <= self._trimmed:
                self._ready()
                return
            # first the mark, as one commit, then the entries, in turns: they are many
            with self._transaction(f"the journal to be trimmed to {number}", full=self._full) as db:
                size = one(
                    db,
                    f"SELECT coalesce(sum(length(entry)), 0) FROM journal WHERE number > {self._trimmed} "
                    f"AND number <= {number}",
                )
                tables.write_trimmed(db, number)
            self._trimmed = number
            self._journal_bytes -= size
            self._checkpoints.wrote(PAGE)
        self._sweep()

    @property
    def number(self) -> int:
        return self._last

    @property
    def journal_bytes(self) -> int:
        return self._journal_bytes

    def sync(self) -> None:
        self._ready()
        self._checkpoints.sync()
        self._ready()  # where it has failed for somebody else

    def backup(self, path: str) -> None:
        self._ready()
        with (
            new_file(Path(path)) as part,
            closing(connect(self.path)) as source,
            closing(sqlite3.connect(part)) as target,
        ):
            source.backup(target)  # in one step: as the store was when it began, whatever is committed meanwhile

    def verify(self) -> list[str]:
        self._ready()
        found = list[str]()
        try:
            with explained(self.path, "the file to be readable"), closing(connect(self.path)) as db:
                db.execute("BEGIN")  # all of it as it is now, whatever is committed meanwhile
                found.extend(tables.damages(db, self.path))
        except StoreError as e:  # so damaged that nothing behind it can be read
            found.append(f"file: {e}")
        return found

    def compact(self) -> None:
        with self._turns, self._reading:
            self._ready()
            with explained(self.path, "room on the disk for a second copy of the store"):
                self._db.execute("VACUUM")
                self._checkpoints.wrote(PAGE)
                busy, _, _ = self._db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
            if not busy:  # somebody reads: then the log stays for now
                self._checkpoints.emptied()

    def close(self) -> None:
        with self._turns:  # whoever writes comes to an end first
            self._state = "closed"
        self._undo.close()  # the last connection of all moves the log into the file and removes it

    def _ready(self) -> None:
        if isinstance(self._state, StoreError):
            raise StoreError(
                f"{self.path}: expected a store that works, got one that broke earlier; open it again ({self._state})"
            )
        if self._state == "closed":
            raise StoreError(f"{self.path}: expected an open store, got a closed one; open it first")

    def _break(self, error: StoreError) -> None:
        if self._state == "open":
            self._state = error

    @contextmanager
    def _transaction(self, expected: str, full: bool) -> Iterator[sqlite3.Connection]:
        """All or nothing; anything that goes wrong breaks the store. To be used in a turn."""
        self._ready()
        try:
            with explained(self.path, expected):
                self._set_full(full)
                self._db.execute("BEGIN IMMEDIATE")
                yield self._db
                self._db.execute("COMMIT")
        except BaseException as e:  # an interrupt too: nobody knows whether the commit was made
            self._break(e if isinstance(e, StoreError) else StoreError(f"{expected}, got {type(e).__name__}"))
            with suppress(sqlite3.Error):
                self._db.execute("ROLLBACK")
            raise

    def _set_full(self, full: bool) -> None:
        """Whether a commit waits for the disk."""
        self._db.execute("PRAGMA synchronous=FULL" if full else "PRAGMA synchronous=NORMAL")

    def _write_chunk(self, sql: str, rows: Sequence[tuple[object, ...]], expected: str) -> None:
        # not synced: until the next commit, which syncs the whole log, the journal gives the same
        with self._turns:
            with self._transaction(expected, full=False) as db:
                db.executemany(sql, rows)
            self._checkpoints.wrote(len(rows) * PAGE)  # random keys: a page each
        self._checkpoints.wait()

    def _sweep(self) -> None:
        """Delete entries that were trimmed."""
        while True:
            with self._turns:
                self._ready()
                with explained(self.path, "its journal to be readable"):
                    first = one(self._db, f"SELECT coalesce(min(number), {self._trimmed + 1}) FROM journal")
                if first > self._trimmed:
                    return
                last = min(self._trimmed, first + _CHUNK_ENTRIES - 1)
                with self._transaction("trimmed entries to be deleted", full=False) as db:
                    db.execute("DELETE FROM journal WHERE number <= ?", (last,))
                self._checkpoints.wrote(_CHUNK_ENTRIES * PAGE)
            self._checkpoints.wait()


def _whole(*row: object) -> bool:
    return tables.stored(*row).record is not None


def _chunks(rows: Iterable[Row], most: int, size: Callable[[Row], int]) -> Iterator[list[Row]]:
    """Drawn outside of any turn: what makes the rows may wait for a thread that waits for its turn."""
    chunk, room = [], _CHUNK_BYTES
    for row in rows:
        chunk.append(row)
        room -= size(row)
        if len(chunk) == most or room <= 0:
            yield chunk
            chunk, room = [], _CHUNK_BYTES
    if chunk:
        yield chunk
