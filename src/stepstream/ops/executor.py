"""The NumPy executor: a validated graph as `step` and `whole`, vectorised over streams."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import DTypeLike

from stepstream.graph.ir import MASK, Array, Graph, Node, StateSlot, TimeRole, state_ref
from stepstream.graph.validate import validate
from stepstream.ops import REGISTRY
from stepstream.ops.op import State

Values = dict[str, Array | None]


@dataclass(frozen=True)
class Costs:
    """What decides between two ways of computing, measured by bench/sliding.py.

    Microseconds of one layer with a state on one sample, however small, and of keeping a ring of states; multiply-adds
    of one row and of many, which share the weights' way from memory, and floats of state (activations and copies), in a
    microsecond.
    """

    call: float
    ring: float
    multiply_adds: float
    together: float
    state_floats: float


def unpacked(slots: Iterable[tuple[str, StateSlot]], row: Array) -> dict[tuple[str, str], Array]:
    """A flat state row (state_size,) as {(node id, slot): array}, copied."""
    out, at = {}, 0
    for node, slot in slots:
        out[node, slot.name] = row[at : at + slot.size].reshape(slot.shape).copy()
        at += slot.size
    return out


class NumpyExecutor:
    """Slow and obvious; the oracle for every other executor. float32, or float64 for checking."""

    arithmetic_id = "numpy-1"
    costs = Costs(call=40.0, ring=100.0, multiply_adds=10_000.0, together=10_000.0, state_floats=100.0)

    def __init__(self, graph: Graph, dtype: DTypeLike = np.float32) -> None:
        self.graph = graph
        self.dtype = np.dtype(dtype)
        self._specs = validate(graph)
        self._weights = {n.id: {k: w.astype(self.dtype, copy=False) for k, w in n.weights.items()} for n in graph.nodes}
        self._own = [REGISTRY[n.op].slots(n) for n in graph.nodes]
        self.slots: tuple[tuple[str, StateSlot], ...] = tuple(
            (n.id, slot) for n, own in zip(graph.nodes, self._own, strict=True) for slot in own
        )
        self.state_size = sum(slot.size for _, slot in self.slots)
        self.output_sizes = tuple(self._specs[source].size for _, source in graph.outputs)
        self.output_roles = tuple(self._specs[source].role for _, source in graph.outputs)
        # whether a whole pass needs the values of every sample also where only the last is asked for
        self._every = any(
            REGISTRY[n.op].every_sample and self._specs[n.inputs[0]].role is TimeRole.LATEST for n in graph.nodes
        )
        self.machine = self.compile()
        object.__setattr__(self, "_sealed", True)

    def compile(self) -> Any:
        """The native kernel's form of the graph; NumPy has none."""

    def __setattr__(self, name: str, value: object) -> None:
        if hasattr(self, "_sealed"):
            raise AttributeError(f"an executor is immutable, as all streams of a model share it: {name!r}")
        object.__setattr__(self, name, value)

    def __delattr__(self, name: str) -> None:
        raise AttributeError(f"an executor is immutable, as all streams of a model share it: {name!r}")

    def initial_state(self, streams: int) -> Array:
        """(streams, state_size)."""
        rows = np.zeros((streams, self.state_size), self.dtype)
        at = 0
        for node, slot in self.slots:
            if slot.initial is not None:
                rows[:, at : at + slot.size] = self._weights[node][slot.initial].reshape(-1)
            at += slot.size
        return rows

    def step(self, x: Array, state: Array, mask: Array | None = None) -> tuple[tuple[Array, ...], Array]:
        """One sample of each stream.

        x (streams, features), state (streams, state_size), mask bool (streams,) or None ->
        one (streams, outputs) array for each output, and the new state. Nothing is changed in place.
        """
        values: Values = {MASK: mask}
        x, at = np.asarray(x, self.dtype), 0
        for name, spec in self.graph.inputs:
            values[name] = np.ascontiguousarray(x[:, at : at + spec.size]).reshape(-1, *spec.shape)
            at += spec.size
        parts: list[Array] = []
        at = 0
        with np.errstate(all="ignore"):  # overflow to the same non-finite value is equality
            for node, slots in zip(self.graph.nodes, self._own, strict=True):
                old = []
                for slot in slots:
                    old.append(np.ascontiguousarray(state[:, at : at + slot.size]).reshape(-1, *slot.shape))
                    at += slot.size
                xs = tuple(values[i] for i in node.inputs)
                values[node.id], new = REGISTRY[node.op].step(node, self._weights[node.id], xs, tuple(old))
                self._publish(values, node, new)
                parts += [s.reshape(len(x), -1) for s in new]
        row = np.concatenate(parts, axis=1) if parts else state.copy()
        return self._outputs(values), row

    def whole(self, x: Array, mask: Array | None = None) -> tuple[Array, ...]:
        """The model's ordinary pass: x (streams, time, features) -> for each output (streams, outputs) of
        a `latest` one or (streams, time, outputs) of a `sequence`. Inputs without time are taken from the last sample.
        """
        values: Values = {MASK: mask}
        x, at = np.asarray(x, self.dtype), 0
        streams, time = x.shape[:2]
        for name, spec in self.graph.inputs:
            columns = x[..., at : at + spec.size]
            at += spec.size
            if spec.role is TimeRole.SEQUENCE:
                values[name] = np.ascontiguousarray(columns).reshape(streams, time, *spec.shape)
            else:
                values[name] = np.ascontiguousarray(columns[:, -1]).reshape(streams, *spec.shape)
        state, at = self.initial_state(streams), 0
        with np.errstate(all="ignore"):
            for node, slots in zip(self.graph.nodes, self._own, strict=True):
                xs = tuple(values[i] for i in node.inputs)
                if not slots:
                    values[node.id] = self._apply(node, xs, streams, time)
                    continue
                old = []
                for slot in slots:
                    old.append(state[:, at : at + slot.size].reshape(-1, *slot.shape))
                    at += slot.size
                if self._every:
                    self._through(values, node, xs, tuple(old), time)
                    continue
                values[node.id], new = REGISTRY[node.op].whole(node, self._weights[node.id], xs, tuple(old))
                self._publish(values, node, new)
        ys = self._outputs(values)
        if not self._every:
            return ys
        return tuple(y[:, -1] if r is TimeRole.LATEST else y for y, r in zip(ys, self.output_roles, strict=True))

    def _timed(self, source: str) -> bool:
        """Whether a value of the whole pass has an axis of time."""
        role = self._specs[source].role
        return role is TimeRole.SEQUENCE or (self._every and role is TimeRole.LATEST)

    def _through(self, values: Values, node: Node, xs: tuple[Array | None, ...], state: State, time: int) -> None:
        """A node with state over all samples; what it gives and its states after every one of them."""
        timed = [self._timed(source) for source in node.inputs]
        ys, states = [], []
        for t in range(time):
            now = tuple(x[:, t] if x is not None and on else x for x, on in zip(xs, timed, strict=True))
            y, state = REGISTRY[node.op].step(node, self._weights[node.id], now, state)
            ys.append(y)
            states.append(state)
        values[node.id] = np.stack(ys, axis=1)
        self._publish(values, node, tuple(np.stack(slot, axis=1) for slot in zip(*states, strict=True)))

    def _apply(self, node: Node, xs: tuple[Array | None, ...], streams: int, time: int) -> Array:
        """A stateless op on every sample; what has no time accompanies each of them."""
        op, weights = REGISTRY[node.op], self._weights[node.id]
        if node.op == "latest" and not self._every:
            return op.apply(node, weights, *(x[:, -1] for x in xs if x is not None))
        if not self._timed(node.id):
            return op.apply(node, weights, *xs)
        rows = []
        for source, x in zip(node.inputs, xs, strict=True):
            if x is not None and not self._timed(source):
                x = np.repeat(x, time, axis=0)
            elif x is not None:
                x = x.reshape(streams * time, *x.shape[2:])
            rows.append(x)
        y = op.apply(node, weights, *rows)
        return y if y is None else y.reshape(streams, time, *y.shape[1:])

    def _publish(self, values: Values, node: Node, state: State) -> None:
        for slot, value in zip(REGISTRY[node.op].slots(node), state, strict=True):
            values[state_ref(node.id, slot.name)] = value

    def _outputs(self, values: Values) -> tuple[Array, ...]:
        found = [values[source] for _, source in self.graph.outputs]
        return tuple(y for y in found if y is not None)

    def last(self, x: Array, mask: Array | None = None) -> tuple[Array, ...]:
        """The whole pass at its last position: (streams, outputs) for each output."""
        ys = zip(self.whole(x, mask), self.output_roles, strict=True)
        return tuple(y[:, -1] if role is TimeRole.SEQUENCE else y for y, role in ys)

    def unpack(self, row: Array) -> dict[tuple[str, str], Array]:
        """A flat state row (state_size,) as {(node id, slot): array}."""
        return unpacked(self.slots, row)

    def pack(self, slots: Mapping[tuple[str, str], Array]) -> Array:
        """The inverse of `unpack`."""
        parts = [np.asarray(slots[node, slot.name], self.dtype).reshape(slot.size) for node, slot in self.slots]
        return np.concatenate(parts) if parts else np.zeros(0, self.dtype)
