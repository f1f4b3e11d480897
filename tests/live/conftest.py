"""Fixtures of the tests of streams and engines."""

import pytest
from engines import Clock


@pytest.fixture
def clock():
    return Clock()
