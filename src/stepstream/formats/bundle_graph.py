"""A graph as JSON and arrays, and back: everything in it is checked before a node is made of it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from stepstream import limits
from stepstream.arrays import short
from stepstream.errors import GraphError, InputError, ModelFileError
from stepstream.graph.attach import DECISION, stray_trigger
from stepstream.graph.ir import Array, Graph, Node, TensorSpec, TimeRole, frozen_json, thawed
from stepstream.graph.validate import validate
from stepstream.ops import REGISTRY
from stepstream.ops.declared import FLAG, Kind, one_of, several, whole

TEXT = Kind("a text", lambda v: isinstance(v, str))
OBJECT = Kind("an object", lambda v: isinstance(v, Mapping))
LIST = Kind("a list", lambda v: isinstance(v, tuple))
_GRAPH = {"inputs": LIST, "nodes": LIST, "outputs": several(several(TEXT, 2))}
_INPUT = {
    "name": TEXT,
    "shape": several(whole(1, limits.MAX_VALUES)),
    "role": one_of(TimeRole.SEQUENCE, TimeRole.STATIC),
    "dtype": one_of("float32"),
}
_NODE = {
    "id": TEXT,
    "op": TEXT,
    "inputs": several(TEXT),
    "params": OBJECT,
    "weights": Kind("an object of texts", lambda v: OBJECT.fits(v) and all(isinstance(n, str) for n in v.values())),
    "layer": TEXT,
    "layer_index": whole(-1),
    "is_scale": FLAG,
}


def fields(value: Any, kinds: Mapping[str, Kind], where: str) -> dict[str, Any]:
    """The fields of a frozen JSON object, which has these and no others. Raises ModelFileError."""
    if not isinstance(value, Mapping) or set(value) != set(kinds):
        got = sorted(value) if isinstance(value, Mapping) else value
        raise ModelFileError(f"{where}: expected an object with {sorted(kinds)}, got {short(got)}")
    for name, kind in kinds.items():
        if not kind.fits(value[name]):
            raise ModelFileError(f"{where}: expected {name} to be {kind.words}, got {short(thawed(value[name]))}")
    return dict(value)


def described(graph: Graph) -> tuple[dict[str, Any], dict[str, Array]]:
    """JSON, and the weights by name, each once however many nodes share it. Raises InputError for what is too large."""
    if too_many := _too_many([len(n.inputs) for n in graph.nodes]):
        raise InputError(f"the graph: {too_many}")
    arrays: dict[str, Array] = {}
    names: dict[Any, str] = {}
    nodes = []
    for node in graph.nodes:
        weights = {}
        for name, w in sorted(node.weights.items()):
            key = (w.__array_interface__["data"][0], w.shape)  # frozen arrays are contiguous float32
            if key not in names:
                names[key] = f"weights/{node.id}/{name}"
                arrays[names[key]] = w
            weights[name] = names[key]
        nodes.append(
            {
                "id": node.id,
                "op": node.op,
                "inputs": list(node.inputs),
                "params": thawed(node.params),
                "weights": weights,
                "layer": node.layer,
                "layer_index": node.layer_index,
                "is_scale": node.is_scale,
            }
        )
    inputs = [
        {"name": name, "shape": list(spec.shape), "role": str(spec.role), "dtype": spec.dtype}
        for name, spec in graph.inputs
    ]
    return {"inputs": inputs, "nodes": nodes, "outputs": [list(o) for o in graph.outputs]}, arrays


def built(data: Any, arrays: Mapping[str, Array], where: str) -> Graph:
    """A valid graph that steps, of JSON and the arrays called weights/... Raises ModelFileError."""
    whole_graph = fields(frozen_json(data), _GRAPH, f"{where}: the graph")
    inputs = []
    for i, entry in enumerate(whole_graph["inputs"]):
        found = fields(entry, _INPUT, f"{where}: input {i}")
        inputs.append((found["name"], TensorSpec(found["shape"], TimeRole(found["role"]))))
    if not any(spec.role is TimeRole.SEQUENCE for _, spec in inputs):
        raise ModelFileError(f"{where}: expected an input with time, got {short([name for name, _ in inputs])}")
    nodes = _nodes(whole_graph["nodes"], arrays, where)
    outputs = whole_graph["outputs"]
    if len({name for name, _ in outputs}) != len(outputs):
        raise ModelFileError(f"{where}: expected outputs with different names, got {short(thawed(outputs))}")
    graph = Graph(tuple(inputs), nodes, outputs)
    try:
        validate(graph)
    except GraphError as e:
        raise ModelFileError(f"{where}: {e}") from e
    if (stray := stray_trigger(graph)) is not None:
        raise ModelFileError(
            f"{where}: node {stray!r}: expected a trigger over the only output, itself the source of a last one called "
            f"{DECISION!r} and of nothing else, got the outputs {short(thawed(outputs))}"
        )
    return graph


def _nodes(entries: tuple[Any, ...], arrays: Mapping[str, Array], where: str) -> tuple[Node, ...]:
    nodes, used, repeated = [], set[str](), 0
    if too_many := _too_many([0] * len(entries)):
        raise ModelFileError(f"{where}: {too_many}")
    checked = [fields(entry, _NODE, f"{where}: node {i}") for i, entry in enumerate(entries)]
    if too_many := _too_many([len(found["inputs"]) for found in checked]):
        raise ModelFileError(f"{where}: {too_many}")
    for entry, found in zip(entries, checked, strict=True):
        op = REGISTRY.get(found["op"])
        if op is not None and not op.steps:
            raise ModelFileError(f"{where}: node {found['id']!r}: expected an op that steps, got {op.name!r}")
        if missing := [name for name in found["weights"].values() if name not in arrays]:
            raise ModelFileError(f"{where}: node {found['id']!r}: expected its weights, got no {missing[0]!r}")
        found["weights"] = {name: arrays[array] for name, array in found["weights"].items()}
        again = [name for name in entry["weights"].values() if name in used]
        repeated += sum(arrays[name].nbytes for name in again)
        used.update(entry["weights"].values())
        if repeated > limits.MAX_REPEATED_BYTES:
            raise ModelFileError(f"{where}: expected nodes to share fewer weights, got many times what the file holds")
        nodes.append(Node(**found))
    if unused := set(arrays) - used:
        raise ModelFileError(f"{where}: expected a node for all weights, got none for {min(unused)!r}")
    return tuple(nodes)


def _too_many(inputs: list[int]) -> str | None:
    """What is too much of a graph whose nodes have so many inputs."""
    if len(inputs) > limits.MAX_NODES or sum(inputs) > limits.MAX_NODE_INPUTS:
        most = f"{limits.MAX_NODES} nodes with {limits.MAX_NODE_INPUTS} inputs in all"
        return f"expected at most {most}, got {len(inputs)} with {sum(inputs)}"
    return None
