"""What is in the tables of a store's SQLite file, read with its checksums, and written with them."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

from stepstream.errors import StoreError
from stepstream.stores.checksum import checksum
from stepstream.stores.store import Header, Stored

_DAMAGES = 20  # listed by `damages`, of each kind


def stored(key: object, number: object, check: object, record: object) -> Stored:
    """A row as it was found. SQLite keeps any type in any column: damage can change that too."""
    if not isinstance(key, bytes):
        key = b""
    if not isinstance(number, int):
        return Stored(key, 0, None)
    whole = isinstance(record, bytes) and checksum(key, number, record) == check
    return Stored(key, number, record if isinstance(record, bytes) and whole else None)


def records(db: sqlite3.Connection) -> Iterator[Stored]:
    """All records, damaged ones too."""
    for row in db.execute("SELECT key, number, checksum, record FROM records"):
        yield stored(*row)


def entries(db: sqlite3.Connection, path: Path, trimmed: int) -> Iterator[tuple[int, bytes]]:
    """The journal behind entry `trimmed`. Raises StoreError at a damaged entry, or a missing one."""
    due = trimmed
    rows = db.execute("SELECT number, checksum, entry FROM journal WHERE number > ? ORDER BY number", (due,))
    for number, check, entry in rows:
        due += 1
        if number != due or not isinstance(entry, bytes) or checksum(b"", number, entry) != check:
            raise StoreError(
                f"{path}: expected journal entry {due} as it was written, got "
                f"{'a damaged one' if number == due else f'number {number}'}; put a backup in its place: what "
                f"came after it cannot be applied without it"
            )
        yield number, entry


def damages(db: sqlite3.Connection, path: Path) -> Iterator[str]:
    """What is damaged, in words. Raises StoreError where nothing more can be read."""
    for (text,) in db.execute(f"PRAGMA integrity_check({_DAMAGES})"):
        if text != b"ok":
            yield f"file: {text.decode(errors='replace')}"
    trimmed = 0
    try:
        read_header(db, path)
        trimmed = read_trimmed(db, path)
    except StoreError as e:
        yield f"header: {e}"
    damaged = (found for found in records(db) if found.record is None)
    for found in islice(damaged, _DAMAGES):
        yield f"record of key {found.key!r}: its checksum does not fit"
    try:
        for _ in entries(db, path, trimmed):
            pass
    except StoreError as e:
        yield f"journal: {e}"


def read_header(db: sqlite3.Connection, path: Path) -> dict[str, str]:
    """Raises StoreError for a damaged one."""
    header = {}
    for key, value, check in db.execute("SELECT key, value, checksum FROM header"):
        if not isinstance(key, bytes) or not isinstance(value, bytes) or checksum(key, 0, value) != check:
            raise StoreError(
                f"{path}: expected a header as it was written, got a damaged one at {key!r}; put a backup in its place"
            )
        header[key.decode()] = value.decode()
    return header


def write_header(db: sqlite3.Connection, header: Header) -> None:
    """Into an empty table."""
    pairs = ((key.encode(), value.encode()) for key, value in header.items())
    rows = [(key, value, checksum(key, 0, value)) for key, value in pairs]
    db.executemany("INSERT INTO header (key, value, checksum) VALUES (?, ?, ?)", rows)


def read_trimmed(db: sqlite3.Connection, path: Path) -> int:
    """Up to which entry the journal is gone. Raises StoreError for a damaged mark."""
    rows = db.execute("SELECT number, checksum FROM trimmed").fetchall()
    if len(rows) != 1 or not isinstance(rows[0][0], int) or checksum(b"", rows[0][0], b"") != rows[0][1]:
        raise StoreError(
            f"{path}: expected one mark of where the journal begins, got a damaged one; put a backup in its place"
        )
    return rows[0][0]


def write_trimmed(db: sqlite3.Connection, number: int) -> None:
    """In place of the one before."""
    db.execute("DELETE FROM trimmed")
    db.execute("INSERT INTO trimmed (number, checksum) VALUES (?, ?)", (number, checksum(b"", number, b"")))
