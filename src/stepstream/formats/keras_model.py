"""A Keras model's configuration and its weights to a graph: what all Keras formats share. Data in, data out."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from stepstream.errors import GraphError, ModelFileError
from stepstream.formats.keras_layers import Blocked, Layer, convert, refuse_custom
from stepstream.formats.reading import LayerInfo, Provenance, Reading
from stepstream.graph.ir import Array, Graph, Node, TensorSpec, TimeRole
from stepstream.graph.streamable import Blocker
from stepstream.graph.validate import validate

Weights = Callable[[Mapping[str, Any]], list[Array]]  # layer entry -> arrays, in the order of the file


def parse_json(data: bytes | str, where: str) -> Any:
    try:
        value = json.loads(data)
    except (ValueError, RecursionError) as e:
        raise ModelFileError(f"{where}: not valid JSON: {e}") from e
    if not isinstance(value, dict):
        raise ModelFileError(f"{where}: expected a JSON object, got {type(value).__name__}")
    return value


def assemble(config: Mapping[str, Any], weights: Weights, version: str, provenance: Provenance, where: str) -> Reading:
    """A model configuration and a way to find weights -> Reading. Shared by all Keras formats."""
    try:
        return _assemble(config, weights, version, provenance)
    except (KeyError, TypeError, IndexError, AttributeError) as e:
        raise ModelFileError(f"{where}: the model configuration is incomplete or not understood: {e!r}") from e
    except ModelFileError as e:
        raise ModelFileError(f"{where}: {e}") from e
    except GraphError as e:
        raise ModelFileError(f"{where}: {e}") from e


def _assemble(config: Mapping[str, Any], weights: Weights, version: str, provenance: Provenance) -> Reading:
    keras = int(version.partition(".")[0])
    kind, body = config["class_name"], config["config"]
    entries = body if isinstance(body, list) else body["layers"]
    blockers: list[Blocker] = []
    if kind == "Sequential":
        sources, outputs = _chain(entries), None
    elif kind in {"Functional", "Model"}:
        sources, outputs = _functional(body, blockers)
    else:
        raise ModelFileError(f"expected a Sequential or Functional model, got {kind!r}")

    shape = _input_shape(body, entries)
    embeds = any(e["class_name"] == "Embedding" for e in entries)
    notes: list[str] = []
    input_name, spec, rank = _input(entries, shape, embeds, blockers)
    rank_in = rank
    roles: dict[str, tuple[TimeRole, int]] = {input_name: (TimeRole.SEQUENCE, rank)}
    nodes: list[Node] = []
    index, stateful, policies = -1, False, set()
    for entry in entries:
        name = entry["config"]["name"]
        inner = entry["config"]
        policies.add(_policy(inner.get("dtype")))
        arrays = weights(entry)
        if entry["class_name"] == "InputLayer":
            index += kind != "Sequential"  # Sequential.layers leaves it out
            continue
        index += 1
        source = sources.get(name) or input_name
        role, rank = roles.get(source, (TimeRole.SEQUENCE, 3))
        stateful |= bool(inner.get("stateful"))
        layer = Layer(entry["class_name"], name, inner, keras, role, rank, arrays)
        try:
            if _policy(inner.get("dtype")).startswith(("int8", "int4", "float8")):
                raise layer.block("its weights are quantised", "save the model before quantising it")
            refuse_custom(layer, entry)
            op, params, named = convert(layer)
        except Blocked as e:
            if not any(b.layer == name for b in blockers):
                blockers.append(e.blocker)
            roles[name] = (role, rank)
            continue
        if op in {"lstm", "gru", "simple_rnn"} and not params["return_sequences"]:
            roles[name] = (TimeRole.LATEST, 2)
        else:
            roles[name] = (role, 3 if op == "embedding" else rank)
        nodes.append(Node(name, op, (source,), params, named, name, index))
    for policy in sorted(policies - {"float32", "int32", "int64", ""}):
        notes.append(f"the file's {policy} policy runs in float32")
    layers = tuple(LayerInfo(e["config"]["name"], e["class_name"]) for e in entries)
    length = None if shape is None or stateful else shape[1]
    length = length if isinstance(length, int) and length > 1 and rank_in == 3 - embeds else None
    if blockers:
        return Reading(None, layers, tuple(blockers), length, provenance, tuple(notes))
    outputs = outputs or [entries[-1]["config"]["name"]]
    graph = Graph(((input_name, spec),), tuple(nodes), tuple((o, o) for o in outputs))
    validate(graph)
    return Reading(graph, layers, (), length, provenance, tuple(notes))


def _chain(entries: list[Any]) -> dict[str, str]:
    names = [e["config"]["name"] for e in entries]
    return dict(zip(names[1:], names[:-1], strict=True))


def _functional(body: Mapping[str, Any], blockers: list[Blocker]) -> tuple[dict[str, str], list[str]]:
    sources: dict[str, str] = {}
    for entry in body["layers"]:
        name, kind = entry["config"]["name"], entry["class_name"]
        calls = entry.get("inbound_nodes", [])
        if kind == "InputLayer":
            continue
        found = [list(_tensors(call)) for call in calls]
        reason = None
        if len(calls) != 1:
            reason = f"it is called {len(calls)} times; shared layers are not supported"
        elif len(found[0]) != 1:
            reason = f"it takes {len(found[0])} tensors; merging branches is not supported"
        elif options := _options(calls[0]):
            reason = f"it is called with {', '.join(options)}, which only its training or its code can answer"
        if reason:
            blockers.append(Blocker(name, kind, reason, "rebuild the model as one chain of layers from one input"))
        if found and found[0]:
            sources[name] = found[0][0]
    outputs = body["output_layers"]
    outputs = [outputs] if isinstance(outputs[0], str) else outputs
    outputs = list(outputs.values()) if isinstance(outputs, dict) else outputs
    return sources, [o[0] for o in outputs]


def _tensors(call: Any) -> Iterator[str]:
    """The layers whose outputs a call takes: Keras 3 writes objects, Keras 2 writes [name, node, tensor, kwargs]."""
    if isinstance(call, Mapping):
        if call.get("class_name") == "__keras_tensor__":
            yield call["config"]["keras_history"][0]
        else:
            for value in call.values():
                yield from _tensors(value)
    elif isinstance(call, list):
        if len(call) >= 3 and isinstance(call[0], str) and isinstance(call[1], int):
            yield call[0]
            yield from _tensors(call[3:])
        else:
            for value in call:
                yield from _tensors(value)


def _options(call: Any) -> list[str]:
    """Keyword arguments of a call that change what a layer does, such as training=True."""
    if isinstance(call, Mapping):
        options = call.get("kwargs", {})
    else:
        options = call[0][3] if isinstance(call[0], list) and len(call[0]) > 3 else {}
    return [f"{key}={value!r}" for key, value in options.items() if value is not None and value is not False]


def _input_shape(body: Any, entries: list[Any]) -> list[int | None] | None:
    for entry in entries[:1]:
        shape = entry["config"].get("batch_shape") or entry["config"].get("batch_input_shape")
        if shape is not None:
            return list(shape)
    built = body.get("build_input_shape") if isinstance(body, Mapping) else None
    return None if built is None else list(built)


def _input(
    entries: list[Any], shape: list[int | None] | None, embeds: bool, blockers: list[Blocker]
) -> tuple[str, TensorSpec, int]:
    first = entries[0]
    is_input = first["class_name"] == "InputLayer"
    name = first["config"]["name"] if is_input else "input"
    inputs = [e["config"]["name"] for e in entries if e["class_name"] == "InputLayer"]
    for extra in inputs[1:]:
        blockers.append(
            Blocker(extra, "InputLayer", "several inputs are not supported", "rebuild the model with one input")
        )
    if shape is None:
        raise ModelFileError(
            "the model was saved before it was built: its input shape is unknown; call it once and save"
        )
    if embeds and len(shape) == 2:
        return name, TensorSpec((1,), TimeRole.SEQUENCE), 2
    if len(shape) != 3 or shape[2] is None:
        blockers.insert(
            0,
            Blocker(
                name,
                "InputLayer",
                f"expected an input (batch, time, features), got {tuple(shape)}",
                "feed samples with a time axis and a known number of features; rebuild or retrain",
            ),
        )
        return name, TensorSpec((shape[-1] or 1,), TimeRole.SEQUENCE), len(shape)
    return name, TensorSpec((shape[2],), TimeRole.SEQUENCE), 3


def _policy(dtype: Any) -> str:
    if isinstance(dtype, Mapping):
        dtype = dtype.get("config", {}).get("name", "")
    return dtype if isinstance(dtype, str) else ""
