"""A network with Flatten as it is, and retrained without: accuracy after each sample, on windows it has not seen.

The task: 7 samples of 3 features from nothing; the label is whether a sum of them, later samples weighing more, is
above zero. Needs Keras.  KERAS_BACKEND=jax python bench/flatten.py
"""

from __future__ import annotations

import os

os.environ.setdefault("KERAS_BACKEND", "jax")

import keras
import numpy as np
from keras import layers

import stepstream

TIME, FEATURES, SEEDS = 7, 3, 3
WEIGHTS = np.linspace(0.3, 1.0, TIME)[:, None] * np.array([1.0, -0.5, 0.8])


def task(rng: np.random.Generator, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Windows (count, 7, 3) and labels (count,)."""
    x = rng.normal(size=(count, TIME, FEATURES)).astype(np.float32)
    return x, ((x * WEIGHTS).sum(axis=(1, 2)) > 0).astype(np.float32)


def network(form: str) -> keras.Model:
    """flatten: as everybody has it; last: without Flatten, loss at the end; every: the same, loss at every sample."""
    head = [layers.Flatten()] if form == "flatten" else []
    return keras.Sequential(
        [
            layers.Input((TIME, FEATURES)),
            layers.LSTM(32, return_sequences=True),
            layers.LeakyReLU(),
            layers.LSTM(16, return_sequences=form != "last"),
            layers.LeakyReLU(),
            *head,
            layers.Dense(1, activation="sigmoid"),
        ]
    )


def accuracy(seed: int, form: str) -> list[float]:
    """After 1, 2, ... 7 samples."""
    keras.utils.set_random_seed(seed)
    rng = np.random.default_rng(seed)
    (x, y), (unseen, truth) = task(rng, 8000), task(rng, 2000)
    model = network(form)
    model.compile("adam", "binary_crossentropy")
    target = np.repeat(y[:, None, None], TIME, axis=1) if form == "every" else y
    model.fit(x, target, epochs=8, batch_size=64, verbose=0)
    executor = stepstream.load(model).executor
    state, right = executor.initial_state(len(unseen)), []
    for t in range(TIME):
        (p,), state = executor.step(unseen[:, t], state)
        right.append(float(((p[:, 0] > 0.5) == truth).mean()))
    return right


def main() -> None:
    print("| after sample |", " | ".join(str(t) for t in range(1, TIME + 1)), "|")
    print("| --- |", " | ".join(["---:"] * TIME), "|")
    for form in ("flatten", "last", "every"):
        mean = np.mean([accuracy(seed, form) for seed in range(SEEDS)], axis=0)
        print(f"| {form} |", " | ".join(f"{a:.3f}" for a in mean), "|", flush=True)


if __name__ == "__main__":
    main()
