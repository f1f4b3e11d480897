"""A copy of a store that has no file of its own, as a SQLite store."""

from __future__ import annotations

from pathlib import Path

from stepstream.stores.sqlite import SqliteStore
from stepstream.stores.sqlite_file import claim_of, new_file
from stepstream.stores.store import Header, Records


def write_copy(path: Path, header: Header, records: Records) -> None:
    """A new store that holds these, closed. Raises StoreError."""
    with new_file(path) as part:
        store = SqliteStore(part, "none")
        store.open(header)
        try:
            store.put(0, records)
        finally:
            store.close()
            claim_of(part).unlink()
