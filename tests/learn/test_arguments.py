"""Arguments of the wrong kind are refused in words, with what makes the right one."""

import numpy as np
import pytest

from learn.walks import labelled, passing, walks
from stepstream import InputError
from stepstream.learn.calibration import calibrate
from stepstream.learn.completion import complete
from stepstream.learn.cross_validation import sweep
from stepstream.learn.data import folds, sequences, split
from stepstream.learn.evaluation import evaluate
from stepstream.learn.guards import leaks
from stepstream.learn.training import train
from stepstream.learn.trigger import fit_trigger
from stepstream.learn.unseen import out_of_fold

TIME = 5
Y, Z = walks(20, TIME)
DATA = labelled(Y, Z)
NUMBERS = sequences(Z[..., None], Y + 0.5)
X = Z[..., None]


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (
            lambda m: train(DATA, {"epochs": 3}),
            r"recipe: expected Recipe, got dict; .*Recipe\(\*\*settings\)",
        ),
        (lambda m: train(X), "data: expected Sequences, got ndarray; stepstream.learn.sequences"),
        (lambda m: train(DATA, validation="a quarter"), "validation, where it is no share: expected Sequences"),
        (lambda m: train(DATA, validation=2), "validation: expected a share between 0 and 1, or Sequences, got 2"),
        (lambda m: train(DATA.some([0]), validation=0.5), "validation: expected at least 2 streams"),
        (lambda m: sweep(DATA, {"epochs": 3}), "recipe: expected Recipe"),
        (lambda m: sweep("data.csv"), "data: expected Sequences, got str; .*learn.read"),
        (lambda m: evaluate("model.stepstream", DATA), "model: expected Model, got str; stepstream.load"),
        (lambda m: evaluate(m, X), "data: expected Sequences"),
        (lambda m: evaluate(m, DATA, train=X), "train: expected Sequences"),
        (lambda m: evaluate(m, DATA, train=NUMBERS), r"train \(--train\): expected labels of the same kind"),
        (lambda m: evaluate(m, DATA, "carry"), r"windowings: expected a list, got 'carry'; give \['carry'\]"),
        (lambda m: calibrate(m, X), "data: expected Sequences"),
        (lambda m: calibrate("model.keras", DATA), "model: expected Model"),
        (lambda m: calibrate(m, DATA, held_out=X), "held_out: expected Sequences"),
        (lambda m: calibrate(m, DATA, held_out=NUMBERS), r"held_out \(--held-out\): expected data with classes"),
        (lambda m: calibrate(m, DATA, logits=3), "logits: expected those of 20 sequences, .* got 3"),
        (lambda m: calibrate(m, DATA, logits=[["a"]] * 20), "expected logits of sequence '0' as numbers"),
        (lambda m: calibrate(m, DATA, method=["auto"]), "method: expected auto"),
        (lambda m: calibrate(m, DATA, folds=2.5), "k: expected a whole number from 2, got 2.5"),
        (
            lambda m: fit_trigger(m, DATA, cost=0.5),
            r"cost: expected Cost, got float; .*Cost\(error=1, delay=",
        ),
        (lambda m: fit_trigger(m, X), "data: expected Sequences"),
        (lambda m: fit_trigger(m, DATA, probabilities=0.5), "probabilities: expected those of 20 sequences"),
        (lambda m: fit_trigger(m, DATA, seed="a"), "seed: expected a whole number from 0"),
        (lambda m: fit_trigger(m, DATA).score(X), "data: expected Sequences"),
        (lambda m: out_of_fold(m, DATA), "train: expected a function that makes a Model"),
        (lambda m: complete(m), "training: expected Training"),
        (lambda m: split(X), "data: expected Sequences"),
        (lambda m: split(DATA, "half"), "share: expected a number between 0 and 1"),
        (lambda m: leaks(X), "data: expected Sequences"),
        (lambda m: folds(X), "data: expected Sequences"),
    ],
)
def test_what_is_refused(call, said):
    with pytest.raises(InputError, match=said):
        call(passing())


def test_lists_are_as_good_as_arrays():
    p = [np.stack([1 - q, q], axis=1) for q in 1 / (1 + np.exp(-Z.astype(np.float32)))]
    by_arrays = fit_trigger(passing(), DATA, probabilities=p)
    assert fit_trigger(passing(), DATA, probabilities=[q.tolist() for q in p]).report == by_arrays.report
    logits = [np.stack([0 * z, z], axis=1).astype(np.float32) for z in Z]
    by_arrays = calibrate(passing(), DATA, logits=logits)
    assert calibrate(passing(), DATA, logits=[z.tolist() for z in logits]).report == by_arrays.report
