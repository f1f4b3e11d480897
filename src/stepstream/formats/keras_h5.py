"""Whole models in HDF5: architecture and versions in attributes of the root, weights in groups by layer name.

Facts: root attributes model_config, keras_version, backend; group model_weights with `layer_names`, each layer's
group with `weight_names` (Keras FAQ, "HDF5 format"; the same since Keras 2).
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from stepstream.errors import ModelFileError
from stepstream.formats import hdf5, json_text
from stepstream.formats.keras_model import assemble
from stepstream.formats.reading import Provenance, Reading
from stepstream.graph.ir import Array


def read(path: Path) -> Reading:
    """A full model written by Keras 3, tf.keras 2.x or Keras 2. Raises ModelFileError."""
    where = str(path)
    with hdf5.opened(path, where) as file:
        if file.attr("model_config") is None or not file.is_group("model_weights"):
            raise ModelFileError(
                f"{path}: expected a whole Keras model, got no model_config (weights alone?); save it with model.save()"
            )
        root = file.group("model_weights")
        version = _said(file, root, "keras_version", "1")
        backend = _said(file, root, "backend", "unknown")
        if version.startswith("1"):
            raise ModelFileError(f"{path}: expected a file by Keras 2 or later, got one by Keras {version}")
        config = json_text.parse(str(file.attr("model_config")), f"{path}: model_config")

        def weights(entry: Mapping[str, Any]) -> list[Array]:
            name = entry["config"]["name"]
            if not root.is_group(name):
                return []
            layer = root.group(name)
            names = layer.attr("weight_names") or []
            if not isinstance(names, list):
                raise ModelFileError(f"layer {name!r}: expected a list of weight names, got {names!r}")
            return [layer.array(str(n)) for n in names]

        provenance = Provenance("HDF5", f"Keras {version}, {backend}")
        return assemble(config, weights, version, provenance, where)


def _said(file: hdf5.Group, root: hdf5.Group, name: str, default: str) -> str:
    """What the writer said of itself: in the root, or where weights alone say it."""
    for group in (file, root):
        value = group.attr(name)
        if value is not None:
            return str(value)
    return default
