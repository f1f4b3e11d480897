"""Small Keras models, each with its twin that returns sequences. Run as a script: compare all of them with ours.

One pass of the twin gives the answers for all prefixes. `KERAS_BACKEND` chooses the back end before Keras is imported,
so a test starts this file once for each.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator

import keras
import numpy as np
from keras import layers

import stepstream
from stepstream.testing import compare, stepped, yardstick

RECURRENT = {"lstm": layers.LSTM, "gru": layers.GRU, "simple_rnn": layers.SimpleRNN}
ACTIVATIONS = [
    "linear",
    "tanh",
    "sigmoid",
    "sparse_sigmoid",
    "hard_sigmoid",
    "relu",
    "relu6",
    "leaky_relu",
    "elu",
    "celu",
    "selu",
    "softplus",
    "log_sigmoid",
    "mish",
    "softsign",
    "silu",
    "swish",
    "hard_silu",
    "hard_swish",
    "gelu",
    "squareplus",
    "sparse_plus",
    "soft_shrink",
    "hard_shrink",
    "tanh_shrink",
    "hard_tanh",
    "exponential",
    "softmax",
    "log_softmax",
    "sparsemax",
]
MOVES = 0.2
Build = Callable[[bool], list]  # whether every layer returns its sequence -> layers


def chains() -> Iterator[tuple[str, tuple[int, ...], Build]]:
    """(name, (time, features), layers of the model or of its twin)."""
    for kind, cls in RECURRENT.items():
        for activation in ACTIVATIONS:
            yield (
                f"{kind}-{activation}",
                (9, 3),
                lambda seq, cls=cls, a=activation: [cls(5, activation=a, return_sequences=seq)],
            )
        if kind != "simple_rnn":
            for gate in ("hard_sigmoid", "sigmoid", "tanh", "softmax"):
                yield (
                    f"{kind}-gate-{gate}",
                    (9, 3),
                    lambda seq, cls=cls, g=gate: [cls(5, recurrent_activation=g, return_sequences=seq)],
                )
        yield f"{kind}-plain", (9, 3), lambda seq, cls=cls: [cls(5, use_bias=False, return_sequences=seq)]
        yield (
            f"{kind}-options",
            (9, 3),
            lambda seq, cls=cls: [cls(5, unroll=True, dropout=0.3, recurrent_dropout=0.2, return_sequences=seq)],
        )
        yield (
            f"{kind}-stacked",
            (9, 3),
            lambda seq, cls=cls: [
                cls(17, return_sequences=True),
                layers.BatchNormalization(),
                layers.TimeDistributed(layers.Dense(6, activation="gelu")),
                layers.LayerNormalization(),
                layers.SpatialDropout1D(0.1),
                cls(8, return_sequences=True),
                layers.PReLU(shared_axes=[1]),
                cls(4, return_sequences=seq),
                layers.Dense(3, activation="softmax"),
            ],
        )
        yield (
            f"{kind}-embedding",
            (9,),
            lambda seq, cls=cls: [layers.Embedding(11, 6), cls(5, return_sequences=seq), layers.Dense(2)],
        )
    yield "gru-reset-before", (9, 3), lambda seq: [layers.GRU(5, reset_after=False, return_sequences=seq)]
    yield (
        "gru-reset-before-plain",
        (9, 3),
        lambda seq: [layers.GRU(5, reset_after=False, use_bias=False, return_sequences=seq)],
    )
    yield (
        "layers",
        (9, 3),
        lambda seq: [
            layers.Normalization(mean=[0.1, 0.2, 0.3], variance=[0.5, 1.0, 2.0]),
            layers.Rescaling(0.5, offset=0.1),
            layers.GaussianNoise(0.1),
            layers.Dense(6),
            layers.ReLU(max_value=2.0, negative_slope=0.1, threshold=0.05),
            layers.LSTM(6, return_sequences=True),
            layers.LayerNormalization(center=False, scale=False),
            layers.ELU(alpha=0.7),
            layers.Rescaling(1.0, offset=0.7),
            layers.LayerNormalization(rms_scaling=True),
            layers.GaussianDropout(0.1),
            layers.Softmax(),
            layers.AlphaDropout(0.1),
            layers.BatchNormalization(scale=False),
            layers.ActivityRegularization(0.1),
            layers.Activation("mish"),
            layers.Dense(6, activation=layers.LeakyReLU(negative_slope=0.15)),
            layers.TimeDistributed(layers.Activation("softplus")) if seq else layers.Activation("softplus"),
            layers.GRU(4, return_sequences=True),
            layers.Dropout(0.5),
            layers.LSTM(5, return_sequences=seq),
            layers.Dense(4, activation="glu"),
        ],
    )
    for time in (7, 100):
        yield f"question-{time}", (time, 3), question


def question(every_step: bool) -> list:
    return [
        layers.LSTM(32, return_sequences=True),
        layers.LeakyReLU(),
        layers.Dropout(0.2),
        layers.LSTM(16, return_sequences=every_step),
        layers.Dropout(0.2),
        layers.LeakyReLU(),
        layers.Dense(1, activation="sigmoid"),
    ]


def build(chain: Build, shape: tuple[int, ...], functional: bool) -> tuple[keras.Model, keras.Model]:
    """The window model, and its twin with the same weights, large enough that the outputs move."""
    model = keras.Sequential([layers.Input(shape), *chain(False)])
    if functional:
        x = y = layers.Input(shape)
        for layer in chain(False):
            y = layer(y)
        model = keras.Model(x, y)
    twin = keras.Sequential([layers.Input((None, *shape[1:])), *chain(True)])
    for scale in (0.3, 0.6, 1.2, 2.5, 5.0):
        rng = np.random.default_rng(1)
        # nothing of Keras' own random start: the same numbers in every run and on every back end
        values = [np.asarray(w) for w in model.get_weights()]
        noise = [rng.normal(size=v.shape) * scale for v in values]
        values = [4 * n / np.sqrt(len(v)) if v.ndim > 1 else v + abs(n) for v, n in zip(values, noise, strict=True)]
        values = [v.astype(np.float32) for v in values]
        model.set_weights(values)
        twin.set_weights(values)
        if np.ptp(np.asarray(twin.predict_on_batch(samples(shape))), axis=(0, 1)).max() >= MOVES:
            break
    return model, twin


def samples(shape: tuple[int, ...]) -> np.ndarray:
    rng = np.random.default_rng(3)
    if len(shape) == 1:
        return rng.integers(0, 11, (4, *shape)).astype(np.float32)
    return rng.normal(size=(4, *shape)).astype(np.float32)


def check(name: str, shape: tuple[int, ...], chain: Build, source) -> str:
    """Empty, or what is wrong. source: model -> what we load."""
    functional = len(name) % 2 == 0
    model, twin = build(chain, shape, functional)
    x = samples(shape)
    theirs = np.asarray(twin.predict_on_batch(x))
    whole = np.asarray(model.predict_on_batch(x))
    ours = stepstream.load(source(model))
    data = x if x.ndim == 3 else x[..., None]
    measure = yardstick(ours, data)
    steps = stepped(ours.executor, data)
    checks = [
        compare("step", "the twin", steps, theirs, measure),
        compare("whole", "the model", ours.run(data)[:, None], whole[:, None], measure.at([shape[0] - 1])),
    ]
    wrong = [f"{name}: {c}" for c in checks if not c.ok]
    if np.ptp(theirs, axis=(0, 1)).max() < MOVES:
        wrong.append(f"{name}: the outputs move by less than {MOVES}, so the comparison says little")
    if ours.training_length != shape[0]:
        wrong.append(f"{name}: training length {ours.training_length}")
    return "\n".join(wrong)


def main(folder: str) -> int:
    """All chains through a file or through memory, in turn."""
    problems, count = [], 0

    def archive(model: keras.Model) -> str:
        model.save(f"{folder}/model.keras")
        return f"{folder}/model.keras"

    def hdf5(model: keras.Model) -> str:
        model.save(f"{folder}/model.h5")
        return f"{folder}/model.h5"

    for count, (name, shape, chain) in enumerate(chains(), 1):
        source = (archive, hdf5, lambda model: model)[count % 3]
        problems += [p for p in [check(name, shape, chain, source)] if p]
    print("\n".join(problems))
    print(f"{count} models on {keras.backend.backend()}, {len(problems)} wrong")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
