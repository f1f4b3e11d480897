"""LSTM, GRU and simple RNN. Gate order in the weights: LSTM i, f, c, o; GRU z, r, h (as Keras stores them)."""

from __future__ import annotations

from abc import abstractmethod
from typing import ClassVar

import numpy as np

from stepstream.errors import GraphError
from stepstream.graph.ir import Array, Node, StateSlot, TensorSpec, TimeRole
from stepstream.ops.activation import activate, activated_shape
from stepstream.ops.declared import ACTIVATION, FLAG, whole
from stepstream.ops.dense import project
from stepstream.ops.mask import expect_mask
from stepstream.ops.op import Inputs, Op, State, Weights, params_of, register


class _Recurrent(Op):
    """params: units, activation, return_sequences, zero_output_for_mask; the first state slot is the output.

    inputs: a sequence of vectors, and perhaps its mask. A masked sample leaves the state alone and repeats the last
    output. weights `initial_h` (units,), and `initial_c`: the state before the first sample, where it is not zero.
    """

    gates = 1
    takes = ("x", "mask?")
    params: ClassVar = {
        "units": whole(),
        "activation": ACTIVATION,
        "return_sequences": FLAG,
        "zero_output_for_mask": FLAG,
    }
    weights: ClassVar[tuple[str, ...]] = ("kernel", "recurrent", "bias", "initial_h")

    def infer(self, node: Node, *xs: TensorSpec) -> TensorSpec:
        x = xs[0]
        for mask in xs[1:]:
            expect_mask(node, mask)
        units, activation, sequences, _ = params_of(
            node, "units", "activation", "return_sequences", "zero_output_for_mask"
        )
        for own in (activation, node.params.get("recurrent_activation", activation)):
            if activated_shape(node, own, (units,)) != (units,):
                raise GraphError(f"layer {node.layer!r}: activation {own['name']} changes the number of units")
        if x.role is not TimeRole.SEQUENCE or len(x.shape) != 1:
            raise GraphError(
                f"layer {node.layer!r}: expected a sequence of vectors, got {x.role} of shape {x.shape}; "
                "a value that is known only after the last sample cannot be fed back as a sequence"
            )
        self.expect(node, "kernel", (x.shape[0], self.gates * units))
        self.expect(node, "recurrent", (units, self.gates * units))
        if "bias" in node.weights:
            self.expect(node, "bias", self.bias_shape(node, units))
        for slot in self.slots(node):
            if slot.initial is not None:
                self.expect(node, slot.initial, (units,))
        return TensorSpec((units,), TimeRole.SEQUENCE if sequences else TimeRole.LATEST)

    def bias_shape(self, node: Node, units: int) -> tuple[int, ...]:
        return (self.gates * units,)

    slot_names: tuple[str, ...] = ("h",)

    def slots(self, node: Node) -> tuple[StateSlot, ...]:
        shape = (node.params["units"],)
        own = tuple(
            StateSlot(name, shape, f"initial_{name}" if f"initial_{name}" in node.weights else None)
            for name in self.slot_names
        )
        # before the first sample that counts the output is zero, and so no longer the state
        return (*own, StateSlot("y", shape)) if own[0].initial and len(node.inputs) > 1 else own

    def multiply_adds(self, node: Node, *xs: TensorSpec) -> int:
        return node.weights["kernel"].size + node.weights["recurrent"].size

    @abstractmethod
    def cell(self, node: Node, w: Weights, xw: Array, state: State) -> State:
        """The new state from xw = x W (+ input bias), (streams, gates * units)."""

    def inputs(self, node: Node, w: Weights, x: Array) -> Array:
        z = project(x, w["kernel"])
        return z + w["bias"] if "bias" in w else z

    def step(self, node: Node, w: Weights, xs: Inputs, state: State) -> tuple[Array, State]:
        """x (streams, features), state slots (streams, units) -> y (streams, units) and the new slots."""
        x, mask = xs[0], xs[1] if len(xs) > 1 else None
        assert x is not None
        return self._advance(node, w, self.inputs(node, w, x), state, mask)

    def _advance(self, node: Node, w: Weights, xw: Array, state: State, mask: Array | None) -> tuple[Array, State]:
        own = len(self.slot_names)
        new = self.cell(node, w, xw, state[:own])
        new = (*new, new[0]) if len(state) > own else new
        if mask is None:
            return new[0], new
        keep = mask[:, None]
        new = tuple(np.where(keep, n, s) for n, s in zip(new, state, strict=True))
        y = new[-1] if len(state) > own else new[0]
        return np.where(keep, y, 0).astype(xw.dtype) if node.params["zero_output_for_mask"] else y, new

    def whole(self, node: Node, w: Weights, xs: Inputs, state: State) -> tuple[Array, State]:
        """x (streams, time, features) -> (streams, time, units), or (streams, units) of the last position."""
        x, mask = xs[0], xs[1] if len(xs) > 1 else None
        assert x is not None
        xw = self.inputs(node, w, x)  # (s, t, gates * u)
        y = np.zeros((len(x), x.shape[1], node.params["units"]), x.dtype)
        for t in range(x.shape[1]):
            y[:, t], state = self._advance(node, w, xw[:, t], state, None if mask is None else mask[:, t])
        return y if node.params["return_sequences"] else y[:, -1], state


