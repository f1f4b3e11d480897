"""The contract as code: `verify_contract(model)` proves it, `verify` measures it against others.

    step(x[0]), ... step(x[t])  ==  whole(x[0..t])  ==  the original framework on x[0..t]

under sliding(n) the same with the last n samples, both ways of computing it; and, bit for bit: the same stream gives
the same outputs in any batch, beside any neighbour (even NaN), and however often its state was saved and restored.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike

from stepstream.arrays import float32
from stepstream.errors import ContractError, InputError
from stepstream.graph.attach import uncalibrated
from stepstream.graph.ir import Array, TimeRole
from stepstream.graph.passes import input_scale
from stepstream.live.results import answered
from stepstream.live.sliding import Recompute
from stepstream.live.state import Executor
from stepstream.live.windowing import Carry, Sliding, Windowing
from stepstream.ops import REGISTRY
from stepstream.ops.executor import NumpyExecutor
from stepstream.reference import ROUNDING, Reference

if TYPE_CHECKING:
    from stepstream.live.stream import Stream
    from stepstream.model import Model

TOLERANCE = 1e-5
MAX_POSITIONS = 50  # that are compared with the whole pass, each of which costs as much as all samples up to there
LARGEST = 1e30  # sample that is made: scales may be absurd


@dataclass(frozen=True)
class Check:
    """One comparison. error: the largest, absolute or relative to values above 1; position: where (0 is first)."""

    name: str
    compared_with: str
    error: float
    position: int | None
    tolerance: float
    ok: bool
    note: str = ""

    def __str__(self) -> str:
        at = "" if self.position is None else f" at position {self.position}"
        note = f" ({self.note})" if self.note else ""
        mark = "ok    " if self.ok else "FAILED"
        return (
            f"{mark} {self.name}: compared with {self.compared_with}, largest error {self.error:.2g}{at}, "
            f"allowed {self.tolerance:.2g}{note}"
        )


@dataclass(frozen=True)
class Verification:
    """What was compared, one `Check` each, and what was not (`notes`). Prints as lines."""

    checks: tuple[Check, ...]
    notes: tuple[str, ...] = ()

    @property
    def ok(self) -> bool:
        """Whether every comparison holds."""
        return all(c.ok for c in self.checks)

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types."""
        return {"ok": self.ok, "checks": [asdict(c) for c in self.checks], "notes": list(self.notes)}

    def __str__(self) -> str:
        return "\n".join([*map(str, self.checks), *self.notes])


def samples(model: Model, streams: int = 4, time: int | None = None, seed: int = 0) -> Array:
    """Random samples, float32 (streams, time, features), where the model's scaling expects them; the same for the same
    seed.
    """
    time = time or model.window_length or min(model.training_length or 12, 24)
    rng = np.random.default_rng(seed)
    shape = (streams, time, model.n_features)
    drawn, scale = rng.normal(size=shape), input_scale(model.graph)
    if scale is not None:
        mean, std = scale
        drawn = np.clip(drawn * std + mean, -LARGEST, LARGEST)
    x = drawn.astype(np.float32)
    for column, count in model.index_columns.items():
        x[..., column] = rng.integers(0, count, shape[:2])
    for name, spec in model.graph.inputs:
        if spec.role is TimeRole.STATIC:  # the same at every sample
            x[..., model.input_columns[name]] = x[:, :1, model.input_columns[name]]
    return x


def verify_contract(model: Model, x: ArrayLike | None = None) -> Verification:
    """Prove the contract on x (m, time, features) or on random samples; raises ContractError where it breaks."""
    data = samples(model) if x is None else model.batch(x)
    result = Verification(tuple(_contract(model, data)), tuple(_left_out(data)))
    if not result.ok:
        raise ContractError("\n".join(str(c) for c in result.checks if not c.ok))
    return result


