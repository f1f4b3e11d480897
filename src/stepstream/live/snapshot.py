"""The saved state of a stream in HDF5: docs/reference/state-files.md has both layouts on a page.

One stream of a model whose state is recurrent alone is saved as people have long saved Keras states: the root holds
nothing but datasets `states_{i}_{j}` (1, units), i the index in `model.layers`, j = 0 for h and 1 for c; the rest is
in attributes. Everything else has columns: datasets with one row for each stream.
"""

from __future__ import annotations

import io
import logging
import math
import os
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from stepstream import limits
from stepstream.errors import StateError
from stepstream.formats import files, hdf5
from stepstream.formats.files import path_of
from stepstream.formats.hdf5 import Group
from stepstream.graph.ir import Array
from stepstream.live.decision import wrong_decision
from stepstream.live.sliding import Recompute, SlidingExecutor, States
from stepstream.live.state import Executor, StreamState
from stepstream.live.windowing import Windowing
from stepstream.version import __version__

if TYPE_CHECKING:
    import h5py

    from stepstream.model import Model

logger = logging.getLogger(__name__)

MAX_COUNT = 2**62  # samples: a file holds them in 64 bits, and there is room to go on
LAYOUT = 1  # raise it when a file of the new layout cannot be read by the old code
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
        and all(slot.name in {"h", "c"} for _, slot in executor.slots)
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
        save_columns(path, model, windowing, state)
        return

    def write(file: h5py.File) -> None:
        _describe(file, model, windowing)
        _write_stream(file, model, state)

    replace_file(path, write)


def load(path: str | Path, model: Model, windowing: Windowing) -> StreamState:
    """Raises StateError, naming both sides, where the file belongs to another model, windowing or layout."""
    if not _in_recipe(model, windowing):
        return load_columns(path, model, windowing)
    with opened(path) as file:
        _check(file, model, windowing, str(path))
        return _read_stream(file, model, windowing, str(path))


def save_columns(path: str | Path, model: Model, windowing: Windowing, state: StreamState) -> None:
    """One stream, each of its values a column with one row; its key is empty."""
    import h5py

    executor = windowing.on(model.executor)[1]

    def write(file: h5py.File) -> None:
        _describe(file, model, windowing)
        file.create_dataset("keys", data=[""], dtype=h5py.string_dtype())
        file.create_dataset("age", data=[-1 if state.age is None else state.age], dtype="<i8")
        file.create_dataset("samples", data=[state.samples], dtype="<i8")
        file.create_dataset("time", data=[np.nan if state.time is None else state.time], dtype="<f8")
        for name, (columns, shape) in _columns(model, executor).items():
            file.create_dataset(name, data=state.row[columns].reshape(1, *shape))

    replace_file(path, write)


def load_columns(path: str | Path, model: Model, windowing: Windowing) -> StreamState:
    """The inverse; raises StateError."""
    with opened(path) as file:
        if not file.has("keys") or file.attr("layout") is None:
            raise StateError(
                f"{path}: expected a state file with columns, got one in the layout of the Keras recipe; load it under "
                "the windowing that wrote it"
            )
        _check(file, model, windowing, str(path))
        keys, ages, samples, times = _streams(file, str(path))
        if len(keys) != 1:
            raise StateError(f"{path}: expected the state of one stream, got {len(keys)} streams")
        executor = windowing.on(model.executor)[1]
        columns_of = _columns(model, executor)
        for name, (_, shape) in columns_of.items():
            expected = (1, *shape)
            dataset = file.dataset(name)
            if dataset is None or dataset.shape != expected or dataset.kind != "f":
                raise StateError(f"{path}: expected {name} to hold floats of shape {expected}, got {dataset}")
        row = executor.initial_state(1)[0]
        for name, (columns, _) in columns_of.items():
            row[columns] = file.array(name).reshape(-1)
        if not np.isfinite(row).all():
            raise StateError(f"{path}: the state holds NaN or Inf; start the stream anew")
        state = StreamState(row, _age(ages[0], model, windowing, str(path)), times[0], samples[0])
        if wrong := wrong_count(model, executor, state):
            raise StateError(f"{path}: {wrong}")
        return state


