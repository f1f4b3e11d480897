"""`stepstream run` over a long CSV: records a second, memory, and the bytes after being killed again and again.

    python bench/run.py [records]

The same file is run uninterrupted, and again with `--state` and SIGKILL every few seconds; the outputs must be equal.
The memory is compared with that for a file a hundredth as long.
"""

from __future__ import annotations

import filecmp
import os
import signal
import subprocess
import sys
import tempfile
import time
from importlib.resources import files
from pathlib import Path

import numpy as np

KEYS = 100
KILL_AFTER_SECONDS = 15


def write(path: Path, records: int) -> None:
    rng = np.random.default_rng(0)
    with path.open("w") as f:
        f.write("key,time,x,y,z\n")
        for start in range(0, records, 10_000):
            values = rng.normal(size=(min(10_000, records - start), 3))
            for n, (x, y, z) in enumerate(values.tolist(), start):
                f.write(f"k{n % KEYS},{n // KEYS},{x:.4f},{y:.4f},{z:.4f}\n")


def command(folder: Path, name: str, out: str, *more: str) -> list[str]:
    model = str(files("stepstream") / "data" / "motions" / "model.keras")
    options = ["--key", "key", "--time", "time", "--windowing", "carry", "--out", str(folder / out)]
    return [sys.executable, "-m", "stepstream", "run", model, str(folder / name), *options, *more]


def measured(arguments: list[str]) -> tuple[float, float]:
    """Seconds, and the largest resident memory in MiB."""
    start = time.perf_counter()
    process = subprocess.Popen(arguments)
    _, status, usage = os.wait4(process.pid, 0)
    assert status == 0, status
    return time.perf_counter() - start, usage.ru_maxrss / 1024


def killed_until_done(arguments: list[str]) -> int:
    """Run, kill, run again; how often it was killed."""
    kills = 0
    while True:
        process = subprocess.Popen(arguments)
        try:
            assert process.wait(KILL_AFTER_SECONDS) == 0
            return kills
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
            process.wait()
            kills += 1


def main(records: int) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write(folder / "short.csv", records // 100)
        write(folder / "long.csv", records)
        _, small = measured(command(folder, "short.csv", "short.out"))
        seconds, large = measured(command(folder, "long.csv", "long.out"))
        print(f"{records:,} records in {seconds:.0f} s: {records / seconds:,.0f} a second")
        print(f"largest memory: {large:.0f} MiB; {small:.0f} MiB for {records // 100:,} records")
        kills = killed_until_done(command(folder, "long.csv", "killed.out", "--state", str(folder / "states.db")))
        same = filecmp.cmp(folder / "long.out", folder / "killed.out", shallow=False)
        size = (folder / "long.out").stat().st_size
        print(f"killed {kills} times and restarted: the {size:,} bytes are {'the same' if same else 'DIFFERENT'}")
        sys.exit(0 if same and kills else 1)


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 1_000_000)
