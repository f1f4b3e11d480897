"""Saved states of streams in HDF5: docs/reference/state-files.md has both layouts on a page.

One stream of a model whose state is recurrent alone is saved as people have long saved Keras states: the root holds
nothing but datasets `states_{i}_{j}` (1, units), i the index in `model.layers`, j = 0 for h and 1 for c; the rest is
in attributes. Everything else has columns: datasets with one row for each stream.
"""

from __future__ import annotations

import io
import logging
import os
import secrets
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from stepstream.errors import StateError
from stepstream.graph.ir import Array
from stepstream.live.sliding import SlidingExecutor
from stepstream.live.state import Executor, StreamState
from stepstream.live.windowing import Windowing
from stepstream.version import __version__

if TYPE_CHECKING:
    import h5py

    from stepstream.model import Model

logger = logging.getLogger(__name__)

LAYOUT = 1  # raise it when a file of the new layout cannot be read by the old code
MAX_STATE_BYTES = 2**30
RECURRENT = {"lstm", "gru", "simple_rnn"}  # the ops whose states Keras' own layers hold in this form


def _in_recipe(model: Model, windowing: Windowing) -> bool:
    """Whether one stream's state is what the recipe saves: the recurrent layers' own, each of a layer of its own."""
    executor = model.executor
    nodes = {n.id: n for n in model.graph.nodes}
    stateful = [nodes[node] for node in dict.fromkeys(node for node, _ in executor.slots)]
    indices = {n.layer_index for n in stateful}
    return (
        windowing.on(executor)[1] is executor
        and all(n.op in RECURRENT and n.layer_index >= 0 for n in stateful)
        and len(indices) == len(stateful)
    )


def _names(model: Model) -> list[tuple[tuple[str, str], str]]:
    """((node id, slot), dataset name) in state order."""
    nodes = {n.id: n for n in model.graph.nodes}
    counters: dict[str, int] = {}
    out = []
    for node, slot in model.executor.slots:
        j = counters.get(node, 0)
        counters[node] = j + 1
        out.append(((node, slot.name), f"states_{nodes[node].layer_index}_{j}"))
    return out


def save(path: str | Path, model: Model, windowing: Windowing, state: StreamState) -> None:
    """One stream, in the Keras recipe's layout if it fits in. The old file stays whole until the new one is on disk."""
    if not _in_recipe(model, windowing):
        save_streams(path, model, windowing, {"": state})
        return

    def write(file: h5py.File) -> None:
        _describe(file, model, windowing)
        _write_stream(file, model, state)

    replace_file(path, write)


def load(path: str | Path, model: Model, windowing: Windowing) -> StreamState:
    """Raises StateError, naming both sides, where the file belongs to another model, windowing or layout."""
    if not _in_recipe(model, windowing):
        states = list(load_streams(path, model, windowing)[0].values())
        if len(states) != 1:
            raise StateError(f"{path}: expected the state of one stream, got {len(states)} streams")
        return states[0]
    with opened(path) as file:
        _check(file, model, windowing, str(path))
        return _read_stream(file, model, windowing, str(path))


def save_streams(
    path: str | Path,
    model: Model,
    windowing: Windowing,
    states: Mapping[str, StreamState],
    position: Mapping[str, int] | None = None,
) -> None:
    """Many keyed streams, and how far an input was read: position holds counts by name."""
    import h5py

    keys = list(states)
    executor = windowing.on(model.executor)[1]
    rows = np.stack([s.row for s in states.values()]) if keys else executor.initial_state(0)

    def write(file: h5py.File) -> None:
        _describe(file, model, windowing)
        for name, value in (position or {}).items():
            file.attrs[f"position_{name}"] = value
        file.create_dataset("keys", data=keys, dtype=h5py.string_dtype())
        file.create_dataset("age", data=[-1 if s.age is None else s.age for s in states.values()], dtype="<i8")
        file.create_dataset("samples", data=[s.samples for s in states.values()], dtype="<i8")
        file.create_dataset("time", data=[np.nan if s.time is None else s.time for s in states.values()], dtype="<f8")
        for name, (columns, shape) in _columns(model, executor).items():
            file.create_dataset(name, data=rows[:, columns].reshape(len(keys), *shape))

    replace_file(path, write)


