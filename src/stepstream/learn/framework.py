"""Keras on a back end that trains here, imported when it is needed and not before."""

from __future__ import annotations

import os
import random
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from typing import Any

import numpy as np

from stepstream.errors import InputError

BACK_ENDS = {"jax": "jax", "torch": "torch"}  # name in Keras -> package


def keras() -> Any:
    """The module. `KERAS_BACKEND` says which back end, JAX where it says nothing. Raises InputError."""
    if find_spec("keras") is None:
        raise InputError("expected Keras for training, got none; pip install 'stepstream[train]'")
    if "keras" not in sys.modules and "KERAS_BACKEND" not in os.environ:
        found = [name for name, package in BACK_ENDS.items() if find_spec(package) is not None]
        if not found:
            raise InputError("expected JAX or PyTorch for training, got neither; pip install 'stepstream[train]'")
        os.environ["KERAS_BACKEND"] = found[0]
    import keras as module

    if (name := module.backend.backend()) not in BACK_ENDS:
        raise InputError(
            f"expected Keras on JAX or PyTorch, got {name}; set KERAS_BACKEND=jax before Keras is imported"
        )
    return module


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Layers that are made inside draw from this seed; Python's and NumPy's generators go on as they were."""
    before, numbers = random.getstate(), np.random.get_state()
    try:
        with drawing(seed):
            keras().utils.set_random_seed(seed)
            yield
    finally:
        random.setstate(before)
        np.random.set_state(numbers)


@contextmanager
def drawing(seed: int) -> Iterator[None]:
    """On PyTorch, whose dropout draws from one generator for all, that begins with this seed inside and goes on as it
    was behind; on JAX each layer has its own, which is a part of the checkpoint.
    """
    if keras().backend.backend() != "torch":
        yield
        return
    import torch

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield
