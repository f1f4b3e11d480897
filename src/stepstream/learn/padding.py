"""The way without a state, to compare with: windows filled up with zeros, and a whole pass at every sample."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from stepstream.graph.ir import Array
from stepstream.graph.passes import input_scale
from stepstream.learn.answers import probabilities
from stepstream.learn.by_step import Row, row
from stepstream.learn.data import Sequences
from stepstream.model import Model

MAX_POINTS = 12  # numbers of samples seen, each of which costs a whole pass over all sequences
MAX_STEPS = 20_000_000  # of the model in all; of more sequences the first so many, but some at least
LEAST = 20


def padded(model: Model, data: Sequences, n: int, at: Sequence[int]) -> dict[str, tuple[Row, ...]]:
    """The answer of the whole pass on windows of n samples of which s have come: {"zeros behind": ..., "in front"}.

    data: as `matched` makes them. at: the numbers s, up to n. Where the model scales its input, the window is filled
    with what it scales to 0, as it would be behind a scaler of one's own.
    """
    at = [s for s in at if s <= n]
    if len(at) > MAX_POINTS:
        at = sorted({at[i] for i in np.linspace(0, len(at) - 1, MAX_POINTS).round().astype(int)})
    most = max(LEAST, MAX_STEPS // (2 * n * max(1, len(at))))
    data = data.some(range(min(len(data), most)))
    zero = _zero(model)
    found: dict[str, list[Row]] = {"zeros behind": [], "zeros in front": []}
    for s in at:
        whole = data.some(i for i, x in enumerate(data.x) if len(x) >= s) if (data.lengths >= s).any() else None
        if whole is None:
            continue
        labels = [y[s - 1 : s] if data.per_sample else y for y in whole.y]
        for where, rows in found.items():
            windows = []
            for x in whole.x:
                window = np.tile(zero, (n, 1))
                window[slice(0, s) if where == "zeros behind" else slice(n - s, n)] = x[:s]
                windows.append(window)
            answers = _last(model, whole, windows)
            each = zip(whole.streams, labels, answers, strict=True)
            made = row(data, [(stream, y, p, 0.0) for stream, y, p in each], s, s)
            made.figures.pop("changes", None)  # each answer stands alone
            rows.append(made)
    return {where: tuple(rows) for where, rows in found.items()}


def _zero(model: Model) -> Array:
    """float32 (features,): what is 0 behind the scale that stands at the input."""
    scale = input_scale(model.graph)
    return np.zeros(model.n_features, np.float32) if scale is None else scale[0].astype(np.float32)


def _last(model: Model, data: Sequences, windows: list[Array]) -> list[Array]:
    """(1, classes) each: the answer at the end of each window."""
    label = np.float32(0) if data.classes is None else np.int64(0)
    nothing = tuple(np.asarray(label) for _ in windows)
    given = replace(data, x=tuple(windows), y=nothing, per_sample=False)
    return [p[-1:] for p in probabilities(model, given)]
