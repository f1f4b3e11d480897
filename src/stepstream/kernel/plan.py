"""Graph -> plan: weights packed, and instructions for the native kernel over the values of one row.

A row's values lie in one stretch of scratch memory, each at a place of its own with room for whole blocks of 16 floats
behind it. What each instruction takes is written in native/program.h. An op that has no entry here makes `Unsupported`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from math import inf, prod
from typing import Any

import numpy as np

from stepstream.graph.ir import MASK, Array, Graph, Node, TensorSpec, state_ref
from stepstream.graph.validate import validate
from stepstream.ops import REGISTRY
from stepstream.ops.conv import patches

BLOCK = 16
OPS = (
    "gemm", "activation", "lstm", "gru", "elementwise", "gather", "copy", "embedding", "layer_norm", "dot", "pool",
    "mask_differs", "restore_masked", "position_dense", "calibrate", "isotonic", "trigger",
)  # fmt: skip
ELEMENTWISE = (
    "add", "subtract", "multiply", "minimum", "maximum", "multiply_add", "interpolate", "standardise", "prelu",
    "choose",
)  # fmt: skip
ACTIVATIONS = (
    "linear", "tanh", "sigmoid", "sparse_sigmoid", "hard_sigmoid", "hard_sigmoid_02", "relu", "leaky_relu",
    "thresholded_relu", "elu", "celu", "selu", "softplus", "log_sigmoid", "mish", "softsign", "silu", "hard_silu",
    "gelu", "gelu_tanh", "squareplus", "sparse_plus", "soft_shrink", "hard_shrink", "tanh_shrink", "hard_tanh",
    "exponential", "softmax", "log_softmax", "sparsemax", "glu",
)  # fmt: skip
# options of the activations that have any: (name, default), in the order in which the kernel takes them
OPTIONS: dict[str, tuple[tuple[str, float], ...]] = {
    "relu": (("negative_slope", 0.0), ("max_value", inf), ("threshold", 0.0)),
    "leaky_relu": (("negative_slope", 0.2),),
    "thresholded_relu": (("theta", 1.0),),
    "elu": (("alpha", 1.0),),
    "celu": (("alpha", 1.0),),
    "squareplus": (("b", 4.0),),
    "soft_shrink": (("threshold", 0.5),),
    "hard_shrink": (("threshold", 0.5),),
}
CACHE_BYTES = 128 * 1024  # of scratch that may be in use at a time, so that it stays in the second cache
# beyond these a model runs on NumPy
MAX_SCRATCH = 2**20  # floats of one row
MAX_WEIGHTS = 2**27  # floats, packed
MAX_INDICES = 2**24


class Unsupported(Exception):
    """The graph has an op that the kernel lacks; the message names layer and op."""


class _Large(Exception):
    pass


@dataclass
class Plan:
    """What `native.Machine` is made of. state, answers: (place in the row, place in the scratch, n) of each part."""

    code: list[list[int]] = field(default_factory=list)
    options: list[tuple[float, float, float]] = field(default_factory=list)
    weights: list[Array] = field(default_factory=list)
    indices: list[Array] = field(default_factory=list)
    state: list[tuple[int, int, int]] = field(default_factory=list)
    answers: list[tuple[int, int, int]] = field(default_factory=list)
    features: int = 0
    outputs: int = 0
    scratch: int = 0
    input: int = 0
    mask: int = 0

    @property
    def tile(self) -> int:
        """Rows to work on together: as many as keep their scratch near, in sixes."""
        return max(6, min(96, CACHE_BYTES // (4 * self.scratch) // 6 * 6))


def plan(graph: Graph) -> Plan:
    """Raises Unsupported."""
    return _Planner(graph).plan


def pack(kernel: Array) -> Array:
    """(k, n) -> (blocks, k, 16), zeros behind the last output."""
    k, n = kernel.shape
    full = np.zeros((k, _padded(n)), np.float32)
    full[:, :n] = kernel
    return np.ascontiguousarray(full.reshape(k, -1, BLOCK).transpose(1, 0, 2))


def _padded(n: int) -> int:
    return -(-n // BLOCK) * BLOCK


class _Planner:
    """Goes through a graph's nodes; `places` has where each value lies."""

    def __init__(self, graph: Graph) -> None:
        self.plan = p = Plan(features=graph.features)
        self.specs = validate(graph)
        self.places: dict[str, int] = {}
        self._weights = self._indices = 0
        self._placed: list[int] = []  # where the weights of the layer at hand lie
        self._again: Iterator[int] | None = None  # where they lie already: another call of the layer
        packed: dict[object, list[int]] = {}
        if graph.features + sum(s.size for n in graph.nodes for s in REGISTRY[n.op].slots(n)) > MAX_SCRATCH // 2:
            raise Unsupported("room for samples and states of this size")
        p.mask = self.places[MASK] = self.room(1)
        p.input = at = self.room(graph.features)
        for name, spec in graph.inputs:
            self.places[name] = at
            at += spec.size
        at = 0
        for node in graph.nodes:
            for slot in REGISTRY[node.op].slots(node):
                place = self.places[state_ref(node.id, slot.name)] = self.room(slot.size, gap=0)
                p.state.append((at, place, slot.size))
                at += slot.size
        late = self._late(graph)
        for node in graph.nodes:
            convert = _CONVERTERS.get(node.op)
            if convert is None:
                raise Unsupported(f"layer {node.layer!r} ({node.op})")
            before, key = len(p.code), self._layer(node)
            self._placed, self._again = [], iter(packed[key]) if key in packed else None
            try:
                self.places[node.id] = convert(self, node)
            except _Large as e:
                raise Unsupported(f"room for layer {node.layer!r} ({node.op}), which is too large") from e
            packed.setdefault(key, self._placed)
            for line in p.code[before:]:
                line.append(int(node.id in late))
        for _, source in graph.outputs:
            p.answers.append((p.outputs, self.places[source], self.specs[source].size))
            p.outputs += self.specs[source].size
        if p.scratch % 1024 == 0:  # rows a page apart would meet in the cache
            p.scratch += BLOCK

    def _layer(self, node: Node) -> object:
        """What two calls of a layer have in common, and then its packed weights too."""
        memory = ((name, w.__array_interface__) for name, w in node.weights.items())
        weights = tuple((name, m["data"], m["shape"], m["strides"]) for name, m in memory)
        shapes = tuple(self.specs[source].shape for source in node.inputs)
        return (node.op, repr(node.params), weights, shapes) if weights else node.id

    @staticmethod
    def _late(graph: Graph) -> set[str]:
        """Nodes on which no state depends."""
        needed: set[str] = set()
        late = set()
        for node in reversed(graph.nodes):
            if REGISTRY[node.op].slots(node) or node.id in needed:
                needed |= set(node.inputs)
            else:
                late.add(node.id)
        return late

    # memory

    def room(self, n: int, gap: int = BLOCK) -> int:
        """gap: behind several vectors, the last of which is written in whole blocks too."""
        at = self.plan.scratch
        if at + n > MAX_SCRATCH:
            raise _Large
        self.plan.scratch += _padded(n) + gap
        return at

    def weight(self, values: Array, kernel: bool = False) -> int:
        """Where they lie. kernel: (k, n), to be packed."""
        if self._again is not None:
            return next(self._again)
        if self._weights + values.size > MAX_WEIGHTS:
            raise _Large
        if kernel:
            values = pack(values)
        flat = np.zeros(_padded(values.size), np.float32)
        flat[: values.size] = values.reshape(-1)
        self.plan.weights.append(flat)
        self._placed.append(self._weights)
        self._weights += flat.size
        return self._placed[-1]

    def at(self, node: Node, i: int = 0) -> int:
        """Where a node's input lies."""
        return self.places[node.inputs[i]]

    def spec(self, node: Node, i: int = 0) -> TensorSpec:
        return self.specs[node.inputs[i]]

    def size(self, node: Node) -> int:
        return self.specs[node.id].size

    # instructions

    def emit(self, op: str, *operands: int, f: tuple[float, ...] = ()) -> None:
        self.plan.code.append([OPS.index(op), *operands, *[0] * (12 - len(operands))])
        a, b, c = (*f, *[0.0] * (3 - len(f)))
        self.plan.options.append((a, b, c))

    def gemm(
        self, out: int, parts: list[tuple[int, Array]], bias: Array | None, positions: int = 1, out_step: int = 0
    ) -> None:
        """parts: (place of x, kernel (k, n)), whose products are added."""
        operands: list[int] = []
        for x, kernel in parts:
            operands += [x, kernel.shape[0], self.weight(kernel, kernel=True)]
        if len(parts) == 1:
            operands += [parts[0][0], 0, 0]
        n = parts[0][1].shape[1]
        self.emit(
            "gemm", out, _padded(n) // BLOCK, -1 if bias is None else self.weight(bias), positions,
            parts[0][1].shape[0], out_step, *operands,
        )  # fmt: skip

    def activate(self, activation: Mapping[str, Any], out: int, x: int, n: int, group: int) -> None:
        name, given = activation["name"], {k: v for k, v in activation.items() if v is not None}
        if name == "relu6":
            name, given = "relu", {"max_value": 6.0}
        if name == "gelu" and given.get("approximate"):
            name = "gelu_tanh"
        options = tuple(float(given.get(key, default)) for key, default in OPTIONS.get(name, ()))
        self.emit("activation", out, x, n, ACTIVATIONS.index(name), group, f=options)

    def elementwise(self, kind: str, out: int, n: int, *operands: int | Array) -> int:
        """An operand is a place, or weights."""
        places: list[int] = []
        for x in operands:
            places += [self.weight(x), 1] if isinstance(x, np.ndarray) else [x, 0]
        places += places[:2] * (3 - len(operands))
        self.emit("elementwise", out, ELEMENTWISE.index(kind), n, *places)
        return out

    def gather(self, places: Array, fill: float = 0.0) -> int:
        """places: in the scratch, -1 for the fill."""
        out = self.room(places.size)
        self.emit("gather", out, places.size, self.index(places), f=(fill,))
        return out

    def index(self, places: Array) -> int:
        if self._indices + places.size > MAX_INDICES:
            raise _Large
        self.plan.indices.append(np.ascontiguousarray(places, np.int32).reshape(-1))
        self._indices += places.size
        return self._indices - places.size

    def where(self, node: Node, i: int = 0) -> Array:
        """The places of a node's input, in its shape."""
        spec = self.spec(node, i)
        return np.arange(spec.size, dtype=np.int64).reshape(spec.shape) + self.at(node, i)

    def apply(self, activation: Mapping[str, Any], x: int, shape: tuple[int, ...]) -> int:
        """An activation over the last axis of values of this shape."""
        if activation["name"] == "linear":
            return x
        out = self.room(prod(shape))
        self.activate(activation, out, x, prod(shape), shape[-1] if shape else 1)
        return out


