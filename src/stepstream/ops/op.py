"""What every op declares: parameters, weights, state, cost, and two ways to compute (step and whole)."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar, TypeVar

from stepstream.errors import GraphError
from stepstream.graph.ir import Array, Node, StateSlot, TensorSpec, TimeRole
from stepstream.ops.declared import Kind

Weights = Mapping[str, Array]
State = tuple[Array, ...]
Inputs = tuple[Array | None, ...]  # None: no mask was given


class Op(ABC):
    """One kind of computation. Stateless ops define `apply`; ops with state define `step` and `whole`.

    takes: "x" (numbers) or "mask" for each; the last ones may end in "?" (may be missing) or "*" (any number of them).
    params, weights: all that a node of it may have. Checked by `declared.check`, before `infer`.
    """

    name: ClassVar[str]
    takes: ClassVar[tuple[str, ...]] = ("x",)
    params: ClassVar[Mapping[str, Kind]] = {}
    weights: ClassVar[tuple[str, ...]] = ()
    steps: ClassVar[bool] = True  # False: a pass takes it apart, or it blocks
    every_sample: ClassVar[bool] = False  # whether the last value of a `latest` input is not enough

    @abstractmethod
    def infer(self, node: Node, *xs: TensorSpec) -> TensorSpec:
        """The output's spec; raises GraphError where parameters, weights and inputs do not fit."""

    def slots(self, node: Node) -> tuple[StateSlot, ...]:
        """The node's state, in order."""
        return ()

    def multiply_adds(self, node: Node, *xs: TensorSpec) -> int:
        """Multiplications with a weight, per sample."""
        return 0

    def work(self, node: Node, *xs: TensorSpec) -> int:
        """About how many numbers are touched for one sample, in arithmetic and on the way."""
        return self.multiply_adds(node, *xs) + self.infer(node, *xs).size + sum(x.size for x in xs)

    def apply(self, node: Node, w: Weights, *xs: Any) -> Array:
        """The op on samples alone: each of xs is (n, *shape), n independent rows."""
        raise AssertionError(f"{self.name} has state: call step or whole")

    def step(self, node: Node, w: Weights, xs: Inputs, state: State) -> tuple[Array, State]:
        """One sample of each stream: xs (streams, *shape) each -> y (streams, ...), and the new state."""
        return self.apply(node, w, *xs), state

    def whole(self, node: Node, w: Weights, xs: Inputs, state: State) -> tuple[Array, State]:
        """The ordinary pass, for ops with state: xs (streams, time, *shape) each, and the state to start from.

        Returns y, (streams, time, ...) where the output is a sequence, and the final state.
        """
        raise AssertionError(f"{self.name} has no state: the executor applies it to every sample")

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


def joint_role(node: Node, *xs: TensorSpec) -> TimeRole:
    """The time role of a value made from all of xs. Raises GraphError where the future would come into the past."""
    roles = {x.role for x in xs}
    if {TimeRole.SEQUENCE, TimeRole.LATEST} <= roles:
        raise GraphError(
            f"layer {node.layer!r}: expected tensors of one time role, got a sequence and a value that is known only "
            "after the last sample, which cannot be fed back to the first"
        )
    return next(r for r in TimeRole if r in roles)  # sequence before latest before static
