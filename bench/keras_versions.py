"""Networks built and saved by tf-keras, where the meanings of Keras 2 live on, read here and compared with its answers.

Each is read from memory, HDF5, an archive, and weights beside the architecture; all must give tf-keras' own numbers.
Needs `pip install tf-keras tensorflow-cpu`.  python bench/keras_versions.py
"""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
os.environ["CUDA_VISIBLE_DEVICES"] = ""

import numpy as np
import tf_keras as keras
from tf_keras import layers

import stepstream

TIME, FEATURES = 7, 3
INPUT = (TIME, FEATURES)


def networks() -> Iterator[tuple[str, Callable[[], keras.Model]]]:
    """Where the generations differ."""

    def chain(*inner: layers.Layer) -> Callable[[], keras.Model]:
        return lambda: keras.Sequential([layers.Input(INPUT), *inner])

    def functional(build: Callable[[keras.KerasTensor], object]) -> Callable[[], keras.Model]:
        x = layers.Input(INPUT)
        return lambda: keras.Model(x, build(x))

    for gate in ("hard_sigmoid", "sigmoid"):
        yield f"LSTM, {gate}", chain(layers.LSTM(5, recurrent_activation=gate))
    for after in (True, False):
        yield f"GRU, reset_after={after}", chain(layers.GRU(5, reset_after=after, recurrent_activation="hard_sigmoid"))
    yield "SimpleRNN, LeakyReLU", chain(layers.SimpleRNN(5, return_sequences=True), layers.LeakyReLU(), layers.Dense(2))
    yield (
        "normalisation",
        chain(
            layers.BatchNormalization(),
            layers.LSTM(4, return_sequences=True),
            layers.LayerNormalization(),
            layers.GRU(3),
        ),
    )
    yield "cells", chain(layers.RNN(layers.StackedRNNCells([layers.LSTMCell(4), layers.GRUCell(3)])))
    yield "functions of TensorFlow", chain(layers.GRU(4), layers.Dense(9, "relu6"), layers.Dense(2, "leaky_relu"))
    yield "Masking", chain(layers.Masking(), layers.LSTM(4, return_sequences=True), layers.GRU(3), layers.Dense(1))
    yield "Flatten", chain(layers.LSTM(4, return_sequences=True), layers.Flatten(), layers.Dense(2, "sigmoid"))

    def masked_merge(kind: type[layers.Layer]) -> Callable[[keras.KerasTensor], object]:
        def build(x: keras.KerasTensor) -> object:
            a = layers.LSTM(4, return_sequences=True)(layers.Masking()(x))
            b = layers.GRU(4, return_sequences=True)(layers.Masking(mask_value=0.5)(x))
            return layers.LSTM(3)(kind()([a, b]))

        return build

    for name in ("Add", "Multiply", "Average", "Maximum", "Minimum", "Subtract", "Concatenate"):
        yield f"masks in {name}", functional(masked_merge(getattr(layers, name)))

    def nested(x: keras.KerasTensor) -> object:
        inner = keras.Sequential([layers.Input(INPUT), layers.BatchNormalization(), layers.Dense(4), layers.Dense(4)])
        inner.layers[1].trainable = False  # another order of the arrays in HDF5
        return layers.LSTM(3)(layers.Add()([inner(x), layers.Dense(4)(x)]))

    yield "a model inside, a frozen layer", functional(nested)

    def shared(x: keras.KerasTensor) -> object:
        layer = layers.GRU(FEATURES, return_sequences=True)
        return layers.LSTM(3)(layers.Subtract()([layer(x), layer(layer(x))]))

    yield "a shared layer", functional(shared)


def weigh(model: keras.Model) -> None:
    """Weights that matter, the same in every run."""
    rng = np.random.default_rng(0)
    values = [np.abs(rng.normal(size=w.shape)) if "variance" in v.name else rng.normal(size=w.shape)
              for v, w in zip(model.weights, model.get_weights(), strict=True)]  # fmt: skip
    model.set_weights(values)


def samples() -> np.ndarray:
    x = np.random.default_rng(1).normal(size=(4, *INPUT)).astype(np.float32)
    x[0, 2], x[1, 0], x[2, 6], x[3, 3:5] = 0, 0, 0.5, 0.5  # masked by one Masking or the other
    return x


def read(model: keras.Model, folder: Path) -> Iterator[tuple[str, stepstream.Model]]:
    yield "in memory", stepstream.load(model)
    for name in ("whole.h5", "whole.keras"):
        model.save(folder / name)
        yield name, stepstream.load(folder / name)
    model.save_weights(folder / "weights.h5")
    yield "weights and architecture", stepstream.load(folder / "weights.h5", architecture=model.to_json())


def main() -> int:
    wrong, x = 0, samples()
    with tempfile.TemporaryDirectory() as folder:
        for name, build in networks():
            keras.backend.clear_session()
            model = build()
            weigh(model)
            theirs = np.asarray(model(x))
            for form, ours in read(model, Path(folder)):
                error = float(np.abs(ours.run(x) - theirs).max()) if ours.check().ok else float("inf")
                wrong += error > 1e-5
                print(f"{'ok   ' if error <= 1e-5 else 'WRONG'} {name}: {form}: {error:.1e}", flush=True)
    print(f"{wrong} wrong")
    return min(1, wrong)


if __name__ == "__main__":
    sys.exit(main())
