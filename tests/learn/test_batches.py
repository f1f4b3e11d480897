"""Sequences as batches: windows, padding, weights, lanes and states that are passed on."""

import numpy as np
import pytest

from stepstream import InputError
from stepstream.learn.batches import batches, rows, step_weights
from stepstream.learn.data import sequences
from stepstream.learn.lanes import Pool, lanes
from stepstream.learn.recipe import Recipe
from stepstream.learn.scaling import scaling


def made(lengths, recipe=None, per_sample=False, streams=None, y=None):
    recipe = recipe or Recipe()
    x = [np.arange(n, dtype=np.float32)[:, None] + 100 * i for i, n in enumerate(lengths)]
    labels = [np.arange(n) % 2 for n in lengths] if per_sample else [i % 2 for i in range(len(lengths))]
    data = sequences(x, y or labels, streams=streams)
    return data, rows(data, recipe, scaling(data))


def raw(data, x):
    """Samples as they were before scaling."""
    scale = scaling(data)
    return (x * scale.std + scale.mean).round().astype(int)[..., 0]


@pytest.mark.parametrize(
    ("loss", "expected"), [("last", [0, 0, 0, 1]), ("mean", [0.25] * 4), ("ramp", [0.1, 0.2, 0.3, 0.4])]
)
def test_weights_of_the_samples(loss, expected):
    np.testing.assert_allclose(step_weights(4, loss), expected, rtol=1e-6)


def test_long_streams_are_cut_into_windows_and_keep_every_sample():
    data, cut = made([7, 3], Recipe(window=3))
    assert [len(x) for x in cut.x] == [3, 3, 1, 3]
    assert raw(data, np.concatenate(cut.x)).tolist() == [*range(7), 100, 101, 102]


def test_a_batch_pads_without_weight():
    _, made_rows = made([5, 3, 4], Recipe(batch=2))
    seen = []
    for b in batches(made_rows, Recipe(batch=2), np.random.default_rng(0)):
        assert b.x.shape == (2, 5, 1)
        assert not b.w[~b.there].any()
        np.testing.assert_allclose(b.w.sum(), len(b.rows), rtol=1e-6)
        seen += b.rows.tolist()
    assert sorted(seen) == [0, 1, 2]


def test_prefixes_cut_sequences_anew_in_every_epoch():
    _, made_rows = made([20] * 6)
    recipe = Recipe(batch=6, prefixes=1)
    lengths = []
    for epoch in range(2):
        (b,) = batches(made_rows, recipe, np.random.default_rng(epoch))
        np.testing.assert_allclose(b.w.sum(axis=1), 1, rtol=1e-6)
        assert ((b.w > 0) == b.there).all()
        lengths.append(b.there.sum(axis=1).tolist())
    assert lengths[0] != lengths[1]
    assert all(1 <= n <= 20 for n in lengths[0] + lengths[1])


def test_random_starts_are_in_the_first_half():
    data, made_rows = made([20] * 50, per_sample=True)
    (b,) = batches(made_rows, Recipe(batch=50, starts=1), np.random.default_rng(0))
    np.testing.assert_allclose(b.w.sum(axis=1), 1, rtol=1e-6)
    begins = []
    for x, labels, there, row in zip(b.x, b.y, b.there, b.rows, strict=True):
        assert not x[~there].any()
        samples = raw(data, x[there]) - 100 * row
        np.testing.assert_array_equal(samples, np.arange(samples[0], 20))
        np.testing.assert_array_equal(labels[there], made_rows.y[row][samples])
        begins.append(int(samples[0]))
    assert set(begins) == set(range(11))
    (b,) = batches(made_rows, Recipe(batch=50, starts=0.5, prefixes=1), np.random.default_rng(0))
    ends = [raw(data, x[there]) - 100 * row for x, there, row in zip(b.x, b.there, b.rows, strict=True)]
    assert 10 < sum(e[0] > 0 for e in ends) < 40
    assert sum(e[-1] < 19 for e in ends) > 40


@pytest.mark.parametrize("changes", [{}, {"window": 2}, {"truncated": 3, "window": None}])
def test_balanced_classes_weigh_the_same(changes):
    """Over all that the loss sees: two of the sequences have three times as many samples, so perhaps windows."""
    recipe = Recipe(class_weights="balanced", **changes)
    _, made_rows = made([4, 12, 12, 4, 4], recipe, y=[0, 0, 0, 0, 1])
    sums = np.zeros(2)
    for y, w, c in zip(made_rows.y, made_rows.w, made_rows.c, strict=True):
        np.add.at(sums, y.astype(int), w * c)
    np.testing.assert_allclose(sums, sum(map(np.sum, made_rows.w)) / 2, rtol=1e-6)


def test_class_weights_are_for_all_classes():
    with pytest.raises(InputError, match="class_weights: expected one for each of 0, 1"):
        made([4, 4], Recipe(class_weights={"a": 1}))


def test_lanes_play_every_stream_whole_and_in_order():
    data, made_rows = made([7, 2, 4], Recipe(truncated=3), per_sample=True)
    heard = {0: [], 1: [], 2: []}
    current = {}
    for b, begins in lanes(made_rows, np.array([2, 0, 1]), 2, 3):
        assert b.x.shape == (2, 3, 1)
        for lane in range(2):
            if begins[lane]:
                current[lane] = b.rows[lane]
                assert not heard[b.rows[lane]]
            if b.there[lane].any():
                heard[current[lane]] += raw(data, b.x[lane][b.there[lane]]).tolist()
    assert heard == {i: [100 * i + t for t in range(n)] for i, n in enumerate([7, 2, 4])}


def test_windows_that_continue_each_other_are_joined_under_truncated():
    data, joined = made([3, 3, 2], Recipe(truncated=2, loss="last"), streams=["a", "a", "b"])
    assert [raw(data, x).tolist() for x in joined.x] == [[0, 1, 2, 100, 101, 102], [200, 201]]
    assert joined.y[0].tolist() == [0, 0, 0, 1, 1, 1]
    assert joined.w[0].tolist() == [0, 0, 1, 0, 0, 1]


def test_states_are_passed_to_a_share_of_the_windows():
    pool = Pool((2,))
    rng = np.random.default_rng(0)
    (first,) = pool.draw(4, 1.0, rng)
    assert not first.any()
    pool.fill([np.full((4, 2), 7, np.float32)], 3)
    assert len(pool.states[0]) == 3
    (drawn,) = pool.draw(4000, 0.25, rng)
    assert set(drawn.ravel()) == {0, 7}
    assert abs((drawn[:, 0] == 7).mean() - 0.25) < 0.05