def verify(model: Model, x: ArrayLike | None, expected: ArrayLike | None, reference: Any) -> Verification:
    """See `Model.verify`."""
    if x is None and expected is not None:
        raise InputError("expected outputs were given without the samples they belong to; give x=")
    data = samples(model) if x is None else model.batch(x)
    checks = list(_contract(model, data))
    notes = [f"the model was written by {model.reading.provenance}", *model.reading.notes, *_left_out(data)]
    if expected is not None:
        checks.append(_expected(model, data, float32(expected, "numbers as expected outputs")))
    if reference is not None:
        if model.calibrated:
            model = model.with_graph(uncalibrated(model.graph))
            notes.append("compared with the reference without the calibration, of which it knows nothing")
        other = Reference(reference, model.graph.inputs, list(zip(model.output_names, model.output_sizes, strict=True)))
        if x is None and (time := other.samples(data.shape[1])) > data.shape[1]:
            data = samples(model, time=time)  # the contract needs no more than a few samples
        found, said = _reference(model, data, other)
        checks += found
        notes += said
    if expected is None and reference is None:
        notes.append("compared with itself alone: give expected outputs or a live Keras model to compare with")
    return Verification(tuple(checks), tuple(notes))


def positions_of(time: int) -> list[int]:
    """All of so many positions, or of many a few: always the same, the first three and the last three among them.

    Where n + 2 samples are cut by sliding(n), the last three are the full window and its first two moves.
    """
    if time <= MAX_POSITIONS:
        return list(range(time))
    spread = np.linspace(0, time - 1, MAX_POSITIONS).astype(int).tolist()
    return sorted({*spread, 1, 2, time - 3, time - 2})


def _left_out(x: Array) -> list[str]:
    time, compared = x.shape[1], len(positions_of(x.shape[1]))
    if compared == time:
        return []
    return [f"compared with the whole pass at {compared} of {time} positions: the first, the last and some between"]


def stepped(executor: Executor, x: Array, mask: Array | None = None, at: Sequence[int] | None = None) -> Array:
    """All answers, step by step: x (m, time, features) -> (m, time, all outputs side by side).

    at: the positions whose answers are asked for, if not all; sliding(n) recomputes no others.
    """
    state, out = executor.initial_state(len(x)), []
    wanted = set(range(x.shape[1]) if at is None else at)
    for t in range(x.shape[1]):
        if t not in wanted and isinstance(executor, Recompute):
            state = executor.keep(x[:, t], state, None if mask is None else mask[:, t])
            continue
        ys, state = executor.step(x[:, t], state, None if mask is None else mask[:, t])
        if t in wanted:
            out.append(np.concatenate(ys, axis=1))
    return np.stack(out, axis=1)


def outputs(model: Model, answers: Array) -> Array:
    """(..., all outputs side by side) without the decision, which is a whole number and no matter of tolerance."""
    return answers[..., : sum(model.output_sizes)]


def difference(a: Array, b: Array) -> Array:
    """Absolute, or relative to b where that is above 1; the same non-finite value counts as equal."""
    a, b = a.astype(np.float64), b.astype(np.float64)
    with np.errstate(all="ignore"):
        d = np.abs(a - b) / np.maximum(1, np.abs(b))
    return np.where((a == b) | (np.isnan(a) & np.isnan(b)), 0, np.where(np.isnan(d), np.inf, d))


@dataclass(frozen=True)
class Yardstick:
    """How well float32 can do on these samples: the float64 answers, and how far float32 may drift from them.

    noise: what a change of the samples in their seventh digit does. No float32 run has a say in it, ours least of all.
    """

    exact: Array
    noise: Array

    def at(self, positions: Sequence[int]) -> Yardstick:
        """For some positions only."""
        return Yardstick(self.exact[:, list(positions)], self.noise[:, list(positions)])


def yardstick(model: Model, x: Array, windowing: Windowing | None = None, mask: Array | None = None) -> Yardstick:
    """x (m, time, features) -> both (m, time, outputs), under carry or another windowing."""
    windowing = windowing or Carry()
    double = windowing.on(NumpyExecutor(model.graph, np.float64))[1]
    exact = outputs(model, stepped(double, x, mask))
    nudges = np.random.default_rng(0).choice([-1, 1], x.shape)
    nudges[..., list(model.index_columns)] = 0
    noise = difference(outputs(model, stepped(double, x * (1 + 1e-6 * nudges), mask)), exact)
    return Yardstick(exact, _so_far(noise))


