"""Model files as Keras 1, Keras 2, tf.keras and Keras 3 wrote them: the parts, and how they lie in HDF5.

`CASES` fills as the modules of the versions are imported.
"""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import h5py
import numpy as np
from keras_passes import Array

BATCH, TIME, FEATURES, UNITS = 4, 7, 3, 4
BACKENDS = ("tensorflow", "theano")


def before(version: str, other: str) -> bool:
    return [int(n) for n in version.split("-")[0].split(".")] < [int(n) for n in other.split(".")]


Named = list[tuple[str, Array]]


@dataclass
class Case:
    """config: the model's class_name and config. groups: layer -> its arrays by name, in the order of the file.

    forward: float64 inputs -> outputs. optional: a refusal that names `names` is right too.
    """

    version: str
    config: dict[str, Any]
    groups: dict[str, Named]
    forward: Callable[..., Any]
    backend: str = "tensorflow"
    shapes: tuple[tuple[int, ...], ...] = ((TIME, FEATURES),)
    indices: int | None = None
    masked: bool = False
    optional: tuple[str, ...] = ()
    places: dict[str, list[Array]] = field(default_factory=dict)  # of an archive, instead of groups
    chunks: int = 0
    apart_only: bool = False

    def inputs(self) -> list[Array]:
        """Samples, with some to be masked at the beginning, in the middle and at the end."""
        out = []
        for n, shape in enumerate(self.shapes):
            rng = np.random.default_rng([7, n])
            if self.indices is not None:
                x = rng.integers(1, self.indices, (BATCH, *shape)).astype(np.float32)
            else:
                x = rng.normal(size=(BATCH, *shape)).astype(np.float32)
            if self.masked and len(shape) > 1 - (self.indices is not None):
                x[0, n : n + 2], x[1, 3 + n : 5 + n], x[2 + n, -2:] = 0, 0, 0
            out.append(x)
        return out

    def expected(self) -> list[Array]:
        y = self.forward(*(x.astype(np.float64) for x in self.inputs()))
        return list(y) if isinstance(y, tuple) else [y]

    def json(self) -> str:
        """What to_json gave: Keras 1 without the back end, Keras 3 without either."""
        keys = {"keras_version": self.version, "backend": self.backend}
        if before(self.version, "2"):
            del keys["backend"]
        return json.dumps(self.config if not before(self.version, "3") else {**self.config, **keys})


def write_weights(root: Any, case: Case) -> None:
    def attribute(group: Any, name: str, values: list[str]) -> None:
        data = np.asarray([v.encode() for v in values]) if values else np.zeros((0,))
        if not case.chunks:
            group.attrs[name] = data
        else:  # Keras splits long lists over numbered attributes
            for n, part in enumerate(np.array_split(data, case.chunks)):
                group.attrs[f"{name}{n}"] = part

    attribute(root, "layer_names", list(case.groups))
    if not before(case.version, "2"):
        root.attrs["keras_version"] = case.version.encode()
        root.attrs["backend"] = case.backend.encode()
    for layer, arrays in case.groups.items():
        group = root.create_group(layer)
        attribute(group, "weight_names", [name for name, _ in arrays])
        for name, value in arrays:
            group.create_dataset(name, data=value)


def write_whole(path: Any, case: Case) -> Any:
    with h5py.File(path, "w") as file:
        file.attrs["keras_version"] = case.version.encode()
        if not before(case.version, "2"):
            file.attrs["backend"] = case.backend.encode()
        file.attrs["model_config"] = json.dumps(case.config).encode()
        write_weights(file.create_group("model_weights"), case)
    return path


def write_apart(path: Any, case: Case) -> Any:
    with h5py.File(path, "w") as file:
        write_weights(file, case)
    return path


def write_v3(target: Any, case: Case) -> None:
    """The weights file of the newer format: numbered arrays in `vars` of each place."""
    with h5py.File(target, "w") as file:
        for place, arrays in case.places.items():
            group = file.create_group(place)
            for n, value in enumerate(arrays):
                group.create_dataset(str(n), data=value)


def modern(value: Any) -> Any:
    """The newer format names the module of every class."""
    if isinstance(value, list):
        return [modern(v) for v in value]
    if not isinstance(value, dict):
        return value
    value = {k: modern(v) for k, v in value.items()}
    if "class_name" not in value or "module" in value or value["class_name"] == "__keras_tensor__":
        return value
    graph = value["class_name"] == "Functional"
    module = (
        "keras.src.models.functional" if graph else "keras" if value["class_name"] == "Sequential" else "keras.layers"
    )
    return {"module": module, **value, "registered_name": "Functional" if graph else None}


def write_archive(path: Any, case: Case) -> Any:
    data = io.BytesIO()
    write_v3(data, case)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("config.json", json.dumps(modern(case.config)))
        metadata = {"keras_version": case.version, "date_saved": "2023-07-01@12:00:00"}
        archive.writestr("metadata.json", json.dumps(metadata))
        archive.writestr("model.weights.h5", data.getvalue())
    return path


