"""What sliding(n) costs for one sample of one stream, both ways, against carry; interleaved, medians, in Markdown.

    python bench/sliding.py [rounds]

Three networks: the packaged one, a wide one, and one with large layers behind its last value, which recomputing runs
once and a ring of states once for each. Every way is warmed up to full windows, and the two ways' answers are compared.
Processor time of the one thread is measured, so that neighbours on shared cores count less.
"""

from __future__ import annotations

import os
import statistics
import sys
from importlib.resources import files
from time import thread_time

os.environ.setdefault("KERAS_BACKEND", "jax")
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # two threads for one sample wait on each other and the neighbours

import keras
import numpy as np
from keras import layers

import stepstream
from stepstream.live.sliding import cheaper

SECONDS = 0.005  # of one measurement, at least
SAMPLES = np.random.default_rng(0).normal(size=(200, 3)).astype(np.float32)
WINDOWS = [(1, 1), (7, 1), (20, 1), (100, 1), (100, 10), (100, 34)]  # (n, stride)


def networks() -> dict[str, stepstream.Model]:
    def chain(*inner: keras.Layer) -> stepstream.Model:
        keras.utils.set_random_seed(0)
        return stepstream.load(keras.Sequential([layers.Input((100, 3)), *inner]))

    return {
        "packaged: LSTM 32, LSTM 16, Dense 1": stepstream.load(
            files("stepstream") / "data" / "motions" / "model.keras"
        ),
        "LSTM 256, Dense 1": chain(layers.LSTM(256), layers.Dense(1)),
        "LSTM 32, Dense 1024, 1024, 1": chain(
            layers.LSTM(32), *(layers.Dense(1024, "relu") for _ in range(2)), layers.Dense(1)
        ),
    }


def measure(model: stepstream.Model, rounds: int) -> dict[str, float]:
    """Median microseconds for one `Stream.step`, by windowing."""
    names = [str(stepstream.Sliding(n, stride, by=by)) for n, stride in WINDOWS for by in ("recompute", "states")]
    streams = {name: model.stream(name) for name in ["carry", *names]}
    answers = {name: stream.steps(SAMPLES) for name, stream in streams.items()}
    for by_recompute, by_states in zip(names[::2], names[1::2], strict=True):
        assert answers[by_recompute].tobytes() == answers[by_states].tobytes(), by_states
    samples = SAMPLES[:10].tolist()
    times: dict[str, list[float]] = {name: [] for name in streams}
    for _ in range(rounds):
        for name, stream in streams.items():
            start, calls = thread_time(), 0
            while thread_time() < start + SECONDS:
                for sample in samples:
                    stream.step(sample)
                    calls += 1
            times[name].append((thread_time() - start) / calls)
    return {name: statistics.median(values) * 1e6 for name, values in times.items()}


def _us(x: float) -> str:
    return f"{x:,.2f}" if x < 10 else f"{x:,.0f}"


def main(rounds: int) -> None:
    print("| network | windowing | recompute | states | floats a stream | the rule takes |")
    print("| --- | --- | ---: | ---: | ---: | --- |")
    for name, model in networks().items():
        times = measure(model, rounds)
        carry = times["carry"]
        print(f"| {name} | `carry` | {_us(carry)} µs | | {model.executor.state_size:,} | |")
        for n, stride in WINDOWS:
            ways = {by: stepstream.Sliding(n, stride, by=by) for by in ("recompute", "states")}
            cells = [f"{_us(times[str(w)])} µs, {times[str(w)] / carry:.1f} times" for w in ways.values()]
            floats = [f"{w.on(model.executor)[1].state_size:,}" for w in ways.values()]
            rule = cheaper(model.executor, n, stride)
            print(f"| | `{stepstream.Sliding(n, stride)}` | {' | '.join(cells)} | {' or '.join(floats)} | {rule} |")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 20)
