"""The same bits on aarch64, cross-compiled and run by qemu."""

import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

from make import EXAMPLES, question
from stepstream.kernel.executor import native
from stepstream.kernel.plan import plan
from stepstream.testing import samples, stepped

COMPILER, EMULATOR = "aarch64-linux-gnu-g++", "qemu-aarch64"
HERE = Path(__file__).parent
NATIVE = HERE.parents[1] / "src" / "stepstream" / "kernel" / "native"
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(native() is None, reason="the native kernel is not built"),
    *(pytest.mark.skipif(shutil.which(t) is None, reason=f"{t} is not installed") for t in (COMPILER, EMULATOR)),
]


@pytest.fixture(scope="module")
def program(tmp_path_factory):
    path = tmp_path_factory.mktemp("aarch64") / "other_machine"
    sources = [HERE / "other_machine.cpp", NATIVE / "machine.cpp", NATIVE / "step.cpp"]
    flags = ["-std=c++17", "-O2", "-ffp-contract=off", "-fno-math-errno", "-static", "-pthread", f"-I{NATIVE}"]
    subprocess.run([COMPILER, *flags, *map(str, sources), "-o", str(path)], check=True)
    return path


@pytest.mark.parametrize("name", ["question", *EXAMPLES])
def test_aarch64_gives_the_same_bits(program, name):
    model = question() if name == "question" else EXAMPLES[name]()
    p, x = plan(model.graph), samples(model, streams=7)
    mask = np.random.default_rng(1).random(x.shape[:2]) > 0.3
    sizes = [p.features, p.outputs, p.scratch, p.input, p.mask, p.tile, len(x), x.shape[1]]
    arrays = [
        np.array(p.code, np.int64), np.array(p.options, np.float32), np.concatenate([*p.weights, np.zeros(16, "f4")]),
        np.concatenate([*p.indices, np.zeros(0, np.int32)]), np.array(p.state, np.int64), np.array(p.answers, np.int64),
        model.executor.initial_state(1), np.array(sizes, np.int64), np.ascontiguousarray(x.transpose(1, 0, 2)),
        np.ascontiguousarray(mask.T).astype(np.float32),
    ]  # fmt: skip
    data = b"".join(np.int64(a.size).tobytes() + a.tobytes() for a in arrays)
    out = subprocess.run([EMULATOR, str(program)], input=data, stdout=subprocess.PIPE, check=True).stdout
    ours = stepped(model.executor, x, mask).transpose(1, 0, 2)
    assert out == np.ascontiguousarray(ours).tobytes()
