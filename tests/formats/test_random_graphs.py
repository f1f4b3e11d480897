"""Random Functional graphs equal Keras on both back ends, and what needs the future is refused wherever it stands."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

GRAPHS, REFUSALS = 330, 225
SCRIPT = Path(__file__).parent / "random_graphs.py"


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["jax", "torch"])
def test_random_graphs_equal_keras_or_are_refused(backend, tmp_path):
    pytest.importorskip("keras")
    pytest.importorskip("hypothesis")
    pytest.importorskip(backend)
    out = subprocess.run(
        [sys.executable, "-W", "ignore", str(SCRIPT), str(tmp_path), str(GRAPHS), str(REFUSALS)],
        env={**os.environ, "KERAS_BACKEND": backend, "JAX_DISABLE_JIT": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert out.returncode == 0, out.stdout + out.stderr
    graphs = re.search(rf"(\d+) graphs on {backend}, 0 wrong", out.stdout)
    assert graphs is not None, out.stdout
    assert int(graphs[1]) >= 300
    assert f"{REFUSALS} refusals on {backend}, 0 wrong" in out.stdout
