"""What one sample costs: ours and Keras' stateful twin, interleaved in one process, answers compared first.

    KERAS_BACKEND=torch python bench/step.py [rounds]

The network is the packaged one. Keras is called in the two ways that people use, `model(x)` and `predict_on_batch(x)`;
a way whose answers are not those of the whole network is named and not timed.
"""

from __future__ import annotations

import os
import statistics
import sys
from collections.abc import Callable
from importlib.resources import files
from time import perf_counter

os.environ.setdefault("KERAS_BACKEND", "torch")

import keras
import numpy as np
from keras import layers

import stepstream

CALLS = 20  # per round and way


def prefixes(model: keras.Model) -> keras.Model:
    """The same network without its fixed number of samples."""
    free = keras.Sequential([layers.Input((None, 3)), *model.layers])
    free.set_weights(model.get_weights())
    return free


def stateful_twin(model: keras.Model) -> keras.Model:
    """The same network for one sample at a time, weights copied by hand, as people do today."""
    twin = keras.Sequential(
        [
            layers.Input((1, 3), batch_size=1),
            layers.LSTM(32, return_sequences=True, stateful=True),
            layers.LeakyReLU(),
            layers.LSTM(16, stateful=True),
            layers.LeakyReLU(),
            layers.Dense(1, activation="sigmoid"),
        ]
    )
    twin.set_weights(model.get_weights())
    return twin


def main(rounds: int) -> None:
    path = files("stepstream") / "data" / "motions" / "model.keras"
    stream = stepstream.load(path).stream("carry")
    window = prefixes(keras.saving.load_model(str(path)))
    twin = stateful_twin(window)
    x = np.random.default_rng(0).normal(size=(100, 3)).astype(np.float32)

    samples = [sample.tolist() for sample in x]
    batches = [sample[None, None] for sample in x]
    writer = f"Keras {keras.__version__} on {keras.backend.backend()}"
    ways: dict[str, Callable[[int], object]] = {
        "stepstream, step(list)": lambda n: stream.step(samples[n % 100]),
        f"{writer}, model(x)": lambda n: np.asarray(keras.ops.convert_to_numpy(twin(batches[n % 100]))),
        f"{writer}, predict_on_batch(x)": lambda n: twin.predict_on_batch(batches[n % 100]),
    }
    whole = [float(window.predict_on_batch(x[None, : t + 1])[0, 0]) for t in range(20)]
    for name, call in list(ways.items()):
        stream.reset()
        twin.layers[0].reset_states()
        twin.layers[2].reset_states()
        off = max(abs(float(np.ravel(call(t))[0]) - whole[t]) for t in range(20))
        if off > 1e-5:
            print(f"{name:45s} wrong answers, off by up to {off:.2g}: not timed")
            del ways[name]
    times: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(rounds):
        for name, call in ways.items():
            start = perf_counter()
            for n in range(CALLS):
                call(n)
            times[name].append((perf_counter() - start) / CALLS)
    first = statistics.median(next(iter(times.values())))
    for name, values in times.items():
        median = statistics.median(values)
        print(f"{name:45s} {median * 1e6:9.1f} us a sample, {median / first:6.1f} times ours")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 20)
