"""What a reader returns: the graph or the blockers, and what the file says of itself."""

from __future__ import annotations

from dataclasses import dataclass, replace

from stepstream.graph.ir import Graph, TensorSpec
from stepstream.graph.streamable import Blocker


@dataclass(frozen=True)
class LayerInfo:
    """One layer of the file as its author knows it. spec: what comes out, or None where it blocks."""

    name: str
    kind: str
    spec: TensorSpec | None = None


@dataclass(frozen=True)
class Provenance:
    """Who wrote the file. date: as the file gives it, or None."""

    format: str
    writer: str
    date: str | None = None

    def __str__(self) -> str:
        return f"{self.writer} ({self.format}{f', saved {self.date}' if self.date else ''})"


@dataclass(frozen=True)
class Reading:
    """graph is None exactly when there are blockers. Nothing is dropped from it yet."""

    graph: Graph | None
    layers: tuple[LayerInfo, ...]
    blockers: tuple[Blocker, ...]
    training_length: int | None
    provenance: Provenance
    notes: tuple[str, ...] = ()

    def noting(self, note: str) -> Reading:
        """The same, with one more note."""
        return replace(self, notes=(*self.notes, note))