def is_ours(path: str | Path) -> bool:
    """Whether a file is a state that stepstream wrote."""
    try:
        with opened(path) as file:
            return file.attr("layout") is not None and file.attr("fingerprint") is not None
    except StateError:
        return False


def describe(path: str | Path) -> dict[str, Any]:
    """What a state file says without its model: attributes, streams, and each slot's root mean square."""
    with opened(path) as file:
        if file.attr("layout") is None and not any(name.startswith("states_") for name in file.names()):
            raise StateError(f"{path}: expected a state file, got an HDF5 file without states")
        own = {"age", "samples", "time"}
        attributes = {name: file.attr(name) for name in file.attr_names() if name not in own}
        norms: dict[str, float] = {}
        for name in file.datasets():
            dataset = file.dataset(name)
            if name != "time" and dataset is not None and dataset.kind == "f":
                values = np.asarray(file.raw(name), np.float64)
                with np.errstate(over="ignore"):
                    norms[name] = float(np.sqrt(np.mean(values * values))) if values.size else 0.0
        if file.has("keys"):
            columns = _streams(file, str(path))
        else:
            age, samples = _count(file, "age", str(path), -1), _count(file, "samples", str(path), 0)
            columns = [""], [age], [samples], [_time(file, str(path))]
        streams = [
            {"key": key, "age": None if age < 0 else age, "samples": samples, "time": time}
            for key, age, samples, time in zip(*columns, strict=True)
        ]
        return {"attributes": attributes, "streams": streams, "norms": norms}


def _streams(file: Group, where: str) -> tuple[list[str], list[int], list[int], list[float | None]]:
    """Keys, ages (-1: nobody knows), sample counts and times of a file with columns."""
    columns = []
    for name, kind in (("keys", "S"), ("age", "i"), ("samples", "i"), ("time", "f")):
        dataset = file.dataset(name)
        if dataset is None or len(dataset.shape) != 1 or (dataset.kind != kind and dataset.shape != (0,)):
            raise StateError(f"{where}: expected {name} to hold one value for each stream, got {dataset}")
        columns.append(file.raw(name).tolist())
    keys, ages, samples, times = columns
    if any(len(c) != len(keys) for c in columns) or len(set(keys)) != len(keys):
        raise StateError(f"{where}: expected one age, time and count for each of {len(keys)} different keys")
    if min(ages, default=0) < -1 or min(samples, default=0) < 0 or max([*ages, *samples], default=0) > MAX_COUNT:
        raise StateError(f"{where}: expected ages and counts from 0 to {MAX_COUNT}, got others")
    if any(math.isinf(t) for t in times):
        raise StateError(f"{where}: expected finite times, got others")
    return keys, ages, samples, [None if math.isnan(t) else t for t in times]


def _count(file: Group, name: str, where: str, default: int | None = None) -> int:
    """An attribute that counts; -1 only where the default says so."""
    value = file.attr(name)
    value = default if value is None else value
    if not isinstance(value, int) or not min(default or 0, 0) <= value <= MAX_COUNT:
        raise StateError(f"{where}: expected {name} to be a whole number from 0 to {MAX_COUNT}, got {value!r}")
    return value


def _time(file: Group, where: str) -> float | None:
    value = file.attr("time")
    if value is not None and (not isinstance(value, int | float) or not math.isfinite(value)):
        raise StateError(f"{where}: expected time to be a finite number, got {value!r}")
    return None if value is None else float(value)


def owners(model: Model, executor: Executor) -> dict[str, str]:
    """Node id -> the name under which its state goes: its layer's, or its own for a layer that occurs twice."""
    layers = {n.id: n.layer for n in model.graph.nodes}
    owners = {node: layers.get(node, node) for node, _ in executor.slots}
    count = Counter(owners.values())
    names = {node: layer if count[layer] == 1 else node for node, layer in owners.items()}
    if len(set(names.values())) != len(names):  # an id that is another layer's name
        return {node: node for node in names}
    return names


def _columns(model: Model, executor: Executor) -> dict[str, tuple[slice, tuple[int, ...]]]:
    """Dataset name, `state/{owner}/{slot}` -> the slot's columns in a state row, and its shape."""
    names = owners(model, executor)
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


