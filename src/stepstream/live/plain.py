"""The short way of an Engine: what is plain enough for the native kernel to do alone, look-up and all."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import DTypeLike

from stepstream.graph.ir import Array
from stepstream.kernel.executor import native
from stepstream.kernel.keys import Key
from stepstream.live.decision import decisions
from stepstream.live.records import Shape
from stepstream.live.results import Result, Results
from stepstream.live.stream import Stream
from stepstream.live.table import Table
from stepstream.live.windowing import Carry, Session, Sliding, Tumbling

_NUMBERS = frozenset({float, int})


def streams(rules: Stream, table: Table, shape: Shape, gap_is_error: bool, every: float) -> Any:
    """What takes plain samples; None where there is no kernel, or the model needs to look at samples more closely."""
    machine, windowing, model = rules._executor.machine, rules.windowing, rules.model
    if machine is None or rules._static or model.index_columns:
        return None
    window, length, sliding = model.window_length, model.training_length, isinstance(windowing, Sliding)
    n = windowing.n if isinstance(windowing, Sliding | Tumbling) else window
    made = native().Streams(
        machine,
        table.keys.native,
        table.state,
        table.meta.view(np.uint8).reshape(table.capacity, -1),
        Result,
        remember=shape.remember,
        keep=shape.keep,
        cut=windowing.n if isinstance(windowing, Tumbling) else 0,
        gap=float(windowing.gap) if isinstance(windowing, Session) else 0.0,
        every=every,
        limit=window or 0 if isinstance(windowing, Carry | Session) else 0,
        whole=n or length or 0,
        exact=n is not None and not sliding,
        most=windowing.n if isinstance(windowing, Sliding) else sys.maxsize,
        length=-1 if length is None else length,
        gap_is_error=gap_is_error,
        decides=model.decides,
    )
    made.asks = rules._says_restart
    return made


def floats(X: Any, features: int, apart: bool) -> Array | None:
    """An array (n, features) of floats as float32; None for other forms of samples. apart: in memory of its own."""
    if type(X) is not np.ndarray or X.ndim != 2 or X.shape[1] != features or X.dtype.char not in "fd" or not len(X):
        return None
    with np.errstate(all="ignore"):
        return np.array(X, np.float32, order="C") if apart else np.require(X, np.float32, ["C", "A"])


def columns(seq: Any, time: Any, n: int) -> bool:
    """Whether numbers and times of n samples are what the kernel takes as it is."""
    return all(
        given is None
        or ((type(given) is np.ndarray and given.shape == (n,) and given.dtype == dtype) and given.flags.carray)
        for given, dtype in ((seq, np.int64), (time, np.float64))
    )


def nothing_ends(end: Any, n: int) -> bool:
    """Whether no stream ends with any of n samples, in a form that needs no closer look."""
    return end is None or (type(end) is np.ndarray and end.shape == (n,) and end.dtype == bool and not end.any())


def room(n: int, outputs: int, decides: bool, seq: Array | None) -> tuple[Results, Array, Array, Array]:
    """For the answers to n samples, with their numbers; for all that the model gives, the outputs and perhaps a
    decision; for the rows of their streams, and for their times.
    """
    given = np.empty((n, outputs + decides), np.float32)
    answers = Results(
        values=given[:, :outputs] if decides else given,
        age=np.empty(n, np.int64),
        seq=np.full(n, -1) if seq is None else seq.copy(),
        complete=np.empty(n, bool),
        beyond_training_length=np.empty(n, bool),
        duplicate=np.zeros(n, bool),
        gap=np.empty(n, np.int64),
        accepted=np.ones(n, bool),
        decision=np.full(n, -1),
    )
    return answers, given, np.empty(n, np.int64), np.empty(n)


def run(
    streams: Any,
    keys: Sequence[Key],
    x: Array,
    seq: Array | None,
    time: Array | None,
    clock: float,
    answers: Results,
    given: Array,
    rows: Array,
    times: Array,
) -> bool:
    """Step them all; or false, and nothing has changed."""
    done: bool = streams.step_many(
        keys,
        x,
        seq,
        time,
        clock,
        rows,
        times,
        given,
        answers.age,
        answers.complete,
        answers.beyond_training_length,
        answers.gap,
    )
    if done and given is not answers.values:
        answers.decision[:] = decisions(given)
    return done


def arrays(xs: list[Any], seqs: list[Any], times: list[Any]) -> tuple[Any, Any, Any]:
    """Samples, numbers and times one by one -> arrays, where they are all of the plainest form; else as they are."""
    flat = all(type(x) is list and len(x) == len(xs[0]) and _NUMBERS.issuperset(map(type, x)) for x in xs)
    return (
        _array(xs, np.float32) if flat else xs,
        _column(seqs, int, np.int64),
        _column(times, float, np.float64),
    )


def _column(values: list[Any], kind: type, dtype: DTypeLike) -> Any:
    kinds = set(map(type, values))
    return None if kinds == {type(None)} else _array(values, dtype) if kinds == {kind} else values


def _array(values: list[Any], dtype: DTypeLike) -> Any:
    try:
        with np.errstate(all="ignore"):
            return np.array(values, dtype)
    except OverflowError:  # an integer of any size
        return values
