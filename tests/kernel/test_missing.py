"""Without the kernel everything runs on NumPy and says so; asked for what is not there, it is an error."""

import os
import subprocess
import sys

import pytest

MISSING = "native kernel missing, up to 300 times slower; install a C++ compiler and reinstall"
CODE = (
    "import sys; sys.modules['stepstream.kernel._native'] = None\n"  # as if it had not been built
    "import stepstream; m = stepstream.load(sys.argv[1]); print(m.runs_on); stepstream.load(sys.argv[1])\n"
    "print(len(str(m.check())), m.stream('carry').step([1, 2, 3]))"
)


def python(motions, code=CODE, **env):
    env = {**{k: v for k, v in os.environ.items() if not k.startswith("STEPSTREAM_")}, **env}
    command = [sys.executable, "-c", code, str(motions / "model.keras")]
    return subprocess.run(command, env=env, capture_output=True, text=True, check=False)


def test_a_missing_kernel_is_said_once_and_everything_runs(motions):
    out = python(motions)
    assert out.returncode == 0
    assert out.stdout.startswith(f"NumPy: {MISSING}\n")
    assert out.stderr.count(MISSING) == 1


@pytest.mark.parametrize(
    ("env", "message"),
    [
        ({"STEPSTREAM_REQUIRE_KERNEL": "1"}, MISSING),
        ({"STEPSTREAM_ISA": "base"}, "no kernel as STEPSTREAM_ISA asks for"),
    ],
)
def test_where_the_kernel_must_be_its_absence_is_an_error(motions, env, message):
    out = python(motions, **env)
    assert out.returncode == 1
    assert f"stepstream.errors.StepstreamError: {message}" in out.stderr


def test_a_kernel_that_does_not_load_is_told_from_a_missing_one(motions, tmp_path):
    (tmp_path / "broken.py").write_text("raise ImportError('no GLIBC_9.9')")
    spoilt = (
        "import sys, importlib.abc, importlib.util\n"
        "class Spoilt(importlib.abc.MetaPathFinder):\n"
        "    def find_spec(self, name, path, target=None):\n"
        "        if name == 'stepstream.kernel._native':\n"
        f"            return importlib.util.spec_from_file_location(name, {str(tmp_path / 'broken.py')!r})\n"
        "sys.meta_path.insert(0, Spoilt())\n"
    )
    out = python(motions, code=spoilt + CODE.split("\n", 1)[1])
    assert out.returncode == 0
    assert (
        "native kernel damaged or made for another machine, up to 300 times slower; reinstall (no GLIBC_9.9)"
        in out.stderr
    )
    assert "install a C++ compiler" not in out.stderr


def test_numpy_may_be_asked_for(motions):
    out = python(motions, STEPSTREAM_ISA="numpy")
    assert out.stdout.startswith("NumPy: as STEPSTREAM_ISA asks\n")
    assert out.stderr == ""
