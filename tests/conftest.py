"""Shared fixtures. The Keras back end is chosen before anything imports Keras."""

import importlib.util
import os
import sys
from importlib.resources import files
from pathlib import Path

import pytest

os.environ.setdefault("KERAS_BACKEND", "jax")

import stepstream

if importlib.util.find_spec("stepstream.kernel._native") is None and os.environ.get("STEPSTREAM_REQUIRE_KERNEL") != "1":
    os.environ.setdefault("STEPSTREAM_ISA", "numpy")  # or every command would warn; tests/kernel looks at that

if "--hypothesis-profile=noticing" in sys.argv:  # broken code must fail; the smallest way to see it is of no interest
    from hypothesis import Phase, settings

    settings.register_profile("noticing", phases=[Phase.explicit, Phase.generate])


def pytest_collection_modifyitems(items):
    """The longest tests first, or one core waits for another at the end."""
    items.sort(
        key=lambda item: "test_random_graphs" not in item.name and "test_every_layer_equals_keras" not in item.name
    )


@pytest.fixture
def motions():
    """The packaged model's folder."""
    return Path(str(files("stepstream") / "data" / "motions"))


@pytest.fixture
def path(motions):
    """The packaged model, as an argument of a command."""
    return str(motions / "model.keras")


@pytest.fixture
def recording(motions):
    return motions / "recording.csv"


@pytest.fixture
def model(motions):
    return stepstream.load(motions / "model.keras", features=["x", "y", "z"])


@pytest.fixture
def cases():
    folder = os.environ.get("STEPSTREAM_CASES")
    if not folder:
        pytest.skip("STEPSTREAM_CASES is not set")
    return Path(folder)
