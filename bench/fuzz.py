"""Coverage-guided damage to model, state and scale files: the long form of tests/formats/test_hostile.py.

    pip install atheris && python bench/fuzz.py --runs 100000

Every input ends as a model, or in one of this package's errors; anything else is a finding, as is an input that takes
seconds. Findings are kept as files in --findings, one for each place in the code, and the run goes on. STEPSTREAM_CASES
adds model files by others to the seeds.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import os
import random
import resource
import sys
import tempfile
import time
import traceback
import zipfile
from collections import Counter
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["stepstream", "pyfive"]):
    import pyfive  # noqa: F401

    import stepstream
    from stepstream.cli.options import read_scale
    from stepstream.formats import hdf5_objects  # noqa: F401
    from stepstream.live import snapshot
    from stepstream.live.windowing import Carry

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "formats"))
import hostile
from hostile_child import loaded_and_stepped

SLOW = 2.0  # seconds; instrumented code is several times slower than it is
MEMORY = 4 << 30
CONFIGURED: dict[int, bytes] = {}  # seeds with a configuration in HDF5
SEED_BYTES = 200_000  # larger seeds make everything slow and cover no more
ERRORS = (stepstream.ModelFileError, stepstream.StateError, stepstream.InputError)


def seeds() -> dict[str, bytes]:
    found = hostile.honest()
    found["motions.keras"] = (Path(stepstream.__file__).parent / "data" / "motions" / "model.keras").read_bytes()
    folder = os.environ.get("STEPSTREAM_CASES")
    for path in sorted(Path(folder).rglob("*")) if folder else []:
        if path.suffix in {".h5", ".keras"} and path.stat().st_size <= SEED_BYTES:
            found[f"{path.parent.name}-{path.name}"] = path.read_bytes()
    return found


def mutate(data: bytes, most: int, seed: int) -> bytes:
    """An archive is damaged inside most of the time, with right sizes and sums around the damage."""
    rng = random.Random(seed)
    change = atheris.Mutate if rng.random() < 0.5 else lambda data, most: hostile.damage(data, rng)
    if data.startswith(b"PK") and rng.random() < 0.85:
        with contextlib.suppress(Exception), zipfile.ZipFile(io.BytesIO(data)) as file:
            inside = {name: file.read(name) for name in file.namelist()[:8]}
            hit = rng.choice(sorted(inside))
            if hit.endswith(".json") and rng.random() < 0.7:
                inside[hit] = hostile.damage_json(inside[hit], rng)
            else:
                inside[hit] = bytes(change(inside[hit], most))
            return hostile.archive(*(hostile.entry(name, content) for name, content in inside.items()))[:most]
    if b"model_config" in data and rng.random() < 0.3 and (known := CONFIGURED.get(seed % max(len(CONFIGURED), 1))):
        return hostile.reconfigured(known, rng)[:most]  # honest ones only: the HDF5 library hangs on others
    return bytes(change(data, most))[:most]


class Target:
    """What is done with an input, and what came of all of them."""

    def __init__(self, folder: Path, findings: Path, runs: int) -> None:
        self.folder, self.findings, self.runs = folder, findings, runs
        self.results: Counter[str] = Counter()
        self.found: Counter[str] = Counter()
        self.slowest, self.start = 0.0, time.perf_counter()
        honest = folder / "honest.h5"
        honest.write_bytes(hostile.h5())
        self.model = stepstream.load(honest)

    def __call__(self, data: bytes) -> None:
        start = time.perf_counter()
        try:
            self.results[self.read(data)] += 1
        except ERRORS as e:
            self.results[type(e).__name__] += 1
        except BaseException as e:
            own = [f for f in traceback.extract_tb(e.__traceback__) if "stepstream" in f.filename] or [None]
            place = f"{Path(own[-1].filename).stem}-{own[-1].lineno}" if own[-1] else "elsewhere"
            self.finding(f"{type(e).__name__}-{place}", data)
        seconds = time.perf_counter() - start
        self.slowest = max(self.slowest, seconds)
        if seconds > SLOW:
            self.finding(f"slow-{seconds:.0f}s", data)
        count = self.results.total()
        if count % 5000 == 0 or count == self.runs:
            rate = count / (time.perf_counter() - self.start)
            print(f"{count} inputs, {rate:.0f}/s, slowest {self.slowest:.2f} s, {dict(self.results)}", flush=True)
            print(f"findings: {dict(self.found) or 'none'}", flush=True)

    def finding(self, name: str, data: bytes) -> None:
        self.results["finding"] += not name.startswith("slow")
        if not self.found[name]:
            (self.findings / name).write_bytes(data)
        self.found[name] += 1

    def read(self, data: bytes) -> str:
        path = self.folder / "input"
        path.write_bytes(data)
        if data[:1] in b"{[":
            stepstream.load(self.folder / "honest.h5", scale=read_scale(path))
            return "scale"
        if b"states_0_" in data or b"state/lstm" in data or b"samples" in data:
            with contextlib.suppress(stepstream.StateError):
                snapshot.describe(path)
            load = snapshot.load_columns if b"keys" in data else snapshot.load
            load(path, self.model, Carry())
            return "state"
        return loaded_and_stepped(path)


def main() -> None:
    arguments = argparse.ArgumentParser()
    arguments.add_argument("--runs", type=int, default=100_000)
    arguments.add_argument("--seed", type=int, default=1)
    arguments.add_argument("--findings", type=Path, default=Path("findings"))
    options = arguments.parse_args()
    options.findings.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        corpus = Path(folder) / "corpus"
        corpus.mkdir()
        for name, data in seeds().items():
            (corpus / name).write_bytes(data)
            if b"model_config" in data:
                CONFIGURED[len(CONFIGURED)] = data
        target = Target(Path(folder), options.findings, options.runs)
        resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
        libfuzzer = [
            sys.argv[0], f"-runs={options.runs}", f"-seed={options.seed}", f"-max_len={SEED_BYTES}", "-timeout=60",
            "-rss_limit_mb=0", "-len_control=0", "-print_final_stats=1", str(corpus),
        ]  # fmt: skip
        atheris.Setup(libfuzzer, target, custom_mutator=mutate, internal_libfuzzer=True)
        atheris.Fuzz()


if __name__ == "__main__":
    main()
