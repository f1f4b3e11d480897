"""Truth that comes later: which answers of a stream wait for it, and what it is told of them."""

from __future__ import annotations

from numbers import Integral, Real
from typing import TYPE_CHECKING, Any, final

import numpy as np

from stepstream.arrays import short
from stepstream.errors import InputError, StoreError
from stepstream.graph.ir import Array
from stepstream.kernel.keys import Key
from stepstream.live.ages import rungs
from stepstream.live.incoming import seq_of
from stepstream.live.journal import LABEL, Operation
from stepstream.live.pending_answers import Sketches
from stepstream.live.quality import SAMPLE, Judged, Quality, classes_of
from stepstream.live.stream import Stream
from stepstream.live.table import Table

if TYPE_CHECKING:
    from stepstream.live.residents import Residents
    from stepstream.model import Model


@final
class Truth:
    """What labels are taken by. sketches: None where answers do not wait for any."""

    def __init__(self, model: Model, sketches: Sketches | None) -> None:
        self.model, self.sketches = model, sketches
        self.quality, self.names = Quality(classes_of(model), model.output_sizes[0]), class_names(model)
        self.missed = self.duplicates = 0  # since the engine was opened

    def value(self, y: Any) -> Array:
        """float64 (1,), a class, or (outputs,); raises InputError.

        A whole number counts the classes from 0, unless their names are whole numbers that say otherwise.
        """
        classes, names = self.quality.classes, self.names
        if classes is None:
            return self._numbers(y)
        y = y.item() if isinstance(y, np.ndarray) and y.shape == () else y
        numbered = names is not None and any(_whole(name) and name != str(i) for i, name in enumerate(names))
        whole = isinstance(y, Integral | np.bool_) or (isinstance(y, Real) and float(y).is_integer())
        name = str(int(y)) if whole and numbered and abs(y) < 2**63 else y  # Python does not write out larger ones
        if isinstance(name, str) and names is not None and name in names:
            return np.array([float(names.index(name))])
        if whole and not numbered and 0 <= int(y) < classes:
            return np.array([float(int(y))])
        expected = [] if numbered else [f"a class from 0 to {classes - 1}"]
        expected += [] if names is None else [f"one of {', '.join(names)}"]
        raise InputError(f"y: expected {', or '.join(expected)}, got {short(y)}")

    def _numbers(self, y: Any) -> Array:
        n = self.quality.outputs
        try:
            found = np.asarray(y, np.float64).reshape(-1)
        except (TypeError, ValueError):
            found = np.zeros(0)
        if len(found) != n or not np.isfinite(found).all():
            raise InputError(f"y: expected {n} finite number{'s' * (n > 1)}, got {short(y)}")
        return found

    def figures(self) -> dict[str, Any] | None:
        """None where nothing was labelled."""
        if not len(self.quality) + self.missed + self.duplicates:
            return None
        return {**self.quality.figures(self.names), "missed": self.missed, "duplicates": self.duplicates}


def class_names(model: Model) -> tuple[str, ...] | None:
    """The names of all classes, in their order; None where the model has none. The one name of a sigmoid unit is that
    of the second class, whose probability the unit gives.
    """
    names, classes = model.classes, classes_of(model)
    if names is not None and len(names) == 1 and classes == 2:
        return f"not {names[0]}", names[0]
    return names if names is not None and len(names) == classes else None


def _whole(name: str) -> bool:
    return name.removeprefix("-").isdecimal()


def truth_of(rules: Stream, table: Table, judge: int) -> Truth | None:
    """None for a model with several outputs; raises InputError where answers of such a one are to wait for labels."""
    if len(rules.model.output_sizes) > 1:
        if judge:
            raise InputError(
                f"judge: expected 0 for a model with several outputs, got {judge}; label one with one output"
            )
        return None
    return Truth(
        rules.model, Sketches(table, rungs(judge), rules.windowing, rules.model.output_sizes[0]) if judge else None
    )


def label(streams: Residents, key: Key, y: Any, seq: int | None, over: bool, now: float) -> int:
    """As `Engine.label`."""
    truth = streams.truth
    if truth is None or truth.sketches is None:
        raise InputError(
            "expected an engine whose answers wait for the truth, got one that keeps none; give it judge=n, the last "
            "age of a stream that is of interest"
        )
    value, number, sketches = truth.value(y), seq_of(seq, f"label of stream {key!r}"), truth.sketches
    if over and number >= 0:
        raise InputError("over: expected False for the label of one sample, got True; leave out seq= or over=")
    row = streams.row(key, now)
    if row is None:
        truth.missed += 1
        return 0
    about = SAMPLE if number >= 0 else sketches.sequence(row, over)
    if sketches.judged(row, about, number):
        truth.duplicates += 1
        return 0
    found = sketches.of_sample(row, number) if about == SAMPLE else sketches.of_sequence(row, about)
    if found is None:
        truth.missed += 1
        return 0
    judged, streams.changing = Judged(about, value, *found), True
    sketches.mark(row, about, number)
    truth.quality.take(judged)
    if streams.vault is not None:
        numbers = np.array([number]) if about == SAMPLE else None
        done = Operation(LABEL, now, [key], seq=numbers, record=judged.encode())
        streams.vault.commit([done], now, np.array([row]))
    return len(set(judged.ages.tolist()))


def counted(truth: Truth | None, record: bytes) -> None:
    """A label of a journal, once more; raises StoreError where the model can have none."""
    quality = _of(truth).quality
    quality.take(quality.judged(record))


def marked(truth: Truth | None, record: bytes, rows: Array, seq: Array) -> None:
    """Its stream has been judged. rows, seq (n,): of the stream; none where its record includes it."""
    about = _of(truth).quality.judged(record).about
    if truth is not None and truth.sketches is not None:
        for row, number in zip(rows.tolist(), seq.tolist(), strict=True):
            truth.sketches.mark(row, about, number)


def _of(truth: Truth | None) -> Truth:
    if truth is None:
        raise StoreError("expected no labels in the journal of a model with several outputs, got one; restore a backup")
    return truth
