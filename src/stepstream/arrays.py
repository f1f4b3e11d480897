"""Numbers from outside as float32 arrays, or one clear error."""

from __future__ import annotations

from decimal import Decimal
from numbers import Real
from typing import Any

import numpy as np

from stepstream.errors import InputError
from stepstream.graph.ir import Array

_PLAIN = frozenset({float, int})


def float32(values: Any, expected: str) -> Array:
    """Anything that holds numbers; what float32 cannot hold becomes Inf. Raises InputError("expected ..., got ...").

    Refused although NumPy would convert them: masked values (below the mask lies anything), complex numbers, times,
    and texts ("1_0" would be 10).
    """
    try:
        if type(values) is list and _PLAIN.issuperset(map(type, values)):  # one sample, as most callers give it
            with np.errstate(over="ignore"):
                return np.array(values, np.float32)
        if not isinstance(values, np.ndarray | list | tuple) and hasattr(values, "detach"):
            values = values.detach()  # a torch tensor that requires a gradient does not convert by itself
        if _masked(values):
            raise InputError(f"expected {expected}, got masked values; fill them or leave the sample out")
        with np.errstate(over="ignore"):
            array = np.asarray(values)
            if array.dtype.kind in "cmMSUT":
                raise InputError(f"expected {expected}, got values of type {array.dtype}")
            if array.dtype.kind == "O" and not all(isinstance(v, Real | Decimal) for v in array.flat):
                raise TypeError("not numbers alone")
            return array.astype(np.float32, copy=False)
    except (TypeError, ValueError, OverflowError, RuntimeError) as e:  # RecursionError is a RuntimeError
        if isinstance(e, InputError):
            raise
        raise InputError(f"expected {expected}, got {_short(values)}") from e


def _masked(values: Any) -> bool:
    """Whether anything in it is masked. One look at the types settles it for a list of floats."""
    if isinstance(values, list | tuple):
        return not _PLAIN.issuperset(map(type, values)) and any(map(_masked, values))
    return isinstance(values, np.ma.MaskedArray) and bool(np.ma.getmaskarray(values).any())


def _short(values: Any) -> str:
    text = repr(values)
    return text if len(text) < 80 else text[:76] + " ..."
