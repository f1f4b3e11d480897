"""Activations and activation layers: a configuration to data.

File-format facts: `hard_sigmoid` is clip(0.2x + 0.5, 0, 1) up to Keras 2 and relu6(x + 3) / 6 from Keras 3;
LeakyReLU's slope is `alpha` up to Keras 2 and `negative_slope` from 3 (default 0.3 in both).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from stepstream.formats.keras_build import Builder, Layer, Tensor, vector
from stepstream.graph.ir import TimeRole

ACTIVATIONS = {
    "linear", "tanh", "sigmoid", "hard_sigmoid", "sparse_sigmoid", "relu", "relu6", "leaky_relu", "elu", "celu",
    "selu", "softplus", "log_sigmoid", "mish", "softsign", "silu", "hard_silu", "gelu", "squareplus",
    "sparse_plus", "soft_shrink", "hard_shrink", "tanh_shrink", "hard_tanh", "exponential", "softmax",
    "log_softmax", "sparsemax", "glu",
}  # fmt: skip
OVER_FEATURES = {"softmax", "log_softmax", "sparsemax", "glu"}
ALIASES = {"swish": "silu", "hard_swish": "hard_silu"}
CUSTOM = "a class of its own, of which only its code says how it computes, and no code from a file is ever run"


def activation(layer: Layer, key: str, default: str) -> dict[str, Any]:
    """The activation under this key as data. Objects of activation layers are taken where they are known."""
    value = layer.config.get(key, default)
    if isinstance(value, Mapping):
        inner = value.get("config")
        if isinstance(inner, str):  # a function by name: a user's, as Keras 3 writes its own as plain text
            if layer.writer.keras >= 3:
                raise layer.block(
                    f"its {key} {inner!r} is a function of its own, and no code from a file is ever run",
                    "use a standard activation; retrain",
                )
            value = inner
        elif isinstance(inner, Mapping) and value.get("class_name") in OPTIONS and not value.get("registered_name"):
            return options(replace(layer, kind=value["class_name"], config=inner))
        elif isinstance(inner, Mapping) and value.get("class_name") == "Softmax" and inner.get("axis", -1) == -1:
            return {"name": "softmax"}
        elif value.get("class_name") == "PReLU":
            raise layer.block("its activation has weights of its own", "put it into a layer of its own; retrain")
    value = "linear" if value is None else value
    name = ALIASES.get(value, value) if isinstance(value, str) else None
    if name not in ACTIVATIONS:
        raise layer.block(
            f"unknown {key} {value!r}: no code from a file is ever run", "use a standard activation; retrain"
        )
    if name == "hard_sigmoid" and layer.writer.keras < 3:
        name = "hard_sigmoid_02"
    return {"name": name}


# activation layer -> its function, and parameter = (keys in the file..., default)
OPTIONS: dict[str, tuple[str, dict[str, tuple[Any, ...]]]] = {
    "ReLU": (
        "relu",
        {"max_value": ("max_value", None), "negative_slope": ("negative_slope", 0.0), "threshold": ("threshold", 0.0)},
    ),
    "LeakyReLU": ("leaky_relu", {"negative_slope": ("negative_slope", "alpha", 0.3)}),
    "ELU": ("elu", {"alpha": ("alpha", 1.0)}),
    "ThresholdedReLU": ("thresholded_relu", {"theta": ("theta", 1.0)}),
}


def options(layer: Layer) -> dict[str, Any]:
    """One of OPTIONS as data."""
    name, keys = OPTIONS[layer.kind]
    return {"name": name, **{k: layer.number(*found[:-1], default=found[-1]) for k, found in keys.items()}}


def apply_activation(layer: Layer, build: Builder, x: Tensor, data: dict[str, Any]) -> Tensor:
    """An activation as a node of its own."""
    if data["name"] in OVER_FEATURES:
        vector(layer, x)
    return build.add(layer, "activation", [x], {"activation": data})


def activation_layer(layer: Layer, build: Builder, xs: list[Tensor]) -> list[Tensor]:
    return [apply_activation(layer, build, xs[0], activation(layer, "activation", "linear"))]


def parametric(layer: Layer, build: Builder, xs: list[Tensor]) -> list[Tensor]:
    return [apply_activation(layer, build, xs[0], options(layer))]


def softmax(layer: Layer, build: Builder, xs: list[Tensor]) -> list[Tensor]:
    (x,) = xs
    if layer.axes(x) != [-1]:
        raise layer.block(
            f"its softmax runs over axis {layer.config.get('axis')}, not over the features of one sample alone",
            "use axis=-1; retrain",
        )
    if x.mask is not None and x.mask != "#mask":
        raise layer.block("a Softmax layer takes a mask for one over features", 'use Activation("softmax")')
    return [apply_activation(layer, build, x, {"name": "softmax"})]


def prelu(layer: Layer, build: Builder, xs: list[Tensor]) -> list[Tensor]:
    (x,) = xs
    weights = layer.named_weights("alpha")
    if x.role is TimeRole.SEQUENCE:
        if weights["alpha"].shape[:1] != (1,):
            raise layer.block("it has a slope for every position in time", "use shared_axes=[1]; retrain")
        weights["alpha"] = weights["alpha"][0]
    return [build.add(layer, "prelu", [x], {}, weights)]


def nothing(layer: Layer, build: Builder, xs: list[Tensor]) -> list[Tensor]:
    """Dropout, noise and the like, outside training."""
    return [build.add(layer, "activation", xs, {"activation": {"name": "linear"}})]


LAYERS: dict[str, Callable[[Layer, Builder, list[Tensor]], list[Tensor]]] = {
    **dict.fromkeys(OPTIONS, parametric),
    "Softmax": softmax,
    "PReLU": prelu,
    "Activation": activation_layer,
}
