"""A Keras model's configuration and its weights to a graph: what all Keras formats share. Data in, data out."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from stepstream import limits
from stepstream.errors import GraphError, ModelFileError
from stepstream.formats import keras_calls
from stepstream.formats.keras_activation import CUSTOM
from stepstream.formats.keras_build import Blocked, Builder, Layer, Place, Tensor, Writer
from stepstream.formats.keras_calls import Ref, refs, replace_refs
from stepstream.formats.keras_inputs import Input, inputs_of
from stepstream.formats.keras_layers import convert
from stepstream.formats.keras_masks import Flags, operation
from stepstream.formats.keras_places import MODELS, Nowhere, Unknown, is_custom, is_operation, name_of
from stepstream.formats.reading import LayerInfo, Provenance, Reading
from stepstream.graph.flatten import unfold
from stepstream.graph.ir import Graph, TensorSpec, TimeRole
from stepstream.graph.streamable import Blocker
from stepstream.graph.validate import validate

Entry = Mapping[str, Any]
# what TensorFlow 1 and the alphas of 2 called them
ALIASES = {
    "BatchNormalizationV1": "BatchNormalization", "BatchNormalizationV2": "BatchNormalization", "UnifiedLSTM": "LSTM",
    "UnifiedGRU": "GRU",
}  # fmt: skip
UNKNOWN_KERAS_3 = "the file does not say which Keras 3 wrote it: taken for 3.4 or later"
RECURRENT = {"LSTM", "GRU", "SimpleRNN", "RNN", "CuDNNLSTM", "CuDNNGRU"}


def assemble(config: Entry, place: Place, writer: Writer, provenance: Provenance, where: str) -> Reading:
    """A model configuration and the place of its weights -> Reading. Raises ModelFileError."""
    try:
        return _Reader(writer).read(config, place, provenance)
    except (KeyError, TypeError, IndexError, AttributeError, ValueError, OverflowError) as e:
        if isinstance(e, ModelFileError | GraphError):
            raise ModelFileError(f"{where}: {e}") from e
        raise ModelFileError(f"{where}: the model configuration is incomplete or not understood: {e!r}") from e
    except MemoryError as e:
        raise ModelFileError(f"{where}: expected a model that fits into memory, got a larger one") from e


class _Reader:
    """Goes through a model's layers in the order in which they can be computed."""

    def __init__(self, writer: Writer) -> None:
        self.writer = writer
        self.build = Builder(writer)
        self.blockers: dict[str, Blocker] = {}
        self.layers: dict[str, LayerInfo] = {}
        self.stateful = False
        self.called: set[str] = set()
        self.calls = 0
        self.inside: dict[tuple[Place, int], list[Place]] = {}
        self.policies: set[str] = set()

    def read(self, config: Entry, place: Place, provenance: Provenance) -> Reading:
        if config["class_name"] not in MODELS or is_custom(config):
            raise ModelFileError(
                f"expected a Sequential or Functional model, got {config['class_name']!r}, whose layers only its code "
                "knows; save keras.Model(model.inputs, model.outputs), or rebuild it with the Functional API"
            )
        found = inputs_of(config)
        length = self._lengths(found)
        self.build.time = length
        tensors = {i.name: self._input(i) for i in found}
        specs = [(t.id, self.build.specs[t.id]) for t in tensors.values() if t.id is not None]
        result = self.model(config, place, [tensors[i.name] for i in found], "")
        outputs = self._outputs(config, result)
        notes = [
            f"the file's {p} policy runs in float32" for p in sorted(self.policies - {"float32", "int32", "int64", ""})
        ]
        notes += [i.note for i in found if i.note]
        blockers, graph = list(self.blockers.values()), None
        if not blockers:
            graph = Graph(tuple(specs), tuple(self.build.nodes), tuple((n, t.id or "") for n, t in outputs))
            kinds = {name: info.kind for name, info in self.layers.items()}
            graph, blockers = unfold(graph, kinds, self.stateful)
        if graph is not None:
            validate(graph)
        known = None if self.stateful or length is None or length < 2 else length
        if known and any(i.guessed for i in found):
            notes.append(
                f"the training length is a guess, from the first data that the model saw, {found[0].shape_text}; "
                "if its windows had another length, give training_length="
            )
        if self.stateful and (length or 0) > 1:
            notes.append(f"a stateful layer: windows of {length} samples continue one another, no training length")
        layers = tuple(self.layers.values())
        return Reading(graph, layers, tuple(blockers), known, provenance, tuple(notes))

    def _lengths(self, found: Sequence[Input]) -> int | None:
        """Samples a window, if the inputs agree on it."""
        if not any(i.role is TimeRole.SEQUENCE for i in found):
            first = found[0]
            self._block(
                Blocker(
                    first.name,
                    "InputLayer",
                    f"expected an input (batch, time, features), got {first.shape_text}",
                    "feed samples with a time axis and a known number of features; rebuild or retrain",
                )
            )
        for i in found:
            if i.unknown:
                self._block(
                    Blocker(
                        i.name, "InputLayer", f"expected a known number of features, got {i.shape_text}",
                        "give the input's last axes a size; rebuild it with the same weights",
                    )
                )  # fmt: skip
        lengths = {i.time for i in found if i.role is TimeRole.SEQUENCE and i.time is not None}
        if len(lengths) > 1:
            self._block(
                Blocker(
                    found[0].name,
                    "InputLayer",
                    f"its inputs have {' and '.join(map(str, sorted(lengths)))} samples a window: two streams of "
                    "different speed",
                    "give all inputs the same number of samples; retrain",
                )
            )
        return min(lengths, default=None)

    def _input(self, found: Input) -> Tensor:
        x = self.build.input(found.name, TensorSpec(found.shape, found.role))
        if found.name not in self.layers:
            self.layers[found.name] = LayerInfo(found.name, "InputLayer", TensorSpec(found.shape, found.role))
        return replace(x, id=None) if found.unknown else x

    def _block(self, found: Blocker) -> None:
        self.blockers.setdefault(found.layer, found)

    # a model: its layers in order

    def model(self, entry: Entry, place: Place, given: Any, path: str) -> Any:
        """A structure of output tensors. given: the input tensors, in the model's order or by name."""
        body = entry["config"]
        if entry["class_name"] == "Sequential" or isinstance(body, list):
            return self._sequential(body if isinstance(body, list) else body["layers"], place, given, path)
        return self._functional(body, place, given, path)

    def _sequential(self, body: Sequence[Entry], place: Place, given: Any, path: str) -> Any:
        x = _only(given)
        entries = [e for e in body if e["class_name"] != "InputLayer"]
        places = self._inside(place, id(body), lambda: place.layers(entries))
        names = [name_of(e) for e in entries]
        if len(set(names)) != len(names):
            raise ModelFileError(f"expected a name of its own for each layer, got {names}")
        for i, (entry, own) in enumerate(zip(entries, places, strict=True)):
            x = self.layer(entry, own, [x], {}, path, -1 if path else i)
        return x

    def _functional(self, body: Entry, place: Place, given: Any, path: str) -> Any:
        entries = [e for e in body["layers"] if not is_operation(e)]
        inside = self._inside(place, id(body), lambda: place.layers(entries))
        places = dict(zip([name_of(e) for e in entries], inside, strict=True))
        indices = {name_of(e): i for i, e in enumerate(entries)}
        if len(indices) != len(entries):
            raise ModelFileError("expected a name of its own for each layer, got two layers of one name")
        everything = {name_of(e): e for e in body["layers"]}
        calls = {
            (name, i): keras_calls.parse(call)
            for name, e in everything.items()
            if e["class_name"] != "InputLayer"
            for i, call in enumerate(e.get("inbound_nodes") or [])
        }
        number = self._numbering(everything, calls)
        values: dict[tuple[str, int], list[Any]] = self._given(body, given)
        waiting: dict[tuple[str, int], set[tuple[str, int]]] = {}
        users: dict[tuple[str, int], list[tuple[str, int]]] = {}
        for key, call in calls.items():
            needed = {(r.layer, number[r.layer](r.call, False)) for r in refs([call.args, call.kwargs])} - set(values)
            waiting[key] = needed
            for source in needed:
                users.setdefault(source, []).append(key)
        ready = deque(key for key, needed in waiting.items() if not needed)
        while ready:
            key = ready.popleft()
            entry, call = everything[key[0]], calls[key]
            call = replace_refs(list(call), lambda r: _pick(values[r.layer, number[r.layer](r.call, False)], r))
            result = self._call(entry, places.get(key[0]), call[0], call[1], path, indices.get(key[0], -1))
            values[key] = list(_tensors(result)) if isinstance(result, list | Mapping) else [result]
            for user in users.get(key, []):
                waiting[user].discard(key)
                if not waiting[user]:
                    ready.append(user)
        left = [key[0] for key in waiting if key not in values]
        if left:
            raise ModelFileError(f"layer {left[0]!r}: expected inputs from other layers, got a circle or a gap")

        def output(ref: Ref) -> Any:
            key = (ref.layer, number[ref.layer](ref.call, True))
            if key not in values:
                raise ModelFileError(f"expected an output of layer {ref.layer!r}, got call {ref.call} of it")
            return _pick(values[key], ref)

        found = keras_calls.structure(body["output_layers"])
        if sum(1 for _ in refs(found)) > limits.MAX_OUTPUTS:
            raise ModelFileError(f"expected at most {limits.MAX_OUTPUTS} outputs of a model, got more")
        return replace_refs(found, output)

    def _inside(self, place: Place, part: int, find: Callable[[], list[Place]]) -> list[Place]:
        """The same places for every call of a model, so that weights are read once. part: id of a configuration."""
        if (place, part) not in self.inside:
            self.inside[place, part] = find()
        return self.inside[place, part]

    def _numbering(self, entries: Mapping[str, Entry], calls: Mapping[tuple[str, int], Any]) -> Any:
        seen: dict[str, list[int]] = {}
        for call in calls.values():
            for ref in refs([call.args, call.kwargs]):
                if ref.layer not in entries:
                    raise ModelFileError(f"expected a layer of the model, got {ref.layer!r}")
                seen.setdefault(ref.layer, []).append(ref.call)
        count = dict.fromkeys(entries, 0)
        for name, _ in calls:
            count[name] += 1
        return {
            name: keras_calls.renumber(e, max(1, count[name]), seen.get(name, []), self.writer.keras)
            for name, e in entries.items()
        }

    def _given(self, body: Entry, given: Any) -> dict[tuple[str, int], list[Any]]:
        """The model's inputs as outputs of its input layers."""
        wanted = keras_calls.structure(body["input_layers"])
        if isinstance(wanted, Mapping) and isinstance(given, Mapping) and set(wanted) == set(given):
            pairs = [(wanted[k], given[k]) for k in wanted]
        else:
            tensors = list(_tensors(given))
            found = list(refs(wanted))
            if len(found) != len(tensors):
                raise ModelFileError(f"expected {len(found)} inputs, got {len(tensors)}")
            pairs = list(zip(found, tensors, strict=True))
        return {(ref.layer, 0): [tensor] for ref, tensor in pairs}

    # one call of one layer

    def _call(self, entry: Entry, place: Place | None, args: list[Any], kwargs: Any, path: str, index: int) -> Any:
        name = path + name_of(entry)
        if place is None:
            layer = self._layer(entry, _NOWHERE, name, -1, {})
            try:
                return operation(layer, self.build, args, {k: v for k, v in kwargs.items() if v is not None})
            except Blocked as e:
                self._block(e.blocker)
                return _behind(list(_tensors(args)))
        if not args:
            args = [list(_tensors(kwargs))]
        kwargs = dict(kwargs)
        if entry["class_name"] in RECURRENT and len(args) > 1:
            kwargs.setdefault("initial_state", args[1])
        elif len(args) > 1:
            self._block(Blocker(name, entry["class_name"], "it is called with several arguments", _RETRAIN))
        structure = args[0]
        return self.layer(entry, place, structure, kwargs, path, -1 if path else index)

    def layer(self, entry: Entry, place: Place, given: Any, kwargs: dict[str, Any], path: str, index: int) -> Any:
        """The outputs of a layer, a wrapper or a model inside, as a structure of tensors."""
        entry = {**entry, "class_name": ALIASES.get(entry["class_name"], entry["class_name"])}
        kind, name = entry["class_name"], path + name_of(entry)
        xs = list(_tensors(given))
        if any(not isinstance(x, Tensor) for x in xs):
            raise ModelFileError(f"layer {name!r}: expected numbers, got the flags of a mask")
        if not xs:
            raise ModelFileError(f"layer {name!r}: expected inputs, got none")
        options, problem = self._options(kwargs)
        layer = self._layer(entry, place, name, index, options)
        ys: list[Tensor] = []
        try:
            if problem:
                raise layer.block(problem, "call it without; rebuild the model with the same weights")
            if is_custom(entry):
                raise layer.block(CUSTOM, "replace it with standard layers; retrain")
            if kind in MODELS:
                return self._inner(entry, place, _masked(given, kwargs.get("mask")), name)
            self._describe(layer)
            ys = self._time_distributed(layer, xs) if kind == "TimeDistributed" else convert(layer, self.build, xs)
        except Blocked as e:
            self._block(e.blocker)
            ys = _behind(xs)
        except (ModelFileError, GraphError):
            known = not isinstance(place, Unknown) and all(x.id is not None for x in xs)
            if known or self.calls > limits.MAX_LAYERS:
                raise
            ys = _behind(xs)  # behind a blocker neither shapes nor weights are known
        if name not in self.layers:
            self.layers[name] = LayerInfo(name, kind, TensorSpec(ys[0].shape, self._role(ys[0])) if ys[0].id else None)
        return ys

    def _role(self, y: Tensor) -> TimeRole:
        return self.build.specs[y.id].role if y.id is not None else y.role

    def _inner(self, entry: Entry, place: Place, given: Any, name: str) -> Any:
        if not self.build.timeless and len(name.split("/")) > limits.MAX_DEPTH:
            raise ModelFileError(f"expected models at most {limits.MAX_DEPTH} deep, got more")
        result = self.model(entry, place, given, name + "/")
        return result if isinstance(result, list | Mapping) else [result]

    def _layer(self, entry: Entry, place: Place, name: str, index: int, options: dict[str, Any]) -> Layer:
        config = entry["config"]
        self.calls += 1
        if self.calls > limits.MAX_LAYERS:
            raise ModelFileError(f"expected at most {limits.MAX_LAYERS} calls of layers, got more")
        self.build.again = name in self.called
        before = self.build.again or entry.get("shared_object_id") is not None  # here, or in another model
        self.called.add(name)
        return Layer(entry["class_name"], name, config, self.writer, place, options, index, before)

    def _options(self, kwargs: Mapping[str, Any]) -> tuple[dict[str, Any], str | None]:
        """What a call says beside its inputs: what is understood, and what is wrong with the rest."""
        options: dict[str, Any] = {}
        wrong = []
        for key, value in kwargs.items():
            if value is None or (key == "training" and value is False):
                continue
            if key == "mask" and isinstance(value, list | Mapping) and all(map(_plain_mask, _leaves(value))):
                continue  # of a model inside: `_masked`
            if key == "mask" and value is not None and _plain_mask(value):
                options["mask"] = value.masks[0]
            elif key == "initial_state":
                options["initial_state"] = value
            else:
                said = "a tensor" if any(True for _ in _tensors(value)) else repr(value)[:40]
                wrong.append(f"{key}={said}")
        return (
            options,
            f"it is called with {', '.join(wrong)}, which only its training or its code can answer" if wrong else None,
        )

    def _describe(self, layer: Layer) -> None:
        """What a layer says of the whole model. Raises Blocked for weights that are no plain numbers."""
        policy = _policy(layer.config.get("dtype"))
        self.policies.add(policy)
        self.stateful |= bool(layer.config.get("stateful"))
        if policy.startswith(("int8", "int4", "float8")) or layer.config.get("quantization_config") is not None:
            raise layer.block("its weights are quantised", "save the model before quantising it")

    def _time_distributed(self, layer: Layer, xs: list[Tensor]) -> list[Tensor]:
        """The layer inside, on samples that have no time of their own."""
        inner = layer.config["layer"]
        (x,) = xs
        if x.role is not TimeRole.SEQUENCE:
            raise layer.block(
                "it runs over an axis that is not the stream's time", "use it on the stream itself; retrain"
            )
        kind = inner["class_name"]
        self.build.timeless += 1
        try:
            # Keras 3 hands each sample's own mask on to what is inside
            mask = layer.kwargs.get("mask", x.mask) if self.writer.keras >= 3 else None
            sample = replace(x, role=TimeRole.STATIC, mask=mask, made_by=None)
            (place,) = self._inside(layer.place, id(inner), lambda: [layer.place.wrapped(inner)])
            if is_custom(inner):
                raise layer.block(CUSTOM, "replace it with standard layers; retrain")
            if kind in MODELS:
                y = _only(self.model(inner, place, [sample], layer.name + "/"))
            elif kind == "TimeDistributed":
                raise layer.block("one TimeDistributed inside another has two times", "use one; retrain")
            else:
                wrapped = Layer(kind, layer.name, inner["config"], self.writer, place, {}, layer.index)
                y = convert(wrapped, self.build, [sample])[0]
        except Blocked as e:
            found = e.blocker
            raise Blocked(replace(found, layer=layer.name, kind=f"TimeDistributed({kind})")) from None
        finally:
            self.build.timeless -= 1
        return [replace(y, role=TimeRole.SEQUENCE, mask=layer.kwargs.get("mask", x.mask), made_by=None)]

    def _outputs(self, config: Entry, result: Any) -> list[tuple[str, Tensor]]:
        """(name, tensor) for each output of the model."""
        body = config["config"]
        if config["class_name"] == "Sequential":
            entries = body if isinstance(body, list) else body["layers"]
            named = [(name_of(entries[-1]), _only(result))]
        elif isinstance(result, Mapping):
            named = [(str(k), y) for k, v in result.items() for y in _tensors(v)]
        else:
            layers = [r.layer for r in refs(keras_calls.structure(body["output_layers"]))]
            named = list(zip(layers, _tensors(result), strict=True))
        out: dict[str, Tensor] = {}
        count: Counter[str] = Counter()
        for name, y in named:
            own = name
            while own in out:
                count[name] += 1
                own = f"{name}_{count[name]}"
            out[own] = self._output(name, y)
        if all(self._role(y) is TimeRole.STATIC for y in out.values()):
            name = next(iter(out))
            kind = self.layers[name].kind if name in self.layers else "output"
            self._block(Blocker(name, kind, "nothing that comes out depends on the stream", "rebuild the model"))
        return list(out.items())

    def _output(self, name: str, y: Tensor) -> Tensor:
        kind = self.layers[name].kind if name in self.layers else "output"
        if y.id is None:
            return y
        if len(y.shape) > 1:
            self._block(
                Blocker(
                    name,
                    kind,
                    f"expected an output of one axis a sample, got {y.shape}",
                    "flatten each sample; retrain",
                )
            )
        elif not y.shape:
            layer = Layer(kind, name, {}, self.writer, _NOWHERE)
            return self.build.add(layer, "reshape", [y], {"shape": (1,)})
        return y


