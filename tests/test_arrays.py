"""What counts as numbers, and what does not although NumPy would convert it."""

from decimal import Decimal
from fractions import Fraction

import numpy as np
import pytest

import stepstream
from stepstream.arrays import float32

MASKED = np.ma.array([1.0, 2.0, 3.0], mask=[0, 1, 0])
NESTED: list = []
NESTED.append(NESTED)


@pytest.mark.parametrize(
    "values",
    [
        MASKED,
        [MASKED, MASKED],
        [[MASKED]],
        [np.ma.masked, 1.0, 2.0],
        np.array([np.ma.masked, 1.0], object),
        np.array([1j, 2, 3]),
        [1j, 2, 3],
        [np.complex64(1), 2, 3],
        np.array([np.complex64(1), 10**30], object),
        np.array(["2026-01-01"], "datetime64[D]"),
        [np.datetime64("2026-01-01"), 1.0],
        [np.timedelta64(3, "s")],
        ["1_0", 2.0],
        np.array(["1", "2"]),
        np.array(["1_0", 2], object),
        [b"1_0"],
        "12",
        [None, 1.0],
        [1.0, [2.0, 3.0]],
        [10**400],
        NESTED,
        {"x": 1.0},
        bytearray(b"abc"),
        [1.0, bytearray(b"ab")],
        memoryview(b"abc"),
        np.zeros(3, [("x", "f4")]),
        list(np.zeros(3, [("x", "f4")])),
        [10**5000],
    ],
    ids=lambda values: type(values).__name__,
)
def test_what_is_no_number_is_refused(values):
    with pytest.raises(stepstream.InputError, match="expected 3 numbers, got "):
        float32(values, "3 numbers")


@pytest.mark.parametrize(
    "values",
    [
        [1, 2.0, True],
        (1, 2, 1),
        np.array([1, 2, 1], np.int8),
        np.array([1, 2, 1], np.float16),
        np.ma.array([1.0, 2.0, 1.0]),
        np.array([Decimal(1), Fraction(2), 1], object),
        [np.float32(1), np.float64(2), np.int64(1)],
    ],
    ids=lambda values: repr(values)[:40],
)
def test_what_holds_numbers_is_taken(values):
    array = float32(values, "3 numbers")
    assert array.dtype == np.float32
    assert array.tolist() == [1, 2, 1]


def test_what_float32_cannot_hold_is_infinite():
    assert float32([1e39, -(10**100)], "2 numbers").tolist() == [np.inf, -np.inf]


def test_tensors_of_torch():
    torch = pytest.importorskip("torch")
    weights = torch.tensor([1.0, 2.0, 3.0], requires_grad=True)
    assert float32(weights, "3 numbers").tolist() == [1, 2, 3]
    for refused in (torch.ones(3, dtype=torch.complex64), [weights, weights]):
        with pytest.raises(stepstream.InputError, match="expected 3 numbers, got "):
            float32(refused, "3 numbers")
