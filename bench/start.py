"""How long it takes until something happens: importing the package, loading the model, the whole demo."""

from __future__ import annotations

import statistics
import subprocess
import sys
import time

ROUNDS = 10
WAYS = {
    "python -c pass": ["-c", "pass"],
    "import numpy": ["-c", "import numpy"],
    "import stepstream": ["-c", "import stepstream"],
    "import and load the packaged model": [
        "-c",
        "import stepstream, importlib.resources as r\n"
        "stepstream.load(r.files('stepstream') / 'data' / 'motions' / 'model.keras')",
    ],
    "stepstream --help": ["-m", "stepstream", "--help"],
    "stepstream demo, without a terminal": ["-m", "stepstream", "demo"],
}


def main() -> None:
    times: dict[str, list[float]] = {name: [] for name in WAYS}
    for _ in range(ROUNDS):
        for name, arguments in WAYS.items():
            start = time.perf_counter()
            subprocess.run([sys.executable, *arguments], check=True, stdout=subprocess.DEVNULL)
            times[name].append(time.perf_counter() - start)
    for name, values in times.items():
        print(f"{name:38s} {statistics.median(values):6.2f} s")


if __name__ == "__main__":
    main()