@register
class SimpleRNN(_Recurrent):
    """h' = activation(x W + h U + b). Source: Elman 1990."""

    name = "simple_rnn"

    def cell(self, node: Node, w: Weights, xw: Array, state: State) -> State:
        return (activate(node.params["activation"], xw + project(state[0], w["recurrent"])),)


class _Gated(_Recurrent):
    """params also: recurrent_activation, for the gates."""

    params: ClassVar = _Recurrent.params | {"recurrent_activation": ACTIVATION}

    def infer(self, node: Node, *xs: TensorSpec) -> TensorSpec:
        params_of(node, "recurrent_activation")
        return super().infer(node, *xs)


@register
class LSTM(_Gated):
    """Source: Hochreiter & Schmidhuber 1997, with the forget gate of Gers et al. 2000."""

    name = "lstm"
    gates = 4
    weights = (*_Recurrent.weights, "initial_c")

    slot_names = ("h", "c")

    def cell(self, node: Node, w: Weights, xw: Array, state: State) -> State:
        h, c = state
        act, gate = node.params["activation"], node.params["recurrent_activation"]
        i, f, g, o = np.split(xw + project(h, w["recurrent"]), 4, axis=1)  # each (s, u)
        c = activate(gate, f) * c + activate(gate, i) * activate(act, g)
        return activate(gate, o) * activate(act, c), c


@register
class GRU(_Gated):
    """Source: Cho et al. 2014 (arXiv:1406.1078); reset_after: the form of cuDNN, with a bias (2, 3 * units)."""

    name = "gru"
    gates = 3
    params: ClassVar = _Gated.params | {"reset_after": FLAG}

    def infer(self, node: Node, *xs: TensorSpec) -> TensorSpec:
        params_of(node, "reset_after")
        return super().infer(node, *xs)

    def bias_shape(self, node: Node, units: int) -> tuple[int, ...]:
        return (2, 3 * units) if node.params["reset_after"] else (3 * units,)

    def inputs(self, node: Node, w: Weights, x: Array) -> Array:
        if "bias" not in w:
            return project(x, w["kernel"])
        return project(x, w["kernel"]) + (w["bias"][0] if node.params["reset_after"] else w["bias"])

    def cell(self, node: Node, w: Weights, xw: Array, state: State) -> State:
        (h,) = state
        u = node.params["units"]
        act, gate = node.params["activation"], node.params["recurrent_activation"]
        if node.params["reset_after"]:
            hu = project(h, w["recurrent"])  # (s, 3u)
            hu = hu + w["bias"][1] if "bias" in w else hu
            z = activate(gate, xw[:, :u] + hu[:, :u])
            r = activate(gate, xw[:, u : 2 * u] + hu[:, u : 2 * u])
            candidate = activate(act, xw[:, 2 * u :] + r * hu[:, 2 * u :])
        else:
            hu = project(h, w["recurrent"][:, : 2 * u])
            z = activate(gate, xw[:, :u] + hu[:, :u])
            r = activate(gate, xw[:, u : 2 * u] + hu[:, u:])
            candidate = activate(act, xw[:, 2 * u :] + project(r * h, w["recurrent"][:, 2 * u :]))
        return (z * h + (1 - z) * candidate,)
