"""Where the weights of a Keras model lie: in an archive, in HDF5 by layer name, or in a live model.

Facts. An archive has a group for each layer, `layers/<class in snake case>` with a counter per class, and in it `vars`,
numbered in the order in which the layer made them; cells and wrapped layers lie below (`cell`, `cells`, `layer`). HDF5
files have one list of arrays for each layer of the outer model: all trainable ones of what is inside, layer by layer,
then all others; a frozen layer's, or frozen cell's, are among the others. tf.keras 2.12 to 2.14 call the container
`_layer_checkpoint_dependencies`, 2.12 and 2.13 count every layer with weights twice in it, and on Windows the path is
one name with backslashes.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from itertools import islice
from typing import Any, Final, TypeVar

import numpy as np

from stepstream.errors import ModelFileError
from stepstream.formats.hdf5 import Group
from stepstream.formats.keras_build import Place
from stepstream.graph.ir import Array, frozen

Entry = Mapping[Any, Any]
T = TypeVar("T")
MODELS = {"Sequential", "Functional", "Model"}
RAW: Final = object()  # a key that no file can hold: how many arrays Keras 1 wrote for an entry
OLD_CONTAINER = "_layer_checkpoint_dependencies"


def is_operation(entry: Entry) -> bool:
    """Keras 3 lists operations such as x + y beside the layers; some have a layer's class name.

    Its HDF5 files do not say the module, but operations have no `trainable`, as layers do, SpatialDropout excepted.
    """
    if entry.get("module") is not None:
        return str(entry["module"]).startswith(("keras.ops", "keras.src.ops"))
    calls, config = entry.get("inbound_nodes") or [None], entry["config"]
    written_by_3 = isinstance(calls, list) and isinstance(calls[0], Mapping) and "args" in calls[0]
    if str(entry["class_name"]).startswith("SpatialDropout"):
        return False
    return written_by_3 and isinstance(config, Mapping) and "trainable" not in config


def is_custom(entry: Entry) -> bool:
    """A user's own class, whatever its name: Keras 3 writes a registered name for those, and for Functional itself."""
    registered = entry.get("registered_name")
    if registered is None:
        return False
    keras = str(entry.get("module", "keras")).partition(".")[0] in {"keras", "tf_keras"}
    return not (entry["class_name"] in MODELS and registered == entry["class_name"] and keras)


def inner_layers(entry: Entry) -> list[Entry]:
    """The layers of a nested model, without what Keras does not count as one."""
    body = entry["config"]
    entries = body if isinstance(body, list) else body["layers"]
    hidden = {"InputLayer"} if entry["class_name"] == "Sequential" else set()
    return [e for e in entries if not is_operation(e) and e["class_name"] not in hidden]


def name_of(entry: Entry) -> str:
    """Keras 1 gives a nested Sequential its name outside its configuration, which is a list."""
    config = entry["config"]
    name = config.get("name") if isinstance(config, Mapping) else None
    name = entry.get("name") if name is None else name
    if not isinstance(name, str):
        raise ModelFileError(f"expected a name for every layer, got {name!r} for one of class {entry['class_name']!r}")
    return name


def counts(entry: Entry) -> tuple[int, int] | None:
    """How many arrays a layer has, trainable and others; None for a class that nobody here knows."""
    kind, config = entry["class_name"], entry["config"]
    if entry.get(RAW) is not None:
        return (entry[RAW], 0)
    if kind in MODELS:
        found = [counts(e) for e in inner_layers(entry)]
        if any(c is None for c in found):
            return None
        pair = (sum(c[0] for c in found if c), sum(c[1] for c in found if c))
    elif kind == "RNN":
        cells = _cells(entry)
        pair = (sum(c[0] for c in cells), sum(c[1] for c in cells))
    elif kind in {"TimeDistributed", "Bidirectional"}:
        inner = counts(config["layer"])
        if inner is None:
            return None
        twice = 2 if kind == "Bidirectional" else 1
        pair = (twice * inner[0], twice * inner[1])
    elif kind in _COUNTS and config.get("lora_rank") is None:
        pair = _COUNTS[kind](config)
    else:
        return None
    return _split(pair, config)


def _split(pair: tuple[int, int], config: Any) -> tuple[int, int]:
    return (0, sum(pair)) if isinstance(config, Mapping) and config.get("trainable") is False else pair