def coarse(model: Model, x: Array, rounding: float) -> Yardstick:
    """How well half precision can do: the worst that samples and weights do that are off by one rounding."""
    rng = np.random.default_rng(0)

    def nudged(values: Array) -> Array:
        return values * (1 + rounding * rng.choice([-1, 1], values.shape))

    graph = model.graph
    nodes = (replace(n, weights={name: nudged(w) for name, w in n.weights.items()}) for n in graph.nodes)
    inputs, indices = nudged(x), list(model.index_columns)
    inputs[..., indices] = x[..., indices]
    exact = outputs(model, stepped(NumpyExecutor(graph, np.float64), x))
    other = stepped(NumpyExecutor(replace(graph, nodes=tuple(nodes)), np.float64), inputs)
    noise = difference(outputs(model, other), exact)
    return Yardstick(exact, np.full(exact.shape, max(rounding, noise.max())))


def compare(
    name: str,
    compared_with: str,
    ours: Array,
    theirs: Array,
    measure: Yardstick,
    positions: Sequence[int] | None = None,
) -> Check:
    """All (m, time, outputs), or some positions of them.

    As long as both float32 runs stay within 1e-5 of the float64 run, both are right, and they may lie on either side of
    it. From there on the tolerance is ten times the noise. The other side's own error is no measure: it would excuse a
    model that is simply another one. Where float32 overflows on one side alone, that is a failure.
    """
    error = difference(ours, theirs)
    conditioned = np.maximum(measure.noise, _so_far(difference(theirs, measure.exact))) <= TOLERANCE
    allowed = np.where(conditioned, TOLERANCE + measure.noise, np.maximum(TOLERANCE, 10 * measure.noise))
    allowed = np.where(np.isfinite(ours) == np.isfinite(theirs), allowed, TOLERANCE)
    worst = int(np.where(np.isinf(allowed), 0, error / allowed).argmax())
    ok = bool((error <= allowed).all())
    note = ""
    if ok and not conditioned.all():
        note = f"ill-conditioned: float32 itself is up to {measure.noise.max():.1g} off a float64 run"
    position = int(np.unravel_index(worst, error.shape)[1])
    position = position if positions is None else positions[position]
    return Check(name, compared_with, float(error.flat[worst]), position, float(allowed.flat[worst]), ok, note)


def _so_far(off: Array) -> Array:
    """The largest error of any output of the same stream, up to each position: (m, time, outputs)."""
    worst = np.maximum.accumulate(off.max(axis=-1, keepdims=True), axis=1)
    return np.broadcast_to(worst, off.shape)


