"""Stream: one sequence of samples through one model, for one thread."""

from __future__ import annotations

import math
import threading
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from numbers import Real
from pathlib import Path
from typing import TYPE_CHECKING, Any, final

import numpy as np
from numpy.typing import ArrayLike

from stepstream.arrays import float32
from stepstream.errors import ConcurrentUseError, InputError, StepstreamWarning
from stepstream.graph.ir import Array
from stepstream.live import snapshot
from stepstream.live.state import StreamState
from stepstream.live.windowing import Carry, Tumbling, Windowing, parse

if TYPE_CHECKING:
    from stepstream.model import Model

Output = float | Array | dict[str, Any]
Sample = Sequence[float] | Array | Mapping[str, float]


@final
class Stream:
    """One stream, for one thread; made by `Model.stream`. A method either succeeds or raises and changes nothing."""

    def __init__(self, model: Model, windowing: str | Windowing = "auto") -> None:
        self.model = model
        self._executor = model.executor  # raises for a blocked model
        self._says_restart = False
        self.windowing = self._choose(windowing)
        self._state = StreamState(self._executor.initial_state(1)[0])
        self._lock = threading.Lock()

    def _choose(self, windowing: str | Windowing) -> Windowing:
        if isinstance(windowing, Windowing):
            return windowing
        if not isinstance(windowing, str):
            raise InputError(f"windowing: expected a string or a windowing, got {type(windowing).__name__}")
        if windowing.strip() != "auto":
            return parse(windowing)
        if self.model.training_length is not None:
            self._says_restart = True
            return Tumbling(self.model.training_length)
        warnings.warn(
            "the model does not say how many samples it was trained on, so its state is carried on without end, "
            "which it may never have been trained for; give training_length= to load(), or a windowing",
            StepstreamWarning,
            stacklevel=4,
        )
        return Carry()

    @property
    def age(self) -> int | None:
        """Samples since the last reset, masked ones too; None for a loaded state of unknown age."""
        return self._state.age

    @property
    def time(self) -> float | None:
        """The last sample's time in seconds since 1970, or None."""
        return self._state.time

    @property
    def complete(self) -> bool:
        """Whether the last answer has seen a whole window."""
        age = self._state.age
        return age is None or (age > 0 and self.windowing.complete(age, self.model.training_length))

    @property
    def beyond_training_length(self) -> bool:
        """Whether the state is older, or may be, than any that the model was trained on."""
        age, length = self._state.age, self.model.training_length
        return length is not None and (age is None or age > length)

    @property
    def state(self) -> dict[str, dict[str, Array]]:
        """Copies of the state by layer name: {"lstm": {"h": (units,), "c": (units,)}}."""
        layers = {n.id: n.layer for n in self.model.graph.nodes}
        out: dict[str, dict[str, Array]] = {}
        for (node, slot), value in self._executor.unpack(self._state.row).items():
            out.setdefault(layers[node], {})[slot] = value
        return out

    def step(self, x: Sample, time: float | None = None, mask: bool | None = None) -> Output:
        """One sample in, one answer out.

        x: a list, tuple or array of shape (f,), (1, f) or (1, 1, f), or a dict by feature name. time: seconds, never
        before the last one. mask: False for a sample that is to be passed over (it counts in age; the recurrent
        layers repeat their last output), as in Keras.
        Returns a float for one unit, float32 (outputs,) for more, a dict by name for several outputs. Raises
        InputError and changes nothing for a wrong length, NaN, Inf, or time running backwards.
        """
        with self._one_thread():
            y, self._state = self._next(self._state, self._sample(x), time, mask)
            return y

    def peek(self, x: Sample, time: float | None = None, mask: bool | None = None) -> Output:
        """What `step` would return; the stream stays as it is."""
        with self._one_thread():
            return self._next(self._state, self._sample(x), time, mask)[0]

    def steps(self, X: ArrayLike) -> Array | dict[str, Array]:
        """Many samples, X (t, f) or (1, t, f) -> float32 (t, outputs); all of them, or an error and none."""
        with self._one_thread():
            x = float32(X, f"numbers of shape (time, {self.model.n_features})")
            if x.ndim == 3 and len(x) == 1:
                x = x[0]
            if x.ndim != 2:
                raise InputError(f"expected shape (time, {self.model.n_features}) or (1, time, ...), got {x.shape}")
            state = self._state
            answers: list[Any] = []
            for row in x:
                y, state = self._next(state, self._sample(row), None, None)
                answers.append(y)
            self._state = state
            sizes = dict(zip(self.model.output_names, self.model.output_sizes, strict=True))
            if len(sizes) == 1:
                return np.array(answers, np.float32).reshape(len(x), *sizes.values())
            return {n: np.array([a[n] for a in answers], np.float32).reshape(-1, s) for n, s in sizes.items()}

    def fork(self) -> Stream:
        """A second stream that goes on from the same state."""
        with self._one_thread():
            twin = Stream(self.model, self.windowing)
            twin._state, twin._says_restart = self._state, self._says_restart
            return twin

    def snapshot(self) -> StreamState:
        """All that the stream carries, as an immutable value; `restore` takes it back."""
        return self._state

    def restore(self, state: StreamState) -> None:
        """Go on from a value that `snapshot` gave, of the same model."""
        size = self._executor.state_size
        if not isinstance(state, StreamState) or state.row.shape != (size,):
            raise InputError(f"expected a snapshot of this model, with {size} floats, got {state!r}")
        with self._one_thread():
            self._state = state

    def reset(self) -> None:
        """Back to a stream that has seen nothing."""
        with self._one_thread():
            self._state = StreamState(self._executor.initial_state(1)[0])

    def save(self, path: str | Path) -> None:
        """Write the state to an HDF5 file by atomic replacement: docs/reference/state-files.md."""
        with self._one_thread():
            snapshot.save(path, self.model, self.windowing, self._state)

    def load(self, path: str | Path) -> None:
        """Go on from a saved state. Raises StateError, naming both sides, for another model's or windowing's."""
        with self._one_thread():
            self._state = snapshot.load(path, self.model, self.windowing)

    @contextmanager
    def _one_thread(self) -> Iterator[None]:
        if not self._lock.acquire(blocking=False):
            raise ConcurrentUseError("expected one thread per Stream, got two at once; give each thread its own stream")
        try:
            yield
        finally:
            self._lock.release()

    def _where(self) -> str:
        return f"sample {self._state.samples + 1} of the stream"

    def _seconds(self, time: float) -> float:
        if isinstance(time, Real) and not isinstance(time, bool):
            with suppress(OverflowError):
                if math.isfinite(value := float(time)):
                    return value
        raise InputError(f"expected a time in seconds since 1970, got {str(time)[:40]} ({self._where()})")

    def _sample(self, x: Sample) -> Array:
        f = self.model.n_features
        names = self.model.features
        if isinstance(x, Mapping):
            if names is None:
                raise InputError("expected a list of numbers: the model has no feature names; give features= to load()")
            if set(x) != set(names):
                raise InputError(f"expected the features {list(names)}, got {list(x)} ({self._where()})")
            x = [x[name] for name in names]
        row = float32(x, f"{f} numbers ({self._where()})")
        if row.shape not in {(f,), (1, f), (1, 1, f)}:
            known = "" if names is None else f"; the features are {', '.join(names)}"
            raise InputError(f"expected {f} features per sample, got shape {row.shape} ({self._where()}){known}")
        row = row.reshape(1, f)
        if not np.isfinite(row).all():
            i = int(np.flatnonzero(~np.isfinite(row[0]))[0])
            name = names[i] if names else i
            raise InputError(
                f"expected finite numbers, got {row[0, i]} for feature {name} ({self._where()}); "
                "fill the value or leave the sample out"
            )
        for i, known_indices in self.model.indices.items():
            if not (row[0, i] == int(row[0, i]) and 0 <= row[0, i] < known_indices):
                raise InputError(
                    f"expected a whole number from 0 to {known_indices - 1}, got {row[0, i]} ({self._where()})"
                )
        return row

    def _next(
        self, state: StreamState, row: Array, time: float | None, mask: bool | None
    ) -> tuple[Output, StreamState]:
        """The one signature: (state, sample) -> (answer, state). row: (1, features)."""
        if time is not None:
            time = self._seconds(time)
            if state.time is not None and time < state.time:
                raise InputError(
                    f"expected a time from {state.time} on, got {time} ({self._where()}): time runs backwards; "
                    "sort the samples or reset the stream"
                )
        if mask is not None and not isinstance(mask, bool | np.bool_):
            raise InputError(f"mask: expected True, False or None, got {mask!r}")
        age = state.age
        if self.windowing.restarts(age or 0, state.time, time):
            if self._says_restart:
                self._says_restart = False
                warnings.warn(
                    f"{self.windowing}: the state restarts after every {self.model.training_length} samples, the "
                    "length that the model was trained on; choose a windowing to say otherwise",
                    StepstreamWarning,
                    stacklevel=3,
                )
            state = replace(state, row=self._executor.initial_state(1)[0], age=0)
            age = 0
        ys, rows = self._executor.step(row, state.row[None], None if mask is None else np.array([mask]))
        if not np.isfinite(rows).all() or not all(np.isfinite(y).all() for y in ys):
            raise InputError(
                f"the model's answer or state overflowed ({self._where()}); expected samples in the range that it was "
                "trained on: check units and scale="
            )
        answers = [float(y[0, 0]) if y.shape[1] == 1 else y[0] for y in ys]
        answer = answers[0] if len(answers) == 1 else dict(zip(self.model.output_names, answers, strict=True))
        age = None if age is None else age + 1
        return answer, StreamState(rows[0], age, state.time if time is None else time, state.samples + 1)
