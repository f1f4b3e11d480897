"""Random walks whose posterior is known: the label is the sign of the drift."""

import numpy as np

from make import model_of
from stepstream.learn.data import sequences


def walks(m, time, drift=0.4, seed=0):
    """Labels (m,) and the log odds of class 1 after each sample, (m, time)."""
    rng = np.random.default_rng([seed, m, time])
    y = rng.integers(0, 2, m)
    x = (2 * y - 1)[:, None] * drift + rng.normal(size=(m, time))
    return y, 2 * drift * np.cumsum(x, axis=1)


def two(log_odds):
    """As logits of two classes, one (time, 2) for each."""
    return [np.stack([0 * z, z], axis=1).astype(np.float32) for z in log_odds]


def chances(log_odds):
    """As probabilities of two classes, one (time, 2) for each."""
    p = 1 / (1 + np.exp(-np.asarray(log_odds, np.float64)))
    return [np.stack([1 - q, q], axis=1).astype(np.float32) for q in p]


def labelled(y, log_odds, **more):
    """The walks as data for a model that knows nothing else."""
    return sequences(np.asarray(log_odds, np.float32)[..., None], y, classes=("down", "up"), **more)


def passing(units=1, training_length=None):
    """A model that takes log odds (one feature) and gives their probability: a sigmoid of x, or a softmax of (0, x)."""
    name = "sigmoid" if units == 1 else "softmax"
    kernel = np.arange(units, dtype=np.float32)[None] if units > 1 else np.ones((1, 1), np.float32)
    weights = {"kernel": kernel, "bias": np.zeros(units, np.float32)}
    return model_of(
        ("dense", {"units": units, "activation": {"name": name}}, weights), features=1, training_length=training_length
    )
