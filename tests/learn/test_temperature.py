"""Temperatures and maps by step, where the truth is known."""

import numpy as np
import pytest

from learn.walks import two, walks
from stepstream.learn import isotonic, temperature

TIME = 20
TRUE = np.exp(0.3 + 0.5 * np.log(np.arange(1, TIME + 1)) / np.log(TIME))


def pooled(y, log_odds):
    ages = [np.arange(1, log_odds.shape[1] + 1)] * len(y)
    return temperature.points(two(log_odds), [np.int64(v) for v in y], ages)


@pytest.mark.parametrize("basis", [temperature.two_parameters, temperature.knots])
def test_known_temperatures_are_found(basis):
    y, z = walks(2000, TIME)
    found = np.exp(temperature.fit(pooled(y, z * TRUE), *basis(TIME)))
    assert abs(found / TRUE - 1).max() < 0.15


def test_long_sequences_have_temperatures_between_knots():
    basis, _ = temperature.knots(500)
    assert basis.shape[1] <= temperature.KNOTS
    assert basis.sum(axis=1) == pytest.approx(1)
    np.testing.assert_array_equal(temperature.knots(7)[0], np.eye(7))


def test_a_handful_of_right_sequences_does_not_lead_to_certainty():
    z = np.full((3, 5), 4.0)
    found = temperature.fit(pooled([1, 1, 1], z), *temperature.two_parameters(5))
    assert (abs(found) < 1).all()


def test_a_handful_of_wrong_and_sure_sequences_is_survived():
    z = np.full((3, 5), 1e4)
    for basis in (temperature.two_parameters(5), temperature.knots(5)):
        found = temperature.fit(pooled([0, 1, 0], z), *basis)
        assert np.isfinite(found).all()
        assert (found > 2).all()


def test_long_sequences_do_not_outvote_short_ones():
    z, y = [np.full(1, 2.0)] * 4 + [np.full(100, 2.0)] * 4, [1, 1, 1, 0] * 2
    data = temperature.points(
        [np.stack([0 * v, v], 1) for v in z], [np.int64(v) for v in y], [np.ones(len(v), np.int64) for v in z]
    )
    assert np.bincount(data.sequence, data.weight) == pytest.approx(1)


def test_labels_per_sample_are_observations_of_their_own():
    z = np.zeros((3, 2))
    data = temperature.points([z, z], [np.array([0, 1, 1]), np.array([1, 1, 0])], [np.arange(1, 4)] * 2)
    assert data.weight.tolist() == [1] * 6
    assert data.label.tolist() == [0, 1, 1, 1, 1, 0]


def test_the_map_ascends_and_knows_no_certainty():
    rng = np.random.default_rng(0)
    p = rng.dirichlet(np.ones(3), 5000)
    happened = rng.random((5000, 1)) < np.cumsum(p**2 / (p**2).sum(1, keepdims=True), 1)
    label = happened.argmax(1)
    x, y = isotonic.fit(p, label[:, None] == np.arange(3), np.ones(5000))
    assert (np.diff(x) > 0).all()
    assert (np.diff(y) > 0).all()
    assert (x[0], x[-1]) == (0, 1)
    assert 0 < y[0] < y[-1] < 1
    after = isotonic.apply(p, (x, y))
    np.testing.assert_array_equal(after.argmax(1), p.argmax(1))
    assert after.sum(1) == pytest.approx(1)


def test_where_more_probable_happened_less_often_the_map_is_their_mean():
    p = np.repeat([[0.2, 0.3, 0.5]], 2000, axis=0)
    happened = np.zeros((2000, 3), bool)
    happened[:, 0] = np.arange(2000) % 10 < 4  # 0.2 came true in 40 %, 0.3 in 20 %
    happened[:, 1] = np.arange(2000) % 10 >= 8
    happened[:, 2] = ~happened[:, :2].any(axis=1)
    x, y = isotonic.fit(p, happened, np.ones(2000))
    assert np.interp(0.25, x, y) == pytest.approx(0.3, abs=0.01)


def test_the_map_of_two_classes_leaves_one_half_where_it_is():
    y, z = walks(400, 10)
    p = np.concatenate([np.stack([1 - q, q], 1) for q in 1 / (1 + np.exp(-2 * z))])
    label = np.repeat(y, 10)
    x, mapped = isotonic.fit(p, label[:, None] == np.arange(2), np.ones(len(p)))
    assert np.interp(0.5, x, mapped) == 0.5
    np.testing.assert_allclose(mapped + mapped[::-1], 1, atol=1e-6)
    assert np.interp(0.99, x, mapped) < 0.97
