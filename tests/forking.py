"""pytest again and again, each run in a fork of a process that has imported all but stepstream: imports take longest.

A line in is [folder, STEPSTREAM_ISA, arguments] as JSON; a line out is the exit status. Output goes to folder/out.txt.
"""

import gc
import json
import os
import sys
import traceback
from contextlib import suppress
from importlib import import_module

import pytest

USED = ("numpy", "h5py", "pyfive", "rich.progress", "typer.testing", "sqlite3", "asyncio")
OPTIONAL = ("hypothesis.extra.numpy", "keras", "sklearn.metrics", "redis")
NOT_RUN = 99  # none of pytest's own


def run(folder, isa, arguments):
    os.chdir(folder)
    out = os.open("out.txt", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    for here, there in ((os.open(os.devnull, os.O_RDONLY), 0), (out, 1), (out, 2)):
        os.dup2(here, there)
    os.environ.update(PYTHONPATH=f"{folder}/src", STEPSTREAM_ISA=isa)
    sys.argv[1:] = arguments
    # an editable install is found before a path
    sys.meta_path[:] = [f for f in sys.meta_path if "stepstream" not in type(f).__module__]
    sys.path.insert(0, f"{folder}/src")
    try:
        status = pytest.main(arguments)
    except pytest.PytestUnhandledThreadExceptionWarning:  # of a thread that ends after all tests: a failure, too
        traceback.print_exc()
        status = 1
    return status if sys.modules["stepstream"].__file__.startswith(folder) else NOT_RUN


def main():
    for name in USED + OPTIONAL:
        with suppress(ImportError):
            import_module(name)
    assert "stepstream" not in sys.modules
    gc.freeze()  # pytest collects garbage when it ends
    for line in sys.stdin:
        child = os.fork()
        if child == 0:
            status = NOT_RUN
            try:
                status = run(*json.loads(line))
            except BaseException:
                traceback.print_exc()
            sys.stdout.flush()
            os._exit(status)
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)


if __name__ == "__main__":
    main()
