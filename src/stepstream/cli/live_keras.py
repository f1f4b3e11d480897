"""The file of a model opened by Keras too, to compare with."""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path
from typing import Any

from stepstream.formats import bundle, keras
from stepstream.model import Model


def live_keras(model: Model, path: Path) -> tuple[Any, str]:
    """The same file opened by Keras, or why not; raises BlockedError for a model that is blocked.

    Keras' safe mode is not enough: some versions leave HDF5 files out.
    """
    _ = model.executor
    if bundle.is_bundle(path):
        return None, "a bundle, which Keras does not open: not compared with it; verify the file that it was made from"
    if importlib.util.find_spec("keras") is None:
        return None, "Keras not installed: not compared"
    unknown = keras.foreign(path)
    if unknown is not None:
        return None, f"the file names {unknown!r}, and Keras is given no file with anything unknown in it: not compared"
    if importlib.util.find_spec("tensorflow") is None:  # Keras' default back end
        installed = [name for name in ("jax", "torch") if importlib.util.find_spec(name)]
        os.environ.setdefault("KERAS_BACKEND", next(iter(installed), "tensorflow"))
    try:
        from keras.saving import load_model as opened_by_keras

        return opened_by_keras(path, compile=False, safe_mode=True), ""
    except Exception as e:  # whatever a framework throws at a file that we can read, the user should know
        return None, f"Keras cannot open the file, not compared: {type(e).__name__}: {e}"
