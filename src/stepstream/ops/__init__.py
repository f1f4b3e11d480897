"""The ops: one file per family, each with parameters, state, NumPy step and NumPy whole."""

from stepstream.ops import (
    activation,
    calibrate,
    conv,
    dense,
    embedding,
    mask,
    merge,
    normalise,
    position,
    recurrent,
    shape,
    trigger,
)
from stepstream.ops.op import REGISTRY, Op

__all__ = [
    "REGISTRY",
    "Op",
    "activation",
    "calibrate",
    "conv",
    "dense",
    "embedding",
    "mask",
    "merge",
    "normalise",
    "position",
    "recurrent",
    "shape",
    "trigger",
]
