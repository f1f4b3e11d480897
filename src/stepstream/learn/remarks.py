"""What the figures of an evaluation mean, in words, and what to do about it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from stepstream.graph.ir import Array
from stepstream.learn.by_step import Row
from stepstream.learn.data import Sequences
from stepstream.learn.guards import Finding
from stepstream.learn.words import counted, percent
from stepstream.model import Model

CLEAR = 0.02  # of accuracy: less is of no interest, however certain
SURE = 2.0  # standard errors
MANY = 30  # streams, before a figure is worth a second digit
LABELS = 10  # sequences of a class
STREAMS = 5  # with labels per sample
GAP = 0.05  # between confidence and accuracy
SOON = 0.25  # of a sequence: before, there may be nothing to know yet
RARE = 0.1  # share of a class, and, of many, so much of an equal one
EQUAL = 0.4
OTHER = 0.2  # of accuracy: by so much another order of the classes has to be better
CERTAIN = 3.0  # standard deviations: of many orders the best is better than the given one by chance, too

Answers = Mapping[str, Sequence[Array]]  # by windowing: probabilities (time, classes) of each sequence


def beyond(data: Sequences, answers: Answers, n: int, trained: int) -> Iterator[Finding]:
    """What carry loses beyond the ages that training has shown, and tumbling(n) by forgetting.

    n: the training length. trained: the oldest age in training.
    """
    carry, sliding, tumbling = (answers.get(w) for w in ("carry", f"sliding({n})", f"tumbling({n})"))
    remedy = f"use sliding({n}), or train with state passing, which shows the model such states (stepstream train)"
    if carry is not None and data.lengths.max() > trained:
        old = data.some(np.flatnonzero(data.lengths > trained))
        old_carry = [p for p in carry if len(p) > trained]
        unit = n if data.per_sample and sliding is not None else None
        if data.per_sample and sliding is not None:
            now = [_right(y[trained:], p[trained:]) for y, p in zip(old.y, old_carry, strict=True)]
            ref = [_right(y[trained:], p[trained:]) for y, p in zip(data.y, sliding, strict=True) if len(p) > trained]
            confidence = float(np.concatenate([p[trained:].max(axis=1) for p in old_carry]).mean())
            source = f" (sliding({n}) on the same samples)"
        else:
            pairs = list(zip(old.y, old_carry, strict=True))
            if data.per_sample:
                now = [_right(y[trained:], p[trained:]).mean(keepdims=True) for y, p in pairs]
                ref = [_right(y[:trained], p[:trained]).mean(keepdims=True) for y, p in pairs]
                source = f" (up to age {trained})"
            else:
                now = [_right(y, p[-1:]) for y, p in pairs]
                ref = [_right(y, p[trained - 1 : trained]) for y, p in pairs]
                source = f" (at age {trained})"
            confidence = float(np.mean([p[trained if data.per_sample else -1 :].max(axis=1).mean() for p in old_carry]))
        if _worse(now, ref, old.streams, unit):
            yield Finding(
                "carry-beyond-training",
                f"carry: beyond age {trained}, the oldest in training, accuracy falls from {_mean(ref):.2f}{source} to "
                f"{_mean(now):.2f} while the mean confidence is {confidence:.2f}",
                remedy,
            )
    if tumbling is not None and sliding is not None and data.per_sample:
        now, ref = ([_right(y, p) for y, p in zip(data.y, of, strict=True)] for of in (tumbling, sliding))
        if _worse(now, ref, data.streams, n):
            within = carry is not None and data.lengths.max() <= trained
            instead = f"carry, as in training, or sliding({n})" if within else f"sliding({n})"
            yield Finding(
                "tumbling-forgets",
                f"tumbling({n}): accuracy is {_mean(now):.2f}, and {_mean(ref):.2f} under sliding({n}) on the same "
                f"samples: after each restart an answer has seen few of them",
                f"use {instead}, or act on the last answer of each window alone (complete)",
            )


def beyond_in_numbers(data: Sequences, answers: Answers, n: int, trained: int) -> Iterator[Finding]:
    """The same for regression, by root mean square error."""
    carry, sliding = answers.get("carry"), answers.get(f"sliding({n})")
    if carry is None or sliding is None or not data.per_sample or data.lengths.max() <= trained:
        return
    now, ref = (_rmse(data, of, trained) for of in (carry, sliding))
    if now > 1.2 * ref:
        yield Finding(
            "carry-beyond-training",
            f"carry: beyond age {trained}, the oldest in training, the root mean square error is {now:.3g}, and "
            f"{ref:.3g} under sliding({n}) on the same samples",
            f"use sliding({n}), or train with state passing (stepstream train)",
        )


def early(rows: Sequence[Row], prior_loss: float, trained: Any = None) -> Iterator[Finding]:
    """rows: by fraction. trained: the loss of the model's recipe, where it has one. Answers before the end that are
    worse than none.
    """
    at_every_step = trained in ("mean", "ramp")
    end = rows[-1].figures
    blind = [
        (r, a)
        for r in rows
        if r.share is not None
        and SOON <= r.share <= 0.75
        and (a := r.figures["auc"]) is not None
        and end["auc"] is not None
        and a < 0.6 <= end["auc"] - 0.2
    ]
    if blind:
        row, area = blind[-1]
        why = "either there is nothing to be seen before, or training looked at the last step alone"
        remedy = "train with a loss at every step: loss='mean' or 'ramp' (stepstream train)"
        if at_every_step:
            why = "there may be nothing to be seen before"
            remedy = "if there is, train for longer or on more sequences (stepstream train)"
        yield Finding(
            "blind-before-the-end",
            f"at {row.share:.0%} of a sequence AUC is {area:.2f}, as good as chance or worse, and at the end "
            f"{end['auc']:.2f}: {why}",
            remedy,
        )
    worse = [r for r in rows if (loss := r.figures["log_loss"]) is not None and loss > 1.1 * prior_loss]
    if worse and not blind:
        row = max(worse, key=lambda r: r.share or 0)
        yield Finding(
            "worse-than-prior",
            f"up to {row.share:.0%} of a sequence the probabilities are worse than the shares of the classes: log loss "
            f"{row.figures['log_loss']:.2f} against {prior_loss:.2f}",
            ("" if at_every_step else "train with a loss at every step: loss='mean' or 'ramp', or ")
            + "calibrate by step (stepstream calibrate)",
        )


def calibration(windowing: str, rows: Sequence[Row], streams: int) -> Iterator[Finding]:
    """rows: by fraction, or one over all samples. Confidence that is not what comes true."""
    wide = max(rows, key=lambda r: abs(_gap(r)))
    gap, accuracy, confidence = _gap(wide), wide.figures["accuracy"], wide.figures["confidence"]
    if accuracy is None or confidence is None:
        return
    error = np.sqrt(max(accuracy * (1 - accuracy), 0.01) / streams)
    if abs(gap) > max(GAP, SURE * error):
        where = "over all samples" if wide.share is None else f"at {wide.share:.0%} of a sequence"
        how = "surer than it is right" if gap > 0 else "right more often than it is sure"
        yield Finding(
            "miscalibrated",
            f"{windowing}: {where} the model is {how}: mean confidence {confidence:.2f}, accuracy {accuracy:.2f}",
            "stepstream calibrate, on data that were not trained on",
        )


def about_the_data(data: Sequences, counts: Mapping[str, int]) -> Iterator[Finding]:
    """counts: labels by class."""
    total = sum(counts.values())
    there = {c: n for c, n in counts.items() if n}
    if len(there) < 2:
        yield Finding(
            "one-class",
            f"all labels are {next(iter(there))}: AUC, balanced accuracy and the like have no meaning",
            "bring data of every class",
        )
    else:
        rare, least = min(there.items(), key=lambda item: item[1])
        if least / total < min(RARE, EQUAL / len(there)):
            yield Finding(
                "imbalance",
                f"{rare} is {percent(least / total)} of the labels: without ever saying it an accuracy of "
                f"{percent(1 - least / total)} can be had",
                "judge by balanced accuracy, F1 and AUC; train with class weights",
            )
    streams = len(set(data.streams))
    together = counted(len(data), "sequence") + (f" of {counted(streams, 'stream')}" if streams < len(data) else "")
    if data.per_sample and streams < STREAMS:
        yield Finding(
            "few",
            f"{together} in all: neighbouring samples are nearly copies, so "
            "the figures hold for these recordings and perhaps for no other",
            "bring more recordings",
        )
    elif not data.per_sample:
        rare, least = min(there.items(), key=lambda item: item[1])
        if streams < MANY or least < LABELS:
            one = "one answer" if streams == len(data) else "one stream"
            yield Finding(
                "few",
                f"{together}, and {least} of {rare}: {one} more or less moves accuracy by "
                f"{1 / streams:.3f}; look at the intervals",
                "bring more sequences before comparing models",
            )


def constant(data: Sequences, answers: Sequence[Array]) -> Iterator[Finding]:
    """The same answer to everything."""
    assert data.classes is not None
    rows = np.concatenate(answers if data.per_sample else [p[-1:] for p in answers])
    top = np.unique(rows.argmax(axis=1))
    labels = np.unique(np.concatenate([np.atleast_1d(y) for y in data.y]))
    if len(top) == 1 and len(labels) > 1:
        spread = float(rows.std(axis=0).max())
        how = f", with probabilities that hardly change (standard deviation {spread:.1g})" if spread < 0.01 else ""
        yield Finding(
            "constant",
            f"the answer is always {data.classes[top[0]]}{how}",
            "check the order and the units of the features, and scale= if the model was trained on scaled values",
        )


def class_order(model: Model, data: Sequences, answers: Sequence[Array]) -> Iterator[Finding]:
    """Answers that another order of the classes would make right far more often: the names, or the numbers that stand
    for them, are perhaps not in the order in which the model was trained.

    data: as `matched` has them. answers: probabilities or logits (time_i, classes) of each sequence.
    """
    assert data.classes is not None
    if data.per_sample:
        top, y = np.concatenate([p.argmax(axis=1) for p in answers]), np.concatenate(data.y)
    else:
        top, y = np.array([p[-1].argmax() for p in answers]), np.array(data.y)
    k = len(data.classes)
    table = np.bincount(top * k + y, minlength=k * k).reshape(k, k)  # (answers, labels)
    table = table / np.maximum(table.sum(axis=0), 1)  # each class counts the same: the larger one is no pattern
    best = np.where(table.any(axis=1), table.argmax(axis=1), np.arange(k))
    if len(np.unique(best)) < k:
        return
    there = max(1, np.count_nonzero(table.any(axis=0)))
    now, then = (float(table[np.arange(k), order].sum() / there) for order in (np.arange(k), best))
    gain = (best[top] == y).astype(int) - (top == y)
    if then - now < OTHER or _certainty(gain, data) < CERTAIN:
        return
    other = ",".join(data.classes[i] for i in best)
    words = (
        f"of the answers {percent(now)} are right (mean over the classes), and {percent(then)} would be if the classes "
        f"stood in the order {other}: they may be in the wrong order, now {','.join(data.classes)}"
    )
    if model.classes is None:
        yield Finding("class-order", words, "give the order of the training: --classes (classes=)")
    else:
        remedy = (
            "compare the labels with the names of the model's classes: label by these names, or name whole numbers "
            "in their order by --classes (classes=)"
        )
        yield Finding("class-order", words, remedy)


def _certainty(gain: Array, data: Sequences) -> float:
    """How far more often than chance a gain is above zero, in standard deviations; a vote for each stretch of samples
    with one label, or, of labels per sequence, for each stream.
    """
    if data.per_sample:
        own = [np.diff(y, prepend=y[0] - 1) != 0 for y in data.y]
        unit = np.cumsum(np.concatenate(own)) - 1
    else:
        unit = np.unique(data.streams, return_inverse=True)[1]
    votes = np.sign(np.bincount(unit, gain))
    return float(votes.sum() / np.sqrt(max(1.0, abs(votes).sum())))


def _gap(row: Row) -> float:
    """Confidence less accuracy."""
    confidence, accuracy = row.figures["confidence"], row.figures["accuracy"]
    return 0.0 if confidence is None or accuracy is None else confidence - accuracy


def _right(y: Array, p: Array) -> Array:
    return (p.argmax(axis=1) == y).astype(np.float64)


def _rmse(data: Sequences, p: Sequence[Array], first: int) -> float:
    """Over the samples behind the first so many."""
    errors = [a[first:, 0] - y[first:] for y, a in zip(data.y, p, strict=True)]
    return float(np.sqrt(np.mean(np.concatenate(errors) ** 2)))


def _mean(flags: Sequence[Array]) -> float:
    return float(np.concatenate(flags).mean())


def _worse(now: Sequence[Array], before: Sequence[Array], streams: Sequence[str], n: int | None) -> bool:
    """Whether the loss is clear, and more than chance: by stream, or, of a few long ones, by windows of n samples."""
    each = [b - a for a, b in zip(now, before, strict=True)]
    if n is not None and len(set(streams)) < MANY:
        loss = [part for d in each for part in np.split(d, range(n, len(d), n))]
    else:
        place = np.unique(streams, return_inverse=True)[1]
        loss = [
            np.concatenate([d for d, own in zip(each, place, strict=True) if own == i]) for i in range(place.max() + 1)
        ]
    means = np.array([d.mean() for d in loss])
    error = means.std(ddof=1) / np.sqrt(len(means)) if len(means) > 1 else np.inf
    return _mean(before) - _mean(now) > max(CLEAR, SURE * float(error))
