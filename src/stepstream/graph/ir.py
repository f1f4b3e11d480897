"""Node, Graph and the specs of tensors and states. A graph is data: it prints as JSON, compares, hashes."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]


class TimeRole(StrEnum):
    """What a tensor means on a stream."""

    SEQUENCE = "sequence"  # one value per sample
    LATEST = "latest"  # the value so far
    STATIC = "static"  # no time


@dataclass(frozen=True)
class TensorSpec:
    """A tensor's shape per sample, without batch and time, and its time role. dtype "bool": a mask."""

    shape: tuple[int, ...]
    role: TimeRole
    dtype: str = "float32"

    @property
    def size(self) -> int:
        return math.prod(self.shape)


@dataclass(frozen=True)
class StateSlot:
    """One named part of a node's state, shape without batch; starts at zero, or at the weight called `initial`."""

    name: str
    shape: tuple[int, ...]
    initial: str | None = None

    @property
    def size(self) -> int:
        return math.prod(self.shape)


MASK = "#mask"  # as a node's input: the mask that the caller gives with a sample, if any


def state_ref(node: str, slot: str) -> str:
    """As a node's input: the newest value of an earlier node's state slot, a `latest` tensor."""
    return f"{node}#{slot}"


@dataclass(frozen=True, eq=False)
class Node:
    """One op. inputs: ids of graph inputs or earlier nodes, MASK, or `state_ref`s.

    `layer` and `layer_index` say which layer of the file it came from (index in `model.layers`, -1 inside another
    model); `is_scale` says that it is in no file, but made by `load(scale=...)`.
    """

    id: str
    op: str
    inputs: tuple[str, ...]
    params: Mapping[str, Any] = field(default_factory=dict)
    weights: Mapping[str, Array] = field(default_factory=dict)
    layer: str = ""
    layer_index: int = -1
    is_scale: bool = False

    def __post_init__(self) -> None:
        weights = {name: frozen(np.asarray(w)) for name, w in self.weights.items()}
        object.__setattr__(self, "weights", MappingProxyType(weights))
        object.__setattr__(self, "params", frozen_json(self.params))

    def __reduce__(self) -> tuple[Any, ...]:
        values = (self.id, self.op, self.inputs, thawed(self.params), dict(self.weights))
        return Node, (*values, self.layer, self.layer_index, self.is_scale)


@dataclass(frozen=True, eq=False)
class Graph:
    """Inputs and nodes in topological order, and the named outputs (name, node id).

    A sample is one row: the values of all inputs side by side, in this order.
    """

    inputs: tuple[tuple[str, TensorSpec], ...]
    nodes: tuple[Node, ...]
    outputs: tuple[tuple[str, str], ...]

    @property
    def features(self) -> int:
        """Numbers in one sample."""
        return sum(spec.size for _, spec in self.inputs)

    @property
    def window(self) -> int | None:
        """For a network that ends after a fixed number of samples (Flatten): how many; else None."""
        return max((n.params["n"] for n in self.nodes if n.op == "position"), default=None)

    def to_json(self) -> str:
        """The architecture as JSON, weights by shape and SHA-256 of their little-endian float32 bytes."""
        return json.dumps(
            {
                "inputs": [[name, list(spec.shape), spec.role] for name, spec in self.inputs],
                "nodes": [
                    {
                        "id": n.id,
                        "op": n.op,
                        "inputs": list(n.inputs),
                        "params": thawed(n.params),
                        "weights": {k: [list(w.shape), _digest(w)] for k, w in n.weights.items()},
                    }
                    for n in self.nodes
                ],
                "outputs": [list(o) for o in self.outputs],
            },
            sort_keys=True,
        )

    def fingerprint(self) -> str:
        """SHA-256 (hex) over architecture and weights; the same for the same computation, whatever it is called."""
        return hashlib.sha256(json.dumps(self.nameless(), sort_keys=True).encode()).hexdigest()

    def nameless(self) -> dict[str, Any]:
        """As `to_json` says it, with numbers in place of the names of inputs and nodes."""
        renamed = {name: f"input{i}" for i, (name, _) in enumerate(self.inputs)}
        renamed |= {n.id: f"node{i}" for i, n in enumerate(self.nodes)}
        data: dict[str, Any] = json.loads(self.to_json())

        def rename(ref: str) -> str:
            node, mark, slot = ref.rpartition("#") if ref not in renamed else (ref, "", "")
            return renamed.get(node, node) + mark + slot

        data["inputs"] = [[rename(i), *rest] for i, *rest in data["inputs"]]
        for node in data["nodes"]:
            node["id"] = rename(node["id"])
            node["inputs"] = [rename(i) for i in node["inputs"]]
        data["outputs"] = [rename(i) for _, i in data["outputs"]]
        return data

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Graph) and self.to_json() == other.to_json()

    def __hash__(self) -> int:
        return hash(self.to_json())


def frozen(weight: Array) -> Array:
    """A float32 copy that nobody can change; the same array where it is one already, so that layers can share it."""
    base: Any = weight
    while isinstance(base, np.ndarray) and not base.flags.writeable:
        base = base.base
    if weight.dtype == np.float32 and weight.flags.c_contiguous and isinstance(base, bytes):
        return weight
    # a copy: later training must not reach it; over bytes: an array that owns its numbers can be made writable again
    return np.ndarray(weight.shape, np.float32, np.asarray(weight, np.float32).tobytes())


def frozen_json(value: Any) -> Any:
    """JSON values that nobody can change."""
    if isinstance(value, Mapping):
        return MappingProxyType({k: frozen_json(v) for k, v in value.items()})
    return tuple(map(frozen_json, value)) if isinstance(value, list | tuple) else value


def thawed(value: Any) -> Any:
    """The inverse: dicts and lists."""
    if isinstance(value, Mapping):
        return {k: thawed(v) for k, v in value.items()}
    return list(map(thawed, value)) if isinstance(value, list | tuple) else value


def _digest(weight: Array) -> str:
    return hashlib.sha256(weight.astype("<f4").tobytes()).hexdigest()