class Draw:
    """Arrays large enough that a wrong gate, order or activation shows."""

    def __init__(self, seed: int = 0) -> None:
        self.rng = np.random.default_rng([3, seed])

    def __call__(self, *shape: int, scale: float = 1.0) -> Array:
        return (self.rng.normal(size=shape) * scale).astype(np.float32)

    def some(self, *shapes: tuple[int, ...]) -> list[Array]:
        return [self(*s) for s in shapes]

    def recurrent(self, gates: int, features: int = FEATURES, units: int = UNITS, rows: int = 0) -> list[Array]:
        bias = (rows, gates * units) if rows else (gates * units,)
        return [self(features, gates * units), self(units, gates * units, scale=0.6), self(*bias, scale=0.5)]

    def norm(self, features: int) -> list[Array]:
        """gamma, beta, mean, variance."""
        return [*self.some((features,), (features,), (features,)), abs(self(features)) + np.float32(0.3)]


def layer(kind: str, name: str, *inbound: Any, **config: Any) -> dict[str, Any]:
    """A layer's entry; inbound: its calls in the form of the writer."""
    entry = {"class_name": kind, "config": {"name": name, "trainable": True, **config}}
    return {**entry, "name": name, "inbound_nodes": list(inbound)} if inbound or kind == "InputLayer" else entry


def sequential(version: str, *entries: dict[str, Any], shape: Any = (None, TIME, FEATURES)) -> dict[str, Any]:
    """The shape is in the first layer; the configuration is a list up to Keras 2.2.2, an object after."""
    first = {**entries[0], "config": {**entries[0]["config"], "batch_input_shape": list(shape)}}
    layers = [first, *entries[1:]]
    if before(version, "2.2.3"):
        return {"class_name": "Sequential", "config": layers}
    return {"class_name": "Sequential", "config": {"name": "sequential", "layers": layers}}


def functional(version: str, entries: list[dict[str, Any]], inputs: Any, outputs: Any) -> dict[str, Any]:
    kind = "Model" if before(version, "2.4") else "Functional"
    body = {"name": "model_1", "layers": entries, "input_layers": inputs, "output_layers": outputs}
    return {"class_name": kind, "config": body}


def input_layer(name: str, *shape: int | None, **config: Any) -> dict[str, Any]:
    config = {"name": name, "batch_input_shape": [None, *shape], "dtype": "float32", "sparse": False, **config}
    return {"class_name": "InputLayer", "config": config, "name": name, "inbound_nodes": []}


def first(name: str, *more: Any) -> list[Any]:
    """One call on the first output of a layer's first call, as Keras 2 wrote it."""
    return [[name, 0, 0, {}], *more]


def named(backend: str, stem: str, keys: str, arrays: list[Array]) -> Named:
    """TensorFlow put :0 behind each name."""
    tail = ":0" if backend == "tensorflow" else ""
    return [(f"{stem}{key}{tail}", a) for key, a in zip(keys.split(), arrays, strict=True)]


RNN1 = {
    "init": "glorot_uniform",
    "inner_init": "orthogonal",
    "W_regularizer": None,
    "U_regularizer": None,
    "b_regularizer": None,
    "dropout_W": 0.2,
    "dropout_U": 0.1,
    "go_backwards": False,
    "stateful": False,
    "unroll": False,
    "input_length": None,
    "return_sequences": False,
    "activation": "tanh",
}
RNN2 = {
    "use_bias": True,
    "go_backwards": False,
    "stateful": False,
    "unroll": False,
    "return_sequences": False,
    "return_state": False,
    "activation": "tanh",
}
KERNELS = "kernel recurrent_kernel bias"


def rnn1(kind: str, name: str, *inbound: Any, units: int = UNITS, **config: Any) -> dict[str, Any]:
    gates = {} if kind == "SimpleRNN" else {"inner_activation": "hard_sigmoid"}
    return layer(kind, name, *inbound, **{**RNN1, **gates, "consume_less": "cpu", "output_dim": units, **config})


def rnn2(kind: str, name: str, *inbound: Any, units: int = UNITS, **config: Any) -> dict[str, Any]:
    gates = {} if kind == "SimpleRNN" else {"recurrent_activation": "sigmoid"}
    return layer(kind, name, *inbound, **{**RNN2, **gates, "units": units, **config})


def dense1(name: str, *inbound: Any, units: int = 2, activation: str = "linear", kind: str = "Dense") -> dict[str, Any]:
    return layer(kind, name, *inbound, output_dim=units, activation=activation, bias=True, init="uniform")


def dense2(name: str, *inbound: Any, units: int = 2, activation: str = "linear", **config: Any) -> dict[str, Any]:
    return layer("Dense", name, *inbound, units=units, activation=activation, use_bias=True, **config)


CASES: dict[str, Case] = {}
Make = Callable[[], Iterator[tuple[str, Case]]]


def cases(make: Make) -> Make:
    """Collect what a function yields, under its own name."""
    for name, case in make():
        CASES[f"{make.__name__}-{name}" if name else make.__name__] = case
    return make
