"""Stream: one sequence of samples through one model, for one thread."""

from __future__ import annotations

import math
import threading
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from numbers import Real
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, cast, final

import numpy as np
from numpy.typing import ArrayLike

from stepstream.arrays import short
from stepstream.errors import ConcurrentUseError, InputError, StepstreamWarning
from stepstream.graph.ir import Array, TimeRole
from stepstream.kernel.executor import native
from stepstream.live import snapshot
from stepstream.live.decision import decided
from stepstream.live.sample import Sample, row_of, rows_of
from stepstream.live.state import StreamState
from stepstream.live.windowing import Carry, Session, Sliding, Tumbling, Windowing, parse

if TYPE_CHECKING:
    from stepstream.model import Model

Output = float | Array | dict[str, Any]


def _never(x: Any, time: Any) -> None:
    """No kernel: every sample goes the long way."""


@final
class Stream:
    """One stream, for one thread; made by `Model.stream`. A method either succeeds or raises and changes nothing."""

    def __init__(self, model: Model, windowing: str | Windowing = "auto") -> None:
        self.model = model
        inner = model.executor  # raises for a blocked model
        self._says_restart = False
        self.windowing = self._choose(windowing)
        self._resolved, self._executor = self.windowing.on(inner)
        self._static = [  # input and column of each value without time
            (name, column)
            for name, spec in model.graph.inputs
            if spec.role is TimeRole.STATIC
            for column in range(model.n_features)[model.input_columns[name]]
        ]
        self._cell = self._native()
        self._quick = self._shortest()
        self._lock = self._cell or threading.Lock()
        self._state = self._nothing()

    def __repr__(self) -> str:
        return f"<Stream {self._resolved}, age {self.age}{', complete' if self.complete else ''}, of {self.model!r}>"

    def _native(self) -> Any:
        """What takes the plainest samples in the native kernel, where the model and the windowing are plain too."""
        windowing, machine = self.windowing, self._executor.machine
        if machine is None or self._static or isinstance(windowing, Session):
            return None
        cut = windowing.n if isinstance(windowing, Tumbling) else 0
        limit = self.model.window_length or 0 if isinstance(windowing, Carry) else 0
        cell = native().Cell(machine, cut, limit)
        cell.asks = self._says_restart
        return cell

    def _shortest(self) -> Callable[[Sample, float | None], Output | None]:
        """A plain sample and its time -> its answer, or None for one that takes the long way."""
        cell, sizes = self._cell, self.model.output_sizes
        if cell is None:
            return _never
        if sizes == (1,):
            return cast("Callable[[Sample, float | None], float | None]", cell.step)
        names, total = self.model.output_names, sum(sizes)
        room = total + self.model.decides
        ends = [sum(sizes[: i + 1]) for i in range(len(sizes))]

        def several(x: Sample, time: float | None) -> Output | None:
            out = np.empty(room, np.float32)
            if not cell.step_into(x, time, out):
                return None
            if room > total:
                out = out[:total].copy()
            if len(sizes) == 1:
                return out
            parts = zip(names, ends, sizes, strict=True)
            return {name: float(out[end - 1]) if n == 1 else out[end - n : end].copy() for name, end, n in parts}

        return several

    @property
    def _state(self) -> StreamState:
        cell = self._cell
        if cell is None:
            return self._held
        row = np.empty(self._executor.state_size, np.float32)
        age, samples, time = cell.read(row)
        return StreamState(row, None if age < 0 else age, None if math.isnan(time) else time, samples)

    @_state.setter
    def _state(self, state: StreamState) -> None:
        cell = self._cell
        if cell is None:
            self._held = state
            return
        age, time = -1 if state.age is None else state.age, math.nan if state.time is None else state.time
        cell.write(state.row, age, state.samples, time)

    def __copy__(self) -> Stream:
        return self.fork()

    def __deepcopy__(self, memo: object) -> Stream:
        return self.fork()

    def __reduce__(self) -> NoReturn:
        raise TypeError("a Stream is not pickled: save(path) and load(path) keep its state")

    def _nothing(self) -> StreamState:
        return StreamState(self._executor.initial_state(1)[0])

    def _choose(self, windowing: str | Windowing) -> Windowing:
        if not isinstance(windowing, str | Windowing):
            raise InputError(f"windowing: expected a string or a windowing, got {type(windowing).__name__}")
        if isinstance(windowing, Windowing) or windowing.strip() != "auto":
            return self._fitting(windowing if isinstance(windowing, Windowing) else parse(windowing))
        length = self.model.window_length or self.model.training_length
        if length is not None:
            self._says_restart = True
            return Tumbling(length)
        if self.model.trained_ages is not None:
            return Carry()  # what training has shown it
        warnings.warn(
            "the model does not say how many samples it was trained on, so its state is carried on without end, "
            "which it may never have been trained for; give training_length= to load(), or a windowing",
            StepstreamWarning,
            stacklevel=4,
        )
        return Carry()

    def _fitting(self, windowing: Windowing) -> Windowing:
        """A model that weighs each position of its window has answers for windows of that length alone."""
        n = self.model.window_length
        if n is not None and isinstance(windowing, Tumbling | Sliding):
            if windowing.n != n:
                kind = str(windowing).partition("(")[0]
                raise InputError(
                    f"expected {kind}({n}), got {windowing}: the model flattens windows of {n} samples, and has "
                    "weights for each position in them"
                )
            if isinstance(windowing, Sliding) and windowing.stride > 1:
                raise InputError(
                    f"expected sliding({n}), got {windowing}: the model flattens windows of {n} samples, and with a "
                    "stride its answer would have seen fewer"
                )
        return windowing

    @property
    def age(self) -> int | None:
        """Samples since the last reset, masked ones too; None for a loaded state of unknown age."""
        if self._cell is None:
            return self._held.age
        age: int = self._cell.age
        return None if age < 0 else age

    @property
    def time(self) -> float | None:
        """The last sample's time in seconds since 1970, or None."""
        return self._state.time

    @property
    def decision(self) -> int | None:
        """The class that the model's trigger has decided upon, as of the newest sample; None where it has not, or there
        is no trigger. The probabilities are there in any case.
        """
        if not self.model.decides:
            return None
        with self._one_thread():
            return decided(self.model, self._executor, self._state.row)

    @property
    def complete(self) -> bool:
        """Whether the last answer has seen a whole window; false where nobody knows the age."""
        age = self.age
        if self.model.window_length is not None:
            return self.windowing.effective(age) == self.model.window_length
        return age is not None and age > 0 and self.windowing.complete(age, self.model.training_length)

    @property
    def beyond_training_length(self) -> bool:
        """Whether the last answer has seen, or may have seen, more samples than the model was trained on."""
        age, length = self.windowing.effective(self.age), self.model.training_length
        return length is not None and (age is None or age > length)

    @property
    def state(self) -> dict[str, dict[str, Array]]:
        """Copies of the state by layer name: {"lstm": {"h": (units,), "c": (units,)}}.

        A layer that is called twice goes by its nodes' names. Under sliding(n) by states each has the axis of the ring
        in front, (states, units); by recompute there are the last samples instead, {"sliding": {"samples":
        (n, features), "mask": (n,), "count": ()}}.
        """
        names = snapshot.owners(self.model, self._executor)
        with self._one_thread():
            row = self._state.row
        out: dict[str, dict[str, Array]] = {}
        for (node, slot), value in self._executor.unpack(row).items():
            out.setdefault(names[node], {})[slot] = value
        return out

    def step(self, x: Sample, time: float | None = None, mask: bool | None = None) -> Output:
        """One sample in, one answer out.

        x: a list, tuple or array of shape (f,), (1, f) or (1, 1, f), or with the shape of the only input in place of
        (f,); a dict by feature name, or by input name where the model has several inputs. time: seconds, never before
        the last one. mask: False for a sample that is to be passed over (it counts in age and windows; the
        recurrent layers repeat their last output), as in Keras.
        Returns a float for one unit, float32 (outputs,) for more, a dict by name for several outputs. Raises
        InputError and changes nothing for a wrong length, NaN, Inf, time running backwards, an input without time that
        changes between resets, or, where the model flattens windows of n samples, sample n + 1 of a stream that is not
        cut.
        """
        if mask is None and (quick := self._quick(x, time)) is not None:
            return quick
        with self._one_thread():
            y, self._state = self._next(self._state, x, time, mask)
            return y

    def peek(self, x: Sample, time: float | None = None, mask: bool | None = None) -> Output:
        """What `step` would return; the stream stays as it is."""
        with self._one_thread():
            return self._next(self._state, x, time, mask)[0]

    def steps(
        self,
        X: ArrayLike | Mapping[str, ArrayLike],
        time: Sequence[float] | Array | None = None,
        mask: Sequence[bool] | Array | None = None,
    ) -> Array | dict[str, Array]:
        """Many samples, X (t, f) or (1, t, f) -> float32 (t, outputs); all of them, or an error and none.

        The samples of an only input may have its shape. Where the model has several inputs, X may be a dict by
        input name: (t, f) each, and (k,) or (t, k) for an input without time. time, mask: (t,), what `step` takes
        with each sample.
        """
        with self._one_thread():
            x = rows_of(self.model, X)
            for name, values in (("time", time), ("mask", mask)):
                if values is not None and np.shape(values) != (len(x),):
                    raise InputError(f"{name}: expected {len(x)}, one for each sample, got shape {np.shape(values)}")
            twin = self._twin()
            answers: list[Any] = []
            for i, row in enumerate(x):
                when, valid = None if time is None else time[i], None if mask is None else mask[i]
                y = twin._quick(row, when) if valid is None else None
                if y is None:
                    y, twin._state = twin._next(twin._state, row, when, valid)
                answers.append(y)
            self._state = twin._state
            self._hold_restart(twin._says_restart)
            sizes = dict(zip(self.model.output_names, self.model.output_sizes, strict=True))
            if len(sizes) == 1:
                return np.array(answers, np.float32).reshape(len(x), *sizes.values())
            return {n: np.array([a[n] for a in answers], np.float32).reshape(-1, s) for n, s in sizes.items()}

    def fork(self) -> Stream:
        """A second stream that goes on from the same state."""
        with self._one_thread():
            return self._twin()

    def _twin(self) -> Stream:
        twin = Stream(self.model, self._resolved)
        twin.windowing = self.windowing
        twin._state = self._state
        twin._hold_restart(self._says_restart)
        return twin

    def snapshot(self) -> StreamState:
        """All that the stream carries, as an immutable value; `restore` takes it back."""
        with self._one_thread():
            return replace(self._state, fingerprint=self.model.fingerprint, windowing=str(self.windowing))

    def restore(self, state: StreamState) -> None:
        """Go on from a value that `snapshot` gave, of the same model and windowing.

        Raises InputError and changes nothing for another's, or for numbers that no stream carries.
        """
        self._check(state)
        with self._one_thread():
            self._state = state

    def _check(self, state: StreamState) -> None:
        """Raises InputError for a state that no stream of this model and windowing carries."""
        size = self._executor.state_size
        row = getattr(state, "row", None)
        if not isinstance(state, StreamState) or row is None or row.shape != (size,) or row.dtype != np.float32:
            raise InputError(f"expected a snapshot of this model, with {size} floats of 32 bits, got {state!r}")
        for what, theirs, ours in (
            ("model", state.fingerprint, self.model.fingerprint),
            ("windowing", state.windowing, str(self.windowing)),
        ):
            if theirs not in {None, ours}:
                raise InputError(f"expected a snapshot of {what} {ours}, got one of {theirs}")
        if not np.isfinite(row).all():
            raise InputError("expected a snapshot of finite numbers, got NaN or Inf; start the stream anew")
        counts = [state.samples] if state.age is None else [state.samples, state.age]
        if not all(type(n) is int and 0 <= n <= snapshot.MAX_COUNT for n in counts):
            raise InputError(f"expected a snapshot with counts from 0, got samples and age {short(counts)}")
        if state.time is not None:
            self._seconds(state.time, "the snapshot's")
        if state.age is None and (self.windowing.needs_age or self.model.window_length is not None):
            raise InputError(f"expected a snapshot of known age under {self.windowing}, got one without; start anew")
        static = state.static
        if static is not None and not (
            isinstance(static, tuple)
            and len(static) == len(self._static)
            and all(isinstance(value, Real) and math.isfinite(value) for value in static)
        ):
            raise InputError(
                f"expected a snapshot of {len(self._static)} values without time, got {short(state.static)}"
            )
        if wrong := snapshot.wrong_count(self.model, self._executor, state):
            raise InputError(f"expected a snapshot as it was given: {wrong}")

    def reset(self) -> None:
        """Back to a stream that has seen nothing."""
        with self._one_thread():
            self._state = self._nothing()

    def save(self, path: str | Path) -> None:
        """Write the state to an HDF5 file by atomic replacement: docs/reference/state-files.md."""
        with self._one_thread():
            snapshot.save(path, self.model, self._resolved, self._state)

    def load(self, path: str | Path) -> None:
        """Go on from a saved state. Raises StateError, naming both sides, for another model's or windowing's."""
        with self._one_thread():
            self._state = snapshot.load(path, self.model, self._resolved)

    @contextmanager
    def _one_thread(self) -> Iterator[None]:
        if not self._lock.acquire(blocking=False):
            raise ConcurrentUseError("expected one thread per Stream, got two at once; give each thread its own stream")
        try:
            yield
        finally:
            self._lock.release()

    @staticmethod
    def _seconds(time: float, where: str) -> float:
        if isinstance(time, Real) and not isinstance(time, bool):
            with suppress(OverflowError):
                if math.isfinite(value := float(time)):
                    return value
        raise InputError(f"expected a time in seconds since 1970, got {short(time)} ({where})")

    def _next(
        self, state: StreamState, x: Sample, time: float | None, mask: bool | None, of: str = "the stream"
    ) -> tuple[Output, StreamState]:
        """The one signature: (state, sample) -> (answer, state). of: the stream's name, for errors."""
        where = f"sample {state.samples + 1} of {of}"
        row = row_of(self.model, x, where)
        if time is not None:
            time = self._seconds(time, where)
            if state.time is not None and time < state.time:
                raise InputError(
                    f"expected a time from {state.time} on, got {time} ({where}): time runs backwards; "
                    "sort the samples or reset the stream"
                )
        if mask is not None and not isinstance(mask, bool | np.bool_):
            raise InputError(f"mask: expected True, False or None, got {mask!r}")
        age = state.age
        if self.windowing.restarts(age or 0, state.time, time):
            self._say_restart()
            state = replace(state, row=self._nothing().row, age=0, static=None)
            age = 0
        static = self._same_static(state, row, where) if self._static else None
        n = self.model.window_length
        if n is not None and (age is None or (self.windowing.effective(age + 1) or 0) > n):
            raise InputError(
                f"expected at most {n} samples under {self.windowing}, got another ({where}): the model flattens "
                f"windows of {n} samples; call reset() where a window ends, or choose tumbling({n}) or sliding({n})"
            )
        ys, rows = self._executor.step(row, state.row[None], None if mask is None else np.array([mask]))
        if not np.isfinite(rows).all() or not all(np.isfinite(y).all() for y in ys):
            raise InputError(
                f"the model's answer or state overflowed ({where}); expected samples in the range that it was "
                "trained on: check units and scale="
            )
        names = self.model.output_names
        answers = [float(y[0, 0]) if y.shape[1] == 1 else y[0].copy() for y in ys[: len(names)]]
        answer = answers[0] if len(answers) == 1 else dict(zip(names, answers, strict=True))
        age = None if age is None else age + 1
        time = state.time if time is None else time
        return answer, StreamState(rows[0], age, time, state.samples + 1, static=static)

    def _same_static(self, state: StreamState, row: Array, where: str) -> tuple[float, ...]:
        """What has no time stays the same from reset to reset, or windowings would see different pasts."""
        static = tuple(row[0, [column for _, column in self._static]].tolist())
        for (name, _), before, now in zip(self._static, state.static or static, static, strict=True):
            if before != now:
                raise InputError(
                    f"expected the same {name!r} at every sample, as it has no time, got {now} after {before} "
                    f"({where}); call reset() where other values begin"
                )
        return static

    def _hold_restart(self, says: bool) -> None:
        self._says_restart = says
        if self._cell is not None:
            self._cell.asks = says

    def _say_restart(self) -> None:
        if self._says_restart:
            self._hold_restart(False)
            n = self.windowing.n if isinstance(self.windowing, Tumbling) else None
            decided = "; what was decided is forgotten there, and carry decides once a stream" * self.model.decides
            warnings.warn(
                f"{self.windowing}: the state restarts after every {n} samples, the length that the model was trained "
                f"on, and the next answer has seen one sample alone; sliding({n}) answers on the last {n} at every "
                f"sample{decided}; choose a windowing to say otherwise",
                StepstreamWarning,
                stacklevel=4,
            )
