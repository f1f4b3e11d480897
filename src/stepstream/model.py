"""Model: a graph with its weights, where it came from, and what can be done with it."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from types import MappingProxyType
from typing import Any, final

import numpy as np
from numpy.typing import ArrayLike

from stepstream import limits, vectors
from stepstream.arguments import whole
from stepstream.arrays import float32, short
from stepstream.errors import BlockedError, InputError, ModelFileError
from stepstream.formats import bundle, keras
from stepstream.formats.reading import Reading
from stepstream.graph.attach import attached_to, has_trigger, n_classes
from stepstream.graph.ir import Array, Graph, TimeRole
from stepstream.graph.passes import drop_identities, input_scale, scale_input
from stepstream.graph.validate import validate
from stepstream.kernel.executor import executor_for
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

    path_or_keras_model: a `.keras`, `.h5` or `.stepstream` file, or a Keras model in memory (its weights are copied).
    training_length: samples per window in training; overrides what the model says, and with it the trained ages.
    scale: (mean, std), each (features,) or one number; (x - mean) / std is applied before the first layer. Refused for
    a bundle that scales its input already, be it by a layer of its own.
    features, classes: names of the inputs and of the outputs; of one sigmoid unit also of both classes. Override those
    of a bundle.
    architecture: for a file of weights alone, what `model.to_json()` wrote, as a path or as text.
    Raises ModelFileError for a file that cannot be read, InputError for an argument that does not fit. A model
    with layers that cannot step loads, says so in `check()`, and raises BlockedError when it is used.
    """
    proven = _proven(path_or_keras_model, architecture) if bundle.is_bundle(path_or_keras_model) else None
    reading = keras.read(path_or_keras_model, architecture) if proven is None else proven.reading
    if training_length is not None:
        training_length = whole("training_length", training_length, 1, limits.MAX_WINDOW)
        n = reading.graph.window if reading.graph is not None else None
        if n not in {None, training_length}:
            raise InputError(
                f"training_length: expected {n}, got {training_length}: the model flattens windows of {n} samples"
            )
        if training_length != reading.training_length:  # the ages that were said go with the length that was said
            reading = replace(reading, training_length=training_length, trained_ages=None)
    if reading.graph is not None and scale is not None:
        if proven is not None and input_scale(reading.graph) is not None:
            raise InputError("scale: expected none, as the model has one already: a bundle keeps it; leave it out")
        try:
            mean, std = scale
        except (TypeError, ValueError) as e:
            raise InputError(f"scale: expected (mean, std), got {scale!r}") from e
        reading = replace(reading, graph=scale_input(reading.graph, mean, std))
    as_it_is = proven is not None and reading is proven.reading and features is None and classes is None
    model = proven if proven is not None and as_it_is else Model(reading, features, classes)
    what = reading.provenance.format if proven is None else f"a bundle of {reading.provenance.format}"
    logger.info("read %s, written by %s: %r", what, reading.provenance.writer, model)
    for note in reading.notes:
        logger.info("%s", note)
    return model


def _proven(path: str | Path, architecture: Any) -> Model:
    """A bundle, after its check vectors."""
    if architecture is not None:
        raise InputError("architecture: expected none, as a bundle has its own; leave it out")
    reading = bundle.read(path)
    try:
        model = Model(reading)
        vectors.prove(model, str(path))
    except InputError as e:  # names that do not fit its own outputs
        raise ModelFileError(f"{path}: {e}") from e
    except MemoryError as e:
        raise ModelFileError(f"{path}: expected a model that fits into memory, got a larger one") from e
    return model


