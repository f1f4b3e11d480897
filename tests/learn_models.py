"""A model whose answers can be worked out by hand: the sign of the sum of all that it has seen."""

import numpy as np

from make import model_of
from stepstream.learn.data import sequences

LENGTH = 4


def adding(sharpness=4.0, length=LENGTH, activation="sigmoid"):
    """One number a sample; h = h + x, and a sigmoid of it. Trained, so to say, on windows of 4 samples."""
    parameters = {
        "units": 1,
        "activation": {"name": "linear"},
        "return_sequences": False,
        "zero_output_for_mask": False,
    }
    one = np.ones((1, 1), np.float32)
    adds = ("simple_rnn", parameters, {"kernel": one, "recurrent": one, "bias": np.zeros(1, np.float32)})
    says = ("dense", {"units": 1, "activation": {"name": activation}}, {"kernel": one * sharpness, "bias": one[0] * 0})
    return model_of(adds, says, features=1, training_length=length)


def last_four(m=8, time=120, seed=0):
    """Streams labelled, at every sample, by the sign of the sum of the last 4: exact for `adding` under sliding(4)."""
    x = np.random.default_rng(seed).normal(size=(m, time, 1)).astype(np.float32)
    padded = np.concatenate([np.zeros((m, LENGTH - 1)), x[..., 0]], axis=1)
    sums = sum(padded[:, i : i + time] for i in range(LENGTH))
    return sequences(x, (sums > 0).astype(int), features=["load"], classes=["falling", "rising"])
