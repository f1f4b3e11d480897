"""The NumPy executor: a validated graph as `step` and `whole`, vectorised over streams."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import DTypeLike

from stepstream.graph.ir import Array, Graph, StateSlot, TimeRole
from stepstream.graph.validate import validate
from stepstream.ops import REGISTRY

ARITHMETIC_ID = "numpy-1"


class NumpyExecutor:
    """Slow and obvious; the oracle for every other executor. float32, or float64 for checking."""

    arithmetic_id = ARITHMETIC_ID

    def __init__(self, graph: Graph, dtype: DTypeLike = np.float32) -> None:
        self.graph = graph
        self.dtype = np.dtype(dtype)
        self._specs = validate(graph)
        self._weights = {n.id: {k: w.astype(self.dtype, copy=False) for k, w in n.weights.items()} for n in graph.nodes}
        self.slots: tuple[tuple[str, StateSlot], ...] = tuple(
            (n.id, slot) for n in graph.nodes for slot in REGISTRY[n.op].slots(n)
        )
        self.state_size = sum(slot.size for _, slot in self.slots)

    def initial_state(self, streams: int) -> Array:
        return np.zeros((streams, self.state_size), self.dtype)

    def step(self, x: Array, state: Array, mask: Array | None = None) -> tuple[tuple[Array, ...], Array]:
        """One sample of each stream.

        x (streams, features), state (streams, state_size), mask bool (streams,) or None ->
        one (streams, outputs) array for each output, and the new state. Nothing is changed in place.
        """
        values: dict[str, Array] = {self.graph.inputs[0][0]: np.ascontiguousarray(x, self.dtype)}
        parts: list[Array] = []
        at = 0
        with np.errstate(all="ignore"):  # overflow to the same non-finite value is equality
            for node in self.graph.nodes:
                op = REGISTRY[node.op]
                slots = []
                for slot in op.slots(node):
                    slots.append(np.ascontiguousarray(state[:, at : at + slot.size]).reshape(-1, *slot.shape))
                    at += slot.size
                values[node.id], new = op.step(node, self._weights[node.id], values[node.inputs[0]], tuple(slots), mask)
                parts += [s.reshape(len(x), -1) for s in new]
        row = np.concatenate(parts, axis=1) if parts else state.copy()
        return tuple(values[source] for _, source in self.graph.outputs), row

    def whole(self, x: Array, mask: Array | None = None) -> tuple[Array, ...]:
        """The model's ordinary pass: x (streams, time, features) -> for each output (streams, outputs) of
        a `latest` one or (streams, time, outputs) of a `sequence`."""
        values: dict[str, Array] = {self.graph.inputs[0][0]: np.ascontiguousarray(x, self.dtype)}
        with np.errstate(all="ignore"):
            for node in self.graph.nodes:
                values[node.id] = REGISTRY[node.op].whole(node, self._weights[node.id], values[node.inputs[0]], mask)
        return tuple(values[source] for _, source in self.graph.outputs)

    def last(self, x: Array, mask: Array | None = None) -> tuple[Array, ...]:
        """The whole pass at its last position: (streams, outputs) for each output."""
        roles = [self._specs[source].role for _, source in self.graph.outputs]
        ys = self.whole(x, mask)
        return tuple(y[:, -1] if r is TimeRole.SEQUENCE else y for y, r in zip(ys, roles, strict=True))

    def unpack(self, row: Array) -> dict[tuple[str, str], Array]:
        """A flat state row (state_size,) as {(node id, slot): array}."""
        out, at = {}, 0
        for node, slot in self.slots:
            out[node, slot.name] = row[at : at + slot.size].reshape(slot.shape).copy()
            at += slot.size
        return out

    def pack(self, slots: Mapping[tuple[str, str], Array]) -> Array:
        """The inverse of `unpack`."""
        parts = [np.asarray(slots[node, slot.name], self.dtype).reshape(slot.size) for node, slot in self.slots]
        return np.concatenate(parts) if parts else np.zeros(0, self.dtype)
