"""What a model costs on this machine: one stream, many streams, NumPy, and live Keras where it is given; in turns."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from itertools import cycle
from statistics import median
from time import perf_counter
from typing import TYPE_CHECKING, Any

import numpy as np

from stepstream.errors import ContractError, InputError
from stepstream.graph.ir import Array
from stepstream.kernel.executor import update
from stepstream.live.windowing import Sliding, Tumbling, Windowing
from stepstream.ops.executor import NumpyExecutor
from stepstream.reference import Reference
from stepstream.testing import difference, outputs, samples, stepped

if TYPE_CHECKING:
    from stepstream.model import Model

BATCHES = (16, 64, 1024)
CLOSE = 1e-4


@dataclass(frozen=True)
class Timing:
    """One contender. seconds: median, of one sample; times: how many times as long as the first."""

    name: str
    seconds: float
    times: float


@dataclass(frozen=True)
class Bench:
    """What `bench` returns. left_out: who was not timed, and why. Prints as a table."""

    timings: tuple[Timing, ...]
    runs_on: str
    left_out: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types."""
        return {"timings": [asdict(t) for t in self.timings], "runs_on": self.runs_on, "left_out": list(self.left_out)}

    def __str__(self) -> str:
        width = max(len(t.name) for t in self.timings)
        rows = [f"{t.name:{width}}  {t.seconds * 1e6:12,.2f} us  {t.times:10,.1f} x" for t in self.timings]
        return "\n".join([f"runs on: {self.runs_on}", *rows, *(f"not timed: {w}" for w in self.left_out)])


def bench(model: Model, reference: Any = None, rounds: int = 15) -> Bench:
    """Time one sample through `Stream.step` under each windowing, and in batches, and compare.

    reference: a live Keras model of the same weights; it answers on a window of the training length, recomputed, which
    is how it is used where samples come one by one. Who answers otherwise than the model is not timed.
    """
    x = samples(model, streams=1, time=min(model.window_length or model.training_length or 20, 100))[0]
    n, lists = len(x), [row.tolist() for row in x]
    calls: dict[str, tuple[Callable[[], object], int]] = {}

    def one(windowing: str | Windowing) -> None:
        stream = model.stream(windowing)

        def run() -> None:
            for row in lists:
                stream.step(row)
            if model.window_length is not None and str(windowing) == "carry":
                stream.reset()

        calls[f"one stream, {windowing}"] = run, n

    one("carry")
    if n > 1:
        one(Tumbling(n))
        one(Sliding(n))
    executor, rng = model.executor, np.random.default_rng(0)
    fresh = executor.initial_state(1)
    for batch in BATCHES:
        rows = rng.permutation(batch)
        given, table = np.repeat(x[:1], batch, axis=0), np.repeat(fresh, batch, axis=0)
        calls[f"a batch of {batch:,}"] = _batch(executor, table, rows, given), batch
    plain = NumpyExecutor(executor.graph)
    if executor.machine is not None:
        state, feed = [fresh], cycle(x[:, None])

        def numpy() -> None:
            state[0] = plain.step(next(feed), state[0])[1] if model.window_length is None else fresh

        calls["NumPy, one stream"] = numpy, 1
    left_out = []
    both = (outputs(model, stepped(e, x[None])) for e in (executor, plain))
    if difference(*both).max() > CLOSE:
        raise ContractError("the executor's answers are not NumPy's; model.verify() says where")
    if reference is not None:
        try:
            found, framework = _reference(model, x, reference)
            calls[f"live {framework}, a window of {n} recomputed"] = found, 1
        except (InputError, ContractError) as e:
            left_out.append(f"live Keras: {e}")
    return Bench(tuple(_race(calls, rounds)), model.runs_on, tuple(left_out))


def _reference(model: Model, x: Array, live: Any) -> tuple[Callable[[], object], str]:
    """A call that recomputes the window, and whose it is; raises ContractError for other answers than the model's."""
    other = Reference(live, model.graph.inputs, list(zip(model.output_names, model.output_sizes, strict=True)))
    answers, _ = other.answers(x[None])
    ours, at = stepped(model.executor, x[None]), 0
    for size, theirs in zip(model.output_sizes, answers, strict=False):
        if difference(ours[:, list(theirs.positions), at : at + size], theirs.values).max() > CLOSE:
            raise ContractError("other answers than the model's; stepstream verify says where")
        at += size
    return lambda: other.answers(x[None]), other.framework


def _batch(executor: NumpyExecutor, table: Array, rows: Array, x: Array) -> Callable[[], object]:
    before = table.copy()
    if executor.machine is None:
        return lambda: executor.step(x, before)

    def run() -> None:
        table[:] = before  # a window that ends would refuse the next sample
        update(executor.machine, table, rows, x)

    return run


def _race(calls: dict[str, tuple[Callable[[], object], int]], rounds: int) -> list[Timing]:
    """In turns, so that a busy moment of the machine meets all of them."""
    often, times = {}, {name: [0.0] * 0 for name in calls}
    for name, (call, _) in calls.items():
        call()
        start = perf_counter()
        call()
        often[name] = max(1, int(0.01 / max(perf_counter() - start, 1e-7)))
    for _ in range(rounds):
        for name, (call, count) in calls.items():
            start = perf_counter()
            for _ in range(often[name]):
                call()
            times[name].append((perf_counter() - start) / often[name] / count)
    first = median(next(iter(times.values())))
    return [Timing(name, median(t), median(t) / first) for name, t in times.items()]
