"""What it costs to keep what an engine is told: the disk alone, commits alone and beside a snapshot, and recovery.

    python bench/store.py [--folder FOLDER] [--records 1000000] [--entries 10000] [--out FILE]

A commit is 1,000 samples of 40 bytes, durability sync. Beside it, the alternative: the state row of every sample (384
bytes, random keys) instead of its journal entry. FOLDER is on the disk to be measured. Prints a table.
"""

from __future__ import annotations

import argparse
import os
import random
import statistics
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from threading import Event, Thread
from time import perf_counter

from stepstream.stores.sqlite import SqliteStore

SAMPLES = 1000  # of a commit
ENTRY = 40 * SAMPLES
ROW = 384


def keys(count: int) -> list[bytes]:
    """Random ones of up to 16 bytes, no two alike."""
    rng = random.Random(7)
    return [b"%d" % n + rng.randbytes(rng.randint(1, 9)) for n in range(count)]


def timed(call: Callable[[], object]) -> float:
    start = perf_counter()
    call()
    return perf_counter() - start


def line(name: str, times: list[float], samples: int = SAMPLES) -> str:
    times = sorted(times)
    rate = f"{samples * len(times) / sum(times):>12,.0f}" if samples else f"{'':>12}"
    p99, worst = times[int(len(times) * 0.99)], times[-1]
    return (
        f"{name:<46}{len(times):>8,}{statistics.median(times) * 1e3:>10.3f}{p99 * 1e3:>10.3f}{worst * 1e3:>10.3f}{rate}"
    )


def disk_alone(folder: Path, count: int) -> list[float]:
    """Write one entry and fdatasync, over and over the same 32 MB, as a write-ahead log does."""
    data, room = os.urandom(ENTRY), 32 << 20
    file = os.open(folder / "fsync", os.O_RDWR | os.O_CREAT)
    try:
        os.pwrite(file, bytes(room), 0)
        os.fsync(file)

        def write(n: int) -> None:
            os.pwrite(file, data, n * ENTRY % (room - ENTRY))
            os.fdatasync(file)

        return [timed(lambda n=n: write(n)) for n in range(count)]  # type: ignore[misc]
    finally:
        os.close(file)
        os.unlink(folder / "fsync")


def commits(store: SqliteStore, count: int, until: Event | None = None) -> list[float]:
    """So many, or as many as there is time for until the event."""
    entry = os.urandom(ENTRY)
    times = []
    while len(times) < count or (until is not None and not until.is_set()):
        times.append(timed(lambda: store.commit(entry, lambda: (), ())))
    return times


def beside_a_snapshot(store: SqliteStore, names: list[bytes]) -> tuple[list[float], float]:
    """Commits one after the other while every record is put and the journal trimmed; and how long that took."""
    done = Event()
    took = []
    row = os.urandom(ROW)

    def snapshot() -> None:
        try:
            number = store.commit(b"", lambda: (), ())

            def whole() -> None:
                store.put(number, ((name, row) for name in names))
                store.trim(number)

            took.append(timed(whole))
        finally:
            done.set()

    thread = Thread(target=snapshot)
    thread.start()
    times = commits(store, 0, done)
    thread.join()
    return times, took[0]


def every_row(store: SqliteStore, names: list[bytes], count: int) -> list[float]:
    """The alternative: what a commit would cost that writes the state row of each of its samples."""
    row = os.urandom(ROW)
    rng = random.Random(8)

    def commit() -> None:
        store.put(1, ((name, row) for name in rng.sample(names, SAMPLES)))
        store.commit(b"", lambda: (), ())

    return [timed(commit) for _ in range(count)]


def fill(path: Path, names: list[bytes], entries: int) -> None:
    store = SqliteStore(path, "none")
    store.open({})
    row, entry = os.urandom(ROW), os.urandom(ENTRY)
    store.put(0, ((name, row) for name in names))
    for _ in range(entries):
        store.commit(entry, lambda: (), ())
    store.close()


def recovery(path: Path) -> dict[str, float]:
    def count(items: Iterator[object]) -> Callable[[], int]:
        return lambda: sum(1 for _ in items)

    store = SqliteStore(path)
    found = {"open": timed(lambda: store.open({}))}
    found["read records"] = timed(count(store.records()))
    found["read journal"] = timed(count(store.journal()))
    store.close()
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--folder", default=".")
    parser.add_argument("--records", type=int, default=1_000_000)
    parser.add_argument("--entries", type=int, default=10_000)
    parser.add_argument("--out", help="write the table here too")
    options = parser.parse_args()
    names = keys(options.records)
    lines: list[str] = []

    def say(text: str) -> None:
        print(text, flush=True)
        lines.append(text)

    with tempfile.TemporaryDirectory(dir=options.folder) as name:
        folder = Path(name)
        say(f"{'':<46}{'commits':>8}{'median ms':>10}{'p99 ms':>10}{'worst ms':>10}{'samples/s':>12}")
        say(line("the disk alone: write 40 kB, fdatasync", disk_alone(folder, 2000)))
        store = SqliteStore(folder / "states.db")
        store.open({})
        say(line("commit, sync", commits(store, 3000)))
        for what in ("first", "again"):
            times, took = beside_a_snapshot(store, names)
            say(line(f"commit, sync, beside a snapshot ({what})", times))
            size = (folder / "states.db-wal").stat().st_size >> 20
            say(f"  snapshot of {len(names):,} records: {took:.1f} s; log {size:,} MB")
        say(line("every row instead (384 bytes), sync", every_row(store, names, 100)))
        store.close()
        os.unlink(folder / "states.db")
        fill(folder / "full.db", names, options.entries)
        for what, took in recovery(folder / "full.db").items():
            say(f"recovery: {what:<20}{took:>8.2f} s")
    if options.out:
        Path(options.out).write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
