"""The 7-sample task of bench/seven.py, smaller: what windows from a zero state do not teach, and what does."""

import numpy as np
import pytest

from stepstream.learn.data import sequences
from stepstream.learn.recipe import Recipe
from stepstream.learn.training import train

pytestmark = pytest.mark.slow

SEEN = 7


def streams(count, seed, samples):
    """Whether feature 0 was above zero on average over the last 7 samples."""
    x = np.random.default_rng(seed).normal(size=(count, samples, 2)).astype(np.float32)
    total = np.cumsum(x[..., 0], axis=1)
    total[:, SEEN:] -= total[:, :-SEEN].copy()
    return sequences(x, (total > 0).astype(int))


def carried(recipe):
    """Accuracy from the 7th sample on, the state carried over 1,000."""
    test = streams(4, 1, 1000)
    p = train(streams(24, 0, 700), recipe).model.run(np.stack(test.x))[..., 0]
    return ((p > 0.5) == np.stack(test.y))[:, SEEN - 1 :].mean()


def test_streams_that_outlive_windows_need_a_training_that_does():
    zero_state = Recipe(window=SEEN, loss="last", rate=0.005, batch=64, epochs=8, dropout=0)
    lost = carried(zero_state)
    passed = carried(Recipe(**{**zero_state.to_dict(), "state_passing": 0.9}))
    truncated = carried(Recipe(truncated=50, rate=0.005, batch=8, epochs=20, dropout=0))
    assert lost < 0.7
    assert passed > 0.88
    assert truncated > 0.93
