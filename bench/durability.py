"""What it costs that an answer is on the disk: python bench/durability.py [--streams 1000000] [--folder DIR]

Model S of bench/networks.py, 1,000 samples a call of streams drawn at random, each engine on a SQLite file of its own
in the same folder, in turns: `sync`, `interval`, `none`, no store, and what one would do without a journal, which is to
write the state row of every sample's stream in each commit. Then how long calls take while a snapshot of all streams
is being written. Writes a table and durability.json.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path
from threading import Thread
from time import perf_counter

for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[name] = "1"

import numpy as np
from networks import networks, ours

from stepstream import Engine
from stepstream.stores.sqlite import SqliteStore
from stepstream.stores.store import Records

SAMPLES = 1000
MODEL = ours(networks()["S"], 100)
RNG = np.random.default_rng(0)
X = RNG.normal(size=(SAMPLES, MODEL.n_features)).astype(np.float32)


class EveryRow(SqliteStore):
    """Writes the rows that a commit has touched, and keeps no journal."""

    keeps_journal = False

    def commit(self, entry: bytes, touched: Callable[[], Records], gone: Iterable[bytes]) -> int:
        self.put(0, touched())
        self.delete(0, gone)
        return super().commit(b"", lambda: (), ())  # waits for the disk


def call(engine: Engine, keys: list[str]) -> float:
    """Seconds of one call."""
    some = [keys[i] for i in RNG.choice(len(keys), SAMPLES, replace=False)]
    start = perf_counter()
    engine.step_many(some, X)
    return perf_counter() - start


def in_turns(engines: dict[str, Engine], keys: list[str], seconds: float) -> dict[str, list[float]]:
    times: dict[str, list[float]] = {name: [] for name in engines}
    end = perf_counter() + seconds
    while perf_counter() < end:
        for name, engine in engines.items():
            times[name].append(call(engine, keys))
    return times


def beside_a_snapshot(engine: Engine, keys: list[str]) -> tuple[list[float], float]:
    """Calls one after the other until a snapshot of all streams is complete, and how long that took."""
    times: list[float] = []
    started = perf_counter()
    thread = Thread(target=engine.snapshot)
    thread.start()
    while thread.is_alive():
        times.append(call(engine, keys))
    thread.join()
    return times, perf_counter() - started


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--streams", type=int, default=1_000_000)
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--folder", type=Path, default=Path())
    parser.add_argument("--out", type=Path, default=Path())
    options = parser.parse_args()
    keys = [f"device-{i:08}" for i in range(options.streams)]
    found: dict[str, object] = {"streams": options.streams}
    with tempfile.TemporaryDirectory(dir=options.folder) as name:
        folder = Path(name)
        every = 1e9  # no snapshot but those asked for
        shared = {"capacity": options.streams, "snapshot_every": every, "snapshot_bytes": 1 << 60}
        engines = {
            "no store": Engine(MODEL, "carry", capacity=options.streams),
            "none": Engine(MODEL, "carry", folder / "none.db", "none", **shared),
            "interval": Engine(MODEL, "carry", folder / "interval.db", "interval", **shared),
            "sync": Engine(MODEL, "carry", folder / "sync.db", "sync", **shared),
            "every row, sync": Engine(MODEL, "carry", EveryRow(folder / "rows.db"), **shared),
        }
        print(MODEL.runs_on)
        for name, engine in engines.items():
            print(f"  {name}: {len(keys)} streams", flush=True)
            some = (
                keys if name != "every row, sync" else keys[: len(keys) // 10]
            )  # a commit of a million would take minutes
            for first in range(0, len(some), SAMPLES):
                part = some[first : first + SAMPLES]
                engine.step_many(part, X[: len(part)])
        few = keys[: len(keys) // 10]
        times = in_turns(engines, few, options.seconds)
        print(f"{'':<36}{'calls':>7}{'median ms':>11}{'p99 ms':>9}{'samples/s':>12}")
        for name, each in times.items():
            row(name, each)
            found[name] = {"median": statistics.median(each), "p99": float(np.quantile(each, 0.99)), "calls": len(each)}
        ratio = statistics.median(times["every row, sync"]) / statistics.median(times["sync"])
        print(f"sync, with a journal, is {ratio:.1f} times as fast as writing every row")
        found["of every row"] = ratio
        for which in ("first", "second"):  # of records that are new, and that are written over
            each, took = beside_a_snapshot(engines["sync"], keys)
            row(f"sync, {which} snapshot of {took:.1f} s", each)
            found[f"beside the {which} snapshot"] = {"p99": float(np.quantile(each, 0.99)), "seconds": took}
            for first in range(0, len(keys), SAMPLES):
                engines["sync"].step_many(keys[first : first + SAMPLES], X[: len(keys[first : first + SAMPLES])])
        for engine in engines.values():
            engine.close()
    (options.out / "durability.json").write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


def row(name: str, times: list[float]) -> None:
    median, p99 = statistics.median(times), float(np.quantile(times, 0.99))
    print(f"{name:<36}{len(times):>7}{median * 1e3:>11.2f}{p99 * 1e3:>9.2f}{SAMPLES / median:>12,.0f}", flush=True)


if __name__ == "__main__":
    main()
