"""A store of one model becomes the store of another: what its streams go on from is chosen by name.

All or nothing: the new header and all records are written as one transaction, and until then the store is as it was.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from stepstream.arrays import short
from stepstream.errors import InputError, StateError, StoreError
from stepstream.graph.ir import Array, Graph
from stepstream.live.look import Where
from stepstream.live.records import ENDED, STATIC, Records, Shape, columns, decode_key, head, meta_dtype
from stepstream.live.replay import rules_of
from stepstream.live.residents import shape_of
from stepstream.live.sliding import SlidingExecutor
from stepstream.live.state_conversion import adopted, bare, is_bare
from stepstream.live.stream import Stream
from stepstream.live.upkeep import kept_by, opened
from stepstream.live.vault import DECIDES, NO_STREAMS, QUALITY_KEY, header_of, refuse_other
from stepstream.live.windowing import Windowing
from stepstream.stores.opening import store_at
from stepstream.stores.reading import reading
from stepstream.stores.sqlite import SqliteStore
from stepstream.stores.store import Header, Store, Stored

if TYPE_CHECKING:
    from stepstream.model import Model

CHUNK = 4096  # streams at a time
WAYS = ("reset", "keep", "replay")
Progress = Callable[[int, int], object]  # is told how many streams are done, of how many


@dataclass
class Migration:
    """What was done. ended: streams that had ended, of which numbers are left. exact: under replay, streams whose state
    is what the new model would have had all along; of the others fewer samples were kept. backup: where the store as it
    was is.
    """

    how: str
    streams: int = 0
    ended: int = 0
    exact: int = 0
    backup: Path | None = None


def migrate(
    where: Where,
    new: Model,
    how: str,
    old: Model | None = None,
    windowing: str | Windowing | None = None,
    backup: bool | str | Path = True,
    progress: Progress | None = None,
) -> Migration:
    """Bring a store that no engine has to another model.

    how: "reset": every stream begins anew; numbers, remembered answers and tombstones stay. "keep": the states stay as
    they are, for new weights of the same architecture, and for another calibration or trigger or none. "replay": every
    state is what the new model makes of the samples that were kept (`Engine(keep=n)`).
    old: the model before; needed under keep, and where the journal is not empty. windowing: under reset, a new one.
    backup: whether, or where, the store as it was is kept, as a SQLite store.
    A Redis store is taken from the engine that has it. Raises InputError, StateError where models and store do not go
    together, StoreError; the streams are as they were then.
    """
    if how not in WAYS:
        raise InputError(f"how: expected one of {', '.join(WAYS)}, got {short(how)}")
    if windowing is not None and how != "reset":
        raise InputError(f"windowing: expected none under {how}, got {windowing}; only reset lets streams begin anew")
    with reading(where) as (before, reader):
        rules = rules_of(new, before) if windowing is None else Stream(new, windowing)
        after = header_of(rules)
        if all(before.get(name) == after[name] for name in ("fingerprint", "windowing")):
            raise StateError(f"expected a store of another model, got one of {after['fingerprint']} already; use it")
        sizes = reader.sizes()
        keep = kept_by(reader)[1] if how == "replay" else 0
        if old is not None:
            refuse_other(before, header_of(rules_of(old, before)))
        if sizes["journal_entries"] and old is None:
            raise InputError(
                f"expected the model before, --from, got none: {sizes['journal_entries']} journal entries are still to "
                "be replayed by it"
            )
    if how == "keep":
        if old is None:
            raise InputError("expected the model before, --from, got none: keep is for models that differ in weights")
        if difference := differing(bare(old.graph), bare(new.graph)):
            raise StateError(f"expected the same architecture under keep, got {difference}; choose reset or replay")
    if how == "replay" and sizes["records"] and not keep:
        raise StateError(
            "expected kept samples to replay, got none: the store's engine was not told to keep any; choose reset, or "
            "run it with keep=n first"
        )
    if sizes["journal_entries"]:
        assert old is not None
        with opened(where, old):  # replays, and leaves all in the records
            pass
    store = store_at(where)

    def unchanged(found: Header) -> None:
        if dict(found) != dict(before):
            raise StoreError("expected the store as it was a moment ago, got another header; migrate again")

    store.open({}, unchanged)
    try:
        if next(store.journal(), None) is not None:
            raise StoreError(
                "expected a store that no engine has, got new journal entries; close it, and migrate again"
            )
        done = Migration(how)
        if backup is not False:
            done.backup = _free_name(store, before) if backup is True else Path(backup)
            store.backup(str(done.backup))
        header = {name: text for name, text in before.items() if name != DECIDES} | after
        work = _Work(rules, done, DECIDES in before, None if how != "keep" or old is None else rules_of(old, before))
        store.rewrite(header, _migrated(store, work, sizes["records"], progress))
    finally:
        store.close()
    return done


def differing(old: Graph, new: Graph) -> str | None:
    """The first thing in which two graphs differ besides weights, in words."""
    a, b = old.nameless(), new.nameless()
    for name in ("inputs", "outputs"):
        if a[name] != b[name]:
            return f"{name} {a[name]} before and {b[name]} now"
    layers = [node.layer for node in old.nodes]
    for i, (one, other) in enumerate(zip(a["nodes"], b["nodes"], strict=False)):
        for node in (one, other):
            node["weights"] = {name: shape for name, (shape, _) in node["weights"].items()}
        for part in ("op", "inputs", "params", "weights"):
            if one[part] != other[part]:
                what, x, y = _first(part, one[part], other[part])
                return f"{what} {x} before and {y} now, in layer {layers[i]!r}"
    if len(a["nodes"]) != len(b["nodes"]):
        return f"{len(a['nodes'])} steps before and {len(b['nodes'])} now"
    return None


def _first(name: str, x: Any, y: Any) -> tuple[str, Any, Any]:
    if isinstance(x, dict) and isinstance(y, dict):
        for key in sorted({*x, *y}):
            if x.get(key) != y.get(key):
                return _first(key, x.get(key), y.get(key))
    return name, x, y


def _free_name(store: Store, before: Header) -> Path:
    """Beside the store; of one in a server, in the current folder."""
    path = store.path if isinstance(store, SqliteStore) else Path("states.db").absolute()
    first = path.with_name(f"{path.name}.before-{before['fingerprint'][:12]}")
    names = (first if i == 1 else first.with_name(f"{first.name}-{i}") for i in range(1, 10_000))
    return next(name for name in names if not name.exists())


@dataclass
class _Work:
    """decided: whether the model before did. old: under keep, its rules."""

    rules: Stream
    done: Migration
    decided: bool
    old: Stream | None

    @property
    def as_it_is(self) -> bool:
        """Whether a record needs no change."""
        return self.old is not None and is_bare(self.old.model.graph) and is_bare(self.rules.model.graph)


def _migrated(store: Store, work: _Work, total: int, progress: Progress | None) -> Iterator[tuple[bytes, bytes]]:
    """(key, record) of all streams as they are under the new rules; counts them."""
    rules, done = work.rules, work.done
    found = (stored for stored in store.records() if stored.key not in NO_STREAMS)
    count = 0
    if store.get([QUALITY_KEY]):  # what the model before was worth
        yield QUALITY_KEY, b""
    while part := list(islice(found, CHUNK)):
        alike: dict[tuple[Shape, int], list[tuple[bytes, bytes]]] = {}
        for key, record in map(_sound, part):
            alike.setdefault((head(key, record).shape, len(record)), []).append((key, record))
        for (shape, _), pairs in alike.items():
            before = columns(shape, [record for _, record in pairs])
            ended = int(((before["flags"] & ENDED) != 0).sum())
            done.streams, done.ended = done.streams + len(before) - ended, done.ended + ended
            if work.as_it_is:
                continue
            keys, ours = [key for key, _ in pairs], shape_of(rules, shape.remember, shape.keep, shape.rungs)
            meta, rows = _begun_anew(before, shape, ours, work)
            if work.old is not None:
                own = sum(rules.model.output_sizes)
                for name in meta.dtype.names or ():
                    if name == "ladder":  # nobody judges decisions
                        meta[name][..., :own] = before[name][..., :own]
                    elif name not in {"outputs", "padding"}:
                        meta[name] = before[name]
                rows = adopted(work.old, rules, before["age"], before["row"])
            if done.how == "replay" and shape.keep:
                _replay(keys, before, shape, meta, rows, rules, done)
            yield from zip(keys, Records(ours, rows.shape[1]).encode(meta, rows), strict=True)
        count += len(part)
        if progress is not None:
            progress(count, max(count, total))


def _sound(stored: Stored) -> tuple[bytes, bytes]:
    if stored.record is None:
        raise StoreError(
            f"stream {decode_key(stored.key)!r}: its record in the store is damaged; `stepstream state reset --delete` "
            "begins it anew, with the model before"
        )
    return stored.key, stored.record


def _begun_anew(before: Array, shape: Shape, ours: Shape, work: _Work) -> tuple[Array, Array]:
    """meta and rows of streams that have seen nothing, with the numbers and tombstones of these."""
    meta = np.zeros(len(before), meta_dtype(ours))
    for name in ("used", "seq", "ages"):
        meta[name] = before[name]
    # an answer of another form cannot be given again: NaN stands for one that is not remembered
    given, outputs = shape.outputs - work.decided, sum(work.rules.model.output_sizes)
    meta["outputs"][..., :outputs] = before["outputs"][..., :outputs] if given == outputs else np.nan
    if work.rules.model.decides:
        meta["outputs"][..., -1] = before["outputs"][..., -1] if work.decided and given == outputs else -1
    meta["time"] = np.nan
    meta["flags"] = before["flags"] & ENDED
    if shape.rungs:  # a label would judge the answers of the model before
        meta["told"] = meta["seq"] + 1
    return meta, work.rules._executor.initial_state(len(before))


def _replay(
    keys: list[bytes], before: Array, shape: Shape, meta: Array, rows: Array, rules: Stream, done: Migration
) -> None:
    """The samples that were kept, through the new model, into meta and rows.

    Under sliding(n) a state is that of the last n samples, else of all since the last reset. Where as many were kept,
    all is as if the new model had been there; where fewer were, the stream is one that begins with those.
    """
    model, executor = rules.model, rules._executor
    if shape.features != model.n_features:
        raise StateError(
            f"expected kept samples of {model.n_features} features to replay, got {shape.features}; choose reset"
        )
    live, age, kept = (before["flags"] & ENDED) == 0, before["age"], before["kept"].astype(np.int64)
    needed = np.minimum(age, executor.n) if isinstance(executor, SlidingExecutor) else age
    exact = live & (age >= 0) & (kept >= needed)
    take = np.where(exact, needed, np.where(live, kept, 0))
    limit = model.window_length
    if limit is not None and not isinstance(executor, SlidingExecutor) and (take > limit).any():
        first = decode_key(keys[int(np.argmax(take > limit))])
        raise StateError(
            f"stream {first!r}: expected at most {limit} samples since its last reset under {rules.windowing}, as the "
            f"model flattens windows of {limit}, got {take.max()}; choose reset"
        )
    done.exact += int(exact.sum())
    if isinstance(executor, SlidingExecutor):  # where in its ring a stream is depends on all samples before
        rows[exact, -1] = [executor.count(n) for n in (age - take)[exact].tolist()]
    for t in range(int(take.max(initial=0))):
        i = np.flatnonzero(take > t)
        x = before["newest"][i, (before["samples"][i] - take[i] + t) % shape.keep]  # (i, features)
        with np.errstate(all="ignore"):
            ys, new = executor.step(x, rows[i])
        good = np.isfinite(new).all(axis=1) & _known(x, model)
        for y in ys:
            good &= np.isfinite(y).all(axis=1)
        if not good.all():
            raise StateError(
                f"stream {decode_key(keys[int(i[np.argmin(good)])])!r}: expected kept samples that the model has an "
                "answer for, got one that overflows, or no index that it knows; choose reset"
            )
        rows[i] = new
    for name in ("samples", "time", "kept", "newest"):
        meta[name][live] = before[name][live]
    meta["age"] = np.where(exact, age, take)
    if rules._static:
        some = np.flatnonzero(take)
        last = before["newest"][some, (before["samples"][some] - 1) % shape.keep]
        meta["static"][some] = last[:, [column for _, column in rules._static]]
        meta["flags"][some] |= STATIC


def _known(x: Array, model: Model) -> Array:
    """bool (streams,): whether what an embedding looks up is there."""
    good = np.ones(len(x), bool)
    for column, count in model.index_columns.items():
        good &= (x[:, column] == np.floor(x[:, column])) & (x[:, column] >= 0) & (x[:, column] < count)
    return good
