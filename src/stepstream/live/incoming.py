"""What a caller hands to an Engine, as arrays; what is wrong with single samples is noted beside them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from numbers import Integral
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from stepstream.arrays import short
from stepstream.errors import InputError
from stepstream.graph.ir import Array
from stepstream.kernel.keys import Key, KeyTable
from stepstream.live.batch import Samples
from stepstream.live.sample import Sample, row_of, rows_of
from stepstream.live.stream import Stream

if TYPE_CHECKING:
    from stepstream.model import Model

MAX_SEQ = 2**62  # as a file holds counts


def check_key(key: Any) -> Key:
    """The key; raises InputError for what is none."""
    try:
        KeyTable().find([key])
    except (TypeError, ValueError) as e:
        raise InputError(str(e)) from e
    good: Key = key
    return good


class Call(NamedTuple):
    """What `Engine.step` is called with."""

    key: Key
    x: Sample
    seq: int | None
    time: float | None


def seq_of(seq: Any, where: str) -> int:
    """A number of a sample, -1 for none; raises InputError."""
    if seq is None:
        return -1
    if isinstance(seq, Integral) and not isinstance(seq, bool) and 0 <= int(seq) <= MAX_SEQ:
        return int(seq)
    raise InputError(f"expected a sequence number from 0 to {MAX_SEQ}, got {short(seq)} ({where})")


def time_of(time: Any, where: str) -> float:
    """Seconds since 1970, NaN for none; raises InputError."""
    return np.nan if time is None else Stream._seconds(time, where)


def one(model: Model, key: Key, x: Sample, seq: Any, time: Any, number: int) -> Samples:
    """The number-th sample of one stream; raises InputError."""
    where = f"sample {number} of stream {key!r}"
    numbers = np.array([seq_of(seq, where)])
    row = row_of(model, x, where).copy()  # the caller may write into his own meanwhile
    return Samples([key], row, numbers, np.array([time_of(time, where)], np.float64))


def many(model: Model, keys: Any, X: ArrayLike | Mapping[str, Any], seq: Any, time: Any, end: Any) -> Samples:
    """Samples of many streams, bad ones noted. Raises InputError where arrays do not fit together."""
    if isinstance(keys, np.ndarray):
        keys = keys.tolist()
    if isinstance(keys, str | bytes) or not isinstance(keys, Sequence):
        raise InputError(f"keys: expected a sequence with one key for each sample, got {short(keys)}")
    keys = list(keys)
    n, reasons = len(keys), dict[int, str]()
    x = _rows(model, X, keys, reasons)
    if len(x) != n:
        raise InputError(f"expected one key for each sample, got {n} keys and {len(x)} samples")
    samples = Samples(keys, x, np.full(n, -1), np.full(n, np.nan), reasons)
    if seq is not None:
        _column(samples, "seq", seq, samples.seq, seq_of)
    if time is not None:
        _column(samples, "time", time, samples.time, time_of)
    if end is not None:
        samples.end = _ends(end, n)
    _values(model, samples)
    return samples


def _rows(model: Model, X: Any, keys: list[Key], reasons: dict[int, str]) -> Array:
    """float32 (n, features), the values not yet looked at."""
    if not len(keys) and not isinstance(X, Mapping) and np.size(X) == 0:
        return np.zeros((0, model.n_features), np.float32)
    try:
        x = rows_of(model, X)
        if x.shape[1] != model.n_features:
            raise InputError(f"expected {model.n_features} features per sample, got {x.shape[1]}")
        return x.copy()  # the caller may write into his own meanwhile
    except InputError:
        if isinstance(X, np.ndarray | Mapping) or not isinstance(X, Sequence) or len(X) != len(keys):
            raise
    rows = np.zeros((len(keys), model.n_features), np.float32)  # samples of different shapes, or names
    for i, (key, x) in enumerate(zip(keys, X, strict=True)):
        try:
            rows[i] = row_of(model, x, f"sample {i} of the call, stream {key!r}")[0]
        except InputError as e:
            reasons[i] = str(e)
    return rows


def _column(samples: Samples, name: str, given: Any, to: Array, read: Any) -> None:
    """seq or time: one for each sample, None for none."""
    n = len(to)
    if isinstance(given, np.ma.MaskedArray):
        raise InputError(f"{name}: expected an array without a mask, got a masked one; give None for none")
    if np.ndim(given) != 1 or not isinstance(given, Sequence | np.ndarray) or len(given) != n:
        raise InputError(f"{name}: expected {n}, one for each sample, got {short(given)}")
    if isinstance(given, np.ndarray) and given.ndim == 1 and given.dtype.kind in "iuf"[: 3 if name == "time" else 2]:
        good = np.isfinite(given) if name == "time" else (given >= 0) & (given <= MAX_SEQ)
        if good.all():
            to[:] = given
            return
    for i, value in enumerate(given):
        where = f"sample {i} of the call, stream {samples.keys[i]!r}"
        try:
            to[i] = read(value, where)
        except InputError as e:
            samples.reasons.setdefault(i, str(e))


def _ends(end: Any, n: int) -> Array | None:
    """bool (n,), None where none is true."""
    array = isinstance(end, np.ndarray) and end.ndim == 1 and end.dtype == bool
    if (
        not isinstance(end, Sequence | np.ndarray)
        or len(end) != n
        or not (array or all(isinstance(one, bool | np.bool_) for one in end))
    ):
        raise InputError(f"end: expected {n} times True or False, once for each sample, got {short(end)}")
    flags = np.array(end, bool)
    return flags if flags.any() else None


def _values(model: Model, samples: Samples) -> None:
    """Notes what is not finite, or no index where one is expected."""
    x = samples.x
    bad = ~np.isfinite(x).all(axis=1)
    for column, count in model.index_columns.items():
        with np.errstate(invalid="ignore"):
            bad |= (x[:, column] != np.floor(x[:, column])) | (x[:, column] < 0) | (x[:, column] >= count)
    for i in np.flatnonzero(bad).tolist():
        try:
            row_of(model, x[i], f"sample {i} of the call, stream {samples.keys[i]!r}")
        except InputError as e:
            samples.reasons.setdefault(i, str(e))


def rows_of_keys(table: KeyTable, samples: Samples) -> Array:
    """int64 (n,): their rows, -1 for those that are not there and for bad keys, which are noted."""
    try:
        return np.array(table.find(samples.keys))
    except (TypeError, ValueError):
        rows = np.full(len(samples.keys), -1)
        for i, key in enumerate(samples.keys):
            try:
                rows[i] = table.find([key])[0]
            except (TypeError, ValueError) as e:
                samples.reasons.setdefault(i, f"{e} (sample {i} of the call)")
        return rows
