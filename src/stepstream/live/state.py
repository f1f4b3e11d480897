"""What one stream carries from sample to sample."""

from __future__ import annotations

from dataclasses import dataclass

from stepstream.graph.ir import Array


@dataclass(frozen=True)
class StreamState:
    """All that a stream carries. row: float32 (state_size,); age 0 and None for a stream that has seen nothing."""

    row: Array
    age: int | None = 0
    time: float | None = None
    samples: int = 0
