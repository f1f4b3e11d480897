"""Answers that wait for the truth about them."""

from __future__ import annotations

from struct import Struct
from typing import final

import numpy as np

from stepstream.graph.ir import Array
from stepstream.live.ages import LADDER
from stepstream.live.quality import BEFORE, NEWEST, SAMPLE
from stepstream.live.records import CHANGED, COPIED, ENDED
from stepstream.live.table import Table
from stepstream.live.windowing import Tumbling, Windowing

_AGE = Struct("<q")


@final
class Sketches:
    """Of each stream, in its row of the table: answers at a ladder of ages and the newest one, of the newest sequence
    and of the one before it; what of them a label has judged already, and which numbered samples.

    A sequence begins with age 1, or where a state was put in the stream's place; it goes on until the next begins.
    outputs: how many numbers of an answer are the model's, the first ones.
    """

    def __init__(self, table: Table, rungs: int, windowing: Windowing, outputs: int) -> None:
        self._table, self._ladder = table, np.array(LADDER[:rungs])
        self._cut = windowing.n if isinstance(windowing, Tumbling) else None
        meta = table.meta
        self._since, self._until, self._labelled = meta["since"], meta["until"], meta["labelled"]
        self._answers, self._told = meta["ladder"][..., :outputs], meta["told"]
        self._outputs, self._size = outputs, 4 * meta["ladder"].shape[-1]
        self._bytes, self._stride = meta.view(np.uint8).reshape(-1).data, meta.dtype.itemsize
        self._at = {name: int(field[1]) for name, field in (meta.dtype.fields or {}).items()}
        self._place = {age: i for i, age in enumerate(LADDER[:rungs])}

    def note(self, rows: Array, ages: Array, answers: Array) -> None:
        """Answers (n, outputs or more) that these rows have just given, at ages int64 (n,), -1 where nobody knows; each
        row once.
        """
        answers, known = answers[:, : self._outputs], ages > 0
        if not known.all():
            rows, ages, answers = rows[known], ages[known], answers[known]
        begins = ages == 1
        if begins.any():
            self._table.turn(rows[begins])
        first = rows[self._until[rows, 0] == 0]
        self._until[rows, 0] = ages
        self._since[first, 0] = self._until[first, 0]
        self._answers[rows, 0, -1] = answers
        place = np.searchsorted(self._ladder, ages, "right") - 1
        hit = self._ladder[place] == ages
        self._answers[rows[hit], 0, place[hit]] = answers[hit]

    def note_one(self, row: int, age: int, answer: bytes) -> None:
        """As `note`, of one row, in a tenth of the time; answer: float32 (outputs, or more)."""
        if age < 1:
            return
        if age == 1:
            self._table.turn(np.array([row]))
        answer = answer[: 4 * self._outputs]
        memory, start, size = self._bytes, row * self._stride, self._size
        until, ladder = start + self._at["until"], start + self._at["ladder"]
        if not any(memory[until : until + 8]):
            _AGE.pack_into(memory, start + self._at["since"], age)
        _AGE.pack_into(memory, until, age)
        last = ladder + size * len(self._ladder)
        memory[last : last + len(answer)] = answer
        if (place := self._place.get(age)) is not None:
            memory[ladder + size * place : ladder + size * place + len(answer)] = answer

    def waits(self, rows: Array) -> Array:
        """bool: whether these have answers that wait for the truth."""
        return self._until[rows].max(axis=1) > 0

    def sequence(self, row: int, over: bool) -> int:
        """NEWEST or BEFORE. over: the newest of those that are over."""
        meta = self._table.meta[row]
        done = meta["age"] == 0 or meta["flags"] & ENDED or (self._cut is not None and meta["age"] >= self._cut)
        return NEWEST if not over or (done and meta["until"][0] > 0) else BEFORE

    def of_sequence(self, row: int, about: int) -> tuple[Array, Array] | None:
        """Ages and answers that wait for the truth, the newest once more at the end; None where there are none."""
        since, until = int(self._since[row, about]), int(self._until[row, about])
        if not until:
            return None
        place = np.flatnonzero((self._ladder >= since) & (self._ladder <= until))
        return np.append(self._ladder[place], until), self._answers[row, about, np.append(place, len(self._ladder))]

    def of_sample(self, row: int, seq: int) -> tuple[Array, Array] | None:
        """The age and the answer of a numbered sample, twice, as `of_sequence` has them."""
        meta = self._table.meta[row]
        (place,) = np.nonzero(meta["seq"] == seq)
        answer = meta["outputs"][place[:1], : self._outputs]
        if not len(place) or np.isnan(answer).any():
            return None
        age = meta["ages"][place[0]]
        return np.array([age] * (1 + (age > 0))), answer.repeat(1 + (age > 0), axis=0)

    def judged(self, row: int, about: int, seq: int) -> bool:
        """Whether it has been."""
        if about == SAMPLE:
            return bool((self._told[row] == seq + 1).any())
        return bool(self._labelled[row] >> about & 1)

    def mark(self, row: int, about: int, seq: int) -> None:
        """It has been judged now. Of numbers only those are kept whose answers are remembered: others are refused."""
        if about == SAMPLE:
            free = ~np.isin(self._told[row] - 1, self._table.meta["seq"][row])
            self._told[row, int(np.argmax(free))] = seq + 1
        else:
            self._labelled[row] |= 1 << about
        flags = self._table.meta["flags"]
        flags[row] = (flags[row] | CHANGED) & ~np.uint32(COPIED)
