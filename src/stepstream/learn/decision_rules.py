"""Rules of decision by themselves: what a trigger does with probabilities, and what its decisions are worth.

A rule is a table (n, 3). At sample t, from 1, with row min(t, n) of it, (a, b, c), a sample speaks for a decision where
a * p1 + b * (p1 - p2) + c > 0, p1 and p2 being the two largest probabilities. After k such samples in a row with the
same class on top, that class is decided upon. Latched, the first decision stays; revocable, it holds while that lasts.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, final

import numpy as np

from stepstream.arguments import whole
from stepstream.errors import InputError
from stepstream.graph.ir import Array
from stepstream.learn.metrics import harmonic_mean, or_none, standard_error

CHUNK = 2**21  # decisions simulated at once: tens of megabytes


@final
@dataclass(frozen=True)
class Cost:
    """What a wrong decision costs, and waiting for n samples, n the training length or the longest sequence.

    A decision at sample t costs `error` where it is wrong, and `delay` * t / n.
    """

    error: float = 1.0
    delay: float = 0.25

    def __post_init__(self) -> None:
        for name, value, least in (("error", self.error, "above 0"), ("delay", self.delay, "of at least 0")):
            number = isinstance(value, int | float | np.floating) and not isinstance(value, bool)
            if not number or not math.isfinite(value) or value < 0 or (name == "error" and value == 0):
                raise InputError(f"cost of {name}: expected a finite number {least}, got {value!r}")


@final
@dataclass(frozen=True, eq=False)
class Trace:
    """What a trigger looks at, for m sequences side by side, filled up to the longest.

    top: the class with the largest probability, of equal ones the first, int64 (m, time). p1: its probability, and
    margin: by how much it leads, float32 (m, time). lengths: int64 (m,).
    """

    top: Array
    p1: Array
    margin: Array
    lengths: Array

    @property
    def there(self) -> Array:
        """Where there is a sample, bool (m, time)."""
        return np.arange(self.top.shape[1]) < self.lengths[:, None]

    def some(self, chosen: Array) -> Trace:
        """The sequences at these places."""
        return Trace(self.top[chosen], self.p1[chosen], self.margin[chosen], self.lengths[chosen])

    @property
    def last(self) -> Array:
        """The answer of one who waits for the end, int64 (m,)."""
        return self.top[np.arange(len(self.top)), self.lengths - 1]


def trace(probabilities: Sequence[Array]) -> Trace:
    """probabilities: float32 (time_i, classes) each, at least two classes. Raises InputError."""
    if not len(probabilities):
        raise InputError("expected the probabilities of at least one sequence, got none")
    m, longest = len(probabilities), max(len(p) for p in probabilities)
    top = np.zeros((m, longest), np.int64)
    p1, margin = np.zeros((2, m, longest), np.float32)
    for i, p in enumerate(probabilities):
        p = np.asarray(p, np.float32)
        if p.ndim != 2 or not len(p) or p.shape[1] < 2:
            raise InputError(f"sequence {i}: expected probabilities (time, 2 classes or more), got shape {p.shape}")
        if not ((p >= 0) & (p <= 1)).all():
            raise InputError(f"sequence {i}: expected probabilities from 0 to 1; are they logits?")
        two = np.partition(p, -2, axis=1)
        top[i, : len(p)] = p.argmax(axis=1)
        p1[i, : len(p)] = two[:, -1]
        margin[i, : len(p)] = two[:, -1] - two[:, -2]
    return Trace(top, p1, margin, np.array([len(p) for p in probabilities], np.int64))


def checked(rule: Any) -> Array:
    """The rule as float32 (n, 3), or InputError."""
    table = np.asarray(rule, np.float32)
    if table.ndim != 2 or table.shape[1] != 3 or not len(table) or not np.isfinite(table).all():
        raise InputError(f"rule: expected a table (n, 3) of finite numbers, got shape {table.shape}")
    return table


def held(seen: Trace, rules: Array, k: int = 1, latched: bool = True) -> Array:
    """The decision in force at each sample, -1 for none, int32 (rules, m, time). rules: float32 (rules, n, 3)."""
    longest, speaks = seen.top.shape[1], _speaks(seen, rules)
    out = np.full(speaks.shape, -1, np.int32)
    streak = np.zeros(speaks.shape[:2], np.int64)
    now = np.full(speaks.shape[:2], -1, np.int32)
    for t in range(longest):
        same = seen.top[:, t] == seen.top[:, t - 1] if t else np.zeros(len(seen.top), bool)
        streak = np.where(speaks[:, :, t], np.where(same, streak, 0) + 1, 0)
        top = np.where(streak >= k, seen.top[:, t], -1)
        now = np.where(now >= 0, now, top) if latched else top
        out[:, :, t] = now
    return out


def _speaks(seen: Trace, rules: Array) -> Array:
    """Where a sample speaks for a decision, bool (rules, m, time); in the order of operations of the op in a model."""
    row = np.minimum(np.arange(seen.top.shape[1]), rules.shape[1] - 1)
    a, b, c = np.moveaxis(rules, -1, 0)[:, :, row]  # (rules, time) each
    return a[:, None] * seen.p1 + b[:, None] * seen.margin + c[:, None] > 0


def decisions(probabilities: Array, rule: Any, k: int = 1, latched: bool = True) -> Array:
    """The trigger on one sequence, bit for bit as the op in a model does it: int64 (time,), -1 while undecided.

    probabilities: float32 (time, classes), from the sequence's first sample on. rule: float32 (n, 3). k: samples in a
    row that have to speak for the same class. Raises InputError.
    """
    whole("k", k, 1, of="samples")
    return held(trace([probabilities]), checked(rule)[None], k, latched)[0, 0].astype(np.int64)


@final
@dataclass(frozen=True, eq=False)
class Outcomes:
    """How each sequence ended, (..., m) each: the answer that stood at its end, and since which sample, from 1.

    Where no decision stands at the end (`came` False), the answer is the class on top there, given at the last sample.
    """

    answer: Array
    step: Array
    came: Array


def outcomes(decided: Array, seen: Trace) -> Outcomes:
    """decided: as `held` gives it, (..., m, time). A decision that was revoked on the way has no other effect."""
    m, longest = seen.top.shape
    final = decided[..., np.arange(m), seen.lengths - 1]
    other = (decided != final[..., None]) & seen.there
    since = longest - np.argmax(other[..., ::-1], axis=-1)  # one after the last sample with another decision, if any
    step = np.where(other.any(axis=-1), since + 1, 1)
    came = final >= 0
    return Outcomes(np.where(came, final, seen.last), np.where(came, step, seen.lengths), came)


def _ended(seen: Trace, rules: Array, k: int, latched: bool) -> Outcomes:
    """Under each of many rules; the first sample that speaks settles it where nothing else can."""
    if k > 1 or not latched:
        return outcomes(held(seen, rules, k, latched), seen)
    speaks = _speaks(seen, rules) & seen.there
    came, first = np.asarray(speaks.any(axis=-1)), speaks.argmax(axis=-1)
    answer = seen.top[np.arange(len(seen.top)), first]
    return Outcomes(np.where(came, answer, seen.last), np.where(came, first + 1, seen.lengths), came)


def costs(ended: Outcomes, labels: Array, cost: Cost, n: int) -> Array:
    """What each sequence cost, float64 (..., m)."""
    return cost.error * (ended.answer != labels) + cost.delay * ended.step / n


def mean_costs(seen: Trace, labels: Array, rules: Array, k: int, latched: bool, cost: Cost, n: int) -> Array:
    """The average cost under each of many rules, float64 (rules,). rules: float32 (rules, n, 3)."""
    many = max(1, CHUNK // seen.top.size)
    parts = [_ended(seen, rules[i : i + many], k, latched) for i in range(0, len(rules), many)]
    return np.concatenate([costs(part, labels, cost, n).mean(axis=-1) for part in parts])


@final
@dataclass(frozen=True)
class Score:
    """What decisions on m sequences are worth.

    cost: the average, and `cost_error` its standard error. earliness: the mean of step / length over the sequences,
    from 1 / length (at the first sample) to 1 (at the end); small is early. harmonic_mean: of accuracy and
    1 - earliness. kappa: Cohen's, agreement beyond chance. undecided: sequences without a decision at their end, which
    count as decided there. changes: how often a decision was revoked or changed, per sequence.
    accuracy_at_end: of one who waits for the end. oracle_earliness: had each decision come at the sample from which the
    model's answer stays right, or, where it is wrong at the end, at the end. least_cost: had each come at the sample
    that makes it cheapest; no trigger on these probabilities can cost less.
    """

    sequences: int
    cost: float
    cost_error: float
    accuracy: float
    earliness: float
    harmonic_mean: float
    kappa: float
    undecided: int
    changes: float
    accuracy_at_end: float
    oracle_earliness: float
    least_cost: float

    def to_dict(self) -> dict[str, Any]:
        """As JSON; a standard error of one stream is None."""
        return asdict(self) | {"cost_error": or_none(self.cost_error)}


def score(
    decided: Sequence[Array],
    probabilities: Sequence[Array],
    labels: Array,
    cost: Cost | None = None,
    n: int | None = None,
    streams: Sequence[str] | None = None,
) -> Score:
    """decided: the decision in force at each sample, -1 for none, int (time_i,) each, as `decisions` gives them.

    probabilities: float32 (time_i, classes) each. labels: class index of each sequence, (m,). n: the samples over which
    `cost.delay` is counted; by default the longest sequence. streams: the stream of each, for the standard error; by
    default each is its own. Raises InputError where they do not fit together.
    """
    seen, truth = trace(probabilities), np.asarray(labels)
    if truth.shape != (len(probabilities),) or len(decided) != len(probabilities):
        raise InputError(
            f"expected decisions and one label for each of {len(probabilities)} sequences, got {len(decided)} and "
            f"labels of shape {truth.shape}"
        )
    table = np.full(seen.top.shape, -1, np.int32)
    for i, (d, length) in enumerate(zip(decided, seen.lengths, strict=True)):
        if np.shape(d) != (length,):
            raise InputError(f"sequence {i}: expected {length} decisions, one for each sample, got {np.shape(d)}")
        table[i, :length] = d
    return scored(table, seen, truth, cost or Cost(), n or seen.top.shape[1], streams)


def scored(
    decided: Array, seen: Trace, labels: Array, cost: Cost, n: int, streams: Sequence[str] | None = None
) -> Score:
    """decided: int (m, time); see `score`."""
    ended = outcomes(decided, seen)
    each = costs(ended, labels, cost, n)
    right = ended.answer == labels
    accuracy, earliness = float(right.mean()), float((ended.step / seen.lengths).mean())
    steps = np.arange(1, seen.top.shape[1] + 1)
    wrong = seen.top != labels[:, None]
    foresight = np.where(seen.there, cost.error * wrong + cost.delay * steps / n, np.inf).min(axis=1)
    moved = (decided[:, 1:] != decided[:, :-1]) & (decided[:, :-1] >= 0) & seen.there[:, 1:]
    return Score(
        sequences=len(labels),
        cost=float(each.mean()),
        cost_error=standard_error(each, streams),
        accuracy=accuracy,
        earliness=earliness,
        harmonic_mean=harmonic_mean(accuracy, earliness),
        kappa=kappa(ended.answer, labels),
        undecided=int((~ended.came).sum()),
        changes=float(moved.sum(axis=1).mean()),
        accuracy_at_end=float((seen.last == labels).mean()),
        oracle_earliness=float((oracle(seen, labels) / seen.lengths).mean()),
        least_cost=float(foresight.mean()),
    )


def oracle(seen: Trace, labels: Array) -> Array:
    """The sample, from 1, from which the answer on top stays right; the last where it is wrong at the end. (m,)"""
    wrong = (seen.top != labels[:, None]) & seen.there
    after = seen.top.shape[1] - np.argmax(wrong[:, ::-1], axis=1)  # 1-based place of the last wrong answer
    return np.minimum(np.where(wrong.any(axis=1), after + 1, 1), seen.lengths)


def kappa(answers: Array, labels: Array) -> float:
    """Cohen's: (agreement - chance) / (1 - chance); 1 where both always say the same one class."""
    classes = np.arange(max(answers.max(), labels.max()) + 1)
    chance = float(((answers[:, None] == classes).mean(axis=0) * (labels[:, None] == classes).mean(axis=0)).sum())
    return (float((answers == labels).mean()) - chance) / (1 - chance) if chance < 1 else 1.0


def pareto(points: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The points that no other beats in accuracy and earliness both, earliest first; each has these two."""
    best, out = -1.0, []
    for point in sorted(points, key=lambda p: (p["earliness"], -p["accuracy"])):
        if point["accuracy"] > best:
            best = point["accuracy"]
            out.append(point)
    return out
