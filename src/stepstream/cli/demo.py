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
from stepstream.live import snapshot
from stepstream.live.stream import Stream
from stepstream.live.windowing import Carry
from stepstream.model import Model, load

FEATURES = ("x", "y", "z")
TITLE = "Is it badminton? The probability after every sample"
FRAME_SECONDS = 0.05  # pace of the view; the recording itself is one sample every 0.1 s

Row = tuple[str, str, float, list[float]]  # key, time as written, seconds, values


@app.command()
def demo(
    keep_on: Annotated[Path | None, typer.Option(hidden=True, help="Go on from this state file.")] = None,
) -> None:
    """Stream a real recording through a real model, stop half-way, go on in a new process: not a bit changes."""
    folder = files("stepstream") / "data" / "motions"
    with as_file(folder / "model.keras") as path:
        model = load(path, features=FEATURES)
    rows = list(_recording(folder.joinpath("recording.csv").read_text(encoding="utf-8").splitlines()))
    labels = json.loads(folder.joinpath("labels.json").read_text(encoding="utf-8"))
    if keep_on is not None:
        streams, start = _restore(keep_on, model)
        values = _play(rows[start:], model, streams, labels, f"{TITLE}: a new process goes on from the saved states")
        # the answers go back to the first process bit for bit
        Path(f"{keep_on}.answers").write_text(json.dumps([v.hex() for v in values]), encoding="utf-8")
        return

    half = len(rows) // 2
    streams = {}
    with tempfile.TemporaryDirectory() as scratch:
        state = Path(scratch) / "states.h5"
        _play(rows[:half], model, streams, labels, f"{TITLE}, 10 samples a second from each wrist")
        states = {key: stream.snapshot() for key, stream in streams.items()}
        snapshot.save_streams(state, model, Carry(), states, {"rows": half})
        say = console()
        say.print(f"\nstopped after {half} samples: {len(states)} states saved in {state.stat().st_size:,} bytes\n")
        subprocess.run([sys.executable, "-m", "stepstream", "demo", "--keep-on", str(state)], check=True)
        continued = json.loads(Path(f"{state}.answers").read_text(encoding="utf-8"))

    uninterrupted = [value.hex() for value in _answers(rows, model, {})][half:]
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


def _restore(path: Path, model: Model) -> tuple[dict[str, Stream], int]:
    states, position = snapshot.load_streams(path, model, Carry())
    streams = {}
    for key, state in states.items():
        streams[key] = model.stream("carry")
        streams[key].restore(state)
    return streams, position["rows"]


def _answers(rows: Iterable[Row], model: Model, streams: dict[str, Stream]) -> Iterator[float]:
    for key, _, seconds, values in rows:
        if key not in streams:
            streams[key] = model.stream("carry")
        stream = streams[key]
        value = stream.step(values, time=seconds)
        assert isinstance(value, float)
        yield value


def _play(rows: list[Row], model: Model, streams: dict[str, Stream], labels: dict[str, str], title: str) -> list[float]:
    """Show the rows as they are stepped: a live view on a terminal, plain lines elsewhere."""
    out = console()
    watch = Watch(out, title, labels) if out.is_terminal else None
    values = []
    if watch is None:
        out.print(title)
    with watch or nullcontext():
        for row, value in zip(rows, _answers(rows, model, streams), strict=True):
            key, written, _, _ = row
            stream = streams[key]
            values.append(value)
            if watch is None:
                out.print(f"{written}  {key}  age {stream.age:3d}  probability {value:.4f}  ({labels[key]})")
            else:
                watch.add(key, value, stream.age, stream.complete, stream.beyond_training_length)
                time.sleep(FRAME_SECONDS / max(1, len(labels)))
    return values
