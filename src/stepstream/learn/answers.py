"""A model's answers on labelled sequences, by the very executor that serves, many sequences at a time."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from stepstream.classes import as_classes, as_logits
from stepstream.errors import InputError
from stepstream.graph import attach
from stepstream.graph.ir import Array, TimeRole
from stepstream.kernel.executor import update
from stepstream.learn.data import Sequences
from stepstream.live.state import Executor
from stepstream.live.windowing import Session, Sliding, Tumbling, Windowing
from stepstream.model import Model

MAX_ROWS = 1024  # sequences side by side, as the kernel likes them
MAX_FLOATS = 2**24  # of their states: 64 MiB
BLOCK = 256  # samples of each that are laid side by side at once
SUM = 1e-3  # how far from 1 the probabilities of all classes may sum up


def probabilities(model: Model, data: Sequences, windowing: str | Windowing = "carry") -> tuple[Array, ...]:
    """The answer at every sample, float32 (time_i, classes) for each sequence, as `Stream.step` gives it bit for bit.

    One sigmoid unit becomes two columns, (1 - p, p). For regression (time_i, outputs). windowing: "carry",
    "tumbling(n)" or "sliding(n)". Features are taken by name where both sides have names, else in their order; for
    the labels see `matched`. Raises InputError for data that do not fit, answers that are no probabilities, or a state
    that overflows.
    """
    if len(model.output_names) != 1:
        raise InputError(f"expected a model with one output, got {', '.join(model.output_names)}")
    windowing = model.stream(windowing).windowing  # refuses what does not fit the model, and says what "auto" is
    if isinstance(windowing, Session):
        raise InputError(f"windowing: expected carry, tumbling(n) or sliding(n), got {windowing}, which needs times")
    columns = _columns(model, data)
    xs = [x if columns is None else np.ascontiguousarray(x[:, columns]) for x in data.x]
    for key, x in zip(data.keys, xs, strict=True):
        _check(model, windowing, x, key)
    executor = windowing.on(model.executor)[1]
    answers = _answers(executor, windowing, xs, data.keys, model.output_sizes[0])
    if data.classes is None:
        return answers
    for key, p in zip(data.keys, answers, strict=True):
        wrong = ((p < 0) | (p > 1)).any(axis=1)
        if p.shape[1] > 1:
            wrong |= abs(p.sum(axis=1) - 1) > SUM
        if wrong.any():
            t = int(wrong.argmax())
            raise InputError(
                f"expected probabilities of classes, got {p[t].tolist()} (sequence {key!r}, sample {t + 1}); let the "
                "network end in one sigmoid unit or in a softmax, or say regression=True (--regression) where it "
                "predicts numbers"
            )
    return tuple(map(as_classes, answers))


def raw_logits(model: Model, data: Sequences, windowing: str | Windowing = "carry") -> tuple[Array, ...]:
    """What the model says before calibration and the last activation, float32 (time_i, classes); one unit as (0, z)."""
    bare = model.with_graph(attach.logits(model.graph))
    numbers = replace(data, classes=None, y=tuple(y.astype(np.float32) for y in data.y))
    return tuple(map(as_logits, probabilities(bare, numbers, windowing)))


def matched(model: Model, data: Sequences) -> Sequences:
    """The data with the model's features and classes in the model's order; raises InputError where they do not fit.

    By name where both sides have names; classes that are whole numbers count the model's from 0. A model with one
    sigmoid unit has two classes, and a single name is that of the second.
    """
    columns = _columns(model, data)
    if columns is not None:
        data = replace(
            data,
            x=tuple(np.ascontiguousarray(x[:, columns]) for x in data.x),
            features=tuple(data.features[c] for c in columns),
        )
    if len(model.output_names) != 1:
        raise InputError(f"expected a model with one output, got {', '.join(model.output_names)}")
    outputs = model.output_sizes[0]
    if data.classes is None:
        _check_numbers(model, data, outputs)
        return data
    named = _order(model.classes, data.classes, max(2, outputs))
    if named == data.classes:
        return data
    places = _places(named, data.classes)
    return replace(data, y=tuple(np.asarray(places[y]) for y in data.y), classes=named)


def class_columns(model: Model, data: Sequences) -> Array:
    """Which column of the model's answers is that of each of the data's classes, int64 (classes,); as `matched`."""
    assert data.classes is not None
    classes = matched(model, data).classes
    assert classes is not None
    return _places(classes, data.classes)


def _places(named: tuple[str, ...], classes: tuple[str, ...]) -> Array:
    """Where classes of data stand among those of a model, as `_order` has found these."""
    by_name = set(classes) <= set(named)
    return np.array([named.index(c) if by_name else int(c) for c in classes], np.int64)


def _check_numbers(model: Model, data: Sequences, outputs: int) -> None:
    """Refuse numbers to be predicted for a model of classes, of which no figure would mean anything.

    A sigmoid without names of classes may answer with a share, which is a number from 0 to 1.
    """
    if model.classes is not None:
        said = f"the classes {', '.join(model.classes)}"
    elif outputs != 1:
        raise InputError(f"expected a model with one number as its answer for regression, got {outputs}")
    else:
        try:
            attach.n_classes(model.graph)
        except InputError:  # no sigmoid at its end
            return
        y = np.concatenate([np.atleast_1d(v) for v in data.y])
        if ((y >= 0) & (y <= 1)).all() and not np.isin(y, (0, 1)).all():
            return
        said = "probabilities of two classes"
    raise InputError(
        f"expected data with classes, as the model answers with {said}, got numbers to be predicted; leave out "
        "regression=True (--regression), or say regression=False for classes that are written as 1.0, 2.0, ..."
    )


def named(model: Model, data: Sequences) -> Model:
    """The model with the names of the data's features and classes, where it has none of its own. data: `matched`."""
    features = model.features if model.features is not None or not data.named else data.features
    classes = data.classes if model.classes is None else model.classes
    return Model(model.reading, features, classes)


