"""Our own model file: graph, weights, names, provenance, reports and check vectors; docs/reference/bundles.md has it.

Nothing in it is run: it holds JSON and float32 numbers. The same model gives the same bytes.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from stepstream import limits
from stepstream.arrays import short
from stepstream.errors import InputError, ModelFileError
from stepstream.formats import bundle_file, json_text
from stepstream.formats.bundle_graph import LIST, OBJECT, TEXT, built, described, fields
from stepstream.formats.files import path_of, regular_file, replace_file
from stepstream.formats.reading import CheckVectors, LayerInfo, Provenance, Reading
from stepstream.graph.ir import Array, Graph, TensorSpec, TimeRole, frozen_json, thawed
from stepstream.graph.passes import drop_identities
from stepstream.ops.declared import Kind, one_of, several, whole
from stepstream.version import __version__

SUFFIX = ".stepstream"
KERAS = (".keras", ".h5", ".hdf5")  # endings of files that Keras writes
FORMAT = 1  # raise it when a file of the new format cannot be read by the old code
MAX_AGE = 2**53
_NAMES = Kind("different texts or null", lambda v: v is None or (several(TEXT).fits(v) and len(set(v)) == len(v) > 0))
_PAIR = several(whole(1, MAX_AGE).or_none(), 2)
_AGES = Kind(
    "two whole numbers from 1 in order, the second perhaps null, or null",
    lambda v: v is None or (_PAIR.fits(v) and v[0] is not None and (v[1] is None or v[0] <= v[1])),
)
_BUNDLE = {"format": whole(), "writer": TEXT, "date": TEXT.or_none()}
_MODEL = {
    "fingerprint": TEXT,
    "training_length": whole(1, limits.MAX_WINDOW).or_none(),
    "trained_ages": _AGES,
    "features": _NAMES,
    "classes": _NAMES,
}
_PROVENANCE = {"format": TEXT, "writer": TEXT, "date": TEXT.or_none(), "layers": LIST, "notes": several(TEXT)}
_LAYER = {"name": TEXT, "kind": TEXT, "output": OBJECT.or_none()}
_OUTPUT = {
    "shape": several(whole(1, limits.MAX_VALUES)),
    "role": one_of(*TimeRole),
    "dtype": one_of("float32", "bool"),
}
_CHECKS = ("check/x", "check/y")


def is_bundle(source: Any) -> bool:
    """Whether a path is that of a bundle: by its first bytes, or, as they may be damaged, by its suffix."""
    if not isinstance(source, str | Path):
        return False
    if Path(source).suffix == SUFFIX:
        return True
    try:
        with regular_file(source) as file:
            return bundle_file.begins(file.read(bundle_file.SUM.start))
    except OSError:  # whoever reads it says so
        return False


def target(path: Any) -> Path:
    """Where a bundle may be written; raises InputError for what names no file, and for the names of Keras files."""
    path = path_of(path, "a bundle")
    if (end := path.suffix.lower()) in KERAS:
        raise InputError(
            f"expected a bundle's name, model.stepstream, got {path}: Keras files end in {end}; where such a one is "
            "wanted, let Keras save it, or name it as keras= in training (--keras)"
        )
    return path


def write(path: str | Path, reading: Reading, fingerprint: str, date: str | None = None) -> None:
    """All of a reading that has no blockers. The old file stays whole until the new one is on the disk.

    Raises InputError for what is no JSON or beyond what `read` takes, ModelFileError where the file cannot be written.
    """
    assert reading.graph is not None
    graph, arrays = described(reading.graph)
    provenance = {
        "format": reading.provenance.format,
        "writer": reading.provenance.writer,
        "date": reading.provenance.date,
        "layers": [{"name": i.name, "kind": i.kind, "output": _output(i.spec)} for i in reading.layers],
        "notes": list(reading.notes),
    }
    if date is not None and not isinstance(date, str):
        raise InputError(f"date: expected a text, got {short(date)}")
    model = {"fingerprint": fingerprint, **{k: v for k, v in vars(reading).items() if k in _MODEL}}
    texts = {
        "bundle": {"format": FORMAT, "writer": f"stepstream {__version__}", "date": date},
        "model": model,
        "graph": graph,
        "provenance": provenance,
    }
    texts |= {f"reports/{name}": thawed(reading.reports[name]) for name in sorted(reading.reports)}
    if reading.vectors is not None:
        arrays |= dict(zip(_CHECKS, (reading.vectors.x, reading.vectors.y), strict=True))
    pieces = bundle_file.packed({name: json_text.canonical(value, name) for name, value in texts.items()}, arrays)
    try:
        replace_file(path, pieces)
    except OSError as e:
        raise ModelFileError(f"{path}: cannot be written, and is as it was: {e.strerror or e}") from e


def read(path: str | Path) -> Reading:
    """A bundle, but for its check vectors, which are there and not yet run. Raises ModelFileError naming the place."""
    try:
        return _read(Path(path))
    except ModelFileError as e:  # names from the file may be megabytes long
        text = str(e)
        raise ModelFileError(text if len(text) <= limits.MAX_MESSAGE else f"{text[: limits.MAX_MESSAGE]} ...") from e
    except OSError as e:
        raise ModelFileError(f"{path}: {e.strerror or e}") from e
    except MemoryError as e:
        raise ModelFileError(f"{path}: expected a model that fits into memory, got a larger one") from e


def _read(path: Path) -> Reading:
    where = str(path)
    with regular_file(path) as file:
        size = file.seek(0, os.SEEK_END)
        if size > limits.MAX_BUNDLE_BYTES:
            raise ModelFileError(f"{where}: expected at most {limits.MAX_BUNDLE_BYTES} bytes, got {size}")
        file.seek(0)
        data = file.read(size)
    texts, arrays = bundle_file.unpacked(data, where)
    values = {name: json_text.value(text, f"{where}: {name}") for name, text in texts.items()}
    if "bundle" not in values:
        raise ModelFileError(f"{where}: expected a bundle, got a file that does not say its format")
    bundle = fields(frozen_json(values.pop("bundle")), _BUNDLE, f"{where}: bundle")
    if bundle["format"] > FORMAT:
        raise ModelFileError(
            f"{where}: expected format {FORMAT} or older, got {bundle['format']} by {bundle['writer']}; "
            "use a newer stepstream"
        )
    reports = {name.partition("/")[2]: values.pop(name) for name in list(values) if name.startswith("reports/")}
    if set(values) != {"model", "graph", "provenance", "sums"}:
        raise ModelFileError(f"{where}: expected model, graph and provenance, got {short(sorted(values))}")
    model = fields(frozen_json(values["model"]), _MODEL, f"{where}: model")
    told = fields(frozen_json(values["provenance"]), _PROVENANCE, f"{where}: provenance")
    checks = [arrays.pop(name, None) for name in _CHECKS]
    graph = built(values["graph"], arrays, where)
    fingerprint = drop_identities(graph).fingerprint()  # of what runs
    if fingerprint != model["fingerprint"]:
        raise ModelFileError(f"{where}: expected a graph of fingerprint {model['fingerprint']!r}, got {fingerprint!r}")
    _fits(graph, model, where)
    bundled = bundle["writer"] if bundle["date"] is None else f"{bundle['writer']} on {bundle['date']}"
    return Reading(
        graph,
        tuple(_layer(entry, f"{where}: layer {i}") for i, entry in enumerate(told["layers"])),
        (),
        model["training_length"],
        Provenance(told["format"], told["writer"], told["date"], bundled),
        told["notes"],
        model["features"],
        model["classes"],
        model["trained_ages"],
        reports,
        _vectors(checks, fingerprint, graph, where),
    )


def _fits(graph: Graph, model: Mapping[str, Any], where: str) -> None:
    length = model["training_length"]
    if None not in {graph.window, length} and graph.window != length:
        raise ModelFileError(f"{where}: expected {graph.window} as training length, the window's own, got {length}")
    if model["features"] is not None and len(model["features"]) != graph.features:
        raise ModelFileError(f"{where}: expected {graph.features} features, got {short(model['features'])}")


def _vectors(checks: list[Array | None], fingerprint: str, graph: Graph, where: str) -> CheckVectors | None:
    x, y = checks
    if x is None and y is None:
        return None
    if x is None or y is None or (x.ndim, y.ndim, x.shape[:2], x.shape[2:]) != (3, 3, y.shape[:2], (graph.features,)):
        got = [None if v is None else v.shape for v in checks]
        wanted = f"(streams, time, {graph.features}) and as many outputs"
        raise ModelFileError(f"{where}: check vectors: expected {wanted}, got {got}")
    if not np.isfinite(x).all():
        raise ModelFileError(f"{where}: check vectors: expected finite samples, got NaN or Inf")
    return CheckVectors(x, y, fingerprint)


def _output(spec: TensorSpec | None) -> dict[str, Any] | None:
    return None if spec is None else {"shape": list(spec.shape), "role": str(spec.role), "dtype": spec.dtype}


def _layer(entry: Any, where: str) -> LayerInfo:
    found = fields(entry, _LAYER, where)
    spec = None
    if found["output"] is not None:
        out = fields(found["output"], _OUTPUT, where)
        spec = TensorSpec(out["shape"], TimeRole(out["role"]), out["dtype"])
    return LayerInfo(found["name"], found["kind"], spec)
