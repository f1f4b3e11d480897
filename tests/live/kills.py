"""An engine that is killed again and again, and what it must have done: shared by tests and bench/kill.py.

    python kills.py    makes writers: each does operations, said before and after, until somebody ends it

The operations follow from a seed alone, and the parent does the same with a lonely `Stream` for each key. After every
kill the writer says all that its engine has: that is the state after the last operation that it had acknowledged, or
after the one that it had begun. Then each numbered stream's last samples are sent again, and must give what they gave.
"""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
import warnings
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from threading import Thread, Timer
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))
from make import question
from stepstream import Engine, InputError, StoreError
from stepstream.kernel.keys import Key
from stepstream.live import tender
from stepstream.live.records import decode_key, encode_key

MODEL = question()
REMEMBER = 2
KINDS = {"step": 30, "plain": 8, "many": 25, "mixed": 8, "twice": 5, "last": 5, "end": 4, "reset": 4, "delete": 4}
KINDS |= {"fork": 6, "restore": 4, "snapshot": 1}
NUMBERED = {"step", "many", "twice", "last"}  # all samples are: to send them again changes nothing
HANGS = 120  # seconds without a word


@dataclass
class Options:
    """Of a writer. keys: how many streams live for long; expire: seconds, of which each operation takes one."""

    store: str
    durability: str | None = None
    windowing: str = "carry"
    seed: int = 1
    keys: int = 24
    capacity: int = 8
    expire: int = 1000
    snapshot_bytes: int = 20_000


# what is done


def names(n: int) -> list[Key]:
    """str, bytes and int, of the same letters."""
    return [(str(i), str(i).encode(), i)[i % 3] for i in range(n)]


@dataclass
class Operation:
    kind: str
    keys: list[Key]
    x: np.ndarray
    seq: list[int | None]
    time: list[float] | None
    bookmark: bytes | None


def operation(options: Options, i: int) -> Operation:
    """The i-th. Every fifth key's samples have no numbers; keys of "many" that are called "brief" come once."""
    rng = random.Random(options.seed * 1_000_003 + i)
    every = names(options.keys)
    numbered, plain = [k for n, k in enumerate(every) if n % 5], every[::5]
    (kind,) = rng.choices(list(KINDS), KINDS.values())
    n = rng.randint(2, 12) if kind in {"many", "mixed"} else 2
    keys: list[Key] = rng.choices({"plain": plain, "mixed": every}.get(kind, numbered), k=n)
    if kind == "many" and options.keys >= options.capacity > n and rng.random() < 0.5:
        keys[0] = f"brief {i}"
    if kind in {"end", "reset", "delete", "fork", "restore"}:
        keys = rng.choices(every, k=2)
    keys = keys[: options.capacity]
    seq = [None if k in plain and kind in {"plain", "mixed"} else 64 * i + j for j, k in enumerate(keys)]
    x = np.random.default_rng([options.seed, i]).normal(size=(len(keys), 3)).astype(np.float32)
    timed = rng.random() < 0.3
    bookmark = rng.choice([b"%d" % i, b""]) if kind in {"many", "mixed"} and rng.random() < 0.5 else None
    return Operation(kind, keys, x, seq, [float(i)] * len(keys) if timed else None, bookmark)


def answer(value: float | None, age: int | None, duplicate: bool) -> list:
    return [None if value is None else np.float32(value).tobytes().hex(), age, duplicate]


def perform(engine: Engine, o: Operation) -> list | None:
    """Answers to its samples; None where it is refused."""
    first, time = o.keys[0], None if o.time is None else o.time[0]
    try:
        if o.kind in {"step", "plain", "twice", "last"}:
            x = o.x[0].tolist()  # a list takes the short way
            times = 2 if o.kind == "twice" else 1
            got = [engine.step(first, x, o.seq[0], time, end=o.kind == "last") for _ in range(times)]
            return [answer(r.value, r.age, r.duplicate) for r in got]
        if o.kind in {"many", "mixed"}:
            seq = np.array(o.seq) if o.kind == "many" else o.seq
            bookmark = None if o.bookmark is None else lambda answers: o.bookmark
            times = None if o.time is None else np.array(o.time)
            r = engine.step_many(o.keys, o.x, seq, times, bookmark=bookmark)
            found = r.values[:, 0].tolist(), r.age.tolist(), r.duplicate.tolist()
            return [answer(*one) for one in zip(*found, strict=True)]
        if o.kind == "fork":
            engine.fork(*o.keys)
        elif o.kind == "restore":
            engine.restore(first, elsewhere(engine.windowing, o).snapshot())
        elif o.kind == "snapshot":
            engine.snapshot()
        elif o.kind == "end":
            engine.end(first)
        else:
            engine.reset(first, delete=o.kind == "delete")
    except InputError:
        return None
    return []


