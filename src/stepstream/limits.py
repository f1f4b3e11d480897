"""Every limit on a graph, each with its reason. What exceeds one is refused, never cut."""

from __future__ import annotations

MAX_VALUES = 2**26  # of one sample, in all tensors together: 256 MiB; a network for photographs has 2**25
MAX_INDEX = 2**24  # float32 holds whole numbers up to here
MAX_TABLE = 2**23  # values by position that taking Flatten apart makes: 4,000 samples of 512 units, four times over
MAX_PIECES = 2000  # parts of joined vectors, layer by layer; behind Flatten stand a few layers and branches
