"""sliding(n): at every sample the model's answer on the last n, computed in one of two ways.

`Recompute` keeps the last n samples and runs the whole model on them. `States` keeps several states of the model, each
started `stride` samples after the other; all take every sample and the oldest that has seen at most n answers. Both
wrap a model's executor and are one themselves: all that they carry is in the state row. docs/explanation/sliding.md
has the figures behind the choice.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from math import prod
from typing import Any, Protocol

import numpy as np

from stepstream.errors import InputError
from stepstream.graph.ir import Array, Graph, StateSlot, TimeRole
from stepstream.graph.validate import validate
from stepstream.kernel.executor import stepped
from stepstream.live.state import Executor
from stepstream.ops import REGISTRY
from stepstream.ops.executor import Costs, unpacked

MAX_STATE_FLOATS = 2**26  # of one stream: 256 MiB
MAX_STATES_FLOATS = 2**22  # of one stream, before memory alone decides for recomputing: 16 MiB


class Whole(Executor, Protocol):
    """An executor with the whole pass, as a model's is."""

    @property
    def graph(self) -> Graph:
        """What it computes."""

    @property
    def costs(self) -> Costs:
        """What decides between the two ways."""

    @property
    def machine(self) -> Any:
        """The native kernel's form of it, or None."""

    @property
    def output_sizes(self) -> tuple[int, ...]:
        """Units of each output."""

    def last(self, x: Array, mask: Array | None = None) -> tuple[Array, ...]:
        """x (streams, time, features), mask bool (streams, time) or None -> (streams, outputs) for each output."""


