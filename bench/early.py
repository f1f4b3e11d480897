"""What `learn` is worth on public data, at every sample: python bench/early.py [--sets GunPoint] [--seeds 5] [--jobs 2]

    pip install '.[train]' aeon

Four sets of the UCR and UEA archives (Dau et al. 2019, arXiv:1810.07758; Bagnall et al. 2018, arXiv:1811.00075), as
the package `aeon` ships them, split as published. Everything is chosen inside the training part: loss, noise, random
starts and number of epochs by cross-validation (`learn.sweep`), the calibration and the trigger on the answers of
models that had not seen the sequence (`learn.out_of_fold`), the trigger's cost of delay by the harmonic mean that its
cross-validation gives, where it loses at most 0.05 of accuracy there. The test part is scored once, at the end.
Beside it TEASER (Schafer and Leser 2020) from aeon with its defaults, where it takes the set. Writes a table,
early.svg and early.json: means over the seeds, with standard errors.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any

for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[name] = "1"
os.environ["XLA_FLAGS"] = "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1"
os.environ.setdefault("KERAS_BACKEND", "jax")

import numpy as np
from aeon.datasets import load_classification

from stepstream.learn import plotting
from stepstream.learn.answers import probabilities
from stepstream.learn.calibration import calibrate
from stepstream.learn.cross_validation import sweep
from stepstream.learn.data import Sequences, sequences
from stepstream.learn.decision_rules import Cost
from stepstream.learn.recipe import Recipe
from stepstream.learn.training import train
from stepstream.learn.trigger import DELAYS, Trigger, fit_trigger
from stepstream.learn.unseen import out_of_fold

SETS = ("BasicMotions", "JapaneseVowels", "GunPoint", "ItalyPowerDemand")
SEEN = (0.05, 0.1, 0.25, 0.5, 0.75, 1.0)  # of a sequence
FOLDS = 5
LOST = 0.05  # of accuracy, by deciding early
RECIPE = Recipe(rate=0.003, batch=8, epochs=400)
Row = dict[str, Any]


def load(name: str, part: str) -> Sequences:
    """One part, as published."""
    X, y = load_classification(name, split=part)
    return sequences([np.ascontiguousarray(x.T, np.float32) for x in X], y)


def chosen(name: str) -> Recipe:
    """The recipe, by cross-validation inside the training part."""
    found = sweep(load(name, "train"), RECIPE, losses=("mean", "ramp"), k=FOLDS)
    for row in found.table():
        print(
            f"  {name}: {row['loss']}, noise {row['noise']}, starts {row['starts']}, {row['epochs']} epochs: "
            f"mean step loss {row['validation_loss']:.3f}",
            flush=True,
        )
    return found.best


def ours(name: str, recipe: Recipe, seed: int) -> Row:
    """Train, calibrate and decide with the training part, and score the test part."""
    begin = time.perf_counter()
    recipe, data = replace(recipe, seed=seed), load(name, "train")
    outside = out_of_fold(lambda part: train(part, recipe).model, data, FOLDS, seed)
    model = train(data, recipe).model
    calibration = calibrate(model, data, logits=outside.logits, folds=FOLDS, seed=seed)
    trigger = best_trigger(calibration.model, data, calibration.probabilities, seed)
    test = load(name, "test")
    raw, p = probabilities(model, test), probabilities(calibration.model, test)
    decided = trigger.score(test)
    labels = np.array([int(y) for y in test.y])
    out: Row = {f"accuracy at {share:.0%}": accuracy(p, labels, share) for share in SEEN}
    losses = [mean_loss(q, labels) for q in (raw, p)]
    out |= {
        "log loss": losses[0].mean(),
        "log loss, calibrated": losses[1].mean(),
        "gain by calibration": (losses[0] - losses[1]).mean(),
        "its error": (losses[0] - losses[1]).std(ddof=1) / len(labels) ** 0.5,
        "decided: accuracy": decided.accuracy,
        "decided: earliness": decided.earliness,
        "decided: harmonic mean": decided.harmonic_mean,
        "calibration": calibration.method,
        "trigger": trigger.family,
        "seconds": time.perf_counter() - begin,
    }
    return out


def best_trigger(model: Any, data: Sequences, answers: Any, seed: int) -> Trigger:
    """Of several costs of delay the one with the best harmonic mean, of those that lose little accuracy against waiting
    for the end; all in cross-validation.
    """
    found = [
        fit_trigger(model, data, probabilities=answers, cost=Cost(delay=delay), folds=FOLDS, seed=seed)
        for delay in DELAYS
    ]

    def worth(trigger: Trigger) -> tuple[bool, float]:
        score = trigger.report["cross_validated"]
        return score["accuracy"] >= score["accuracy_at_end"] - LOST, score["harmonic_mean"]

    return max(found, key=worth)


def accuracy(answers: Any, labels: Any, share: float) -> float:
    """After this share of each sequence, rounded up to whole samples."""
    top = [int(p[max(1, int(np.ceil(share * len(p)))) - 1].argmax()) for p in answers]
    return float((np.array(top) == labels).mean())


def mean_loss(answers: Any, labels: Any) -> Any:
    """Log loss of each sequence, the mean over its samples."""
    return np.array([-np.log(np.maximum(p[:, y], 1e-7)).mean() for p, y in zip(answers, labels, strict=True)])


def teaser(name: str, seed: int) -> Row:
    """TEASER with its defaults."""
    from aeon.classification.early_classification import TEASER

    begin = time.perf_counter()
    parts = [load_classification(name, split=part) for part in ("train", "test")]
    classifier = TEASER(random_state=seed)
    try:
        classifier.fit(*parts[0])
        harmonic_mean, right, earliness = classifier.score(*parts[1])
    except (TypeError, ValueError) as e:  # what it does not take
        return {"TEASER": f"{type(e).__name__}: {e}"}
    return {
        "TEASER: accuracy": float(right),
        "TEASER: earliness": float(earliness),
        "TEASER: harmonic mean": float(harmonic_mean),
        "TEASER: seconds": time.perf_counter() - begin,
    }


def summed(rows: list[Row]) -> Row:
    """Mean of numbers, and its standard error where there are several; counts of words."""
    out: Row = {}
    for name in rows[0]:
        values = [row[name] for row in rows]
        if isinstance(values[0], str):
            out[name] = {word: values.count(word) for word in dict.fromkeys(values)}
        else:
            out[name] = {"mean": float(np.mean(values))}
            if len(values) > 1:
                out[name]["error"] = float(np.std(values, ddof=1) / len(values) ** 0.5)
    return out


def shown(found: Row) -> str:
    if "mean" not in found:
        return ", ".join(f"{word} x {count}" for word, count in found.items())
    return f"{found['mean']:.3f}" + (f" +- {found['error']:.3f}" if "error" in found else "")


def draw(found: dict[str, Row], path: Path) -> None:
    """Accuracy by the share of a sequence that was seen; where our triggers decide (dots), and TEASER (crosses)."""
    with plotting.styled():
        figure = plotting.figure_of(7.5, 4)
        axis = figure.subplots()
        for (name, row), colour in zip(found.items(), plotting.COLOURS, strict=False):
            bars = [row[f"accuracy at {share:.0%}"] for share in SEEN]
            axis.errorbar(
                SEEN, [b["mean"] for b in bars], [b["error"] for b in bars], color=colour, label=name, capsize=2
            )
            for who, mark, size in (("decided", "o", 9), ("TEASER", "X", 10)):
                if f"{who}: accuracy" in row:
                    at = [row[f"{who}: {what}"]["mean"] for what in ("earliness", "accuracy")]
                    axis.plot(*at, mark, color=colour, markersize=size, markeredgecolor="white", zorder=3)
        for mark, label in (("o", "decided"), ("X", "decided, TEASER")):
            axis.plot([], [], mark, color=plotting.GREY, markersize=9, label=label)
        axis.set(xlabel="share of the sequence seen", ylabel="accuracy", xlim=(0, 1.02), ylim=(0.3, 1.02))
        axis.legend(loc="lower right", ncols=2)
        figure.savefig(path, metadata={"Date": None})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sets", nargs="+", default=SETS)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--teaser", type=int, default=1, help="seeds of TEASER, which takes minutes for one")
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--out", type=Path, default=Path())
    options = parser.parse_args()
    with ProcessPoolExecutor(options.jobs, get_context("spawn")) as pool:
        recipes = dict(zip(options.sets, pool.map(chosen, options.sets), strict=True))
        jobs: dict[str, list[Any]] = {}
        for name in options.sets:
            jobs[name] = [pool.submit(ours, name, recipes[name], seed) for seed in range(options.seeds)]
        others = {name: [pool.submit(teaser, name, seed) for seed in range(options.teaser)] for name in options.sets}
        found: Row = {}
        for name in options.sets:
            found[name] = {"recipe": recipes[name].to_dict(), **summed([job.result() for job in jobs[name]])}
            if others[name]:
                found[name] |= summed([job.result() for job in others[name]])
            r = recipes[name]
            print(f"\n{name}: {r.loss}, noise {r.noise}, starts {r.starts}, {r.epochs} epochs")
            for what, value in found[name].items():
                if what != "recipe":
                    print(f"  {what:<28}{shown(value)}", flush=True)
            (options.out / "early.json").write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
            draw(found, options.out / "early.svg")


if __name__ == "__main__":
    main()
