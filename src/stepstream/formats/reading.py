"""What a reader returns: the graph or the blockers, and what the file says of itself."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any

from stepstream.formats import json_text
from stepstream.graph.ir import Array, Graph, TensorSpec, frozen, frozen_json, thawed
from stepstream.graph.streamable import Blocker


@dataclass(frozen=True)
class LayerInfo:
    """One layer of the file as its author knows it. spec: what comes out, or None where it blocks."""

    name: str
    kind: str
    spec: TensorSpec | None = None


@dataclass(frozen=True)
class Provenance:
    """Who wrote the file. date: as the file gives it, or None. bundled: who made a bundle of it, if one is read."""

    format: str
    writer: str
    date: str | None = None
    bundled: str | None = None

    def __str__(self) -> str:
        bundled = f", bundled by {self.bundled}" if self.bundled else ""
        return f"{self.writer} ({self.format}{f', saved {self.date}' if self.date else ''}){bundled}"


@dataclass(frozen=True, eq=False)
class CheckVectors:
    """Samples x (streams, time, features) and what must come out, y (streams, time, all outputs), both float32.

    fingerprint: of the graph that they are for.
    """

    x: Array
    y: Array
    fingerprint: str

    def __post_init__(self) -> None:
        object.__setattr__(self, "x", frozen(self.x))
        object.__setattr__(self, "y", frozen(self.y))


@dataclass(frozen=True)
class Reading:
    """graph is None exactly when there are blockers. Nothing is dropped from it yet.

    features, classes: names. trained_ages: the first and the last age that training has shown the model. reports: JSON
    by name (InputError for anything else), of which nothing can be changed. vectors: of a bundle.
    """

    graph: Graph | None
    layers: tuple[LayerInfo, ...]
    blockers: tuple[Blocker, ...]
    training_length: int | None
    provenance: Provenance
    notes: tuple[str, ...] = ()
    features: tuple[str, ...] | None = None
    classes: tuple[str, ...] | None = None
    trained_ages: tuple[int, int | None] | None = None
    reports: Mapping[str, Any] = field(default_factory=dict, hash=False)
    vectors: CheckVectors | None = field(default=None, compare=False)

    def __post_init__(self) -> None:
        json_text.check(self.reports, "reports")
        object.__setattr__(self, "reports", frozen_json(self.reports))

    def __reduce__(self) -> tuple[Any, ...]:
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        return Reading, tuple((values | {"reports": thawed(self.reports)}).values())

    def noting(self, note: str) -> Reading:
        """The same, with one more note."""
        return replace(self, notes=(*self.notes, note))
