"""What every op declares: parameters, weights, state, cost, and two ways to compute (step and whole)."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar, TypeVar

from stepstream.errors import GraphError
from stepstream.graph.ir import Array, Node, StateSlot, TensorSpec

Weights = Mapping[str, Array]
State = tuple[Array, ...]


class Op(ABC):
    """One kind of computation. Stateless ops define `apply`; ops with state define `step` and `whole`."""

    name: ClassVar[str]

    @abstractmethod
    def infer(self, node: Node, x: TensorSpec) -> TensorSpec:
        """The output's spec; raises GraphError where parameters, weights and input do not fit."""

    def slots(self, node: Node) -> tuple[StateSlot, ...]:
        """The node's state, in order."""
        return ()

    def multiply_adds(self, node: Node) -> int:
        """Multiplications with a weight, per sample."""
        return 0

    def apply(self, node: Node, w: Weights, x: Array) -> Array:
        """The op on samples alone: x is (..., *shape) and any leading axes stay as they are."""
        raise AssertionError(f"{self.name} has state: call step or whole")

    def step(self, node: Node, w: Weights, x: Array, state: State, mask: Array | None) -> tuple[Array, State]:
        """One sample of each stream: x (streams, *shape) -> y (streams, ...), and the new state.

        mask: bool (streams,), False where a sample is to be passed over, or None.
        """
        return self.apply(node, w, x), state

    def whole(self, node: Node, w: Weights, x: Array, mask: Array | None) -> Array:
        """The ordinary pass: x (streams, time, *shape), or (streams, *shape) for a `latest` input."""
        return self.apply(node, w, x)

    @staticmethod
    def expect(node: Node, weight: str, shape: tuple[int, ...]) -> None:
        got = node.weights[weight].shape if weight in node.weights else "none"
        if got != shape:
            raise GraphError(f"layer {node.layer!r}: expected weight {weight!r} of shape {shape}, got {got}")


REGISTRY: dict[str, Op] = {}


T = TypeVar("T", bound=type[Op])


def register(cls: T) -> T:
    REGISTRY[cls.name] = cls()
    return cls


def params_of(node: Node, *names: str) -> tuple[Any, ...]:
    missing = [n for n in names if n not in node.params]
    if missing:
        raise GraphError(f"layer {node.layer!r} ({node.op}): parameters {missing} are missing")
    return tuple(node.params[n] for n in names)
