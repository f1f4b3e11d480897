"""What the tests of engines share: a model and samples, a stream that is alone, a clock, and a store in memory."""

from __future__ import annotations

import time
from collections.abc import Iterator

import numpy as np

from make import question
from stepstream.errors import StoreError
from stepstream.stores.store import Stored

MODEL = question()
SAMPLES = np.random.default_rng(3).normal(size=(60, 3)).astype(np.float32)
WINDOWINGS = ["carry", "tumbling(7)", "sliding(7, by=states)", "sliding(7, by=recompute)", "session(10)"]


class Clock:
    def __init__(self, now=1000.0):
        self.now = now

    def __call__(self):
        return self.now


def alone(samples, windowing="carry", times=None, model=MODEL):
    """The answers of a stream of its own."""
    stream = model.stream(windowing)
    times = [None] * len(samples) if times is None else times
    return [stream.step(x, time=t) for x, t in zip(samples, times, strict=True)]


def until(true, seconds=30.0):
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "it has not come"
        time.sleep(0.005)


class DictStore:
    """Outlives engines; with a journal, or without one."""

    def __init__(self, journalled: bool = True) -> None:
        self.journalled = journalled
        self.header: dict[str, str] = {}
        self.kept: dict[bytes, tuple[int, bytes | None]] = {}
        self.entries: dict[int, bytes] = {}
        self.last = 0
        self.opened = False
        self.fails: BaseException | None = None

    @property
    def keeps_journal(self):
        return self.journalled

    def open(self, header, check=None):
        assert not self.opened
        found = self.header or dict(header)
        if check is not None:
            check(found)
        self.header, self.opened = found, True
        return found

    def set_header(self, header):
        self.header = dict(header)

    def records(self) -> Iterator[Stored]:
        return iter([Stored(k, n, r) for k, (n, r) in self.kept.items()])

    def journal(self):
        return iter(sorted(self.entries.items()))

    def _fail(self):
        if self.fails is not None:
            raise self.fails

    def commit(self, entry, touched, gone):
        self._fail()
        if self.journalled:
            self.last += 1
            self.entries[self.last] = entry
            return self.last
        touched = list(touched())
        self.kept.update((k, (0, r)) for k, r in touched)
        self.delete(0, gone)
        return 0

    def put(self, number, records):
        records = list(records)
        self._fail()
        self.kept.update((k, (number, r)) for k, r in records if number >= self.kept.get(k, (0,))[0])

    def get(self, keys):
        return [Stored(key, *self.kept[key]) for key in keys if key in self.kept]

    def delete(self, number, keys):
        for key in keys:
            if self.kept.get(key, (0,))[0] <= number:
                self.kept.pop(key, None)

    def trim(self, number):
        self.entries = {n: e for n, e in self.entries.items() if n > number}

    @property
    def number(self):
        return self.last

    @property
    def journal_bytes(self):
        return sum(map(len, self.entries.values()))

    def sync(self):
        self._fail()

    def backup(self, path):
        raise StoreError("expected a store on disk, got one in memory")

    def verify(self):
        return [repr(k) for k, (_, r) in self.kept.items() if r is None]

    def compact(self):
        pass

    def close(self):
        self.opened = False

    def crash(self):
        """What a killed process leaves: nothing is closed."""
        self.opened = False
        return self