Converter = Callable[[_Planner, Node], int]  # -> where the node's value lies
_CONVERTERS: dict[str, Converter] = {}


def _converts(*ops: str) -> Callable[[Converter], Converter]:
    def register(convert: Converter) -> Converter:
        _CONVERTERS.update(dict.fromkeys(ops, convert))
        return convert

    return register


# recurrent layers


def _gates(weights: Array, count: int) -> Array:
    """(..., count * units) -> (..., count * padded units)."""
    *lead, n = weights.shape
    units = n // count
    out = np.zeros((*lead, count, _padded(units)), np.float32)
    out[..., :units] = weights.reshape(*lead, count, units)
    return out.reshape(*lead, -1)


def _slot(p: _Planner, node: Node, name: str) -> int:
    return p.places[state_ref(node.id, name)]


def _usual(node: Node) -> bool:
    """Whether the kernel has the activations in the layer's own instruction, which takes the sigmoids' x halved."""
    return (node.params["activation"]["name"], node.params["recurrent_activation"]["name"]) == ("tanh", "sigmoid")


def _masked(p: _Planner, node: Node) -> int:
    """What every recurrent layer ends with: its output, where masks leave the state alone."""
    units, slots = node.params["units"], REGISTRY[node.op].slots(node)
    y = _slot(p, node, "h")
    if len(node.inputs) == 1:
        return y
    if slots[-1].name == "y":
        y = _slot(p, node, "y")
        p.emit("copy", y, _slot(p, node, "h"), units)
    mask, first = p.at(node, 1), _slot(p, node, slots[0].name)
    p.emit("restore_masked", mask, first, _slot(p, node, slots[-1].name) + 1)
    if node.params["zero_output_for_mask"]:
        return p.elementwise("choose", p.room(units), units, y, mask, np.zeros(units))
    return y