def elsewhere(windowing, o: Operation):
    """A stream of another process, which is moved here."""
    stream = MODEL.stream(windowing)
    for x in o.x:
        stream.step(x)
    return stream


# what must have been done


class Lonely:
    """A stream alone, and the numbers seen so far."""

    def __init__(self, windowing):
        self.stream = MODEL.stream(windowing)
        self.last, self.answers, self.live, self.used = None, [], False, 0

    def step(self, x, seq, time) -> list:
        if seq is not None and self.last is not None and seq <= self.last:
            return self.again(seq)
        found = answer(self.stream.step(x, time=time), self.stream.age, False)
        self.live = True
        if seq is not None:
            self.last, self.answers = seq, [(seq, found), *self.answers][:REMEMBER]
        return found

    def again(self, seq) -> list:
        """The answer to a sample that was there before: nothing, where newer ones have taken its place."""
        return [*next((a[:2] for s, a in self.answers if s == seq), (answer(np.nan, -1, True)[:2])), True]

    def summary(self) -> list:
        s = self.stream.snapshot()
        return [s.age, s.samples, s.time, self.last, s.row.tobytes().hex()]


class Reference:
    """Streams that nobody interrupts. done: operations that they include."""

    def __init__(self, options: Options) -> None:
        self.options, self.done, self.bookmark = options, 0, b""
        self.streams: dict[Key, Lonely] = {}

    def at(self, key: Key) -> Lonely:
        where = (type(key), key)
        return self.streams.setdefault(where, Lonely(self.options.windowing))

    def do(self, o: Operation) -> list | None:
        i, first = self.done, self.at(o.keys[0])
        self.done += 1
        time = o.time or [None] * len(o.keys)
        found: list | None = []
        if o.kind in {"step", "plain", "twice", "last", "many", "mixed"}:
            n = len(o.keys) if o.kind in {"many", "mixed"} else 1
            found = [self.at(o.keys[j]).step(o.x[j], o.seq[j], time[j]) for j in range(n)]
            if o.kind == "twice":
                found.append(first.step(o.x[0], o.seq[0], time[0]))
            self.bookmark = self.bookmark if o.bookmark is None else o.bookmark
            for key in o.keys[:n]:
                self.at(key).used = i
        if o.kind == "fork":
            new = self.at(o.keys[1])
            if not first.live or new.live:
                return None
            new.stream, new.live, new.used = first.stream.fork(), True, i
        elif o.kind == "restore":
            first.stream, first.live, first.used = elsewhere(self.options.windowing, o), True, i
        elif o.kind == "delete":
            del self.streams[type(o.keys[0]), o.keys[0]]
        elif o.kind == "reset" and first.live:
            first.stream = MODEL.stream(self.options.windowing)
        elif o.kind == "last" or (o.kind == "end" and first.live):
            first.stream, first.live, first.used = MODEL.stream(self.options.windowing), False, i
            if first.last is None:
                del self.streams[type(o.keys[0]), o.keys[0]]
        return found

    def differences(self, said: dict) -> list[str]:
        """What a writer has that the reference has not, or the other way round. Brief streams may have expired."""
        found = {(type(k), k): s for k, s in ((decode_key(bytes.fromhex(h)), s) for h, s in said["streams"].items())}
        wrong = (
            []
            if said["bookmark"] == self.bookmark.hex()
            else [f"bookmark {said['bookmark']}, not {self.bookmark.hex()}"]
        )
        for where, lonely in list(self.streams.items()):
            if not lonely.live and lonely.last is None:
                continue
            old = lonely.used + self.options.expire <= self.done
            if where not in found and str(where[1]).startswith("brief") and old:
                continue
            assert not old or str(where[1]).startswith("brief"), "choose a longer time to live"
            got, expected = found.pop(where, None), lonely.summary() if lonely.live else None
            if got != expected:
                wrong.append(f"{where[1]!r}: {(got or [])[:4]}, not {(expected or [])[:4]}")
        return wrong + [f"{where[1]!r}: {s[:4]}, not there" for where, s in found.items()]

    def forget(self, said: dict) -> None:
        """Brief streams that have expired do not come back."""
        for where in list(self.streams):
            if str(where[1]).startswith("brief") and encode_key(where[1]).hex() not in said["streams"]:
                del self.streams[where]

    def retries(self, but: list[Key]) -> list[tuple[str, int, list]]:
        """(key, number, answer) of the samples that are remembered, but those of some keys."""
        return [
            (encode_key(key).hex(), seq, [*found[:2], True])
            for (_, key), lonely in self.streams.items()
            if not str(key).startswith("brief") and key not in but
            for seq, found in lonely.answers
        ]


