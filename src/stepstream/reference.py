"""Answers of a live Keras model to compare with: its own inputs, its own batch, and where it has one, its own state."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np

from stepstream.errors import InputError
from stepstream.graph.ir import Array, TensorSpec, TimeRole

FORGETS = (
    "the reference is stateful, and predict_on_batch forgets its state between calls on this back end: not compared; "
    "give a model that is not stateful, or use another back end"
)
ROUNDING = {"bfloat16": 2.0**-7, "float16": 2.0**-10}  # the step from 1 to the next number
RESET = "the reference is stateful: its states were reset before and after"


@dataclass(frozen=True)
class Answers:
    """One output of the reference at some positions: values (m, positions, units)."""

    output: str
    positions: tuple[int, ...]
    values: Array


class Reference:
    """A Keras model, or what has its `predict_on_batch` and `input_shape`; raises InputError where it does not fit.

    inputs: name and spec of each input of ours; their features lie side by side in a sample, in this order.
    outputs: name and units of each output of ours.
    """

    def __init__(
        self, model: Any, inputs: Sequence[tuple[str, TensorSpec]], outputs: Sequence[tuple[str, int]]
    ) -> None:
        if not hasattr(model, "predict_on_batch"):
            raise InputError(f"reference: expected a Keras model, got {type(model).__name__}")
        self._model, self._inputs, self._outputs = model, inputs, outputs
        shapes = _shapes(model)
        if len(shapes) != len(inputs):
            raise InputError(f"reference: expected a model with {len(inputs)} inputs, got {len(shapes)}")
        names = [_name(t) for t in getattr(model, "inputs", None) or ()]
        by_name = set(names) == {name for name, _ in inputs}
        self._names = names if len(inputs) > 1 and len(names) == len(inputs) else None
        self._structure = getattr(model, "input", None) if self._names else None
        # index of each of our inputs among those of the reference
        order = [names.index(name) for name, _ in inputs] if by_name else list(range(len(inputs)))
        self._order = order
        self._shapes = [shapes[i] for i in order]
        for (name, spec), shape in zip(inputs, self._shapes, strict=True):
            _check_shape(name, spec, shape)
        self.batch: int | None = next((s[0] for s in self._shapes if s[0] is not None), None)
        timed = (s for (_, spec), s in zip(inputs, self._shapes, strict=True) if spec.role is TimeRole.SEQUENCE)
        self.length: int | None = next((s[1] for s in timed if s[1] is not None), None)
        self.framework = type(model).__module__.partition(".")[0]
        self._stateful = [layer for layer in _layers(model) if getattr(layer, "stateful", False)]
        computes = {str(getattr(layer, "compute_dtype", "")) for layer in _layers(model)}
        self.precision: str | None = next((half for half in ROUNDING if half in computes), None)

    def samples(self, time: int) -> int:
        """How many samples it takes to compare, where `time` are enough for ourselves."""
        if self.length is None:
            return time
        if self._stateful:  # whole calls, and a second one that goes on from the first
            return self.length * max(2, -(-time // self.length))
        return max(time, self.length)

    def answers(self, x: Array) -> tuple[list[Answers], list[str]]:
        """For x (m, time, features): what it answers, output by output, and what is to be said about it."""
        if self.length is not None and x.shape[1] < self.length:
            raise InputError(
                f"the reference takes {self.length} samples, got {x.shape[1]}; give x with at least that many"
            )
        if not self._stateful:
            return self._stateless(x), []
        self._reset()
        try:
            found = self._carried(x)
        finally:
            self._reset()
        return found or [], [RESET] if found else [FORGETS, RESET]

    def _stateless(self, x: Array) -> list[Answers]:
        """The last answer of every prefix, where a model gives no others."""
        x = x[:, : self.length]
        m, time, _ = x.shape
        full = self._batches(x)
        every, last = tuple(range(time)), (time - 1,)
        prefixes = []
        if self.length is None and any(y.ndim == 2 for y in full):
            prefixes = [*(self._batches(x[:, : t + 1]) for t in range(time - 1)), full]
        out = []
        for i, ((name, _), y) in enumerate(zip(self._outputs, full, strict=True)):
            if y.ndim == 3:
                out.append(Answers(name, every, y))
            elif prefixes:
                out.append(Answers(name, every, np.stack([ys[i] for ys in prefixes], axis=1)))
            else:
                out.append(Answers(name, last, y.reshape(m, 1, -1)))
        return out

    def _carried(self, x: Array) -> list[Answers] | None:
        """Call after call over the whole sequence; None where a call does not go on from the one before."""
        size = self.length or 1
        ends = range(size, x.shape[1] + 1, size)
        values: list[list[Array]] = [[] for _ in self._outputs]
        positions: list[tuple[int, ...]] = []
        for rows in self._rows(x):
            self._reset()
            empty = self._states()
            calls = []
            for end in ends:
                calls.append(self._call(rows[:, end - size : end]))
                if len(ends) > 1 and all(map(np.array_equal, empty, self._states())):
                    return None
            for i, ys in enumerate(zip(*calls, strict=True)):
                values[i].append(np.concatenate([y if y.ndim == 3 else y[:, None] for y in ys], axis=1))
            positions = [tuple(range(ends[-1])) if y.ndim == 3 else tuple(e - 1 for e in ends) for y in calls[0]]
        return [
            Answers(name, at, np.concatenate(parts)[: len(x)])
            for (name, _), at, parts in zip(self._outputs, positions, values, strict=True)
        ]

    def _batches(self, x: Array) -> list[Array]:
        calls = [self._call(rows) for rows in self._rows(x)]
        return [np.concatenate(parts)[: len(x)] for parts in zip(*calls, strict=True)]

    def _rows(self, x: Array) -> Iterator[Array]:
        """x in batches of the reference's size; the last one is filled up with the first rows."""
        size = self.batch or len(x)
        for at in range(0, len(x), size):
            yield np.take(x, range(at, at + size), axis=0, mode="wrap")

    def _call(self, x: Array) -> list[Array]:
        """One call: for each of our outputs (m, units) or (m, time, units)."""
        parts = self._split(x)
        given: Any = parts[0]
        if len(parts) > 1:
            by_name = dict(zip(self._names, parts, strict=True)) if self._names else {}
            given = _filled(self._structure, by_name) if self._structure is not None else by_name or parts
        try:
            ys = self._model.predict_on_batch(given)
        except Exception as e:  # whatever a framework throws at numbers that we can step, the user should know
            reason = str(e).strip().partition("\n")[0]
            raise InputError(f"reference: predict_on_batch failed: {type(e).__name__}: {reason}") from e
        found = [np.asarray(y) for y in self._ordered(ys)]
        if len(found) != len(self._outputs):
            raise InputError(f"reference: expected {len(self._outputs)} outputs, got {len(found)}")
        for (name, units), y in zip(self._outputs, found, strict=True):
            if y.shape not in {(len(x), units), (*x.shape[:2], units)}:
                raise InputError(
                    f"reference: expected output {name!r} of shape {(len(x), units)} or {(*x.shape[:2], units)}, "
                    f"got {y.shape}"
                )
        return found

    def _ordered(self, ys: Any) -> list[Any]:
        if isinstance(ys, Mapping):
            names = [name for name, _ in self._outputs]
            return [ys[n] for n in names] if set(names) == set(ys) else list(ys.values())
        return list(ys) if isinstance(ys, list | tuple) else [ys]

    def _split(self, x: Array) -> list[Array]:
        """x (m, time, features) as the reference's inputs, in its order."""
        parts: list[Array] = [x] * len(self._order)
        at = 0
        for (_, spec), shape, place in zip(self._inputs, self._shapes, self._order, strict=True):
            size = prod(spec.shape)
            part = x[:, :, at : at + size]
            at += size
            if spec.role is not TimeRole.SEQUENCE:
                parts[place] = part[:, 0].reshape(len(x), *spec.shape)
            elif len(shape) == 2:  # an index per sample
                parts[place] = part[..., 0]
            else:
                parts[place] = part.reshape(*x.shape[:2], *spec.shape)
        return parts

    def _reset(self) -> None:
        for layer in self._stateful:
            layer.reset_states()

    def _states(self) -> list[Array]:
        return [np.array(s.numpy()) for layer in self._stateful for s in _flat(layer.states)]


