"""What an Engine costs beside the kernel alone, in one run: python bench/engine.py [--streams 1000000] [--seconds 20]

Model S of bench/networks.py. Contenders take turns: `step_many` on 1,024 random keys of up to 16 characters, each
another stream, beside the look-up of the keys alone and the kernel's own step of the same rows; `step` of one key
beside `Stream.step`. Then how the time per sample grows with the number of streams and with the age, what a stream
takes in memory, what a sample costs when the same 1,024 of all streams speak, and what a journal adds. Writes a table,
engine.json and engine.svg; docs/explanation/engine.md says what part the processor's cache plays.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
from collections.abc import Callable, Iterator
from pathlib import Path
from time import perf_counter
from typing import Any

for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[name] = "1"

import numpy as np
from networks import networks, ours

from stepstream import Engine
from stepstream.kernel.executor import update
from stepstream.live.journal import STEPS, Operation, decode, encode

BATCH = 1024
ROUNDS = 5
SIZES = (1_000, 10_000, 100_000, 1_000_000)
AGES = (1, 1_000, 1_000_000)
LETTERS = "abcdefghijklmnopqrstuvwxyz0123456789"
MODEL = ours(networks()["S"], 100)
RNG = np.random.default_rng(0)
X = RNG.normal(size=(BATCH, MODEL.n_features)).astype(np.float32)


def names(count: int) -> list[str]:
    """Different keys of 8 to 16 characters."""
    letters, sizes = RNG.integers(0, len(LETTERS), (count, 16)), RNG.integers(8, 17, count)
    made = ("".join(map(LETTERS.__getitem__, row[:n])) for row, n in zip(letters, sizes, strict=True))
    return list(dict.fromkeys(made))


def resident() -> int:
    """Bytes of memory that this process has in use."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def filled(keys: list[str]) -> tuple[Engine, float]:
    """An engine with so many streams, and the bytes that each takes beside its state row."""
    engine = Engine(MODEL, "carry", capacity=len(keys))
    before = resident()
    for first in range(0, len(keys), BATCH):
        some = keys[first : first + BATCH]
        engine.step_many(some, X[: len(some)])
    return engine, (resident() - before) / len(keys) - 4 * MODEL.executor.state_size


def in_turns(calls: dict[str, Callable[[], object]], each: int, seconds: float) -> dict[str, float]:
    """Median microseconds of one of `each` things that a call does."""
    times: dict[str, list[float]] = {name: [] for name in calls}
    end = perf_counter() + seconds
    while perf_counter() < end:
        for name, call in calls.items():
            start = perf_counter()
            call()
            times[name].append((perf_counter() - start) / each * 1e6)
    return {name: statistics.median(t) for name, t in times.items()}


def many(engine: Engine, keys: list[str], seconds: float) -> dict[str, float]:
    """Microseconds a sample: the engine's call, and its parts: finding the rows, and the kernel's step of them."""
    calls = [[keys[i] for i in RNG.choice(len(keys), min(BATCH, len(keys)), replace=False)] for _ in range(50)]
    table = engine._streams.table
    rows = [table.keys.find(some) for some in calls]
    turn: Iterator[int] = iter(range(10**9))
    machine, x = MODEL.executor.machine, X[: len(calls[0])]
    return in_turns(
        {
            "step_many": lambda: engine.step_many(calls[next(turn) % 50], x),
            "look-up": lambda: table.keys.find(calls[next(turn) % 50]),
            "kernel": lambda: update(machine, table.state, rows[next(turn) % 50], x),
        },
        len(x),
        seconds,
    )


def one(seconds: float) -> dict[str, float]:
    """Microseconds of a sample of one stream."""
    engine, stream, sample = Engine(MODEL, "carry"), MODEL.stream("carry"), X[0].tolist()
    engine.step("device-17", sample)
    numbers = iter(range(10**9))

    def repeat(call: Callable[[], object]) -> Callable[[], None]:
        def calls() -> None:
            for _ in range(200):
                call()

        return calls

    return in_turns(
        {
            "Stream.step": repeat(lambda: stream.step(sample)),
            "Engine.step": repeat(lambda: engine.step("device-17", sample)),
            "Engine.step with a number": repeat(lambda: engine.step("device-17", sample, next(numbers))),
        },
        200,
        seconds,
    )


def aged(age: int, keys: list[str]) -> Engine:
    """An engine whose streams are so old when they are first measured."""
    engine = Engine(MODEL, "carry")
    engine.step_many(keys, X[: len(keys)])
    state = engine.export(keys[0])
    for key in keys if age > 1 else ():
        engine.restore(key, type(state)(state.row, age, None, age))
    return engine


