"""A small bundle, and bundles that are made up: any texts and numbers, under the right sums."""

import contextlib
import copy
import hashlib
import json
import random
from pathlib import Path

import numpy as np
import pytest

import stepstream
from make import model_of
from stepstream import Model, ModelFileError, limits
from stepstream.formats import bundle_file
from stepstream.formats.bundle_graph import built
from stepstream.graph.passes import drop_identities

LENGTH = 8  # bytes that say how long the header is
ODD = (None, True, 0, 1, -1, 2, 7, 2**31, 2**63, 1.5, -0.0, 1e30, "", "x", "n0", "n0#h", "#mask", "tanh", "softmax",
       "lstm", "add", "where", "position", [], {}, [1, 2], {"name": "glu"}, {"x": 1})  # fmt: skip


def tiny() -> Model:
    """Its answers are exact: 0.5 x + 0.25."""
    kernel = {"kernel": np.array([[0.5]]), "bias": np.array([0.25])}
    return model_of(("dense", {"units": 1, "activation": {"name": "linear"}}, kernel), features=1, training_length=4)


def refused(path: Path, data: bytes) -> str:
    path.write_bytes(data)
    with pytest.raises(ModelFileError) as caught:
        stepstream.load(path)
    assert str(path) in str(caught.value)
    assert len(str(caught.value)) < 2 * limits.MAX_MESSAGE
    return str(caught.value)


def sealed(data: bytes) -> bytes:
    """With the right sum, as an attacker can have it too."""
    head, rest = data[: bundle_file.SUM.start], data[bundle_file.SUM.stop :]
    return head + hashlib.sha256(head + b"0" * 64 + rest).hexdigest().encode() + rest


def composed(texts: dict[str, str], entries: dict, body: bytes) -> bytes:
    header = {"__metadata__": {"sha256": "0" * 64, **texts}, **entries}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return sealed(len(text).to_bytes(8, "little") + text + body)


def parted(data: bytes) -> tuple[dict, dict]:
    """Texts as JSON values, and arrays that can be changed."""
    texts, arrays = bundle_file.unpacked(data, "a file")
    return {n: json.loads(t) for n, t in texts.items()}, {n: np.array(a) for n, a in arrays.items()}


def joined(values: dict, arrays: dict, keep_fingerprint: bool = False) -> bytes:
    """The fingerprint is right too, where the graph can be built at all."""
    if not keep_fingerprint:
        weights = {name: a for name, a in arrays.items() if name.startswith("weights")}
        with contextlib.suppress(ModelFileError, KeyError, TypeError):
            values["model"]["fingerprint"] = drop_identities(built(values["graph"], weights, "x")).fingerprint()
    entries, at = {}, 0
    for name, a in arrays.items():
        entries[name] = {"dtype": "F32", "shape": list(a.shape), "data_offsets": [at, at + 4 * a.size]}
        at += 4 * a.size
    texts = {n: v if isinstance(v, str) else json.dumps(v) for n, v in values.items()}
    return composed(texts, entries, b"".join(np.float32(a).tobytes() for a in arrays.values()))


def node(values, arrays, **changes):
    values["graph"]["nodes"][0].update(changes)


def model_says(values, arrays, **changes):
    values["model"].update(changes)


def params(values, arrays, **changes):
    values["graph"]["nodes"][0]["params"].update(changes)


def cyclic(values, arrays):
    first = values["graph"]["nodes"][0]
    values["graph"]["nodes"] = [{**first, "id": "a", "inputs": ["b"]}, {**first, "id": "b", "inputs": ["a"]}]


def array(values, arrays, name, value):
    arrays[name] = np.float32(value)


def text(values, arrays, name, value):
    values[name] = value


def more(values, arrays, place, entry):
    values["graph"][place].append(entry)


def without(values, arrays, name):
    values.pop(name, None)
    arrays.pop(name, None)


def mutated(value, rng: random.Random):
    """One to three places exchanged, left out, doubled, or of another type."""
    top = [copy.deepcopy(value)]
    for _ in range(rng.choice((1, 1, 2, 3))):
        places, stack = [], [top]
        while stack:
            owner = stack.pop()
            keys = list(owner) if isinstance(owner, dict) else range(len(owner))
            places += [(owner, key) for key in keys]
            stack += [owner[key] for key in keys if isinstance(owner[key], dict | list)]
        (owner, key), (other, from_key) = rng.choice(places), rng.choice(places)
        kind = rng.randrange(6)
        if kind < 2:
            owner[key] = copy.deepcopy(rng.choice(ODD))
        elif kind < 4:
            owner[key] = copy.deepcopy(other[from_key])
        elif kind < 5 and owner is not top:
            del owner[key]
        elif isinstance(owner, list) and owner is not top:
            owner.insert(key, copy.deepcopy(owner[key]))
    return top[0]


