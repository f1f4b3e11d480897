"""HDF5 files of Keras: whole models, and weights that need an architecture beside them.

Facts: root attributes model_config, keras_version, backend; group model_weights with `layer_names`, each layer's
group with `weight_names` (Keras FAQ, "HDF5 format"; the same since Keras 1). Weights alone have `layer_names` at the
root, or, as `.weights.h5` of Keras 3, the layout of an archive. Keras 1 writes no version into weights.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from stepstream.errors import ModelFileError
from stepstream.formats import hdf5, json_text
from stepstream.formats.keras_1 import Arrays1, translate
from stepstream.formats.keras_build import Place, Writer
from stepstream.formats.keras_model import UNKNOWN_KERAS_3, assemble
from stepstream.formats.keras_places import Archive, ByName
from stepstream.formats.reading import Provenance, Reading


def read(path: Path, architecture: Mapping[str, Any] | None) -> Reading:
    """architecture: of `model.to_json()`, for weights alone. Raises ModelFileError."""
    where = str(path)
    with hdf5.opened(path, where) as file:
        whole = file.attr("model_config") is not None
        if whole and architecture is not None:
            raise ModelFileError(
                f"{path}: expected weights alone beside an architecture, got a whole model; leave it out"
            )
        if not whole and architecture is None:
            raise ModelFileError(
                f"{path}: expected a whole Keras model, got no model_config (weights alone?); "
                "save it with model.save(), or give architecture= (--architecture) as model.to_json() wrote it"
            )
        root = file.group("model_weights") if file.is_group("model_weights") else file
        if architecture is None:
            architecture = json_text.parse_model(str(file.attr("model_config")), f"{path}: model_config")
            version = _said(file, root, "keras_version")
        else:
            version = _said(file, root, "keras_version") or _text(architecture.get("keras_version"))
        backend = _said(file, root, "backend") or _text(architecture.get("backend")) or ""
        by_name = whole or root.attr("layer_names") is not None
        note = None
        if version is None and by_name and not (not whole and _by_keras_3(architecture)):
            version, note = "1", "the file does not say which Keras wrote it: taken for Keras 1"
        elif version is None:
            note = UNKNOWN_KERAS_3
        writer = Writer.parse(version, backend)
        place: Place = ByName(root) if by_name else Archive(root, (), architecture)
        if writer.keras == 1:
            try:
                architecture, place = translate(architecture), Arrays1(place)
            except (KeyError, TypeError, IndexError, AttributeError, ValueError) as e:
                raise ModelFileError(
                    f"{path}: the configuration of Keras 1 is incomplete or not understood: {e!r}"
                ) from e
        said = f"Keras {version}" if version else "Keras 3"
        provenance = Provenance(
            "HDF5" if whole else "weights and architecture", f"{said}, {backend or 'back end unknown'}"
        )
        reading = assemble(architecture, place, writer, provenance, where)
        return reading.noting(note) if note else reading


def _by_keras_3(architecture: Mapping[str, Any]) -> bool:
    """to_json() of Keras 3 names no version, but a module."""
    return "module" in architecture and "keras_version" not in architecture


def _said(file: hdf5.Group, root: hdf5.Group, name: str) -> str | None:
    """What the writer said of itself: in the root, or where weights alone say it."""
    for group in (file, root):
        value = group.attr(name)
        if value is not None:
            return str(value)
    return None


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) else None
