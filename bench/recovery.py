"""How long it takes to open an engine on what a crash has left: python bench/recovery.py [--streams 1000000]

Model S of bench/networks.py. Builds a SQLite store through an Engine, in another process: a record of each stream, and
then a journal of --samples samples, 1,000 an entry, random streams, str keys of 8 to 16 bytes. Then reads all of it
alone, opens an engine on it, and compares the states of some streams with what they were, bit for bit. The file is in
the system's cache. Writes a table and recovery.json. The memory is what this process, which only opens, had at most.
"""

from __future__ import annotations

import argparse
import json
import resource
import sys
import tempfile
from collections.abc import Iterator
from multiprocessing import get_context
from pathlib import Path
from time import perf_counter, process_time
from typing import Any

import numpy as np
from engine import MODEL, RNG, names

from stepstream import Engine
from stepstream.stores.sqlite import SqliteStore

ENTRY = 1000  # samples
SOME = 1000  # streams that are compared
NO_SNAPSHOTS: Any = {"snapshot_bytes": 1 << 40, "snapshot_every": None}  # but those that are asked for

State = tuple[bytes, int | None, int]


class Marked:
    """A store, and when an engine began and ended to read its records."""

    def __init__(self, store: SqliteStore) -> None:
        self._store = store
        self.marks: list[float] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    def records(self) -> Iterator[Any]:
        self.marks.append(process_time())
        yield from self._store.records()
        self.marks.append(process_time())


def reading(items: Iterator[tuple[Any, ...]]) -> tuple[float, int, int]:
    """Processor seconds to read and check all, how many they are, and bytes."""
    start, count, size = process_time(), 0, 0
    for item in items:
        count += 1
        size += len(item[-1])
    return process_time() - start, count, size


def states(engine: Engine, keys: list[str]) -> dict[str, State]:
    found = {key: engine.export(key) for key in keys}
    return {key: (s.row.tobytes(), s.age, s.samples) for key, s in found.items()}


def build(path: Path, streams: int, samples: int) -> dict[str, State]:
    """The store, as a crash leaves it; the states of some of its streams."""
    keys = names(streams)
    store = SqliteStore(path, "none")
    engine = Engine(MODEL, "carry", store, capacity=len(keys), **NO_SNAPSHOTS)
    x = RNG.normal(size=(ENTRY, MODEL.n_features)).astype(np.float32)
    for first in range(0, len(keys), ENTRY):
        some = keys[first : first + ENTRY]
        engine.step_many(some, x[: len(some)])
    engine.snapshot()
    for _ in range(samples // ENTRY):
        engine.step_many([keys[i] for i in RNG.integers(0, len(keys), ENTRY).tolist()], x)
    found = states(engine, keys[:: max(1, len(keys) // SOME)])
    store.close()  # and the engine is not: its journal stays
    return found


def opened(path: Path, expected: dict[str, State]) -> dict[str, Any]:
    """Seconds, and those of the processor by part: others may be busy on this machine."""
    store = SqliteStore(path, "none")
    store.open({})
    read_records, records, size = reading(store.records())
    read_journal, entries, more = reading(store.journal())
    store.close()
    marked = Marked(SqliteStore(path, "none"))
    start, begun = perf_counter(), process_time()
    engine = Engine(MODEL, "carry", marked, **NO_SNAPSHOTS)
    end, done = perf_counter(), process_time()
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    assert states(engine, list(expected)) == expected, "the streams are not what they were"
    marked.close()
    first, last = marked.marks
    parts = {
        "open": first - begun,
        "records: read and check": read_records,
        "records: into the table": last - first - read_records,
        "journal: read and check": read_journal,
        "journal: replay": done - last - read_journal,
    }
    return {
        "records": records,
        "samples": entries * ENTRY,
        "bytes": size + more,
        "seconds": end - start,
        "processor": done - begun,
        "parts": parts,
        "peak memory": memory,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--streams", type=int, default=1_000_000)
    parser.add_argument("--samples", type=int, default=10_000_000, help="in the journal")
    parser.add_argument("--folder", type=Path, help="where to build the store; a temporary one")
    parser.add_argument("--out", type=Path, default=Path())
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        path = Path(folder) / "states.db"
        with get_context("spawn").Pool(1) as another:
            start = perf_counter()
            expected = another.apply(build, (path, options.streams, options.samples))
            print(f"built in {perf_counter() - start:.0f} s", file=sys.stderr)
        found = opened(path, expected)
    print(MODEL.runs_on)
    print(f"{found['records']:,} records and {found['samples']:,} samples, {found['bytes'] >> 20:,} MiB")
    for name, seconds in found["parts"].items():
        print(f"  {name:<26}{seconds:>8.2f} s{seconds / found['processor']:>7.0%}")
    print(f"  {'in all, of the processor':<26}{found['processor']:>8.2f} s, in {found['seconds']:.2f} s")
    print(f"  {'memory':<26}{found['peak memory'] >> 20:>8,} MiB at most")
    (options.out / "recovery.json").write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