def wrong_count(model: Model, executor: Executor, state: StreamState) -> str | None:
    """What is wrong where a ring's count, a place in a flattened window or in a calibration is not that of the age, or
    a trigger's state is none.

    An answer would have seen other samples than it says.
    """
    age, slots = state.age, executor.unpack(state.row)
    if wrong := wrong_decision(model, slots):
        return wrong
    if age is None:
        return None
    expected: dict[tuple[str, str], Any] = {}
    if isinstance(executor, SlidingExecutor):
        expected[executor.slots[-1][0], "count"] = executor.count(age)
    if not isinstance(executor, Recompute):  # which keeps samples alone
        place = executor.ages(age) if isinstance(executor, States) else age
        for node in model.graph.nodes:
            if node.op == "position":
                expected[node.id, "count"] = place
            elif node.op in {"calibrate", "trigger"}:
                expected[node.id, "count"] = np.minimum(place, len(next(iter(node.weights.values()))))
    for key, counts in expected.items():
        for count, found in zip(np.ravel(counts), slots[key].flat, strict=True):
            if count != found:
                return f"expected a count of {count} at age {age}, got {found}"
    return None


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


def _check(file: Group, model: Model, windowing: Windowing, where: str) -> None:
    if file.attr("layout") is None:
        return  # written by the recipe: shapes are all that can be checked
    found = _count(file, "layout", where)
    if found > LAYOUT:
        raise StateError(f"{where}: expected layout {LAYOUT} or older, got {found}; use a newer stepstream")
    for key, ours in (("fingerprint", model.fingerprint), ("windowing", str(windowing.on(model.executor)[0]))):
        theirs = str(file.attr(key) or "none")[:200]
        if theirs != ours:
            raise StateError(
                f"{where}: expected the state of {key} {ours}, got one of {theirs}; "
                f"load it with the {'model' if key == 'fingerprint' else 'windowing'} that wrote it, or start anew"
            )


def _read_stream(file: Group, model: Model, windowing: Windowing, where: str) -> StreamState:
    slots: dict[tuple[str, str], Array] = {}
    shapes = {(node, slot.name): slot.shape for node, slot in model.executor.slots}
    names = dict(_names(model))
    extra = sorted(set(file.names()) - set(names.values()))
    if extra:
        raise StateError(f"{where}: expected {sorted(names.values())}, got {extra[:8]} too: another model's state")
    for key, name in names.items():
        expected = (1, *shapes[key])
        dataset = file.dataset(name)
        if dataset is None or dataset.shape != expected or dataset.kind != "f":
            raise StateError(f"{where}: expected {name} to hold floats of shape {expected}, got {dataset}")
        value = file.array(name)[0]
        if not np.isfinite(value).all():
            raise StateError(f"{where}: {name} holds NaN or Inf; start the stream anew")
        slots[key] = value
    return StreamState(
        model.executor.pack(slots),
        _age(_count(file, "age", where, -1), model, windowing, where),
        _time(file, where),
        _count(file, "samples", where, 0),
    )


def replace_file(path: str | Path, write: Callable[[h5py.File], None]) -> None:
    """HDF5 works in memory and plain bytes go to disk, because the HDF5 library may end the process on a full disk."""
    import h5py

    target = os.path.realpath(path_of(path, "a state file"))
    image = io.BytesIO()
    with h5py.File(image, "w", libver="latest") as file:  # attributes above 64 KiB need the latest format
        write(file)
    try:
        files.replace_file(target, [image.getbuffer()])
    except OSError as e:
        raise StateError(f"{target}: cannot be written, and is as it was: {e.strerror or e}") from e
    logger.debug("wrote %d bytes of state to %s", image.getbuffer().nbytes, target)


@contextmanager
def opened(path: str | Path) -> Iterator[Group]:
    """The file for reading; all that is wrong with it becomes StateError."""
    where = f"{path}: not a readable state file"
    with hdf5.opened(path_of(path, "a state file"), where, StateError, limits.MAX_STATE_BYTES) as file:
        yield file
