"""What the Keras reader builds with: tensors as Keras sees them, layers as the file has them, nodes of the graph."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import numpy as np

from stepstream import limits
from stepstream.errors import ModelFileError
from stepstream.graph.ir import MASK, Array, Node, TensorSpec, TimeRole
from stepstream.graph.streamable import Blocker
from stepstream.graph.validate import infer

Config = Mapping[str, Any]
MAX_FLOAT32 = float(np.finfo(np.float32).max)


class Blocked(Exception):
    """Raised while converting a layer that cannot step; never leaves the reader."""

    def __init__(self, found: Blocker) -> None:
        super().__init__(found.reason)
        self.blocker = found


class Place(Protocol):
    """Where a layer's weights lie: in a file or in a live model."""

    def arrays(self) -> list[Array]:
        """The layer's weights in the order in which Keras makes them, those of its cells or wrapped layer included."""

    def layers(self, entries: Sequence[Mapping[str, Any]]) -> list[Place]:
        """For a model: the place of each of its layers."""

    def wrapped(self, entry: Mapping[str, Any]) -> Place:
        """For a wrapper: the place of the layer inside."""


@dataclass(frozen=True)
class Writer:
    """The Keras that wrote the file. (3, 4) is the version from which merges take masks another way."""

    version: tuple[int, int]
    backend: str = ""

    @classmethod
    def parse(cls, version: str | None, backend: str = "") -> Writer:
        """None: a Keras 3 that does not say its minor version, taken for the newest."""
        found = re.match(r"(\d{1,4})(?:\.(\d{1,4}))?", "3" if version is None else version)
        if found is None or not 1 <= int(found[1]) <= 3:
            raise ModelFileError(f"expected a file by Keras 1, 2 or 3, got one by Keras {version}")
        return cls((int(found[1]), 9999 if version is None else int(found[2] or 0)), backend)

    @property
    def keras(self) -> int:
        return self.version[0]


@dataclass(frozen=True)
class Tensor:
    """A Keras tensor on a stream. shape: of one sample; id: None behind a blocker; mask: the mask that it carries.

    role is what the layers here see: inside TimeDistributed a sample has no time.
    """

    id: str | None
    shape: tuple[int, ...]
    role: TimeRole
    mask: str | None = None
    made_by: Blocker | None = None  # of a layer that changed its axes: what to name where one is taken for time

    @property
    def rank(self) -> int:
        """Axes as Keras counts them, batch and time included."""
        return len(self.shape) + 1 + (self.role is TimeRole.SEQUENCE)


@dataclass(frozen=True)
class Layer:
    """One layer as the file describes it. kwargs: how it is called; weights are read when they are asked for."""

    kind: str
    name: str
    config: Config
    writer: Writer
    place: Place
    kwargs: Config = field(default_factory=dict)
    index: int = -1
    called_before: bool = False

    @property
    def weights(self) -> list[Array]:
        return self.place.arrays()

    def block(self, reason: str, remedy: str) -> Blocked:
        return Blocked(Blocker(self.name, self.kind, reason, remedy))

    def fail(self, message: str) -> ModelFileError:
        return ModelFileError(f"layer {self.name!r} ({self.kind}): {message}")

    def number(self, *keys: str, default: float | None) -> Any:
        """The first of these configuration values that is there; None only where that is the default."""
        for key in keys:
            if key in self.config:
                value = plain(self.config[key])
                if value is None and default is None:
                    return None
                if isinstance(value, bool) or not isinstance(value, int | float) or abs(value) > MAX_FLOAT32:
                    raise self.fail(f"expected a number for {key!r}, got {value!r}")
                return value
        return default

    def whole(self, key: str, default: int | None = None) -> int:
        """A configuration value that counts something, from 1."""
        value = plain(self.config.get(key, default))
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise self.fail(f"expected a whole number from 1 for {key!r}, got {value!r}")
        return value

    def integers(self, key: str, count: int, default: Any = None) -> tuple[int, ...]:
        """A configuration value that is one whole number for all axes, or one for each."""
        value = self.config.get(key, default)
        values = tuple(value) if isinstance(value, list | tuple) else (value,) * count
        if len(values) != count or any(isinstance(v, bool) or not isinstance(v, int) for v in values):
            raise self.fail(f"expected {count} whole numbers for {key!r}, got {value!r}")
        return values

    def named_weights(self, *names: str) -> dict[str, Array]:
        weights = self.weights
        if len(weights) != len(names):
            if self.config.get("lora_rank") is not None:
                raise self.block(
                    "the matrices of LoRA are apart from its weights",
                    "save it as .keras, which adds them to the weights",
                )
            raise self.fail(
                f"expected {len(names)} weights {list(names)}, "
                f"got {len(weights)} of shapes {[w.shape for w in weights]}"
            )
        return dict(zip(names, weights, strict=True))

    def axes(self, x: Tensor, default: Any = -1) -> list[int]:
        """`axis` counted within a sample's shape from its end; raises Blocked where it holds time or batch."""
        axis = self.config.get("axis", default)
        out = []
        for a in axis if isinstance(axis, list | tuple) else [axis]:
            if isinstance(a, bool) or not isinstance(a, int) or not -x.rank <= a < x.rank:
                raise self.fail(f"expected axes of {x.rank}, got {axis!r}")
            own = a - x.rank if a >= 0 else a
            if own < -len(x.shape):
                raise self.block(
                    f"it works over axis {axis}, not over the features of one sample alone", "use axis=-1; retrain"
                )
            out.append(own)
        return out


