"""Calibration and triggers in the kernel: NumPy's bits, in any batch, on any input."""

import numpy as np
import pytest

from make import KNOTS, model_of, random
from stepstream.kernel.executor import KernelExecutor, native, update
from stepstream.ops.executor import NumpyExecutor
from stepstream.testing import stepped

pytestmark = pytest.mark.skipif(native() is None, reason="the native kernel is not built")


def bits(x):
    return np.ascontiguousarray(x).view(np.uint32)


def calibrate(n):
    return "calibrate", {}, {"scale": np.exp(random(n))}


def isotonic(n):
    rng = np.random.default_rng(n)
    x, y = np.unique(rng.random(n, np.float32)), np.sort(rng.random(n, np.float32))
    return "isotonic", {}, {"x": x, "y": y[: len(x)]}


def trigger(n, k, latched):
    rule = np.stack([1 + random(n, scale=0.1), random(n, seed=1), -0.5 + random(n, scale=0.1, seed=2)], axis=1)
    return "trigger", {"k": k, "latched": latched}, {"rule": rule.astype(np.float32)}


OPS = {
    "calibrate": calibrate(5),
    "calibrate, one position": calibrate(1),
    "isotonic, two knots": isotonic(2),
    "isotonic, 3": ("isotonic", {}, {"x": KNOTS[0], "y": KNOTS[1]}),
    "isotonic": isotonic(200),
    "trigger": trigger(6, 1, True),
    "trigger, revocable": trigger(6, 1, False),
    "trigger, 3 in a row": trigger(1, 3, True),
    "trigger, 2 in a row, revocable": trigger(20, 2, False),
}


def probabilities(streams, units, seed=0):
    """Some of which are equal, on a knot, NaN or infinite."""
    rng = np.random.default_rng(seed)
    p = rng.random((streams, 12, units), np.float32)
    if units > 1:
        p = (0.1 + p) ** 20  # so that one of many is likely
        p /= p.sum(axis=-1, keepdims=True)
    calm = rng.random((streams, 12)) < 0.6
    p[calm] = p[:1, :1]
    odd = rng.random(p.shape)
    for i, value in enumerate([0, 1, 0.5, 0.3, np.nan, np.inf, -np.inf, -0.0]):
        p[(odd > i / 20 / units) & (odd < (i + 1) / 20 / units)] = value
    return p


@pytest.mark.parametrize("units", [1, 2, 3, 16, 17, 40])
@pytest.mark.parametrize("name", OPS)
def test_the_bits_are_those_of_numpy_in_any_batch(name, units):
    model = model_of(OPS[name], features=units)
    executor, oracle = model.executor, NumpyExecutor(model.graph)
    assert isinstance(executor, KernelExecutor)
    x = probabilities(67, units)
    expected = stepped(oracle, x)
    nothing = np.isnan(expected)  # whose bits nobody reads
    for batch in (1, 2, 6, 67):
        parts = [stepped(executor, x[i : i + batch]) for i in range(0, 67, batch)]
        found = np.concatenate(parts)
        assert (np.isnan(found) == nothing).all()
        assert (bits(found)[~nothing] == bits(expected)[~nothing]).all()
    assert len(np.unique(expected[~nothing])) > 1


@pytest.mark.parametrize("name", [name for name in OPS if "isotonic" not in name])
def test_a_state_that_no_stream_has_is_taken_as_numpy_takes_it(name):
    model = model_of(OPS[name], features=3)
    rng, strange = np.random.default_rng(3), np.float32([0, 1, 2, 5, 6, 7, 1e9, -1, -1e9, 0.5, 3.4e38, np.inf, np.nan])
    state = rng.choice(strange, (500, model.executor.state_size))
    x = probabilities(500, 3, seed=1)[:, 0]
    ours, theirs = (e.step(x, state) for e in (model.executor, NumpyExecutor(model.graph)))
    for found, expected in ((ours[0][0], theirs[0][0]), (ours[1], theirs[1])):
        np.testing.assert_array_equal(found, expected)


def test_a_row_beside_nan_goes_on():
    model = model_of(OPS["calibrate"], ("activation", {"activation": {"name": "softmax"}}, {}), OPS["trigger"])
    table = model.executor.initial_state(3)
    x = np.ones((3, 3), np.float32)
    x[1] = np.nan
    for _ in range(3):
        out, finite = update(model.executor.machine, table, None, x)
    assert np.isfinite(table).all()
    assert (table[0] == table[2]).all()
    assert (out[0] == out[2]).all()
    assert finite.tolist() == [True, True, True]  # what the trigger gives is a number