def _cells(entry: Entry) -> list[tuple[int, int]]:
    """`counts` of each cell of an RNN layer, in order."""
    config, cell = entry["config"], entry["config"]["cell"]
    found = [((2 + bool(c["config"].get("use_bias", True)), 0), c) for c in cell["config"].get("cells", [cell])]
    return [_split(_split(_split(pair, c["config"]), cell["config"]), config) for pair, c in found]


def _by_cell(entry: Entry, found: list[T]) -> list[T]:
    """What HDF5 has for a layer, cell by cell: there the arrays of frozen cells come last."""
    if entry["class_name"] != "RNN" or is_custom(entry):
        return found
    cells = _cells(entry)
    parts = iter(found[: sum(c[0] for c in cells)]), iter(found[sum(c[0] for c in cells) :])
    out = [a for cell in cells for part, count in zip(parts, cell, strict=True) for a in islice(part, count)]
    return [*out, *parts[0], *parts[1]]


def _biased(count: int) -> Any:
    return lambda config: (count + bool(config.get("use_bias", True)), 0)


def _norm(config: Any) -> int:
    return 1 if config.get("rms_scaling") else bool(config.get("scale", True)) + bool(config.get("center", True))


WITHOUT = {
    "InputLayer", "Activation", "Dropout", "SpatialDropout1D", "SpatialDropout2D", "SpatialDropout3D",
    "GaussianDropout", "GaussianNoise", "AlphaDropout", "ActivityRegularization", "Identity", "ReLU", "LeakyReLU",
    "ELU", "ThresholdedReLU", "Softmax", "Masking", "Rescaling", "Flatten", "Reshape", "Permute", "RepeatVector", "Add",
    "Subtract", "Multiply", "Average", "Maximum", "Minimum", "Concatenate", "Dot", "MaxPooling1D", "MaxPooling2D",
    "MaxPooling3D", "AveragePooling1D", "AveragePooling2D", "AveragePooling3D", "GlobalMaxPooling1D",
    "GlobalMaxPooling2D", "GlobalMaxPooling3D", "GlobalAveragePooling1D", "GlobalAveragePooling2D",
    "GlobalAveragePooling3D", "ZeroPadding1D", "ZeroPadding2D", "ZeroPadding3D",
}  # fmt: skip
_COUNTS: dict[str, Any] = {
    **dict.fromkeys(("LSTM", "GRU", "SimpleRNN"), _biased(2)),
    **dict.fromkeys(("CuDNNLSTM", "CuDNNGRU"), lambda config: (3, 0)),
    "Dense": _biased(1),
    **dict.fromkeys((f"{k}Conv{n}D" for k in ("", "Depthwise") for n in (1, 2, 3)), _biased(1)),
    **dict.fromkeys((f"SeparableConv{n}D" for n in (1, 2)), _biased(2)),
    "Embedding": lambda config: (1, 0),
    "PReLU": lambda config: (1, 0),
    "BatchNormalization": lambda config: (_norm(config), 2),
    "LayerNormalization": lambda config: (_norm(config), 0),
    "Normalization": lambda config: (0, 3 if config.get("mean") is None else 0),
    **dict.fromkeys(WITHOUT, lambda config: (0, 0)),
}


