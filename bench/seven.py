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
from stepstream.learn.data import Sequences, sequences
from stepstream.learn.recipe import Recipe
from stepstream.learn.train import Training, train

SAMPLES, FEATURES, SEEN = 1000, 3, 7
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
    """Accuracy on exact windows, and carried over whole streams (their first 6 samples left out)."""

    name: str
    exact: float
    carried: float
    confidence: float
    seconds: float


def measure(name: str, training: Training, test: Sequences) -> Line:
    x, y = windows(test)
    p = training.model.run(np.stack(test.x))[..., 0]
    labels = np.stack(test.y)
    return Line(
        name,
        float(((training.model.run(x)[:, -1, 0] > 0.5) == y).mean()),
        float(((p > 0.5) == labels)[:, SEEN - 1 :].mean()),
        float(np.maximum(p, 1 - p)[:, SEEN - 1 :].mean()),
        training.report["seconds"],
    )


def main(seed: int = 0) -> list[Line]:
    data, test = streams(40, seed, 980), streams(20, seed + 1000)
    lines = []
    print("| trained on | windows of 7 | carried | its confidence | seconds |")
    print("| --- | ---: | ---: | ---: | ---: |")
    for name, recipe in RECIPES.items():
        line = measure(name, train(data, recipe), test)
        lines.append(line)
        print(
            f"| {name} | {line.exact:.3f} | {line.carried:.3f} | {line.confidence:.3f} | {line.seconds:.0f} |",
            flush=True,
        )
    return lines


if __name__ == "__main__":
    main(*map(int, sys.argv[1:2]))
