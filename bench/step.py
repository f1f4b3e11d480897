"""What one sample costs: ours and everybody else's, interleaved in one run, answers compared first.

    pip install torch==2.13.0 jax keras tensorflow-cpu onnx onnxruntime matplotlib
    python bench/step.py [--rounds 15] [--out FOLDER]

Three networks (bench/networks.py): S, G and B. One stream: the public `Stream.step(list)` with all its checks, under
carry, tumbling and sliding; ONNX Runtime (public `run` and IO binding; the LSTM op and its parts), PyTorch, JAX, NumPy
written by hand, and Keras on each back end, stepping a stateful twin or recomputing windows with zeros in front. Many
streams: batches out of tables of states. Who gives other answers is listed as wrong, and left out of the ratios.
Writes a table, step.json and step.svg.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
from collections.abc import Callable
from itertools import cycle
from pathlib import Path
from time import perf_counter
from typing import Any

for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[name] = "1"
os.environ["XLA_FLAGS"] = "--xla_cpu_multi_thread_eigen=false"

import numpy as np
from contenders import Step, jax_step, numpy_step, onnx_bound, onnx_run, torch_step
from keras_worker_client import Worker, workers
from networks import Network, networks, ours

from stepstream.graph.validate import validate
from stepstream.kernel.executor import native, update
from stepstream.ops import REGISTRY

BATCHES = (16, 64, 1024)
TABLES = (4096, 1_000_000)
SHARE = 0.02  # seconds of one measurement
PEAK = "one multiply-add"
TITLES = {
    "S": "S: LSTM 32, LSTM 16, Dense 1\n3 features",
    "G": "G: GRU 128, Dense 1\n16 features",
    "B": "B: LSTM 256, LSTM 256, Dense 1\n40 features",
}


class Race:
    """Contenders that are timed in turns."""

    def __init__(self) -> None:
        self.calls: dict[str, Callable[[], object]] = {}
        self.each: dict[str, int] = {}
        self.rows: dict[str, int] = {}
        self.times: dict[str, list[float]] = {}

    def enter(self, name: str, call: Callable[[], object], rows: int = 1) -> None:
        call()
        start = perf_counter()
        call()
        self.calls[name], self.rows[name] = call, rows
        self.each[name] = max(1, int(SHARE / max(perf_counter() - start, 1e-7)))

    def run(self, rounds: int) -> None:
        for turn in range(rounds):
            print(f"\r  round {turn + 1} of {rounds} ", end="", file=sys.stderr, flush=True)
            for name, call in self.calls.items():
                start = perf_counter()
                for _ in range(self.each[name]):
                    call()
                self.times.setdefault(name, []).append((perf_counter() - start) / self.each[name] / self.rows[name])
        print("\r" + " " * 40 + "\r", end="", file=sys.stderr)

    def medians(self) -> dict[str, float]:
        return {name: statistics.median(times) for name, times in self.times.items()}


def one_stream(name: str, network: Network, keras: list[Worker], rounds: int) -> tuple[dict[str, float], list[str]]:
    """Seconds of one sample by contender, and who is wrong."""
    x = np.random.default_rng(1).normal(size=(200, 64)).astype(np.float32)[:, : network.features].copy()
    lists, rows = [row.tolist() for row in x], [row[None].copy() for row in x]
    stream = ours(network).stream("carry")
    expected = [stream.step(row) for row in lists[:20]]
    race, wrong = Race(), []
    enter_peak(race)

    def turn(step: Callable[[Any], object], samples: list[Any]) -> Callable[[], object]:
        """Ten samples a call, so that the loop around them costs all the same."""
        some = samples[:10]

        def call() -> None:
            for sample in some:
                step(sample)

        return call

    for windowing in ("carry", "tumbling(100)", "sliding(100, by=states)", "sliding(100, by=recompute)"):
        race.enter(f"stepstream, {windowing}", turn(ours(network, 100).stream(windowing).step, lists), 10)
    others: dict[str, Callable[[], Step]] = {
        "NumPy, by hand": lambda: numpy_step(network, 1),
        "ONNX Runtime, run": lambda: onnx_run(network, 1, decomposed=False),
        "ONNX Runtime, run, decomposed": lambda: onnx_run(network, 1, decomposed=True),
        "ONNX Runtime, IO binding": lambda: onnx_bound(network, 1, decomposed=False),
        "ONNX Runtime, IO binding, decomposed": lambda: onnx_bound(network, 1, decomposed=True),
        "PyTorch, cells": lambda: torch_step(network, 1, cells=True),
        "PyTorch, layers": lambda: torch_step(network, 1, cells=False),
        "JAX, jit": lambda: jax_step(network, 1),
    }
    for label, make in others.items():
        step = make()
        if off(expected, [float(step(row)[0]) for row in rows[:20]]) > 1e-5:
            wrong.append(label)
        else:
            race.enter(label, turn(step, rows), 10)
    timed = []
    for worker in keras:
        for way in worker.ways(name):
            label, by = f"{worker.writer}, {way}", off(expected, worker.answers(way, 20))
            if "recomputed" in way:
                worker.notes[way] = by
            elif by > 1e-5:
                wrong.append(f"{label}: off by {by:.2g}")
                continue
            timed.append((worker, way, label))
    for _ in range(max(3, rounds // 3)):
        for worker, way, label in timed:
            race.times.setdefault(label, []).append(worker.time(way, 5))
    race.run(rounds)
    return race.medians(), wrong


def enter_peak(race: Race) -> None:
    """One multiply-add, as many at a time as one core can do, in registers."""
    rounds = 100_000
    done = int(native().peak(rounds))
    race.enter(PEAK, lambda: native().peak(rounds), done)


def off(expected: list[Any], found: list[Any]) -> float:
    return float(np.abs(np.array(expected) - np.array(found)).max())


def many_streams(network: Network, rounds: int) -> tuple[dict[str, float], list[str]]:
    """Seconds of one sample by contender, and who is wrong."""
    executor, race, wrong = ours(network).executor, Race(), []
    enter_peak(race)
    rng = np.random.default_rng(2)
    for capacity in TABLES:
        if capacity * executor.state_size > 2**27:  # 512 MiB
            continue
        table = executor.initial_state(capacity)
        for batch in BATCHES:
            turns = cycle([rng.choice(capacity, batch, replace=False) for _ in range(64)])
            x = rng.normal(size=(batch, network.features)).astype(np.float32)

            race.enter(
                f"stepstream, batch of {batch}, {capacity:,} streams",
                lambda table=table, turns=turns, x=x: update(executor.machine, table, next(turns), x), batch,
            )  # fmt: skip
    for batch in BATCHES:
        x = rng.normal(size=(batch, network.features)).astype(np.float32)
        near = executor.initial_state(batch)
        race.enter(
            f"stepstream, batch of {batch}, rows in cache",
            lambda near=near, x=x: update(executor.machine, near, None, x), batch,
        )  # fmt: skip
        others = {
            "NumPy, by hand": numpy_step(network, batch),
            "ONNX Runtime, decomposed": onnx_bound(network, batch, decomposed=True),
            "ONNX Runtime, LSTM op": onnx_bound(network, batch, decomposed=False),
            "PyTorch, layers": torch_step(network, batch, cells=False),
            "JAX, jit": jax_step(network, batch),
        }
        fresh = executor.initial_state(batch)
        expected = [update(executor.machine, fresh, None, x)[0][:, 0].copy() for _ in range(20)]
        for label, step in others.items():
            if off(expected, [np.array(step(x)) for _ in range(20)]) > 1e-5:
                wrong.append(f"{label}, batch of {batch}")
            else:
                race.enter(f"{label}, batch of {batch}", lambda step=step, x=x: step(x), batch)
    race.run(rounds)
    return race.medians(), wrong


def multiply_adds(network: Network) -> int:
    graph = ours(network).graph
    specs = validate(graph)
    return sum(REGISTRY[n.op].multiply_adds(n, *(specs[i] for i in n.inputs)) for n in graph.nodes)


def show(times: dict[str, float], first: str, work: int) -> None:
    base, each = times[first], times.pop(PEAK)
    print(f"  peak of this core: {1e-9 / each:.1f} G multiply-adds a second")
    for label, seconds in sorted(times.items(), key=lambda item: item[1]):
        share = f"  {work * each / seconds:4.0%} of the peak" if label.startswith("stepstream") else ""
        print(f"  {label:60s} {seconds * 1e6:10.2f} us  {seconds / base:9.1f} x{share}")


DRAWN = {  # contender: its name in the plot
    "stepstream, carry": "stepstream",
    "ONNX Runtime, IO binding": "ONNX Runtime, IO binding",
    "NumPy, by hand": "NumPy, by hand",
    "ONNX Runtime, run": "ONNX Runtime, run",
    "JAX, jit": "JAX, jit",
    "PyTorch, cells": "PyTorch, cells",
    "tensorflow, predict_on_batch": "Keras on TensorFlow",
    "torch, predict_on_batch": "Keras on PyTorch",
    "torch, 100 samples, zeros in front, recomputed": "Keras, 100 samples recomputed",
}


def draw(results: dict[str, Any], path: Path) -> None:
    """One sample of one stream, by contender, on one logarithmic scale."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    matplotlib.rcParams.update({"svg.hashsalt": "stepstream", "svg.fonttype": "none", "font.family": "sans-serif"})
    figure, axes = plt.subplots(
        1, len(results), figsize=(1.5 + 3.2 * len(results), 3.2), layout="constrained", sharey=True
    )
    for axis, (name, result) in zip(np.atleast_1d(axes), results.items(), strict=True):
        found = {
            drawn: next((t * 1e6 for label, t in result["one stream"].items() if label.endswith(end)), None)
            for end, drawn in DRAWN.items()
        }
        times = {drawn: t for drawn, t in found.items() if t is not None}
        bars = axis.barh(list(times), [t - 0.1 for t in times.values()], left=0.1, color=["#1a7f37"] + ["#afb8c1"] * 9)
        axis.bar_label(bars, [f"{t:,.1f}" if t < 10 else f"{t:,.0f}" for t in times.values()], padding=3, fontsize=8)
        axis.set_xscale("log")
        axis.set_xlim(0.1, 1e6)
        axis.set_title(TITLES[name], fontsize=9)
        axis.tick_params(labelsize=8)
        axis.minorticks_off()
        axis.spines[["top", "right"]].set_visible(False)
    np.atleast_1d(axes)[0].invert_yaxis()
    figure.supxlabel("microseconds for one sample of one stream", fontsize=9)
    figure.savefig(path, metadata={"Date": None})


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--networks", default="SGB")
    parser.add_argument("--backends", default="torch,jax,tensorflow")
    parser.add_argument("--out", type=Path, default=Path())
    options = parser.parse_args()
    results: dict[str, Any] = {}
    with workers([b for b in options.backends.split(",") if b]) as keras:
        for name in options.networks:
            network = networks()[name]
            work = multiply_adds(network)
            print(f"\nnetwork {name}: {work:,} multiply-adds a sample")
            single, wrong = one_stream(name, network, keras, options.rounds)
            print(" one stream")
            show(single, "stepstream, carry", work)
            for label in wrong:
                print(f"  WRONG, not in the ratios: {label}")
            for worker in keras:
                for way, by in worker.notes.items():
                    print(f"  {worker.writer}, {way}: its answers are {by:.2g} off those of the samples seen")
            many, others = many_streams(network, options.rounds)
            wrong += others
            print(" many streams")
            show(many, "stepstream, batch of 1024, rows in cache", work)
            for label in others:
                print(f"  WRONG, not in the ratios: {label}")
            results[name] = {"one stream": single, "many streams": many, "wrong": wrong, "multiply-adds": work}
    (options.out / "step.json").write_text(json.dumps(results, indent=1))
    draw(results, options.out / "step.svg")


if __name__ == "__main__":
    main()
