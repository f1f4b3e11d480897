"""A store to look at, beside the engine that has it: nothing is claimed, and nothing written."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import Protocol

from stepstream.errors import StoreError
from stepstream.stores import sqlite_tables as tables
from stepstream.stores.opening import store_at
from stepstream.stores.redis import RedisStore
from stepstream.stores.sqlite import SqliteStore
from stepstream.stores.sqlite_file import connect, explained, look, one
from stepstream.stores.store import Header, Stored


class Reader(Protocol):
    """What can be read of a store; as the methods of the same names in `Store`."""

    def records(self) -> Iterator[Stored]:
        """All of them, each once; damaged ones too."""

    def get(self, keys: Sequence[bytes]) -> list[Stored]:
        """The records of those that have one."""

    def journal(self) -> Iterator[tuple[int, bytes]]:
        """(number, entry) of all entries, ascending. Raises StoreError at a damaged one."""

    def verify(self) -> list[str]:
        """What is damaged, in words; empty where nothing is."""

    def sizes(self) -> dict[str, int]:
        """records, journal_entries and journal_bytes; of a file also file_bytes, free_bytes in it, and log_bytes
        beside it.
        """


@contextmanager
def reading(where: str | Path) -> Iterator[tuple[Header, Reader]]:
    """The store at a path or an address. A SQLite store is seen as it is at this moment, whatever comes.

    Raises StoreError, also where there is none: nothing is made.
    """
    store = store_at(where)
    if isinstance(store, RedisStore):
        with closing(store):
            yield store.look(), store
        return
    assert isinstance(store, SqliteStore)
    path = store.path
    if not path.is_file():
        got = "a folder" if path.is_dir() else "something that is no file" if path.exists() else "no file"
        raise StoreError(f"{path}: expected a store, got {got}; name one that an engine has made")
    with ExitStack() as undo:
        with explained(path, "a store that can be read"):
            db = undo.enter_context(closing(connect(path, create=False)))
            db.execute("PRAGMA query_only=ON")
            db.execute("BEGIN")
            if not look(db, path):
                raise StoreError(f"{path}: expected a store, got an empty file; name one that an engine has made")
            header = tables.read_header(db, path)
            reader = _Sqlite(path, db)
        yield header, reader


class _Sqlite:
    """One transaction that reads."""

    def __init__(self, path: Path, db: sqlite3.Connection) -> None:
        self._path, self._db = path, db
        self._trimmed = tables.read_trimmed(db, path)

    def records(self) -> Iterator[Stored]:
        with explained(self._path, "its records to be readable"):
            yield from tables.records(self._db)

    def get(self, keys: Sequence[bytes]) -> list[Stored]:
        sql = "SELECT key, number, checksum, record FROM records WHERE key = ?"
        with explained(self._path, "its records to be readable"):
            rows = [self._db.execute(sql, (key,)).fetchone() for key in keys]
        return [tables.stored(*row) for row in rows if row is not None]

    def journal(self) -> Iterator[tuple[int, bytes]]:
        with explained(self._path, "its journal to be readable"):
            yield from tables.entries(self._db, self._path, self._trimmed)

    def verify(self) -> list[str]:
        found = list[str]()
        try:
            with explained(self._path, "the file to be readable"):
                found.extend(tables.damages(self._db, self._path))
        except StoreError as e:  # so damaged that nothing behind it can be read
            found.append(f"file: {e}")
        return found

    def sizes(self) -> dict[str, int]:
        with explained(self._path, "its journal to be readable"):
            entries, size = self._db.execute(
                "SELECT count(*), coalesce(sum(length(entry)), 0) FROM journal WHERE number > ?", (self._trimmed,)
            ).fetchone()
            free = one(self._db, "PRAGMA freelist_count") * one(self._db, "PRAGMA page_size")
            log = self._path.with_name(f"{self._path.name}-wal")
            return {
                "records": one(self._db, "SELECT count(*) FROM records"),
                "journal_entries": entries,
                "journal_bytes": size,
                "file_bytes": self._path.stat().st_size,
                "log_bytes": log.stat().st_size if log.exists() else 0,
                "free_bytes": free,
            }
