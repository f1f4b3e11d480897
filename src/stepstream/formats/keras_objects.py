"""What a configuration would have Keras build: only what is known here goes to Keras, wherever in the file it stands.

Reading is safe whatever a file names, as nothing is built from it. Keras imports modules by name, unpacks functions and
calls them, in some versions even where it was told not to, and it builds a layer that no call reaches all the same.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from stepstream.formats.keras_layers import IDENTITIES, LAYERS
from stepstream.formats.keras_masks import OPERATIONS
from stepstream.formats.keras_places import MODELS

PLAIN = {
    *("InputLayer", "TimeDistributed", "StackedRNNCells", "LSTMCell", "GRUCell", "SimpleRNNCell"),
    *("Zeros", "Ones", "Constant", "RandomNormal", "RandomUniform", "TruncatedNormal", "VarianceScaling", "Orthogonal"),
    *("GlorotNormal", "GlorotUniform", "HeNormal", "HeUniform", "LecunNormal", "LecunUniform", "L1", "L2", "L1L2"),
    *("MaxNorm", "MinMaxNorm", "NonNeg", "UnitNorm", "DTypePolicy", "Policy"),
    *("__keras_tensor__", "__numpy__", "__tensor__"),
}
KNOWN = {*LAYERS, *IDENTITIES, *OPERATIONS, *MODELS, *PLAIN}
PACKAGES = {"keras", "tf_keras"}


def foreign(config: Mapping[str, Any]) -> str | None:
    """The first object in a model's configuration that is none of Keras' own plain ones, or None."""
    stack: list[Any] = [{k: v for k, v in config.items() if k != "compile_config"}]  # how to train is not read
    while stack:
        value = stack.pop()
        if isinstance(value, Mapping):
            if "class_name" in value:
                kind, module = value["class_name"], value.get("module") or "keras"
                own = isinstance(kind, str) and kind in KNOWN and value.get("registered_name") in (None, kind)
                if not own or str(module).partition(".")[0] not in PACKAGES:
                    return str(kind)[:80]
            value = list(value.values())
        if isinstance(value, list):
            stack += value
    return None
