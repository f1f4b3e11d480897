"""Arrays out of HDF5 datasets."""

from __future__ import annotations

from typing import Any

import numpy as np

from stepstream.errors import ModelFileError
from stepstream.graph.ir import Array


def weight(dataset: Any) -> Array:
    """A dataset of numbers as float32. bfloat16 is stored as two opaque bytes, the upper half of a float32."""
    values = np.asarray(dataset)
    if values.dtype == np.dtype("V2"):
        return (values.view("<u2").astype(np.uint32) << 16).view(np.float32)
    if values.dtype.kind not in "fiu":
        raise ModelFileError(f"{dataset.name}: expected numbers, got {values.dtype}")
    return values.astype(np.float32)