class Archive:
    """A layer's group in `model.weights.h5`. Weights of a layer that stands in several places lie in one of them."""

    def __init__(self, root: Group, path: Sequence[str], entry: Entry, top: Archive | None = None) -> None:
        self._root, self._path, self._entry = root, tuple(path), entry
        self._top = top or self

    @cached_property
    def _arrays(self) -> list[Array]:
        entry = self._entry
        found = list(self._own()) or self._elsewhere()
        config = entry["config"]
        if not isinstance(config, Mapping):
            return found
        if isinstance(config.get("cell"), Mapping):
            found += [array for cell in self._cells(config["cell"]) for array in cell.arrays()]
        if isinstance(config.get("layer"), Mapping):
            found += self.wrapped(config["layer"]).arrays()
        return found

    def arrays(self) -> list[Array]:
        """See Place."""
        return self._arrays

    def _own(self) -> Iterator[Array]:
        """Without those of wrapped layers and cells that have entries of their own."""
        if "cell" not in self._entry["config"] and self._has(("cell", "vars")):
            yield from self._below(("cell",), {"config": {}})._own()
        if not self._has(("vars",)):
            return
        group = self._group(("vars",))
        written = group.attr("name")
        if written is not None and self._path[-2:-1] == ("layers",):
            name = name_of(self._entry)
            if written != name:
                raise ModelFileError(f"expected the weights of layer {name!r} in {group.where}, got {written!r}'s")
        for key in sorted(group.names(), key=_number):
            yield frozen(group.array(key))

    def _elsewhere(self) -> list[Array]:
        """The weights of the same layer at another place; none where it is not clear which that is."""
        entry = self._entry
        if entry.get("shared_object_id") is None:
            return []
        found = self._top._homes.get(self._identity, [])
        # Keras writes the number of an object into what it has not finished writing when the object comes again
        other = [p for p in found if p._entry.get("shared_object_id") in {None, entry["shared_object_id"]}]
        same = len(other) == 1 and _unnumbered(other[0]._entry["config"]) == _unnumbered(entry["config"])
        return list(other[0]._own()) if same else []

    @property
    def _identity(self) -> tuple[Any, Any]:
        config = self._entry["config"]
        return self._entry["class_name"], config.get("name") if isinstance(config, Mapping) else None

    @cached_property
    def _homes(self) -> dict[Any, list[Archive]]:
        """Where the layers with weights lie, by class and name."""
        homes: dict[Any, list[Archive]] = {}
        waiting: list[Archive] = [self]
        while waiting:
            place = waiting.pop()
            entry, config = place._entry, place._entry["config"]
            if any(True for _ in place._own()):
                homes.setdefault(place._identity, []).append(place)
            if entry["class_name"] in MODELS:
                waiting += [p for p in place.layers(inner_layers(entry)) if isinstance(p, Archive)]
            elif isinstance(config.get("layer"), Mapping):
                waiting.append(place._below(("layer",), config["layer"]))
            elif isinstance(config.get("cell"), Mapping):
                waiting += place._cells(config["cell"])
        return homes

    def _cells(self, cell: Entry) -> list[Archive]:
        if "cells" not in cell["config"]:
            return [self._below(("cell",), cell)]
        cells = cell["config"]["cells"]
        return [self._below(("cell", "cells", n), e) for n, e in zip(_numbered(cells), cells, strict=True)]

    def layers(self, entries: Sequence[Entry]) -> list[Place]:
        """See Place. entries: the layers that Keras counts, in order."""
        if self._has((OLD_CONTAINER,)):
            return self._old_layers(entries)
        return [self._below(("layers", name), e) for name, e in zip(_numbered(entries), entries, strict=True)]

    def _old_layers(self, entries: Sequence[Entry]) -> list[Place]:
        """By order among the groups of a class that hold something."""
        groups = self._group((OLD_CONTAINER,))
        full: dict[str, list[str]] = {}
        for name in sorted(groups.names(), key=_number):
            if groups.is_group(name) and _holds_arrays(groups.group(name)):
                full.setdefault(re.sub(r"_\d+$", "", name), []).append(name)
        out: list[Place] = []
        for entry in entries:
            kind = snake_case(entry["class_name"])
            own = full.get(kind, []) if sum(counts(entry) or (0, 0)) else []
            out.append(self._below((OLD_CONTAINER, own.pop(0)), entry) if own else Nowhere())
        return out

    def wrapped(self, entry: Entry) -> Place:
        """See Place."""
        return self._below(("layer",), entry)

    def _below(self, path: Sequence[str], entry: Entry) -> Archive:
        return Archive(self._root, (*self._path, *path), entry, self._top)

    def _find(self, path: Sequence[str]) -> str | None:
        whole = (*self._path, *path)
        if self._root.has("/".join(whole)):
            return "/".join(whole)
        for last in range(len(whole), 0, -1):  # with backslashes, `vars` is still a group of its own
            joined = "/".join(["\\".join(whole[:last]), *whole[last:]])
            if self._root.has(joined):
                return joined
        return None

    def _has(self, path: Sequence[str]) -> bool:
        return self._find(path) is not None

    def _group(self, path: Sequence[str]) -> Group:
        found = self._find(path)
        assert found is not None
        return self._root.group(found)


def _unnumbered(config: Any) -> Any:
    """A configuration without the numbers of objects that stand in several places."""
    if isinstance(config, Mapping):
        return {k: _unnumbered(v) for k, v in config.items() if k != "shared_object_id"}
    return [_unnumbered(v) for v in config] if isinstance(config, list) else config


def _holds_arrays(group: Group) -> bool:
    return any(not group.is_group(n) or _holds_arrays(group.group(n)) for n in group.names())


def _number(name: str) -> int:
    found = re.search(r"(\d+)$", name)
    return int(found[1]) if found else 0


def _numbered(entries: Sequence[Entry]) -> list[str]:
    """lstm, lstm_1, dense, ... for entries in order."""
    seen: Counter[str] = Counter()
    out = []
    for entry in entries:
        kind = snake_case(entry["class_name"])
        out.append(f"{kind}_{seen[kind]}" if seen[kind] else kind)
        seen[kind] += 1
    return out


