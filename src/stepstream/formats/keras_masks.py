"""The operations with which Keras 3 computes masks; they stand in its files beside the layers.

Only what Masking, Embedding and merges give rise to is understood: everything else is an operation that blocks.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from stepstream import limits
from stepstream.formats.keras_build import Builder, Layer, Tensor, plain

OPERATIONS = {
    "NotEqual", "Any", "All", "ExpandDims", "Squeeze", "ZerosLike", "OnesLike", "LogicalOr", "LogicalAnd", "Concatenate"
}  # fmt: skip
Mask = str | None  # None: true everywhere


@dataclass(frozen=True)
class Flags:
    """Booleans of each sample: one mask, or (wide) one for each feature of several tensors laid side by side."""

    masks: tuple[Mask, ...]
    wide: bool = False


@dataclass(frozen=True)
class Differs:
    """Where a tensor's values differ from a number, feature by feature."""

    x: Tensor
    value: float


@dataclass(frozen=True)
class Filled:
    """One boolean everywhere, in the shape of a tensor."""

    value: bool


def operation(layer: Layer, build: Builder, args: list[Any], kwargs: Mapping[str, Any]) -> Flags | Differs | Filled:
    """The result of one operation; raises Blocked for those that make no masks."""
    axis = kwargs.get("axis", layer.config.get("axis", args[1] if layer.kind == "ExpandDims" and len(args) > 1 else -1))
    last = axis in (-1, 2, [-1], [2])  # of (batch, time, features)
    match layer.kind, args:
        case "NotEqual", [Tensor() as x, value]:
            number = plain(value)
            if isinstance(number, int | float) and len(x.shape) <= 1 and not isinstance(number, bool):
                return Differs(x, float(number)) if x.shape else Flags((_differs(layer, build, x, float(number)),))
        case "Any", [Differs(x, value)] if last:
            return Flags((_differs(layer, build, x, value),), bool(layer.config.get("keepdims")))
        case ("Any" | "All") as kind, [Flags(masks, True)] if last:
            return Flags((_joined(layer, build, "mask_or" if kind == "Any" else "mask_and", masks),))
        case "ExpandDims", [Flags(masks, False)] if last:
            return Flags(masks, True)
        case "Squeeze", [Flags(masks, True)] if last and len(masks) == 1:
            return Flags(masks)
        case "ZerosLike", [_]:
            return Filled(False)
        case "OnesLike", [_]:
            return Filled(True)
        case "LogicalOr", [Flags() as flags, Filled(False)] | [Filled(False), Flags() as flags]:
            return flags
        case "LogicalAnd", [Flags() as flags, Filled(True)] | [Filled(True), Flags() as flags]:
            return flags
        case ("LogicalOr" | "LogicalAnd") as kind, [Flags((a,), wide), Flags((b,), also)] if wide == also:
            return Flags((_joined(layer, build, "mask_or" if kind == "LogicalOr" else "mask_and", (a, b)),), wide)
        case "Concatenate", [[*parts]] if last and all(isinstance(p, Flags | Filled) for p in parts):
            flags_of = [p.masks if isinstance(p, Flags) and p.wide else (None,) for p in parts]
            few = sum(map(len, flags_of)) <= limits.MAX_MASKS  # laid beside itself, a mask doubles with every operation
            if few and all(not isinstance(p, Filled) or p.value for p in parts):
                return Flags(tuple(m for masks in flags_of for m in masks), True)
    raise layer.block("an operation outside a layer is not supported", "use the layer that does the same")


def _differs(layer: Layer, build: Builder, x: Tensor, value: float) -> Mask:
    return None if x.id is None else build.mask(layer, "mask_differs", [x.id], {"value": value})


def _joined(layer: Layer, build: Builder, op: str, masks: tuple[Mask, ...]) -> Mask:
    given = list(dict.fromkeys(m for m in masks if m is not None))
    if not given or (op == "mask_or" and None in masks):
        return None
    return given[0] if len(given) == 1 else build.mask(layer, op, given)
