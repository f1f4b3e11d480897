"""Small convolutional networks over one sample: inside TimeDistributed, or where there is no time."""

from __future__ import annotations

import re
from dataclasses import replace

import numpy as np

from stepstream.formats.keras_activation import activation, apply_activation
from stepstream.formats.keras_build import Blocked, Builder, Layer, Tensor
from stepstream.graph.ir import TimeRole
from stepstream.graph.streamable import blocker


def _axes(layer: Layer, x: Tensor) -> int:
    """How many axes of a sample the layer works over. Raises Blocked where one of them is time."""
    found = re.search(r"([123])D$", layer.kind)
    assert found is not None
    if x.role is TimeRole.SEQUENCE:
        raise Blocked(blocker(layer.name, layer.kind))
    if layer.config.get("data_format", "channels_last") not in {None, "channels_last"}:
        raise layer.block('data_format="channels_first" is not supported', 'use "channels_last"; retrain')
    if len(x.shape) != int(found[1]) + 1:
        raise layer.fail(f"expected samples with {found[1]} axes and channels, got {x.shape}")
    return int(found[1])


def convolution(layer: Layer, build: Builder, xs: list[Tensor]) -> list[Tensor]:
    """Conv, DepthwiseConv and SeparableConv."""
    (x,) = xs
    rank = _axes(layer, x)
    theano = layer.writer.backend == "theano"
    if theano and not layer.kind.startswith("Conv"):
        raise layer.block("Theano turns kernels round; for this form that is not supported", "use Conv; retrain")
    params = {
        "strides": layer.integers("strides", rank, 1),
        "padding": _padding(layer),
        "dilation": layer.integers("dilation_rate", rank, 1),
        "groups": 1,
    }
    biased = ["bias"] if layer.config.get("use_bias", True) else []
    if layer.kind.startswith("Separable"):
        weights = layer.named_weights("depthwise", "pointwise", *biased)
        y = build.add(
            layer, "conv", [x], params | {"groups": x.shape[-1]}, {"kernel": _depthwise(layer, weights["depthwise"])}
        )
        once = {"strides": (1,) * rank, "padding": "valid", "dilation": (1,) * rank, "groups": 1}
        kernels = {"kernel": weights["pointwise"]} | {k: weights[k] for k in biased}
        y = build.add(layer, "conv", [y], once, kernels)
    elif layer.kind.startswith("Depthwise"):
        weights = layer.named_weights("kernel", *biased)
        weights["kernel"] = _depthwise(layer, weights["kernel"])
        y = build.add(layer, "conv", [x], params | {"groups": x.shape[-1]}, weights)
    else:
        groups = layer.whole("groups", 1)
        weights = layer.named_weights("kernel", *biased)
        if theano:
            weights["kernel"] = np.flip(weights["kernel"], tuple(range(weights["kernel"].ndim - 2)))
        y = build.add(layer, "conv", [x], params | {"groups": groups}, weights)
    y = apply_activation(layer, build, y, activation(layer, "activation", "linear"))
    return [replace(y, mask=None)]


def _padding(layer: Layer) -> str:
    padding = layer.config.get("padding", "valid")
    if padding not in ("valid", "same"):
        raise layer.block(f"padding={padding!r} is not supported", 'use "valid" or "same"; retrain')
    return str(padding)


def _depthwise(layer: Layer, kernel: np.ndarray) -> np.ndarray:
    """(*size, channels, multiplier) -> (*size, 1, channels * multiplier), as grouped convolution has it."""
    if kernel.ndim < 3:
        raise layer.fail(f"expected a depthwise kernel, got {kernel.shape}")
    return kernel.reshape(*kernel.shape[:-2], 1, -1)


def pooling(layer: Layer, build: Builder, xs: list[Tensor]) -> list[Tensor]:
    """MaxPooling, AveragePooling and their global forms."""
    (x,) = xs
    rank = _axes(layer, x)
    kind = "max" if "Max" in layer.kind else "average"
    if layer.kind.startswith("Global"):
        size = x.shape[:-1]
        y = build.add(layer, "pool", [x], {"kind": kind, "size": size, "strides": size, "padding": "valid"})
        if not layer.config.get("keepdims"):
            y = build.add(layer, "reshape", [y], {"shape": x.shape[-1:]})
        return [replace(y, mask=None)]
    size = layer.integers("pool_size", rank, 2)
    strides = size if layer.config.get("strides") is None else layer.integers("strides", rank)
    params = {"kind": kind, "size": size, "strides": strides, "padding": _padding(layer)}
    y = build.add(layer, "pool", [x], params)
    return [replace(y, mask=None)]


def zero_padding(layer: Layer, build: Builder, xs: list[Tensor]) -> list[Tensor]:
    (x,) = xs
    rank = _axes(layer, x)
    value = layer.config.get("padding", 1)
    pairs = [value] * rank if isinstance(value, int) else [value] if rank == 1 else value
    padding = [tuple(p) if isinstance(p, list | tuple) else (p, p) for p in pairs]
    whole = all(isinstance(n, int) and not isinstance(n, bool) for pair in padding for n in pair)
    if not whole or len(padding) != rank or any(len(p) != 2 for p in padding):
        raise layer.fail(f"expected whole numbers for the padding of {rank} axes, got {value!r}")
    return [replace(build.add(layer, "pad", [x], {"padding": (*padding, (0, 0))}), mask=None)]
