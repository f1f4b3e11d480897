"""`stepstream bundle MODEL OUT`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from stepstream.cli.app import app
from stepstream.cli.files import different
from stepstream.cli.options import (
    ArchitectureOption,
    ModelArgument,
    ScaleOption,
    TrainingLengthOption,
    load_model,
    names_of,
)


@app.command()
def bundle(
    model: ModelArgument,
    out: Annotated[Path, typer.Argument(help="The bundle to write, model.stepstream.", show_default=False)],
    training_length: TrainingLengthOption = None,
    scale: ScaleOption = None,
    architecture: ArchitectureOption = None,
    features: Annotated[str | None, typer.Option(help="Feature names, separated by commas.")] = None,
    date: Annotated[str | None, typer.Option(help="Any text; without one the same model gives the same bytes.")] = None,
) -> None:
    """Make one file of a model and all that was said of it: scale, names and training length, with check vectors that
    are run at every load. Prints the fingerprint, which is the original's.
    """
    different({"MODEL": model, "OUT": out, "--scale": scale, "--architecture": architecture})
    loaded = load_model(model, training_length, scale, architecture, names_of("--features", features))
    loaded.save(out, date=date)
    print(loaded.fingerprint)
