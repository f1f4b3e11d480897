"""A model for streams from windows of 7 samples: three ways to train it, carried over streams of 1,000; in Markdown.

    python bench/seven.py [seed]

The label of a sample says whether feature 0 was above zero on average over the last 7 samples; two more features are
noise. A network trained on windows of 7 from a zero state adds up, and never learns to let go: exact on windows,
it is lost when its state is carried on.
"""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass

os.environ.setdefault("KERAS_BACKEND", "jax")

import numpy as np

from stepstream.graph.ir import Array
from stepstream.learn.answers import probabilities
from stepstream.learn.data import Sequences, sequences
from stepstream.learn.recipe import Recipe
from stepstream.learn.training import Training, train

SAMPLES, FEATURES, SEEN = 1000, 3, 7
WINDOWINGS = ("carry", "tumbling(7)", "sliding(7)")
ROUND = {"rate": 0.003, "batch": 64, "epochs": 15}
RECIPES = {
    "windows of 7 from a zero state": Recipe(window=7, loss="last", **ROUND),
    "the same, states passed on": Recipe(window=7, loss="last", state_passing=0.9, **ROUND),
    "truncated back-propagation": Recipe(truncated=50, rate=0.003, batch=16, epochs=40, dropout=0),
}


def streams(count: int, seed: int, samples: int = SAMPLES) -> Sequences:
    """Labelled streams; a sample with fewer than 7 before it is judged by those that there are."""
    x = np.random.default_rng(seed).normal(size=(count, samples, FEATURES)).astype(np.float32)
    total = np.cumsum(x[..., 0], axis=1, dtype=np.float64)
    total[:, SEEN:] -= total[:, :-SEEN].copy()
    return sequences(x, (total > 0).astype(np.int64))


def windows(data: Sequences, n: int = SEEN) -> tuple[Array, Array]:
    """Every n samples that follow each other, (m, n, features), and the label of the last."""
    x = np.concatenate([np.lib.stride_tricks.sliding_window_view(one, n, axis=0).swapaxes(1, 2) for one in data.x])
    return x, np.concatenate([y[n - 1 :] for y in data.y])


@dataclass(frozen=True)
class Line:
    """Accuracy on exact windows, and over whole streams by windowing (their first 6 samples left out); the mean
    confidence when the state is carried.
    """

    name: str
    exact: float
    by_windowing: dict[str, float]
    confidence: float
    seconds: float


def measure(name: str, training: Training, test: Sequences) -> Line:
    x, y = windows(test)
    labels, accuracy, confidence = np.stack(test.y)[:, SEEN - 1 :], {}, 0.0
    for windowing in WINDOWINGS:
        p = np.stack(probabilities(training.model, test, windowing))[:, SEEN - 1 :]
        accuracy[windowing] = float((p.argmax(axis=2) == labels).mean())
        if windowing == "carry":
            confidence = float(p.max(axis=2).mean())
    exact = float(((training.model.run(x)[:, -1, 0] > 0.5) == y).mean())
    return Line(name, exact, accuracy, confidence, training.report["seconds"])


def main(seed: int = 0) -> list[Line]:
    data, test = streams(40, seed, 980), streams(20, seed + 1000)
    lines = []
    print("| trained on | windows of 7 | " + " | ".join(WINDOWINGS) + " | confidence, carried | seconds |")
    print("| --- |" + " ---: |" * (len(WINDOWINGS) + 3))
    for name, recipe in RECIPES.items():
        line = measure(name, train(data, recipe), test)
        lines.append(line)
        figures = [line.exact, *line.by_windowing.values(), line.confidence]
        print(f"| {name} | " + " | ".join(f"{f:.3f}" for f in figures) + f" | {line.seconds:.0f} |", flush=True)
    return lines


if __name__ == "__main__":
    main(*map(int, sys.argv[1:2]))
