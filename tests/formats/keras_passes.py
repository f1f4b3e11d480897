"""Forward passes in float64 over raw arrays, plain NumPy: they share nothing with the package.

Sources: Hochreiter & Schmidhuber 1997 (LSTM), Cho et al. 2014 (GRU), Ioffe & Szegedy 2015 (batch normalisation).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

Array = np.ndarray


def sigmoid(x: Array) -> Array:
    return 1 / (1 + np.exp(-x))


def hard_sigmoid_02(x: Array) -> Array:
    """Of Keras 1 and 2."""
    return np.clip(0.2 * x + 0.5, 0, 1)


def hard_sigmoid_6(x: Array) -> Array:
    """Of Keras 3."""
    return np.clip(x / 6 + 0.5, 0, 1)


def softmax(x: Array) -> Array:
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def leaky(slope: float) -> Callable[[Array], Array]:
    return lambda x: np.where(x > 0, x, slope * x)


def scan(cell: Callable, x: Array, states: list[Array], mask: Array | None = None, y: Array | None = None) -> Any:
    """x (b, t, f) -> outputs (b, t, u) and last states. A masked sample keeps the states and repeats the output.

    y: what is repeated before the first sample that counts, zeros if not given.
    """
    y = np.zeros_like(states[0]) if y is None else y
    out = []
    for t in range(x.shape[1]):
        keep = np.ones((len(x), 1), bool) if mask is None else mask[:, t, None]
        new = cell(x[:, t], states)
        states = [np.where(keep, n, s) for n, s in zip(new, states, strict=True)]
        y = np.where(keep, new[0], y)
        out.append(y)
    return np.stack(out, 1), states


def zeros(x: Array, units: int, count: int) -> list[Array]:
    return [np.zeros((len(x), units))] * count


def lstm_cell(gates: dict[str, tuple], gate: Callable, act: Callable = np.tanh) -> Callable:
    """gates: i, f, c, o -> (W, U, b)."""

    def cell(x: Array, states: list[Array]) -> list[Array]:
        h, c = states
        z = {k: x @ w + h @ u + b for k, (w, u, b) in gates.items()}
        c = gate(z["f"]) * c + gate(z["i"]) * act(z["c"])
        return [gate(z["o"]) * act(c), c]

    return cell


def gru_cell(gates: dict[str, tuple], gate: Callable, after: bool = False, act: Callable = np.tanh) -> Callable:
    """gates: z, r, h -> (W, U, b) or, with a bias of the recurrent half, (W, U, b, b recurrent)."""

    def cell(x: Array, states: list[Array]) -> list[Array]:
        (h,) = states
        inputs = {k: x @ g[0] + g[2] for k, g in gates.items()}
        back = {k: g[1:2] + g[3:] for k, g in gates.items()}
        z, r = (gate(inputs[k] + h @ back[k][0] + sum(back[k][1:])) for k in "zr")
        u, *b = back["h"]
        candidate = act(inputs["h"] + (r * (h @ u + sum(b)) if after else (r * h) @ u))
        return [z * h + (1 - z) * candidate]

    return cell


def simple_cell(w: Array, u: Array, b: Array, act: Callable = np.tanh) -> Callable:
    return lambda x, states: [act(x @ w + states[0] @ u + b)]


def split(names: str, *arrays: Array) -> dict[str, tuple]:
    """Fused arrays to one tuple for each gate."""
    return dict(zip(names, zip(*(np.split(a, len(names), -1) for a in arrays), strict=True), strict=True))


def lstm(x: Array, w: list[Array], gate: Callable, mask: Array | None = None, act: Callable = np.tanh) -> Array:
    return scan(lstm_cell(split("ifco", *w), gate, act), x, zeros(x, w[1].shape[0], 2), mask)[0]


def gru(x: Array, w: list[Array], gate: Callable, mask: Array | None = None) -> Array:
    kernel, recurrent, bias = w
    after = bias.ndim == 2
    parts = split("zrh", kernel, recurrent, *(bias if after else [bias]))
    return scan(gru_cell(parts, gate, after), x, zeros(x, recurrent.shape[0], 1), mask)[0]


def simple(x: Array, w: list[Array], mask: Array | None = None) -> Array:
    return scan(simple_cell(*w), x, zeros(x, w[1].shape[0], 1), mask)[0]


def batch_norm(x: Array, gamma: Array, beta: Array, mean: Array, variance: Array) -> Array:
    return (x - mean) / np.sqrt(variance + 1e-3) * gamma + beta


def from_cudnn(kernel: Array, recurrent: Array, gates: int) -> list[Array]:
    """cuDNN holds every gate's matrices the other way round."""
    units = len(recurrent)
    kernels = [k.reshape(-1).reshape(units, len(kernel)).T for k in np.split(kernel, gates, -1)]
    return [np.concatenate(kernels, -1), np.concatenate([u.T for u in np.split(recurrent, gates, -1)], -1)]