# the writer


def say(word: str, *values: object) -> None:
    """A line, at once: what is in a pipe outlives its writer."""
    data = f"{word} {json.dumps(values)}\n".encode()
    while data:
        data = data[os.write(1, data) :]


def summary(engine: Engine) -> dict:
    streams = {}
    for s in engine.streams():
        try:
            state = engine.export(s.key)
        except InputError:  # it has expired
            continue
        streams[encode_key(s.key).hex()] = [s.age, s.samples, s.time, s.seq, state.row.tobytes().hex()]
    return {"streams": streams, "bookmark": engine.bookmark.hex()}


def snapshots(engine: Engine) -> None:
    """One after the other, beside the operations, as long as the engine works."""
    with suppress(StoreError):
        while True:
            say("snapshot")
            engine.snapshot()
            say("snapshotted")
            time.sleep(0.003)


def order() -> Any:
    """What the parent says next; ends with it."""
    line = sys.stdin.readline()  # one at a time, so that no buffer of one process holds what is for another
    return json.loads(line) if line else os._exit(0)


def write(options: Options, i: int) -> None:
    warnings.simplefilter("ignore")
    tender.LOOK = 0.01
    now = [1000.0 + i]
    while True:
        say("opens", os.getpid())
        engine = opened(options, lambda: now[0])
        say("has", summary(engine))
        todo = order()
        try:
            retried = [engine.step(decode_key(bytes.fromhex(k)), [0.0, 0.0, 0.0], seq) for k, seq in todo["retry"]]
            say("retried", [answer(r.value, r.age, r.duplicate) for r in retried])
            Thread(target=snapshots, args=(engine,), daemon=True).start()
            for i in range(todo["first"], todo["end"]):
                now[0] = 1000.0 + i
                say("begins", i)
                say("did", i, perform(engine, operation(options, i)))
            engine.close()
            say("closed")
        except StoreError as e:
            say("broke", str(e))
            with suppress(StoreError):
                engine.close()


def opened(options: Options, clock) -> Engine:
    """As soon as there is a server."""
    for tries in count():
        try:
            return Engine(
                MODEL,
                options.windowing,
                options.store,
                options.durability,
                capacity=options.capacity,
                expire_after=float(options.expire),
                remember=REMEMBER,
                snapshot_bytes=options.snapshot_bytes,
                clock=clock,
            )
        except StoreError:
            if "redis" not in options.store or tries == 1000:
                raise
            time.sleep(0.02)
    raise AssertionError


# who kills