def in_rounds(contenders: dict[Any, tuple[Engine, list[str]]], seconds: float) -> dict[Any, dict[str, float]]:
    """What `many` says of each: medians of rounds, so that what else the machine does meets all of them."""
    found: dict[Any, list[dict[str, float]]] = {what: [] for what in contenders}
    for _ in range(ROUNDS):
        for what, (engine, keys) in contenders.items():
            found[what].append(many(engine, keys, seconds / ROUNDS))
    return {what: {name: statistics.median(r[name] for r in rs) for name in rs[0]} for what, rs in found.items()}


def journal(keys: list[str], seconds: float) -> dict[str, float]:
    """Microseconds a sample to write an entry of 1,000, to read it, and its bytes a sample."""
    o = Operation(STEPS, 1.0, keys[:1000], X[:1000], np.arange(1000), np.arange(1000.0))
    entry = encode([o])
    times = in_turns(
        {"encode": lambda: encode([o]), "decode": lambda: list(decode(entry, MODEL.n_features, 1))}, 1000, seconds
    )
    return {**times, "bytes": len(entry) / 1000}


def draw(growth: dict[int, dict[str, float]], ages: dict[int, dict[str, float]], path: Path) -> None:
    """Time per sample by the number of streams and by their age, the engine's and the kernel's."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    matplotlib.rcParams.update({"svg.hashsalt": "stepstream", "svg.fonttype": "none", "font.family": "sans-serif"})
    figure, axes = plt.subplots(1, 2, figsize=(8, 3.2), layout="constrained", sharey=True)
    for axis, found, title in zip(axes, (growth, ages), ("streams in memory", "samples seen by each"), strict=True):
        for name, label, color in (("step_many", "Engine.step_many", "#1a7f37"), ("kernel", "kernel alone", "#afb8c1")):
            times = [row[name] for row in found.values()]
            axis.plot(list(found), times, "o-", color=color, label=label, clip_on=False)
            for x, time in zip(found, times, strict=True):
                axis.annotate(f"{time:.2f}", (x, time), (0, 6), textcoords="offset points", ha="center", fontsize=8)
        axis.set_xscale("log")
        axis.set_ylim(0, 1.25 * max(row["step_many"] for row in growth.values()))
        axis.set_xlabel(title, fontsize=9)
        axis.tick_params(labelsize=8)
        axis.minorticks_off()
        axis.spines[["top", "right"]].set_visible(False)
    axes[0].set_xticks(list(growth), [f"{n:,}" for n in growth])
    axes[1].set_xticks(list(ages), [f"{n:,}" for n in ages])
    axes[0].set_ylabel("microseconds a sample", fontsize=9)
    axes[0].legend(frameon=False, fontsize=8, loc="lower right")
    figure.savefig(path, metadata={"Date": None})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--streams", type=int, default=1_000_000)
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--out", type=Path, default=Path())
    options = parser.parse_args()
    share = options.seconds / 10
    keys = names(options.streams)
    found: dict[str, Any] = {"one": one(share), "journal": journal(keys, share)}
    sizes = sorted({min(n, len(keys)) for n in (*SIZES, len(keys))})
    engines = {size: filled(keys[:size]) for size in sizes}
    few = [keys[i] for i in RNG.choice(len(keys), min(BATCH, len(keys)), replace=False)]
    young = names(BATCH)
    contenders: dict[Any, tuple[Engine, list[str]]] = {size: (engines[size][0], keys[:size]) for size in sizes}
    contenders["few"] = engines[sizes[-1]][0], few
    contenders |= {-age: (aged(age, young), young) for age in AGES}
    times = in_rounds(contenders, share)
    growth = {size: {**times[size], "bytes beside the state": engines[size][1]} for size in sizes}
    ages = {age: times[-age] for age in AGES}
    found |= {"by streams": growth, "by age": ages, "the same few": times["few"]}
    last = growth[max(growth)]
    print(MODEL.runs_on)
    columns = f"{'step_many us':>13} {'look-up us':>11} {'kernel us':>10} {'of its rate':>12} {'bytes beside':>13}"
    for what, rows in (("streams", growth), ("age", ages)):
        print(f"{what:>10} {columns}")
        for n, row in rows.items():
            times = f"{row['step_many']:>13.3f} {row['look-up']:>11.3f} {row['kernel']:>10.3f}"
            rate, beside = row["kernel"] / row["step_many"], row.get("bytes beside the state")
            print(f"{n:>10} {times} {rate:>12.0%} {'' if beside is None else round(beside):>13}")
    for name in ("the same few", "one", "journal"):
        print(name + ":", ", ".join(f"{k} {v:.3f}" for k, v in found[name].items()))
    found["of the kernel's rate"] = last["kernel"] / last["step_many"]
    (options.out / "engine.json").write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    draw(growth, ages, options.out / "engine.svg")


if __name__ == "__main__":
    main()