def load_streams(path: str | Path, model: Model, windowing: Windowing) -> tuple[dict[str, StreamState], dict[str, int]]:
    """The states by key and the position, as `save_streams` wrote them. Raises StateError."""
    with opened(path) as file:
        if "keys" not in file or "layout" not in file.attrs:
            raise StateError(
                f"{path}: expected a state file with columns and keys, as of several streams, got one stream in the "
                "layout of the Keras recipe; use Stream.load under the windowing that wrote it"
            )
        _check(file, model, windowing, str(path))
        keys = [_text(k) for k in file["keys"][()]]
        executor = windowing.on(model.executor)[1]
        rows = executor.initial_state(len(keys))
        for name, (columns, shape) in _columns(model, executor).items():
            got = getattr(file.get(name), "shape", None)
            if got != (len(keys), *shape):
                raise StateError(f"{path}: expected {name} of shape {(len(keys), *shape)}, got {got}")
            rows[:, columns] = file[name][()].reshape(rows[:, columns].shape)
        if not np.isfinite(rows).all():
            raise StateError(f"{path}: a state holds NaN or Inf; start the streams anew")
        columns_of = {name: file[name][()] for name in ("age", "samples", "time")}
        if any(len(c) != len(keys) for c in columns_of.values()) or len(set(keys)) != len(keys):
            raise StateError(f"{path}: expected one age, time and count for each of {len(keys)} keys")
        states = {
            key: StreamState(
                rows[i],
                _age(int(age), model, windowing, str(path)),
                None if np.isnan(time) else float(time),
                int(samples),
            )
            for i, (key, age, samples, time) in enumerate(zip(keys, *columns_of.values(), strict=True))
        }
        for key, state in states.items():
            _check_count(executor, state, f"{path}, stream {key!r}")
        position = {k.removeprefix("position_"): int(v) for k, v in file.attrs.items() if k.startswith("position_")}
        return states, position


def describe(path: str | Path) -> dict[str, Any]:
    """What a state file says without its model: attributes, streams, and each slot's root mean square."""
    import h5py

    with opened(path) as file:
        if "layout" not in file.attrs and not any(name.startswith("states_") for name in file):
            raise StateError(f"{path}: expected a state file, got an HDF5 file without states")
        own = {"age", "samples", "time"}
        attributes = {
            k: v.item() if isinstance(v, np.generic) else _text(v) for k, v in file.attrs.items() if k not in own
        }
        norms: dict[str, float] = {}

        def visit(name: str, item: Any) -> None:
            if isinstance(item, h5py.Dataset) and item.dtype.kind == "f" and name != "time":
                values = np.asarray(item, np.float64)
                norms[name] = float(np.sqrt(np.mean(values * values))) if values.size else 0.0

        file.visititems(visit)
        if "keys" in file:
            rows = list(zip(*(file[n][()] for n in ("keys", "age", "samples", "time")), strict=True))
        else:
            attrs = file.attrs
            rows = [(b"", attrs.get("age", -1), attrs.get("samples", 0), attrs.get("time", np.nan))]
        streams = [
            {
                "key": _text(key),
                "age": None if age < 0 else int(age),
                "samples": int(samples),
                "time": None if np.isnan(time) else float(time),
            }
            for key, age, samples, time in rows
        ]
        return {"attributes": attributes, "streams": streams, "norms": norms}


def _columns(model: Model, executor: Executor) -> dict[str, tuple[slice, tuple[int, ...]]]:
    """Dataset name -> the slot's columns in a state row, and its shape.

    `state/{layer}/{slot}`, with the node's id for a layer that occurs twice.
    """
    layers = {n.id: n.layer for n in model.graph.nodes}
    owners = {node: layers.get(node, node) for node, _ in executor.slots}
    count = Counter(owners.values())
    names = {node: layer if count[layer] == 1 else node for node, layer in owners.items()}
    if len(set(names.values())) != len(names):  # an id that is another layer's name
        names = {node: node for node in names}
    out, at = {}, 0
    for node, slot in executor.slots:
        out[f"state/{_component(names[node])}/{slot.name}"] = (slice(at, at + slot.size), slot.shape)
        at += slot.size
    return out


def _component(name: str) -> str:
    """A layer's name as one part of an HDF5 path: no slash, not empty, not the folder itself."""
    quoted = name.replace("%", "%25").replace("/", "%2F").replace("\0", "%00")
    return "%" if not quoted else quoted.replace(".", "%2E") if set(quoted) == {"."} else quoted


def _age(age: int, model: Model, windowing: Windowing, where: str) -> int | None:
    """-1 says that nobody knows; raises StateError where somebody has to."""
    if age >= 0:
        return age
    n = model.window_length
    if windowing.needs_age or n is not None:
        counts = f"a model that flattens windows of {n} samples" if n else str(windowing)
        raise StateError(f"{where}: {counts} needs the state's age, and the file does not say it; start anew")
    return None