@dataclass
class Killer:
    """server: is killed in the writer's place, if given. longest: seconds that a life lasts once it is at work."""

    options: Options
    server: Any = None
    longest: float = 0.5
    figures: Counter = field(default_factory=Counter)

    def __post_init__(self) -> None:
        self.reference = Reference(self.options)
        self.rng = random.Random(self.options.seed)
        self.begun = False  # the operation after those done
        self.unsure = False  # whether it was done, as nothing of it can be seen
        self.pid: int | None = None

    def run(self, kills: int) -> Counter:
        """So many, then in order; returns what was seen. AssertionError where something was lost, or done twice."""
        kinds = ("at work", "in a snapshot", "opening", "at work", "at work")
        with tempfile.TemporaryFile() as errors:
            command = [sys.executable, __file__]
            with subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors
            ) as self.process:
                try:
                    for n in range(kills):
                        self.life(kinds[n % 5] if self.server is None else kinds[n % 2])
                        self.figures["kills"] += 1
                    self.life(None)
                    self.life(None)
                except BaseException as e:
                    errors.seek(0)
                    e.add_note(errors.read().decode())
                    raise
                finally:
                    self.process.kill()
                    if self.pid is not None:
                        with suppress(ProcessLookupError):
                            os.kill(self.pid, signal.SIGKILL)
        return self.figures

    def kill(self) -> None:
        if self.server is not None:
            self.server.kill()
        elif self.pid is not None:
            with suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGKILL)

    def tell(self, what: object) -> None:
        self.process.stdin.write(json.dumps(what).encode() + b"\n")
        self.process.stdin.flush()

    def life(self, kill: str | None) -> None:
        """From an opening to the next."""
        if self.pid is None:
            self.tell([vars(self.options), self.reference.done])
        wait = self.rng.uniform(0, self.longest)
        timers = [Timer(HANGS, self.process.kill)]
        timers[0].start()
        killed = snapshot = begun = ready = False
        resend = None
        self.figures["killed while opening"] += kill == "opening"

        def kill_in(seconds: float) -> None:
            timers.append(Timer(seconds, self.kill))
            timers[-1].start()

        try:
            for line in self.process.stdout:
                word, _, rest = line.decode().strip().partition(" ")
                try:
                    values = json.loads(rest or "null")
                except json.JSONDecodeError:  # the kill has cut it off: never said
                    continue
                if word == "opens":
                    (self.pid,) = values
                    if kill == "opening":
                        kill_in(wait / 10)
                elif word == "has":
                    self.figures["killed while opening"] -= kill == "opening"
                    resend = self.found(values[0])
                    retry = self.reference.retries(self.next().keys if self.unsure else [])
                    first = self.reference.done - (resend is not None)
                    end = first + 20 if kill is None else first + 10**6
                    self.tell({"first": first, "end": end, "retry": [r[:2] for r in retry]})
                    if kill == "at work":
                        kill_in(wait)
                elif word == "retried":
                    ready = True
                    wrong = [(r, got) for r, got in zip(retry, values[0], strict=True) if got != r[2]]
                    assert not wrong, f"samples that were sent again have other answers: {wrong}"
                    self.figures["retries"] += len(retry)
                elif word == "snapshot" and ready:  # not the last one's
                    snapshot = True
                    wait -= self.longest / 10
                    if kill == "in a snapshot" and not killed and wait < 0:
                        killed = True
                        time.sleep(self.rng.uniform(0, 0.004))
                        self.kill()
                elif word == "snapshotted":
                    snapshot = False
                    self.figures["snapshots"] += 1
                elif word == "begins":
                    assert values[0] == self.reference.done - (resend is not None)
                    self.begun = resend is None
                    begun = True
                elif word == "did":
                    resend, begun = self.did(values[1], resend), False
                elif word == "broke":
                    assert self.server is not None, values[0]
                    for timer in timers[1:]:
                        timer.join()
                    self.server.start()
                    break
                elif word == "closed":
                    break
                elif word == "ended":
                    assert values == [-signal.SIGKILL], f"the writer ended by itself: {values}"
                    assert kill is not None, "the writer was killed by somebody else"
                    self.tell([])  # so that nothing is left of what was told to the writer
                    self.pid = None
                    break
            else:
                raise AssertionError("the process that makes writers has ended")
        finally:
            for timer in timers:
                timer.cancel()
                timer.join()
        if kill is not None:
            self.figures["killed in a snapshot"] += snapshot
            self.figures["killed in an operation"] += begun

    def next(self) -> Operation:
        return operation(self.options, self.reference.done)

    def found(self, said: dict) -> list | None:
        """What a writer has at its opening. Returns answers that nobody has heard, if they can be asked for again."""
        reference = self.reference
        self.figures["openings"] += 1
        self.figures["streams compared"] += len(said["streams"])
        before = reference.differences(said)
        heard = None
        if before:
            assert self.begun, f"after {reference.done} operations: {before}"
            o, self.unsure = self.next(), False
            answers = reference.do(o)
            after = reference.differences(said)
            assert not after, (
                f"after {reference.done - 1} operations: {before}; or after another one, {o.kind}: {after}"
            )
            self.figures["unheard, and done"] += 1
            if o.kind in NUMBERED:  # "twice" has two answers to one sample
                places = [0 if o.kind == "twice" else j for j in range(len(answers or ()))]
                heard = [reference.at(o.keys[j]).again(o.seq[j]) for j in places]
        elif self.begun:
            live = reference.at(self.next().keys[0]).live
            self.unsure = self.next().kind in {"last", "delete"} and not live
            self.figures["unheard, perhaps done" if self.unsure else "unheard, and not done"] += 1
        self.begun = self.unsure
        reference.forget(said)
        return heard

    def did(self, answers: list | None, resend: list | None) -> None:
        if resend is not None:
            expected = resend
            self.figures["sent again"] += 1
        else:
            expected = self.reference.do(self.next())
            if self.unsure and answers:
                answers = [[*a[:2], e[2]] for a, e in zip(answers, expected or (), strict=True)]
            self.unsure = False
            self.figures["operations"] += 1
            self.figures["samples"] += len(expected or ())
        self.begun = False
        assert answers == expected, f"operation {self.reference.done - 1}: {answers}, not {expected}"


def make_writers() -> None:
    """One after the other, each a process of its own. Forked, as to import everything takes longer than most live."""
    while True:
        options, first = order()
        pid = os.fork()
        if pid == 0:
            write(Options(**options), first)
        _, status = os.waitpid(pid, 0)
        os.write(1, b"\n")  # the last line may have been cut off
        say("ended", os.waitstatus_to_exitcode(status))
        while order():
            pass


if __name__ == "__main__":
    make_writers()