def costs(executor: Whole, n: int, stride: int = 1) -> dict[str, float]:
    """Estimated microseconds for one sample of one stream, by way; {"recompute": ..., "states": ...}.

    Recomputing runs the layers over time n times, call by call, and what follows the last value once. The states run
    everything once for each of ceil(n / stride) states, all in the same few calls.
    """
    specs = validate(executor.graph)
    over_time, once, calls = 0, 0, 0
    for node in executor.graph.nodes:
        op = REGISTRY[node.op]
        stateful = bool(op.slots(node))
        calls += stateful
        if stateful or specs[node.id].role is TimeRole.SEQUENCE:
            over_time += op.multiply_adds(node, *(specs[i] for i in node.inputs))
        else:
            once += op.multiply_adds(node, *(specs[i] for i in node.inputs))
    states, c = -(-n // stride), executor.costs
    activations, together = executor.state_size / c.state_floats, c.multiply_adds if states == 1 else c.together
    return {
        "recompute": n * (calls * c.call + over_time / c.multiply_adds + activations) + once / c.multiply_adds,
        "states": c.ring + calls * c.call + states * ((over_time + once) / together + activations),
    }


def cheaper(executor: Whole, n: int, stride: int = 1) -> str:
    """ "recompute" or "states": the lower of `costs`, unless the states would take more than 16 MiB a stream."""
    if -(-n // stride) * executor.state_size > MAX_STATES_FLOATS:
        return "recompute"
    estimate = costs(executor, n, stride)
    return min(estimate, key=lambda way: estimate[way])


class SlidingExecutor(ABC):
    """An executor around an executor. Its last slot counts the stream's samples, and wraps where the ring does."""

    by_states: bool

    def __init__(self, executor: Whole, n: int, stride: int, slots: list[tuple[str, StateSlot]], period: int) -> None:
        self.inner, self.n, self.stride, self.period = executor, n, stride, period
        self.arithmetic_id = executor.arithmetic_id
        self.machine = executor.machine and executor.machine.sliding(self.by_states, n, stride)
        self.slots = (*slots, (self.own_node(executor), StateSlot("count", ())))
        self.state_size = sum(slot.size for _, slot in self.slots)
        if self.state_size > MAX_STATE_FLOATS:
            raise InputError(
                f"sliding({n}): expected at most {MAX_STATE_FLOATS} floats for each stream, got {self.state_size}; "
                "take a shorter window, a larger stride or by=recompute"
            )

    @staticmethod
    def own_node(executor: Whole) -> str:
        """A name for what no layer owns."""
        own = "sliding"
        while any(own in {node.id, node.layer} for node in executor.graph.nodes):
            own += "_"
        return own

    @abstractmethod
    def initial_state(self, streams: int) -> Array:
        """Rows (streams, state_size) of streams that have seen nothing."""

    def step(self, x: Array, state: Array, mask: Array | None = None) -> tuple[tuple[Array, ...], Array]:
        """One sample of each stream, each with a count of its own: as the wrapped executor's `step`."""
        if self.machine is not None:
            return stepped(self.machine, self.inner.output_sizes, x, state, mask)
        return self.step_plainly(x, state, mask)

    @abstractmethod
    def step_plainly(self, x: Array, state: Array, mask: Array | None) -> tuple[tuple[Array, ...], Array]:
        """The same in NumPy, by the wrapped executor's own steps."""

    def count(self, age: int) -> int:
        """What the last slot holds after `age` samples."""
        return age if age < self.n + self.period else self.n + (age - self.n) % self.period

    def seen(self, count: Array) -> Array:
        """How many samples the answer has seen that comes after `count` ones: n, or down to n - stride + 1."""
        return count - self.stride * -(-np.maximum(0, count - self.n) // self.stride)

    def next_count(self, state: Array) -> Array:
        """The count with the sample at hand, int64 (streams,), before it wraps."""
        return state[:, -1].astype(np.int64) + 1

    def wrapped(self, count: Array) -> Array:
        """As a column of state rows (streams, 1)."""
        return np.where(count == self.n + self.period, self.n, count)[:, None]

    def unpack(self, row: Array) -> dict[tuple[str, str], Array]:
        """A row (state_size,) as {(node id, slot name): array}."""
        return unpacked(self.slots, row)

    def pack(self, slots: Mapping[tuple[str, str], Array]) -> Array:
        """The inverse of `unpack`."""
        dtype = self.initial_state(0).dtype
        return np.concatenate([np.asarray(slots[node, s.name], dtype).reshape(s.size) for node, s in self.slots])


class Recompute(SlidingExecutor):
    """The last n samples, oldest first, and the whole model on them; zeros where none has come yet."""

    by_states = False

    def __init__(self, executor: Whole, n: int, stride: int) -> None:
        own = self.own_node(executor)
        self.features = features = sum(prod(spec.shape) for _, spec in executor.graph.inputs)
        slots = [(own, StateSlot("samples", (n, features))), (own, StateSlot("mask", (n,)))]
        super().__init__(executor, n, stride, slots, stride)

    def initial_state(self, streams: int) -> Array:
        return np.zeros((streams, self.state_size), self.inner.initial_state(0).dtype)

    def step_plainly(self, x: Array, state: Array, mask: Array | None) -> tuple[tuple[Array, ...], Array]:
        new = self.keep(x, state, mask)
        return self.answers(new), new

    def keep(self, x: Array, state: Array, mask: Array | None = None) -> Array:
        """The new state alone, without the answers, which cost a whole pass."""
        n, f = self.n, self.features
        kept = np.ones(len(x)) if mask is None else mask
        parts = [state[:, f : n * f], x, state[:, n * f + 1 : n * f + n], kept[:, None]]
        return np.concatenate([*parts, self.wrapped(self.next_count(state))], axis=1, dtype=state.dtype)

    def answers(self, state: Array) -> tuple[Array, ...]:
        """What the model gives after the newest sample of each row, which has had one."""
        n, f = self.n, self.features
        window, masks = state[:, : n * f], state[:, n * f : n * f + n]
        seen = self.seen(state[:, -1].astype(np.int64))
        outputs: list[Array] = []
        for length in np.unique(seen):
            chosen = seen == length
            keep = masks[chosen, n - length :] > 0
            last = self.inner.last(window[chosen].reshape(-1, n, f)[:, n - length :], None if keep.all() else keep)
            outputs = outputs or [np.empty((len(state), y.shape[1]), y.dtype) for y in last]
            for y, part in zip(outputs, last, strict=True):
                y[chosen] = part
        return tuple(outputs)


class States(SlidingExecutor):
    """A ring of k = ceil(n / stride) states. State m starts at sample m * stride, counted from 0, in place m % k."""

    by_states = True

    def __init__(self, executor: Whole, n: int, stride: int) -> None:
        self.states = k = -(-n // stride)
        slots = [(node, StateSlot(slot.name, (k, *slot.shape))) for node, slot in executor.slots]
        super().__init__(executor, n, stride, slots, stride * k)

    def initial_state(self, streams: int) -> Array:
        rows = self.inner.initial_state(streams * self.states)
        return self._joined(rows, np.zeros((streams, 1), rows.dtype))

    def step_plainly(self, x: Array, state: Array, mask: Array | None) -> tuple[tuple[Array, ...], Array]:
        s, k = len(x), self.states
        count = self.next_count(state)
        seen = self._seen(count)  # (s, k), with this sample
        idle = (seen < 1) | (seen > self.n)
        nothing = self.inner.initial_state(1)
        rows = self._split(state)
        rows[(idle | (seen == 1)).reshape(-1)] = nothing
        ys, new = self.inner.step(np.repeat(x, k, axis=0), rows, None if mask is None else np.repeat(mask, k))
        oldest = np.where(idle, 0, seen).argmax(axis=1) + k * np.arange(s)
        if idle.any():
            new = np.where(idle.reshape(-1, 1), nothing, new)  # one sample into nothing is no state of the stream's
        return tuple(y[oldest] for y in ys), self._joined(new, self.wrapped(count).astype(new.dtype))

    def _seen(self, count: Array) -> Array:
        """How many samples the state in each place has had (s, k) when `count` (s,) have come; 0 where none started."""
        newest = (count[:, None] - 1) // self.stride  # (s, 1)
        started = newest - (newest - np.arange(self.states)) % self.states  # which state has each place
        return np.where(started < 0, 0, count[:, None] - self.stride * started)

    def ages(self, age: int) -> Array:
        """How many samples the state in each place (k,) has seen at this age of the stream; 0 for nothing."""
        seen = self._seen(np.array([self.count(age)]))[0]
        return np.where(seen > self.n, 0, seen)

    def oldest(self, row: Array) -> int:
        """The place of the state that has answered last, in a row (state_size,)."""
        seen = self._seen(row[-1:].astype(np.int64))[0]
        return int(np.where(seen > self.n, 0, seen).argmax())

    def _split(self, state: Array) -> Array:
        """Rows of streams (s, state_size) -> rows of the model (s * k, its own state_size)."""
        parts, at = [], 0
        for _, slot in self.slots[:-1]:
            parts.append(state[:, at : at + slot.size].reshape(len(state) * self.states, -1))
            at += slot.size
        return np.concatenate(parts, axis=1) if parts else np.zeros((len(state) * self.states, 0), state.dtype)

    def _joined(self, rows: Array, count: Array) -> Array:
        """The inverse, with the count (s, 1) behind."""
        parts, at = [], 0
        for _, slot in self.inner.slots:
            parts.append(rows[:, at : at + slot.size].reshape(len(count), -1))
            at += slot.size
        return np.concatenate([*parts, count], axis=1)
