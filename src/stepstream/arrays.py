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
    records, and texts and bytes ("1_0" would be 10, bytearray(b"1") 49).
    """
    try:
        if type(values) is list and _PLAIN.issuperset(map(type, values)):  # one sample, as most callers give it
            with np.errstate(all="ignore"):
                return np.array(values, np.float32)
        if not isinstance(values, np.ndarray | list | tuple) and hasattr(values, "detach"):
            values = values.detach()  # a torch tensor that requires a gradient does not convert by itself
        if refused := _refused(values):
            raise InputError(f"expected {expected}, got {refused}")
        with np.errstate(all="ignore"):
            array = np.asarray(values)
            if array.dtype.kind in "cmMSUT" or array.dtype.names:
                raise InputError(f"expected {expected}, got values of type {array.dtype}")
            if array.dtype.kind == "O" and not all(isinstance(v, Real | Decimal) for v in array.flat):
                raise TypeError("not numbers alone")
            return array.astype(np.float32, copy=False)
    except (TypeError, ValueError, OverflowError, RuntimeError) as e:  # RecursionError is a RuntimeError
        if isinstance(e, InputError):
            raise
        raise InputError(f"expected {expected}, got {short(values)}") from e


def _refused(values: Any) -> str:
    """What in it is masked or bytes, if anything. One look at the types settles it for a list of floats."""
    if isinstance(values, list | tuple):
        return "" if _PLAIN.issuperset(map(type, values)) else next(filter(None, map(_refused, values)), "")
    if isinstance(values, bytearray | memoryview):
        return "bytes; numpy.frombuffer makes numbers of them"
    masked = isinstance(values, np.ma.MaskedArray) and np.ma.getmaskarray(values).any()
    return "masked values; fill them or leave the sample out" if masked else ""


def short(value: Any) -> str:
    """The start of its repr, for an error."""
    try:
        text = repr(value)
    except ValueError:  # Python does not write out an integer of more than 4,300 digits
        text = f"a very large {type(value).__name__}"
    return text if len(text) < 80 else text[:76] + " ..."
