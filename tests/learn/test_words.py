"""Numbers as people read them."""

import pytest

from stepstream.learn.words import counted, fixed, percent


@pytest.mark.parametrize(
    ("share", "said"),
    [
        (0, "0%"),
        (1e-6, "under 0.1%"),
        (0.0049, "0.5%"),
        (0.5, "50%"),
        (0.986, "99%"),
        (0.996, "99.6%"),
        (0.99999, "over 99.9%"),
        (1, "100%"),
    ],
)
def test_nearly_none_is_not_none_and_nearly_all_is_not_all(share, said):
    assert percent(share) == said


def test_nothing_has_no_sign():
    assert [fixed(v, 2) for v in (-0.004, 0.004, -0.006, 1.0)] == ["0.00", "0.00", "-0.01", "1.00"]


def test_one_is_not_several():
    assert [counted(n, "sequence") for n in (0, 1, 1000)] == ["0 sequences", "1 sequence", "1,000 sequences"]