@final
class Model:
    """An immutable model, shared freely between threads and streams; made by `load`."""

    def __init__(
        self, reading: Reading, features: Sequence[str] | None = None, classes: Sequence[str] | None = None
    ) -> None:
        self.reading = reading
        self.features = _names("features", reading.features if features is None else features)
        self.classes = _names("classes", reading.classes if classes is None else classes)
        if reading.graph is not None:
            self._executor, self._runs_on = executor_for(drop_identities(reading.graph))
            self._specs = validate(reading.graph)
            self._check_names("features", self.features, self.n_features)
            if self.classes is not None and len(self.output_names) == 1:
                pair = self.output_sizes == (1,) and len(self.classes) == 2 and _is_binary(reading.graph)
                self._check_names("classes", self.classes, 2 if pair else self.output_sizes[0])
        object.__setattr__(self, "_sealed", True)

    def __setattr__(self, name: str, value: object) -> None:
        if hasattr(self, "_sealed"):
            raise AttributeError(f"a Model is immutable: load it again to change {name!r}")
        object.__setattr__(self, name, value)

    def __delattr__(self, name: str) -> None:
        raise AttributeError(f"a Model is immutable: load it again to do without {name!r}")

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
    def trained_ages(self) -> tuple[int, int | None] | None:
        """The first and the last age of a stream that training has shown the model, the latter None where the state was
        carried on without a bound; None where nobody says.
        """
        return self.reading.trained_ages

    @property
    def reports(self) -> Mapping[str, Any]:
        """What was found out about the model, by name: JSON that nobody can change, lists as tuples."""
        return self.reading.reports

    @property
    def executor(self) -> NumpyExecutor:
        """What computes; raises BlockedError where the model cannot step."""
        if self.reading.blockers:
            raise BlockedError(self.reading.blockers)
        return self._executor

    @property
    def runs_on(self) -> str:
        """The native kernel and its instruction set, or NumPy and why."""
        return self._runs_on

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
        """Numbers in one sample, all inputs together."""
        return self.executor.graph.features

    @cached_property
    def input_columns(self) -> Mapping[str, slice]:
        """Where each input's numbers lie in a sample, by input name in the model's order."""
        out, at = {}, 0
        for name, spec in self.graph.inputs:
            out[name] = slice(at, at + spec.size)
            at += spec.size
        return MappingProxyType(out)

    @cached_property
    def sample_shapes(self) -> frozenset[tuple[int, ...]]:
        """How one sample may come: its numbers side by side, or in the shape of the only input, as in Keras."""
        inputs = self.graph.inputs
        return frozenset({(self.n_features,), *([inputs[0][1].shape] if len(inputs) == 1 else [])})

    @property
    def window_length(self) -> int | None:
        """n for a model that flattens windows of n samples, and has answers for those alone; else None."""
        return self.graph.window

    @cached_property
    def _given(self) -> tuple[tuple[str, str], ...]:
        """The outputs without the decision."""
        return self.graph.outputs[:-1] if has_trigger(self.graph) else self.graph.outputs

    @property
    def decides(self) -> bool:
        """Whether a trigger says when to decide, and for which class: `Stream.decision`, and in an engine's answers."""
        return len(self._given) < len(self.graph.outputs)

    @property
    def calibrated(self) -> bool:
        """Whether the probabilities are calibrated: graph/attach.py."""
        return attached_to(self.graph).calibration is not None

    @property
    def output_names(self) -> tuple[str, ...]:
        """The output layers' names, in the model's order; a decision is no output."""
        return tuple(name for name, _ in self._given)

    @property
    def output_sizes(self) -> tuple[int, ...]:
        """Units of each output."""
        return tuple(self._specs[source].shape[0] for _, source in self._given)

    def with_graph(self, graph: Graph, reports: Mapping[str, Any] | None = None) -> Model:
        """The same model, names, training length and provenance, over another graph: one that is calibrated, say.

        reports: those that hold for the new graph, JSON by name; None: those that this model has. The names of two
        classes go with the sigmoid whose one unit stands for both. Raises InputError for reports that are no JSON.
        """
        pair = self.classes is not None and len(self.classes) == 2 and self.output_sizes == (1,)
        classes = None if pair and not _is_binary(graph) else self.classes
        reports = self.reports if reports is None else reports
        return Model(replace(self.reading, graph=graph, classes=classes, reports=reports), self.features, classes)

    @cached_property
    def index_columns(self) -> Mapping[int, int]:
        """Column of a sample -> how many indices the Embedding that takes it knows."""
        out: dict[int, int] = {}
        for name, columns in self.input_columns.items():
            tables = [len(n.weights["table"]) for n in self.graph.nodes if n.op == "embedding" and n.inputs == (name,)]
            out |= dict.fromkeys(range(columns.start, columns.stop) if tables else (), min(tables, default=0))
        return MappingProxyType(out)

    def check(self) -> Report:
        """What the model is and whether it steps; prints as a table."""
        return report(self)

    def run(self, X: ArrayLike | Mapping[str, ArrayLike]) -> Array | dict[str, Array]:
        """The whole model on X (m, time, features), as its framework runs it.

        X may be a dict by input name: (m, time, ...) for inputs with time, (m, ...) for those without. In one array the
        inputs lie side by side, and those without time say the same at every sample. An only input may keep its shape,
        (m, time, height, width, channels), or (m, time) for indices.
        Returns float32 (m, outputs), or (m, time, outputs) for a model that returns sequences; a dict by output
        name where there are several.
        """
        x = self.batch(X)
        found = self.executor.whole(x)[: len(self._given)]
        ys = [y.copy() if np.may_share_memory(y, x) else y for y in found]  # x may be the caller's
        return ys[0] if len(ys) == 1 else dict(zip(self.output_names, ys, strict=True))

    def batch(self, X: ArrayLike | Mapping[str, ArrayLike]) -> Array:
        """X as float32 (m, time, features), or InputError."""
        if isinstance(X, Mapping):
            X = self._side_by_side(X)
        x = float32(X, f"numbers of shape (m, time, {self.n_features})")
        if x.ndim > 1 and x.shape[2:] in self.sample_shapes:
            x = x.reshape(*x.shape[:2], self.n_features)
        if x.ndim != 3 or x.shape[2] != self.n_features or not x.size:
            raise InputError(f"expected shape (m, time, {self.n_features}) with at least one sample, got {x.shape}")
        if not np.isfinite(x).all():
            where = np.argwhere(~np.isfinite(x))[0].tolist()
            raise InputError(f"expected finite numbers, got {x[tuple(where)]} at {where}; fill or leave out the sample")
        if self.window_length is not None and x.shape[1] > self.window_length:
            raise InputError(f"expected windows of at most {self.window_length} samples, got {x.shape[1]}")
        for name, spec in self.graph.inputs:
            static = x[..., self.input_columns[name]]
            if spec.role is TimeRole.STATIC and (static != static[:, :1]).any():
                raise InputError(f"expected the same {name!r} at every sample, as it has no time, got different ones")
        for column, count in self.index_columns.items():
            index = x[..., column]
            if ((index != np.floor(index)) | (index < 0) | (index >= count)).any():
                raise InputError(f"expected whole numbers from 0 to {count - 1}: the model starts with an Embedding")
        return x

    def _side_by_side(self, X: Mapping[str, ArrayLike]) -> Array:
        """Inputs by name as one array (m, time, features)."""
        names = [name for name, _ in self.graph.inputs]
        if set(X) != set(names):
            raise InputError(f"expected the inputs {names}, got {list(X)}")
        parts = {name: float32(X[name], f"numbers for input {name!r}") for name in names}
        timed = [parts[name].shape[:2] for name, spec in self.graph.inputs if spec.role is TimeRole.SEQUENCE]
        if len(set(timed)) != 1 or len(timed[0]) != 2:
            raise InputError(f"expected (m, time, ...) for each input with time, equal in both, got {timed}")
        m, time = timed[0]
        rows = []
        for name, spec in self.graph.inputs:
            lead = (m, time) if spec.role is TimeRole.SEQUENCE else (m,)
            if parts[name].shape not in {(*lead, *spec.shape), (*lead, spec.size)}:
                raise InputError(f"input {name!r}: expected shape {(*lead, *spec.shape)}, got {parts[name].shape}")
            part = parts[name].reshape(m, time if len(lead) == 2 else 1, spec.size)
            rows.append(np.broadcast_to(part, (m, time, spec.size)))
        return np.concatenate(rows, axis=-1)

    def verify(
        self, x: ArrayLike | None = None, expected: ArrayLike | None = None, reference: Any = None
    ) -> Verification:
        """The contract on x (m, time, features), and against expected outputs or a live Keras model.

        expected: (m, outputs) for the last position or (m, time, outputs) for all. Without x, random samples are
        made, always the same. Returns a report with `ok`, the largest error, its position and what was compared.
        """
        return verify(self, x, expected, reference)

    def save(self, path: str | Path, reports: Mapping[str, Any] | None = None, date: str | None = None) -> None:
        """Write a bundle, `model.stepstream`: all of the model in one file that `load` takes.

        reports: JSON by name, kept beside those that the model has, in the place of those of the same name. date: any
        text, for people to read; without one the same model gives the same bytes. The old file stays whole until the
        new one is on the disk.
        Raises BlockedError for a model that cannot step, InputError for reports that are no JSON and for a name that
        Keras files have, ContractError where this machine's kernel and NumPy do not agree, ModelFileError where the
        file cannot be written.
        """
        _ = self.executor
        if not isinstance(reports, Mapping | None) or not all(isinstance(name, str) for name in reports or ()):
            raise InputError(f"reports: expected a dict of JSON by name, got {short(reports)}")
        target = bundle.target(path)
        known = self.reading.vectors
        reading = replace(
            self.reading,
            features=self.features,
            classes=self.classes,
            reports={**self.reports, **(reports or {})},
            vectors=known if known is not None and known.fingerprint == self.fingerprint else vectors.made(self),
        )
        bundle.write(target, reading, self.fingerprint, date)
        logger.info("wrote the bundle %s: %r", target, self)

    def stream(self, windowing: str | Windowing = "auto") -> Stream:
        """A new stream over this model: "auto", "carry", "tumbling(n)", "sliding(n)" or "session(gap)".

        Raises InputError where the model and the windowing do not fit, BlockedError where the model cannot step.
        """
        return Stream(self, windowing)


def _is_binary(graph: Graph) -> bool:
    """Whether one unit stands for two classes."""
    try:
        return n_classes(graph) == 2
    except InputError:
        return False


def _names(what: str, names: Sequence[str] | None) -> tuple[str, ...] | None:
    if not isinstance(names, list | tuple | None):  # a set has an order of its own in every process
        raise InputError(f"{what}: expected a list of names, got {names!r}")
    return None if names is None else tuple(names)
