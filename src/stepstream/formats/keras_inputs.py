"""What goes into a Keras model: which inputs are streams, of what shape.

An input of three axes or more is a stream, (batch, time, ...). One of two axes is a stream of indices, (batch, time),
where it goes into an Embedding, and otherwise has no time and accompanies every sample. Beside other streams (batch, 1)
into an Embedding has no time either, and beside streams of samples nor has (batch, n) where n is not their length: it
holds n categories. Where n is their length it is taken for a stream.

Facts. The shape is `batch_shape` of the input layer (Keras 3), `batch_input_shape` of it or of the first layer (Keras 1
and 2), `build_input_shape` of a Sequential model, or made of `input_dim` and `input_length` (Keras 1). A Sequential
model of Keras 3 that nobody gave a shape writes that of its first data as `build_input_shape`, batch size included.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from stepstream.errors import ModelFileError
from stepstream.formats import keras_calls
from stepstream.formats.keras_places import MODELS, name_of
from stepstream.graph.ir import TimeRole

Entry = Mapping[str, Any]


@dataclass(frozen=True)
class Input:
    """shape: of one sample; unknown: whether the file leaves an axis open that a sample must have.

    guessed: whether the shape seems to be that of the first data, not one that somebody gave. note: what was assumed.
    """

    name: str
    shape: tuple[int, ...]
    role: TimeRole
    time: int | None
    shape_text: str
    unknown: bool = False
    guessed: bool = False
    note: str | None = None


def inputs_of(config: Entry) -> list[Input]:
    """The inputs of a model, in its order. Raises ModelFileError."""
    body = config["config"]
    if config["class_name"] == "Sequential" or isinstance(body, list):
        entries = body if isinstance(body, list) else body["layers"]
        first = entries[0]
        shape = _first_shape(first)
        built = body.get("build_input_shape") if isinstance(body, Mapping) else None
        guessed = built is not None and (shape is None or built[0] is not None)
        name = name_of(first) if first["class_name"] == "InputLayer" else "input"
        only = _input(name, built if shape is None else shape, _starts_with_embedding(config))
        found = [replace(only, guessed=guessed)]
    else:
        by_name = {name_of(e): e for e in body["layers"]}
        fed = _fed(body)
        found = []
        for ref in keras_calls.refs(keras_calls.structure(body["input_layers"])):
            if ref.layer not in by_name:
                raise ModelFileError(f"expected an input layer {ref.layer!r}, got none")
            found.append(_input(ref.layer, _first_shape(by_name[ref.layer]), ref.layer in fed))
    if not found or len({i.name for i in found}) != len(found):
        raise ModelFileError("expected inputs with names of their own")
    others = [i for i in found if i.role is TimeRole.SEQUENCE and (i.shape or i.time != 1)]
    lengths = {i.time for i in others if i.shape}
    return [_beside(i, bool(others), lengths) if i.role is TimeRole.SEQUENCE and not i.shape else i for i in found]


def _beside(indices: Input, others: bool, lengths: set[int | None]) -> Input:
    """An input of indices, with time or without. others: other streams; lengths: of the streams of samples."""
    n, name = indices.time, indices.name
    if n is None or not others or (n != 1 and not lengths):
        return indices
    if n != 1 and n in lengths:
        note = (
            f"input {name!r} of {n} indices is taken for a stream, as long as the one beside it; if it has no time, "
            "rebuild the model with the stream's length open"
        )
        return replace(indices, note=note)
    note = (
        f"input {name!r} of {n} indices is taken to have no time, as the stream beside it has no fixed length; if it "
        "is a stream too, rebuild the model with its length open"
    )
    static = replace(indices, role=TimeRole.STATIC, shape=(n,), time=None)
    return replace(static, note=note) if n != 1 and None in lengths else static


def _first_shape(entry: Entry) -> Any:
    """The shape that a layer, or the first layer of a model inside, says of its input; None where it does not."""
    config = entry["config"]
    if entry["class_name"] in MODELS:
        inner = config if isinstance(config, list) else config["layers"]
        shape = _first_shape(inner[0]) if inner else None
        return config.get("build_input_shape") if shape is None and isinstance(config, Mapping) else shape
    for key in ("batch_shape", "batch_input_shape"):
        if config.get(key) is not None:
            return config[key]
    if isinstance(config.get("input_dim"), int) and "output_dim" in config and entry["class_name"] != "Embedding":
        timed = entry["class_name"] in {"LSTM", "GRU", "SimpleRNN", "TimeDistributedDense"}
        return [None, config.get("input_length"), config["input_dim"]] if timed else [None, config["input_dim"]]
    if entry["class_name"] == "Embedding":
        length = config.get("input_length")
        return [None, length if isinstance(length, int) else None]
    return None


def _input(name: str, shape: Any, indices: bool) -> Input:
    if shape is None:
        raise ModelFileError(
            "the model was saved before it was built: its input shape is unknown; call it once and save"
        )
    sizes = list(shape)
    if len(sizes) < 2 or any(n is not None and (isinstance(n, bool) or not isinstance(n, int) or n < 1) for n in sizes):
        raise ModelFileError(f"input {name!r}: expected a shape (batch, time, features), got {shape!r}")
    text = str(tuple(sizes))
    if len(sizes) == 2 and indices:
        return Input(name, (), TimeRole.SEQUENCE, sizes[1], text)
    if len(sizes) == 2:
        return Input(name, (sizes[1] or 1,), TimeRole.STATIC, None, text, sizes[1] is None)
    inner = tuple(n or 1 for n in sizes[2:])
    return Input(name, inner, TimeRole.SEQUENCE, sizes[1], text, None in sizes[2:])


def _starts_with_embedding(entry: Entry) -> bool:
    """Whether a model's input goes into an Embedding."""
    if entry["class_name"] == "Embedding":
        return True
    if entry["class_name"] not in MODELS:
        return False
    body = entry["config"]
    if entry["class_name"] == "Sequential" or isinstance(body, list):
        entries = body if isinstance(body, list) else body["layers"]
        first = next((e for e in entries if e["class_name"] != "InputLayer"), None)
        return first is not None and _starts_with_embedding(first)
    return bool(_fed(body))


def _fed(body: Entry) -> set[str]:
    """The layers of a Functional model whose outputs go into an Embedding."""
    return {ref.layer for e in body["layers"] if _starts_with_embedding(e) for ref in _sources(e)}


def _sources(entry: Entry) -> Iterator[keras_calls.Ref]:
    calls: Sequence[Any] = entry.get("inbound_nodes") or []
    for call in calls:
        yield from keras_calls.refs(keras_calls.parse(call).args)