def _shapes(model: Any) -> list[tuple[Any, ...]]:
    try:
        shape = model.input_shape
    except Exception as e:  # each version and back end has an error of its own
        raise InputError(f"reference: {_UNBUILT}") from e
    if isinstance(shape, Mapping):
        shape = [shape[key] for key in sorted(shape)]  # the order of `model.inputs`
    shapes = shape if isinstance(shape, list) else [shape]
    if not shapes or not all(isinstance(s, tuple) and len(s) > 1 for s in shapes):
        raise InputError(f"reference: {_UNBUILT}: {shape}")
    return shapes


def _filled(structure: Any, by_name: Mapping[str, Array]) -> Any:
    """Lists and dictionaries of inputs, as Keras calls a model; a key need not be its input's name."""
    if isinstance(structure, Mapping):
        return {key: _filled(inner, by_name) for key, inner in structure.items()}
    if isinstance(structure, list | tuple):
        return [_filled(inner, by_name) for inner in structure]
    return by_name[_name(structure)]


def _name(tensor: Any) -> str:
    return str(tensor.name).partition(":")[0]


_UNBUILT = "expected a model with known input shapes, (batch, time, features), got none; build it or call it once"


def _check_shape(name: str, spec: TensorSpec, shape: tuple[Any, ...]) -> None:
    index = spec.role is TimeRole.SEQUENCE and len(shape) == 2
    theirs = () if index else shape[2:] if spec.role is TimeRole.SEQUENCE else shape[1:]
    if len(theirs) != len(spec.shape) or any(a is not None and a != b for a, b in zip(theirs, spec.shape, strict=True)):
        raise InputError(
            f"reference: expected {' x '.join(map(str, spec.shape))} features for input {name!r}, got an input of "
            f"shape {shape}"
        )


def _layers(model: Any) -> Iterator[Any]:
    """Every layer, inside other models and wrappers too."""
    inner = [*(getattr(model, "layers", None) or ()), getattr(model, "layer", None)]
    for layer in inner:
        if layer is not None:
            yield layer
            yield from _layers(layer)


def _flat(states: Any) -> Iterator[Any]:
    for state in states if isinstance(states, Sequence) else [states]:
        if isinstance(state, Sequence):
            yield from _flat(state)
        elif state is not None:
            yield state
