"""Keras layers to nodes: which there are, and the plain ones among them. Data in, data out.

File-format facts: weights are listed in the order in which a layer makes them, trainable ones first.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np

from stepstream.formats import keras_activation as activations
from stepstream.formats import keras_conv, keras_merge, keras_recurrent
from stepstream.formats.keras_activation import activation
from stepstream.formats.keras_build import Blocked, Builder, Layer, Tensor, array, vector
from stepstream.graph.ir import Array, TimeRole
from stepstream.graph.streamable import REASONS, blocker

IDENTITIES = {
    "Identity", "Dropout", "SpatialDropout1D", "SpatialDropout2D", "SpatialDropout3D", "GaussianDropout",
    "GaussianNoise", "AlphaDropout", "ActivityRegularization",
}  # fmt: skip


def convert(layer: Layer, build: Builder, xs: list[Tensor]) -> list[Tensor]:
    """Raises Blocked where the layer cannot step and ModelFileError where the file contradicts itself."""
    if layer.kind in IDENTITIES:
        return activations.nothing(layer, build, xs)
    converter = LAYERS.get(layer.kind)
    if converter is None:
        raise Blocked(blocker(layer.name, layer.kind))
    return converter(layer, build, xs)


def _dense(layer: Layer, build: Builder, xs: list[Tensor]) -> list[Tensor]:
    (x,) = xs
    names = ("kernel", "bias") if layer.config.get("use_bias", True) else ("kernel",)
    units, data = layer.whole("units"), activation(layer, "activation", "linear")
    y = build.add(layer, "dense", [vector(layer, x)], {"units": units, "activation": data}, layer.named_weights(*names))
    return [replace(y, shape=(*x.shape[:-1], units)) if y.id is None else y]


def _embedding(layer: Layer, build: Builder, xs: list[Tensor]) -> list[Tensor]:
    (x,) = xs
    y = build.add(layer, "embedding", [x], {}, layer.named_weights("table"))
    mask = None
    if layer.config.get("mask_zero") and x.id is not None and not build.timeless:
        if x.shape and (x.role is TimeRole.SEQUENCE or _size(x) > 1):  # a mask over them, which poolings look at
            raise layer.block("mask_zero=True with several indices a sample", "use one index a sample; retrain")
        if x.role is TimeRole.SEQUENCE:
            mask = build.mask(layer, "mask_differs", [x.id], {"value": 0.0})
    return [replace(y, mask=mask, shape=(*x.shape, layer.whole("output_dim")) if y.id is None else y.shape)]


def _masking(layer: Layer, build: Builder, xs: list[Tensor]) -> list[Tensor]:
    (x,) = xs
    if x.role is not TimeRole.SEQUENCE or len(x.shape) != 1:
        raise layer.block("it masks something else than samples of a stream", "mask the samples themselves; retrain")
    value = float(array(layer, "mask_value", layer.config.get("mask_value", 0.0)))
    if x.id is None:
        return [x]
    mask = build.mask(layer, "mask_differs", [x.id], {"value": value})
    return [replace(build.add(layer, "where", [x], {"value": 0.0}, also=[mask]), mask=mask)]


def _along(layer: Layer, x: Tensor, weights: dict[str, Array]) -> dict[str, Array]:
    """Weights of one axis, shaped to broadcast over a sample."""
    (axis,) = layer.axes(vector(layer, x)) or [-1]
    return {k: w.reshape(-1, *[1] * (-1 - axis)) for k, w in weights.items()}


def _epsilon(layer: Layer) -> Any:
    """Added to a variance."""
    epsilon = layer.number("epsilon", default=1e-3)
    if epsilon < 0:
        raise layer.fail(f"expected a number from 0 for 'epsilon', got {epsilon!r}")
    return epsilon


def _batch_norm(layer: Layer, build: Builder, xs: list[Tensor]) -> list[Tensor]:
    (x,) = xs
    names = [n for n, key in (("gamma", "scale"), ("beta", "center")) if layer.config.get(key, True)]
    if len(layer.axes(vector(layer, x))) != 1:
        raise layer.block("it normalises over several axes", "use axis=-1; retrain")
    weights = layer.named_weights(*names, "mean", "variance")
    params = {"epsilon": _epsilon(layer)}
    return [build.add(layer, "batch_norm", [x], params, _along(layer, x, weights))]


def _layer_norm(layer: Layer, build: Builder, xs: list[Tensor]) -> list[Tensor]:
    (x,) = xs
    if layer.axes(vector(layer, x)) != [-1]:
        raise layer.block("it normalises over several axes", "use axis=-1; retrain")
    config = layer.config
    if config.get("rms_scaling"):
        names = ["gamma"]  # and neither centre nor beta
    else:
        names = [n for n, key in (("gamma", "scale"), ("beta", "center")) if config.get(key, True)]
    params = {"epsilon": _epsilon(layer), "centre": not config.get("rms_scaling")}
    return [build.add(layer, "layer_norm", [x], params, layer.named_weights(*names))]


def _normalization(layer: Layer, build: Builder, xs: list[Tensor]) -> list[Tensor]:
    (x,) = xs
    axis = layer.config.get("axis", -1)
    if axis not in (None, []) and layer.axes(vector(layer, x)) != [-1]:
        raise layer.block(f"its statistics run over axis {axis}", "use axis=-1; adapt it again")
    mean, variance = layer.config.get("mean"), layer.config.get("variance")
    if mean is None or variance is None:
        found = layer.named_weights("mean", "variance", "count")
        mean, variance = found["mean"], found["variance"]
    mean, variance = (array(layer, "mean", v).reshape(-1) for v in (mean, variance))
    if (variance < 0).any():
        raise layer.fail("expected a variance from 0")
    std = np.maximum(np.sqrt(variance), np.float32(1e-7))  # Keras' epsilon
    mask = x.mask if layer.writer.keras >= 3 else None
    if layer.config.get("invert"):
        y = build.add(layer, "scale", [x], {}, {"factor": std, "offset": mean})
    else:
        y = build.add(layer, "standardise", [x], {}, {"mean": mean, "std": std})
    return [replace(y, mask=mask)]


def _rescaling(layer: Layer, build: Builder, xs: list[Tensor]) -> list[Tensor]:
    (x,) = xs
    factor, offset = (np.atleast_1d(array(layer, k, layer.config[k])) for k in ("scale", "offset"))
    y = build.add(layer, "scale", [x], {}, {"factor": factor, "offset": offset})
    return [replace(y, mask=x.mask if layer.writer.keras >= 3 else None)]


def _flatten(layer: Layer, build: Builder, xs: list[Tensor]) -> list[Tensor]:
    (x,) = xs
    if layer.config.get("data_format", "channels_last") not in {None, "channels_last"}:
        raise layer.block('data_format="channels_first" is not supported', 'use "channels_last"; retrain')
    return [_joined(layer, build, x) if x.role is TimeRole.SEQUENCE else _reshaped(layer, build, x, (_size(x),))]


def _joined(layer: Layer, build: Builder, x: Tensor) -> Tensor:
    """All samples of a window in one vector."""
    joins = replace(blocker(layer.name, "Flatten"), kind=layer.kind)
    if build.time is None:
        raise Blocked(joins)
    y = build.add(layer, "flatten", [x], {"n": build.time})
    return replace(y, shape=(build.time * _size(x),), role=TimeRole.LATEST, mask=None, made_by=joins)


def _size(x: Tensor) -> int:
    return math.prod(x.shape)


def _reshaped(layer: Layer, build: Builder, x: Tensor, shape: tuple[int, ...]) -> Tensor:
    y = x if shape == x.shape else build.add(layer, "reshape", [x], {"shape": shape})
    made = keras_recurrent.made_time(layer) if len(shape) > len(x.shape) else None
    return replace(y, shape=shape, mask=None, made_by=made)


def _reshape(layer: Layer, build: Builder, xs: list[Tensor]) -> list[Tensor]:
    (x,) = xs
    target = list(layer.config["target_shape"])
    if target.count(-1) > 1 or any(isinstance(n, bool) or not isinstance(n, int) or n == 0 for n in target):
        raise layer.fail(f"expected a shape, got {target}")
    size = _size(x)
    if x.role is not TimeRole.SEQUENCE:
        return [_reshaped(layer, build, x, _filled(layer, target, size))]
    if build.time is not None:
        target = list(_filled(layer, target, build.time * size))
        if target == [build.time * size]:
            return [_joined(layer, build, x)]
    if not target or target[0] not in {build.time or -1, -1} or math.prod(target[1:]) != size:
        raise Blocked(blocker(layer.name, layer.kind))
    return [_reshaped(layer, build, x, tuple(target[1:]))]


def _filled(layer: Layer, target: list[int], size: int) -> tuple[int, ...]:
    """The shape with its -1 resolved."""
    known = math.prod(n for n in target if n != -1)
    if known < 1 or size % known or (-1 not in target and known != size):
        raise layer.fail(f"expected a shape for {size} values, got {target}")
    return tuple(size // known if n == -1 else n for n in target)


def _permute(layer: Layer, build: Builder, xs: list[Tensor]) -> list[Tensor]:
    (x,) = xs
    dims = list(layer.config["dims"])
    timed = x.role is TimeRole.SEQUENCE
    if sorted(dims) != list(range(1, len(x.shape) + 1 + timed)):
        raise layer.fail(f"expected an order of {len(x.shape) + timed} axes, got {dims}")
    if timed and dims[0] != 1:
        raise Blocked(blocker(layer.name, layer.kind))
    axes = tuple(d - 1 - timed for d in dims[timed:])
    y = build.add(layer, "transpose", [x], {"axes": axes})
    return [replace(y, mask=None, made_by=keras_recurrent.made_time(layer))]


def _repeat(layer: Layer, build: Builder, xs: list[Tensor]) -> list[Tensor]:
    """A value without time, with every sample of a stream."""
    (x,) = xs
    if x.role is not TimeRole.STATIC or build.timeless:
        raise Blocked(blocker(layer.name, layer.kind))
    n = layer.whole("n")
    if build.time is not None and n != build.time:
        raise layer.block(f"it repeats {n} times, and the stream's windows have {build.time} samples", "use one length")
    return [build.add(layer, "repeat", [x], also=[build.stream])]


Converter = Callable[[Layer, Builder, list[Tensor]], list[Tensor]]

LAYERS: dict[str, Converter] = {
    **dict.fromkeys(("LSTM", "GRU", "SimpleRNN", "CuDNNLSTM", "CuDNNGRU", "RNN"), keras_recurrent.recurrent),
    **activations.LAYERS,
    "Dense": _dense,
    "Embedding": _embedding,
    "Masking": _masking,
    "BatchNormalization": _batch_norm,
    "LayerNormalization": _layer_norm,
    "Normalization": _normalization,
    "Rescaling": _rescaling,
    "Flatten": _flatten,
    "Reshape": _reshape,
    "Permute": _permute,
    "RepeatVector": _repeat,
    **dict.fromkeys(keras_merge.ELEMENTWISE, keras_merge.elementwise),
    "Concatenate": keras_merge.concatenate,
    "Dot": keras_merge.dot,
    **{f"{k}{n}D": keras_conv.convolution for k in ("Conv", "DepthwiseConv", "SeparableConv") for n in (1, 2, 3)},
    **{
        f"{k}{n}D": keras_conv.pooling
        for k in ("MaxPooling", "AveragePooling", "GlobalMaxPooling", "GlobalAveragePooling")
        for n in (1, 2, 3)
    },
    **{f"ZeroPadding{n}D": keras_conv.zero_padding for n in (1, 2, 3)},
}
# what is dropped as doing nothing must not have a reason to block
assert not set(REASONS) & IDENTITIES
