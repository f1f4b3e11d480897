"""One Keras layer configuration and its weights -> one node, or a blocker. Data in, data out.

File-format facts: `hard_sigmoid` is clip(0.2x + 0.5, 0, 1) up to Keras 2 and relu6(x + 3) / 6 from Keras 3;
LeakyReLU's slope is `alpha` up to Keras 2 and `negative_slope` from 3 (default 0.3 in both); weights are listed
in the order in which a layer makes them, trainable ones first.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from stepstream.errors import ModelFileError
from stepstream.graph.ir import Array, TimeRole
from stepstream.graph.streamable import REASONS, Blocker, blocker

Config = Mapping[str, Any]

IDENTITIES = {
    "Identity", "Dropout", "SpatialDropout1D", "GaussianDropout", "GaussianNoise", "AlphaDropout",
    "ActivityRegularization",
}  # fmt: skip
ACTIVATIONS = {
    "linear", "tanh", "sigmoid", "hard_sigmoid", "sparse_sigmoid", "relu", "relu6", "leaky_relu", "elu", "celu",
    "selu", "softplus", "log_sigmoid", "mish", "softsign", "silu", "hard_silu", "gelu", "squareplus",
    "sparse_plus", "soft_shrink", "hard_shrink", "tanh_shrink", "hard_tanh", "exponential", "softmax",
    "log_softmax", "sparsemax", "glu",
}  # fmt: skip
_ALIASES = {"swish": "silu", "hard_swish": "hard_silu"}


class Blocked(Exception):
    """Raised while converting a layer that cannot step; never leaves the reader."""

    def __init__(self, found: Blocker) -> None:
        super().__init__(found.reason)
        self.blocker = found


@dataclass(frozen=True)
class Layer:
    """A layer as the file describes it; `keras` is the writer's major version, `rank` counts batch and time."""

    kind: str
    name: str
    config: Config
    keras: int
    role: TimeRole
    rank: int
    weights: list[Array] = field(default_factory=list)

    def block(self, reason: str, remedy: str) -> Blocked:
        return Blocked(Blocker(self.name, self.kind, reason, remedy))

    def number(self, *keys: str, default: float | None) -> Any:
        """The first of these configuration values that is there; an array written as a config counts."""
        for key in keys:
            if key in self.config:
                value = self.config[key]
                if isinstance(value, Mapping) and "config" in value:
                    value = value["config"].get("value")  # Keras 3 writes NumPy values as objects
                if value is not None and not isinstance(value, int | float):
                    raise ModelFileError(f"layer {self.name!r}: expected a number for {key!r}, got {value!r}")
                return value
        return default

    def named_weights(self, *names: str) -> dict[str, Array]:
        if len(self.weights) != len(names):
            raise ModelFileError(
                f"layer {self.name!r} ({self.kind}): expected {len(names)} weights {list(names)}, "
                f"got {len(self.weights)} of shapes {[w.shape for w in self.weights]}"
            )
        return dict(zip(names, self.weights, strict=True))

    def activation(self, key: str, default: str) -> dict[str, Any]:
        """The activation under this key as data. Objects of activation layers are taken where they are known."""
        value = self.config.get(key, default)
        if isinstance(value, Mapping):
            inner = value.get("config")
            if isinstance(inner, str):  # a registered function by name
                value = inner
            elif value.get("class_name") in _ACTIVATION_LAYERS and isinstance(inner, Mapping):
                layer = Layer(value["class_name"], self.name, inner, self.keras, self.role, self.rank)
                refuse_custom(layer, value)
                op, params, _ = convert(layer)
                if op == "activation":
                    return dict(params["activation"])
                raise self.block("its activation has weights of its own", "put it into a layer of its own; retrain")
        value = "linear" if value is None else value
        name = _ALIASES.get(value, value) if isinstance(value, str) else None
        if name not in ACTIVATIONS:
            raise self.block(
                f"unknown {key} {value!r}: no code from a file is ever run", "use a standard activation; retrain"
            )
        if name == "hard_sigmoid" and self.keras < 3:
            name = "hard_sigmoid_02"
        return {"name": name}

    def over_last_axis(self, what: str) -> None:
        axis = self.config.get("axis", -1)
        axes = [a if a >= 0 else a + self.rank for a in (axis if isinstance(axis, list | tuple) else [axis])]
        if axes != [self.rank - 1]:
            raise self.block(
                f"its {what} runs over axis {axis}, not over the features of one sample alone",
                "use axis=-1; retrain",
            )