def _order(names: tuple[str, ...] | None, classes: tuple[str, ...], k: int) -> tuple[str, ...]:
    """The names of the k classes of a model, by its own names and those in the data."""
    if names is not None and len(names) == 1 and k == 2:
        others = [c for c in classes if c != names[0]]
        names = (others[0] if len(others) == 1 else f"not {names[0]}", names[0])
    counted = all(c.isdecimal() and int(c) < k for c in classes)
    if names is None:
        if len(classes) == k:
            return classes
        if counted:
            return tuple(map(str, range(k)))
        raise InputError(
            f"expected {k} classes, as the model has, got {len(classes)}: {', '.join(classes)}; if the data lack some "
            "of them, give classes= in the model's order"
        )
    if set(classes) <= set(names) or counted:
        return names
    raise InputError(
        f"expected the classes {', '.join(names)}, as the model has them, got {', '.join(classes)}; name the labels "
        "so, or give whole numbers from 0"
    )


def _columns(model: Model, data: Sequences) -> list[int] | None:
    """Which columns of the data the model takes, in its order; None for all of them as they are."""
    if model.features is not None and data.named and model.features != data.features:
        if missing := [f for f in model.features if f not in data.features]:
            raise InputError(
                f"expected the features {', '.join(model.features)}, as the model has them, got no "
                f"{', '.join(missing)} in {', '.join(data.features)}; name the columns as in training"
            )
        return [data.features.index(f) for f in model.features]
    if len(data.features) != model.n_features:
        raise InputError(
            f"expected {model.n_features} features, as the model takes, got {len(data.features)}: "
            f"{', '.join(data.features)}; choose them with features="
        )
    return None


def _check(model: Model, windowing: Windowing, x: Array, key: str) -> None:
    """What a stream would refuse of these samples."""
    n = model.window_length
    if n is not None and not isinstance(windowing, Sliding | Tumbling) and len(x) > n:
        raise InputError(
            f"sequence {key!r}: expected at most {n} samples under {windowing}, got {len(x)}: the model flattens "
            f"windows of {n} samples; choose tumbling({n}) or sliding({n})"
        )
    size = n or len(x)
    if isinstance(windowing, Tumbling) and any(spec.role is TimeRole.STATIC for _, spec in model.graph.inputs):
        size = windowing.n  # what has no time may change at a restart
    try:
        for start in range(0, len(x), size):
            model.batch(x[None, start : start + size])
    except InputError as e:
        raise InputError(f"sequence {key!r}: {e}") from e


def _answers(
    executor: Executor, windowing: Windowing, xs: list[Array], keys: tuple[str, ...], outputs: int
) -> tuple[Array, ...]:
    """The longest first, so that those that still go on are always the first rows of the state table."""
    answers = [np.empty((len(x), outputs), np.float32) for x in xs]
    order = sorted(range(len(xs)), key=lambda i: -len(xs[i]))
    rows = max(1, min(MAX_ROWS, MAX_FLOATS // max(1, executor.state_size)))
    for first in range(0, len(order), rows):
        chosen = order[first : first + rows]
        lengths = np.array([len(xs[i]) for i in chosen])
        table = executor.initial_state(len(chosen))
        for start, x in _blocks([xs[i] for i in chosen]):
            out = np.empty((*x.shape[:2], outputs), np.float32)
            for t in range(len(x)):
                going = int((lengths > start + t).sum())
                if isinstance(windowing, Tumbling) and start + t and not (start + t) % windowing.n:
                    table[:going] = executor.initial_state(going)
                y, finite = _step(executor, table[:going], x[t, :going])
                if not finite.all():
                    raise InputError(
                        f"the model's answer or state overflowed (sequence {keys[chosen[int(finite.argmin())]]!r}, "
                        f"sample {start + t + 1}); expected samples in the range that it was trained on: check units "
                        "and scale="
                    )
                out[t, :going] = y[:, :outputs]  # behind them may stand a decision
            for row, i in enumerate(chosen):
                answers[i][start : start + len(x)] = out[: max(0, lengths[row] - start), row]
    return tuple(answers)


def _blocks(xs: list[Array]) -> Iterator[tuple[int, Array]]:
    """Sequences, the longest first, as (first sample, float32 (samples, sequences, features)), zeros behind the end."""
    for start in range(0, len(xs[0]), BLOCK):
        block = np.zeros((min(BLOCK, len(xs[0]) - start), len(xs), xs[0].shape[1]), np.float32)
        for row, x in enumerate(xs):
            part = x[start : start + BLOCK]
            block[: len(part), row] = part
        yield start, block


def _step(executor: Executor, table: Array, x: Array) -> tuple[Array, Array]:
    """The rows of the table one sample on, in place -> answers side by side, and whether each row is finite."""
    if executor.machine is not None:
        return update(executor.machine, table, None, x, guard=False)
    ys, new = executor.step(x, table)
    table[:] = new
    out = np.concatenate(ys, axis=1)
    return out, np.isfinite(new).all(axis=1) & np.isfinite(out).all(axis=1)
