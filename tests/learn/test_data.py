"""Arrays as sequences, and parts of them that share no stream."""

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

from stepstream.errors import InputError
from stepstream.learn.data import folds, sequences, split


def some(m=40, time=5, features=2, seed=0, **given):
    rng = np.random.default_rng(seed)
    return sequences(rng.normal(size=(m, time, features)), np.arange(m) % 4 == 0, **given)


def test_one_label_per_sequence():
    data = sequences(np.ones((3, 4, 2)), [0, 1, 1], features=["a", "b"])
    assert (len(data), data.per_sample, data.classes, data.features) == (3, False, ("0", "1"), ("a", "b"))
    assert [y.item() for y in data.y] == [0, 1, 1]
    assert data.y[0].dtype == np.int64
    assert data.x[0].dtype == np.float32
    assert data.lengths.tolist() == [4, 4, 4]
    assert data.keys == data.streams == ("0", "1", "2")


def test_one_label_per_sample_in_every_form():
    X, y = np.arange(24.0).reshape(2, 4, 3), np.array([[0, 1, 1, 0], [0, 0, 0, 1]])
    forms = [
        sequences(X, y),
        sequences(list(X), list(y)),
        sequences(X.reshape(8, 3), y.reshape(8), lengths=[4, 4]),
        sequences(X.tolist(), y.tolist()),
    ]
    for data in forms:
        assert data.per_sample
        assert np.array_equal(np.stack(data.x), X)
        assert np.array_equal(np.stack(data.y), y)


def test_lengths_that_differ():
    data = sequences(np.arange(10.0).reshape(5, 2), ["walk", "run"], lengths=[2, 3], keys=["a", 7])
    assert [x.shape for x in data.x] == [(2, 2), (3, 2)]
    assert data.classes == ("run", "walk")
    assert [int(y) for y in data.y] == [1, 0]
    assert data.keys == ("a", "7")


def test_lengths_of_padded_arrays():
    X = np.full((2, 4, 1), np.nan)
    X[0, :2], X[1, :3] = 1, 2
    assert [x.tolist() for x in sequences(X, [0, 1], lengths=[2, 3]).x] == [[[1]] * 2, [[2]] * 3]
    y = [[0, 1, -1, -1], [1, 1, 0, -1]]
    assert [y.tolist() for y in sequences(X, y, lengths=[2, 3]).y] == [[0, 1], [1, 1, 0]]


@pytest.mark.parametrize(
    ("y", "classes"),
    [
        ([1, 1], ("0", "1")),
        ([0.0, 1.0], ("0", "1")),
        ([True, False], ("0", "1")),
        ([10, 9], ("9", "10")),
        (["10", "9"], ("9", "10")),
        ([b"on", b"off"], ("off", "on")),
        ([-1, 1], ("-1", "1")),
        ([0.5, 2], None),
    ],
)
def test_what_counts_as_classes(y, classes):
    assert sequences(np.ones((2, 3, 1)), y).classes == classes


def test_numbers_are_predicted_where_asked_for():
    data = sequences(np.ones((2, 3, 1)), [3, 7], regression=True)
    assert data.classes is None
    assert data.y[1].dtype == np.float32
    assert sequences(np.ones((2, 3, 1)), [3.0, 7.0], regression=False).classes == ("3", "7")


def test_names_of_classes_give_their_order():
    X = np.ones((2, 3, 1))
    assert [int(y) for y in sequences(X, ["run", "walk"], classes=["walk", "run", "sit"]).y] == [1, 0]
    assert [int(y) for y in sequences(X, [2, 0], classes=["walk", "run", "sit"]).y] == [2, 0]
    assert [int(y) for y in sequences(X, [5, 3], classes=["3", "5"]).y] == [1, 0]
    assert [int(y) for y in sequences(X, [[1], [0]]).y] == [1, 0]  # (m, 1), as Keras takes labels


