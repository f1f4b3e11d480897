"""Calibration: values worked out by hand, positions, and what a file must not say."""

import numpy as np
import pytest

from make import graph_model, model_of
from stepstream.errors import GraphError
from stepstream.graph.ir import TimeRole
from stepstream.ops.executor import NumpyExecutor
from stepstream.testing import stepped

SEQUENCE = TimeRole.SEQUENCE
RISING = {"x": np.float32([0.2, 0.5, 0.6]), "y": np.float32([0.0, 0.3, 0.9])}


def calibrate(*scale):
    return "calibrate", {}, {"scale": np.float32(scale)}


def isotonic(x=RISING["x"], y=RISING["y"]):
    return "isotonic", {}, {"x": np.float32(x), "y": np.float32(y)}


def of(*ops, features=1):
    return NumpyExecutor(model_of(*ops, features=features).graph)


def test_each_position_has_its_scale_and_the_last_one_stays():
    executor = of(calibrate(2, 0.5, 4), features=2)
    x = np.tile(np.float32([1, -3]), (1, 5, 1))
    expected = [[[2, -6], [0.5, -1.5], [4, -12], [4, -12], [4, -12]]]
    assert stepped(executor, x).tolist() == expected
    assert executor.whole(x)[0].tolist() == expected


def test_masked_samples_count_as_in_the_age():
    x, mask = np.ones((1, 3, 1), np.float32), np.array([[True, False, True]])
    assert stepped(of(calibrate(2, 3, 4)), x, mask).ravel().tolist() == [2, 3, 4]


def test_the_count_stops_where_nothing_depends_on_it():
    executor = of(calibrate(2, 3))
    state = executor.initial_state(1)
    for count in (1, 2, 2, 2):
        _, state = executor.step(np.ones((1, 1), np.float32), state)
        assert state.tolist() == [[count]]


def test_a_scale_of_one_changes_no_bit():
    x = np.random.default_rng(0).normal(size=(5, 4, 3)).astype(np.float32) * np.float32(1e3)
    assert stepped(of(calibrate(1), features=3), x).tobytes() == x.tobytes()


@pytest.mark.parametrize(
    ("p", "mapped"),
    [(0.0, 0.0), (0.2, 0.0), (0.35, 0.15), (0.5, 0.3), (0.55, 0.6), (0.6, 0.9), (1.0, 0.9)],
)
def test_a_probability_goes_along_straight_pieces(p, mapped):
    y = stepped(of(isotonic()), np.full((1, 1, 1), p, np.float32))
    assert y[0, 0, 0] == pytest.approx(mapped, abs=1e-6)


def test_classes_go_each_by_itself_and_are_divided_by_their_sum():
    y = stepped(of(isotonic(), features=3), np.float32([[[0.35, 0.5, 0.15], [0.1, 0.2, 0.0]]]))[0]
    np.testing.assert_allclose(y[0], [0.15 / 0.45, 0.3 / 0.45, 0], atol=1e-6)
    np.testing.assert_allclose(y[1], [1 / 3] * 3, atol=1e-7)  # all of them 0


def test_what_is_mapped_stays_a_probability():
    rng = np.random.default_rng(1)
    for _ in range(20):
        x, y = np.unique(rng.random(9, np.float32)), np.sort(rng.random(9, np.float32))
        y[-1] = 1
        found = stepped(of(isotonic(x, y)), rng.random((500, 1, 1)).astype(np.float32)).ravel()
        assert ((found >= 0) & (found <= 1)).all()
    close = np.float32([0.5, np.nextafter(np.float32(0.5), np.float32(1))])  # as steep as it gets
    assert np.isfinite(stepped(of(isotonic(close, [0, 1])), np.float32([[[0.5]], [[0.1]], [[0.9]]]))).all()


@pytest.mark.parametrize(
    ("op", "message"),
    [
        (calibrate(), r"weights \['scale'\] hold no numbers"),
        (("calibrate", {}, {}), "got none"),
        (("calibrate", {}, {"scale": np.ones((2, 2))}), r"got \(2, 2\)"),
        (calibrate(1, 0), r"expected scales above 0, got 0\.0"),
        (calibrate(1, -2), r"expected scales above 0, got -2\.0"),
        (calibrate(1, np.nan), "weight 'scale' holds NaN or Inf"),
        (calibrate(np.inf), "weight 'scale' holds NaN or Inf"),
        (("isotonic", {}, {}), "expected knots x and y"),
        (isotonic([0.5], [0.5]), "2 or more of each"),
        (isotonic([0, 1], [0, 0.5, 1]), r"got \[\(2,\), \(3,\)\]"),
        (isotonic([0, 0, 1], [0, 0.5, 1]), "expected knots whose x rise, got"),
        (isotonic([0, 1, 0.5], [0, 0.5, 1]), "expected knots whose x rise, got"),
        (isotonic([0, 0.5, 1], [0, 0.6, 0.5]), "expected knots whose y rise within 0 to 1, got"),
        (isotonic([0, 1], [-0.5, 1]), "within 0 to 1"),
        (isotonic([0, 1], [0, 1.5]), "within 0 to 1"),
        (isotonic([0, np.nan], [0, 1]), "holds NaN or Inf"),
    ],
)
def test_a_file_that_says_something_else_is_refused(op, message):
    with pytest.raises(GraphError, match=message):
        model_of(op, features=1)


@pytest.mark.parametrize("op", [calibrate(1), isotonic(), ("trigger", {"k": 1, "latched": True}, {})])
def test_a_value_without_time_or_of_two_axes_or_two_of_them_are_refused(op):
    inputs = {"x": ((3,), SEQUENCE), "s": ((2,), TimeRole.STATIC), "i": ((2, 2), SEQUENCE)}
    name, params, weights = op
    for sources in (["s"], ["i"], ["x", "x"], ["#mask"]):
        with pytest.raises(GraphError, match=r"expected (a vector that depends|1 inputs, got 2|numbers as)"):
            graph_model(inputs, [("c", name, sources, params, weights)], ["c", "x"])
