"""Model: a graph with its weights, where it came from, and what can be done with it."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from numbers import Integral
from pathlib import Path
from typing import Any, final

import numpy as np
from numpy.typing import ArrayLike

from stepstream.arrays import float32
from stepstream.errors import BlockedError, InputError
from stepstream.formats import keras
from stepstream.formats.reading import Reading
from stepstream.graph.ir import Array, Graph, TensorSpec, TimeRole
from stepstream.graph.passes import drop_identities, scale_input
from stepstream.graph.validate import validate
from stepstream.live.stream import Stream
from stepstream.live.windowing import Windowing
from stepstream.ops.executor import NumpyExecutor
from stepstream.report import Report, report
from stepstream.testing import Verification, verify

logger = logging.getLogger(__name__)


def load(
    path_or_keras_model: str | Path | Any,
    training_length: int | None = None,
    scale: tuple[Sequence[float], Sequence[float]] | None = None,
    features: Sequence[str] | None = None,
    classes: Sequence[str] | None = None,
    architecture: str | Path | None = None,
) -> Model:
    """Read a trained model; Keras is not needed and no code from a file is run.

    path_or_keras_model: a `.keras` or `.h5` file, or a Keras model in memory (its weights are copied).
    training_length: samples per window in training; overrides what the model says.
    scale: (mean, std), each (features,) or one number; (x - mean) / std is applied before the first layer.
    features, classes: names of the inputs and of the outputs.
    architecture: for a file of weights alone, what `model.to_json()` wrote, as a path or as text.
    Raises ModelFileError for a file that cannot be read, InputError for an argument that does not fit. A model
    with layers that cannot step loads, says so in `check()`, and raises BlockedError when it is used.
    """
    reading = keras.read(path_or_keras_model, architecture)
    if training_length is not None:
        if isinstance(training_length, bool) or not isinstance(training_length, Integral) or training_length < 1:
            raise InputError(f"training_length: expected a whole number from 1, got {training_length!r}")
        reading = replace(reading, training_length=int(training_length))
    if reading.graph is not None and scale is not None:
        try:
            mean, std = scale
        except (TypeError, ValueError) as e:
            raise InputError(f"scale: expected (mean, std), got {scale!r}") from e
        reading = replace(reading, graph=scale_input(reading.graph, mean, std))
    model = Model(reading, features, classes)
    logger.info("read %s, written by %s: %r", reading.provenance.format, reading.provenance.writer, model)
    for note in reading.notes:
        logger.info("%s", note)
    return model


@final
class Model:
    """An immutable model, shared freely between threads and streams; made by `load`."""

    def __init__(
        self, reading: Reading, features: Sequence[str] | None = None, classes: Sequence[str] | None = None
    ) -> None:
        self.reading = reading
        self.features = _names("features", features)
        self.classes = _names("classes", classes)
        if reading.graph is not None:
            self._executor = NumpyExecutor(drop_identities(reading.graph))
            self._specs = validate(reading.graph)
            self._check_names("features", self.features, self.n_features)
            if self.classes is not None and len(self.output_names) == 1:
                self._check_names("classes", self.classes, self.output_sizes[0])
        object.__setattr__(self, "_sealed", True)

    def __setattr__(self, name: str, value: object) -> None:
        if hasattr(self, "_sealed"):
            raise AttributeError(f"a Model is immutable: load it again to change {name!r}")
        object.__setattr__(self, name, value)

    def __reduce__(self) -> tuple[Any, ...]:
        return Model, (self.reading, self.features, self.classes)

    def __repr__(self) -> str:
        if self.reading.blockers:
            return f"<Model, blocked by {', '.join(b.layer for b in self.reading.blockers)}>"
        return (
            f"<Model {self.n_features} features -> {sum(self.output_sizes)} outputs, "
            f"training length {self.training_length}, {self.fingerprint[:12]}>"
        )

    @staticmethod
    def _check_names(what: str, names: Sequence[str] | None, count: int) -> None:
        if names is not None and (
            any(not isinstance(n, str) for n in names) or len(names) != count or len(set(names)) != count
        ):
            raise InputError(f"{what}: expected {count} different names, got {list(names)}")

    @property
    def training_length(self) -> int | None:
        """Samples per window in training, or None where the model does not say."""
        return self.reading.training_length

    @property
    def executor(self) -> NumpyExecutor:
        """What computes; raises BlockedError where the model cannot step."""
        if self.reading.blockers:
            raise BlockedError(self.reading.blockers)
        return self._executor

    @property
    def graph(self) -> Graph:
        """The step graph that runs."""
        return self.executor.graph

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 (hex) of architecture, weights and scale; saved beside every state."""
        return self.graph.fingerprint()

    @property
    def n_features(self) -> int:
        """Numbers in one sample."""
        return self.executor.graph.features

    @property
    def output_names(self) -> tuple[str, ...]:
        """The output layers' names, in the model's order."""
        return tuple(name for name, _ in self.graph.outputs)

    @property
    def output_sizes(self) -> tuple[int, ...]:
        """Units of each output."""
        assert self.reading.graph is not None
        return tuple(self._specs[source].shape[0] for _, source in self.reading.graph.outputs)

    @cached_property
    def indices(self) -> dict[int, int]:
        """The columns of a sample that go into an Embedding: how many indices it knows, by column."""
        tables: dict[str, int] = {}
        for node in self.graph.nodes:
            if node.op == "embedding":
                known = len(node.weights["table"])
                tables[node.inputs[0]] = min(known, tables.get(node.inputs[0], known))
        return {i: tables[name] for name, at, _ in self._columns() if name in tables for i in range(at.start, at.stop)}

    @cached_property
    def static(self) -> tuple[int, ...]:
        """The columns of a sample that hold inputs without time, the same in every sample of a stream."""
        return tuple(i for _, at, spec in self._columns() if not _timed(spec) for i in range(at.start, at.stop))

    def _columns(self) -> Iterator[tuple[str, slice, TensorSpec]]:
        """Where each input lies in a sample."""
        at = 0
        for name, spec in self.graph.inputs:
            yield name, slice(at, at + spec.size), spec
            at += spec.size

    def check(self) -> Report:
        """What the model is and whether it steps; prints as a table."""
        return report(self)

    def run(self, X: ArrayLike | Mapping[str, ArrayLike]) -> Array | dict[str, Array]:
        """The whole model on X (m, time, features), as its framework runs it.

        X may also be a dict by input name, (m, time, ...) each, or (m, ...) for an input without time. Returns float32 (m, outputs), or (m, time, outputs) for a model that returns sequences; a dict by output
        name where there are several.
        """
        x = self.batch(X)
        ys = self.executor.whole(x)
        return ys[0] if len(ys) == 1 else dict(zip(self.output_names, ys, strict=True))

    def batch(self, X: ArrayLike | Mapping[str, ArrayLike]) -> Array:
        """X as float32 (m, time, features), or InputError."""
        if isinstance(X, Mapping):
            X = self._side_by_side(X)
        x = float32(X, f"numbers of shape (m, time, {self.n_features})")
        if x.ndim != 3 or x.shape[2] != self.n_features or not x.size:
            raise InputError(f"expected shape (m, time, {self.n_features}) with at least one sample, got {x.shape}")
        if not np.isfinite(x).all():
            where = np.argwhere(~np.isfinite(x))[0].tolist()
            raise InputError(f"expected finite numbers, got {x[tuple(where)]} at {where}; fill or leave out the sample")
        for column, known in self.indices.items():
            index = x[..., column]
            if ((index != np.floor(index)) | (index < 0) | (index >= known)).any():
                raise InputError(f"expected whole numbers from 0 to {known - 1} in column {column}: an Embedding's indices")
        fixed = x[..., list(self.static)]
        if (fixed != fixed[:, -1:]).any():
            raise InputError(f"expected columns {list(self.static)} to stay as they are over time: inputs without time")
        if self.graph.window is not None and x.shape[1] > self.graph.window:
            raise InputError(f"expected at most {self.graph.window} samples, where the model's Flatten ends")
        return x

    def _side_by_side(self, X: Mapping[str, ArrayLike]) -> Array:
        """Inputs by name as one (m, time, features)."""
        columns = list(self._columns())
        names = [name for name, _, _ in columns]
        if set(X) != set(names):
            raise InputError(f"expected the inputs {names}, got {list(X)}")
        parts = {}
        for name, _, spec in columns:
            shape = ("m", "time", *spec.shape) if _timed(spec) else ("m", *spec.shape)
            x = parts[name] = float32(X[name], f"numbers of shape ({', '.join(map(str, shape))}) for input {name!r}")
            if x.ndim != len(shape) or x.shape[x.ndim - len(spec.shape) :] != spec.shape or not x.size:
                raise InputError(f"input {name!r}: expected shape ({', '.join(map(str, shape))}), got {x.shape}")
        sizes = {parts[name].shape[: 1 + _timed(spec)] for name, _, spec in columns}
        lead = max(sizes, key=len)
        if any(size != lead[: len(size)] for size in sizes):
            raise InputError(f"expected the same number of streams and samples in all inputs, got {sorted(sizes)}")
        rows = []
        for name, _, spec in columns:
            x = parts[name] if _timed(spec) else parts[name][:, None]
            rows.append(np.broadcast_to(x.reshape(*x.shape[:2], spec.size), (*lead, spec.size)))
        return np.concatenate(rows, axis=2)

    def verify(
        self, x: ArrayLike | None = None, expected: ArrayLike | None = None, reference: Any = None
    ) -> Verification:
        """The contract on x (m, time, features), and against expected outputs or a live Keras model.

        expected: (m, outputs) for the last position or (m, time, outputs) for all. Without x, random samples are
        made, always the same. Returns a report with `ok`, the largest error, its position and what was compared.
        """
        return verify(self, x, expected, reference)

    def stream(self, windowing: str | Windowing = "auto") -> Stream:
        """A new stream over this model: "auto", "carry", "tumbling(n)" or "session(gap)"."""
        return Stream(self, windowing)


def _timed(spec: TensorSpec) -> bool:
    return spec.role is not TimeRole.STATIC


def _names(what: str, names: Sequence[str] | None) -> tuple[str, ...] | None:
    if isinstance(names, str) or not isinstance(names, Iterable | None):
        raise InputError(f"{what}: expected a list of names, got {names!r}")
    return None if names is None else tuple(names)
