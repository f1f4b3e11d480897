"""Activations, named as Keras 3 names them; `hard_sigmoid_02` is the one of Keras 1 and 2.

An activation is written as data: {"name": "leaky_relu", "negative_slope": 0.3}. Each function takes
(..., features) and works per element, except softmax, log_softmax, sparsemax and glu, which work over
the last axis.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping
from functools import cache
from typing import Any, ClassVar

import numpy as np

from stepstream.arrays import short
from stepstream.errors import GraphError
from stepstream.graph.ir import Array, Node, TensorSpec
from stepstream.ops.declared import ACTIVATION, FLAG, Kind, number
from stepstream.ops.op import Op, Weights, params_of, register

_erf = np.frompyfunc(math.erf, 1, 1)


def linear(x: Array) -> Array:
    return x


def tanh(x: Array) -> Array:
    return np.tanh(x)


def sigmoid(x: Array) -> Array:
    return 1 / (1 + np.exp(-x))


def sparse_sigmoid(x: Array) -> Array:
    return np.clip(0.5 * (x + 1), 0, 1)


def hard_sigmoid(x: Array) -> Array:
    """relu6(x + 3) / 6: Keras 3."""
    return np.clip(x / 6 + 0.5, 0, 1)


def hard_sigmoid_02(x: Array) -> Array:
    """clip(0.2 x + 0.5, 0, 1): Keras 1 and 2, tf.keras 2."""
    return np.clip(0.2 * x + 0.5, 0, 1)


def relu(x: Array, negative_slope: float = 0, max_value: float | None = None, threshold: float = 0) -> Array:
    y = np.where(x >= threshold, x, negative_slope * (x - threshold)).astype(x.dtype)
    y = np.where(np.isnan(x), x, y)
    return y if max_value is None else np.minimum(y, np.asarray(max_value, x.dtype))


def relu6(x: Array) -> Array:
    return relu(x, max_value=6)


def leaky_relu(x: Array, negative_slope: float = 0.2) -> Array:
    return np.where(x >= 0, x, negative_slope * x).astype(x.dtype)


def thresholded_relu(x: Array, theta: float = 1.0) -> Array:
    return x * (x > theta)


def elu(x: Array, alpha: float = 1.0) -> Array:
    return np.where(x > 0, x, alpha * np.expm1(np.minimum(x, 0))).astype(x.dtype)


def celu(x: Array, alpha: float = 1.0) -> Array:
    return np.maximum(x, 0) + alpha * np.expm1(np.minimum(x, 0) / alpha)


def selu(x: Array) -> Array:
    """Klambauer et al. 2017, arXiv:1706.02515."""
    return 1.0507009873554805 * elu(x, 1.6732632423543772)


def softplus(x: Array) -> Array:
    return np.logaddexp(x, np.zeros((), x.dtype))


def log_sigmoid(x: Array) -> Array:
    return -softplus(-x)


def mish(x: Array) -> Array:
    """Misra 2019, arXiv:1908.08681."""
    return x * np.tanh(softplus(x))


def softsign(x: Array) -> Array:
    return x / (1 + np.abs(x))


def silu(x: Array) -> Array:
    return x * sigmoid(x)


def hard_silu(x: Array) -> Array:
    return x * hard_sigmoid(x)


def gelu(x: Array, approximate: bool = False) -> Array:
    """Hendrycks & Gimpel 2016, arXiv:1606.08415; the exact form unless `approximate`."""
    if approximate:
        return 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x * x * x)))
    return 0.5 * x * (1 + np.asarray(_erf(x / math.sqrt(2)), x.dtype))


def squareplus(x: Array, b: float = 4) -> Array:
    return (x + np.sqrt(x * x + b)) / 2


def sparse_plus(x: Array) -> Array:
    return np.where(x <= -1, 0, np.where(x < 1, 0.25 * (x + 1) * (x + 1), x)).astype(x.dtype)


def soft_shrink(x: Array, threshold: float = 0.5) -> Array:
    return x - np.clip(x, -threshold, threshold)


def hard_shrink(x: Array, threshold: float = 0.5) -> Array:
    return x * (np.abs(x) > threshold)


def tanh_shrink(x: Array) -> Array:
    return x - np.tanh(x)


def hard_tanh(x: Array) -> Array:
    return np.clip(x, -1, 1)


def exponential(x: Array) -> Array:
    return np.exp(x)


def softmax(x: Array) -> Array:
    e = np.exp(x - x.max(axis=-1, keepdims=True))
    return e / e.sum(axis=-1, keepdims=True)


def log_softmax(x: Array) -> Array:
    shifted = x - x.max(axis=-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))


def sparsemax(x: Array) -> Array:
    """Martins & Astudillo 2016 (arXiv:1602.02068), as Keras 3 computes it.

    The paper's threshold takes the sum of the k largest values; Keras takes the sum of all k partial sums.
    """
    z = np.sort(x, axis=-1)[..., ::-1]
    partial = np.cumsum(z, axis=-1)
    rank = np.arange(1, x.shape[-1] + 1, dtype=x.dtype)
    support = z - (partial - 1) / rank > 0
    k = np.maximum(support.sum(axis=-1, keepdims=True), 1).astype(x.dtype)
    tau = (np.where(support, partial, 0).sum(axis=-1, keepdims=True) - 1) / k
    return np.maximum(x - tau, 0)


def glu(x: Array) -> Array:
    """First half times the sigmoid of the second: (..., 2n) -> (..., n). Dauphin 2016, arXiv:1612.08083."""
    half = x.shape[-1] // 2
    return x[..., :half] * sigmoid(x[..., half:])


FUNCTIONS: dict[str, Callable[..., Array]] = {
    f.__name__: f
    for f in (
        linear, tanh, sigmoid, sparse_sigmoid, hard_sigmoid, hard_sigmoid_02, relu, relu6, leaky_relu,
        thresholded_relu, elu, celu, selu, softplus, log_sigmoid, mish, softsign, silu, hard_silu, gelu,
        squareplus, sparse_plus, soft_shrink, hard_shrink, tanh_shrink, hard_tanh, exponential, softmax,
        log_softmax, sparsemax, glu,
    )
}  # fmt: skip


def activate(activation: Mapping[str, Any], x: Array) -> Array:
    """Apply an activation written as data; x is copied to contiguous memory first.

    NumPy takes other code paths for strided arrays, with other last bits.
    """
    options = {k: v for k, v in activation.items() if k != "name"}
    return FUNCTIONS[activation["name"]](np.ascontiguousarray(x), **options)


_KINDS = {"float": number(), "float | None": number().or_none(), "bool": FLAG}  # by annotation
_OVER_FEATURES = {"softmax", "log_softmax", "sparsemax", "glu"}


@cache
def _options_of(function: Callable[..., Array]) -> dict[str, Kind]:
    return {k: _KINDS[p.annotation] for k, p in inspect.signature(function).parameters.items() if k != "x"}


def check_activation(node: Node, activation: Mapping[str, Any]) -> None:
    """Raises GraphError for a name or an option that nobody knows, or one of another type than the function's."""
    name = activation["name"]
    function = FUNCTIONS.get(name)
    if function is None:
        raise GraphError(f"layer {node.layer!r}: unknown activation {activation!r}")
    options = _options_of(function)
    if unknown := set(activation) - {"name"} - set(options):
        raise GraphError(f"layer {node.layer!r}: activation {name} has no {sorted(unknown)}")
    for option in set(activation) - {"name"}:
        kind, got = options[option], activation[option]
        if not kind.fits(got):
            raise GraphError(f"layer {node.layer!r}: expected {option} of {name} to be {kind.words}, got {short(got)}")


