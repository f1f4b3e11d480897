"""Importing the package is light and pulls in no framework."""

import subprocess
import sys

HEAVY = ["keras", "tensorflow", "torch", "jax", "h5py", "pyarrow", "onnxruntime", "typer", "rich", "pandas"]


def test_import_loads_no_framework():
    code = f"import sys, stepstream; print([m for m in {HEAVY!r} if m in sys.modules])"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"


def test_reading_a_keras_file_needs_no_keras(motions):
    code = f"import sys, stepstream; stepstream.load({str(motions / 'model.keras')!r}); print('keras' in sys.modules)"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "False"
