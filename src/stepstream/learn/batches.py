"""Sequences as training sees them: scaled rows with a label and a weight for every sample, in batches of one shape."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import final

import numpy as np

from stepstream.errors import InputError
from stepstream.graph.ir import Array
from stepstream.learn.data import Sequences
from stepstream.learn.recipe import Recipe
from stepstream.learn.scaling import Scaling


@final
@dataclass(frozen=True)
class Rows:
    """x: float32 (time_i, features), scaled. y: float32 (time_i,), a label for every sample. w: float32 (time_i,), the
    weights of the loss; those of one window sum to 1. c: float32 (time_i,), the weight of each label's class.
    """

    x: list[Array]
    y: list[Array]
    w: list[Array]
    c: list[Array]

    @property
    def longest(self) -> int:
        return max(len(x) for x in self.x)

    @property
    def ragged(self) -> bool:
        return len({len(x) for x in self.x}) > 1


@final
@dataclass(frozen=True)
class Batch:
    """x: float32 (b, time, features). y, w, c: float32 (b, time). there: bool (b, time). rows: which rows stand in it;
    what is behind them, up to b, has no weight, as has the padding behind a row's end.
    """

    x: Array
    y: Array
    w: Array
    c: Array
    there: Array
    rows: Array


def step_weights(length: int, loss: str) -> Array:
    """Weights of a window's samples, float32 (length,) with the sum 1."""
    if loss == "last":
        w = np.zeros(length)
        w[-1] = 1
    else:
        w = np.ones(length) if loss == "mean" else np.arange(1.0, length + 1)
    return (w / w.sum()).astype(np.float32)


def class_weights(found: Rows, data: Sequences, recipe: Recipe) -> Array:
    """float32 (classes,): "balanced" gives each class the same weight in all rows together."""
    given = recipe.class_weights
    if data.classes is None:
        raise InputError(f"class_weights: expected none for regression, got {given!r}")
    if isinstance(given, Mapping):
        if set(given) != set(data.classes):
            raise InputError(f"class_weights: expected one for each of {', '.join(data.classes)}, got {list(given)}")
        return np.array([given[name] for name in data.classes], np.float32)
    k = len(data.classes)
    sums = np.bincount(np.concatenate(found.y).astype(int), np.concatenate(found.w).astype(np.float64), k)
    return np.divide(sums.sum(), k * sums, where=sums > 0, out=np.zeros(k)).astype(np.float32)


def rows(data: Sequences, recipe: Recipe, scale: Scaling, validation: bool = False) -> Rows:
    """The windows of `data`; under `truncated` the windows of a stream are joined in their order to one long row.

    validation: all samples and classes weigh the same, whatever the recipe says.
    """
    mean, std = scale.mean.astype(np.float32), scale.std.astype(np.float32)  # as the model that is served has them
    out = Rows([], [], [], [])
    joined: dict[str, list[tuple[Array, ...]]] = {}
    for x, y, stream in zip(data.x, data.y, data.streams, strict=True):
        size = recipe.window or len(x)
        labels = np.broadcast_to(y, len(x)).astype(np.float32)
        for at in range(0, len(x), size):
            window, label = ((x[at : at + size] - mean) / std), labels[at : at + size]
            c = np.ones(len(window), np.float32)
            w = step_weights(len(window), "mean" if validation else recipe.loss)
            if recipe.truncated is not None:
                # a stream counts as much as it has windows
                joined.setdefault(stream, []).append((window, label, w, c))
            else:
                for column, part in zip((out.x, out.y, out.w, out.c), (window, label, w, c), strict=True):
                    column.append(part)
    for parts in joined.values():
        for column, whole in zip((out.x, out.y, out.w, out.c), zip(*parts, strict=True), strict=True):
            column.append(np.concatenate(whole))
    if recipe.class_weights is not None and not validation:
        weights = class_weights(out, data, recipe)
        out.c[:] = [weights[y.astype(int)] for y in out.y]
    return out


def batch(rows: Rows, chosen: Array, size: int, time: int) -> Batch:
    """These rows, filled up to `size` with some of them that have no weight, so that statistics of a batch are those of
    rows; and each up to `time` samples with zeros.
    """
    out = Batch(
        np.zeros((size, time, rows.x[0].shape[1]), np.float32),
        y=np.zeros((size, time), np.float32),
        w=np.zeros((size, time), np.float32),
        c=np.zeros((size, time), np.float32),
        there=np.zeros((size, time), bool),
        rows=chosen,
    )
    for i, row in enumerate(np.resize(chosen, size)):
        for to, values in ((out.x, rows.x), (out.y, rows.y), (out.w, rows.w), (out.c, rows.c)):
            to[i, : len(values[row])] = values[row]
        out.there[i, : len(rows.x[row])] = True
    out.w[len(chosen) :] = 0
    return out


def batches(rows: Rows, recipe: Recipe, rng: np.random.Generator) -> Iterator[Batch]:
    """One epoch: all rows in random order, some of them cut where the recipe says so, all of one shape."""
    size = min(recipe.batch, len(rows.x))
    order = rng.permutation(len(rows.x))
    for at in range(0, len(order), size):
        out = batch(rows, order[at : at + size], size, rows.longest)
        if recipe.prefixes or recipe.starts:
            _cut(out, rows, recipe, rng)
        yield out


def _cut(out: Batch, rows: Rows, recipe: Recipe, rng: np.random.Generator) -> None:
    for i, row in enumerate(out.rows):
        length = len(rows.x[row])
        begins, first, ends, last = rng.random(4)
        start = int(first * (length + 1) / 2) if begins < recipe.starts else 0
        stop = start + 1 + int(last * (length - start)) if ends < recipe.prefixes else length
        n = stop - start
        for to, values in ((out.x, rows.x), (out.y, rows.y), (out.c, rows.c)):
            to[i, :n], to[i, n:] = values[row][start:stop], 0
        out.w[i, :n], out.w[i, n:] = step_weights(n, recipe.loss), 0
        out.there[i, n:] = False


def noisy(x: Array, recipe: Recipe, rng: np.random.Generator) -> Array:
    """x with the recipe's noise."""
    if not recipe.noise:
        return x
    return x + rng.standard_normal(x.shape, np.float32) * np.float32(recipe.noise)
