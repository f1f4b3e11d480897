"""What one stream carries from sample to sample, and what computes the next."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from stepstream.graph.ir import Array, StateSlot


@dataclass(frozen=True, eq=False)
class StreamState:
    """All that a stream carries. row: float32 (state_size,), read-only; age None where nobody knows it.

    static: the values of the inputs without time since the last reset; None where nobody knows, as in a file.
    fingerprint, windowing: whose state it is, in a snapshot.
    """

    row: Array
    age: int | None = 0
    time: float | None = None
    samples: int = 0
    fingerprint: str | None = None
    windowing: str | None = None
    static: tuple[float, ...] | None = None

    def __post_init__(self) -> None:
        row = self.row.view()
        row.setflags(write=False)
        object.__setattr__(self, "row", row)

    def _values(self) -> tuple[object, ...]:
        return (self.row.tobytes(), self.age, self.time, self.samples, self.fingerprint, self.windowing, self.static)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, StreamState) and self._values() == other._values()

    def __hash__(self) -> int:
        return hash(self._values())


class Executor(Protocol):
    """One sample of many streams in, their answers and new states out; a model's own, or a windowing around it."""

    @property
    def slots(self) -> tuple[tuple[str, StateSlot], ...]:
        """(node id, slot) of each part of a state row, in order."""

    @property
    def state_size(self) -> int:
        """Numbers in a state row."""

    @property
    def machine(self) -> Any:
        """What does the same in the native kernel, or None."""

    @property
    def arithmetic_id(self) -> str:
        """The way of computing: equal ids give equal bits."""

    def initial_state(self, streams: int) -> Array:
        """Rows (streams, state_size) of streams that have seen nothing."""

    def step(self, x: Array, state: Array, mask: Array | None = None) -> tuple[tuple[Array, ...], Array]:
        """x (streams, features), state (streams, state_size), mask bool (streams,) or None -> outputs, new state."""

    def unpack(self, row: Array) -> dict[tuple[str, str], Array]:
        """A row (state_size,) as {(node id, slot name): array}."""

    def pack(self, slots: Mapping[tuple[str, str], Array]) -> Array:
        """The inverse of `unpack`."""
