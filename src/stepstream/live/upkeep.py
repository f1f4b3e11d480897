"""Changes to a store from outside, while no engine has it: one stream's state, resets, and room on the disk."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from stepstream.errors import InputError, StoreError
from stepstream.kernel.keys import Key
from stepstream.live import snapshot
from stepstream.live.ages import LADDER
from stepstream.live.engine import Engine
from stepstream.live.incoming import check_key
from stepstream.live.look import Where
from stepstream.live.records import head
from stepstream.live.replay import rules_of
from stepstream.live.vault import NO_STREAMS, header_of, refuse_other
from stepstream.stores.opening import store_at
from stepstream.stores.reading import Reader, reading
from stepstream.stores.store import Header

if TYPE_CHECKING:
    from stepstream.model import Model


def restore(where: Where, key: Key, model: Model, path: str | Path, replace: bool = False) -> None:
    """One stream goes on from the state in an HDF5 file, as `look.export` or `Stream.save` wrote it; its numbers stay.

    replace: also where there is a stream of this key. Raises InputError where there is and must not be, StateError for
    another model's file or store, StoreError. A Redis store is taken from the engine that has it.
    """
    check_key(key)
    with reading(where) as (header, _):
        rules = rules_of(model, header)
        refuse_other(header, header_of(rules))
    state = snapshot.load(path, model, rules._resolved)
    with opened(where, model) as engine:
        if not replace and key in engine:
            raise InputError(f"expected a new key, got {key!r}, which has a stream; --replace gives it the state")
        engine.restore(key, state)


def reset(where: Where, keys: Sequence[Key], model: Model, delete: bool = False) -> None:
    """These streams begin anew; their numbers stay. delete: nothing of them is left, damaged or ended ones too.

    Raises InputError where one of the keys has no stream, StateError for another model's store, StoreError. A Redis
    store is taken from the engine that has it.
    """
    for key in keys:
        check_key(key)
    with opened(where, model) as engine:
        unknown = [key for key in keys if not _known(engine, key, delete)]
        if unknown:
            raise InputError(f"expected keys of streams, got {', '.join(map(repr, unknown))}, of which there is none")
        for key in keys:
            engine.reset(key, delete)


def compact(where: Where) -> int | None:
    """Give back the room that deleted records took; how many bytes, or None of a server, which does so by itself."""
    with reading(where) as (_, reader):
        before = reader.sizes()
    if "file_bytes" not in before:
        return None
    store = store_at(where)
    store.open({}, _no_new)
    try:
        store.compact()
    finally:
        store.close()
    with reading(where) as (_, reader):
        after = reader.sizes()
    return max(0, before["file_bytes"] + before["log_bytes"] - after["file_bytes"])


@contextmanager
def opened(where: Where, model: Model) -> Iterator[Engine]:
    """The store in an engine that remembers and keeps as much of each stream as the one before."""
    with reading(where) as (header, reader):
        remember, keep, rungs = kept_by(reader)
        rules = rules_of(model, header)
    judge = LADDER[rungs - 1] if rungs else 0
    with Engine(model, rules.windowing, where, remember=remember, keep=keep, judge=judge) as engine:
        yield engine


def kept_by(reader: Reader) -> tuple[int, int, int]:
    """How many answers and samples of each stream its engine keeps, and at how many ages answers wait for the truth, as
    the records say. Raises StoreError where nothing says it.
    """
    remember, keep, rungs, entries = 0, 0, 0, reader.sizes()["journal_entries"]
    for stored in reader.records():
        if stored.record is not None and stored.key not in NO_STREAMS:
            try:
                found = head(stored.key, stored.record)
            except StoreError:  # whoever needs this stream will be told
                continue
            remember, keep = max(remember, found.remember), max(keep, found.keep)
            rungs = max(rungs, found.rungs)
    if not remember and entries:
        raise StoreError(
            f"expected records of streams, got {entries} journal entries alone: only the engine that wrote them knows "
            "how many answers and samples it keeps; open the store with it, and close it"
        )
    return max(remember, 1), keep, rungs


def _known(engine: Engine, key: Key, delete: bool) -> bool:
    try:
        if key in engine:
            return True
    except StoreError:
        if not delete:  # which is for what is damaged, too
            raise
        return True
    with engine._using() as now:
        return delete and engine._streams.row(key, now) is not None


def _no_new(header: Header) -> None:
    if not header:
        raise StoreError("expected a store, got an empty file; name one that an engine has made")