def activated_shape(node: Node, activation: Mapping[str, Any], shape: tuple[int, ...]) -> tuple[int, ...]:
    check_activation(node, activation)
    if activation["name"] in _OVER_FEATURES and not shape:
        raise GraphError(f"layer {node.layer!r}: {activation['name']} needs a vector per sample, got a single number")
    if activation["name"] != "glu":
        return shape
    if shape[-1] % 2:
        raise GraphError(f"layer {node.layer!r}: glu needs an even number of values, got {shape[-1]}")
    return (*shape[:-1], shape[-1] // 2)


@register
class Activation(Op):
    """params: activation."""

    name = "activation"
    params: ClassVar = {"activation": ACTIVATION}

    def infer(self, node: Node, *xs: TensorSpec) -> TensorSpec:
        (activation,) = params_of(node, "activation")
        (x,) = xs
        return TensorSpec(activated_shape(node, activation, x.shape), x.role)

    def apply(self, node: Node, w: Weights, *xs: Array) -> Array:
        return activate(node.params["activation"], xs[0])


@register
class PReLU(Op):
    """Weight `alpha`, of a sample's shape or with ones where it is shared. He et al. 2015, arXiv:1502.01852."""

    name = "prelu"
    weights = ("alpha",)

    def infer(self, node: Node, *xs: TensorSpec) -> TensorSpec:
        (x,) = xs
        alpha = node.weights["alpha"].shape if "alpha" in node.weights else None
        if (
            alpha is None
            or len(alpha) != len(x.shape)
            or any(a not in (1, s) for a, s in zip(alpha, x.shape, strict=True))
        ):
            raise GraphError(f"layer {node.layer!r}: expected alpha of shape {x.shape}, got {alpha}")
        return x

    def apply(self, node: Node, w: Weights, *xs: Array) -> Array:
        (x,) = xs
        return np.where(x > 0, x, w["alpha"] * x)
