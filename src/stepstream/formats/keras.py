"""Keras models to graphs, without Keras: `.keras` archives, HDF5 files and models in memory.

A `.keras` file is a zip of metadata.json, config.json and model.weights.h5 (Keras 3 saving format). In the weights
file a layer is found by its class in snake case with a counter per class, never by its name.
"""

from __future__ import annotations

import json
import re
import sys
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from stepstream.errors import InputError, ModelFileError
from stepstream.formats import archive, hdf5, json_text, keras_h5, limits
from stepstream.formats.hdf5_meter import Refused
from stepstream.formats.keras_model import Weights, assemble
from stepstream.formats.reading import Provenance, Reading
from stepstream.graph.ir import Array


def read(source: Any) -> Reading:
    """A path to a `.keras` or `.h5` file (told by content), or a Keras model in memory.

    Raises ModelFileError naming the place; layers that cannot step are returned as blockers, all of them.
    """
    if hasattr(source, "get_config") and hasattr(source, "layers"):
        return _read_model(source)
    if not isinstance(source, str | Path):
        raise InputError(f"expected a path or a Keras model, got {type(source).__name__}")
    path = Path(source)
    try:
        with hdf5.regular_file(path) as f:
            head = f.read(8)
    except OSError as e:
        raise ModelFileError(f"{path}: {e.strerror or e}") from e
    if head.startswith(archive.SIGNATURE):
        return _read_archive(path)
    if head == hdf5.SIGNATURE:
        return keras_h5.read(path)
    raise ModelFileError(f"{path}: expected a .keras archive or an HDF5 file, got neither; save the model with Keras")


def _read_archive(path: Path) -> Reading:
    with archive.opened(path) as entries:
        for needed in ("config.json", "model.weights.h5"):
            if needed not in entries.names:
                raise ModelFileError(f"{path}: expected {needed} in the archive, got {sorted(entries.names)[:8]}")
        config = json_text.parse(entries.read("config.json", limits.MAX_JSON_BYTES), f"{path}: config.json")
        metadata: Mapping[str, Any] = {}
        if "metadata.json" in entries.names:
            metadata = json_text.parse(entries.read("metadata.json", limits.MAX_JSON_BYTES), f"{path}: metadata.json")
        data = entries.read("model.weights.h5", limits.MAX_WEIGHT_BYTES)
    version = str(metadata.get("keras_version", "3"))
    provenance = Provenance(".keras", f"Keras {version}", metadata.get("date_saved"))
    with hdf5.opened(data, f"{path}: model.weights.h5") as file:
        return assemble(config, _archive_weights(file), version, provenance, str(path))


def _archive_weights(file: hdf5.Group) -> Weights:
    counters: Counter[str] = Counter()

    def weights(entry: Mapping[str, Any]) -> list[Array]:
        kind = snake_case(entry["class_name"])
        place = f"layers/{kind}" + (f"_{counters[kind]}" if counters[kind] else "")
        counters[kind] += 1
        if not file.is_group(place):
            return []
        group = file.group(place)
        written = (group.group("vars") if group.has("vars") else group).attr("name")
        if written is not None and written != entry["config"].get("name"):
            raise ModelFileError(
                f"expected the weights of layer {entry['config'].get('name')!r} in {place}, got {written!r}'s"
            )
        found: list[Array] = []
        for inner in ("vars", "cell/vars", "layer/vars"):
            if group.has(inner):
                found += numbered(group.group(inner))
        return found

    return weights


def numbered(group: hdf5.Group) -> list[Array]:
    """The arrays "0", "1", ... of a group."""
    names = group.names()
    if set(names) != {str(i) for i in range(len(names))}:
        raise Refused(f"{group.path}: expected arrays 0 to {len(names) - 1}, got {', '.join(sorted(names)[:8])}")
    return [group.array(str(i)) for i in range(len(names))]


def _read_model(model: Any) -> Reading:
    bases = [c for c in type(model).__mro__ if _is_keras(c)]
    if not bases:
        raise InputError(f"expected a path or a Keras model, got {type(model).__name__}")
    version = str(getattr(sys.modules[bases[0].__module__.partition(".")[0]], "__version__", "3"))
    base = next((c for c in bases if c.__name__ in {"Sequential", "Functional"}), None)
    if base is None or type(model).call is not getattr(base, "call", None):
        raise InputError(
            f"expected a Sequential or Functional model, got {type(model).__name__}, whose layers only its code knows; "
            "rebuild it with the Functional API"
        )
    # NumPy values in configurations become plain JSON, as in a file
    config = json.loads(json.dumps({"class_name": base.__name__, "config": model.get_config()}, default=_plain))
    by_name = {layer.name: layer for layer in model.layers}
    for entry in config["config"]["layers"]:
        if entry["config"].get("name") in by_name:
            _name_own_code(by_name[entry["config"]["name"]], entry)

    def weights(entry: Mapping[str, Any]) -> list[Array]:
        layer = by_name.get(entry["config"].get("name"))
        if layer is None:
            return []
        return [np.asarray(w) for w in layer.get_weights()]

    return assemble(config, weights, version, Provenance("in memory", f"Keras {version}"), "the model")


def _is_keras(value: Any) -> bool:
    return str(getattr(value, "__module__", "")).partition(".")[0] in {"keras", "tf_keras"}


def _name_own_code(layer: Any, entry: dict[str, Any]) -> None:
    """A user's own class or activation with a standard name: a file cannot always tell it from Keras', memory can."""
    config = entry["config"]
    if not _is_keras(type(layer)):
        entry["registered_name"] = f"{type(layer).__module__}.{type(layer).__name__}"
    for key in ("activation", "recurrent_activation"):
        function = getattr(layer, key, None)
        if isinstance(config.get(key), str) and callable(function) and not _is_keras(function):
            config[key] = f"{function.__module__}.{config[key]}"
    if hasattr(layer, "layer") and isinstance(config.get("layer"), dict):
        _name_own_code(layer.layer, config["layer"])


def _plain(value: Any) -> Any:
    if isinstance(value, np.ndarray | np.generic):
        return value.tolist()
    return str(value)


def snake_case(name: str) -> str:
    """Keras' rule for class names: SimpleRNN -> simple_rnn, PReLU -> p_re_lu."""
    name = re.sub(r"\W+", "", name)
    name = re.sub("(.)([A-Z][a-z]+)", r"\1_\2", name)
    return re.sub("([a-z])([A-Z])", r"\1_\2", name).lower()
