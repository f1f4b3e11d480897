"""Flatten -> Dense over a window of n samples, taken apart into a sum that grows sample by sample.

y_t = act(b + sum of W_s g_s(h_s) over s <= t + sum of W_s g_s(0) over s > t): W_s are the kernel's rows for sample s,
g_s is what stands between (activations, batch normalisation, concatenation). At the last sample that is the original;
before it, it is what the original gives when the samples to come are zero in front of Flatten.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from stepstream.graph.ir import Array, Graph, Node, TensorSpec, TimeRole
from stepstream.graph.streamable import REASONS, Blocker
from stepstream.graph.validate import infer
from stepstream.limits import MAX_PIECES, MAX_TABLE
from stepstream.ops.activation import activate

ELEMENTWISE_ONLY = {"softmax", "log_softmax", "sparsemax", "glu"}


@dataclass(frozen=True)
class Piece:
    """A part of a joined vector. source: a node; zero: (n, size), what it gives for samples that are zero, or None
    for a part that is no window."""

    source: str
    size: int
    zero: Array | None


class _Stuck(Exception):
    """Something after Flatten that cannot be taken apart."""


CONTINUED = (
    "it joins windows of {} samples, while a stateful layer carries its state on from one window to the next",
    "use stateful=False where a window stands for itself; else feed and train it with one sample a call",
)


def unfold(graph: Graph, kinds: Mapping[str, str], stateful: bool = False) -> tuple[Graph | None, list[Blocker]]:
    """The graph without Flatten over time, or None and the blockers.

    kinds: layer -> its class in the file; stateful: whether windows continue one another.
    """
    flattens = [n for n in graph.nodes if n.op == "flatten"]
    if not flattens:
        return graph, []
    if stateful:  # the windowing of a position-weighted sum would forget the state where a window ends
        n, (reason, remedy) = flattens[0].params["n"], CONTINUED
        if n > 1:
            return None, [Blocker(f.layer, kinds.get(f.layer, "Flatten"), reason.format(n), remedy) for f in flattens]
        nodes = (replace(node, op="latest", params={}) if node.op == "flatten" else node for node in graph.nodes)
        return Graph(graph.inputs, tuple(nodes), graph.outputs), []
    work = _Unfolding(graph, flattens[0])
    try:
        return work.graph(), []
    except _Stuck as e:
        reason, remedy = REASONS["Flatten"]
        return None, [Blocker(n.layer, kinds.get(n.layer, "Flatten"), f"{reason}; {e}", remedy) for n in flattens]


class _Unfolding:
    def __init__(self, graph: Graph, first: Node) -> None:
        self._old = graph
        self._n: int = first.params["n"]
        self._specs: dict[str, TensorSpec] = {"#mask": TensorSpec((), TimeRole.SEQUENCE, "bool"), **dict(graph.inputs)}
        self._nodes: list[Node] = []
        self._pieces: dict[str, list[Piece]] = {}
        self._taken = {n.id for n in graph.nodes} | set(self._specs)
        self._cells = self._made = 0
        self._kernels: set[int] = set()
        source = next(name for name, spec in graph.inputs if spec.role is TimeRole.SEQUENCE)
        self._position = self._add(first, "position", [source], {"n": self._n})

    def graph(self) -> Graph:
        for node in self._old.nodes:
            joined = [i for i in node.inputs if i in self._pieces]
            self._made += sum(len(self._pieces[i]) for i in joined)
            if self._made > MAX_PIECES:
                raise _Stuck(f"and the layers after it work on more than {MAX_PIECES} parts")
            if node.op == "flatten":
                self._pieces[node.id] = [self._start(node)]
            elif not joined:
                self._keep(node)
            elif node.op == "dense":
                self._finish(node)
            else:
                self._pieces[node.id] = self._between(node)
        for _, source in self._old.outputs:
            if source in self._pieces:
                raise _Stuck("and what comes out is no Dense layer's output")
        return Graph(self._old.inputs, tuple(self._nodes), self._old.outputs)

    def _keep(self, node: Node) -> None:
        self._specs |= infer(node, self._specs)
        self._nodes.append(node)

    def _add(
        self,
        like: Node,
        op: str,
        inputs: Sequence[str],
        params: Any = None,
        weights: Any = None,
        own: str | None = None,
    ) -> str:
        """A new node that belongs to the layer of `like`."""
        name, count = own or f"{like.id}.{op}", 0
        while own is None and name in self._taken:
            count += 1
            name = f"{like.id}.{op}:{count}"
        self._taken.add(name)
        node = replace(
            like, id=name, op=op, inputs=tuple(inputs), params=params or {}, weights=weights or {}, layer_index=-1
        )
        self._keep(node)
        return name

    def _start(self, node: Node) -> Piece:
        (source,) = node.inputs
        size = self._specs[source].size
        if len(self._specs[source].shape) != 1:
            source = self._add(node, "reshape", [source], {"shape": (size,)})
        self._count(self._n * size)
        return Piece(source, size, np.zeros((self._n, size)))

    def _count(self, values: int) -> None:
        """To be called before so many values by position are made."""
        self._cells += values
        if self._cells > MAX_TABLE:
            raise _Stuck(f"and the window of {self._n} samples needs more than {MAX_TABLE} values by position")

    def _between(self, node: Node) -> list[Piece]:
        """A node in front of Dense, on each piece."""
        if node.op == "concatenate":
            return [p for i in node.inputs for p in self._parts(i)]
        if node.op == "reshape" and len(node.params["shape"]) == 1:
            return self._pieces[node.inputs[0]]
        pieces = self._pieces[node.inputs[0]] if len(node.inputs) == 1 else []
        if not pieces or node.op not in {"activation", "scale", "standardise", "batch_norm", "prelu"}:
            raise _Stuck(f"{node.layer!r} after it works on the whole vector")
        if node.op == "activation" and node.params["activation"]["name"] in ELEMENTWISE_ONLY:
            raise _Stuck(f"{node.layer!r} after it works on the whole vector")
        out, at, total = [], 0, sum(self._length(p) for p in pieces)
        for piece in pieces:
            own = slice(at, at + self._length(piece))
            at = own.stop
            out.append(self._one(node, piece, own, total))
        return out

    def _parts(self, source: str) -> list[Piece]:
        return self._pieces[source] if source in self._pieces else [Piece(source, self._specs[source].size, None)]

    def _length(self, piece: Piece) -> int:
        return piece.size if piece.zero is None else piece.zero.size

    def _one(self, node: Node, piece: Piece, own: slice, total: int) -> Piece:
        """One piece through an element-wise node; own: its place in the vector of `total` values."""
        self._count(self._length(piece))
        if node.op == "activation":
            source = self._add(node, "activation", [piece.source], node.params)
            zero = None if piece.zero is None else activate(node.params["activation"], piece.zero)
            return Piece(source, piece.size, zero)
        shape = (piece.size,) if piece.zero is None else piece.zero.shape
        if node.op == "prelu":
            alpha = np.broadcast_to(node.weights["alpha"].reshape(-1), (total,))[own].reshape(shape)
            return self._prelu(node, piece, alpha)
        factor, offset = (np.broadcast_to(v.reshape(-1), (total,))[own].reshape(shape) for v in _affine(node))
        source = self._add(node, "multiply", [piece.source, self._by_position(node, piece, factor)])
        source = self._add(node, "add", [source, self._by_position(node, piece, offset)])
        return Piece(source, piece.size, None if piece.zero is None else piece.zero * factor + offset)

    def _prelu(self, node: Node, piece: Piece, alpha: Array) -> Piece:
        """relu(x) - alpha relu(-x)."""
        relu = {"activation": {"name": "relu"}}
        up = self._add(node, "activation", [piece.source], relu)
        minus = {"factor": np.float32(-1), "offset": np.float32(0)}
        down = self._add(node, "activation", [self._add(node, "scale", [piece.source], {}, minus)], relu)
        down = self._add(node, "multiply", [down, self._by_position(node, piece, alpha)])
        zero = None if piece.zero is None else np.where(piece.zero > 0, piece.zero, alpha * piece.zero)
        return Piece(self._add(node, "subtract", [up, down]), piece.size, zero)

    def _by_position(self, node: Node, piece: Piece, values: Array) -> str:
        """Values for each sample of the window: (n, size). A part that is no window has one row, (size,)."""
        if piece.zero is None:
            # 0 x + values: a constant with the time role of the piece
            weights = {"factor": np.zeros_like(values), "offset": values}
            return self._add(node, "scale", [piece.source], {}, weights)
        self._count(values.size)
        return self._add(node, "embedding", [self._position], {}, {"table": values})

    def _finish(self, node: Node) -> None:
        if id(node.weights["kernel"]) in self._kernels:
            self._count(node.weights["kernel"].size)  # cut into parts anew for each call of the layer
        self._kernels.add(id(node.weights["kernel"]))
        kernel, at, terms = node.weights["kernel"].astype(np.float64), 0, []
        bias = node.weights["bias"].astype(np.float64) if "bias" in node.weights else np.zeros(kernel.shape[1])
        for piece in self._pieces[node.inputs[0]]:
            rows = kernel[at : at + self._length(piece)]
            at += len(rows)
            if piece.zero is None:
                linear = {"units": kernel.shape[1], "activation": {"name": "linear"}}
                terms.append(self._add(node, "dense", [piece.source], linear, {"kernel": rows}))
                continue
            by_sample = rows.reshape(self._n, piece.size, -1)
            shares = np.einsum("nf,nfu->nu", piece.zero, by_sample)
            to_come = np.cumsum(shares[::-1], axis=0)[::-1] - shares + bias  # (n, units)
            bias = np.zeros_like(bias)  # with the first piece only
            weights = {"kernel": by_sample, "bias": to_come}
            terms.append(self._add(node, "position_dense", [piece.source, self._position], {}, weights))
        total = terms[0] if len(terms) == 1 else self._add(node, "add", terms)
        params = {"activation": node.params["activation"]}
        self._add(node, "activation", [total], params, own=node.id)


def _affine(node: Node) -> tuple[Array, Array]:
    """factor and offset of a normalisation, float64."""
    w = {k: v.astype(np.float64) for k, v in node.weights.items()}
    if node.op == "scale":
        return w["factor"], w["offset"]
    if node.op == "standardise":
        return 1 / w["std"], -w["mean"] / w["std"]
    factor = w.get("gamma", 1) / np.sqrt(w["variance"] + node.params["epsilon"])
    return factor, w.get("beta", 0) - w["mean"] * factor
