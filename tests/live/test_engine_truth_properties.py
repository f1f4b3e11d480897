"""Whatever happens to an engine, in any order: its figures are those of all answers and labels, counted afterwards."""

from dataclasses import dataclass, field

import numpy as np
import pytest
from engines import DictStore

from make import dense, model_of, recurrent
from stepstream import Engine, InputError
from stepstream.classes import FLOOR
from stepstream.live.ages import LADDER
from stepstream.live.quality import BINS, WINDOW

hypothesis = pytest.importorskip("hypothesis")
from hypothesis import settings  # noqa: E402  (importorskip comes first)
from hypothesis import strategies as st  # noqa: E402
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule  # noqa: E402

MODELS = {
    "two classes": model_of(recurrent("gru", 3, 4), dense(4, 1)),
    "three classes": model_of(recurrent("gru", 3, 4), dense(4, 3, "softmax")),
    "numbers": model_of(recurrent("gru", 3, 4), dense(4, 2, "linear")),
}
SAMPLES = np.random.default_rng(9).normal(size=(16, 3)).astype(np.float32)
KEYS = ["a", b"a", 0, "0"]
REMEMBER, JUDGE = 2, 3

keys = st.sampled_from(KEYS)
places = st.integers(0, 15)


@dataclass
class Sequence:
    answers: list = field(default_factory=list)  # (age, answer)
    judged: bool = False


@dataclass
class Book:
    """All that was answered to a stream, and what of it may still be judged."""

    newest: Sequence = field(default_factory=Sequence)
    before: Sequence = field(default_factory=Sequence)
    age: int = 0
    last: int = -1
    numbered: list = field(default_factory=list)  # (number, age, answer), all of them
    told: set = field(default_factory=set)
    live: bool = False

    def turn(self):
        if self.newest.answers:
            self.before, self.newest = self.newest, Sequence()

    def note(self, age, answer, seq):
        if age == 1:
            self.turn()
        self.newest.answers.append((age, answer))
        self.age, self.live = age, True
        if seq is not None:
            self.last = seq
            self.numbered.append((seq, age, answer))

    def sequence(self, over, cut):
        done = self.age == 0 or (cut and self.age >= cut)
        return self.newest if not over or (done and self.newest.answers) else self.before


