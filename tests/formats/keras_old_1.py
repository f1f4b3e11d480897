"""Keras 1: arrays for each gate, its own names, and merges as one layer."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from keras_old import (
    BACKENDS,
    FEATURES,
    TIME,
    UNITS,
    Case,
    Draw,
    Named,
    cases,
    dense1,
    functional,
    input_layer,
    layer,
    named,
    rnn1,
    sequential,
)
from keras_passes import (
    Array,
    batch_norm,
    gru_cell,
    hard_sigmoid_02,
    leaky,
    lstm_cell,
    scan,
    sigmoid,
    simple,
    softmax,
    zeros,
)


def gates1(draw: Draw, names: str, features: int = FEATURES, units: int = UNITS) -> dict[str, tuple]:
    return {k: tuple(draw.some((features, units), (units, units), (units,))) for k in names}


def per_gate(backend: str, layer_name: str, order: str, gates: dict[str, tuple]) -> Named:
    """W, U and b of each gate under names of their own, in the order in which Keras 1 listed the gates."""
    return [pair for k in order for pair in named(backend, f"{layer_name}_", f"W_{k} U_{k} b_{k}", list(gates[k]))]


def fused(names: str, gates: dict[str, tuple]) -> list[Array]:
    return [np.concatenate([gates[k][n] for k in names], -1) for n in range(3)]


@cases
def keras_1_lstm() -> Iterator[tuple[str, Case]]:
    for backend in BACKENDS:
        draw = Draw(1)
        a, b, (w, bias) = gates1(draw, "ifco"), gates1(draw, "ifco", UNITS), draw.some((UNITS, 2), (2,))
        config = sequential(
            "1.2.2",
            rnn1("LSTM", "lstm_1", return_sequences=True, forget_bias_init="one", input_dim=FEATURES),
            layer("Dropout", "dropout_1", p=0.5),
            rnn1("LSTM", "lstm_2", consume_less="gpu", forget_bias_init="one", input_dim=UNITS),
            dense1("dense_1", activation="sigmoid"),
        )
        groups = {
            "lstm_1": per_gate(backend, "lstm_1", "icfo", a),
            "dropout_1": [],
            "lstm_2": named(backend, "lstm_2_", "W U b", fused("ifco", b)),
            "dense_1": named(backend, "dense_1_", "W b", [w, bias]),
        }

        def forward(x, a=a, b=b, w=w, bias=bias):
            y, _ = scan(lstm_cell(a, hard_sigmoid_02), x, zeros(x, UNITS, 2))
            y, _ = scan(lstm_cell(b, hard_sigmoid_02), y, zeros(x, UNITS, 2))
            return sigmoid(y[:, -1] @ w + bias)

        yield backend, Case("1.2.2", config, groups, forward, backend)


@cases
def keras_1_gru() -> Iterator[tuple[str, Case]]:
    for backend in BACKENDS:
        draw = Draw(2)
        a, b = gates1(draw, "zrh"), gates1(draw, "zrh", UNITS)
        config = sequential(
            "1.1.0",
            rnn1("GRU", "gru_1", consume_less="mem", return_sequences=True, input_dim=FEATURES),
            rnn1("GRU", "gru_2", consume_less="gpu", return_sequences=True, inner_activation="sigmoid"),
        )
        groups = {
            "gru_1": per_gate(backend, "gru_1", "zrh", a),
            "gru_2": named(backend, "gru_2_", "W U b", fused("zrh", b)),
        }

        def forward(x, a=a, b=b):
            y, _ = scan(gru_cell(a, hard_sigmoid_02), x, zeros(x, UNITS, 1))
            return scan(gru_cell(b, sigmoid), y, zeros(x, UNITS, 1))[0]

        yield backend, Case("1.1.0", config, groups, forward, backend)


@cases
def keras_1_masks() -> Iterator[tuple[str, Case]]:
    """Before the first sample that counts, the output is the initial state, zeros."""
    draw = Draw(3)
    table, w = draw(9, FEATURES), draw.recurrent(1)
    config = sequential(
        "1.2.2",
        layer("Embedding", "embedding_1", input_dim=9, output_dim=FEATURES, mask_zero=True, input_length=None),
        rnn1("SimpleRNN", "simplernn_1"),
        shape=(None, TIME),
    )
    groups = {
        "embedding_1": named("theano", "embedding_1_", "W", [table]),
        "simplernn_1": named("theano", "simplernn_1_", "W U b", w),
    }

    def embedded(x):
        return simple(table[x.astype(int)].astype(np.float64), w, x != 0)[:, -1]

    yield "embedding", Case("1.2.2", config, groups, embedded, "theano", ((TIME,),), indices=9, masked=True)

    gates, (v, b) = gates1(draw, "zrh"), draw.some((UNITS, 2), (2,))
    config = sequential(
        "1.2.2",
        layer("Masking", "masking_1", mask_value=0.0),
        rnn1("GRU", "gru_1", return_sequences=True),
        dense1("tdd", kind="TimeDistributedDense", activation="tanh"),
    )
    groups = {
        "masking_1": [],
        "gru_1": per_gate("tensorflow", "gru_1", "zrh", gates),
        "tdd": named("tensorflow", "tdd_", "W b", [v, b]),
    }

    def masking(x):
        y, _ = scan(gru_cell(gates, hard_sigmoid_02), x, zeros(x, UNITS, 1), (x != 0).any(-1))
        return np.tanh(y @ v + b)

    yield "masking", Case("1.2.2", config, groups, masking, masked=True)


@cases
def keras_1_layers() -> Iterator[tuple[str, Case]]:
    draw = Draw(4)
    w, alphas, v = draw.some((FEATURES, 5), (5,)), draw(1, 5), draw.some((5, FEATURES), (FEATURES,))
    r = draw.recurrent(1)
    config = sequential(
        "1.2.2",
        layer("TimeDistributed", "td", layer=dense1("inner", units=5, activation="relu")),
        layer("LeakyReLU", "leaky", alpha=0.2),
        layer("PReLU", "prelu", init="zero"),
        dense1("dense", units=FEATURES),
        layer("ELU", "elu", alpha=0.5),
        layer("ThresholdedReLU", "thresholded", theta=0.3),
        layer("GaussianNoise", "noise", sigma=0.1),
        rnn1("SimpleRNN", "rnn"),
        layer("Activation", "activation", activation="softmax"),
    )
    groups = {
        "td": named("tensorflow", "inner_", "W b", w),
        "leaky": [],
        "prelu": [("prelu_alphas:0", alphas)],
        "dense": named("tensorflow", "dense_", "W b", v),
        "elu": [],
        "thresholded": [],
        "noise": [],
        "rnn": named("tensorflow", "rnn_", "W U b", r),
        "activation": [],
    }

    def forward(x):
        y = np.maximum(x @ w[0] + w[1], 0)
        y = leaky(0.2)(y)
        y = np.where(y > 0, y, alphas * y)
        y = y @ v[0] + v[1]
        y = np.where(y > 0, y, 0.5 * np.expm1(y))
        return softmax(simple(y * (y > 0.3), r)[:, -1])

    yield "", Case("1.2.2", config, groups, forward)


@cases
def keras_1_batch_norm() -> Iterator[tuple[str, Case]]:
    """The array called running_std holds the variance; mode 1 normalises each sample and adds epsilon twice."""
    for mode in (0, 1):
        draw = Draw(5)
        norm, r = draw.norm(FEATURES), draw.recurrent(1)
        config = sequential(
            "1.2.2",
            layer("BatchNormalization", "bn", epsilon=1e-3, mode=mode, axis=-1, momentum=0.99),
            rnn1("SimpleRNN", "rnn"),
        )
        groups = {
            "bn": named("theano", "bn_", "gamma beta running_mean running_std", norm),
            "rnn": named("theano", "rnn_", "W U b", r),
        }

        def forward(x, mode=mode, norm=norm, r=r):
            if mode == 0:
                return simple(batch_norm(x, *norm), r)[:, -1]
            std = np.sqrt(x.var(-1, keepdims=True) + 1e-3)
            return simple((x - x.mean(-1, keepdims=True)) / (std + 1e-3) * norm[0] + norm[1], r)[:, -1]

        optional = ("bn",) if mode else ()
        yield f"mode-{mode}", Case("1.2.2", config, groups, forward, "theano", optional=optional)


MERGES1 = {
    "sum": lambda a, b: a + b,
    "mul": lambda a, b: a * b,
    "ave": lambda a, b: (a + b) / 2,
    "max": np.maximum,
    "concat": lambda a, b: np.concatenate([a, b], -1),
}


def merge1(name: str, mode: str, *inbound: Any, **config: Any) -> dict[str, Any]:
    raw = {"mode_type": "raw", "output_shape": None, "output_shape_type": "raw", "arguments": {}, "dot_axes": -1}
    mask = {"output_mask": None, "output_mask_type": "raw", "concat_axis": -1}
    entry = layer("Merge", name, *inbound, mode=mode, **raw, **mask, **config)
    del entry["config"]["trainable"]
    return entry


@cases
def keras_1_merge() -> Iterator[tuple[str, Case]]:
    for mode, merge in MERGES1.items():
        draw = Draw(6)
        a, b, c = draw.recurrent(1), draw.recurrent(1, 2), draw.recurrent(1, 2 * UNITS if mode == "concat" else UNITS)
        branches = [
            sequential("1.2.2", rnn1("SimpleRNN", "left", return_sequences=True)),
            sequential("1.2.2", rnn1("SimpleRNN", "right", return_sequences=True), shape=(None, TIME, 2)),
        ]
        top = [merge1("merge_1", mode, layers=branches), rnn1("SimpleRNN", "top")]
        config = {"class_name": "Sequential", "config": top}
        groups = {
            "left": named("theano", "left_", "W U b", a),
            "right": named("theano", "right_", "W U b", b),
            "merge_1": [],
            "top": named("theano", "top_", "W U b", c),
        }

        def forward(x, y, a=a, b=b, c=c, merge=merge):
            return simple(merge(simple(x, a), simple(y, b)), c)[:, -1]

        shapes = ((TIME, FEATURES), (TIME, 2))
        yield f"branches-{mode}", Case("1.2.2", config, groups, forward, "theano", shapes)

        entries = [
            input_layer("x", TIME, FEATURES),
            layer("Masking", "m", [["x", 0, 0]], mask_value=0.0),
            rnn1("SimpleRNN", "left", [["m", 0, 0]], return_sequences=True),
            rnn1("SimpleRNN", "right", [["x", 0, 0]], return_sequences=True),
            merge1("merge_1", mode, [["left", 0, 0], ["right", 0, 0]]),
            rnn1("SimpleRNN", "top", [["merge_1", 0, 0]]),
        ]
        d = draw.recurrent(1)
        groups = {**{"x": [], "m": []}, **groups, "right": named("theano", "right_", "W U b", d)}

        def graph(x, a=a, c=c, d=d, merge=merge):
            mask = (x != 0).any(-1)
            return simple(merge(simple(x, a, mask), simple(x, d)), c, mask)[:, -1]

        if mode != "max":  # Keras 1 had no mask rule for it
            config = functional("1.2.2", entries, [["x", 0, 0]], [["top", 0, 0]])
            yield f"graph-{mode}", Case("1.2.2", config, groups, graph, "theano", masked=True)


@cases
def keras_1_dense_kinds() -> Iterator[tuple[str, Case]]:
    """Layers that Keras 2 dropped."""
    draw = Draw(7)
    r, maxout = draw.recurrent(1), draw.some((3, UNITS, 2), (3, 2))
    config = sequential(
        "1.2.2",
        rnn1("SimpleRNN", "rnn"),
        layer("MaxoutDense", "maxout", output_dim=2, nb_feature=3, bias=True, init="uniform"),
    )
    groups = {
        "rnn": named("tensorflow", "rnn_", "W U b", r),
        "maxout": named("tensorflow", "maxout_", "W b", maxout),
    }

    def forward(x):
        return (np.einsum("bi,kio->bko", simple(x, r)[:, -1], maxout[0]) + maxout[1]).max(1)

    yield "maxout", Case("1.2.2", config, groups, forward, optional=("maxout",))

    way = draw.some((UNITS, UNITS), (UNITS, UNITS), (UNITS,), (UNITS,))
    config = sequential(
        "1.2.2", rnn1("SimpleRNN", "rnn"), layer("Highway", "highway", activation="tanh", bias=True, init="uniform")
    )
    groups = {**groups, "highway": named("tensorflow", "highway_", "W W_carry b b_carry", way)}
    del groups["maxout"]

    def highway(x):
        y = simple(x, r)[:, -1]
        t = sigmoid(y @ way[1] + way[3])
        return t * np.tanh(y @ way[0] + way[2]) + (1 - t) * y

    yield "highway", Case("1.2.2", config, groups, highway, optional=("highway",))


@cases
def keras_1_nested() -> Iterator[tuple[str, Case]]:
    """A Sequential inside a Model: its configuration is a bare list, and its first call is its node 1."""
    draw = Draw(8)
    gates, (w, b) = gates1(draw, "ifco"), draw.some((UNITS, 2), (2,))
    inner = sequential("1.2.2", rnn1("LSTM", "lstm_1", return_sequences=True), dense1("dense_1", activation="relu"))
    entries = [
        input_layer("x", TIME, FEATURES),
        {**inner, "name": "inner", "inbound_nodes": [[["x", 0, 0]]]},
        layer("Activation", "activation_1", [["inner", 1, 0]], activation="softsign"),
    ]
    config = functional("1.2.2", entries, [["x", 0, 0]], [["activation_1", 0, 0]])
    arrays = per_gate("theano", "lstm_1", "icfo", gates) + named("theano", "dense_1_", "W b", [w, b])
    groups = {"x": [], "inner": arrays, "activation_1": []}

    def forward(x):
        y, _ = scan(lstm_cell(gates, hard_sigmoid_02), x, zeros(x, UNITS, 2))
        y = np.maximum(y @ w + b, 0)
        return y / (1 + abs(y))

    yield "", Case("1.2.2", config, groups, forward, "theano")
