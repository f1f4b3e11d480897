"""The native executor: the plan of a graph, run by the compiled kernel; and which executor a graph gets."""

from __future__ import annotations

import os
import warnings
from functools import cache
from importlib import import_module
from typing import Any

import numpy as np

from stepstream.errors import StepstreamError, StepstreamWarning
from stepstream.graph.ir import Array, Graph, TimeRole
from stepstream.kernel.plan import Unsupported, plan
from stepstream.ops.executor import Costs, NumpyExecutor

MISSING = "native kernel missing, up to 300 times slower; install a C++ compiler and reinstall"
DAMAGED = "native kernel damaged or made for another machine, up to 300 times slower; reinstall"


def native() -> Any:
    """The compiled module, or None where there is none.

    STEPSTREAM_ISA: "v4", "v3" or "base" forces an instruction set, "numpy" does without the kernel.
    STEPSTREAM_REQUIRE_KERNEL=1: a missing kernel is an error.
    """
    return _found()[0]


@cache
def _found() -> tuple[Any, str]:
    """The compiled module, or None, and why."""
    if os.environ.get("STEPSTREAM_ISA") == "numpy":
        return None, "as STEPSTREAM_ISA asks"
    try:
        return import_module("stepstream.kernel._native"), ""  # compiled, so that no checker knows it
    except ImportError as e:
        if os.environ.get("STEPSTREAM_ISA"):
            raise StepstreamError(f"no kernel as STEPSTREAM_ISA asks for: {e.__cause__ or e}") from e
        why = MISSING if isinstance(e, ModuleNotFoundError) else f"{DAMAGED} ({e})"
        if os.environ.get("STEPSTREAM_REQUIRE_KERNEL", "").lower() in {"1", "true", "yes", "on", "y"}:
            raise StepstreamError(why) from e
        warnings.warn(why, StepstreamWarning, stacklevel=5)  # who called load
        return None, why


def executor_for(graph: Graph) -> tuple[NumpyExecutor, str]:
    """The fastest executor that a graph can have, and what it is, in words."""
    module, why = _found()
    if module is None:
        return NumpyExecutor(graph), f"NumPy: {why}"
    try:
        return KernelExecutor(graph), f"native kernel, {module.ISA}"
    except Unsupported as e:
        return NumpyExecutor(graph), f"NumPy, up to 300 times slower: the native kernel has no {e}"


class KernelExecutor(NumpyExecutor):
    """As the NumPy one, whose layout of a state row it shares; the same bits in any batch, on any machine."""

    arithmetic_id = "kernel-1"
    costs = Costs(call=0.05, ring=2.0, multiply_adds=20_000.0, together=30_000.0, state_floats=1_000.0)

    def compile(self) -> Any:
        """Raises plan.Unsupported."""
        p = plan(self.graph)
        return native().Machine(
            np.array(p.code, np.int64).reshape(-1, 14),
            np.array(p.options, np.float32).reshape(-1, 3),
            np.concatenate([*p.weights, np.zeros(16, np.float32)]),
            np.concatenate([*p.indices, np.zeros(0, np.int32)]),
            np.array(p.state, np.int64).reshape(-1, 3),
            np.array(p.answers, np.int64).reshape(-1, 3),
            self.initial_state(1)[0],
            p.features, p.outputs, p.scratch, p.input, p.mask, p.tile,
        )  # fmt: skip

    def step(self, x: Array, state: Array, mask: Array | None = None) -> tuple[tuple[Array, ...], Array]:
        return stepped(self.machine, self.output_sizes, x, state, mask)

    def whole(self, x: Array, mask: Array | None = None) -> tuple[Array, ...]:
        """As many steps: x (streams, time, features)."""
        table, answers = self.initial_state(len(x)), []
        for t in range(x.shape[1]):
            out, _ = update(self.machine, table, None, x[:, t], None if mask is None else mask[:, t], guard=False)
            answers.append(out)
        ys = _split(np.stack(answers, axis=1), self.output_sizes)
        return tuple(y if r is TimeRole.SEQUENCE else y[:, -1] for y, r in zip(ys, self.output_roles, strict=True))


def update(
    machine: Any,
    table: Array,
    rows: Array | None,
    x: Array,
    mask: Array | None = None,
    guard: bool = True,
    threads: int = 1,
) -> tuple[Array, Array]:
    """Step some rows of a state table in place: table (capacity, state_size), rows (b,), or None for all of them.

    x (b, features), of any float dtype, mask bool (b,) or None -> answers (b, outputs), and bool (b,): whether state
    and answer are finite. With guard a row that would not stay so keeps its state. Raises ValueError, having changed
    nothing, where shapes or types do not fit, or a row is out of range or named twice.
    """
    given, x = x, np.ascontiguousarray(_typed(x, "samples of floats (rows, features)", "fiu", 2), np.float32)
    if x is given and np.may_share_memory(x, table):
        x = x.copy()
    out, finite = np.empty((len(x), machine.outputs), np.float32), np.empty(len(x), np.uint8)
    if rows is not None:
        rows = np.ascontiguousarray(_typed(rows, "row numbers (rows,)", "iu", 1), np.int64)
    flags = None if mask is None else np.ascontiguousarray(_typed(mask, "a mask of bools (rows,)", "b", 1), np.uint8)
    if table.dtype != np.float32 or table.ndim != 2 or not table.flags.carray:  # a copy would lose the states
        raise ValueError(f"expected a table of float32 in C order that can be written, got {table.dtype} {table.shape}")
    machine.step(table, rows, x, flags, out, finite, guard, threads)
    return out, finite.view(bool)


def _typed(values: Any, expected: str, kinds: str, dimensions: int) -> Array:
    array = np.asanyarray(values)  # below a mask lies anything
    if array.dtype.kind not in kinds or array.ndim != dimensions or hasattr(array, "mask"):
        raise ValueError(f"expected {expected}, got {type(array).__name__} of {array.dtype} {array.shape}")
    return array


def stepped(
    machine: Any, sizes: tuple[int, ...], x: Array, state: Array, mask: Array | None
) -> tuple[tuple[Array, ...], Array]:
    """What `Executor.step` returns; the state given is left alone."""
    table = np.array(state, np.float32, order="C")
    out, _ = update(machine, table, None, x, mask, guard=False)
    return _split(out, sizes), table


def _split(out: Array, sizes: tuple[int, ...]) -> tuple[Array, ...]:
    """All answers side by side -> one array for each output."""
    ends = np.cumsum(sizes)
    return tuple(np.ascontiguousarray(out[..., end - n : end]) for end, n in zip(ends, sizes, strict=True))
