"""Keras models to graphs, without Keras: `.keras` archives, HDF5 files and models in memory.

A `.keras` file is a zip of metadata.json, config.json and model.weights.h5 (Keras 3 saving format). In the weights
file a layer is found by its class in snake case with a counter per class, never by its name.
"""

from __future__ import annotations

import io
import json
import re
import sys
import zipfile
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from stepstream.errors import InputError, ModelFileError
from stepstream.formats import keras_h5
from stepstream.formats.hdf5 import weight
from stepstream.formats.keras_model import Weights, assemble, parse_json
from stepstream.formats.reading import Provenance, Reading
from stepstream.graph.ir import Array

MAX_JSON_BYTES = 64 * 2**20


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
        with path.open("rb") as f:
            head = f.read(8)
    except OSError as e:
        raise ModelFileError(f"{path}: {e.strerror}") from e
    if head.startswith(b"PK\x03\x04"):
        return _read_archive(path)
    if head.startswith(b"\x89HDF\r\n\x1a\n"):
        return keras_h5.read(path)
    raise ModelFileError(f"{path}: expected a .keras archive or an HDF5 file, got neither; save the model with Keras")


def _read_archive(path: Path) -> Reading:
    import h5py

    try:
        with zipfile.ZipFile(path) as archive:
            names = set(archive.namelist())
            for needed in ("config.json", "model.weights.h5"):
                if needed not in names:
                    raise ModelFileError(f"{path}: expected {needed} in the archive, got {sorted(names)[:8]}")
            if archive.getinfo("config.json").file_size > MAX_JSON_BYTES:
                raise ModelFileError(f"{path}: config.json is larger than {MAX_JSON_BYTES} bytes")
            config = parse_json(archive.read("config.json"), f"{path}: config.json")
            metadata = (
                parse_json(archive.read("metadata.json"), f"{path}: metadata.json") if "metadata.json" in names else {}
            )
            data = archive.read("model.weights.h5")
    except (zipfile.BadZipFile, OSError, RuntimeError, NotImplementedError) as e:
        raise ModelFileError(f"{path}: not a readable zip archive: {e}") from e
    version = str(metadata.get("keras_version", "3"))
    provenance = Provenance(".keras", f"Keras {version}", metadata.get("date_saved"))
    try:
        with h5py.File(io.BytesIO(data), "r") as file:
            return assemble(config, _archive_weights(file, str(path)), version, provenance, str(path))
    except OSError as e:
        raise ModelFileError(f"{path}: model.weights.h5 is not a readable HDF5 file: {e}") from e


def _archive_weights(file: Any, where: str) -> Weights:
    counters: Counter[str] = Counter()

    def weights(entry: Mapping[str, Any]) -> list[Array]:
        kind = snake_case(entry["class_name"])
        place = f"layers/{kind}" + (f"_{counters[kind]}" if counters[kind] else "")
        counters[kind] += 1
        if place not in file:
            return []
        written = file[place].get("vars", file[place]).attrs.get("name")
        if written is not None and written != entry["config"].get("name"):
            raise ModelFileError(
                f"{where}: expected the weights of layer {entry['config'].get('name')!r} in {place}, got {written!r}'s"
            )
        found: list[Array] = []
        for inner in ("vars", "cell/vars", "layer/vars"):
            group = file[place].get(inner, {})
            found += [weight(group[key]) for key in sorted(group, key=int)]
        return found

    return weights


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