@pytest.mark.parametrize(
    ("X", "y", "given", "words"),
    [
        (np.ones((2, 3)), [0, 1], {}, r"X\[\.\.\., None\]"),
        ([np.ones(3)], [0], {}, r"x\[:, None\]"),
        (np.ones((2, 3, 1)), [0], {}, "label for each of 2 sequences, got 1"),
        (np.ones((2, 3, 1)), np.eye(2), {}, "argmax"),
        (np.ones((2, 3, 1)), np.eye(2)[[[0, 1, 1]] * 2], {}, "argmax"),
        (
            np.ones((2, 3, 1)),
            np.array([[0.2, 0.8], [0.4, 0.7]]),
            {},
            r"got shape \(2,\); of several numbers give the one",
        ),
        (np.ones((3, 3, 1)), np.eye(3), {}, r"y.argmax\(-1\) for a class for each sequence, list\(y\) for labels per"),
        (np.ones((3, 4, 1)), np.eye(4)[:3], {"lengths": [2, 4, 3]}, "a single 1 in each row"),
        (np.ones((2, 3, 1)), [[0, 1, 1], [0, 1]], {}, "y of sequence '1': expected one label, or 3"),
        (np.ones((2, 3, 1)), [0, "a"], {}, "one kind"),
        (np.ones((2, 3, 1)), [0.5, np.nan], {}, "finite"),
        (np.ones((2, 3, 1)), ["a", "b"], {"classes": ["a", "c"]}, "classes a, c, got 'b'"),
        (np.ones((2, 3, 1)), [0, 2], {"classes": ["a", "c"]}, "from 0 to 1, got 2"),
        (np.ones((2, 3, 1)), ["a", "b"], {"regression": True}, "numbers for regression"),
        (np.ones((2, 3, 1)), [0.5, 1], {"regression": False}, "whole numbers or texts, got 0.5"),
        (np.array([[[1.0], [np.nan]]]), [0], {}, "sequence '0', sample 2: expected finite"),
        ([np.ones((2, 1)), np.ones((2, 2))], [0, 1], {}, r"sequence '1': expected \(time, 1\)"),
        (np.ones((2, 3, 1)), [0, 1], {"keys": ["a", "a"]}, "'a' twice"),
        (np.ones((2, 3, 1)), [0, 1], {"streams": ["a"]}, "streams: expected 2"),
        (np.ones((4, 1)), [0, 1], {"lengths": [1, 2]}, "with the sum 4"),
        (np.ones((2, 4, 1)), [0, 1], {"lengths": [1, 5]}, "2 whole numbers from 1 to 4"),
        (np.ones((2, 4, 1)), [0, 1], {"lengths": [1]}, "2 whole numbers from 1 to 4"),
        (np.ones((2, 4, 1)), [0], {"lengths": [1, 2]}, "label for each of 2"),
        (np.ones((2, 4, 1)), [0, 1, 1], {"lengths": [1, 2]}, "label for each of 2"),
        (np.ones((4, 1)), [0, 1, 1], {"lengths": [1, 3]}, "label for each of 2"),
        (np.ones((4, 1)), [0], {"lengths": 4}, "lengths: expected whole numbers"),
        (np.ones((4, 1)), [0, 1], {"lengths": [1.5, 2.5]}, "lengths: expected whole numbers"),
        (np.ones((0, 3, 1)), [], {}, "at least one sequence"),
        (np.ones((2, 3, 1)), [object(), 1], {}, "one kind"),
    ],
)
def test_what_does_not_fit_is_refused(X, y, given, words):
    with pytest.raises(InputError, match=words):
        sequences(X, y, **given)


def test_more_labels_than_classes_can_be():
    with pytest.raises(InputError, match="regression=True"):
        sequences(np.ones((1100, 1, 1)), np.arange(1100))


def test_some_keeps_the_order_asked_for():
    data = some().some([3, 1])
    assert data.keys == ("3", "1")
    with pytest.raises(InputError, match="at least one"):
        data.some([])


def test_some_takes_masks_and_refuses_other_places():
    data = some(m=4)
    for mask in (np.array([True, False, False, True]), [True, False, False, True]):
        assert data.some(mask).keys == ("0", "3")
    for places in ([4], [-5], [0.5], [[0, 1]], [True, False], ["a"]):
        with pytest.raises(InputError, match="indices: expected"):
            data.some(places)


@pytest.mark.parametrize(("X", "y", "name"), [(np.ones((2, 3, 1)), None, "y"), (None, [0], "X"), (5, [0], "X")])
def test_no_sequences_or_labels_at_all(X, y, name):
    with pytest.raises(InputError, match=f"{name}: expected one for each sequence"):
        sequences(X, y)


