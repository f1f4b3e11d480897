"""Whole models in HDF5: architecture and versions in attributes of the root, weights in groups by layer name.

Facts: root attributes model_config, keras_version, backend; group model_weights with `layer_names`, each layer's
group with `weight_names` (Keras FAQ, "HDF5 format"; the same since Keras 2).
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from stepstream.errors import ModelFileError
from stepstream.formats.hdf5 import weight
from stepstream.formats.keras_model import assemble, parse_json
from stepstream.formats.reading import Provenance, Reading
from stepstream.graph.ir import Array


def read(path: Path) -> Reading:
    """A full model written by Keras 3, tf.keras 2.x or Keras 2. Raises ModelFileError."""
    import h5py

    try:
        with h5py.File(path, "r") as file:
            if "model_config" not in file.attrs or "model_weights" not in file:
                raise ModelFileError(
                    f"{path}: expected a whole Keras model, got no model_config (weights alone?); "
                    "save it with model.save()"
                )
            root = file["model_weights"]
            version = _text(file.attrs.get("keras_version", root.attrs.get("keras_version", "1")))
            backend = _text(file.attrs.get("backend", root.attrs.get("backend", "unknown")))
            if version.startswith("1"):
                raise ModelFileError(f"{path}: expected a file by Keras 2 or later, got one by Keras {version}")
            config = parse_json(_text(file.attrs["model_config"]), f"{path}: model_config")

            def weights(entry: Mapping[str, Any]) -> list[Array]:
                name = entry["config"]["name"]
                if name not in root:
                    return []
                return [weight(root[name][_text(w)]) for w in root[name].attrs.get("weight_names", [])]

            provenance = Provenance("HDF5", f"Keras {version}, {backend}")
            return assemble(config, weights, version, provenance, str(path))
    except (OSError, KeyError) as e:
        raise ModelFileError(f"{path}: not a readable HDF5 model: {e}") from e


def _text(value: Any) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)