_NOWHERE = Nowhere()
_RETRAIN = "replace it with standard layers; retrain"


def _tensors(value: Any) -> Any:
    """All tensors and flags of a structure, dictionaries by key."""
    if isinstance(value, Mapping):
        if value.get("class_name") not in {"__numpy__", "__tensor__"}:
            for key in sorted(value):
                yield from _tensors(value[key])
    elif isinstance(value, list):
        for v in value:
            yield from _tensors(v)
    elif value is not None and not isinstance(value, str | int | float):
        yield value


def _leaves(value: Any) -> Iterator[Any]:
    """The leaves of a structure, dictionaries by key."""
    if isinstance(value, Mapping):
        value = [value[key] for key in sorted(value)]
    if isinstance(value, list):
        for v in value:
            yield from _leaves(v)
    else:
        yield value


def _plain_mask(value: Any) -> bool:
    return value is None or (isinstance(value, Flags) and not value.wide and len(value.masks) == 1)


def _masked(given: Any, mask: Any) -> Any:
    """The inputs of a model inside, with the masks that it is called with."""
    found = list(_leaves(mask))
    if not any(isinstance(m, Flags) for m in found):
        return given
    xs = list(_leaves(given))
    if len(xs) != len(found):
        raise ModelFileError(f"expected a mask for each of {len(xs)} inputs, got {len(found)}")
    return _like(given, iter([x if m is None else replace(x, mask=m.masks[0]) for x, m in zip(xs, found, strict=True)]))


