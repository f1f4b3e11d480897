"""What an engine asks of a store. A store deals in bytes: it knows nothing of models, samples or keys' types.

Two kinds of store exist. One that keeps a journal (SQLite) writes `entry`, the operations of one group commit, and
takes whole records only when they are evicted or when a snapshot comes by; after a crash the engine replays the
journal upon the records. One without (memory, Redis) writes the records that a commit has touched, and its journal is
always empty.

A snapshot puts every record that changed, deletes those that are gone, then trims. A crash between any two of these
calls is harmless: what is put says how much of the journal it includes, and what is deleted ends in the journal too.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple, Protocol

Header = Mapping[str, str]
Records = Iterable[tuple[bytes, bytes]]  # (key, record)


class Stored(NamedTuple):
    """A record as it was found. number: of the last journal entry that it includes, 0 in a store without a journal;
    record: None where damaged.
    """

    key: bytes
    number: int
    record: bytes | None


class Store(Protocol):
    """Open for one engine at a time. Methods are safe to call from several threads.

    Raises StoreError: what was expected, got, where, and the cure. After an error of `commit`, `put`, `delete`, `trim`
    or `sync` the store is broken: every later call but `close` raises until it is opened again. What was acknowledged
    before is safe. An error of another call breaks nothing.
    """

    @property
    def keeps_journal(self) -> bool:
        """Whether `commit` writes its entry; if not, none needs to be made."""

    def open(self, header: Header, check: Callable[[Header], None] | None = None) -> Header:
        """Claim the store; an empty one takes the header as its own. Returns the header that it holds.

        check sees that header first; whatever it raises comes out, and nothing has changed: whoever has the store
        keeps it. Refused where another engine has it (Redis: taken over from it instead), or where it cannot be
        written. An empty journal says that all is in the records: the last engine closed in order.
        """

    def set_header(self, header: Header) -> None:
        """Replace the header, as a whole or not at all."""

    def rewrite(self, header: Header, records: Records) -> None:
        """Replace the header, and these records whatever they include, all or nothing, durably; others stay. The
        journal is empty, and commits wait. records: may read the store, which stays as it was until the end.
        """

    def records(self) -> Iterator[Stored]:
        """All of them, each once; damaged ones, by their checksum, too."""

    def journal(self) -> Iterator[tuple[int, bytes]]:
        """(number, entry) of all entries, ascending; those behind the last whole commit were never there.

        Raises StoreError at a damaged one: what follows must not be applied without it.
        """

    def commit(self, entry: bytes, touched: Callable[[], Records], gone: Iterable[bytes]) -> int:
        """Make one group of operations durable, all or nothing; returns when it is. A store with a journal writes the
        entry and returns its number, from 1 and without gaps, also over reopening; one without writes the touched
        records, deletes those that are gone, and returns 0.
        """

    def put(self, number: int, records: Records) -> None:
        """Write records that include the journal up to `number`; one that includes more already stays as it is, if it
        is not damaged.

        Each record is all or nothing, not the whole call: commits by other threads go in between. Durable from the
        next commit or trim on, which is soon enough: until then the journal gives the same.
        """

    def get(self, keys: Sequence[bytes]) -> list[Stored]:
        """The records of those that have one."""

    def delete(self, number: int, keys: Iterable[bytes]) -> None:
        """Forget records that include the journal up to `number` at most, and damaged ones; unknown keys are none. As
        durable as `put`.
        """

    def trim(self, number: int) -> None:
        """Forget the journal up to and including `number`, which all records include: a snapshot is complete."""

    @property
    def number(self) -> int:
        """Of the newest journal entry that there has been; 0 where there was none, or is no journal."""

    @property
    def journal_bytes(self) -> int:
        """Size of the journal's entries, which decides when the next snapshot is due."""

    def sync(self) -> None:
        """Everything so far reaches the disk, where the store was told to be lax about it."""

    def backup(self, path: str) -> None:
        """A copy that is whole, as a new SQLite store at `path`."""

    def verify(self) -> list[str]:
        """What is damaged, in words; empty where nothing is."""

    def compact(self) -> None:
        """Give back room that deleted records took; commits wait meanwhile."""

    def close(self) -> None:
        """Let go of the store; what is in it stays. Closing twice is closing once."""
