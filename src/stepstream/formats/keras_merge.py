"""Merge layers, and what becomes of masks in them: the rules differ between the versions that wrote the file.

Facts (Keras sources). Output mask: up to Keras 2 the AND of the masks that are there; Keras 3.0 to 3.3 drop it; from
3.4 the OR, and none where an input has none. Concatenate counts an unmasked input as true everywhere. From 3.4
Multiply, Maximum and Minimum leave masked values out of account.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from stepstream.formats.keras_build import Builder, Layer, Tensor, role_of, vector
from stepstream.graph.ir import TimeRole

ELEMENTWISE = {
    "Add": "add", "Subtract": "subtract", "Multiply": "multiply", "Average": "average", "Maximum": "maximum",
    "Minimum": "minimum",
}  # fmt: skip


def elementwise(layer: Layer, build: Builder, xs: list[Tensor]) -> list[Tensor]:
    role = _aligned(layer, build, xs)
    op = ELEMENTWISE[layer.kind]
    if op == "subtract" and len(xs) != 2:
        raise layer.fail(f"expected two inputs, got {len(xs)}")
    mask = merged_mask(layer, build, [x.mask for x in xs])
    if layer.writer.version >= (3, 4) and any(x.mask for x in xs) and op in {"multiply", "maximum", "minimum"}:
        y = (_multiply if op == "multiply" else _extreme)(layer, build, xs)
    else:
        y = build.add(layer, "add" if op == "average" else op, xs)
        if op == "average":
            y = build.add(layer, "standardise", [y], {}, {"mean": np.array(0.0), "std": np.array(float(len(xs)))})
    return [replace(y, role=role if y.id is None else y.role, mask=mask)]


def _aligned(layer: Layer, build: Builder, xs: list[Tensor]) -> TimeRole:
    """Raises Blocked where an axis of one input is laid along another's time."""
    role = role_of(layer, xs)
    if role is TimeRole.SEQUENCE and not build.timeless:
        ranks = {len(x.shape) for x in xs if x.role is TimeRole.SEQUENCE}
        # Keras puts the missing axes behind the batch: (batch, features) meets each sample of (batch, time, features)
        if len(ranks) > 1 or any(len(x.shape) > min(ranks) for x in xs):
            raise layer.block("it lays another axis along time", "merge tensors with the same axes; retrain")
    return role


def _multiply(layer: Layer, build: Builder, xs: list[Tensor]) -> Tensor:
    """Keras 3.4: masked values count as 1; where all inputs are masked the product is 0."""
    kept = [x if x.mask is None else build.add(layer, "where", [x], {"value": 1.0}, also=[x.mask]) for x in xs]
    y = build.add(layer, "multiply", kept)
    masks = [x.mask for x in xs if x.mask is not None]
    if len(masks) < len(xs):
        return y
    return build.add(layer, "where", [y], {"value": 0.0}, also=[build.mask(layer, "mask_or", masks)])


def _extreme(layer: Layer, build: Builder, xs: list[Tensor]) -> Tensor:
    """Keras 3.4: of two values the masked one does not count."""
    op = ELEMENTWISE[layer.kind]
    out, seen = xs[0], xs[0].mask
    for x in xs[1:]:
        new = x
        if x.mask is not None:
            new = _where(layer, build, x, x.mask, out)
        if seen is not None:
            out = _where(layer, build, out, seen, new)
        seen = build.mask(layer, "mask_or", [seen, x.mask]) if seen and x.mask else None
        out = build.add(layer, op, [out, new])
    return out


def _where(layer: Layer, build: Builder, x: Tensor, mask: str, other: Tensor) -> Tensor:
    if x.id is None or other.id is None:
        return replace(x, id=None)
    return build.add(layer, "where", [x], also=[mask, other.id])


def merged_mask(layer: Layer, build: Builder, masks: list[str | None]) -> str | None:
    """The mask of a merge's output."""
    found = [m for m in masks if m is not None]
    if not found or (3, 0) <= layer.writer.version < (3, 4):
        return None
    if layer.writer.keras < 3:
        return _join(layer, build, "mask_and", found)
    return None if len(found) < len(masks) else _join(layer, build, "mask_or", found)


def _join(layer: Layer, build: Builder, op: str, masks: list[str]) -> str:
    different = list(dict.fromkeys(masks))
    return different[0] if len(different) == 1 else build.mask(layer, op, different)


def concatenate(layer: Layer, build: Builder, xs: list[Tensor]) -> list[Tensor]:
    role = role_of(layer, xs)
    (axis,) = {a for x in xs[:1] for a in layer.axes(vector(layer, x))}
    _aligned(layer, build, xs)
    if any(len(x.shape) != len(xs[0].shape) for x in xs):
        raise layer.fail(f"expected inputs with the same axes, got samples {[x.shape for x in xs]}")
    y = build.add(layer, "concatenate", xs, {"axis": axis})
    return [replace(y, role=role if y.id is None else y.role, mask=merged_mask(layer, build, [x.mask for x in xs]))]


def dot(layer: Layer, build: Builder, xs: list[Tensor]) -> list[Tensor]:
    """Of two vectors of each sample; every other form works across samples or makes a matrix."""
    if len(xs) != 2:
        raise layer.fail(f"expected two inputs, got {len(xs)}")
    role = role_of(layer, xs)
    axes = layer.integers("axes", 2)
    across = layer.block("it multiplies samples of different times", "use Multiply and Dense; retrain")
    for x, axis in zip(xs, axes, strict=True):
        if (axis if axis < 0 else axis - x.rank) != -1 or len(x.shape) != 1:
            raise across
    if [x.role for x in xs] == [TimeRole.SEQUENCE] * 2:
        raise across  # (time, features) . (time, features) -> (time, time)
    y = build.add(layer, "dot", xs, {"normalize": bool(layer.config.get("normalize", False))})
    if role is TimeRole.SEQUENCE:  # (batch, time) without an axis of features
        y = build.add(layer, "reshape", [y], {"shape": ()})
    return [replace(y, mask=None)]