def refuse_custom(layer: Layer, entry: Mapping[str, Any]) -> None:
    """Raise Blocked for a user's own class, whatever its name: Keras 3 writes a registered name for those alone."""
    if entry.get("registered_name") is None:
        return
    if str(entry.get("module")).startswith(("keras.ops", "keras.src.ops")):
        raise layer.block("an operation outside a layer is not supported", "use the layer that does the same")
    raise layer.block(
        "a class of its own, of which only its code says how it computes, and no code from a file is ever run",
        "replace it with standard layers; retrain",
    )


Node = tuple[str, dict[str, Any], dict[str, Array]]  # op, params, weights


def convert(layer: Layer) -> Node:
    """Raises Blocked where the layer cannot step and ModelFileError where the file contradicts itself."""
    if layer.kind in IDENTITIES:
        return "activation", {"activation": {"name": "linear"}}, {}
    converter = KINDS.get(layer.kind)
    if converter is None or layer.kind in REASONS:
        raise Blocked(blocker(layer.name, layer.kind))
    return converter(layer)


def _recurrent(layer: Layer) -> Node:
    config = layer.config
    if config.get("go_backwards"):
        raise layer.block("go_backwards=True reads the stream from its end", "train it in forward direction")
    if config.get("return_state"):
        raise layer.block("return_state=True is not supported", "return the sequence or the latest value only")
    if config.get("time_major"):
        raise layer.block("time_major=True puts time before the batch", "rebuild it with time_major=False")
    params: dict[str, Any] = {
        "units": config["units"],
        "activation": layer.activation("activation", "tanh"),
        "return_sequences": bool(config.get("return_sequences", False)),
        "zero_output_for_mask": bool(config.get("zero_output_for_mask", False)),
    }
    op = {"SimpleRNN": "simple_rnn", "LSTM": "lstm", "GRU": "gru"}[layer.kind]
    if op != "simple_rnn":
        default = "sigmoid" if layer.keras >= 3 else "hard_sigmoid"
        params["recurrent_activation"] = layer.activation("recurrent_activation", default)
    names = ("kernel", "recurrent", "bias") if config.get("use_bias", True) else ("kernel", "recurrent")
    weights = layer.named_weights(*names)
    if op == "gru":
        double = "bias" in weights and weights["bias"].ndim == 2
        params["reset_after"] = bool(config.get("reset_after", double))
    return op, params, weights


def _dense(layer: Layer) -> Node:
    names = ("kernel", "bias") if layer.config.get("use_bias", True) else ("kernel",)
    params = {"units": layer.config["units"], "activation": layer.activation("activation", "linear")}
    return "dense", params, layer.named_weights(*names)


def _embedding(layer: Layer) -> Node:
    if layer.config.get("mask_zero"):
        raise layer.block("mask_zero=True is not supported", "train with mask_zero=False")
    if layer.rank != 2:
        raise layer.block("it takes one index per sample, as inputs (batch, time)", "use one index per sample; retrain")
    return "embedding", {}, layer.named_weights("table")


def _activation_layer(layer: Layer) -> Node:
    return "activation", {"activation": layer.activation("activation", "linear")}, {}


def _function(name: str, **options: Any) -> Callable[[Layer], Node]:
    """An activation layer; options: parameter = (keys in the file..., default)."""

    def build(layer: Layer) -> Node:
        values = {k: layer.number(*keys[:-1], default=keys[-1]) for k, keys in options.items()}
        return "activation", {"activation": {"name": name, **values}}, {}

    return build


def _softmax(layer: Layer) -> Node:
    layer.over_last_axis("softmax")
    return "activation", {"activation": {"name": "softmax"}}, {}


