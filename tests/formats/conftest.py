"""Fixtures of the tests of files."""

import pytest
from bundle_making import tiny


@pytest.fixture
def path(tmp_path):
    return tmp_path / "model.stepstream"


@pytest.fixture
def saved(path):
    """The bytes of the tiny model's bundle."""
    tiny().save(path, {"training": {"epochs": 2}})
    return path.read_bytes()