@_converts("simple_rnn")
def simple_rnn(p: _Planner, node: Node) -> int:
    h, w, units = _slot(p, node, "h"), node.weights, node.params["units"]
    z = p.room(units)
    p.gemm(z, [(p.at(node), w["kernel"]), (h, w["recurrent"])], w.get("bias"))
    p.activate(node.params["activation"], h, z, units, units)
    return _masked(p, node)


@_converts("lstm")
def lstm(p: _Planner, node: Node) -> int:
    h, c, w, units = _slot(p, node, "h"), _slot(p, node, "c"), node.weights, node.params["units"]
    act, gate, stride = node.params["activation"], node.params["recurrent_activation"], _padded(units)
    z, fused = p.room(4 * stride), _usual(node)
    half = np.repeat(np.array([0.5, 0.5, 1, 0.5] if fused else [1, 1, 1, 1], np.float32), units)
    bias = _gates(half * w["bias"], 4) if "bias" in w else None
    p.gemm(z, [(p.at(node), _gates(half * w["kernel"], 4)), (h, _gates(half * w["recurrent"], 4))], bias)
    if fused:
        p.emit("lstm", z, stride, c, h, units, 1)
        return _masked(p, node)
    gates, squashed = p.room(4 * stride), p.room(units)
    for i, activation in enumerate((gate, gate, act, gate)):
        p.activate(activation, gates + i * stride, z + i * stride, units, units)
    p.emit("lstm", gates, stride, c, h, units, 0)
    p.activate(act, squashed, c, units, units)
    p.elementwise("multiply", h, units, gates + 3 * stride, squashed)
    return _masked(p, node)