def _check_count(executor: Executor, state: StreamState, where: str) -> None:
    """A ring's count has to be that of its age, or an answer would have seen other samples than it says."""
    if isinstance(executor, SlidingExecutor) and state.age is not None:
        expected = executor.count(state.age)
        if state.row[-1] != expected:
            raise StateError(f"{where}: expected a count of {expected} at age {state.age}, got {state.row[-1]}")


def _describe(file: h5py.File, model: Model, windowing: Windowing) -> None:
    file.attrs["layout"] = LAYOUT
    file.attrs["stepstream"] = __version__
    file.attrs["fingerprint"] = model.fingerprint
    file.attrs["windowing"] = str(windowing.on(model.executor)[0])
    file.attrs["arithmetic"] = model.executor.arithmetic_id


def _write_stream(group: h5py.Group, model: Model, state: StreamState) -> None:
    slots = model.executor.unpack(state.row)
    for key, name in _names(model):
        group.create_dataset(name, data=slots[key][None])  # (1, units), as Keras keeps them
    group.attrs["age"] = -1 if state.age is None else state.age
    group.attrs["samples"] = state.samples
    if state.time is not None:
        group.attrs["time"] = state.time


def _check(file: h5py.File, model: Model, windowing: Windowing, where: str) -> None:
    found = file.attrs.get("layout")
    if found is None:
        return  # written by the recipe: shapes are all that can be checked
    if int(found) > LAYOUT:
        raise StateError(f"{where}: expected layout {LAYOUT} or older, got {found}; use a newer stepstream")
    for key, ours in (("fingerprint", model.fingerprint), ("windowing", str(windowing.on(model.executor)[0]))):
        theirs = _text(file.attrs.get(key, "none"))
        if theirs != ours:
            raise StateError(
                f"{where}: expected the state of {key} {ours}, got one of {theirs}; "
                f"load it with the {'model' if key == 'fingerprint' else 'windowing'} that wrote it, or start anew"
            )


def _read_stream(group: h5py.Group, model: Model, windowing: Windowing, where: str) -> StreamState:
    slots: dict[tuple[str, str], Array] = {}
    shapes = {(node, slot.name): slot.shape for node, slot in model.executor.slots}
    names = dict(_names(model))
    extra = sorted(set(group) - set(names.values()))
    if extra:
        raise StateError(f"{where}: expected {sorted(names.values())}, got {extra} too: another model's state")
    for key, name in names.items():
        expected = (1, *shapes[key])
        dataset = group.get(name)
        got = getattr(dataset, "shape", None)
        if got != expected or dataset.dtype.kind != "f":
            raise StateError(f"{where}: expected {name} to hold floats of shape {expected}, got {got}")
        value = np.asarray(dataset, np.float32)[0]
        if not np.isfinite(value).all():
            raise StateError(f"{where}: {name} holds NaN or Inf; start the stream anew")
        slots[key] = value
    age = _age(int(group.attrs.get("age", -1)), model, windowing, where)
    time = group.attrs.get("time")
    return StreamState(
        model.executor.pack(slots),
        age,
        None if time is None else float(time),
        int(group.attrs.get("samples", 0)),
    )


def replace_file(path: str | Path, write: Callable[[h5py.File], None]) -> None:
    """Write beside the target, flush to disk, then rename: a full disk or a crash leaves the old file.

    HDF5 works in memory and plain bytes go to disk, because the HDF5 library may end the process on a full disk.
    """
    import h5py

    image = io.BytesIO()
    with h5py.File(image, "w", libver="latest") as file:  # attributes above 64 KiB need the latest format
        write(file)
    target = Path(os.path.realpath(path))  # a link stays a link
    if target.exists() and not target.is_file():
        raise StateError(f"{target}: expected a file to write the state to, got something else")
    temporary = target.with_name(f".{target.name}.{secrets.token_hex(4)}")
    try:
        try:
            with open(temporary, "xb") as f:
                if target.exists():
                    temporary.chmod(target.stat().st_mode & 0o777)
                f.write(image.getbuffer())
                f.flush()
                os.fsync(f.fileno())
            os.replace(temporary, target)
        finally:
            temporary.unlink(missing_ok=True)
    except OSError as e:
        raise StateError(f"{target}: cannot be written, and is as it was: {e.strerror}") from e
    logger.debug("wrote %d bytes of state to %s", image.getbuffer().nbytes, target)


def opened(path: str | Path) -> Any:
    """The file for reading, or StateError."""
    import h5py

    try:
        if os.path.getsize(path) > MAX_STATE_BYTES:
            raise StateError(f"{path}: larger than {MAX_STATE_BYTES} bytes, which no state file is")
        return h5py.File(path, "r")
    except OSError as e:
        raise StateError(f"{path}: not a readable state file: {str(e).partition(chr(10))[0]}") from e


def _text(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)
