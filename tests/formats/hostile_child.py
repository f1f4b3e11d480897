"""`python hostile_child.py FOLDER MEBIBYTES` opens every file of a folder with that much address space.

It prints one JSON line for each: how it ended, seconds, and what it did besides reading the file. No Keras is needed.
"""

from __future__ import annotations

import contextlib
import json
import os
import resource
import sys
import time
import traceback
import warnings
from pathlib import Path

import stepstream
from stepstream.cli.options import read_scale
from stepstream.live import snapshot
from stepstream.live.windowing import Carry
from stepstream.testing import samples

_FORBIDDEN = (
    "exec",
    "compile",
    "marshal.",
    "pickle.",
    "os.",
    "subprocess.",
    "socket.",
    "ctypes.",
    "shutil.",
    "tempfile.",
)
_HARMLESS = {"os.listdir", "os.scandir"}


def loaded_and_stepped(path: Path) -> str:
    """ "blocked" or "loaded": then it has taken one sample too."""
    model = stepstream.load(path)
    if model.check().blockers:
        return "blocked"
    with contextlib.suppress(stepstream.StepstreamError):  # numbers may well overflow
        model.stream("carry").step(samples(model, 1, 1)[0, 0])
    return "loaded"


def main(folder: Path, mebibytes: int) -> None:
    warnings.simplefilter("error")
    sys.path.insert(0, str(folder))
    files = sorted(p for p in folder.iterdir() if p.name.startswith(("model", "state", "scale")))
    honest = stepstream.load(folder / "honest-model.h5")

    def read(path: Path) -> str:
        kind = path.name.removeprefix("honest-")
        if kind.startswith("model"):
            return loaded_and_stepped(path)
        if kind.startswith("scale"):
            stepstream.load(folder / "honest-model.h5", scale=read_scale(path))
            return "loaded"
        load = snapshot.load_columns if "columns" in kind else snapshot.load
        with contextlib.suppress(stepstream.StateError):
            load(path, honest, Carry())
            snapshot.describe(path)
            return "loaded"
        snapshot.describe(path)  # both are safe, whichever refuses
        load(path, honest, Carry())
        return "loaded"

    def outcome(path: Path) -> str:
        try:
            return read(path)
        except (stepstream.ModelFileError, stepstream.StateError, stepstream.InputError) as e:
            said = str(e)
            if path.name not in said and "scale" not in said:
                return f"an error that does not name the file: {said[:200]}"
            if len(said) > 2000 and not said.startswith("scale:"):
                return f"an error of {len(said)} characters: {said[:200]}"
            return type(e).__name__
        except BaseException as e:
            place = traceback.extract_tb(e.__traceback__)[-1]
            return f"{type(e).__name__}: {str(e)[:200]} at {Path(place.filename).name}:{place.lineno}"

    for path in folder.glob("honest-*"):  # what is imported late is imported now
        read(path)
    honest.stream("carry").peek(samples(honest, 1, 1)[0, 0])  # the long way to a step too
    done: list[str] = []
    current = [Path()]

    def watch(event: str, args: tuple[object, ...]) -> None:
        if event == "open":
            path, mode, flags = args
            writes = isinstance(flags, int) and flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
            if writes or str(path) not in (str(current[0]), str(folder / "honest-model.h5")):
                done.append(f"open {path} {mode}")
        elif event == "import" and args[0] not in sys.modules:
            done.append(f"import {args[0]}")
        elif event.startswith(_FORBIDDEN) and event not in _HARMLESS:
            done.append(f"{event} {args!r:.80}")

    resource.setrlimit(resource.RLIMIT_AS, (mebibytes << 20, mebibytes << 20))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    sys.addaudithook(watch)
    for path in files:
        current[0] = path
        done.clear()
        start = time.perf_counter()
        result = outcome(path)
        seconds = time.perf_counter() - start
        did = list(done)
        grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024
        print(
            json.dumps({"file": path.name, "result": result, "seconds": seconds, "did": did, "mebibytes": grown}),
            flush=True,
        )


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
