"""What a store holds, seen from outside: nothing is claimed and nothing written, and its engine may go on."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from stepstream.errors import InputError, StateError, StoreError
from stepstream.kernel.keys import Key
from stepstream.live import journal, snapshot
from stepstream.live.incoming import check_key
from stepstream.live.records import ENDED, LAYOUT, Head, Records, decode_key, encode_key, head
from stepstream.live.replay import replayed, rules_of
from stepstream.live.residents import shape_of
from stepstream.live.stream import Stream
from stepstream.live.vault import BOOKMARK_KEY, CHUNK, NO_STREAMS, QUALITY_KEY, header_of, refuse_other
from stepstream.stores.reading import reading
from stepstream.stores.store import Stored

if TYPE_CHECKING:
    from stepstream.model import Model

Where = str | Path  # of a store: a path, or an address such as redis://host/0?prefix=name


class StoredStream(NamedTuple):
    """One stream in a store. age: samples since the last reset, None where nobody knows. samples: since the stream
    began. time: of its last sample, and used: when it was last used by the engine's clock, seconds since 1970. seq: its
    last number.
    """

    key: Key
    age: int | None
    samples: int
    time: float | None
    used: float
    seq: int | None


@dataclass
class Listing:
    """journal_entries: how many are not yet in what is listed, so that it may be behind. more: whether there are
    streams beyond the limit. damaged: keys of records that cannot be read.
    """

    streams: list[StoredStream] = field(default_factory=list)
    journal_entries: int = 0
    more: bool = False
    damaged: list[Key] = field(default_factory=list)


def streams(where: Where, model: Model | None = None, limit: int | None = None) -> Listing:
    """The streams of a store, those that have ended left out, in no order.

    Without a model: as their records have them. With it, the journal is replayed in memory upon them, and all is as it
    was at that moment. limit: how many at most. Raises StoreError, StateError for another model's store.
    """
    with reading(where) as (header, reader):
        entries = reader.sizes()["journal_entries"]
        if model is not None:
            refuse_other(header, header_of(rules_of(model, header)))
            if entries:
                with replayed(header, reader, model) as engine:
                    found = [StoredStream(*i[:4], i.used, i.seq) for i in engine.streams()]
                    vault = engine._streams.vault
                    damaged = [_named(key) for key in vault.damaged] if vault is not None else []
                return Listing(found[:limit], 0, limit is not None and len(found) > limit, damaged)
        listing = Listing([], entries)
        here = _live(reader.records(), listing.damaged)
        listing.streams = list(here if limit is None else islice(here, limit))
        listing.more = next(here, None) is not None
    return listing


def show(where: Where) -> dict[str, Any]:
    """What a store holds in all: its header, counts of streams, tombstones, damaged records and journal entries, sizes
    in bytes.
    """
    with reading(where) as (header, reader):
        counts = dict.fromkeys(("streams", "ended", "damaged", "record_bytes", "bookmark_bytes", "quality_bytes"), 0)
        for stored in reader.records():
            counts["record_bytes"] += len(stored.record or b"")
            if stored.key == BOOKMARK_KEY:
                counts["bookmark_bytes"] = len(stored.record or b"")
            elif stored.key == QUALITY_KEY:
                counts["quality_bytes"] = len(stored.record or b"")
            elif (found := _head(stored)) is None:
                counts["damaged"] += 1
            else:
                counts["ended" if found.flags & ENDED else "streams"] += 1
        return {"header": dict(header), **counts, **reader.sizes()}


def show_stream(where: Where, key: Key) -> dict[str, Any]:
    """What a store's record of one stream says. Raises InputError where there is none, StoreError for a damaged one."""
    with reading(where) as (_, reader):
        entries = reader.sizes()["journal_entries"]
        found = reader.get([encode_key(check_key(key))])
        if not found:
            behind = f"; {entries} journal entries are not in the records yet, and may begin it" if entries else ""
            raise InputError(f"expected the key of a stream, got {key!r}, which has no record{behind}")
        (stored,) = found
        if stored.record is None:
            raise StoreError(f"stream {key!r}: its record in the store is damaged; reset --delete begins it anew")
        h = head(stored.key, stored.record)
        return {
            **_info(h, key)._asdict(),
            "ended": bool(h.flags & ENDED),
            "remember": h.remember,
            "keep": h.keep,
            "outputs": h.outputs,
            "features": h.features,
            "record_bytes": len(stored.record),
            "includes_entry": stored.number,
            "journal_entries": entries,
        }


