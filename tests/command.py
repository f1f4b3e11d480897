"""The command line as a user calls it: another process, its bytes, its exit status."""

import csv
import io
import os
import subprocess
import sys
from importlib.util import find_spec

from stepstream import Engine

STEPSTREAM = [sys.executable, "-m", "stepstream"]
HEADER = "key,time,age,dense,complete,beyond_training_length"
KEYED = ("--key", "key", "--time", "time", "--windowing", "carry")
CARRY = ("--windowing", "carry")
NO_SERVER = "expected a server that answers" if find_spec("redis") else "expected redis-py for a store"


def run(*arguments, data=None, code=0, env=None):
    out = subprocess.run(
        [*STEPSTREAM, *map(str, arguments)],
        input=data,
        capture_output=True,
        check=False,
        env={**os.environ, **(env or {})},
        timeout=120,
    )
    assert out.returncode == code, out.stderr.decode()
    return out


def ages(model, store):
    """The streams of a store, by key."""
    with Engine(model, "carry", store) as engine:
        return {stream.key: stream.age for stream in engine.streams()}


def rows(out):
    return list(csv.DictReader(io.StringIO(out.stdout.decode() if hasattr(out, "stdout") else out)))
