"""Normalisation of one sample by stored or by its own statistics."""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from stepstream.errors import GraphError
from stepstream.graph.ir import Array, Node, TensorSpec
from stepstream.ops.declared import FLAG, number
from stepstream.ops.op import Op, Weights, params_of, register


class _PerSample(Op):
    """An op whose weights broadcast against a sample. optional: those of them that may be missing."""

    optional: ClassVar[tuple[str, ...]] = ()

    def infer(self, node: Node, *xs: TensorSpec) -> TensorSpec:
        (x,) = xs
        for name in self.weights:
            if name not in node.weights and name in self.optional:
                continue
            shape = node.weights[name].shape if name in node.weights else None
            if (
                shape is None
                or len(shape) > len(x.shape)
                or any(w not in (1, s) for w, s in zip(shape[::-1], x.shape[::-1], strict=False))
            ):
                raise GraphError(f"layer {node.layer!r}: expected {name} to fit samples {x.shape}, got {shape}")
        return x


@register
class Scale(_PerSample):
    """y = x * factor + offset."""

    name = "scale"
    weights = ("factor", "offset")

    def apply(self, node: Node, w: Weights, *xs: Array) -> Array:
        (x,) = xs
        return x * w["factor"] + w["offset"]


@register
class Standardise(_PerSample):
    """y = (x - mean) / std."""

    name = "standardise"
    weights = ("mean", "std")

    def apply(self, node: Node, w: Weights, *xs: Array) -> Array:
        (x,) = xs
        return (x - w["mean"]) / w["std"]


@register
class BatchNorm(_PerSample):
    """Inference form of Ioffe & Szegedy 2015 (arXiv:1502.03167): moving statistics only. params: epsilon."""

    name = "batch_norm"
    params: ClassVar = {"epsilon": number()}
    weights = ("mean", "variance", "gamma", "beta")
    optional = ("gamma", "beta")

    def infer(self, node: Node, *xs: TensorSpec) -> TensorSpec:
        (epsilon,) = params_of(node, "epsilon")
        y = super().infer(node, *xs)
        lowest = node.weights["variance"].min(initial=np.inf) + np.float32(epsilon)
        if not lowest > 0:
            raise GraphError(f"layer {node.layer!r}: expected variance + epsilon above 0, got {lowest}")
        return y

    def apply(self, node: Node, w: Weights, *xs: Array) -> Array:
        (x,) = xs
        factor = w.get("gamma", 1) / np.sqrt(w["variance"] + w["mean"].dtype.type(node.params["epsilon"]))
        return x * factor + (w.get("beta", 0) - w["mean"] * factor)


@register
class LayerNorm(_PerSample):
    """Ba et al. 2016 (arXiv:1607.06450) over the last axis; params: epsilon, centre.

    centre=False is what Keras calls rms_scaling: division by the standard deviation alone.
    """

    name = "layer_norm"
    params: ClassVar = {"epsilon": number(0), "centre": FLAG}
    weights = ("gamma", "beta")
    optional = ("gamma", "beta")

    def infer(self, node: Node, *xs: TensorSpec) -> TensorSpec:
        (x,) = xs
        if not x.shape:
            raise GraphError(f"layer {node.layer!r}: expected a vector per sample, got a single number")
        return super().infer(node, *xs)

    def apply(self, node: Node, w: Weights, *xs: Array) -> Array:
        (x,) = xs
        x = np.ascontiguousarray(x)
        centred = x - x.mean(axis=-1, keepdims=True)
        variance = (centred * centred).mean(axis=-1, keepdims=True)
        y = (centred if node.params["centre"] else x) / np.sqrt(variance + x.dtype.type(node.params["epsilon"]))
        y = y * w["gamma"] if "gamma" in w else y
        return y + w["beta"] if "beta" in w else y
