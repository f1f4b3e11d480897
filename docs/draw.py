"""Draw the pictures of the docs from the packaged model and recording: `python docs/draw.py`."""

from __future__ import annotations

import csv
import io
import json
import re
from importlib.resources import files
from pathlib import Path

from rich.console import Console

import stepstream
from stepstream.cli.demo import TITLE
from stepstream.cli.watch import Watch

IMAGES = Path(__file__).parent / "images"
FOLDER = files("stepstream") / "data" / "motions"
WIDTH, HEIGHT, LEFT, BOTTOM, TOP = 720, 260, 46, 40, 14


def records() -> list[tuple[str, list[float]]]:
    rows = csv.DictReader(FOLDER.joinpath("recording.csv").read_text(encoding="utf-8").splitlines())
    return [(r["key"], [float(r[n]) for n in "xyz"]) for r in rows]


def demo() -> str:
    """The view of `stepstream demo`, six seconds in."""
    model = stepstream.load(FOLDER / "model.keras")
    labels = json.loads(FOLDER.joinpath("labels.json").read_text(encoding="utf-8"))
    console = Console(record=True, width=96, file=io.StringIO(), force_terminal=True)
    watch = Watch(console, TITLE, labels)
    streams = {key: model.stream("carry") for key in labels}
    for key, sample in records()[:360]:
        stream = streams[key]
        value = stream.step(sample)
        watch.add(key, value, stream.age, stream.complete, stream.beyond_training_length)
    console.print(watch.table())
    svg = console.export_svg(title="stepstream demo", unique_id="demo")
    return re.sub(r"@font-face \{.*?\}\s*", "", svg, flags=re.DOTALL)  # the reader's own fonts, nothing from elsewhere


def tumbling() -> str:
    """One stream's probability under carry and under tumbling(7)."""
    model = stepstream.load(FOLDER / "model.keras")
    samples = [sample for key, sample in records() if key == "wrist-05"]
    lines = {w: model.stream(w).steps(samples)[:, 0].tolist() for w in ("carry", "tumbling(7)")}
    step = (WIDTH - LEFT - 110) / (len(samples) - 1)

    def y(p: float) -> float:
        return round(HEIGHT - BOTTOM - p * (HEIGHT - BOTTOM - TOP), 1)

    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" font-family="sans-serif" '
        'font-size="13">',
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="white"/>',
    ]
    for p in (0, 0.5, 1):
        parts.append(f'<path d="M{LEFT} {y(p)}H{WIDTH - 110}" stroke="#ddd"/>')
        parts.append(f'<text x="{LEFT - 8}" y="{y(p) + 4}" text-anchor="end" fill="#444">{p}</text>')
    for second in (0, 2, 4, 6, 8, 10):
        x = LEFT + min(10 * second, len(samples) - 1) * step
        label = f"{second} s"
        parts.append(f'<text x="{x:.0f}" y="{HEIGHT - 20}" text-anchor="middle" fill="#444">{label}</text>')
    for (name, values), colour in zip(lines.items(), ("#1a7f5a", "#c4512d"), strict=True):
        points = " ".join(f"{LEFT + t * step:.1f},{y(p)}" for t, p in enumerate(values))
        parts.append(f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="2"/>')
        parts.append(f'<text x="{WIDTH - 102}" y="{y(values[-1]) + 4}" fill="{colour}">{name}</text>')
    parts.append(
        f'<text x="{LEFT}" y="{HEIGHT - 3}" fill="#444">probability of badminton after every sample, wrist-05</text>'
    )
    return "\n".join([*parts, "</svg>", ""])


if __name__ == "__main__":
    IMAGES.mkdir(exist_ok=True)
    for name, draw in {"demo.svg": demo, "tumbling.svg": tumbling}.items():
        (IMAGES / name).write_text(draw(), encoding="utf-8")
        print(IMAGES / name)
