"""Train the example model: is the wearer playing badminton? One answer per accelerometer sample.

Data: BasicMotions (UEA archive, Bagnall et al. 2018, arXiv:1811.00075), shipped inside the package `aeon`:
80 cases of 100 samples at 10 Hz, in a fixed split of 40 and 40. The 3 accelerometer axes are used, unscaled.

The network that is kept reads a window and answers once. It is trained through a twin that answers at every
sample, with a loss at each of them, because a loss on the last answer alone does not train the others.
"""

from __future__ import annotations

import csv
import json
import os
from datetime import UTC, datetime, timedelta
from pathlib import Path

os.environ.setdefault("KERAS_BACKEND", "jax")

import keras
import numpy as np
from aeon.datasets import load_basic_motions
from keras import layers

SAMPLES, AXES = 100, 3
POSITIVE = "badminton"  # these cases start quietly, so the first seconds do not give them away
STREAMS = (2, 32, 11, 22, 36, 18)  # test cases in the recording, picked because the answer moves on the way
START = datetime(2026, 1, 1, 9, tzinfo=UTC)
DATA = Path(__file__).parents[2] / "src" / "stepstream" / "data" / "motions"


def network(every_step: bool) -> keras.Sequential:
    """The window model, or its twin that answers at every sample."""
    return keras.Sequential(
        [
            layers.Input((None if every_step else SAMPLES, AXES)),
            layers.LSTM(32, return_sequences=True),
            layers.LeakyReLU(),
            layers.Dropout(0.2),
            layers.LSTM(16, return_sequences=every_step),
            layers.Dropout(0.2),
            layers.LeakyReLU(),
            layers.Dense(1, activation="sigmoid"),
        ]
    )


def split(part: str) -> tuple[np.ndarray, np.ndarray]:
    """(cases, samples, axes) and the activities' names."""
    x, names = load_basic_motions(split=part)
    return np.ascontiguousarray(x[:, :AXES].transpose(0, 2, 1), np.float32), names


def auc(p: np.ndarray, y: np.ndarray) -> float:
    """Area under the ROC curve: the share of pairs that are in order."""
    pairs = p[y == 1][:, None] - p[y == 0][None]
    return float((pairs > 0).mean() + (pairs == 0).mean() / 2)


def record(x: np.ndarray, names: np.ndarray) -> None:
    """Write a few test cases as keyed streams, merged in time order."""
    rows = []
    for number, case in enumerate(STREAMS, 1):
        for t in range(SAMPLES):
            when = START + timedelta(milliseconds=100 * t + 13 * number)
            rows.append((when, f"wrist-{number:02d}", [f"{v:.6f}" for v in x[case, t]]))
    with (DATA / "recording.csv").open("w", newline="") as f:
        out = csv.writer(f, lineterminator="\n")
        out.writerow(["key", "time", "x", "y", "z"])
        for when, key, values in sorted(rows, key=lambda r: r[:2]):
            out.writerow([key, when.isoformat(timespec="milliseconds").replace("+00:00", "Z"), *values])
    labels = {f"wrist-{n:02d}": str(names[case]) for n, case in enumerate(STREAMS, 1)}
    (DATA / "labels.json").write_text(json.dumps(labels, indent=2) + "\n")


def main() -> None:
    keras.utils.set_random_seed(7)
    x, names = split("train")
    y = np.repeat((names == POSITIVE).astype(np.float32)[:, None, None], SAMPLES, axis=1)
    twin = network(every_step=True)
    twin.compile(optimizer=keras.optimizers.Adam(3e-3), loss="binary_crossentropy")
    # every fifth case of the training part says when to stop; the test part plays no role in training
    held = np.arange(len(x)) % 5 == 0
    stop = keras.callbacks.EarlyStopping(patience=40, restore_best_weights=True)
    twin.fit(
        x[~held],
        y[~held],
        validation_data=(x[held], y[held]),
        epochs=300,
        batch_size=8,
        callbacks=[stop],
        verbose=2,
    )

    keras.backend.clear_session()  # so that the kept model has Keras' plain layer names
    weights = twin.get_weights()
    model = network(every_step=False)
    model.set_weights(weights)
    DATA.mkdir(parents=True, exist_ok=True)
    model.save(DATA / "model.keras")

    x, names = split("test")
    record(x, names)
    truth = (names == POSITIVE).astype(int)
    p = twin.predict(x, verbose=0)[..., 0]  # (cases, samples)
    # the saved file, not only the twin, has to give the answer after a whole window
    saved = keras.saving.load_model(DATA / "model.keras").predict(x, verbose=0)[:, 0]
    np.testing.assert_allclose(saved, p[:, -1], atol=1e-5)
    print("samples seen  accuracy  AUC")
    for t in (1, 10, 25, 50, 100):
        print(f"{t:12d}  {((p[:, t - 1] > 0.5) == truth).mean():8.3f}  {auc(p[:, t - 1], truth):.3f}")
    for case in range(len(x)):  # what to look for in a recording
        changes = int((np.diff((p[case] > 0.5).astype(int)) != 0).sum())
        print(f"case {case:2d}  {names[case]:10s}  changes of mind {changes}")


if __name__ == "__main__":
    main()