@_converts("gru")
def gru(p: _Planner, node: Node) -> int:
    h, x, w, units = _slot(p, node, "h"), p.at(node), node.weights, node.params["units"]
    act, gate, stride = node.params["activation"], node.params["recurrent_activation"], _padded(units)
    kernel, recurrent = w["kernel"], w["recurrent"]
    after = node.params["reset_after"]
    bias = w["bias"] if "bias" in w else np.zeros((2, 3 * units) if after else 3 * units, np.float32)
    gates, candidate = p.room(2 * stride), p.room(units)
    fused = after and _usual(node)
    half = np.float32(0.5 if fused else 1)
    early = bias.sum(axis=0) if after else bias
    zr = [_gates(half * part[..., : 2 * units], 2) for part in (kernel, recurrent, early)]
    p.gemm(gates, [(x, zr[0]), (h, zr[1])], zr[2])
    if after:
        ours = p.room(units)
        p.gemm(candidate, [(x, kernel[:, 2 * units :])], bias[0, 2 * units :])
        p.gemm(ours, [(h, recurrent[:, 2 * units :])], bias[1, 2 * units :])
        if fused:
            p.emit("gru", gates, stride, candidate, ours, h, units)
            return _masked(p, node)
    z, r = p.room(units), p.room(units)
    p.activate(gate, z, gates, units, units)
    p.activate(gate, r, gates + stride, units, units)
    if after:
        p.elementwise("multiply_add", candidate, units, r, ours, candidate)
    else:
        p.elementwise("multiply", r, units, r, h)
        p.gemm(candidate, [(x, kernel[:, 2 * units :]), (r, recurrent[:, 2 * units :])], bias[2 * units :])
    new = p.room(units)
    p.activate(act, new, candidate, units, units)
    p.elementwise("interpolate", h, units, z, h, new)
    return _masked(p, node)


# a window as a sum


@_converts("position")
def position(p: _Planner, node: Node) -> int:
    count, out = _slot(p, node, "count"), p.room(1)
    p.emit("copy", out, count, 1)
    p.elementwise("add", count, 1, count, np.ones(1))
    return out