def export(where: Where, key: Key, model: Model, to: Path | str) -> None:
    """Write the state of one stream, as it is at this moment, to an HDF5 file that `Stream.load` takes.

    Raises InputError for an unknown key, StateError for another model's store, StoreError.
    """
    with reading(where) as (header, reader):
        refuse_other(header, header_of(rules_of(model, header)))
        with replayed(header, reader, model, [check_key(key)]) as engine:
            state = engine.export(key)
            windowing = engine.windowing
    snapshot.save(to, model, windowing, state)


def verify(where: Where, model: Model | None = None) -> list[str]:
    """What is damaged, in words; empty where nothing is: the file, checksums, and whether records and journal entries
    decode. With a model, whether they are of it.
    """
    with reading(where) as (header, reader):
        found = reader.verify()
        features = rules = None
        if model is not None:
            features = model.n_features
            try:
                rules = rules_of(model, header)
                refuse_other(header, header_of(rules))
            except (StateError, InputError) as e:
                found.append(f"header: {e}")
                rules = None  # what the records are of is another's to say
        some = ((s.key, s.record) for s in reader.records() if s.record is not None and s.key not in NO_STREAMS)
        while part := list(islice(some, CHUNK)):  # of the others it is said already
            found += _undecodable(part, rules)
            if features is None:
                heads = (_head(Stored(key, 0, record)) for key, record in part)
                features = next((h.features for h in heads if h is not None), None)
        try:
            for number, entry in reader.journal():
                try:
                    if features is not None:
                        for _ in journal.decode(entry, features, number):
                            pass
                    elif entry[:1] != bytes([LAYOUT]):
                        raise StoreError(f"journal entry {number}: expected layout {LAYOUT}, got other bytes")
                except StoreError as e:
                    found.append(f"journal: {e}")
        except StoreError:  # damaged, and said already
            pass
        return found


def _live(records: Iterable[Stored], damaged: list[Key]) -> Iterator[StoredStream]:
    for stored in records:
        if stored.key in NO_STREAMS:
            continue
        found = _head(stored)
        if found is None:
            damaged.append(_named(stored.key))
        elif not found.flags & ENDED:
            yield _info(found, decode_key(stored.key))


def _head(stored: Stored) -> Head | None:
    """None where it cannot be read."""
    try:
        decode_key(stored.key)
        return None if stored.record is None else head(stored.key, stored.record)
    except StoreError:
        return None


def _info(h: Head, key: Key) -> StoredStream:
    age, time, seq = None if h.age < 0 else h.age, None if math.isnan(h.time) else h.time, None if h.seq < 0 else h.seq
    return StoredStream(key, age, h.samples, time, h.used, seq)


def _undecodable(part: list[tuple[bytes, bytes]], rules: Stream | None) -> list[str]:
    """What is wrong with (key, record)s, in words; at once where nothing is."""
    try:
        for key, record in part:
            decode_key(key)
            first = head(key, record)
        if rules is not None:  # as most of them are
            records = Records(shape_of(rules, first.remember, first.keep, first.rungs), rules._executor.state_size)
            records.decode([key for key, _ in part], [record for _, record in part])
    except StoreError as e:
        if len(part) == 1:
            return [f"record of key {part[0][0]!r}: {e}"]
        return [line for pair in part for line in _undecodable([pair], rules)]
    return []


def _named(data: bytes) -> Key:
    """A stream's key; where that is damaged, its bytes."""
    try:
        return decode_key(data)
    except StoreError:
        return data
