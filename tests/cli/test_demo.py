"""`stepstream demo` from outside."""

import subprocess
import sys


def test_demo_continues_bit_for_bit(tmp_path):
    command = [sys.executable, "-m", "stepstream", "demo"]
    out = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, check=True)
    assert "300 of 300 answers equal an uninterrupted run, bit for bit" in out.stdout
    assert out.stdout.count("probability 0.") == 600
    assert not list(tmp_path.iterdir())
