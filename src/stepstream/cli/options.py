"""Arguments that several commands take, and what they mean."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from stepstream import limits
from stepstream.errors import InputError
from stepstream.formats import json_text
from stepstream.formats.files import regular_file
from stepstream.model import Model, load

ModelArgument = Annotated[Path, typer.Argument(help="A .keras, .h5 or .stepstream file.", show_default=False)]
TrainingLengthOption = Annotated[
    int | None, typer.Option(min=1, help="Samples per window in training, where the model does not say.")
]
ScaleOption = Annotated[
    Path | None, typer.Option(help='JSON file {"mean": [...], "std": [...]}, applied before the first layer.')
]
ArchitectureOption = Annotated[
    Path | None, typer.Option(help="JSON file by model.to_json(), for a MODEL of weights alone.")
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON for a program.")]


def load_model(
    model: Path,
    training_length: int | None,
    scale: Path | None,
    architecture: Path | None,
    features: Sequence[str] | None = None,
) -> Model:
    """`stepstream.load` with the scale read from a file."""
    pair = None if scale is None else read_scale(scale)
    return load(model, training_length, pair, features, architecture=architecture)


def names_of(option: str, text: str | None, count: int | None = None) -> list[str] | None:
    """Names separated by commas, blanks around them dropped; raises InputError for empty and repeated ones."""
    if text is None:
        return None
    names = [n.strip() for n in text.split(",")]
    if not all(names) or len(set(names)) != len(names):
        raise InputError(f"{option}: expected different names separated by commas, got {text!r}")
    if count is not None and len(names) != count:
        raise InputError(f"{option}: expected {count} columns, got {names}")
    return names


def read_scale(path: Path) -> tuple[list[float], list[float]]:
    """(mean, std) from a JSON file; raises InputError."""
    try:
        with regular_file(path) as file:
            data = file.read(limits.MAX_SCALE_BYTES + 1)
    except OSError as e:
        raise InputError(f"{path}: {e.strerror or e}") from e
    scale = json_text.parse(data, str(path), InputError, limits.MAX_SCALE_BYTES)
    for name in ("mean", "std"):
        values = scale.get(name)
        values = values if isinstance(values, list) else [values]
        if any(isinstance(v, bool) or not isinstance(v, int | float) for v in values):
            raise InputError(f'{path}: expected {{"mean": [...], "std": [...]}} with numbers, got another {name}')
    return scale["mean"], scale["std"]