def test_split_by_stream():
    data = some(streams=[str(i // 2) for i in range(40)])
    train, test = split(data, 0.25, seed=3)
    assert not set(train.streams) & set(test.streams)
    assert sorted(train.keys + test.keys) == sorted(data.keys)
    assert len(set(test.streams)) == 5
    assert list(map(int, test.keys)) == sorted(map(int, test.keys))
    assert split(data, 0.25, seed=3)[1].keys == test.keys
    assert split(data, 0.25, seed=4)[1].keys != test.keys


@pytest.mark.parametrize("seed", range(5))
def test_each_class_has_its_share(seed):
    counts = Counter(int(y) for y in split(some(), 0.3, seed)[1].y)
    assert counts.total() == 12
    assert counts[1] in {3, 4}  # of 10 in 40


def test_folds_are_disjoint_and_stratified():
    data = some()
    parts = list(folds(data, 5, seed=1))
    assert sorted(key for _, test in parts for key in test.keys) == sorted(data.keys)
    for train, test in parts:
        assert not set(train.keys) & set(test.keys)
        assert Counter(int(y) for y in test.y) == {0: 6, 1: 2}


def test_too_few_streams():
    one = some(streams=["a"] * 40)
    with pytest.raises(InputError, match="at least 2 streams to hold one out, got 1; bring more recordings"):
        split(one)
    with pytest.raises(InputError, match="from 2 to 1"):
        folds(one)
    with pytest.raises(InputError, match="between 0 and 1"):
        split(some(), 25)


def test_made_up_names_are_told_from_given_ones():
    assert some().features == ("feature 0", "feature 1")
    assert not some().named
    assert replace(some(), features=("x", "y")).named
    assert not some().some([1, 0]).named


def test_regression_knows_no_classes():
    with pytest.raises(InputError, match="classes: expected none for regression, got a, b"):
        sequences(np.ones((2, 3, 1)), [0.0, 1.0], classes=["a", "b"], regression=True)


def test_a_label_that_is_none_is_named_by_its_sequence_and_sample():
    X = np.ones((2, 3, 1))
    with pytest.raises(InputError, match=r"y of sequence 'b': expected a finite number, got nan; leave what has no"):
        sequences(X, [0.0, np.nan], keys=["a", "b"])
    with pytest.raises(InputError, match=r"y of sequence 'b', sample 2: expected a finite number, got inf"):
        sequences(X, [[0, 1, 1.5], [0, np.inf, 1]], keys=["a", "b"])


@pytest.mark.parametrize("given", [{}, {"lengths": [3, 3]}])
@pytest.mark.parametrize("form", [lambda y: y, list])
def test_masked_labels_are_refused(form, given):
    X = np.ones((2, 3, 1))
    for y in (
        np.ma.array([1, 1], mask=[False, True]),
        np.ma.array([[1, 0, 1], [1, 0, 1]], mask=[[False] * 3, [False, True, False]]),
    ):
        with pytest.raises(InputError, match=r"y of sequence '1': expected labels, got masked ones"):
            sequences(X, form(y), **given)
    rows = np.ma.array([0, 1, 0, 1, 0, 1], mask=[False] * 5 + [True])
    with pytest.raises(InputError, match=r"y of sequence '1': expected labels, got masked ones"):
        sequences(X.reshape(6, 1), rows, lengths=[3, 3])


def test_a_mask_may_lie_on_padding_alone():
    mask = np.arange(3) >= np.array([[2], [3]])
    X = np.ma.array(np.ones((2, 3, 1)), mask=mask[..., None])
    data = sequences(X, np.ma.array([[0, 1, 7], [1, 1, 0]], mask=mask), lengths=[2, 3])
    assert [y.tolist() for y in data.y] == [[0, 1], [1, 1, 0]]
    with pytest.raises(InputError, match="got masked values"):
        sequences(X, [0, 1], lengths=[3, 3])


def test_what_looks_like_columns_of_classes_and_is_none():
    X, one = np.ones((3, 3, 1)), np.eye(3)
    for data in (sequences(X, list(one)), sequences(X.reshape(9, 1), one.reshape(9), lengths=[3] * 3)):
        assert data.classes == ("0", "1")
        assert np.array_equal(np.stack(data.y), one)
    assert sequences(X, np.array([[0, 0, 1]] * 3)).per_sample  # a class that all have is none
    assert sequences(X, 1 - one).per_sample
    assert sequences(X, one / 2).classes is None


@pytest.mark.parametrize("form", [np.asarray, list, lambda x: x.astype(np.int64), lambda x: x.tolist()])
def test_changes_that_float32_swallows(form):
    """Seconds since 1970, on two days: between them float32 tells many values apart, within a sequence none."""
    x = np.stack([np.arange(60.0) % 7, np.arange(60.0)], axis=1) + np.zeros((4, 60, 2))
    x[..., 1] += 1.7e9 + 86400 * np.arange(4)[:, None]
    with pytest.raises(
        InputError, match=r"feature 'at': .* around 1.7e\+09, where its steps are 128; subtract an offset"
    ):
        sequences(form(x), [0, 1, 0, 1], features=["load", "at"])
    x[..., 1] -= x[:, :1, 1]
    assert np.array_equal(np.stack(sequences(form(x), [0, 1, 0, 1]).x), x)


def test_what_float32_holds_well_enough():
    rng = np.random.default_rng(0)
    x = np.stack(
        [
            101325 + rng.normal(size=50) / 5,  # pascals
            0.1 + 1e-16 * rng.integers(0, 3, 50),  # a constant that was computed
            1e7 * np.pi * np.ones(50),
            rng.normal(size=50) * 1e-9,
        ],
        axis=1,
    )
    assert len(sequences([x, x[:20]], [0, 1])) == 2
