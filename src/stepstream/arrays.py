"""Numbers from outside as float32 arrays, or one clear error."""

from __future__ import annotations

from typing import Any

import numpy as np

from stepstream.errors import InputError
from stepstream.graph.ir import Array


def float32(values: Any, expected: str) -> Array:
    """Anything that holds numbers; what float32 cannot hold becomes Inf. Raises InputError("expected ..., got ...").

    A masked array with masked values is refused: below the mask lies anything.
    """
    if isinstance(values, np.ndarray) and values.dtype.kind == "c":
        raise InputError(f"expected {expected}, got a complex array")
    if isinstance(values, np.ma.MaskedArray) and values.mask.any():
        raise InputError(f"expected {expected}, got a masked array")
    try:
        with np.errstate(over="ignore"):
            return np.asarray(values, np.float32)
    except (TypeError, ValueError, OverflowError) as e:
        text = repr(values)
        raise InputError(f"expected {expected}, got {text if len(text) < 80 else text[:76] + ' ...'}") from e
