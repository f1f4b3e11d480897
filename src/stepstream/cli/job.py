"""The streams of one run: records in, an answer out for each."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import datetime
from functools import partial
from itertools import chain, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from stepstream import cells
from stepstream.cli import position
from stepstream.cli.options import names_of
from stepstream.cli.rows import Record, Source
from stepstream.cli.sink import Before, Row
from stepstream.errors import InputError, StateError
from stepstream.live.engine import Engine
from stepstream.live.results import Results
from stepstream.live.truth import class_names
from stepstream.live.windowing import Session, parse
from stepstream.model import Model
from stepstream.stores.opening import shown

if TYPE_CHECKING:
    from stepstream.stores.sqlite import Durability

BATCH = 1000  # records that are stepped, written and committed together, where so many are there


@dataclass(frozen=True)
class Meaning:
    """What the columns of a record mean: the options of these names."""

    features: str | None
    key: str | None
    time: str | None
    end: str | None
    header: bool = True


class Sample(NamedTuple):
    """What a record says. number: of records read with it; place: of the input's bytes, how many were consumed before
    it; when: its time as it is written.
    """

    number: int
    place: int
    line: int
    key: str
    when: str
    x: list[float]
    time: float
    end: bool


@dataclass
class Batch:
    """Samples, what is wrong with the records between them, by their numbers, and how many records, and bytes of the
    input, are read then.
    """

    samples: list[Sample] = field(default_factory=list)
    bad: dict[int, str] = field(default_factory=dict)
    read: int = 0
    place: int = 0


Give = Callable[[Sequence[Row]], Mapping[str, int]]  # writes answers; where the output stands then


class Job:
    """The streams of one run and how far its input was read."""

    def __init__(self, model: Model, source: Source, windowing: str, meaning: Meaning, skip: bool) -> None:
        self.model, self.source, self.meaning, self.skip = model, source, meaning, skip
        if windowing.strip() != "auto" and isinstance(parse(windowing), Session) and meaning.time is None:
            raise InputError(f"--windowing {windowing}: expected a column of times too; name it with --time")
        self._windowing = windowing
        self.features = _chosen(model, meaning)
        self.columns = columns_of(model)
        self.skipped = 0
        self._read = 0
        self._records = source.records
        self._columns_known = False
        self._input: Path | None = None
        self._consumed: position.Consumed | None = None
        self._about: dict[str, int] = {}
        self._durable = False

    def look(self) -> None:
        """Read ahead to the first record: a wrong option is refused before anything is written."""
        first = next(self._records, None)
        if first is None:
            return
        if first.error is None:
            self._check_columns(first.fields)
        self._records = chain([first], self._records)

    def open(self, state: str | None, durability: Durability | None) -> Engine:
        """The engine of the streams, in the store `state`. Raises StateError for another model's or windowing's."""
        self._durable = state is not None
        try:
            self.engine = Engine(self.model, self._windowing, store=state, durability=durability)
        except StateError as e:
            raise StateError(f"--state {'' if state is None else shown(state)}: {e}") from e
        return self.engine

    def resume(self, state: str, input: Path | None) -> Before | None:
        """Skip the part of the input, a file or None, that the streams in the store have seen."""
        self._input, self._about = input, position.of_options(asdict(self.meaning))
        self._consumed = None if input is None else position.Consumed(input)
        if not self.engine.bookmark:
            return None
        state = shown(state)
        saved = position.of_bookmark(self.engine.bookmark, state)
        same = input is not None and position.is_of(saved, input)
        if same and self._consumed is not None:
            position.check_options(saved, asdict(self.meaning), state)
            self._consumed.go_on(saved, state)
            self._read = self._pass_over(saved["records"])
            if self._read < saved["records"]:
                raise StateError(f"{state}: expected {saved['records']} records in {input}, got {self._read}")
        elif input is not None:
            position.check_path(saved, input, state)
            print(f"stepstream: {state} is of another input: its streams go on with {input}", file=sys.stderr)
        return Before(saved, state, same)

    def _pass_over(self, n: int) -> int:
        """The first n records; how many of them there are."""
        records, passing = self._records, self.source.passing
        done = sum(1 for _ in islice(records, n if passing is None else min(n, 1)))  # with the header
        if passing is None or done < 1:
            return done
        passing.left = n - 1
        self._records = chain(list(islice(records, 1)), records)
        return n - passing.left

    def batches(self) -> Iterator[Batch]:
        """What is there of the records, up to BATCH of them, without waiting for more."""
        # a record that was looked at already is counted with the next
        batch = Batch(read=self._read, place=0 if self._consumed is None else self._consumed.size)
        try:
            for record in self._records:
                if record.error is None and not self._columns_known:
                    self._check_columns(record.fields)  # not a matter of one bad record
                try:
                    batch.samples.append(self._sample(record, batch.read + 1, batch.place))
                except InputError as e:
                    message = f"{self.source.name}, line {record.line}: {e}"
                    if not self.skip:
                        raise InputError(message) from e
                    batch.bad[batch.read + 1] = message
                batch.read += 1
                batch.place = self.source.consumed()
                if len(batch.samples) + len(batch.bad) >= BATCH or not self.source.more():
                    yield batch
                    batch = Batch(read=batch.read, place=batch.place)
        except InputError:
            yield batch  # what came before it has its answers
            raise
        if batch.samples or batch.bad:
            yield batch

    def begin(self, give: Give) -> None:
        """Let the store know the input and the output before the first answer goes there."""
        if self._durable and self._consumed is not None:
            self.step(Batch(read=self._read, place=self._consumed.size), give)

    def step(self, batch: Batch, give: Give) -> None:
        """Answer a batch. What `give` could not write is not kept. Raises InputError at a bad record."""
        self._step(batch.samples, batch, batch.read, batch.place, give)

    def _step(self, samples: Sequence[Sample], batch: Batch, read: int, place: int, give: Give) -> None:
        """These of the batch, up to the record of number `read`, which ends at `place`."""
        x = np.array([s.x for s in samples], np.float32).reshape(-1, self.model.n_features)
        answered = partial(self._answered, samples, batch, read, place, give)
        try:
            answers = self.engine.step_many(
                [s.key for s in samples],
                x,
                time=None if self.meaning.time is None else np.array([s.time for s in samples], np.float64),
                end=None if self.meaning.end is None else np.array([s.end for s in samples], bool),
                on_bad="skip" if self.skip else "raise",
                bookmark=answered if self._durable else None,
            )
        except InputError as e:
            if self.engine.broken:  # the answers could not be written
                raise
            if len(samples) == 1:
                raise InputError(f"{self.source.name}, line {samples[0].line}: {e}") from e
            half = len(samples) // 2  # nothing has changed: look for it
            self._step(samples[:half], batch, samples[half].number - 1, samples[half].place, give)
            self._step(samples[half:], batch, read, place, give)
            return
        if not self._durable:
            answered(answers)

    def _answered(
        self, samples: Sequence[Sample], batch: Batch, read: int, place: int, give: Give, answers: Results
    ) -> bytes:
        """Write the answers; the bookmark that goes with them."""
        for i, reason in answers.reasons.items():
            batch.bad[samples[i].number] = f"{self.source.name}, line {samples[i].line}: {reason}"
        for number in sorted(number for number in batch.bad if number <= read):
            print(f"stepstream: skipped {batch.bad.pop(number)}", file=sys.stderr)
            self.skipped += 1
        written = give(_rows(self.model, samples, answers))
        if not self._durable:
            return b""
        if self._about.get("head", 0) < position.HEAD_BYTES:  # it may have grown
            self._about |= position.of_input(self._input)
        consumed = {} if self._consumed is None else self._consumed.to(place)
        return position.to_bookmark({"records": read, **self._about, **consumed, **written})

    def _sample(self, record: Record, number: int, place: int) -> Sample:
        if record.error is not None:
            raise InputError(record.error)
        fields, meaning = record.fields, self.meaning
        key = "" if meaning.key is None else cells.key(cells.field(fields, meaning.key), meaning.key)
        written, time = "", 0.0
        if meaning.time is not None:
            written = cells.field(fields, meaning.time)
            time = cells.seconds(written)
        end = meaning.end is not None and cells.flag(cells.field(fields, meaning.end), meaning.end)
        x = [cells.number(cells.field(fields, name), name) for name in self._feature_columns(fields)]
        when = written.isoformat() if isinstance(written, datetime) else str(written)
        return Sample(number, place, record.line, key, when, x, time, end)

    def _check_columns(self, fields: Mapping[str, Any]) -> None:
        """A column that the first record has not is a wrong option, and skipping would skip everything."""
        try:
            for name in (self.meaning.key, self.meaning.time, self.meaning.end):
                if name is not None:
                    cells.field(fields, name)
            for name in self._feature_columns(fields):  # which are the others, where nothing names them
                cells.field(fields, name)
        except InputError as e:
            raise InputError(f"{self.source.name}: {e}") from e
        self._columns_known = True

    def _feature_columns(self, fields: Mapping[str, Any]) -> Sequence[str]:
        if self.features is None:
            rest = [n for n in fields if n not in {self.meaning.key, self.meaning.time, self.meaning.end}]
            if len(rest) != self.model.n_features:
                raise InputError(
                    f"expected {self.model.n_features} feature columns, got {rest}; name them with --features"
                )
            self.features = tuple(rest)
        return self.features


def _chosen(model: Model, meaning: Meaning) -> Sequence[str] | None:
    """The columns in the model's order; None for all that mean nothing else.

    A bundle has names, and columns come in any order: what stands in `--features` is then found by name too.
    """
    given = names_of("--features", meaning.features, model.n_features)
    if model.features is None or not meaning.header:
        return given
    if given is not None and set(given) != set(model.features):
        raise InputError(
            f"--features: expected {', '.join(model.features)}, as the model has them, got {', '.join(given)}; name "
            "the columns as in training"
        )
    return model.features


def _rows(model: Model, samples: Sequence[Sample], answers: Results) -> list[Row]:
    """The answers in the order of `columns_of`."""
    rows = zip(
        [s.key for s in samples],
        [s.when for s in samples],
        [None if age < 0 else age for age in answers.age.tolist()],
        *map(list, answers.values.T),
        *([_decisions(model, answers)] if model.decides else []),
        answers.complete.tolist(),
        answers.beyond_training_length.tolist(),
        strict=True,
    )
    if answers.reasons:
        return [row for row, good in zip(rows, answers.accepted.tolist(), strict=True) if good]
    return list(rows)


def _decisions(model: Model, answers: Results) -> list[str | int | None]:
    """By the names of the classes, where the model has them; None where it has not decided."""
    found = answers.decision.tolist()
    names = class_names(model)
    return [None if i < 0 else i if names is None else names[i] for i in found]


def columns_of(model: Model) -> list[str]:
    """The columns of an answer, each with a name of its own: probabilities have that of their class, where it has one;
    of one sigmoid unit it is the second class's.
    """
    first, last = ["key", "time", "age"], ["complete", "beyond_training_length"]
    last = ["decision", *last] if model.decides else last
    classes = class_names(model)
    if classes is not None:
        wanted = [f"p_{name}" for name in classes[-model.output_sizes[0] :]]
    else:
        outputs = list(zip(model.output_names, model.output_sizes, strict=True))
        wanted = [name if size == 1 else f"{name}_{i}" for name, size in outputs for i in range(size)]
    names: list[str] = []
    for name in wanted:
        while name in {*first, *names, *last}:
            name = f"output_{name}"
        names.append(name)
    return [*first, *names, *last]