def _prelu(layer: Layer) -> Node:
    weights = layer.named_weights("alpha")
    if layer.role is TimeRole.SEQUENCE:
        if 1 not in (layer.config.get("shared_axes") or []):
            raise layer.block("it has a slope for every position in time", "use shared_axes=[1]; retrain")
        weights["alpha"] = weights["alpha"][0]
    return "prelu", {}, weights


def _batch_norm(layer: Layer) -> Node:
    layer.over_last_axis("normalisation")
    names = [n for n, key in (("gamma", "scale"), ("beta", "center")) if layer.config.get(key, True)]
    params = {"epsilon": layer.number("epsilon", default=1e-3)}
    return "batch_norm", params, layer.named_weights(*names, "mean", "variance")


def _layer_norm(layer: Layer) -> Node:
    layer.over_last_axis("normalisation")
    config = layer.config
    if config.get("rms_scaling"):
        names = ["gamma"]  # and neither centre nor beta
    else:
        names = [n for n, key in (("gamma", "scale"), ("beta", "center")) if config.get(key, True)]
    params = {"epsilon": layer.number("epsilon", default=1e-3), "centre": not config.get("rms_scaling")}
    return "layer_norm", params, layer.named_weights(*names)


def _normalization(layer: Layer) -> Node:
    axis = layer.config.get("axis", -1)
    axes = [axis] if isinstance(axis, int) else list(axis or [])
    if any((a if a >= 0 else a + layer.rank) != layer.rank - 1 for a in axes):
        raise layer.block(f"its statistics run over axis {axis}, which holds time", "use axis=-1; adapt it again")
    mean, variance = layer.config.get("mean"), layer.config.get("variance")
    if mean is None or variance is None:
        found = layer.named_weights("mean", "variance", "count")
        mean, variance = found["mean"], found["variance"]
    mean, variance = (np.asarray(v, np.float32).reshape(-1) for v in (mean, variance))
    std = np.maximum(np.sqrt(variance), np.float32(1e-7))  # Keras' epsilon
    if layer.config.get("invert"):
        return "scale", {}, {"factor": std, "offset": mean}
    return "standardise", {}, {"mean": mean, "std": std}


def _rescaling(layer: Layer) -> Node:
    factor, offset = (np.atleast_1d(np.asarray(layer.config[k], np.float32)) for k in ("scale", "offset"))
    return "scale", {}, {"factor": factor, "offset": offset}


def _time_distributed(layer: Layer) -> Node:
    inner = layer.config["layer"]
    kind, config = inner["class_name"], inner["config"]
    if kind in {"LSTM", "GRU", "SimpleRNN", "Embedding"}:
        raise layer.block(f"it wraps {kind}, which would need a stream inside every sample", _POINTWISE)
    wrapped = Layer(kind, layer.name, config, layer.keras, TimeRole.STATIC, layer.rank - 1, layer.weights)
    try:
        refuse_custom(wrapped, inner)
        return convert(wrapped)
    except Blocked as e:
        raise Blocked(Blocker(layer.name, f"TimeDistributed({kind})", e.blocker.reason, e.blocker.remedy)) from None


_POINTWISE = "wrap only layers that work on one sample, such as Dense"

_ACTIVATION_LAYERS: dict[str, Callable[[Layer], Node]] = {
    "ReLU": _function(
        "relu", max_value=("max_value", None), negative_slope=("negative_slope", 0.0), threshold=("threshold", 0.0)
    ),
    "LeakyReLU": _function("leaky_relu", negative_slope=("negative_slope", "alpha", 0.3)),
    "ELU": _function("elu", alpha=("alpha", 1.0)),
    "ThresholdedReLU": _function("thresholded_relu", theta=("theta", 1.0)),
    "Softmax": _softmax,
    "PReLU": _prelu,
    "Activation": _activation_layer,
}
KINDS: dict[str, Callable[[Layer], Node]] = {
    "LSTM": _recurrent,
    "GRU": _recurrent,
    "SimpleRNN": _recurrent,
    "Dense": _dense,
    "Embedding": _embedding,
    "BatchNormalization": _batch_norm,
    "LayerNormalization": _layer_norm,
    "Normalization": _normalization,
    "Rescaling": _rescaling,
    "TimeDistributed": _time_distributed,
    **_ACTIVATION_LAYERS,
}