def _like(structure: Any, leaves: Iterator[Any]) -> Any:
    """The structure with other leaves."""
    if isinstance(structure, Mapping):
        return {key: _like(structure[key], leaves) for key in sorted(structure)}
    return [_like(v, leaves) for v in structure] if isinstance(structure, list) else next(leaves)


def _only(value: Any) -> Tensor:
    found = list(_tensors(value))
    if len(found) != 1:
        raise ModelFileError(f"expected one tensor, got {len(found)}")
    return found[0]


def _pick(outputs: list[Any], ref: Ref) -> Any:
    """One output of a call."""
    if ref.tensor < len(outputs):
        return outputs[ref.tensor]
    if isinstance(outputs[0], Tensor) and outputs[0].id is None:  # how many a blocked layer has, nobody knows
        return outputs[0]
    raise ModelFileError(
        f"expected at most {len(outputs)} outputs of layer {ref.layer!r}, got one with number {ref.tensor}"
    )


def _behind(xs: Sequence[Any]) -> list[Tensor]:
    """What comes out of a layer that blocks: nothing, in the shape of what goes in."""
    first = next((x for x in xs if isinstance(x, Tensor)), Tensor(None, (1,), TimeRole.SEQUENCE))
    return [replace(first, id=None, mask=None)]


def _policy(dtype: Any) -> str:
    if isinstance(dtype, Mapping):
        dtype = dtype.get("config", {}).get("name", "")
    return dtype if isinstance(dtype, str) else ""