def _contract(model: Model, x: Array) -> list[Check]:
    executor, at, oracle = model.executor, positions_of(x.shape[1]), NumpyExecutor(model.graph)
    ours, measure = stepped(executor, x), yardstick(model, x).at(at)
    whole = outputs(model, np.stack([np.concatenate(oracle.last(x[:, : t + 1]), axis=1) for t in at], axis=1))
    given = outputs(model, ours)
    where = "every position" if len(at) == x.shape[1] else f"{len(at)} positions"
    checks = [compare("step equals whole", f"the whole pass at {where}", given[:, at], whole, measure, at)]

    def same(name: str, other: Array, reference: Array = ours) -> None:
        d = np.where(other.view(np.uint32) == reference.view(np.uint32), 0.0, difference(other, reference))
        differs = other.view(np.uint32) != reference.view(np.uint32)
        where = int(np.argwhere(differs)[0][1]) if differs.any() else None
        checks.append(
            Check(name, "the same streams, bit for bit", float(d.max(initial=0)), where, 0, not differs.any())
        )

    same("one stream at a time", np.concatenate([stepped(executor, x[i : i + 1]) for i in range(len(x))]))
    same("in another order", stepped(executor, x[::-1])[::-1])
    wide = np.concatenate([x] * 3)
    same("in a larger batch", stepped(executor, wide)[len(x) : 2 * len(x)])
    poisoned = np.concatenate([np.full_like(x, np.nan), x, np.full_like(x, 3e38)])
    same("beside NaN and garbage", stepped(executor, poisoned)[len(x) : 2 * len(x)])
    same("in batches that change at every sample", _regrouped(executor, x))
    same("saved and restored at every position", _restored(executor, x))
    if model.decides:
        same("decisions", ours[..., -1:], _decisions(model, given))
    alone = [np.concatenate(executor.last(x[i : i + 1]), axis=1) for i in range(len(x))]
    together = np.concatenate(executor.last(x), axis=1)[None]
    same("the whole pass, one stream at a time", np.stack(alone, axis=1), together)
    mask = np.random.default_rng(1).random(x.shape[:2]) > 0.3
    masked = [np.concatenate(oracle.last(x[:, : t + 1], mask[:, : t + 1]), axis=1) for t in at]
    through, measure = outputs(model, stepped(executor, x, mask)), yardstick(model, x, mask=mask).at(at)
    theirs = outputs(model, np.stack(masked, axis=1))
    checks.append(compare("step equals whole, masked", "the whole pass", through[:, at], theirs, measure, at))
    used, fresh = model.stream("carry"), model.stream("carry")
    _answers(used, x[-1])
    used.reset()
    expected = _answers(fresh, x[0])
    same("reset equals fresh", _answers(used, x[0]), expected)
    same("saved to a file and loaded at every position", _filed(model, x[0]), expected)
    return checks + _sliding(model, x)


