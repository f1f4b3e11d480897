"""`stepstream verify MODEL`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import numpy as np
import typer

from stepstream.cli.app import app, console, print_json
from stepstream.cli.live_keras import live_keras
from stepstream.cli.options import (
    ArchitectureOption,
    JsonOption,
    ModelArgument,
    ScaleOption,
    TrainingLengthOption,
    load_model,
)
from stepstream.errors import InputError
from stepstream.graph.ir import Array


@app.command()
def verify(
    model: ModelArgument,
    data: Annotated[Path | None, typer.Option(help=".npy file, (m, time, features).")] = None,
    expected: Annotated[Path | None, typer.Option(help=".npy file, (m, outputs) or (m, time, outputs).")] = None,
    training_length: TrainingLengthOption = None,
    scale: ScaleOption = None,
    architecture: ArchitectureOption = None,
    as_json: JsonOption = False,
) -> None:
    """Prove that stepping equals the whole model, here and against Keras where it is installed; exit 1 if not.
    Keras then opens the file too, but none that names anything beside Keras' own layers.
    """
    loaded = load_model(model, training_length, scale, architecture)
    reference, note = live_keras(loaded, model)
    x, y = _array(data), _array(expected)
    result = loaded.verify(x, y, reference)
    notes = [*result.notes, *([note] if note else [])]
    if as_json:
        print_json({**result.to_dict(), "notes": notes})
    else:
        out = console()
        for check in result.checks:
            out.print(str(check), style="green" if check.ok else "red", markup=False, soft_wrap=True)
        for line in notes:
            out.print(line, markup=False, soft_wrap=True)
        out.print("the contract holds" if result.ok else "the contract does NOT hold", style="bold")
    raise typer.Exit(0 if result.ok else 1)


def _array(path: Path | None) -> Array | None:
    if path is None:
        return None
    try:
        array = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError) as e:
        reason = e.strerror if isinstance(e, OSError) and e.strerror else "not such a file"
        raise InputError(f"{path}: expected an array saved with numpy.save: {reason}") from e
    if not isinstance(array, np.ndarray) or array.dtype.kind not in "fiub":
        raise InputError(f"{path}: expected one array of numbers, got {getattr(array, 'dtype', 'an archive')}")
    return array
