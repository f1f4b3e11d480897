"""How layers of a Functional model are called: arguments with references to tensors, in the form of each generation.

Facts. Keras 3 writes {"args", "kwargs"} with tensors as objects; earlier ones [name, call, tensor, kwargs] for each
tensor (Keras 1 without kwargs), and ["_CONSTANT_VALUE", -1, value] for a constant. Before Keras 3 the calls of a model
inside a model count from 1; Keras 3 does so in `output_layers` alone, for Functional ones, and up to 3.2 counts calls
that are not in the file.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

from stepstream.errors import ModelFileError
from stepstream.formats.keras_places import MODELS

Entry = Mapping[str, Any]


class Ref(NamedTuple):
    """The tensor-th output of a layer's call-th call."""

    layer: str
    call: int
    tensor: int


class Call(NamedTuple):
    """Arguments, in which Refs stand for tensors."""

    args: list[Any]
    kwargs: dict[str, Any]


def parse(call: Any) -> Call:
    """One of `inbound_nodes`. Raises ModelFileError."""
    if isinstance(call, Mapping) and "args" in call:
        args, kwargs = _objects(call["args"]), _objects(call.get("kwargs") or {})
        if not isinstance(args, list) or not isinstance(kwargs, dict):
            raise ModelFileError(f"expected arguments of a call, got {str(call)[:80]}")
        return Call(args, kwargs)
    if isinstance(call, Mapping):  # tf.keras: inputs by name
        return Call([{k: _listed(v) for k, v in call.items()}], {})
    if not isinstance(call, list) or not call:
        raise ModelFileError(f"expected arguments of a call, got {str(call)[:80]}")
    tensors = [call] if isinstance(call[0], str) else call
    options = tensors[0][3] if len(tensors[0]) > 3 else {}
    found = [_listed(t) for t in tensors]
    return Call([found[0] if len(found) == 1 else found], {k: _nested(v) for k, v in (options or {}).items()})


def _objects(value: Any) -> Any:
    """Keras 3's objects."""
    if isinstance(value, Mapping):
        if value.get("class_name") == "__keras_tensor__":
            return _ref(value["config"]["keras_history"])
        if value.get("class_name") in {"__numpy__", "__tensor__"}:
            return value
        return {k: _objects(v) for k, v in value.items()}
    return [_objects(v) for v in value] if isinstance(value, list) else value


def _listed(value: Any) -> Any:
    if isinstance(value, list) and value and value[0] == "_CONSTANT_VALUE":
        return value[2]
    return _ref(value)


def _nested(value: Any) -> Any:
    """A keyword argument of Keras 2: it may hold tensors as [name, call, tensor]."""
    if isinstance(value, list):
        if len(value) >= 3 and isinstance(value[0], str) and all(isinstance(n, int) for n in value[1:3]):
            return _listed(value)
        return [_nested(v) for v in value]
    return value


def _ref(value: Any) -> Ref:
    fits = isinstance(value, list) and len(value) >= 3 and isinstance(value[0], str)
    if not fits or any(isinstance(n, bool) or not isinstance(n, int) or n < 0 for n in value[1:3]):
        raise ModelFileError(f"expected a tensor as [layer, call, output], got {str(value)[:80]}")
    return Ref(*value[:3])


def refs(value: Any) -> Iterator[Ref]:
    """All references in a structure, in Keras' order: dictionaries by key."""
    if isinstance(value, Ref):
        yield value
    elif isinstance(value, Mapping):
        if value.get("class_name") not in {"__numpy__", "__tensor__"}:
            for key in sorted(value):
                yield from refs(value[key])
    elif isinstance(value, list):
        for v in value:
            yield from refs(v)


def replace_refs(value: Any, by: Callable[[Ref], Any]) -> Any:
    """The structure with something else in the place of each reference."""
    if isinstance(value, Ref):
        return by(value)
    if isinstance(value, Mapping) and value.get("class_name") not in {"__numpy__", "__tensor__"}:
        return {k: replace_refs(v, by) for k, v in value.items()}
    return [replace_refs(v, by) for v in value] if isinstance(value, list) else value


def structure(value: Any) -> Any:
    """`input_layers` or `output_layers`: one tensor, a list or a dictionary of them, nested."""
    if isinstance(value, Mapping):
        return {k: structure(v) for k, v in value.items()}
    if isinstance(value, list) and value and isinstance(value[0], str):
        return _ref(value)
    if isinstance(value, list):
        return [structure(v) for v in value]
    raise ModelFileError(f"expected tensors, got {str(value)[:80]}")


def renumber(entry: Entry, calls: int, seen: list[int], keras: int) -> Callable[[int, bool], int]:
    """How to read the call numbers that point at a layer: (number, from output_layers?) -> index among its calls."""
    inner = entry["class_name"] in MODELS
    beyond = max(0, max(seen, default=0) - (calls - 1))

    def read(number: int, output: bool) -> int:
        if calls == 1:
            return 0
        if keras < 3:
            return number - inner
        if output:
            return number - (entry["class_name"] == "Functional")
        return number - beyond

    return read
