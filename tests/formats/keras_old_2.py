"""Keras 2 and tf.keras 2."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from keras_old import (
    BACKENDS,
    FEATURES,
    KERNELS,
    TIME,
    UNITS,
    Case,
    Draw,
    before,
    cases,
    dense2,
    first,
    functional,
    input_layer,
    layer,
    named,
    rnn2,
    sequential,
)
from keras_passes import (
    batch_norm,
    from_cudnn,
    gru,
    gru_cell,
    hard_sigmoid_02,
    leaky,
    lstm,
    lstm_cell,
    scan,
    sigmoid,
    simple,
    split,
    zeros,
)


@cases
def keras_2_lstm() -> Iterator[tuple[str, Case]]:
    """Hard sigmoid gates, and weights of every spelling."""
    for version, backend in (("2.0.5", "tensorflow"), ("2.1.3", "theano"), ("2.2.4", "cntk"), ("2.15.0", "tensorflow")):
        draw = Draw(10)
        a, b, d = draw.recurrent(4), draw.recurrent(4, UNITS), draw.some((UNITS, 2), (2,))
        config = sequential(
            version,
            rnn2("LSTM", "lstm_1", recurrent_activation="hard_sigmoid", return_sequences=True, implementation=0),
            layer("Dropout", "dropout_1", rate=0.2, noise_shape=None, seed=None),
            rnn2("LSTM", "lstm_2", recurrent_activation="hard_sigmoid", implementation=2),
            layer("LeakyReLU", "leaky", alpha=0.3),
            dense2("dense_1", activation="hard_sigmoid"),
        )
        cell = "lstm_cell/" if not before(version, "2.4") else ""
        groups = {
            "lstm_1": named(backend, f"lstm_1/{cell}", KERNELS, a),
            "dropout_1": [],
            "lstm_2": named(backend, f"lstm_2/{cell}", KERNELS, b),
            "leaky": [],
            "dense_1": named(backend, "dense_1/", "kernel bias", d),
        }

        def forward(x, a=a, b=b, d=d):
            y = lstm(lstm(x, a, hard_sigmoid_02), b, hard_sigmoid_02)[:, -1]
            return hard_sigmoid_02(leaky(0.3)(y) @ d[0] + d[1])

        yield f"{version}-{backend}", Case(version, config, groups, forward, backend)


@cases
def keras_2_gru() -> Iterator[tuple[str, Case]]:
    """The reset gate before or after the product: as configured, else from the bias, which has two rows for after."""
    forms = [
        ("absent-before", "2.0.9", {}, 0, True),
        ("absent-after", "2.2.4", {}, 2, True),
        ("before", "2.1.6", {"reset_after": False}, 0, True),
        ("after", "2.2.4", {"reset_after": True}, 2, True),
        ("tf-after", "2.15.0", {"reset_after": True}, 2, True),
        ("before-plain", "2.15.0", {"reset_after": False}, 0, False),
        ("after-plain", "2.15.0", {"reset_after": True}, 2, False),
        ("absent-plain", "2.1.3", {}, 0, False),
    ]
    for name, version, config, rows, bias in forms:
        w = Draw(11).recurrent(3, rows=rows)
        model = sequential(version, rnn2("GRU", "gru_1", use_bias=bias, return_sequences=True, **config))
        w[2] = w[2] if bias else np.zeros_like(w[2])
        groups = {"gru_1": named("tensorflow", "gru_1/", KERNELS, w)[: 2 + bias]}
        yield name, Case(version, model, groups, lambda x, w=w: gru(x, w, sigmoid))


@cases
def cudnn() -> Iterator[tuple[str, Case]]:
    """Transposed kernels, two biases, always tanh and sigmoid; told by the bias, whatever class the JSON names."""
    draw = Draw(12)
    a, b = draw.recurrent(4), draw.recurrent(3, UNITS)
    a[2], b[2] = draw(8 * UNITS), draw(6 * UNITS)
    plain = [
        [*from_cudnn(a[0], a[1], 4), a[2][: 4 * UNITS] + a[2][4 * UNITS :]],
        [*from_cudnn(b[0], b[1], 3), b[2].reshape(2, -1)],
    ]

    def forward(x):
        return gru(lstm(x, plain[0], sigmoid), plain[1], sigmoid)

    def groups(*names, arrays):
        return {n: named("tensorflow", f"{n}/", KERNELS, w) for n, w in zip(names, arrays, strict=True)}

    options = {"return_sequences": True, "return_state": False, "go_backwards": False, "stateful": False}
    own = [layer("CuDNNLSTM", "a", units=UNITS, **options), layer("CuDNNGRU", "b", units=UNITS, **options)]
    for version in ("2.0.9", "2.2.4", "2.2.4-tf", "2.15.0"):
        yield version, Case(version, sequential(version, *own), groups("a", "b", arrays=[a, b]), forward)
    other = [
        rnn2("LSTM", "a", return_sequences=True),
        rnn2("GRU", "b", return_sequences=True, reset_after=True),
    ]
    config = sequential("2.2.4", *other)
    yield "under-lstm", Case("2.2.4", config, groups("a", "b", arrays=[a, b]), forward, apart_only=True)
    config = sequential("2.2.4", *own)
    yield "plain-under-cudnn", Case("2.2.4", config, groups("a", "b", arrays=plain), forward, apart_only=True)


@cases
def keras_2_names() -> Iterator[tuple[str, Case]]:
    draw = Draw(13)
    a, b = draw.recurrent(1), draw.recurrent(1, UNITS)
    for name, first_name, chunks in (("slashes", "enc/rnn", 0), ("nested-slashes", "enc", 0), ("chunks", "first", 2)):
        second = "enc/rnn/again" if name != "chunks" else "second"
        config = sequential("2.2.4", rnn2("SimpleRNN", first_name, return_sequences=True), rnn2("SimpleRNN", second))
        groups = {n: named("tensorflow", f"{n}/", KERNELS, w) for n, w in ((first_name, a), (second, b))}
        case = Case("2.2.4", config, groups, lambda x: simple(simple(x, a), b)[:, -1], chunks=chunks)
        yield name, case


MERGES2 = {
    "Add": lambda *v: v[0] + v[1] + v[2],
    "Multiply": lambda *v: v[0] * v[1] * v[2],
    "Average": lambda *v: (v[0] + v[1] + v[2]) / 3,
    "Maximum": lambda *v: np.maximum(np.maximum(v[0], v[1]), v[2]),
    "Minimum": lambda *v: np.minimum(np.minimum(v[0], v[1]), v[2]),
    "Concatenate": lambda *v: np.concatenate(v, -1),
    "Subtract": lambda *v: v[0] - v[1],
}


@cases
def keras_2_graphs() -> Iterator[tuple[str, Case]]:
    """Branches of one input; masked ones follow the rule of Keras 2, a sample counts where all masks say so."""
    for kind, merge in MERGES2.items():
        for masked in (False, True):
            draw = Draw(14)
            ws, count = [draw.recurrent(1) for _ in range(3)], 2 if kind == "Subtract" else 3
            top = draw.recurrent(1, 3 * UNITS if kind == "Concatenate" else UNITS)
            values = (0.0, 0.0, 5.0)  # the third never masks
            entries = [input_layer("x", TIME, FEATURES)]
            for n in range(count):
                source = "x"
                if masked and n != 1:
                    entries.append(layer("Masking", f"m{n}", [first("x")[0:1]][0], mask_value=values[n]))
                    source = f"m{n}"
                entries.append(rnn2("SimpleRNN", f"r{n}", first(source), return_sequences=True))
            call = [[f"r{n}", 0, 0, {}] for n in range(count)]
            options = {"axis": -1} if kind == "Concatenate" else {}
            entries.append(layer(kind, "merge", call, **options))
            entries.append(rnn2("SimpleRNN", "top", first("merge")))
            config = functional("2.3.1", entries, [["x", 0, 0]], [["top", 0, 0]])
            groups = {e["name"]: [] for e in entries}
            groups |= {f"r{n}": named("tensorflow", f"r{n}/", KERNELS, ws[n]) for n in range(count)}
            groups["top"] = named("tensorflow", "top/", KERNELS, top)

            def forward(x, ws=ws[:count], top=top, merge=merge, masked=masked):
                mask = (x != 0).any(-1) if masked else None
                branches = [simple(x, w, mask if n == 0 else None) for n, w in enumerate(ws)]
                return simple(merge(*branches), top, mask)[:, -1]

            name = f"{kind}-masked" if masked else kind
            yield name, Case("2.3.1", config, groups, forward, masked=masked)


@cases
def keras_2_inputs_and_outputs() -> Iterator[tuple[str, Case]]:
    """Two inputs of which one has no time, a layer called twice, states as outputs."""
    draw = Draw(15)
    a, s, t = draw.recurrent(4), draw.recurrent(1, UNITS + 2), draw.some((2, 2), (2,))
    entries = [
        input_layer("x", TIME, FEATURES),
        input_layer("place", 2),
        rnn2("LSTM", "lstm", first("x"), return_sequences=True, return_state=True),
        rnn2("LSTM", "last", first("x"), return_state=True),
        dense2("out", first("place"), activation="tanh"),
    ]
    outputs = [["lstm", 0, 0], ["lstm", 0, 2], ["last", 0, 0], ["last", 0, 1], ["out", 0, 0]]
    config = functional("2.2.4", entries, [["x", 0, 0], ["place", 0, 0]], outputs)
    groups = {
        "x": [],
        "place": [],
        "lstm": named("tensorflow", "lstm/", KERNELS, a),
        "last": named("tensorflow", "last/", KERNELS, a),
        "out": named("tensorflow", "out/", "kernel bias", t),
    }

    def states(x, place):
        y, (h, c) = scan(lstm_cell(split("ifco", *a), sigmoid), x, zeros(x, UNITS, 2))
        return y, c, h, h, np.tanh(place @ t[0] + t[1])

    yield "states", Case("2.2.4", config, groups, states, shapes=((TIME, FEATURES), (2,)))

    shared = draw.recurrent(1, FEATURES, FEATURES)
    entries = [
        input_layer("x", TIME, FEATURES),
        rnn2("SimpleRNN", "twice", first("x"), first("twice"), units=FEATURES, return_sequences=True),
        layer("Subtract", "merge", [["twice", 0, 0, {}], ["twice", 1, 0, {}]]),
    ]
    config = functional("2.2.4", entries, [["x", 0, 0]], [["merge", 0, 0]])
    groups = {"x": [], "twice": named("tensorflow", "twice/", KERNELS, shared), "merge": []}

    def twice(x):
        y = simple(x, shared)
        return y - simple(y, shared)

    yield "shared", Case("2.2.4", config, groups, twice)

    start = [[[0.5] * UNITS], [[-0.25] * UNITS]]
    entries = [
        input_layer("x", TIME, FEATURES),
        rnn2("LSTM", "lstm", [["x", 0, 0, {"initial_state": start}]], return_sequences=True),
    ]
    config = functional("2.13.1", entries, [["x", 0, 0]], [["lstm", 0, 0]])
    groups = {"x": [], "lstm": named("tensorflow", "lstm/lstm_cell/", KERNELS, a)}

    def started(x):
        start = [np.full((len(x), UNITS), v) for v in (0.5, -0.25)]
        return scan(lstm_cell(split("ifco", *a), sigmoid), x, start)[0]

    yield "initial-state", Case("2.13.1", config, groups, started)

    masked = [entries[0], layer("Masking", "m", first("x"), mask_value=0.0)]
    call = [["m", 0, 0, {"initial_state": start}]]
    masked.append(rnn2("LSTM", "lstm", call, return_sequences=True))

    def started_masked(x):
        start = [np.full((len(x), UNITS), v) for v in (0.5, -0.25)]
        return scan(lstm_cell(split("ifco", *a), sigmoid), x, start, (x != 0).any(-1))[0]

    config = functional("2.13.1", masked, [["x", 0, 0]], [["lstm", 0, 0]])
    yield "initial-state-masked", Case("2.13.1", config, {**groups, "m": []}, started_masked, masked=True)

    entries = [
        input_layer("x", TIME, FEATURES),
        rnn2("SimpleRNN", "rnn", first("x"), return_sequences=True),
        input_layer("place", 2),
        rnn2("SimpleRNN", "top", first("rnn")),
        dense2("spread", first("place"), units=UNITS),
        layer("Concatenate", "merge", [["top", 0, 0, {}], ["spread", 0, 0, {}]], axis=-1),
        dense2("out", first("merge")),
    ]
    r, q, p, o = draw.recurrent(1), draw.recurrent(1, UNITS), draw.some((2, UNITS), (UNITS,)), draw.some((8, 2), (2,))
    config = functional("2.15.0", entries, {"x": ["x", 0, 0], "place": ["place", 0, 0]}, {"out": ["out", 0, 0]})
    groups = {
        "rnn": named("tensorflow", "rnn/simple_rnn_cell/", KERNELS, r),
        "top": named("tensorflow", "top/simple_rnn_cell/", KERNELS, q),
        "spread": named("tensorflow", "spread/", "kernel bias", p),
        "out": named("tensorflow", "out/", "kernel bias", o),
    }

    def beside(x, place):
        y = np.concatenate([simple(simple(x, r), q)[:, -1], place @ p[0] + p[1]], -1)
        return y @ o[0] + o[1]

    yield "dict", Case("2.15.0", config, groups, beside, shapes=((TIME, FEATURES), (2,)))
    del s


@cases
def keras_2_nested() -> Iterator[tuple[str, Case]]:
    """All trainable arrays of a nested model come before the others, and those of frozen layers count as others."""
    for version in ("2.2.4", "2.15.0"):
        for frozen in (None, "first", "inner"):
            draw = Draw(16)
            d, norm, e = draw.some((FEATURES, 3), (3,)), draw.norm(3), draw.some((3, 2), (2,))
            r = draw.recurrent(1, 2)
            body = [
                input_layer("i", FEATURES),
                dense2("first", first("i"), units=3),
                layer("BatchNormalization", "bn", first("first"), axis=-1, epsilon=1e-3, center=True, scale=True),
                dense2("second", first("bn")),
            ]
            inner = functional(version, body, [["i", 0, 0]], [["second", 0, 0]])
            inner["config"]["name"] = "inner"
            for entry in body:
                if frozen in (entry["name"], "inner") and entry["class_name"] != "InputLayer":
                    entry["config"]["trainable"] = False
            if frozen == "inner" and not before(version, "2.4"):
                inner["config"]["trainable"] = False
            names = {
                "first": named("tensorflow", "first/", "kernel bias", d),
                "bn": named("tensorflow", "bn/", "gamma beta moving_mean moving_variance", norm),
                "second": named("tensorflow", "second/", "kernel bias", e),
            }
            order = [*names["first"], *names["bn"][:2], *names["second"], *names["bn"][2:]]
            if frozen == "first":
                order = [*names["bn"][:2], *names["second"], *names["first"], *names["bn"][2:]]
            elif frozen == "inner":
                order = [*names["first"], *names["bn"], *names["second"]]
            config = sequential(
                version,
                layer("TimeDistributed", "td", layer=inner),
                rnn2("SimpleRNN", "rnn"),
            )
            groups = {"td": order, "rnn": named("tensorflow", "rnn/", KERNELS, r)}

            def forward(x, d=d, norm=norm, e=e, r=r):
                y = batch_norm(x @ d[0] + d[1], *norm) @ e[0] + e[1]
                return simple(y, r)[:, -1]

            yield f"{version}-frozen-{frozen}", Case(version, config, groups, forward)

    draw = Draw(17)
    w, v = draw.recurrent(1, FEATURES, FEATURES), draw.some((FEATURES, 2), (2,))
    body = [
        input_layer("i", TIME, FEATURES),
        rnn2("SimpleRNN", "rnn", first("i"), units=FEATURES, return_sequences=True),
    ]
    inner = functional("2.2.4", body, [["i", 0, 0]], [["rnn", 0, 0]])
    inner["config"]["name"] = "inner"
    entries = [
        input_layer("x", TIME, FEATURES),
        {**inner, "name": "inner", "inbound_nodes": [first("x"), [["inner", 1, 0, {}]]]},
        dense2("dense", [["inner", 2, 0, {}]]),
    ]
    config = functional("2.2.4", entries, [["x", 0, 0]], [["dense", 0, 0], ["inner", 1, 0]])
    groups = {
        "x": [],
        "inner": named("tensorflow", "rnn/", KERNELS, w),
        "dense": named("tensorflow", "dense/", "kernel bias", v),
    }

    def twice(x):
        y = simple(x, w)
        return simple(y, w) @ v[0] + v[1], y

    yield "called-twice", Case("2.2.4", config, groups, twice)


@cases
def keras_2_cells() -> Iterator[tuple[str, Case]]:
    """Cells inside RNN. Up to 2.1.6 the states of stacked cells were listed from the last cell to the first."""
    for version in ("2.0.9", "2.2.4", "2.15.0"):
        draw = Draw(18)
        a, b = draw.recurrent(4), draw.recurrent(3, UNITS, 5)
        options = {"activation": "tanh", "recurrent_activation": "hard_sigmoid", "use_bias": True}
        before_gate = {} if before(version, "2.1.4") else {"reset_after": False}
        cells = [
            layer("LSTMCell", "lstm_cell", units=UNITS, **options),
            layer("GRUCell", "gru_cell", units=5, **options, **before_gate),
        ]
        stacked = layer("StackedRNNCells", "stacked", cells=cells)
        options = {"return_sequences": True, "return_state": True, "go_backwards": False, "stateful": False}
        entries = [input_layer("x", TIME, FEATURES), layer("RNN", "rnn", first("x"), cell=stacked, **options)]
        config = functional(version, entries, [["x", 0, 0]], [["rnn", 0, n] for n in range(4)])
        arrays = named("tensorflow", "rnn/lstm_cell/", KERNELS, a) + named("tensorflow", "rnn/gru_cell/", KERNELS, b)

        def forward(x, a=a, b=b, version=version):
            y, (h, c) = scan(lstm_cell(split("ifco", *a), hard_sigmoid_02), x, zeros(x, UNITS, 2))
            y, (g,) = scan(gru_cell(split("zrh", *b), hard_sigmoid_02), y, zeros(x, 5, 1))
            return (y, g, h, c) if before(version, "2.2") else (y, h, c, g)

        yield version, Case(version, config, {"x": [], "rnn": arrays}, forward)


@cases
def convolutions_in_one_sample() -> Iterator[tuple[str, Case]]:
    """Theano convolves with the kernel reversed, TensorFlow does not reverse it."""
    for backend in BACKENDS:
        draw = Draw(19)
        k, b, r = draw(3, 1, 2), draw(2), draw.recurrent(1, 8)
        conv = layer(
            "Conv1D", "conv", filters=2, kernel_size=[3], strides=[1], padding="valid", dilation_rate=[1],
            activation="tanh", use_bias=True, data_format="channels_last",
        )  # fmt: skip
        config = sequential(
            "2.1.3",
            layer("Reshape", "reshape", target_shape=[TIME, 6, 1]),
            layer("TimeDistributed", "td", layer=conv),
            layer("TimeDistributed", "flat", layer=layer("Flatten", "flatten")),
            rnn2("SimpleRNN", "rnn"),
            shape=(None, TIME, 6),
        )
        groups = {
            "reshape": [],
            "td": named(backend, "td/", "kernel bias", [k, b]),
            "flat": [],
            "rnn": named(backend, "rnn/", KERNELS, r),
        }

        def forward(x, k=k, b=b, r=r, backend=backend):
            k = k[::-1] if backend == "theano" else k
            y = np.stack([np.einsum("btk,kco->bto", x[..., i : i + 3], k) for i in range(4)], 2) + b  # (b, t, 4, 2)
            return simple(np.tanh(y).reshape(*y.shape[:2], -1), r)[:, -1]

        yield backend, Case("2.1.3", config, groups, forward, backend, ((TIME, 6),), optional=("td",))