@_converts("position_dense")
def position_dense(p: _Planner, node: Node) -> int:
    kernel = node.weights["kernel"]
    n, k, units = kernel.shape
    if n * k * _padded(units) > MAX_WEIGHTS:
        raise _Large
    out = p.room(units)
    weights = p.weight(np.stack([pack(w) for w in kernel]))
    bias = p.weight(_gates(node.weights["bias"], 1))
    total = _slot(p, node, "sum")
    p.emit("position_dense", out, p.at(node), k, p.at(node, 1), _padded(units) // BLOCK, n, weights, bias, total)
    return out


# calibration and decisions


@_converts("calibrate")
def calibrate(p: _Planner, node: Node) -> int:
    n, scale, out = p.size(node), node.weights["scale"], p.room(p.size(node))
    p.emit("calibrate", out, p.at(node), n, p.weight(scale), scale.size, _slot(p, node, "count"))
    return out


@_converts("isotonic")
def isotonic(p: _Planner, node: Node) -> int:
    x, y, out = node.weights["x"], node.weights["y"], p.room(p.size(node))
    p.emit("isotonic", out, p.at(node), p.size(node), x.size, p.weight(x), p.weight(y))
    return out


@_converts("trigger")
def trigger(p: _Planner, node: Node) -> int:
    rule, out, latched = node.weights["rule"], p.room(1), int(node.params["latched"])
    states = (_slot(p, node, name) for name in ("count", "streak", "class", "decision"))
    weight = p.weight(rule)
    p.emit("trigger", out, p.at(node), p.spec(node).size, weight, len(rule), node.params["k"], latched, *states)
    return out


# one sample


@_converts("dense")
def dense(p: _Planner, node: Node) -> int:
    kernel, shape = node.weights["kernel"], p.spec(node).shape
    positions, units = prod(shape[:-1]), kernel.shape[1]
    out = p.room(positions * units)
    p.gemm(out, [(p.at(node), kernel)], node.weights.get("bias"), positions, units)
    return p.apply(node.params["activation"], out, (*shape[:-1], units))


@_converts("activation")
def activation(p: _Planner, node: Node) -> int:
    return p.apply(node.params["activation"], p.at(node), p.spec(node).shape)


@_converts("embedding")
def embedding(p: _Planner, node: Node) -> int:
    table, out = node.weights["table"], p.room(p.size(node))
    p.emit("embedding", out, p.at(node), p.spec(node).size, p.weight(table), *table.shape)
    return out


def _full(p: _Planner, node: Node, weight: Array) -> Array:
    return np.broadcast_to(weight, p.spec(node).shape)


@_converts("scale", "batch_norm")
def affine(p: _Planner, node: Node) -> int:
    w = node.weights
    if node.op == "scale":
        factor, offset = w["factor"], w["offset"]
    else:
        factor = w.get("gamma", np.float32(1)) / np.sqrt(w["variance"] + np.float32(node.params["epsilon"]))
        offset = w.get("beta", np.float32(0)) - w["mean"] * factor
    n = p.size(node)
    return p.elementwise("multiply_add", p.room(n), n, p.at(node), _full(p, node, factor), _full(p, node, offset))


@_converts("standardise")
def standardise(p: _Planner, node: Node) -> int:
    n, mean, std = p.size(node), *(_full(p, node, node.weights[k]) for k in ("mean", "std"))
    return p.elementwise("standardise", p.room(n), n, p.at(node), mean, std)


@_converts("prelu")
def prelu(p: _Planner, node: Node) -> int:
    n = p.size(node)
    return p.elementwise("prelu", p.room(n), n, p.at(node), _full(p, node, node.weights["alpha"]))


@_converts("layer_norm")
def layer_norm(p: _Planner, node: Node) -> int:
    n, last, out = p.size(node), p.spec(node).shape[-1], p.room(p.size(node))
    weights = [p.weight(_full(p, node, node.weights[k])) if k in node.weights else -1 for k in ("gamma", "beta")]
    centre, epsilon = int(node.params["centre"]), node.params["epsilon"]
    p.emit("layer_norm", out, p.at(node), n // last, last, centre, *weights, f=(epsilon,))
    return out


@_converts("conv")
def conv(p: _Planner, node: Node) -> int:
    kernel, groups = node.weights["kernel"], node.params["groups"]
    bias, per_group, filters = node.weights.get("bias"), kernel.shape[-2], kernel.shape[-1] // groups
    found = patches(node, p.where(node)[None], kernel.shape[:-2], node.params["dilation"], -1)[0]
    found = np.moveaxis(found, kernel.ndim - 2, -1)  # (*out, *size, channels)
    positions = prod(found.shape[: kernel.ndim - 2])
    parts = []
    for g in range(groups):
        own, columns = slice(g * filters, (g + 1) * filters), found[..., g * per_group : (g + 1) * per_group]
        x, out = p.gather(columns), p.room(positions * filters)
        weights = kernel[..., own].reshape(-1, filters)
        p.gemm(out, [(x, weights)], None if bias is None else bias[own], positions, filters)
        parts.append(np.arange(positions * filters).reshape(positions, filters) + out)
    return out if groups == 1 else p.gather(np.concatenate(parts, axis=1))


@_converts("pool")
def pool(p: _Planner, node: Node) -> int:
    size, n = node.params["size"], p.size(node)
    members = patches(node, p.where(node)[None], size, [1] * len(size), -1)[0]
    out, average = p.room(n), int(node.params["kind"] == "average")
    p.emit("pool", out, n, p.index(members), prod(size), average)
    return out


@_converts("pad")
def pad(p: _Planner, node: Node) -> int:
    return p.gather(np.pad(p.where(node), node.params["padding"], constant_values=-1))


@_converts("transpose")
def transpose(p: _Planner, node: Node) -> int:
    return p.gather(p.where(node).transpose(node.params["axes"]))


@_converts("reshape", "repeat", "latest")
def same(p: _Planner, node: Node) -> int:
    return p.at(node)


# several values


@_converts("concatenate")
def concatenate(p: _Planner, node: Node) -> int:
    if any(len(p.spec(node, i).shape) != 1 for i in range(len(node.inputs))):
        return p.gather(np.concatenate([p.where(node, i) for i in range(len(node.inputs))], axis=node.params["axis"]))
    out = at = p.room(p.size(node))
    for i in range(len(node.inputs)):
        p.emit("copy", at, p.at(node, i), p.spec(node, i).size)
        at += p.spec(node, i).size
    return out


@_converts("add", "subtract", "multiply", "minimum", "maximum")
def merge(p: _Planner, node: Node) -> int:
    n, shape, xs = p.size(node), p.specs[node.id].shape, []
    for i in range(len(node.inputs)):
        same = p.spec(node, i).size == n
        xs.append(p.at(node, i) if same else p.gather(np.broadcast_to(p.where(node, i), shape)))
    y = xs[0]
    for x in xs[1:]:
        y = p.elementwise(node.op, p.room(n), n, y, x)
    return y


@_converts("dot")
def dot(p: _Planner, node: Node) -> int:
    out = p.room(1)
    p.emit("dot", out, p.at(node), p.at(node, 1), p.spec(node).size, int(node.params["normalize"]))
    return out


# masks, 0 or 1


@_converts("mask_and", "mask_or")
def mask_logic(p: _Planner, node: Node) -> int:
    y = p.at(node)
    for i in range(1, len(node.inputs)):
        y = p.elementwise("minimum" if node.op == "mask_and" else "maximum", p.room(1), 1, y, p.at(node, i))
    return y


@_converts("mask_differs")
def mask_differs(p: _Planner, node: Node) -> int:
    out = p.room(1)
    p.emit("mask_differs", out, p.at(node), p.spec(node).size, f=(node.params["value"],))
    return out


@_converts("where")
def where(p: _Planner, node: Node) -> int:
    n = p.size(node)
    other = p.at(node, 2) if len(node.inputs) == 3 else np.full(n, node.params["value"], np.float32)
    return p.elementwise("choose", p.room(n), n, p.at(node), p.at(node, 1), other)
