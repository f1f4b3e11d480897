"""`stepstream demo`: the packaged recording through the packaged model, stopped half-way and continued."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from contextlib import nullcontext
from datetime import datetime
from importlib.resources import as_file, files
from pathlib import Path
from typing import Annotated

import typer

from stepstream.cli.app import app, console
from stepstream.cli.watch import Watch
from stepstream.live.engine import Engine
from stepstream.live.results import Result
from stepstream.model import load

FEATURES = ("x", "y", "z")
TITLE = "Is it badminton? The probability after every sample"
FRAME_SECONDS = 0.05  # pace of the view; the recording itself is one sample every 0.1 s

Row = tuple[str, str, float, list[float]]  # key, time as written, seconds, values


@app.command()
def demo(
    keep_on: Annotated[Path | None, typer.Option(hidden=True, help="Go on from this store.")] = None,
) -> None:
    """Stream a real recording through a real model, stop half-way, go on in a new process: not a bit changes."""
    folder = files("stepstream") / "data" / "motions"
    with as_file(folder / "model.keras") as path:
        model = load(path, features=FEATURES)
    rows = list(_recording(folder.joinpath("recording.csv").read_text(encoding="utf-8").splitlines()))
    labels = json.loads(folder.joinpath("labels.json").read_text(encoding="utf-8"))
    if keep_on is not None:
        with Engine(model, "carry", keep_on) as engine:
            start = sum(stream.samples for stream in engine.streams())
            values = _play(rows[start:], engine, labels, f"{TITLE}: a new process goes on from the saved states")
        # the answers go back to the first process bit for bit
        Path(f"{keep_on}.answers").write_text(json.dumps([v.hex() for v in values]), encoding="utf-8")
        return

    half = len(rows) // 2
    with tempfile.TemporaryDirectory() as scratch:
        state = Path(scratch) / "states.db"
        with Engine(model, "carry", state) as engine:
            _play(rows[:half], engine, labels, f"{TITLE}, 10 samples a second from each wrist")
            count = len(engine.streams())
        say = console()
        say.print(f"\nstopped after {half} samples: {count} states saved in {state.stat().st_size:,} bytes\n")
        subprocess.run([sys.executable, "-m", "stepstream", "demo", "--keep-on", str(state)], check=True)
        continued = json.loads(Path(f"{state}.answers").read_text(encoding="utf-8"))

    uninterrupted = [_value(result).hex() for result in _answers(rows, Engine(model, "carry"))][half:]
    same = sum(a == b for a, b in zip(uninterrupted, continued, strict=True))
    say.print(
        f"\nafter the restart {same} of {len(uninterrupted)} answers equal an uninterrupted run, bit for bit",
        style="bold green" if same == len(uninterrupted) else "bold red",
    )
    raise typer.Exit(0 if same == len(uninterrupted) else 1)


def _recording(lines: Iterable[str]) -> Iterator[Row]:
    for row in csv.DictReader(lines):
        seconds = datetime.fromisoformat(row["time"]).timestamp()
        yield row["key"], row["time"], seconds, [float(row[f]) for f in FEATURES]


def _answers(rows: Iterable[Row], engine: Engine) -> Iterator[Result]:
    for key, _, seconds, values in rows:
        yield engine.step(key, values, time=seconds)


def _value(result: Result) -> float:
    assert isinstance(result.value, float)
    return result.value


def _play(rows: list[Row], engine: Engine, labels: dict[str, str], title: str) -> list[float]:
    """Show the rows as they are stepped: a live view on a terminal, plain lines elsewhere."""
    out = console()
    watch = Watch(out, title, labels) if out.is_terminal else None
    values = []
    if watch is None:
        out.print(title)
    with watch or nullcontext():
        for row, result in zip(rows, _answers(rows, engine), strict=True):
            key, written, _, _ = row
            value = _value(result)
            values.append(value)
            if watch is None:
                out.print(f"{written}  {key}  age {result.age:3d}  probability {value:.4f}  ({labels[key]})")
            else:
                watch.add(key, value, result.age, result.complete, result.beyond_training_length)
                time.sleep(FRAME_SECONDS / max(1, len(labels)))
    return values
