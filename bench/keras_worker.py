"""Keras in a process of its own, since a process has one back end. Takes orders on stdin, answers on stdout, in JSON.

    {"do": "make", "network": "S"}                      -> {"writer": "Keras 3.15 on torch", "ways": [...]}
    {"do": "answers", "way": "model(x)", "count": 20}  -> {"y": [...]}
    {"do": "time", "way": "model(x)", "calls": 20}     -> {"seconds": ...}, of one call

Two ways step a stateful twin; two answer after every sample on the last 7 or 100, recomputed, with zeros in front
until there are as many.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from time import perf_counter
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
out, sys.stdout = sys.stdout, sys.stderr  # whatever a framework prints

import keras
import numpy as np
from keras import layers
from networks import SLOPE, Network, networks

X = np.random.default_rng(1).normal(size=(200, 64)).astype(np.float32)


def build(network: Network, shape: tuple[int | None, ...], batch: int | None) -> Any:
    model = keras.Sequential([layers.Input(shape, batch_size=batch)])
    last = len(network.units) - 1
    for i, u in enumerate(network.units):
        layer = layers.LSTM if network.layers[i][0] == "lstm" else layers.GRU
        model.add(layer(u, return_sequences=i < last, stateful=batch is not None))
        if network.leaky:
            model.add(layers.LeakyReLU(negative_slope=SLOPE))
    model.add(layers.Dense(1, activation="sigmoid"))
    model.set_weights([v for _, w in network.layers for v in w.values()])
    return model


def ways(network: Network, twin: Any) -> dict[str, Callable[[int], Any]]:
    f, window = network.features, build(network, (None, network.features), None)

    def padded(t: int, n: int) -> Any:
        x = X[max(0, t + 1 - n) : t + 1, :f]
        return window.predict_on_batch(np.concatenate([np.zeros((n - len(x), f), np.float32), x])[None])

    return {
        "predict_on_batch": lambda t: twin.predict_on_batch(X[None, t : t + 1, :f]),
        "model(x)": lambda t: keras.ops.convert_to_numpy(twin(X[None, t : t + 1, :f])),
        "7 samples, zeros in front, recomputed": lambda t: padded(t, 7),
        "100 samples, zeros in front, recomputed": lambda t: padded(t, 100),
    }


def main() -> None:
    made: dict[str, Callable[[int], Any]] = {}
    twin: Any = None
    for line in sys.stdin:
        order = json.loads(line)
        if order["do"] == "make":
            network = networks()[order["network"]]
            twin = build(network, (1, network.features), 1)
            made = ways(network, twin)
            answer: dict[str, Any] = {
                "writer": f"Keras {keras.__version__} on {keras.backend.backend()}", "ways": list(made),
            }  # fmt: skip
        elif order["do"] == "answers":
            for layer in twin.layers:
                if getattr(layer, "stateful", False):
                    layer.reset_states()
            answer = {"y": [float(np.ravel(made[order["way"]](t))[0]) for t in range(order["count"])]}
        else:
            start = perf_counter()
            for t in range(order["calls"]):
                made[order["way"]](t % len(X))
            answer = {"seconds": (perf_counter() - start) / order["calls"]}
        print(json.dumps(answer), file=out, flush=True)


if __name__ == "__main__":
    main()
