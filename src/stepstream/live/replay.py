"""An engine upon what a store holds at one moment: its journal is replayed in memory alone, beside its engine."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING

from stepstream.errors import StateError
from stepstream.kernel.keys import Key
from stepstream.live import journal
from stepstream.live.engine import Engine
from stepstream.live.journal import BOOKMARK, Operation
from stepstream.live.records import encode_key
from stepstream.live.stream import Stream
from stepstream.stores.reading import Reader
from stepstream.stores.store import Header, Records, Stored

if TYPE_CHECKING:
    from stepstream.model import Model

MAX_CAPACITY = 2**31 - 1  # of an engine


def rules_of(model: Model, header: Header) -> Stream:
    """The model under the windowing of a store. Raises StateError where its header names none, InputError where it does
    not suit the model.
    """
    if "windowing" not in header:
        raise StateError(f"expected the store of an engine, got one with a header of {sorted(header)}; name another")
    return Stream(model, header["windowing"])


@contextmanager
def replayed(header: Header, reader: Reader, model: Model, keys: Iterable[Key] | None = None) -> Iterator[Engine]:
    """An engine with the streams of these keys, or with all, as they were when the store was read.

    Raises StateError for the store of another model, or a journal by another arithmetic.
    """
    rules = rules_of(model, header)
    wanted = None if keys is None else frozenset(keys)
    capacity = 1024
    if wanted is None:  # all that can be there: nothing leaves memory, as there is nowhere to go
        sizes = reader.sizes()
        capacity += sizes["records"] + sizes["journal_bytes"] // 4
    store = _Still(header, reader, wanted, model.n_features)
    with Engine(model, rules.windowing, store, capacity=min(capacity, MAX_CAPACITY), snapshot_every=None) as engine:
        yield engine


class _Still:
    """A store that takes what it is given and keeps nothing of it."""

    keeps_journal = True
    number = journal_bytes = 0

    def __init__(self, header: Header, reader: Reader, wanted: frozenset[Key] | None, features: int) -> None:
        self._header, self._reader, self._features = header, reader, features
        self._wanted = wanted

    def open(self, header: Header, check: Callable[[Header], None] | None = None) -> Header:
        if check is not None:
            check(self._header)
        return self._header

    def records(self) -> Iterator[Stored]:
        if self._wanted is None:
            return self._reader.records()
        return iter(self._reader.get(list(map(encode_key, self._wanted))))

    def get(self, keys: Sequence[bytes]) -> list[Stored]:
        return self._reader.get(keys)

    def journal(self) -> Iterator[tuple[int, bytes]]:
        if self._wanted is None:
            yield from self._reader.journal()
            return
        for number, entry in self._reader.journal():
            operations = map(self._some, journal.decode(entry, self._features, number))
            yield number, journal.encode([o for o in operations if o.keys or o.letter == BOOKMARK])

    def _some(self, o: Operation) -> Operation:
        """What it does to the wanted streams: no stream knows of others."""
        assert self._wanted is not None
        i = [place for place, key in enumerate(o.keys) if key in self._wanted]
        x, seq, time = (None if column is None else column[i] for column in (o.x, o.seq, o.time))
        return replace(o, keys=[o.keys[place] for place in i], x=x, seq=seq, time=time)

    def set_header(self, header: Header) -> None:
        pass

    def rewrite(self, header: Header, records: Records) -> None:
        pass

    def commit(self, entry: bytes, touched: Callable[[], Records], gone: Iterable[bytes]) -> int:
        return 0

    def put(self, number: int, records: Records) -> None:
        pass

    def delete(self, number: int, keys: Iterable[bytes]) -> None:
        pass

    def trim(self, number: int) -> None:
        pass

    def sync(self) -> None:
        pass

    def backup(self, path: str) -> None:
        pass

    def verify(self) -> list[str]:
        return []

    def compact(self) -> None:
        pass

    def close(self) -> None:
        pass
