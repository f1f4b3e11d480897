"""Is the room occupied? Trained on one recording, streamed on two others: python bench/occupancy.py FOLDER

Needs: pip install 'stepstream[train]' scikit-learn

FOLDER holds datatraining.txt, datatest.txt and datatest2.txt of the occupancy detection data (Candanedo and Feldheim
2016, UCI Machine Learning Repository): temperature, humidity, light, CO2 and humidity ratio, minute by minute, and
whether somebody was there. A network that was trained on windows of an hour from a zero state, and one whose state was
carried on in training; each carried, cut and sliding; beside a logistic regression on each sample alone, of the same
days and with the day that the networks were stopped by. By age, in Markdown. What to train was chosen on the training
recording alone: the last day of it is held out to stop by.
"""

from __future__ import annotations

import os
import sys
from itertools import pairwise
from pathlib import Path

os.environ.setdefault("KERAS_BACKEND", "jax")

import numpy as np
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from stepstream.graph.ir import Array
from stepstream.learn.answers import probabilities
from stepstream.learn.data import Sequences, sequences
from stepstream.learn.recipe import Recipe
from stepstream.learn.training import train

FEATURES = ("temperature", "humidity", "light", "CO2", "humidity ratio")
HOUR, DAY = 60, 24 * 60
ROUND = {"rate": 0.003, "batch": 16, "epochs": 60, "patience": 10}
RECIPES = {
    "windows of 60": Recipe(window=HOUR, **ROUND),
    "states carried": Recipe(truncated=HOUR, dropout=0, **ROUND),
}
AGES = (1, 61, 121, 481, 1441, 10**9)  # from each up to the next


def recording(path: Path) -> tuple[Array, Array]:
    """Samples (time, 5) and whether somebody was there (time,)."""
    rows = np.loadtxt(path, delimiter=",")
    return rows[:, :5].astype(np.float32), rows[:, 5].astype(np.int64)


def days(x: Array, y: Array) -> Sequences:
    """A recording as one stream for each day."""
    cuts = range(DAY, len(x), DAY)
    return sequences(np.split(x, cuts), np.split(y, cuts), features=FEATURES)


def row(name: str, p: Array, y: Array) -> None:
    """Accuracy, balanced accuracy and log loss over all, and accuracy by age."""
    right, recalls = (p > 0.5) == y, [((p > 0.5) == y)[y == c].mean() for c in (0, 1)]
    loss = -np.log(np.maximum(np.where(y == 1, p, 1 - p), 1e-7)).mean()
    ages = np.arange(1, len(y) + 1)
    parts = [right[(ages >= a) & (ages < b)].mean() for a, b in pairwise(AGES)]
    figures = [right.mean(), np.mean(recalls), loss, *parts]
    print(f"| {name} | " + " | ".join(f"{f:.3f}" for f in figures) + " |", flush=True)


def main(folder: Path) -> None:
    x, y = recording(folder / "datatraining.txt")
    data = days(x, y)
    rest, last = data.some(range(len(data) - 1)), data.some([len(data) - 1])
    models = {name: train(rest, r, validation=last).model for name, r in RECIPES.items()}
    plain = {
        f"logistic regression, each sample alone, {what}": make_pipeline(
            StandardScaler(), LogisticRegression(max_iter=1000)
        ).fit(np.concatenate(part.x), np.concatenate(part.y))
        for what, part in (("the same days", rest), ("with the last day, too", data))
    }
    titles = ["accuracy", "balanced", "log loss", *(f"age {a} on" for a in AGES[:-1])]
    for name in ("datatest.txt", "datatest2.txt"):
        x, y = recording(folder / name)
        print(f"\n{name}, {len(y)} samples\n\n| | " + " | ".join(titles) + " |")
        print("| --- |" + " ---: |" * len(titles))
        for trained, model in models.items():
            for windowing in ("carry", f"tumbling({HOUR})", f"sliding({HOUR})"):
                (p,) = probabilities(model, sequences([x], [y], features=FEATURES), windowing)
                row(f"{trained}, {windowing}", p[:, 1], y)
        for what, alone in plain.items():
            row(what, alone.predict_proba(x)[:, 1], y)
        row("nobody, ever", np.zeros(len(y)), y)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
