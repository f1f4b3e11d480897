"""Keras 1 configurations and weights in the words of Keras 2.

Facts (Keras 1.2 sources). `output_dim` is `units`, `inner_activation` the gates' activation, `bias` `use_bias`. With
consume_less "cpu" or "mem" each gate has arrays W, U, b of its own, LSTM in the order i, c, f, o and GRU z, r, h; with
"gpu" they lie side by side, LSTM as i, f, c, o. `running_std` of BatchNormalization holds the variance. A Sequential
model may begin with a Merge of other Sequential models, whose layers are saved one by one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

import numpy as np

from stepstream.errors import ModelFileError
from stepstream.formats.keras_build import Place
from stepstream.formats.keras_inputs import inputs_of
from stepstream.formats.keras_places import MODELS, RAW, name_of
from stepstream.graph.ir import Array, frozen

Entry = Mapping[Any, Any]
MODES = {"sum": "Add", "mul": "Multiply", "ave": "Average", "max": "Maximum", "concat": "Concatenate", "dot": "Dot"}
GATES = {"LSTM": 4, "GRU": 3}
ORDER = {"LSTM": (0, 2, 1, 3), "GRU": (0, 1, 2)}  # gates of the file in the order of Keras 2


def translate(entry: Entry) -> dict[Any, Any]:
    """A model or layer of Keras 1 as Keras 2 would have written it; arrays: how many the file has for it."""
    kind, config = entry["class_name"], entry["config"]
    if kind == "Sequential":
        return _sequential(entry)
    if kind in MODELS:
        return {**entry, "config": {**config, "layers": [translate(e) for e in config["layers"]]}}
    if kind in {"TimeDistributed", "Bidirectional"}:
        inner = translate(config["layer"])
        return {**entry, "config": {**config, "layer": inner}, RAW: inner.get(RAW)}
    out, renamed = dict(config), kind
    if kind in {"Dense", "TimeDistributedDense"}:
        renamed = "Dense"
        out |= {"units": config["output_dim"], "use_bias": config.get("bias", True)}
    elif kind in {"LSTM", "GRU", "SimpleRNN"}:
        out |= {"units": config["output_dim"], "recurrent_activation": config.get("inner_activation", "hard_sigmoid")}
        out |= {"use_bias": True, "reset_after": False}
        apart = kind in GATES and config.get("consume_less", "cpu") != "gpu"
        if apart:
            return {**entry, "config": out, RAW: 3 * GATES[kind]}
    elif kind == "BatchNormalization" and config.get("mode", 0) != 0:
        renamed = "BatchNormalization with mode"
    elif kind == "Merge":
        renamed, out = _merge(config)
    return {**entry, "class_name": renamed, "config": out}


def _merge(config: Entry) -> tuple[str, dict[str, Any]]:
    mode = config.get("mode", "sum")
    if config.get("mode_type", "raw") != "raw" or config.get("output_mask_type", "raw") != "raw" or mode not in MODES:
        return ("Dot" if mode == "cos" else "Lambda"), {**config, "axes": config.get("dot_axes", -1), "normalize": True}
    axes = config.get("dot_axes", -1)
    return MODES[mode], {**config, "axis": config.get("concat_axis", -1), "axes": axes}


def _sequential(entry: Entry) -> dict[Any, Any]:
    body = entry["config"]
    layers = body if isinstance(body, list) else body["layers"]
    first = layers[0]
    if first["class_name"] != "Merge" or not first["config"].get("layers"):
        inner = [translate(e) for e in layers]
        return {**entry, "config": inner if isinstance(body, list) else {**body, "layers": inner}}
    nodes: list[dict[Any, Any]] = []
    inputs: list[str] = []
    last = _branches(first, nodes, inputs)
    for layer in layers[1:]:
        last = _append(nodes, translate(layer), [last])
    refs = [[name, 0, 0] for name in inputs]
    config = {"name": "model", "layers": nodes, "input_layers": refs, "output_layers": [[last, 0, 0]]}
    return {**entry, "class_name": "Functional", "config": config}


def _branches(merge: Entry, nodes: list[dict[Any, Any]], inputs: list[str]) -> str:
    """The branches of a Merge as chains of a Functional model; the name of the Merge's own layer."""
    ends = []
    for branch in merge["config"]["layers"]:
        if branch["class_name"] != "Sequential":
            raise ModelFileError(f"expected Sequential models in a Merge, got {branch['class_name']!r}")
        body = branch["config"]
        layers = body if isinstance(body, list) else body["layers"]
        if layers[0]["class_name"] == "Merge":
            last = _branches(layers[0], nodes, inputs)
        else:
            (found,) = inputs_of(branch)
            last = name_of(layers[0]) + "_input"
            shape = [None, found.time, *found.shape] if found.role == "sequence" else [None, *found.shape]
            inputs.append(last)
            nodes.append({"class_name": "InputLayer", "config": {"name": last, "batch_input_shape": shape}})
        for layer in layers[layers[0]["class_name"] == "Merge" :]:
            last = _append(nodes, translate(layer), [last])
        ends.append(last)
    return _append(nodes, translate({**merge, "config": {**merge["config"], "layers": None}}), ends)


def _append(nodes: list[dict[Any, Any]], entry: dict[Any, Any], sources: Sequence[str]) -> str:
    name = name_of(entry)
    if not any(name_of(n) == name for n in nodes):  # branches may share layers by name
        nodes.append({**entry, "inbound_nodes": []})
    (own,) = [n for n in nodes if name_of(n) == name]
    calls = own["inbound_nodes"]
    calls.append([[s, max(0, _calls(nodes, s) - 1), 0] for s in sources])
    return name


def _calls(nodes: Sequence[Entry], name: str) -> int:
    return sum(len(n.get("inbound_nodes", [])) for n in nodes if name_of(n) == name)


class Arrays1:
    """A place whose arrays are those of Keras 1, gate by gate."""

    def __init__(self, place: Place, entry: Entry | None = None) -> None:
        self._place, self._entry = place, entry

    def arrays(self) -> list[Array]:
        """See Place."""
        return self._arrays

    @cached_property
    def _arrays(self) -> list[Array]:
        found = self._place.arrays()
        entry = self._entry
        while entry is not None and entry["class_name"] == "TimeDistributed":
            entry = entry["config"]["layer"]
        if entry is None or entry.get(RAW) is None:
            return found
        kind = entry["class_name"]
        if kind not in ORDER or len(found) != 3 * GATES[kind]:
            return found  # the layer says what it expected
        gates = [found[3 * g : 3 * g + 3] for g in ORDER[kind]]
        try:
            return [frozen(np.concatenate([g[i] for g in gates], axis=-1)) for i in range(3)]
        except ValueError as e:
            raise ModelFileError(f"layer {name_of(entry)!r}: expected gates of one shape: {e}") from e

    def layers(self, entries: Sequence[Entry]) -> list[Place]:
        """See Place."""
        return [Arrays1(p, e) for p, e in zip(self._place.layers(entries), entries, strict=True)]

    def wrapped(self, entry: Entry) -> Place:
        """See Place."""
        return Arrays1(self._place.wrapped(entry), entry)