def _sliding(model: Model, x: Array) -> list[Check]:
    """sliding(n), both ways, and alone as in a batch. n: the model's own window, or 3, which moves on at once."""
    n = model.window_length or 3
    x = np.concatenate([x] * (1 + (n + 2) // x.shape[1]), axis=1)[:, : max(n + 2, min(x.shape[1], 12))]
    at, oracle = positions_of(x.shape[1]), NumpyExecutor(model.graph)
    windows = [x[:, max(0, t + 1 - n) : t + 1] for t in at]
    whole = outputs(model, np.stack([np.concatenate(oracle.last(w), axis=1) for w in windows], axis=1))
    measure = yardstick(model, x, Sliding(n, by="states")).at(at)
    checks = []
    for by in ("recompute", "states"):
        executor = Sliding(n, by=by).on(model.executor)[1]
        ours = stepped(executor, x, at=at)
        name = f"sliding({n}, by={by})"
        given = outputs(model, ours)
        checks.append(compare(name, f"the whole pass on the last {n} samples", given, whole, measure, at))
        alone = stepped(executor, x[:1], at=at)
        differs = alone.view(np.uint32) != ours[:1].view(np.uint32)
        error, where = (
            float(difference(alone, ours[:1]).max()),
            at[int(np.argwhere(differs)[0][1])] if differs.any() else None,
        )
        checks.append(
            Check(f"{name}, alone", "the same stream in a batch, bit for bit", error, where, 0, not differs.any())
        )
    return checks


def _decisions(model: Model, given: Array) -> Array:
    """What NumPy's trigger makes of these outputs (m, time, outputs): there is no rounding between it and others'."""
    trigger = next(n for n in model.graph.nodes if n.id == model.graph.outputs[-1][1])
    op, dtype = REGISTRY[trigger.op], given.dtype
    state = tuple(np.zeros((len(given), *slot.shape), dtype) for slot in op.slots(trigger))
    return op.whole(trigger, trigger.weights, (given,), state)[0]


def _restored(executor: NumpyExecutor, x: Array) -> Array:
    """Every state goes through its logical slots as bytes, to a new executor, at every position."""
    out, state = [], executor.initial_state(len(x))
    for t in range(x.shape[1]):
        other = type(executor)(executor.graph)
        rows = []
        for row in state:
            slots = {k: (v.tobytes(), v.shape) for k, v in executor.unpack(row).items()}
            rows.append(other.pack({k: np.frombuffer(b, np.float32).reshape(s) for k, (b, s) in slots.items()}))
        ys, state = other.step(x[:, t], np.stack(rows))
        out.append(np.concatenate(ys, axis=1))
    return np.stack(out, axis=1)


def _regrouped(executor: NumpyExecutor, x: Array) -> Array:
    """Streams are split and merged anew at every sample."""
    state, out, rng = executor.initial_state(len(x)), [], np.random.default_rng(2)
    for t in range(x.shape[1]):
        y: Array | None = None
        for group in np.array_split(rng.permutation(len(x)), int(rng.integers(1, len(x) + 1))):
            ys, state[group] = executor.step(x[group, t], state[group])
            part = np.concatenate(ys, axis=1)
            y = np.zeros((len(x), part.shape[1]), part.dtype) if y is None else y
            y[group] = part
        assert y is not None
        out.append(y)
    return np.stack(out, axis=1)


def _filed(model: Model, x: Array) -> Array:
    """One stream, saved to a file and taken up by a new one after every sample."""
    out = []
    with tempfile.TemporaryDirectory() as folder:
        path, stream = Path(folder) / "state.h5", model.stream("carry")
        for sample in x:
            answer = _answers(stream, sample[None])
            if not answer.size:
                break
            out.append(answer)
            stream.save(path)
            stream = model.stream("carry")
            stream.load(path)
    return np.concatenate(out, axis=1) if out else _answers(stream, x)


def _answers(stream: Stream, x: Array) -> Array:
    """(1, time, outputs), up to a sample that the stream refuses because the numbers overflow."""
    out = []
    for sample in x:
        try:
            y = stream.step(sample)
        except InputError:
            break
        parts = list(y.values()) if isinstance(y, dict) else [y]
        if stream.model.decides:
            parts.append(-1.0 if stream.decision is None else float(stream.decision))
        out.append(np.concatenate([np.atleast_1d(np.float32(p)) for p in parts]))
    return np.array(out, np.float32).reshape(1, len(out), answered(stream.model))


def _expected(model: Model, x: Array, expected: Array) -> Check:
    units = sum(model.output_sizes)
    m, time, _ = x.shape
    expected = expected.reshape(m, 1) if expected.shape == (m,) and units == 1 else expected
    if expected.shape == (m, units):
        positions = [time - 1]
        expected = expected[:, None]
    elif expected.shape == (m, time, units):
        positions = list(range(time))
    else:
        raise InputError(f"expected outputs of shape {(m, units)} or {(m, time, units)}, got {expected.shape}")
    measure = yardstick(model, x).at(positions)
    ours = outputs(model, stepped(model.executor, x))[:, positions]
    return compare("step equals expected", "the expected outputs", ours, expected, measure, positions)


def _scaled(model: Model, x: Array) -> Array:
    """x as it comes out of `load(scale=...)`, of which the reference knows nothing; a layer's scale is its own too."""
    x = x.copy()
    for node in model.graph.nodes:
        if node.is_scale:
            part = x[..., model.input_columns[node.inputs[0]]]
            part[:] = (part - node.weights["mean"].reshape(-1)) / node.weights["std"].reshape(-1)
    return x


def _reference(model: Model, x: Array, reference: Reference) -> tuple[list[Check], list[str]]:
    """One check for each output, at the positions that the reference has answers for."""
    answers, notes = reference.answers(_scaled(model, x))
    half, ours = reference.precision, stepped(model.executor, x)
    measure = coarse(model, x, ROUNDING[half]) if half else yardstick(model, x)
    checks, at = [], 0
    for size, theirs in zip(model.output_sizes, answers, strict=False):  # there may be none
        where, units = list(theirs.positions), slice(at, at + size)
        at += size
        name = "step equals the reference" + (f", output {theirs.output!r}" if len(model.output_sizes) > 1 else "")
        part = Yardstick(measure.exact[:, where, units], measure.noise[:, where, units])
        check = compare(name, f"live {reference.framework}", ours[:, where, units], theirs.values, part, where)
        note = f"the reference computes in {half}: 10 times what its rounding does is allowed" if half else check.note
        checks.append(replace(check, note=note))
    return checks, notes