DEEP = "[" * 200 + "]" * 200
FORGED = [
    (node, {"op": "dance"}, "unknown op 'dance'"),
    (node, {"op": "flatten", "params": {"n": 3}, "weights": {}}, "an op that steps"),
    (node, {"op": ["dense"]}, "op to be a text"),
    (node, {"inputs": ["x", "x"]}, "expected 1 inputs, got 2"),
    (node, {"inputs": []}, "earlier nodes"),
    (node, {"inputs": ["#mask"]}, "expected numbers as input 0"),
    (node, {"inputs": "x"}, "a list of a text"),
    (node, {"id": "x"}, "two nodes"),
    (node, {"id": None}, "id to be a text"),
    (node, {"layer_index": -2}, "layer_index"),
    (node, {"layer_index": True}, "layer_index"),
    (node, {"is_scale": 1}, "is_scale"),
    (node, {"more": 1}, "expected an object with"),
    (node, {"weights": {"kernel": "weights/n0/kernel", "bias": "check/x"}}, "expected its weights"),
    (node, {"weights": {"kernel": "weights/n0/kernel"}}, "a node for all weights"),
    (node, {"weights": {"kernel": 1}}, "weights to be an object of texts"),
    (node, {"weights": {"kernel": "weights/n0/kernel", "bias": "weights/n0/bias", "knee": "weights/n0/bias"}}, "knee"),
    (params, {"units": 2}, "of shape"),
    (params, {"units": "1"}, "units to be a whole number"),
    (params, {"units": 1.0}, "units to be a whole number"),
    (params, {"units": True}, "units to be a whole number"),
    (params, {"units": 10**300}, "units to be a whole number"),
    (params, {"knee": 1}, "knee"),
    (params, {"activation": "linear"}, "an activation with a name"),
    (params, {"activation": {"name": ["relu"]}}, "an activation with a name"),
    (params, {"activation": {"name": "dance"}}, "unknown activation"),
    (params, {"activation": {"name": "relu", "x": 1}}, "has no"),
    (params, {"activation": {"name": "relu", "max_value": "6"}}, "max_value of relu"),
    (params, {"activation": {"name": "relu", "threshold": 1e39}}, "threshold of relu"),
    (params, {"activation": {"name": "gelu", "approximate": 1}}, "approximate of gelu"),
    (cyclic, {}, "earlier nodes"),
    (more, {"place": "outputs", "entry": ["n0", "n0"]}, "different names"),
    (more, {"place": "outputs", "entry": ["other", "gone"]}, "no node 'gone'"),
    (more, {"place": "outputs", "entry": ["a"]}, "outputs"),
    (more, {"place": "inputs", "entry": {"name": "z"}}, "expected an object with"),
    (more, {"place": "inputs", "entry": {"name": "z", "shape": [0], "role": "static", "dtype": "float32"}}, "shape"),
    (more, {"place": "inputs", "entry": {"name": "z", "shape": [1], "role": "latest", "dtype": "float32"}}, "role"),
    (more, {"place": "inputs", "entry": {"name": "z", "shape": [1], "role": "static", "dtype": "bool"}}, "dtype"),
    (more, {"place": "inputs", "entry": {"name": "x", "shape": [1], "role": "static", "dtype": "float32"}}, "its own"),
    (array, {"name": "weights/n0/kernel", "value": [[np.nan]]}, "NaN or Inf"),
    (array, {"name": "weights/n0/kernel", "value": [[np.inf]]}, "NaN or Inf"),
    (array, {"name": "weights/n0/kernel", "value": [0.5]}, "of shape"),
    (array, {"name": "weights/other", "value": [1]}, "a node for all weights"),
    (array, {"name": "other", "value": [1]}, "a node for all weights"),
    (array, {"name": "check/x", "value": np.zeros((3, 4, 2))}, "check vectors: expected"),
    (array, {"name": "check/x", "value": np.full((3, 4, 1), np.nan)}, "finite samples"),
    (array, {"name": "check/y", "value": np.zeros((3, 4))}, "check vectors: expected"),
    (array, {"name": "check/y", "value": np.zeros((3, 4, 2))}, "check vectors: expected"),
    (array, {"name": "check/y", "value": np.zeros((3, 4, 1))}, "the outputs that the file was saved with"),
    (without, {"name": "check/y"}, "check vectors: expected"),
    (without, {"name": "graph"}, "expected model, graph and provenance"),
    (without, {"name": "sums"}, "expected model, graph and provenance"),
    (without, {"name": "bundle"}, "does not say its format"),
    (text, {"name": "other", "value": "{}"}, "expected model, graph and provenance"),
    (text, {"name": "graph", "value": "{}"}, "expected an object with"),
    (text, {"name": "graph", "value": "[]"}, "expected an object with"),
    (text, {"name": "graph", "value": "{"}, "graph: expected JSON"),
    (text, {"name": "graph", "value": '{"inputs":1,"inputs":2}'}, "'inputs' twice"),
    (text, {"name": "reports/a", "value": DEEP}, "levels deep"),
    (text, {"name": "reports/a", "value": "NaN"}, "NaN"),
    (text, {"name": "reports/a", "value": "1" * 500}, "digits"),
    (text, {"name": "reports/a", "value": "1e999"}, "float64"),
    (text, {"name": "bundle", "value": '{"format":2,"writer":"stepstream 9","date":null}'}, "format 1 or older, got 2"),
    (text, {"name": "bundle", "value": '{"format":0,"writer":"stepstream 9","date":null}'}, "format to be"),
    (model_says, {"training_length": 0}, "training_length"),
    (model_says, {"training_length": limits.MAX_WINDOW + 1}, "training_length"),
    (model_says, {"training_length": 7.0}, "training_length"),
    (model_says, {"trained_ages": [2, 1]}, "trained_ages"),
    (model_says, {"trained_ages": [0, 1]}, "trained_ages"),
    (model_says, {"trained_ages": [1]}, "trained_ages"),
    (model_says, {"features": ["a", "b"]}, "1 features"),
    (model_says, {"features": "a"}, "features to be"),
    (model_says, {"features": [1]}, "features to be"),
    (model_says, {"classes": []}, "classes to be"),
    (model_says, {"classes": ["a", "a"]}, "classes to be"),
    (model_says, {"classes": ["a", "b"]}, "1 different names"),
]
