"""Archives by tf.keras and Keras 3, and the masks of Keras 3."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from keras_old import FEATURES, TIME, UNITS, Case, Draw, before, cases, dense2, functional, layer, rnn2, sequential
from keras_passes import Array, hard_sigmoid_02, hard_sigmoid_6, lstm, sigmoid, simple


def input_3(name: str, *shape: int | None) -> dict[str, Any]:
    config = {"name": name, "batch_shape": [None, *shape], "dtype": "float32"}
    return {"class_name": "InputLayer", "config": config, "name": name, "inbound_nodes": []}


def archived(version: str, *names: str) -> Case:
    """LSTM -> LSTM -> Dense under these places."""
    draw = Draw(20)
    a, b, d = draw.recurrent(4), draw.recurrent(4, UNITS), draw.some((UNITS, 2), (2,))
    config = sequential(
        version,
        rnn2("LSTM", "z", return_sequences=True, recurrent_activation="hard_sigmoid"),
        layer("Activation", "act", activation="tanh"),
        rnn2("LSTM", "a"),
        layer("Activation", "end", activation="linear"),
        dense2("dense"),
    )
    if before(version, "3"):
        shape = config["config"]["layers"][0]["config"]["batch_input_shape"]
        config["config"]["layers"].insert(
            0, {"class_name": "InputLayer", "config": {"name": "z_input", "batch_input_shape": shape}}
        )
    else:
        shape = config["config"]["layers"][0]["config"].pop("batch_input_shape")
        config["config"]["layers"].insert(0, input_3("in", *shape[1:]))
    places = {name: [] for name in ("vars", "layers/activation/vars", "layers/activation_1/vars")}
    if before(version, "2.15"):
        places = {n.replace("layers", "_layer_checkpoint_dependencies"): [] for n in places}
    if any("\\" in n for n in names):
        places = {n.replace("/", "\\", n.count("/") - 1): [] for n in places}
    places |= dict(zip(names, (a, b, d), strict=True))

    def forward(x):
        gate = hard_sigmoid_02 if before(version, "3") else hard_sigmoid_6
        return lstm(np.tanh(lstm(x, a, gate)), b, sigmoid)[:, -1] @ d[0] + d[1]

    return Case(version, config, {}, forward, places=places)


@cases
def archives() -> Iterator[tuple[str, Case]]:
    """tf.keras 2.12 and 2.13 counted a layer with weights twice, 2.14 once; from 2.15 on as Keras 3."""
    old = "_layer_checkpoint_dependencies"
    for version in ("2.12.0", "2.13.1"):
        yield version, archived(version, f"{old}/lstm/cell/vars", f"{old}/lstm_2/cell/vars", f"{old}/dense/vars")
    yield "2.14.0", archived("2.14.0", f"{old}/lstm/cell/vars", f"{old}/lstm_1/cell/vars", f"{old}/dense/vars")
    for version in ("2.15.0", "3.0.5", "3.12.0"):
        yield version, archived(version, "layers/lstm/cell/vars", "layers/lstm_1/cell/vars", "layers/dense/vars")
    windows = ["layers\\lstm\\cell/vars", "layers\\lstm_1\\cell/vars", "layers\\dense/vars"]
    yield "2.15.0-windows", archived("2.15.0", *windows)


def tensor(name: str, *shape: int | None, node: int = 0, dtype: str = "float32") -> dict[str, Any]:
    config = {"shape": [None, *shape], "dtype": dtype, "keras_history": [name, node, 0]}
    return {"class_name": "__keras_tensor__", "config": config}


def call3(*args: Any, **kwargs: Any) -> dict[str, Any]:
    return {"args": list(args), "kwargs": kwargs}


def operation(kind: str, name: str, call: dict[str, Any], **config: Any) -> dict[str, Any]:
    """What Keras 3 writes for the arithmetic of masks: an operation beside the layers.

    Before 3.12 the configuration of one that has options lacked the name.
    """
    entry = {"module": "keras.src.ops.numpy", "class_name": kind, "config": config or {"name": name}}
    return {**entry, "registered_name": kind, "name": name, "inbound_nodes": [call]}


def either(a: Array, b: Array, ma: Array, mb: Array, op: Callable) -> Array:
    """Keras 3.4 on: the operation where both count, else the one that counts, else the first."""
    return np.where(ma & mb, op(a, b), np.where(ma | ~mb, a, b))


@cases
def keras_3_masks() -> Iterator[tuple[str, Case]]:
    """Up to 3.3 merges lose the masks; from 3.4 a sample counts where any mask says so, and some change the values."""
    for version in ("3.3.3", "3.12.0"):
        for kind in ("Add", "Multiply", "Maximum", "Minimum", "Average"):
            draw = Draw(21)
            a, b, top = draw.recurrent(1), draw.recurrent(1, 2), draw.recurrent(1, UNITS)
            wide, narrow = tensor("x", TIME, FEATURES), tensor("z", TIME, 2)
            mask = {n: tensor(n, TIME, dtype="bool") for n in ("any", "any_1", "logical_or")}
            entries = [
                input_3("x", TIME, FEATURES),
                input_3("z", TIME, 2),
                layer("Masking", "m", call3(wide), mask_value=0.0),
                layer("Masking", "n", call3(narrow), mask_value=0.0),
                operation("NotEqual", "not_equal", call3(wide, 0.0)),
                operation("NotEqual", "not_equal_1", call3(narrow, 0.0)),
                operation(
                    "Any", "any", call3(tensor("not_equal", TIME, FEATURES, dtype="bool")), axis=-1, keepdims=False
                ),
                operation("Any", "any_1", call3(tensor("not_equal_1", TIME, 2, dtype="bool")), axis=-1, keepdims=False),
                rnn2("SimpleRNN", "a", call3(tensor("m", TIME, FEATURES), mask=mask["any"]), return_sequences=True),
                rnn2("SimpleRNN", "b", call3(tensor("n", TIME, 2), mask=mask["any_1"]), return_sequences=True),
                layer(kind, "merge", call3([tensor("a", TIME, UNITS), tensor("b", TIME, UNITS)])),
            ]
            joined = None
            if not before(version, "3.4"):
                entries.append(operation("LogicalOr", "logical_or", call3(mask["any"], mask["any_1"])))
                joined = mask["logical_or"]
            entries.append(rnn2("SimpleRNN", "top", call3(tensor("merge", TIME, UNITS), mask=joined)))
            config = functional(version, entries, [["x", 0, 0], ["z", 0, 0]], [["top", 0, 0]])
            places = {
                "vars": [],
                "layers/simple_rnn/cell/vars": a,
                "layers/simple_rnn_1/cell/vars": b,
                "layers/simple_rnn_2/cell/vars": top,
            }

            def forward(x, z, a=a, b=b, top=top, kind=kind, version=version):
                mx, mz = (x != 0).any(-1), (z != 0).any(-1)
                u, v = simple(x, a, mx), simple(z, b, mz)
                p, q = mx[..., None], mz[..., None]
                plain = {
                    "Add": u + v,
                    "Multiply": u * v,
                    "Maximum": np.maximum(u, v),
                    "Minimum": np.minimum(u, v),
                    "Average": (u + v) / 2,
                }[kind]
                if before(version, "3.4"):
                    return simple(plain, top)[:, -1]
                if kind == "Multiply":
                    plain = np.where(p | q, np.where(p, u, 1) * np.where(q, v, 1), 0)
                elif kind in ("Maximum", "Minimum"):
                    plain = either(u, v, p, q, np.maximum if kind == "Maximum" else np.minimum)
                return simple(plain, top, mx | mz)[:, -1]

            case = Case(version, config, {}, forward, shapes=((TIME, FEATURES), (TIME, 2)), masked=True, places=places)
            yield f"{version}-{kind}", case
