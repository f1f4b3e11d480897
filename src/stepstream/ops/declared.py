"""What an op declares of its inputs, parameters and weights, checked for every node before the op looks at them.

A graph may come from a file that somebody wrote by hand: no parameter is missing, unknown or of another type when an
op's own rules are asked.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, final

import numpy as np

from stepstream.arrays import short
from stepstream.errors import GraphError
from stepstream.graph.ir import Node, TensorSpec

if TYPE_CHECKING:
    from stepstream.ops.op import Op

MAX_FLOAT32 = float(np.finfo(np.float32).max)
MAX_NUMBER = 2**31 - 1  # of whole numbers: places and sizes are counted in 32 bits


@final
@dataclass(frozen=True)
class Kind:
    """What a parameter may be. words: as an error says it."""

    words: str
    fits: Callable[[Any], bool]
    optional: bool = False

    def or_none(self) -> Kind:
        """None too."""
        return Kind(f"{self.words} or None", lambda v: v is None or self.fits(v), self.optional)

    def or_missing(self) -> Kind:
        """The parameter may be left out."""
        return replace(self, optional=True)


def whole(least: int = 1, most: int = MAX_NUMBER) -> Kind:
    """A whole number."""
    return Kind(f"a whole number from {least} to {most}", lambda v: type(v) is int and least <= v <= most)


def number(least: float = -MAX_FLOAT32) -> Kind:
    """A number that float32 holds."""
    words = "a number" if least < 0 else f"a number from {least}"
    return Kind(words, lambda v: isinstance(v, int | float) and type(v) is not bool and least <= v <= MAX_FLOAT32)


def one_of(*texts: str) -> Kind:
    """One of these texts."""
    return Kind(f"one of {', '.join(map(repr, texts))}", lambda v: isinstance(v, str) and v in texts)


def several(kind: Kind, count: int | None = None) -> Kind:
    """A list, perhaps of a fixed length."""
    words = f"a list of {'' if count is None else f'{count} times '}{kind.words}"
    return Kind(
        words, lambda v: isinstance(v, tuple) and count in {None, len(v)} and all(kind.fits(item) for item in v)
    )


FLAG = Kind("true or false", lambda v: type(v) is bool)
# its name and options have rules of their own: activation.check_activation
ACTIVATION = Kind("an activation with a name", lambda v: isinstance(v, Mapping) and isinstance(v.get("name"), str))


def check(op: Op, node: Node, xs: Sequence[TensorSpec]) -> None:
    """Raises GraphError where a node is not as its op declares it."""
    _inputs(op, node, xs)
    if missing := [name for name, kind in op.params.items() if name not in node.params and not kind.optional]:
        raise GraphError(f"layer {node.layer!r} ({node.op}): parameters {missing} are missing")
    for what, given, known in (("parameters", node.params, op.params), ("weights", node.weights, op.weights)):
        if unknown := sorted(set(given) - set(known)):
            raise GraphError(
                f"layer {node.layer!r} ({node.op}): expected {what} {list(known)}, got {short(unknown)} too"
            )
    for name, value in node.params.items():
        if not op.params[name].fits(value):
            raise GraphError(
                f"layer {node.layer!r} ({node.op}): expected {name} to be {op.params[name].words}, got {short(value)}"
            )
    if empty := [name for name, w in node.weights.items() if not w.size]:
        raise GraphError(f"layer {node.layer!r} ({node.op}): weights {empty} hold no numbers")


def _inputs(op: Op, node: Node, xs: Sequence[TensorSpec]) -> None:
    kinds = [kind.rstrip("?*") for kind in op.takes]
    least = sum(not kind.endswith(("?", "*")) for kind in op.takes)
    most = math.inf if op.takes[-1].endswith("*") else len(kinds)
    if not least <= len(xs) <= most:
        wanted = f"{least}" if least == most else f"{least} or more" if most > len(kinds) else f"{least} to {most}"
        raise GraphError(f"layer {node.layer!r} ({node.op}): expected {wanted} inputs, got {len(xs)}")
    for i, x in enumerate(xs):
        kind = kinds[min(i, len(kinds) - 1)]
        if (kind == "mask") != (x.dtype == "bool"):
            wanted = "a mask" if kind == "mask" else "numbers"
            raise GraphError(f"layer {node.layer!r} ({node.op}): expected {wanted} as input {i}, got {x}")
