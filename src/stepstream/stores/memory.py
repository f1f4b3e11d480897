"""Records in this process: for tests, and for states that may be lost with it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from threading import Lock

from stepstream.errors import StoreError
from stepstream.stores.copies import write_copy
from stepstream.stores.store import Header, Records, Stored


class MemoryStore:
    """Keeps what it holds over closing and opening again; gone with the process."""

    keeps_journal = False
    number = journal_bytes = 0

    def __init__(self) -> None:
        self._lock = Lock()
        self._open = False
        self._header: dict[str, str] | None = None
        self._records: dict[bytes, bytes] = {}

    def open(self, header: Header, check: Callable[[Header], None] | None = None) -> Header:
        with self._lock:
            if self._open:
                raise StoreError(
                    "expected a store that no engine has, got one that is open already, in memory; close it there, or "
                    "give each engine its own"
                )
            found = dict(header) if self._header is None else self._header
            if check is not None:
                check(found)
            self._header = found
            self._open = True
            return dict(found)

    def set_header(self, header: Header) -> None:
        with self._lock:
            self._ready()
            self._header = dict(header)

    def rewrite(self, header: Header, records: Records) -> None:
        new = dict(records)
        with self._lock:
            self._ready()
            self._header = dict(header)
            self._records |= new

    def records(self) -> Iterator[Stored]:
        with self._lock:
            self._ready()
            found = list(self._records.items())
        return (Stored(key, 0, record) for key, record in found)

    def journal(self) -> Iterator[tuple[int, bytes]]:
        with self._lock:
            self._ready()
        return iter(())

    def commit(self, entry: bytes, touched: Callable[[], Records], gone: Iterable[bytes]) -> int:
        records, keys = dict(touched()), list(gone)  # may raise: nothing has changed then
        with self._lock:
            self._ready()
            self._records |= records
            for key in keys:
                self._records.pop(key, None)
        return 0

    def put(self, number: int, records: Records) -> None:
        self.commit(b"", lambda: records, ())

    def get(self, keys: Sequence[bytes]) -> list[Stored]:
        with self._lock:
            self._ready()
            return [Stored(key, 0, self._records[key]) for key in keys if key in self._records]

    def delete(self, number: int, keys: Iterable[bytes]) -> None:
        self.commit(b"", lambda: (), keys)

    def trim(self, number: int) -> None:
        with self._lock:
            self._ready()

    def sync(self) -> None:
        with self._lock:
            self._ready()

    def backup(self, path: str) -> None:
        with self._lock:
            self._ready()
            header, records = dict(self._header or {}), list(self._records.items())
        write_copy(Path(path), header, records)

    def verify(self) -> list[str]:
        with self._lock:
            self._ready()
        return []

    def compact(self) -> None:
        with self._lock:
            self._ready()

    def close(self) -> None:
        with self._lock:
            self._open = False

    def _ready(self) -> None:
        if not self._open:
            raise StoreError("expected an open store, got a closed one, in memory; open it first")
