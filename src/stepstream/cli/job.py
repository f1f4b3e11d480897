"""The streams of one run: records in, an answer out for each."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np

from stepstream.cli import position, values
from stepstream.cli.options import names_of
from stepstream.cli.rows import Record, Source
from stepstream.cli.sink import Before
from stepstream.errors import InputError, StateError
from stepstream.live import snapshot
from stepstream.live.state import StreamState
from stepstream.live.stream import Stream
from stepstream.live.windowing import Session, Windowing
from stepstream.model import Model


@dataclass(frozen=True)
class Meaning:
    """What the columns of a record mean: the options of these names."""

    features: str | None
    key: str | None
    time: str | None
    end: str | None
    header: bool = True


class Job:
    """The streams of one run and how far its input was read."""

    def __init__(self, model: Model, source: Source, windowing: str, meaning: Meaning, skip: bool) -> None:
        self.model, self.source, self.meaning, self.skip = model, source, meaning, skip
        self._first = model.stream(windowing)
        self.windowing: Windowing = self._first.windowing
        if isinstance(self.windowing, Session) and meaning.time is None:
            raise InputError(f"--windowing {self.windowing}: expected a column of times too; name it with --time")
        self.features = names_of("--features", meaning.features, model.n_features)
        self.streams: dict[str, Stream] = {}
        self.records = self.skipped = 0
        self._columns_known = False
        self._before: tuple[str, StreamState | None] | None = None
        self.columns = _columns(model)
        self.newest: tuple[float, int | None, bool, bool] = (0.0, 0, False, False)

    def resume(self, state: Path, input: Path | None) -> Before:
        """Take up the saved streams; skip the part of the input that they have seen."""
        states, saved = snapshot.load_streams(state, self.model, self.windowing)
        for key, value in states.items():
            self._stream(key).restore(value)
        same = input is not None and position.is_of(saved, input)
        if same:
            position.check_options(saved, asdict(self.meaning), state)
            for self.records in range(1, saved["records"] + 1):
                if next(self.source.records, None) is None:
                    raise StateError(f"{state}: expected {saved['records']} records in {input}, got {self.records - 1}")
        elif input is not None:
            print(f"stepstream: {state} is of another input: its streams go on with {input}", file=sys.stderr)
        return Before(saved, state, same)

    def save(self, state: Path, input: Path | None, written: Mapping[str, int]) -> None:
        """The states and the position; written: that of the output."""
        counts = {"records": self.records, **position.of_input(input), **position.of_options(asdict(self.meaning))}
        states = {key: stream.snapshot() for key, stream in self.streams.items()}
        snapshot.save_streams(state, self.model, self.windowing, states, {**counts, **written})

    def answers(self) -> Iterator[dict[str, Any]]:
        """The output row of each record that could be used."""
        for record in self.source.records:
            if record.error is None and not self._columns_known:
                self._check_columns(record.fields)  # not a matter of one bad record
            try:
                row = self._answer(record)
            except InputError as e:
                message = f"{self.source.name}, line {record.line}: {e}"
                if not self.skip:
                    raise InputError(message) from e
                print(f"stepstream: skipped {message}", file=sys.stderr)
                self.skipped += 1
                self.records += 1
                continue
            self.records += 1
            yield row

    def take_back(self) -> None:
        """Undo the newest answer, which could not be written."""
        if self._before is None:
            return
        key, state = self._before
        if state is None:
            del self.streams[key]
        else:
            self.streams[key].restore(state)
        self.records -= 1
        self._before = None

    def _stream(self, key: str) -> Stream:
        if key not in self.streams:
            self.streams[key] = self._first.fork()  # keeps "auto" and its one warning
        return self.streams[key]

    def _answer(self, record: Record) -> dict[str, Any]:
        if record.error is not None:
            raise InputError(record.error)
        fields, meaning = record.fields, self.meaning
        key = "" if meaning.key is None else values.key(values.field(fields, meaning.key), meaning.key)
        written = "" if meaning.time is None else values.field(fields, meaning.time)
        time = None if meaning.time is None else values.seconds(written)
        ended = meaning.end is not None and values.flag(values.field(fields, meaning.end), meaning.end)
        sample = [values.number(values.field(fields, name), name) for name in self._feature_columns(fields)]
        before = self.streams[key].snapshot() if key in self.streams else None
        stream = self._stream(key)
        answer = stream.step(sample, time=time)
        self._before = key, before
        parts = list(answer.values()) if isinstance(answer, dict) else [answer]
        numbers = np.concatenate([np.atleast_1d(np.float32(p)) for p in parts])
        self.newest = (float(numbers[0]), stream.age, stream.complete, stream.beyond_training_length)
        when = written.isoformat() if isinstance(written, datetime) else str(written)
        row = [key, when, stream.age, *numbers, stream.complete, stream.beyond_training_length]
        if ended:
            stream.reset()
        return dict(zip(self.columns, row, strict=True))

    def _check_columns(self, fields: Mapping[str, Any]) -> None:
        """A column that the first record has not is a wrong option, and skipping would skip everything."""
        try:
            for name in (self.meaning.key, self.meaning.time, self.meaning.end, *self._feature_columns(fields)):
                if name is not None:
                    values.field(fields, name)
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
            self.features = rest
        return self.features


def _columns(model: Model) -> list[str]:
    """The columns of an answer, each with a name of its own."""
    first, last = ["key", "time", "age"], ["complete", "beyond_training_length"]
    taken = {*first, *last}
    names = []
    for output, size in zip(model.output_names, model.output_sizes, strict=True):
        for i in range(size):
            name = output if size == 1 else f"{output}_{i}"
            while name in taken:
                name = f"output_{name}"
            taken.add(name)
            names.append(name)
    return [*first, *names, *last]
