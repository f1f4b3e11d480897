"""Keras models to graphs, without Keras: `.keras` archives, HDF5 files and models in memory.

A `.keras` file is a zip of metadata.json, config.json and model.weights.h5 (Keras 3 saving format; tf.keras from 2.12).
"""

from __future__ import annotations

import codecs
import json
import sys
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from stepstream import limits
from stepstream.errors import InputError, ModelFileError
from stepstream.formats import archive, hdf5, json_text, keras_h5, keras_objects
from stepstream.formats.files import regular_file
from stepstream.formats.keras_activation import ALIASES
from stepstream.formats.keras_build import Writer
from stepstream.formats.keras_model import UNKNOWN_KERAS_3, assemble
from stepstream.formats.keras_places import Archive, Live
from stepstream.formats.reading import Provenance, Reading


def read(source: Any, architecture: str | Path | None = None) -> Reading:
    """A path to a `.keras` or `.h5` file (told by content), or a Keras model in memory.

    architecture: for weights alone, the path of what `model.to_json()` wrote, or its text.
    Raises ModelFileError naming the place; layers that cannot step are returned as blockers, all of them.
    """
    if hasattr(source, "get_config") and hasattr(source, "layers"):
        return _within(_read_model(source))
    if not isinstance(source, str | Path):
        raise InputError(f"expected a path or a Keras model, got {type(source).__name__}")
    path = Path(source)
    try:
        return _within(_read_file(path, architecture))
    except ModelFileError as e:  # names from the file may be megabytes long
        text = str(e) if str(path) in str(e) else f"{path}: {e}"
        raise ModelFileError(text if len(text) <= limits.MAX_MESSAGE else f"{text[: limits.MAX_MESSAGE]} ...") from e


def _within(reading: Reading) -> Reading:
    if (reading.training_length or 0) > limits.MAX_WINDOW:
        raise ModelFileError(f"expected windows of at most {limits.MAX_WINDOW} samples, got {reading.training_length}")
    return reading


def foreign(path: Path) -> str | None:
    """The first object that a file would have Keras build and that is not known here, or None; see keras_objects."""
    if _head(path).startswith(archive.SIGNATURE):
        with archive.opened(path) as entries:
            text = entries.read("config.json", limits.MAX_JSON_BYTES)
    else:
        with hdf5.opened(path, str(path)) as file:
            text = str(file.attr("model_config") or "{}").encode()  # weights alone have none
    return keras_objects.foreign(json_text.parse_model(text, str(path)))


def _read_file(path: Path, architecture: str | Path | None) -> Reading:
    head = _head(path)
    if head.startswith(archive.SIGNATURE):
        if architecture is not None:
            raise ModelFileError(
                f"{path}: expected weights alone beside an architecture, got a whole model; leave it out"
            )
        return _read_archive(path)
    if head == hdf5.SIGNATURE:
        return keras_h5.read(path, None if architecture is None else _architecture(architecture))
    raise ModelFileError(f"{path}: expected a .keras archive or an HDF5 file, got neither; save the model with Keras")


def _head(path: Path) -> bytes:
    try:
        with regular_file(path) as f:
            return f.read(8)
    except OSError as e:
        raise ModelFileError(f"{path}: {e.strerror or e}") from e


def _architecture(source: str | Path) -> dict[str, Any]:
    if not isinstance(source, str | Path):
        raise InputError(
            f"architecture: expected what model.to_json() wrote, as a path or as text, got {type(source).__name__}"
        )
    if isinstance(source, str) and (text := source.removeprefix("\ufeff").lstrip()).startswith("{"):
        return json_text.parse_model(text, "architecture")
    _head(Path(source))
    with regular_file(source) as f:
        data = f.read(limits.MAX_JSON_BYTES + 1).removeprefix(codecs.BOM_UTF8)  # as some editors on Windows write it
        return json_text.parse_model(data, f"{source}: architecture")


