"""`stepstream bench MODEL`."""

from __future__ import annotations

from typing import Annotated

import typer

from stepstream.bench import bench as time_it
from stepstream.cli.app import app, console, print_json, table_with
from stepstream.cli.live_keras import live_keras
from stepstream.cli.options import (
    ArchitectureOption,
    JsonOption,
    ModelArgument,
    ScaleOption,
    TrainingLengthOption,
    load_model,
)


@app.command()
def bench(
    model: ModelArgument,
    training_length: TrainingLengthOption = None,
    scale: ScaleOption = None,
    architecture: ArchitectureOption = None,
    rounds: Annotated[int, typer.Option(min=1, help="How often each contender is timed.")] = 15,
    as_json: JsonOption = False,
) -> None:
    """Say what a sample costs on this machine: one stream, batches, NumPy, and Keras where it is installed."""
    loaded = load_model(model, training_length, scale, architecture)
    reference, note = (None, "scale given: Keras not timed") if scale else live_keras(loaded, model)
    result = time_it(loaded, reference, rounds)
    notes = [*(f"not timed: {w}" for w in result.left_out), *([note] if note else [])]
    if as_json:
        print_json({**result.to_dict(), "notes": notes})
        return
    out, table = console(), table_with("", "a sample", "times as long")
    for t in result.timings:
        table.add_row(t.name, f"{t.seconds * 1e6:,.2f} us", f"{t.times:,.1f}")
    out.print(f"runs on: {result.runs_on}", soft_wrap=True, markup=False)
    out.print(table)
    for line in notes:
        out.print(line, markup=False, soft_wrap=True)
