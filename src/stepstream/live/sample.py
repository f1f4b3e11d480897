"""What a user gives for a sample, or for many, as rows of float32."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike

from stepstream.arrays import float32
from stepstream.errors import InputError
from stepstream.graph.ir import Array, TimeRole

if TYPE_CHECKING:
    from stepstream.model import Model

Sample = Sequence[float] | Array | Mapping[str, Any]


def row_of(model: Model, x: Sample, where: str) -> Array:
    """One sample, in any of the forms of `Stream.step`, as float32 (1, features); raises InputError, naming `where`."""
    f = model.n_features
    names = model.features
    if isinstance(x, Mapping):
        x = _by_name(model, x, where)
    row = float32(x, f"{f} numbers ({where})")
    shape, shapes = row.shape, model.sample_shapes
    if shape not in shapes and not any(shape[:n] == (1,) * n and shape[n:] in shapes for n in (1, 2)):
        known = "" if names is None else f"; the features are {', '.join(names)}"
        raise InputError(f"expected {f} features per sample, got shape {row.shape} ({where}){known}")
    row = row.reshape(1, f)
    if not np.isfinite(row).all():
        i = int(np.flatnonzero(~np.isfinite(row[0]))[0])
        name = names[i] if names else i
        raise InputError(
            f"expected finite numbers, got {row[0, i]} for feature {name} ({where}); "
            "fill the value or leave the sample out"
        )
    for column, count in model.index_columns.items():
        value = row[0, column]
        if not (value == int(value) and 0 <= value < count):
            raise InputError(f"expected a whole number from 0 to {count - 1}, got {value} ({where})")
    return row


def _by_name(model: Model, x: Mapping[str, Any], where: str) -> Any:
    """A dict by input name (several inputs) or by feature name, as one flat row."""
    names, inputs = model.features, model.input_columns
    if len(inputs) > 1 and (set(x) == set(inputs) or names is None):
        if set(x) != set(inputs):
            raise InputError(f"expected the inputs {list(inputs)}, got {list(x)} ({where})")
        row = np.empty(model.n_features, np.float32)
        for name, columns in inputs.items():
            size = columns.stop - columns.start
            value = float32(x[name], f"{size} numbers for input {name!r} ({where})")
            if value.size != size:
                raise InputError(f"expected {size} numbers for input {name!r}, got shape {value.shape} ({where})")
            row[columns] = value.reshape(-1)
        return row
    if names is None:
        raise InputError("expected a list of numbers: the model has no feature names; give features= to load()")
    if set(x) != set(names):
        either = f", or the inputs {list(inputs)}" if len(inputs) > 1 else ""
        raise InputError(f"expected the features {list(names)}{either}, got {list(x)} ({where})")
    return [x[name] for name in names]


def rows_of(model: Model, X: ArrayLike | Mapping[str, Any]) -> Array:
    """Many samples as float32 (time, features), the values not yet looked at; raises InputError.

    X: (t, f), (1, t, f), the same with the shape of the only input, or for a model with several inputs a dict by input
    name, as `Stream.steps` takes it.
    """
    f = model.n_features
    if isinstance(X, Mapping):
        return _inputs(model, X)
    x = float32(X, f"numbers of shape (time, {f})")
    given, shapes = x.shape, model.sample_shapes
    if x.ndim > 1 and len(x) == 1 and x.shape[1:] not in shapes:
        x = x[0]
    if x.ndim and x.shape[1:] in shapes:
        x = x.reshape(len(x), f)
    if x.ndim != 2:
        raise InputError(f"expected shape (time, {f}) or (1, time, ...), got {given}")
    return x


def _inputs(model: Model, X: Mapping[str, Any]) -> Array:
    columns, specs = model.input_columns, dict(model.graph.inputs)
    if set(X) != set(columns):
        raise InputError(f"expected the inputs {list(columns)}, got {list(X)}")
    sizes = {name: c.stop - c.start for name, c in columns.items()}
    values = {name: float32(X[name], f"numbers for input {name!r}") for name in columns}
    lengths = {name: v.shape[0] if v.ndim else 0 for name, v in values.items() if specs[name].role is TimeRole.SEQUENCE}
    if len(set(lengths.values())) != 1:
        raise InputError(f"expected equally many samples for each input with time, got {lengths}")
    t = next(iter(lengths.values()))
    rows = np.empty((t, model.n_features), np.float32)
    for name, value in values.items():
        k = sizes[name]
        fixed = name not in lengths and value.size == k and value.shape != (t, k)  # one value for all samples
        if not fixed and (value.size != t * k or len(value) != t):
            shape = f"({t}, {k})" if name in lengths else f"({k},) or ({t}, {k})"
            raise InputError(f"expected shape {shape} for input {name!r}, got {value.shape}")
        rows[:, columns[name]] = value.reshape(-1, k)
    return rows