def _read_archive(path: Path) -> Reading:
    with archive.opened(path) as entries:
        for needed in ("config.json", "model.weights.h5"):
            if needed not in entries.names:
                raise ModelFileError(f"{path}: expected {needed} in the archive, got {sorted(entries.names)[:8]}")
        config = json_text.parse_model(entries.read("config.json", limits.MAX_JSON_BYTES), f"{path}: config.json")
        metadata: Mapping[str, Any] = {}
        if "metadata.json" in entries.names:
            metadata = json_text.parse(entries.read("metadata.json", limits.MAX_JSON_BYTES), f"{path}: metadata.json")
        data = entries.read("model.weights.h5", limits.MAX_WEIGHT_BYTES)
    said = metadata.get("keras_version")
    version = said if isinstance(said, str) else None
    date = metadata.get("date_saved")
    provenance = Provenance(".keras", f"Keras {version or 3}", date if isinstance(date, str) else None)
    with hdf5.opened(data, f"{path}: model.weights.h5") as file:
        reading = assemble(config, Archive(file, (), config), Writer.parse(version), provenance, str(path))
    return reading if version else reading.noting(UNKNOWN_KERAS_3)


def _read_model(model: Any) -> Reading:
    bases = [c for c in type(model).__mro__ if _is_keras(c)]
    if not bases:
        raise InputError(f"expected a path or a Keras model, got {type(model).__name__}")
    framework = sys.modules[bases[0].__module__.partition(".")[0]]
    version = str(getattr(framework, "__version__", "3"))
    base = next((c for c in bases if c.__name__ in {"Sequential", "Functional"}), None)
    if base is None or any(getattr(type(model), n) is not getattr(base, n) for n in ("call", "__call__")):
        raise InputError(
            f"expected a Sequential or Functional model, got {type(model).__name__}, whose layers only its code knows; "
            "rebuild it with the Functional API"
        )
    # NumPy values in configurations become plain JSON, as in a file
    config = json.loads(json.dumps({"class_name": base.__name__, "config": _config(model, base)}, default=_plain))
    _name_own_code(model, config, set(), framework)
    config.pop("registered_name", None)  # a subclass that leaves the call to Keras is no code of its own
    provenance = Provenance("in memory", f"Keras {version}")
    return assemble(config, Live(model), Writer.parse(version), provenance, "the model")


def _config(model: Any, base: Any) -> Any:
    """Of a subclass with a constructor of its own Keras tells nothing, but of the same layers without it."""
    if base.__name__ == "Functional" and not _is_keras(type(model)):
        model = base(model.input, model.output)
    return base.get_config(model)


def _is_keras(value: Any) -> bool:
    return str(getattr(value, "__module__", "")).partition(".")[0] in {"keras", "tf_keras"}


def _is_own(function: Any, name: str, framework: Any) -> bool:
    """Whether a user wrote it. Keras 2 takes some of its activations from TensorFlow, and calls silu swish."""
    if str(getattr(function, "__module__", "")).partition(".")[0] == "tensorflow":
        for known in (name, ALIASES.get(name, name)):
            with suppress(ValueError):  # a name that this Keras does not know
                if framework.activations.get(known) is function:
                    return False
    return not _is_keras(function)


def _name_own_code(layer: Any, entry: dict[str, Any], seen: set[int], framework: Any) -> None:
    """A user's own class or activation with a standard name: a file cannot always tell it from Keras', memory can.

    Layers that came before, in another model, are marked as in an archive.
    """
    config = entry["config"]
    if id(layer) in seen:
        entry["shared_object_id"] = id(layer)
    seen.add(id(layer))
    if not _is_keras(type(layer)):
        entry["registered_name"] = f"{type(layer).__module__}.{type(layer).__name__}"
    for key in ("activation", "recurrent_activation"):
        function = getattr(layer, key, None)
        written = config.get(key)
        name = written.get("config") if isinstance(written, dict) else written
        if isinstance(name, str) and callable(function) and _is_own(function, name, framework):
            config[key] = f"{function.__module__}.{name}"
    if isinstance(config.get("layer"), dict) and hasattr(layer, "layer"):
        _name_own_code(layer.layer, config["layer"], seen, framework)
    if isinstance(config.get("cell"), dict) and hasattr(layer, "cell"):
        _name_own_code(layer.cell, config["cell"], seen, framework)
    for key in ("layers", "cells"):
        own = {inner.name: inner for inner in getattr(layer, key, None) or []}
        for inner in config.get(key) or []:
            if inner["config"].get("name") in own:
                _name_own_code(own[inner["config"]["name"]], inner, seen, framework)


def _plain(value: Any) -> Any:
    if isinstance(value, np.ndarray | np.generic):
        return value.tolist()
    return str(value)
