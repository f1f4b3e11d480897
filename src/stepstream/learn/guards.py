"""Leaks: what makes figures on paper better than they will be on a stream, found in the data, in words."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import final

import numpy as np

from stepstream.graph.ir import Array
from stepstream.learn.data import Sequences
from stepstream.learn.kinds import of_kind
from stepstream.learn.metrics import auc
from stepstream.learn.words import counted, verb
from stepstream.model import Model

ENOUGH = 3  # sequences, before their common habit is more than chance
SHORTEST = 8  # samples, before a mean of 0 and a spread of 1 are more than chance
NEAR = 2e-3  # how near to 0 and 1 a normalised sequence comes after rounding in a text file
RARE = 0.01  # of the other samples that are zeros, where zeros stand for nothing
WORSE = 1.05  # times the loss of a constant answer: dropout and noise make that of a training a little higher
MANY = 50  # samples, before a feature that tells the label in all of them is more than chance


@final
@dataclass(frozen=True)
class Finding:
    """Something that a user ought to know. name: one word for programs; words: what was seen; remedy: what to do."""

    name: str
    words: str
    remedy: str

    def __str__(self) -> str:
        return f"{self.words}; remedy: {self.remedy}"


def leaks(data: Sequences, other: Sequences | None = None, model: Model | None = None) -> tuple[Finding, ...]:
    """What gives the future, or the answer, away. other: the part that was trained on, or held out.

    Looks for sequences padded with zeros or normalised each by itself, streams and sequences in both parts, features
    that tell the label or the time, and layers of the model that look ahead. Nothing found is no proof.
    """
    of_kind("data", data, Sequences)
    found = [*_padded(data), *_normalised(data), *_label_among_features(data), *_clocks(data)]
    if other is not None:
        found += _in_both(data, other)
    if model is not None:
        found += look_ahead(model)
    return tuple(found)


def silent(data: Sequences, constant: Sequence[str]) -> Iterator[Finding]:
    """Of what nothing is learned: columns without numbers, features that never change, as `scaling` finds them, and
    classes that never occur; and sequences of which nobody said where one ends and the next begins.
    """
    columns = verb(len(data.left_out), "column", "columns") + f" {', '.join(data.left_out[:5])}"
    if len(data.left_out) > 5:
        columns += f" and {len(data.left_out) - 5} more"
    if data.keys == ("0",):
        perhaps = f", perhaps the {columns}" if data.left_out else ""
        yield Finding(
            "one-sequence",
            f"all {counted(len(data.x[0]), 'sample')} are one sequence",
            f"if these are several recordings, name the column that says to which a row belongs{perhaps}: key= (--key)",
        )
    elif data.left_out:
        yield Finding(
            "left-out-columns",
            f"{columns}: {verb(len(data.left_out), 'holds', 'hold')} no numbers, and nothing is learned of "
            f"{verb(len(data.left_out), 'it', 'them')}",
            "write what matters as numbers; to leave it out knowingly, name the features: features= (--features)",
        )
    if constant:
        names = _names(data, np.isin(data.features, constant))
        yield Finding(
            "constant-feature",
            f"{names}: never {verb(len(constant), 'changes', 'change')} in the training data, which teach nothing of "
            f"{verb(len(constant), 'it', 'them')}",
            "leave out what never changes (features=), or bring data in which it does",
        )
    if data.classes is not None:
        there = np.unique(np.concatenate([np.atleast_1d(y) for y in data.y]))
        if never := [name for i, name in enumerate(data.classes) if i not in there]:
            yield Finding(
                "missing-class",
                f"no training data of {verb(len(never), 'class', 'classes')} {', '.join(never[:5])}"
                f"{f' and {len(never) - 5} more' if len(never) > 5 else ''}: the model will not say "
                f"{verb(len(never), 'it', 'them')}",
                "bring data of every class",
            )


def unlearned(data: Sequences, loss: float) -> Iterator[Finding]:
    """A training whose mean loss, of the epoch that was kept, is above that of answering with the class shares."""
    y = np.concatenate([np.atleast_1d(v) for v in data.y])
    shares = np.bincount(y) / len(y)
    constant = -float(sum(p * np.log(p) for p in shares if p > 0))
    if constant > 0 and loss > WORSE * constant:
        yield Finding(
            "learned-nothing",
            f"the training ends with a loss of {loss:.3g}, above the {constant:.3g} of always answering with the "
            "shares of the classes: the model has learned nothing",
            "lower the rate (rate=, --rate), or give it more epochs",
        )


def look_ahead(model: Model) -> Iterator[Finding]:
    """Layers that need the future."""
    for b in model.reading.blockers:
        yield Finding("look-ahead", f"{b.layer} ({b.kind}): {b.reason}", b.remedy)


def _names(data: Sequences, chosen: Array) -> str:
    names = [f.removeprefix("feature ") for f, c in zip(data.features, chosen, strict=True) if c]
    more = f" and {len(names) - 5} more" if len(names) > 5 else ""
    return f"feature{'s' if len(names) > 1 else ''} {', '.join(names[:5])}{more}"


def _normalised(data: Sequences) -> Iterator[Finding]:
    """Each sequence has mean 0 and spread 1, or runs exactly from 0 to 1: by numbers that only its end gives."""
    long = [np.asarray(x, np.float64) for x in data.x if len(x) >= SHORTEST]
    if len(long) < ENOUGH:
        return
    changes = np.array([np.ptp(x, axis=0) > 0 for x in long])
    spread = np.array([[x.std(axis=0), x.std(axis=0, ddof=1)] for x in long])
    standard = (np.abs([x.mean(axis=0) for x in long]) < NEAR) & (np.abs(spread - 1) < NEAR).any(axis=1)
    unit = (np.array([x.min(axis=0) for x in long]) == 0) & (np.array([x.max(axis=0) for x in long]) == 1)
    for each, what in ((standard, "has mean 0 and standard deviation 1"), (unit, "runs exactly from 0 to 1")):
        by_itself = ((each | ~changes).mean(axis=0) > 0.9) & (each.mean(axis=0) > 0.5)
        if by_itself.any():
            yield Finding(
                "normalised",
                f"{_names(data, by_itself)}: nearly every sequence {what}, so each was normalised by itself, with its "
                "own future, which no stream knows",
                "go back to the raw values, and scale by the mean and std of the training part (scale=)",
            )


def _padded(data: Sequences) -> Iterator[Finding]:
    """Sequences of one length, of which many end or begin in rows of zeros as they have nowhere else."""
    if len(set(map(len, data.x))) > 1:
        return
    for ways, how, remedy in (
        (slice(None, None, -1), "end in", "give lengths=, the number of real samples in each, so that it is left out"),
        (slice(None), "begin with", "leave them out of each sequence"),
    ):
        there: list[Array] = [np.asarray(x[ways].any(axis=1)) for x in data.x]
        rows = np.array([t.argmax() if t.any() else len(t) for t in there])
        others = sum(map(len, there)) - rows.sum()
        elsewhere = others - sum(np.count_nonzero(t) for t in there)
        if (n := int((rows > 1).sum())) >= ENOUGH and elsewhere <= RARE * others:
            yield Finding(
                "padded",
                f"{n:,} of {counted(len(data), 'sequence')} {how} several rows of zeros, as if they were padded to one "
                "length: padding counts as samples here, and tells how long a sequence is before a stream knows",
                remedy,
            )


def _label_among_features(data: Sequences) -> Iterator[Finding]:
    if data.classes is None:
        return
    if data.per_sample:
        x, y = np.concatenate(data.x), np.concatenate(data.y)
        still = np.ones(len(data.features), bool)
    else:  # what says one thing throughout each sequence, as a label does
        x, y = np.stack([x[0] for x in data.x]), np.array(data.y)
        still = np.all([(x == x[:1]).all(axis=0) for x in data.x], axis=0)
    there = np.unique(y)
    if len(there) < 2 or (data.per_sample and len(y) < MANY) or len(y) < 2 * ENOUGH:
        return
    telling = still & np.array([_tells(x[:, f], y, there) for f in range(x.shape[1])])
    if telling.any():
        yield Finding(
            "label",
            f"{_names(data, telling)}: the value alone tells the label, without one exception in {len(y)} "
            f"{'samples' if data.per_sample else 'sequences'}",
            "leave it out (features=), unless a stream has it before the label is known",
        )


def _tells(x: Array, y: Array, there: Array) -> bool:
    """Whether each value, or each side of a threshold, belongs to one class."""
    values, place = np.unique(x, return_inverse=True)
    if len(values) <= 2 * len(there):
        return len(np.unique(np.stack([place, y]), axis=1).T) == len(values) and len(values) >= len(there)
    return len(there) == 2 and auc((y == there[1]).astype(int), np.stack([-x, x], axis=1)) in {0.0, 1.0}


def _clocks(data: Sequences) -> Iterator[Finding]:
    """Features that go up with every sample: the time itself, or what has only one class."""
    long = [i for i, x in enumerate(data.x) if len(x) >= SHORTEST]
    rising = np.array([(np.diff(data.x[i], axis=0) > 0).all(axis=0) for i in long]).reshape(-1, len(data.features))
    if not rising.any():
        return
    always = np.asarray(rising.all(axis=0))
    if always.any():
        yield Finding(
            "clock",
            f"{_names(data, always)}: goes up with every sample of every sequence, as time does, and beyond the "
            "lengths in training takes values that the model has never seen",
            "leave it out, or give the difference to the sample before",
        )
    if data.per_sample or data.classes is None:
        return
    y = np.array([int(data.y[i]) for i in long])
    for c, name in enumerate(data.classes):
        ours = y == c
        if min(ours.sum(), (~ours).sum()) >= ENOUGH:
            only = rising[ours].all(axis=0) & ~rising[~ours].any(axis=0)
            if only.any():
                yield Finding(
                    "clock",
                    f"{_names(data, only)}: goes up with every sample in all sequences of {name}, and in no other: it "
                    "may count what was known only afterwards",
                    "leave it out, unless a stream has it as it happens",
                )


def _in_both(data: Sequences, other: Sequences) -> Iterator[Finding]:
    numbered = any(part.streams == tuple(map(str, range(len(part)))) for part in (data, other))
    if not numbered and (both := sorted(set(data.streams) & set(other.streams))):
        more = ", ..." if len(both) > 3 else ""
        yield Finding(
            "both-parts",
            f"{counted(len(both), 'stream')} {verb(len(both), 'occurs', 'occur')} in both parts: "
            f"{', '.join(both[:3])}{more}; neighbouring windows of one stream are nearly copies of each other",
            "split by stream: stepstream.learn.split",
        )
    known = {x.tobytes() for x in other.x}
    if copies := [key for key, x in zip(data.keys, data.x, strict=True) if x.tobytes() in known]:
        more = ", ..." if len(copies) > 3 else ""
        yield Finding(
            "both-parts",
            f"{counted(len(copies), 'sequence')} {verb(len(copies), 'is', 'are')} the same, value for value, in both "
            f"parts: {', '.join(copies[:3])}{more}",
            f"leave {verb(len(copies), 'it', 'them')} out of one part",
        )