def plain(value: Any) -> Any:
    """Keras 3 writes NumPy values as objects: the value inside."""
    if isinstance(value, Mapping) and value.get("class_name") in {"__numpy__", "__tensor__"}:
        return value["config"].get("value")
    return value


def array(layer: Layer, key: str, value: Any) -> Array:
    """A configuration value that holds numbers, as float32."""
    try:
        with np.errstate(over="ignore"):  # Inf in a weight is refused with its name
            return np.asarray(plain(value), np.float32)
    except (TypeError, ValueError, OverflowError) as e:
        raise layer.fail(f"expected numbers for {key!r}") from e


class Builder:
    """Collects nodes, and infers the spec of each at once."""

    def __init__(self, writer: Writer) -> None:
        self.writer = writer
        self.nodes: list[Node] = []
        self.specs: dict[str, TensorSpec] = {MASK: TensorSpec((), TimeRole.SEQUENCE, "bool")}
        self.time: int | None = None  # samples a window, where the file fixes them
        self.stream = ""  # an input with time
        self.timeless = 0  # how many TimeDistributed we are in
        self.again = False  # whether the layer at hand was called before
        self.unfused: dict[tuple[int, ...], tuple[dict[str, Array], dict[str, Array]]] = {}  # by id; what it was, is
        self._repeated = self._copied = 0  # bytes of weights
        self._weights: set[int] = set()  # ids of all arrays so far
        self._names: Counter[str] = Counter()

    def input(self, name: str, spec: TensorSpec) -> Tensor:
        own = self._unique(name)
        self.specs[own] = spec
        if spec.role is TimeRole.SEQUENCE:
            self.stream = own
        return Tensor(own, spec.shape, spec.role, MASK if spec.role is TimeRole.SEQUENCE else None)

    def add(
        self,
        layer: Layer,
        op: str,
        xs: Sequence[Tensor],
        params: Mapping[str, Any] | None = None,
        weights: Mapping[str, Array] | None = None,
        also: Sequence[str] = (),
    ) -> Tensor:
        """A new node. also: ids of masks and other inputs, after xs.

        Behind a blocker nothing is built, and the first input's shape and role are passed on.
        """
        if any(x.id is None for x in xs):
            return replace(xs[0], id=None)
        ids = tuple(x.id for x in xs if x.id is not None)
        node = Node(self._unique(layer.name), op, (*ids, *also), params or {}, weights or {}, layer.name, layer.index)
        self.specs |= infer(node, self.specs)
        self.nodes.append(node)
        self._meter(layer, node)
        spec = self.specs[node.id]
        role = TimeRole.STATIC if self.timeless else spec.role
        made_by = next((x.made_by for x in xs if x.made_by is not None), None)
        return Tensor(node.id, spec.shape, role, xs[0].mask, made_by)

    def mask(self, layer: Layer, op: str, inputs: Sequence[str], params: Mapping[str, Any] | None = None) -> str:
        """A new mask."""
        node = Node(self._unique(layer.name + ".mask"), op, tuple(inputs), params or {}, {}, layer.name, layer.index)
        self.specs |= infer(node, self.specs)
        self.nodes.append(node)
        return node.id

    def _meter(self, layer: Layer, node: Node) -> None:
        """Raises ModelFileError where calling a few layers again takes far more than the file is large."""
        if self.again:
            self._repeated += sum(w.nbytes for w in node.weights.values())
            self._copied += sum(w.nbytes for w in node.weights.values() if id(w) not in self._weights)
        self._weights |= set(map(id, node.weights.values()))
        if self._repeated > limits.MAX_REPEATED_BYTES or self._copied > limits.MAX_COPIED_BYTES:
            raise layer.fail("expected layers to be called less often, got calls that use many times their weights")

    def _unique(self, name: str) -> str:
        """Names in files may be anything, and a layer may be called twice."""
        base = name.replace("#", "_") or "_"
        own = base
        while own in self.specs:
            self._names[base] += 1
            own = f"{base}:{self._names[base]}"
        return own


def vector(layer: Layer, x: Tensor) -> Tensor:
    """x, whose last axis must belong to the sample. Raises Blocked where it is time."""
    if not x.shape:
        raise layer.block(
            "its last axis is time", "give each sample an axis of its own, as in (batch, time, 1); retrain"
        )
    return x


def role_of(layer: Layer, xs: Sequence[Tensor]) -> TimeRole:
    """The role of a merge; raises Blocked where the future would come into the past."""
    roles = {x.role for x in xs}
    if {TimeRole.SEQUENCE, TimeRole.LATEST} <= roles:
        raise layer.block(
            "it brings a value that is known only after the last sample back to every sample before it",
            "merge sequences with sequences, or latest values with latest values; retrain",
        )
    return next(r for r in TimeRole if r in roles)