class Labelled(RuleBasedStateMachine):
    @initialize(
        model=st.sampled_from(sorted(MODELS)),
        windowing=st.sampled_from(["carry", "tumbling(3)", "sliding(3, by=states)", "session(2)"]),
        journalled=st.booleans(),
        capacity=st.integers(2, len(KEYS)),
    )
    def begin(self, model, windowing, journalled, capacity):
        self.model, self.windowing, self.capacity = MODELS[model], windowing, capacity
        self.classes = {"two classes": 2, "three classes": 3}.get(model)
        self.store, self.time = DictStore(journalled), 0.0
        self.books = {key: Book() for key in KEYS}
        self.judged = []  # (age or 0 for the newest, answer, truth), in their order
        self.labels = self.missed = self.duplicates = 0
        self.engine = self.opened()

    def opened(self):
        self.missed = self.duplicates = 0
        return Engine(self.model, self.windowing, self.store, capacity=self.capacity, remember=REMEMBER, judge=JUDGE)

    @rule(
        key=keys, place=places, numbered=st.booleans(), wait=st.integers(0, 3), end=st.booleans(), plain=st.booleans()
    )
    def step(self, key, place, numbered, wait, end, plain):
        self.time += wait
        seq = self.books[key].last + 1 if numbered else None
        x = SAMPLES[place].tolist() if plain else SAMPLES[place]
        r = self.engine.step(key, x, seq, self.time, end)
        self.noted(key, r.age, np.atleast_1d(np.float32(r.value)), seq, end)

    def noted(self, key, age, answer, seq, end=False):
        self.books[key].note(age, answer, seq)
        if end:
            self.books[key].age, self.books[key].live = 0, False

    @rule(
        some=st.lists(st.tuples(st.integers(0, 1), places, st.booleans()), min_size=1, max_size=9), ends=st.booleans()
    )
    def step_many(self, some, ends):
        self.time += 1
        chosen = [KEYS[k] for k, *_ in some]
        end = np.array([end for *_, end in some]) if ends else None
        r = self.engine.step_many(
            chosen, SAMPLES[[place for _, place, _ in some]], None, [self.time] * len(some), end=end
        )
        for i, key in enumerate(chosen):
            self.noted(key, int(r.age[i]), r.values[i], None, ends and bool(end[i]))

    @rule(numbered=st.booleans(), place=st.integers(0, 12), twice=st.booleans())
    def step_arrays(self, numbered, place, twice):
        """Arrays, which the kernel takes as they are, where the streams are in memory."""
        self.time += 1
        some = [KEYS[0], KEYS[1], KEYS[0]] if twice else KEYS[:2]
        seq, n = None, len(some)
        if numbered:
            seq = np.array([self.books[k].last + 1 for k in some])
            seq[2:] += 1
        r = self.engine.step_many(some, SAMPLES[place : place + n], seq, np.full(n, self.time))
        for i, key in enumerate(some):
            self.noted(key, int(r.age[i]), r.values[i], int(seq[i]) if numbered else None)

    @rule(key=keys, place=places)
    def retry(self, key, place):
        if self.books[key].last >= 0:
            assert self.engine.step(key, SAMPLES[place], self.books[key].last, self.time).duplicate

    @rule(key=keys, delete=st.booleans())
    def reset(self, key, delete):
        self.engine.reset(key, delete)
        if delete:
            self.books[key] = Book()
        elif self.books[key].live:
            self.books[key].age = 0

    @rule(key=keys)
    def end(self, key):
        self.engine.end(key)
        self.books[key].age, self.books[key].live = 0, False

    @rule(key=keys, new=keys)
    def fork(self, key, new):
        old, book = self.books[key], self.books[new]
        if not old.live or book.live:
            with pytest.raises(InputError):
                self.engine.fork(key, new)
            return
        self.engine.fork(key, new)
        book.turn()
        book.age, book.live = old.age, True

    @rule(key=keys, new=keys)
    def restore(self, key, new):
        if self.books[key].live:
            self.engine.restore(new, self.engine.export(key))
            self.books[new].turn()
            self.books[new].age, self.books[new].live = self.books[key].age, True

    @rule(key=keys, y=st.integers(0, 2), over=st.booleans())
    def label(self, key, y, over):
        cut = 3 if self.windowing == "tumbling(3)" else None
        sequence = self.books[key].sequence(over, cut)
        truth = self.truth(y)
        n = self.engine.label(key, truth, over=over)
        if sequence.judged:
            self.duplicates += 1
            assert n == 0
        elif not sequence.answers:
            self.missed += 1
            assert n == 0
        else:
            self.labels += 1
            sequence.judged = True
            found = [(age, p, truth) for age, p in sequence.answers if age in LADDER and age <= JUDGE]
            self.judged += [*found, (0, sequence.answers[-1][1], truth)]
            newest = sequence.answers[-1][0]
            assert n == len(found) + (newest not in [age for age, *_ in found])

    def truth(self, y):
        return [y - 0.5, 1.0] if self.classes is None else y % self.classes

    @rule(key=keys, y=st.integers(0, 2), back=st.integers(-1, 3))
    def label_one(self, key, y, back):
        book, truth = self.books[key], self.truth(y)
        seq = max(0, book.last - back)
        n = self.engine.label(key, truth, seq=seq)
        found = [(age, p) for number, age, p in book.numbered[-REMEMBER:] if number == seq]
        if seq in book.told and found:
            self.duplicates += 1
        elif not found:
            quality = self.engine.stats()["quality"]  # one that was judged before may be forgotten, or not
            self.missed, self.duplicates = quality["missed"], quality["duplicates"]
        else:
            self.labels += 1
            book.told.add(seq)
            ((age, p),) = found
            self.judged += [(max(rung for rung in LADDER if rung <= age), p, truth), (0, p, truth)]
            assert n == 1
            return
        assert n == 0

    @rule()
    def snapshot(self):
        self.engine.snapshot()

    @rule()
    def close(self):
        self.engine.close()
        self.engine = self.opened()

    @rule()
    def crash(self):
        self.store.crash()
        self.engine = self.opened()

    @invariant()
    def figures_are_those_counted_afterwards(self):
        if not hasattr(self, "engine"):
            return
        found = self.engine.stats()["quality"]
        if not self.labels + self.missed + self.duplicates:
            assert found is None
            return
        assert (found["labels"], found["missed"], found["duplicates"]) == (self.labels, self.missed, self.duplicates)
        ages = {age for age, *_ in self.judged} - {0}
        assert found["by_age"].keys() == {str(age) for age in ages}
        for age in {age for age, *_ in self.judged}:
            p, y = (np.array([one[i] for one in self.judged if one[0] == age], np.float64) for i in (1, 2))
            figures = found["by_age"][str(age)] if age else found["newest"]
            forgetting = (1 - 1 / WINDOW) ** np.arange(len(y))[::-1]
            for name, weight in (("all", np.ones(len(y))), ("recent", forgetting)):
                for what, value in self.afterwards(p, y, weight).items():
                    assert figures[name][what] == pytest.approx(value, abs=1e-9), (age, name, what)

    def afterwards(self, p, y, weight):
        def mean(v):
            return float((weight * v).sum() / weight.sum())

        if self.classes is None:
            off = np.abs(p - y).mean(axis=1), ((p - y) ** 2).mean(axis=1)
            return {"n": weight.sum(), "mae": mean(off[0]), "rmse": np.sqrt(mean(off[1]))}
        brier = (p[:, 0] - y) ** 2
        p = np.concatenate([1 - p, p], axis=1) if self.classes == 2 else p
        y = y.astype(int)
        top, hit = p.max(axis=1), p.argmax(axis=1) == y
        if self.classes > 2:
            brier = ((p - np.eye(self.classes)[y]) ** 2).sum(axis=1)
        bins = np.minimum((top * BINS).astype(int), BINS - 1)
        gaps = [abs((weight * (top - hit))[bins == b].sum()) for b in range(BINS)]
        recall = [np.average(hit[y == c], weights=weight[y == c]) for c in set(y.tolist())]
        return {
            "n": weight.sum(),
            "accuracy": mean(hit),
            "balanced_accuracy": np.mean(recall) if len(recall) > 1 else None,
            "log_loss": mean(-np.log(np.maximum(p[np.arange(len(y)), y], FLOOR))),
            "brier": mean(brier),
            "calibration_error_equal_width": sum(gaps) / weight.sum(),
        }


Labelled.TestCase.settings = settings(deadline=None, derandomize=True, max_examples=40, stateful_step_count=40)
TestLabelled = Labelled.TestCase
