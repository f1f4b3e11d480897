"""What `Model.check` says: a table for a person, a dict for a program, HTML for a notebook."""

from __future__ import annotations

import html
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from stepstream.errors import InputError
from stepstream.formats.reading import Provenance
from stepstream.graph.attach import ATTACHED, Attached, attached_to
from stepstream.graph.streamable import Blocker
from stepstream.graph.validate import validate
from stepstream.live.windowing import Sliding
from stepstream.ops import REGISTRY

if TYPE_CHECKING:
    from stepstream.model import Model

COLUMNS = ("layer", "kind", "role", "output", "state", "multiply-adds")


@dataclass(frozen=True)
class Row:
    """One layer. state: {slot: shape}; None in role and output where the model is blocked."""

    layer: str
    kind: str
    role: str | None
    output: tuple[int, ...] | None
    state: dict[str, tuple[int, ...]]
    multiply_adds: int

    def cells(self) -> tuple[str, ...]:
        state = ", ".join(f"{slot} {size[0]}" for slot, size in self.state.items())
        output = "" if self.output is None else "x".join(map(str, self.output))
        return (
            self.layer,
            self.kind,
            self.role or "",
            output,
            state,
            f"{self.multiply_adds:,}" if self.multiply_adds else "",
        )


@dataclass(frozen=True)
class Report:
    """What `Model.check` returns; prints as a table.

    `ok`: whether the model steps. `rows`: one for each layer, with time role, output shape, state and multiply-adds per
    sample. `blockers`: every layer in the way, with reason and remedy. `state_floats`: float32 values that one stream
    carries. `runs_on`: the native kernel, or NumPy and why. `sliding`: how `sliding(training length)` would go, or why
    not; None without one. `training_length`, `features`, `outputs` and `provenance` are what the file says of itself,
    `notes` what had to be assumed. `calibration`, `trigger`: what they do, in words; None without one.
    """

    ok: bool
    training_length: int | None
    features: int | None
    feature_names: tuple[str, ...] | None
    outputs: dict[str, int]
    classes: tuple[str, ...] | None
    rows: tuple[Row, ...]
    blockers: tuple[Blocker, ...]
    state_floats: int
    multiply_adds: int
    sliding: str | None
    runs_on: str | None
    fingerprint: str | None
    provenance: Provenance
    notes: tuple[str, ...]
    calibration: str | None = None
    trigger: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types."""
        data = {k: v for k, v in vars(self).items() if k not in {"rows", "blockers", "provenance"}}
        data |= vars(self.provenance)
        data["layers"] = [vars(r) for r in self.rows]
        data["blockers"] = [vars(b) for b in self.blockers]
        return data

    def summary(self) -> list[str]:
        """The lines above the table."""
        lines = [f"written by {self.provenance}"]
        length = (
            f"{self.training_length} samples" if self.training_length else "not known; give training_length= to load()"
        )
        lines.append(f"training length: {length}")
        if self.ok:
            names = f": {', '.join(self.feature_names)}" if self.feature_names else ""
            outputs = ", ".join(f"{name} ({units})" for name, units in self.outputs.items())
            classes = f": {', '.join(self.classes)}" if self.classes else ""
            lines.append(f"{_count(self.features or 0, 'feature')}{names} -> {outputs}{classes}")
            lines.append(
                f"one stream carries {self.state_floats} floats; a step costs {self.multiply_adds:,} multiply-adds"
            )
            if self.calibration:
                lines.append(f"calibrated: {self.calibration}")
            if self.trigger:
                lines.append(f"decides: {self.trigger}")
            lines.append(f"runs on: {self.runs_on}")
            if self.sliding:
                lines.append(self.sliding)
        return lines + [f"note: {note}" for note in self.notes]

    def verdict(self) -> str:
        """The line below the table."""
        if self.ok:
            return "this model steps on a stream"
        return f"this model does not step: {_count(len(self.blockers), 'layer')} in the way"

    def __str__(self) -> str:
        table = [COLUMNS, *(r.cells() for r in self.rows)]
        widths = [max(len(row[i]) for row in table) for i in range(len(COLUMNS))]
        lines = ["  ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)).rstrip() for row in table]
        lines.insert(1, "  ".join("-" * w for w in widths))
        blocked = [f"{b.layer} ({b.kind}): {b.reason}\n  remedy: {b.remedy}" for b in self.blockers]
        return "\n".join([*self.summary(), "", *lines, "", self.verdict(), *blocked])

    def _repr_html_(self) -> str:
        def row(cells: tuple[str, ...], tag: str) -> str:
            return "<tr>" + "".join(f"<{tag}>{html.escape(c)}</{tag}>" for c in cells) + "</tr>"

        head = "<br>".join(html.escape(line) for line in self.summary())
        body = "".join(row(r.cells(), "td") for r in self.rows)
        blocked = "".join(
            f"<li><b>{html.escape(b.layer)}</b> ({html.escape(b.kind)}): {html.escape(b.reason)}"
            f"<br>remedy: {html.escape(b.remedy)}</li>"
            for b in self.blockers
        )
        return (
            f"<p>{head}</p><table><thead>{row(COLUMNS, 'th')}</thead><tbody>{body}</tbody></table>"
            f"<p><b>{self.verdict()}</b></p><ul>{blocked}</ul>"
        )


def report(model: Model) -> Report:
    reading = model.reading
    graph = reading.graph
    specs = validate(graph) if graph else {}
    nodes = graph.nodes if graph else ()
    states: dict[str, dict[str, tuple[int, ...]]] = {}
    costs: dict[str, int] = {}
    for node in nodes:
        op, own = REGISTRY[node.op], states.setdefault(node.layer, {})
        for slot in op.slots(node):
            own[slot.name if slot.name not in own else f"{node.id} {slot.name}"] = slot.shape
        cost = op.multiply_adds(node, *(specs[i] for i in node.inputs))
        costs[node.layer] = costs.get(node.layer, 0) + cost
    layers = [(i.name, i.kind, i.spec) for i in reading.layers]
    added = [(n.layer, "(x - mean) / std", specs[n.id]) for n in nodes if n.is_scale]
    at = sum(kind == "InputLayer" for _, kind, _ in layers[: 1 if layers else 0])
    layers[at:at] = added
    known = {name for name, _, _ in layers}  # a bundle may name them itself
    layers += [(n.layer, n.op, specs[n.id]) for n in nodes if n.op in ATTACHED and n.layer not in known]
    attached = attached_to(graph) if graph else Attached()
    rows = [
        Row(
            name,
            kind,
            str(spec.role) if spec and graph else None,
            spec.shape if spec and graph else None,
            states.get(name, {}),
            costs.get(name, 0),
        )
        for name, kind, spec in layers
    ]
    ok = reading.graph is not None
    return Report(
        ok=ok,
        training_length=model.training_length,
        features=model.n_features if ok else None,
        feature_names=model.features,
        outputs=dict(zip(model.output_names, model.output_sizes, strict=True)) if ok else {},
        classes=model.classes,
        rows=tuple(rows),
        blockers=reading.blockers,
        state_floats=model.executor.state_size if ok else 0,
        multiply_adds=sum(r.multiply_adds for r in rows),
        sliding=_sliding(model) if ok else None,
        runs_on=model.runs_on if ok else None,
        fingerprint=model.fingerprint if ok else None,
        calibration=attached.calibration,
        trigger=attached.trigger,
        provenance=reading.provenance,
        notes=reading.notes,
    )


def _sliding(model: Model) -> str | None:
    """The way that sliding(n) takes for this model, and what it keeps, or why it cannot; n: the window of training."""
    n = model.window_length or model.training_length
    if n is None:
        return None
    try:
        windowing, executor = Sliding(n).on(model.executor)
    except InputError as e:  # a large window of many features
        return str(e)
    return f"{windowing} would carry {executor.state_size:,} floats"


def _count(number: int, what: str) -> str:
    return f"{number} {what}" + ("" if number == 1 else "s")
