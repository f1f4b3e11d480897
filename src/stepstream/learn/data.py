"""Labelled sequences, and how they are divided: by stream, never inside one."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from numbers import Real
from typing import Any, final

import numpy as np

from stepstream.arguments import whole
from stepstream.arrays import float32, short
from stepstream.errors import InputError
from stepstream.graph.ir import Array
from stepstream.learn.kinds import of_kind

_UNNAMED = re.compile(r"feature \d+")  # as `unnamed` writes it
LOST = 0.1  # rounding to float32, in parts of how far a feature moves within a sequence: beyond it little is left of it
JITTER = 1e-11  # of a feature's size: what moves less is a constant that was computed in float64
MAX_CLASSES = 1000  # more different labels than that are numbers to be predicted, not classes


@final
@dataclass(frozen=True, eq=False)
class Sequences:
    """Labelled sequences, perhaps of different lengths.

    x: float32 (time_i, features) each, finite. y: int64 class index, or float32 for regression, (time_i,) each where
    `per_sample`, else () each. keys: one name for each sequence, all different. streams: the stream to which each
    belongs; a stream never gets into two parts of a split, and its sequences are in their order. features: "feature 0",
    "feature 1", ... where nobody named them. classes: None for regression. left_out: columns of a table that hold no
    numbers, where nobody named the features. Raises InputError for parts that do not fit together.
    """

    x: tuple[Array, ...]
    y: tuple[Array, ...]
    keys: tuple[str, ...]
    streams: tuple[str, ...]
    features: tuple[str, ...]
    classes: tuple[str, ...] | None
    per_sample: bool
    left_out: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        counts = {name: len(getattr(self, name)) for name in ("x", "y", "keys", "streams")}
        if len(set(counts.values())) != 1:
            raise InputError(f"expected as many labels, keys and streams as sequences, got {counts}")
        if not self.x:
            raise InputError("expected at least one sequence, got none")
        for what, names in (("keys", self.keys), ("features", self.features), ("classes", self.classes or ())):
            if twice := [name for name, count in Counter(names).items() if count > 1]:
                raise InputError(f"{what}: expected different names, got {twice[0]!r} twice")
        label = np.float32 if self.classes is None else np.int64
        for key, x, y in zip(self.keys, self.x, self.y, strict=True):
            if x.ndim != 2 or not len(x) or x.shape[1] != len(self.features):
                raise InputError(f"sequence {key!r}: expected (time, {len(self.features)}) values, got {x.shape}")
            if y.shape != (x.shape[:1] if self.per_sample else ()):
                per = f"{len(x)} labels, one per sample" if self.per_sample else "one label"
                raise InputError(f"sequence {key!r}: expected {per}, got shape {y.shape}")
            if x.dtype != np.float32 or y.dtype != label:
                raise InputError(
                    f"sequence {key!r}: expected float32 values and {label.__name__} labels, got {x.dtype} and "
                    f"{y.dtype}; stepstream.learn.sequences makes them"
                )

    def __len__(self) -> int:
        return len(self.x)

    @property
    def lengths(self) -> Array:
        """Samples in each sequence, int64 (m,)."""
        return np.array([len(x) for x in self.x], np.int64)

    @property
    def named(self) -> bool:
        """Whether somebody named the features: else they are `unnamed` ones, which tell none from another."""
        return not all(_UNNAMED.fullmatch(name) for name in self.features)

    def some(self, indices: Iterable[int]) -> Sequences:
        """The sequences at these places, in this order; or where a mask of booleans (m,) is true. Raises InputError."""
        places = np.asarray(indices if isinstance(indices, np.ndarray) else list(indices))
        if places.dtype == bool:
            if places.shape != (len(self),):
                raise InputError(f"indices: expected a mask of {len(self)} booleans, got shape {places.shape}")
            places = np.flatnonzero(places)
        fits = places.ndim == 1 and (not places.size or places.dtype.kind in "iu")
        if not fits or ((places < -len(self)) | (places >= len(self))).any():
            raise InputError(f"indices: expected whole numbers from 0 to {len(self) - 1}, got {short(indices)}")
        chosen = places.astype(int).tolist()
        return replace(
            self,
            x=tuple(self.x[i] for i in chosen),
            y=tuple(self.y[i] for i in chosen),
            keys=tuple(self.keys[i] for i in chosen),
            streams=tuple(self.streams[i] for i in chosen),
        )


def sequences(
    X: Any,
    y: Any,
    *,
    keys: Sequence[Any] | None = None,
    streams: Sequence[Any] | None = None,
    features: Sequence[str] | None = None,
    classes: Sequence[str] | None = None,
    lengths: Sequence[int] | None = None,
    regression: bool | None = None,
) -> Sequences:
    """Arrays or lists as `Sequences`.

    X: (m, time, features), or m arrays (time_i, features), or with `lengths` (m,) all samples below each other,
    (total, features), or padded at their ends, (m, time, features). y: (m,), or per sample (m, time), m arrays
    (time_i,), or with samples below each other (total,).
    One column for each class, (m, classes), is y.argmax(-1), and refused; so are 0s with a single 1 in each row of an
    array (m, time), which list(y) gives as labels per sample.
    Whole numbers, texts and booleans are classes, as are floats that are all 0 or 1; other floats are numbers to be
    predicted; `regression` says otherwise. classes: their names in the model's order; whole numbers in y then count
    from 0. Without it the classes are the labels that occur, sorted; 0 and 1 are two classes even if one is missing.
    Values are kept in float32: a feature that moves by less than that can tell apart at its size, such as seconds since
    1970, is refused.
    keys: a name for each sequence; by default its number. streams: the stream of each; by default each is its own.
    Raises InputError.
    """
    xs, ys = _parts(X, y, lengths)
    if (
        getattr(y, "ndim", 0) == 2
        and np.shape(y) == (len(xs), max(map(len, xs), default=0))
        and _one_hot(np.asarray(y))
    ):
        raise InputError(
            f"y: expected labels, got 0s with a single 1 in each row, shape {np.shape(y)}: one column for each class, "
            "or labels of samples? Give y.argmax(-1) for a class for each sequence, list(y) for labels per "
            "sample (of a file: --label-per sample)"
        )
    names = _texts("keys", keys, len(xs)) or tuple(map(str, range(len(xs))))
    found = []
    for key, part in zip(names, xs, strict=True):
        x = float32(part, f"numbers in sequence {key!r}")
        if x.ndim != 2 or not x.size:
            cure = "; one feature is x[:, None]" if x.ndim == 1 and x.size else ""
            raise InputError(f"sequence {key!r}: expected (time, features) values, got shape {x.shape}{cure}")
        if not np.isfinite(x).all():
            t, column = np.argwhere(~np.isfinite(x))[0]
            raise InputError(
                f"sequence {key!r}, sample {t + 1}: expected finite numbers, got {x[t, column]} in feature {column}; "
                "fill the gap with the value before it, or leave the sample out"
            )
        found.append(x)
    if not found:
        raise InputError("expected at least one sequence, got none")
    columns = tuple(features) if features is not None else unnamed(range(found[0].shape[1]))
    _check_precision(xs, found, columns)
    labels, per_sample = _labels(ys, found, names)
    values, named = _values(labels, classes, regression)
    ends = np.cumsum([len(x) for x in found])[:-1]
    return Sequences(
        tuple(found),
        tuple(np.split(values, ends) if per_sample else [np.asarray(v) for v in values]),
        names,
        _texts("streams", streams, len(xs)) or names,
        columns,
        named,
        per_sample,
    )


def unnamed(columns: Iterable[int | str]) -> tuple[str, ...]:
    """What messages call features that have no names, by their numbers."""
    return tuple(f"feature {column}" for column in columns)


def _parts(X: Any, y: Any, lengths: Sequence[int] | None) -> tuple[list[Any], list[Any]]:
    """Sequences and labels one by one."""
    for name, values in (("X", X), ("y", y)):
        try:
            iter(values)
        except TypeError:
            raise InputError(f"{name}: expected one for each sequence, got {short(values)}") from None
    if lengths is None:
        if getattr(X, "ndim", 3) != 3:
            raise InputError(
                f"X: expected (m, time, features), got shape {X.shape}; one feature is X[..., None], and samples "
                "below each other, (total, features), need lengths="
            )
        xs, ys = list(X), list(y)
    else:
        x, counts = np.asanyarray(X), np.asarray(lengths)  # a mask stays, to be refused unless it is on padding alone
        padded, most = x.ndim == 3, x.shape[1] if x.ndim == 3 else len(x)
        whole = counts.ndim == 1 and counts.dtype.kind in "iu" and bool(((counts > 0) & (counts <= most)).all())
        if not whole or (len(counts) != len(x) if padded else counts.sum() != len(x)):
            what = f"{len(x)} whole numbers from 1 to {most}" if padded else f"whole numbers with the sum {len(x)}"
            raise InputError(f"lengths: expected {what}, got {short(lengths)}")
        ends = np.cumsum(counts)[:-1]
        xs = [row[:n] for row, n in zip(x, counts, strict=True)] if padded else np.split(x, ends)
        if padded and len(y) == len(x):
            ys = [v[:n] if np.ndim(v) and len(v) == most else v for v, n in zip(y, counts, strict=True)]
        else:
            ys = np.split(np.asanyarray(y), ends) if len(y) == len(x) != len(counts) else list(y)
    if len(xs) != len(ys):
        raise InputError(f"y: expected a label for each of {len(xs)} sequences, got {len(ys)}")
    return xs, ys


def _check_precision(parts: list[Any], xs: list[Array], features: tuple[str, ...]) -> None:
    """Refuse features that move within sequences by no more than float32 can tell apart, such as times since 1970."""
    if {x.shape[1] for x in xs} != {len(features)}:
        return  # refused later
    lost, moved, size = np.zeros((3, len(features)))
    for part, x in zip(parts, xs, strict=True):
        wide = np.asarray(part) if isinstance(part, list | tuple | np.ndarray) else x
        if wide.dtype.kind in "iuf" and wide.dtype.itemsize > x.dtype.itemsize:
            wide = wide.astype(np.float64)
            lost += ((x - wide) ** 2).sum(axis=0)
            moved += ((wide - wide.mean(axis=0)) ** 2).sum(axis=0)
            size += (wide**2).sum(axis=0)
    swallowed = (lost > LOST**2 * moved) & (moved > JITTER**2 * size)
    if swallowed.any():
        i = int(swallowed.argmax())
        value = max((x[:, i] for x in xs), key=lambda v: float(abs(v).max()))
        raise InputError(
            f"feature {features[i]!r}: expected values whose changes float32 can hold, got some around "
            f"{float(value[0]):.4g}, where its steps are {float(np.spacing(abs(value[0]))):.3g}; subtract an offset, "
            "such as the first value of each sequence, here and on streams"
        )


def _labels(ys: list[Any], xs: list[Array], keys: tuple[str, ...]) -> tuple[Array, bool]:
    """All labels in one row, and whether there is one per sample."""
    for key, y in zip(keys, ys, strict=True):
        if np.ma.is_masked(y) or (isinstance(y, list | tuple) and any(map(np.ma.is_masked, y))):
            raise InputError(
                f"y of sequence {key!r}: expected labels, got masked ones, below which lies anything; leave out what "
                "has no label, or give lengths= where padding is masked"
            )
    try:
        arrays = [np.asarray(y) for y in ys]
    except ValueError as e:
        raise InputError(f"y: expected numbers or texts, got {short(ys[0])}") from e
    if all(a.shape == (1,) for a in arrays) and any(len(x) > 1 for x in xs):
        arrays = [a[0] for a in arrays]  # (m, 1), as Keras takes labels
    per_sample = arrays[0].ndim > 0
    for key, a, x in zip(keys, arrays, xs, strict=True):
        if a.shape != (x.shape[:1] if per_sample else ()):
            if all(a.ndim and _one_hot(a, 1) for a in arrays):
                cure = "of one column for each class y.argmax(-1) makes labels"
            else:
                cure = "of several numbers give the one to be predicted, such as y[..., 0]"
            raise InputError(
                f"y of sequence {key!r}: expected one label, or {len(x)}, one per sample, got shape {a.shape}; {cure}"
            )
        if a.dtype.kind == "f" and not np.isfinite(a).all():
            at = f", sample {int((~np.isfinite(a)).argmax()) + 1}" if per_sample else ""
            raise InputError(
                f"y of sequence {key!r}{at}: expected a finite number, got {a[~np.isfinite(a)][0]}; leave what has no "
                "label out"
            )
    texts = {a.dtype.kind in "US" for a in arrays}
    if len(texts) > 1 or any(a.dtype.kind not in "biufUS" for a in arrays):
        raise InputError(f"y: expected labels all of one kind, texts or numbers, got {short(ys)}")
    return np.concatenate([np.atleast_1d(a) for a in arrays]), per_sample


def _one_hot(y: Array, columns: int = 2) -> bool:
    """Whether each row holds a single 1 among 0s, in so many different columns at least."""
    if y.dtype.kind not in "biuf" or y.shape[-1] < 2 or not np.isin(y, (0, 1)).all():
        return False
    hot = y.reshape(-1, y.shape[-1])
    return bool((hot.sum(axis=1) == 1).all() and hot.any(axis=0).sum() >= columns)


def _values(labels: Array, classes: Sequence[str] | None, regression: bool | None) -> tuple[Array, Any]:
    """Labels as numbers, int64 of classes or float32, and the names of the classes."""
    if labels.dtype.kind == "f" and regression is None:
        regression = classes is None and not np.isin(labels, (0, 1)).all()
    if regression:
        if classes is not None:
            raise InputError(f"classes: expected none for regression, got {', '.join(map(str, classes))}")
        if labels.dtype.kind in "US":
            raise InputError(f"y: expected numbers for regression, got {short(labels.flat[0])}")
        return float32(labels, "y in float32"), None
    if labels.dtype.kind == "f":
        if (labels != np.floor(labels)).any():
            raise InputError(f"y: expected classes as whole numbers or texts, got {labels[labels % 1 != 0][0]}")
        labels = labels.astype(np.int64)
    whole = labels.dtype.kind in "biu"
    if classes is not None:
        named = tuple(map(str, classes))
        if whole and not set(named) >= set(map(str, np.unique(labels))):
            if labels.min() < 0 or labels.max() >= len(named):
                raise InputError(f"y: expected class numbers from 0 to {len(named) - 1}, got {labels.max()}")
            return labels.astype(np.int64), named
    else:
        named = class_names(labels)
    places = {name: i for i, name in enumerate(named)}
    different, where = np.unique(labels, return_inverse=True)
    texts = [str(v.decode() if isinstance(v, bytes) else int(v) if whole else v) for v in different.tolist()]
    if unknown := [t for t in texts if t not in places]:
        raise InputError(f"y: expected one of the classes {', '.join(named)}, got {unknown[0]!r}")
    return np.array([places[t] for t in texts], np.int64)[where.reshape(-1)], named


def class_names(labels: Array) -> tuple[str, ...]:
    """The labels that occur, as sorted texts: whole numbers by size; 0 and 1 are a pair even if one is missing."""
    different = np.unique(labels)
    if len(different) > MAX_CLASSES:
        raise InputError(
            f"y: expected at most {MAX_CLASSES} classes, got {len(different)} different labels; if they are numbers to "
            "be predicted, say regression=True (--regression)"
        )
    texts = [
        v.decode() if isinstance(v, bytes) else str(int(v) if isinstance(v, bool) else v) for v in different.tolist()
    ]
    if all(t.removeprefix("-").isdecimal() for t in texts):
        texts.sort(key=int)
    if set(texts) <= {"0", "1"}:
        return "0", "1"
    return tuple(texts)


def _texts(what: str, names: Sequence[Any] | None, count: int) -> tuple[str, ...] | None:
    if names is None:
        return None
    texts = tuple(str(n) for n in names)
    if len(texts) != count:
        raise InputError(f"{what}: expected {count}, one for each sequence, got {len(texts)}")
    return texts


def extent(data: Sequences) -> dict[str, int]:
    """How much there is, for reports."""
    lengths = data.lengths
    return {
        "sequences": len(data),
        "streams": len(set(data.streams)),
        "samples": int(lengths.sum()),
        "shortest": int(lengths.min()),
        "longest": int(lengths.max()),
    }


def by_class(data: Sequences) -> dict[str, int] | None:
    """Labels of each class, for reports; None for regression."""
    if data.classes is None:
        return None
    labels = np.concatenate([np.atleast_1d(y) for y in data.y])
    return dict(zip(data.classes, np.bincount(labels, minlength=len(data.classes)).tolist(), strict=True))


def labelled(data: Sequences) -> str:
    """What has a label, in words."""
    return "per sample" if data.per_sample else "per sequence"


def split(data: Sequences, share: float = 0.25, seed: int = 0) -> tuple[Sequences, Sequences]:
    """Two parts, the second with this share of the streams, and of each class where sequences have one label.

    Raises InputError where there are not two streams, since nothing inside one may be held out.
    """
    of_kind("data", data, Sequences)
    whole("seed", seed, 0)
    if isinstance(share, bool) or not isinstance(share, Real) or not 0 < share < 1:
        raise InputError(f"share: expected a number between 0 and 1, got {short(share)}")
    share = float(share)
    groups = _shuffled(data, seed)
    streams = [stream for group in groups for stream in group]
    if len(streams) < 2:
        raise InputError(f"expected at least 2 streams to hold one out, got {len(streams)}; {_CURE}")
    # along the streams sorted by class, every 1/share-th: each class has its share, to within one stream
    wanted = min(max(1, round(share * len(streams))), len(streams) - 1)
    at = (np.arange(wanted) + np.random.default_rng([seed, 1]).random()) * len(streams) / wanted
    held = {streams[int(i)] for i in at}
    inside = np.array([s in held for s in data.streams])
    return data.some(np.flatnonzero(~inside)), data.some(np.flatnonzero(inside))


def folds(data: Sequences, k: int = 5, seed: int = 0) -> Iterator[tuple[Sequences, Sequences]]:
    """k times (the rest, one part), by stream; the k parts are disjoint and together all of it; stratified as `split`.

    Raises InputError where there are fewer than k streams.
    """
    of_kind("data", data, Sequences)
    whole("k", k, 2)
    whole("seed", seed, 0)
    groups = _shuffled(data, seed)
    streams = [stream for group in groups for stream in group]
    if not 2 <= k <= len(streams):
        raise InputError(f"k: expected a number of folds from 2 to {len(streams)}, one stream each, got {k}; {_CURE}")
    fold = {stream: i % k for i, stream in enumerate(streams)}  # dealt class by class
    number = np.array([fold[s] for s in data.streams])
    return ((data.some(np.flatnonzero(number != i)), data.some(np.flatnonzero(number == i))) for i in range(k))


_CURE = "bring more recordings, or name parts with a pause between them as different streams"


def _shuffled(data: Sequences, seed: int) -> list[list[str]]:
    """The streams by their most frequent class, each group in random order; one group without such classes."""
    votes: dict[str, Counter[int]] = {}
    for stream, y in zip(data.streams, data.y, strict=True):
        votes.setdefault(stream, Counter())[0 if data.per_sample or data.classes is None else int(y)] += 1
    groups: dict[int, list[str]] = {}
    for stream, count in votes.items():
        groups.setdefault(min(count, key=lambda c: (-count[c], c)), []).append(stream)
    rng = np.random.default_rng(seed)
    return [[groups[c][i] for i in rng.permutation(len(groups[c]))] for c in sorted(groups)]