def snake_case(name: str) -> str:
    """Keras' rule for class names: SimpleRNN -> simple_rnn, PReLU -> p_re_lu."""
    name = re.sub(r"\W+", "", name)
    name = re.sub("(.)([A-Z][a-z]+)", r"\1_\2", name)
    return re.sub("([a-z])([A-Z])", r"\1_\2", name).lower()


class Listed:
    """Arrays in HDF5's order, with the names under which they were written."""

    def __init__(self, arrays: Sequence[Array], names: Sequence[str]) -> None:
        self._arrays, self._names = list(arrays), list(names)

    def arrays(self) -> list[Array]:
        """See Place."""
        return self._arrays

    def names(self) -> list[str]:
        """Of the arrays."""
        return self._names

    def layers(self, entries: Sequence[Entry]) -> list[Place]:
        """See Place: the arrays dealt out, trainable ones first."""
        found = [counts(e) for e in entries]
        if any(c is None for c in found):
            return [Unknown() for _ in entries]  # blocked in any case
        if sum(map(sum, (c for c in found if c))) != len(self._arrays):
            raise ModelFileError(f"expected the weights of {len(entries)} inner layers, got {len(self._arrays)} arrays")
        dealt: list[list[int]] = [[] for _ in entries]
        at = 0
        for part in (0, 1):
            for own, count in zip(dealt, found, strict=True):
                assert count is not None
                own += range(at, at + count[part])
                at += count[part]
        names = [name_of(e) for e in entries]
        known = set(names)
        for own, name in zip(dealt, names, strict=True):
            for i in own:
                words = set(re.split(r"[/:]", self._names[i]))
                if name not in words and words & known:
                    raise ModelFileError(f"expected a weight of layer {name!r}, got {self._names[i]!r}")
        dealt = [_by_cell(e, own) for e, own in zip(entries, dealt, strict=True)]
        return [Listed([self._arrays[i] for i in own], [self._names[i] for i in own]) for own in dealt]

    def wrapped(self, entry: Entry) -> Place:
        """See Place."""
        return self


class Nowhere:
    """For a layer of which the file holds nothing."""

    def arrays(self) -> list[Array]:
        """See Place."""
        return []

    def layers(self, entries: Sequence[Entry]) -> list[Place]:
        """See Place."""
        return [self for _ in entries]

    def wrapped(self, entry: Entry) -> Place:
        """See Place."""
        return self


class Unknown(Nowhere):
    """For a layer beside one of an unknown class, whose weights lie among its own."""


class ByName:
    """HDF5 of Keras 1 and later: `layer_names`, a group for each with `weight_names`."""

    def __init__(self, root: Group) -> None:
        self._root = root

    def arrays(self) -> list[Array]:
        """See Place."""
        return []

    def layers(self, entries: Sequence[Entry]) -> list[Place]:
        """See Place."""
        return [self._place(e) for e in entries]

    def _place(self, entry: Entry) -> Place:
        name = name_of(entry)
        if not self._root.has(name) or not self._root.is_group(name):
            return Nowhere()
        group = self._root.group(name)
        written = group.attr("weight_names") or []
        if not isinstance(written, list):
            raise ModelFileError(f"{group.where}: expected a list of weight names, got {written!r}")
        names = _by_cell(entry, [str(n) for n in written])
        return Listed([frozen(group.array(n)) for n in names], names)

    def wrapped(self, entry: Entry) -> Place:
        """See Place."""
        return self


class Live:
    """A Keras layer or model in memory."""

    def __init__(self, layer: Any) -> None:
        self._layer = layer

    @cached_property
    def _arrays(self) -> list[Array]:
        cells = getattr(getattr(self._layer, "cell", None), "cells", None)
        own = cells if isinstance(cells, list | tuple) else [self._layer]  # the frozen ones come last in Keras 2
        return [frozen(np.asarray(w)) for layer in own for w in layer.get_weights()]

    def arrays(self) -> list[Array]:
        """See Place."""
        return self._arrays

    def layers(self, entries: Sequence[Entry]) -> list[Place]:
        """See Place."""
        own = {layer.name: layer for layer in self._layer.layers}
        return [Live(own[n]) if (n := name_of(e)) in own else Nowhere() for e in entries]

    def wrapped(self, entry: Entry) -> Place:
        """See Place."""
        return Live(self._layer.layer)
