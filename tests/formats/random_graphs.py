"""Random Functional recurrent graphs, built in Keras 3. Run as a script: compare all of them with what we read.

`draw(options)` takes one of several options by the next of a row of bytes that Hypothesis gives: drawn one by one, it
would vary a few graphs over and over. A tensor here is
what it means on a stream: `seq` (batch, time, f), `frames` (batch, time, more axes), `latest` and `static` (batch, f).
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import keras
import numpy as np
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from keras import layers

import stepstream
from stepstream.ops.executor import NumpyExecutor
from stepstream.testing import Yardstick, compare, difference, verify_contract, yardstick

BATCH = 3
STEPS = 5
KNOWN = 7  # indices of every Embedding
MOVES = 0.01
ACTIVATIONS = ["tanh", "sigmoid", "relu", "hard_sigmoid", "softsign", "elu"]
Draw = Callable[[Any], Any]


@dataclass(frozen=True)
class Tensor:
    x: Any
    kind: str

    @property
    def shape(self) -> tuple[int, ...]:
        """Of one sample."""
        return tuple(self.x.shape[2 if self.kind in {"seq", "frames"} else 1 :])


@dataclass
class Shared:
    """What all models of one graph have in common."""

    time: int | None
    batch: int | None
    stateful: bool
    masked: bool = False
    softmax: bool = False
    leaks: int = 0


@dataclass
class Net:
    """One model while it grows: its tensors, and layers that can be called again."""

    draw: Draw
    all: Shared
    tensors: list[Tensor]
    depth: int = 0
    again: list[tuple[Any, str, tuple[int, ...]]] = field(default_factory=list)
    used: set[int] = field(default_factory=set)
    must: set[int] = field(default_factory=set)  # goes to an output, used or not

    def take(self, *kinds: str, shape: tuple[int, ...] | None = None) -> Tensor | None:
        """One of the tensors of these kinds, the newest ones first."""
        found = [t for t in self.tensors if t.kind in kinds and shape in (None, t.shape)]
        if not found:
            return None
        t = self.draw(found[::-1][:4])
        self.used.add(id(t))
        return t

    def put(self, x: Any, kind: str) -> Tensor:
        self.tensors.append(Tensor(x, kind))
        return self.tensors[-1]

    def call(self, layer: Any, t: Tensor, kind: str | None = None, **options: Any) -> Tensor:
        self.again.append((layer, t.kind, t.shape))
        return self.put(layer(t.x, **options), kind or t.kind)

    def leaves(self, *kinds: str) -> list[Tensor]:
        return [t for t in self.tensors if t.kind in kinds and (id(t) in self.must or id(t) not in self.used)]

    def input(self, t: Tensor) -> Any:
        """An input of a nested model for such a tensor."""
        shape = t.x.shape[1:]
        if t.kind in {"seq", "frames"} and self.draw([False, True]) and self.all.time is None:
            shape = (None, *shape[1:])
        return layers.Input(shape, self.all.batch)


def chance(net: Net, one_in: int = 2) -> bool:
    return net.draw([False] * (one_in - 1) + [True])


# recurrent layers


def cell(net: Net, units: int) -> Any:
    options: dict[str, Any] = {"activation": net.draw(ACTIVATIONS[:3]), "use_bias": not chance(net, 4)}
    kind = net.draw([layers.LSTMCell, layers.GRUCell, layers.SimpleRNNCell])
    if kind is layers.GRUCell:
        options["reset_after"] = net.draw([True, False])
    if kind is not layers.SimpleRNNCell:
        options["recurrent_activation"] = net.draw(["sigmoid", "hard_sigmoid"])
    return kind(units, **options)


def recurrent(net: Net, sequences: bool, t: Tensor | None = None) -> Tensor | None:
    """A recurrent layer of any kind; perhaps its states as further tensors."""
    t = t or net.take("seq")
    if t is None:
        return None
    units = net.draw([1, 2, 3, 4])
    options: dict[str, Any] = {"return_sequences": sequences, "return_state": chance(net, 4)}
    if net.all.stateful:
        options["stateful"] = True
    zero = chance(net, 4)
    options["zero_output_for_mask"] = zero
    if net.all.time is not None and not zero:  # JAX forgets zero_output_for_mask where it unrolls
        options["unroll"] = chance(net, 4)
    if net.draw(["layer", "layer", "cell"]) == "layer":
        kind = net.draw([layers.LSTM, layers.GRU, layers.SimpleRNN])
        inner = cell(net, units)
        own = {"activation": inner.activation, "use_bias": inner.use_bias, "dropout": net.draw([0.0, 0.3])}
        layer = kind(units, **own, **options)
        states = 1 + (kind is layers.LSTM)
        sizes = [units] * states
    else:
        cells = [cell(net, net.draw([2, 3])) for _ in range(net.draw([1, 1, 2, 3]))]
        layer = layers.RNN(cells if len(cells) > 1 else cells[0], **options)
        sizes = [c.units for c in cells for _ in range(1 + isinstance(c, layers.LSTMCell))]
    call: dict[str, Any] = {}
    if net.all.batch and not net.all.stateful and chance(net, 3) and isinstance(layer, layers.LSTM | layers.GRU):
        call["initial_state"] = [np.full((BATCH, n), 0.3 * (i + 1), np.float32) for i, n in enumerate(sizes)]
    ys = layer(t.x, **call)
    if not call and not options["return_state"]:
        net.again.append((layer, t.kind, t.shape))
    kind = "seq" if sequences else "latest"
    if not options["return_state"]:
        return net.put(ys, kind)
    for state in keras.tree.flatten(ys[1:]):
        if chance(net):
            net.put(state, "latest")
    return net.put(ys[0], kind)


# layers of one sample


def pointwise(net: Net) -> Tensor | None:
    t = net.take("seq", "latest", "static", "frames")
    if t is None:
        return None
    net.all.softmax |= (softmax := not net.all.masked and chance(net, 12))
    if softmax:
        return net.call(layers.Softmax(), t)
    seq = t.kind == "seq"
    made = {
        "dense": lambda: layers.Dense(net.draw([1, 2, 3, 4]), activation=net.draw([None, *ACTIVATIONS])),
        "activation": lambda: layers.Activation(net.draw(["softmax", "gelu", "mish", *ACTIVATIONS])),
        "leaky": lambda: layers.LeakyReLU(0.2),
        "elu": lambda: layers.ELU(0.7),
        "relu": lambda: layers.ReLU(max_value=2.0, negative_slope=0.1),
        "prelu": lambda: layers.PReLU(shared_axes=[1] if seq else None),
        "dropout": lambda: layers.Dropout(0.4),
        "spatial": lambda: layers.SpatialDropout1D(0.4) if seq else layers.GaussianNoise(0.1),
        "identity": lambda: net.draw([layers.Identity, layers.ActivityRegularization])(),
        "batch": lambda: layers.BatchNormalization(scale=not chance(net, 3), center=not chance(net, 3)),
        "layer": lambda: layers.LayerNormalization(),
        "rescale": lambda: layers.Rescaling(0.7, offset=0.1),
        "normal": lambda: layers.Normalization(mean=[0.1] * t.shape[-1], variance=[0.7] * t.shape[-1]),
    }
    if t.kind == "frames":
        del made["prelu"]
    return net.call(net.draw(list(made.items()))[1](), t)


def masking(net: Net) -> Tensor | None:
    t = net.take("seq")
    if t is None or net.all.softmax:
        return None
    net.all.masked = True
    return net.call(layers.Masking(net.draw([0.0, 0.0, 0.5])), t)


# merges


MERGES = ["Add", "Subtract", "Multiply", "Average", "Maximum", "Minimum", "Concatenate", "Dot"]


def sized(net: Net, t: Tensor, size: int) -> Tensor:
    return t if t.shape == (size,) else net.call(layers.Dense(size), t)


def merge(net: Net) -> Tensor | None:
    a = net.take("seq", "latest", "static")
    if a is None:
        return None
    partners = {"seq": ("seq", "static"), "latest": ("latest", "static"), "static": ("static", "seq", "latest")}
    others = [net.take(*partners[a.kind])]
    if a.kind != "static" and chance(net, 3):
        others.append(net.take(a.kind))
    ts = [a, *(t for t in others if t is not None)]
    if len(ts) < 2:
        return None
    kinds = {t.kind for t in ts}
    kind = next(k for k in ("seq", "latest", "static") if k in kinds)
    name = net.draw(MERGES)
    if name == "Subtract" or name == "Dot":
        ts = ts[:2]
        kind = next(k for k in ("seq", "latest", "static") if k in {t.kind for t in ts})
    mixed = kind == "seq" and "static" in {t.kind for t in ts}  # (b, f) meets (b, t, f)
    if name == "Dot":
        if kind == "seq":
            return None
        ts = [sized(net, t, ts[0].shape[0]) for t in ts]
        return net.put(layers.Dot(net.draw([1, -1, (1, 1)]), normalize=chance(net))([t.x for t in ts]), kind)
    if name == "Concatenate":
        if mixed:
            return None
        axis = net.draw([-1, 2 if kind == "seq" else 1])
        return net.put(layers.Concatenate(axis=axis)([t.x for t in ts]), kind)
    ts = [sized(net, t, ts[0].shape[0]) for t in ts]
    return net.put(getattr(layers, name)()([t.x for t in ts]), kind)


# axes of a sample


def unfold(net: Net) -> Tensor | None:
    """A vector for each sample to several axes."""
    t = net.take("seq")
    if t is None:
        return None
    rows = net.draw([2, 3])
    wide = sized(net, t, rows * net.draw([2, 3]))
    size = wide.shape[0]
    time = net.all.time
    target = net.draw([(-1, rows, size // rows), (time or -1, rows, size // rows)])
    return net.call(layers.Reshape(target), wide, "frames")


def fold(net: Net) -> Tensor | None:
    """Several axes for each sample back to a vector."""
    t = net.take("frames")
    if t is None:
        return None
    size = int(np.prod(t.shape))
    how = net.draw(["flatten", "reshape", "convolution", "model", "pool", "permute"])
    if how == "permute":
        # an order that changes something: JAX returns the very same array for the others, and with it its mask
        order = (1, 3, 2) if len(t.shape) == 2 else net.draw([(1, 4, 2, 3), (1, 3, 2, 4)])
        return net.call(layers.Permute(order), t)
    if how == "reshape":
        return net.call(layers.Reshape((net.all.time or -1, size)), t, "seq")
    if how in {"convolution", "model"}:
        return net.call(layers.TimeDistributed(network(net, t.shape, how == "model")), t, "seq")
    if how == "pool":
        pool = layers.GlobalAveragePooling1D if len(t.shape) == 2 else layers.GlobalMaxPooling2D
        return net.call(layers.TimeDistributed(pool()), t, "seq")
    return net.call(layers.TimeDistributed(layers.Flatten()), t, "seq")


def network(net: Net, shape: tuple[int, ...], functional: bool) -> Any:
    """A small convolutional network over one sample."""
    flat = len(shape) == 2
    convolution = layers.Conv1D if flat else layers.Conv2D
    pool = net.draw([layers.MaxPooling1D, layers.AveragePooling1D] if flat else [layers.MaxPooling2D])
    padding = net.draw(["same", "valid"]) if min(shape[:-1]) > 1 else "same"
    x = layers.Input(shape)
    y = convolution(2, 2, padding=padding, activation=net.draw(ACTIVATIONS), strides=net.draw([1, 2]))(x)
    if chance(net):
        y = pool(2, padding="same")(y)
    if chance(net):
        y = layers.BatchNormalization()(y)
    y = net.draw([layers.Flatten, layers.GlobalAveragePooling1D if flat else layers.GlobalAveragePooling2D])()(y)
    if functional and chance(net):
        y = layers.Multiply()([y, layers.Dense(y.shape[-1], activation="sigmoid")(y)])
    y = layers.Dense(net.draw([1, 3]), activation="tanh")(y)
    model = keras.Model(x, y)
    return model if functional else keras.Sequential([layers.Input(shape), *model.layers[1:]])


def distributed(net: Net) -> Tensor | None:
    t = net.take("seq")
    if t is None:
        return None
    inner = net.draw(["dense", "activation", "norm", "model"])
    if inner == "model":
        x = layers.Input(t.shape)
        own = Net(net.draw, net.all, [Tensor(x, "static")], 9)
        y = grown(own, 3, ["pointwise", "merge"])
        return net.call(layers.TimeDistributed(keras.Model(x, y.tensors[-1].x)), t)
    layer = {
        "dense": layers.Dense(3, activation="tanh"),
        "activation": layers.Activation("gelu"),
        "norm": layers.LayerNormalization(),
    }[inner]
    return net.call(layers.TimeDistributed(layer), t)


def repeat(net: Net) -> Tensor | None:
    t = net.take("static") if net.all.time else None
    return t and net.call(layers.RepeatVector(net.all.time), t, "seq")


def joined(net: Net) -> Tensor | None:
    """Flatten -> Dense over the window, perhaps with something between and beside."""
    t = net.take("seq", "frames") if net.all.time and not net.all.stateful else None
    if t is None:
        return None
    y = layers.Flatten()(t.x)
    while chance(net):
        y = net.draw(
            [
                layers.Activation("tanh"),
                layers.BatchNormalization(),
                layers.Dropout(0.2),
                layers.LeakyReLU(),
                layers.PReLU(),
                layers.Rescaling(0.8, 0.2),
            ]
        )(y)
    if chance(net, 3) and (other := net.take("latest", "static", "seq")) is not None:
        side = layers.Flatten()(other.x) if other.kind == "seq" else other.x
        y = layers.Concatenate()(net.draw([[y, side], [side, y]]))
        if chance(net):
            y = layers.LeakyReLU()(y)
    return net.put(layers.Dense(net.draw([1, 3]), activation=net.draw([None, *ACTIVATIONS]))(y), "latest")


# models inside and layers called twice


def nested(net: Net) -> Tensor | None:
    """A model inside: Sequential with one input, or Functional with several."""
    if net.depth >= 3:
        return None
    functional = chance(net)
    given = [t for t in (net.take("seq"), net.take("seq", "static", "latest") if functional else None) if t]
    if not given:
        return None
    given = list({id(t.x): t for t in given}.values())
    xs = [net.input(t) for t in given]
    inner = Net(net.draw, net.all, [Tensor(x, t.kind) for x, t in zip(xs, given, strict=True)], net.depth + 1)
    if not functional:
        return sequential(net, inner, given[0])
    by_name = chance(net, 3)
    grown(inner, net.draw([1, 2, 3, 4]), list(STEPS_OF))
    outputs = [t for t in inner.leaves("seq", "latest") if not any(t.x is x for x in xs)][-2:]
    outputs = outputs or [Tensor(layers.Dense(2)(xs[0]), given[0].kind)]
    names = [f"in{i}" for i in range(len(xs))]
    single = len(outputs) == 1 and chance(net)
    ys = outputs[0].x if single else [t.x for t in outputs]
    if not single and chance(net, 3):
        ys = {f"out{i}": y for i, y in enumerate(ys)}
    if by_name:
        model = keras.Model(dict(zip(names, xs, strict=True)), ys)
    else:
        model = keras.Model(xs[0] if len(xs) == 1 else xs, ys)
    last = None
    # called again on other tensors: shared weights, separate state
    for times in range(1 + (chance(net, 3) and not net.all.stateful)):
        if times:
            given = [net.take(t.kind, shape=t.shape) or t for t in given]
        values = [t.x for t in given]
        if by_name:
            result = model(dict(zip(names, values, strict=True)))
        else:
            result = model(values[0] if len(values) == 1 else values)
        for y, t in zip(keras.tree.flatten(result), outputs, strict=True):
            last = net.put(y, t.kind)
    return last


def sequential(net: Net, inner: Net, given: Tensor) -> Tensor:
    """The layers of a chain, one after the other."""
    kind = given.kind
    for _ in range(net.draw([1, 2, 3])):
        (t,) = inner.tensors[-1:]
        step = net.draw(["pointwise", "recurrent", "masking", "model", "distributed"])
        if step == "recurrent" and t.kind == "seq":
            options = {"return_sequences": True, "stateful": net.all.stateful}
            inner.call(net.draw([layers.LSTM, layers.GRU])(3, **options), t)
        elif step == "masking" and not net.all.softmax and t.kind == "seq":
            net.all.masked = True
            inner.call(layers.Masking(), t)
        elif step == "distributed" and t.kind == "seq":
            inner.call(layers.TimeDistributed(layers.Dense(2, activation="tanh")), t)
        elif step == "model" and inner.depth < 3 and t.kind == "seq":
            deeper = Net(net.draw, net.all, [Tensor(inner.input(t), t.kind)], inner.depth + 1)
            sequential(inner, deeper, t)
        else:
            inner.call(layers.Dense(net.draw([2, 3]), activation="tanh"), t)
    model = keras.Sequential([layers.Input(given.x.shape[1:], net.all.batch), *(layer for layer, _, _ in inner.again)])
    return net.call(model, given, kind)


def twice(net: Net) -> Tensor | None:
    """A layer that was called before, on another tensor."""
    if net.all.stateful:  # the second call would go on from the first
        return None
    fits = [(layer, kind, shape) for layer, kind, shape in net.again if any(t.shape == shape for t in net.tensors)]
    if not fits:
        return None
    layer, kind, shape = net.draw(fits)
    t = net.take(kind, shape=shape)
    if t is None:
        return None
    y = layer(t.x)
    if isinstance(y, list | tuple | dict):
        return None
    if len(y.shape) > 2:
        return net.put(y, "seq" if len(y.shape) == 3 else "frames")
    return net.put(y, "static" if kind == "static" else "latest")


STEPS_OF: dict[str, Callable[[Net], Tensor | None]] = {
    "sequence": lambda net: recurrent(net, True),
    "latest": lambda net: recurrent(net, False),
    "pointwise": pointwise,
    "pointwise2": pointwise,
    "merge": merge,
    "merge2": merge,
    "masking": masking,
    "unfold": unfold,
    "fold": fold,
    "distributed": distributed,
    "repeat": repeat,
    "joined": joined,
    "nested": nested,
    "twice": twice,
}


def grown(net: Net, count: int, names: list[str]) -> Net:
    for _ in range(count):
        STEPS_OF[net.draw(names)](net)
    return net


# whole graphs


def inputs(draw: Draw, time: int | None, batch: int | None) -> list[tuple[Any, str]]:
    """Input tensors and what they are."""
    out = [(layers.Input((time, draw([1, 2, 3])), batch, name="x"), "seq")]
    for name, kind in (("y", "seq"), ("word", "index"), ("fixed", "static"), ("group", "one"), ("image", "frames")):
        if not draw([False, False, True]):
            continue
        size = {
            "seq": (time, draw([1, 2, 3])),
            "index": (time,),
            "static": (draw([1, 2, 3]),),
            "one": (1,),
            "frames": (time, 3, 4, 1) if draw([False, True]) else (time, 4, 2),
        }[kind]
        out.append((layers.Input(size, batch, name=name), kind))
    order = draw([1, -1])
    return out[::order]


@dataclass(frozen=True)
class Graph:
    model: Any
    kinds: dict[str, str]
    all: Shared


def graph(draw: Draw, special: Callable[[Net], None] | None = None) -> Graph:
    """special: a step that the graph takes once, at any place."""
    time, batch = draw([None, 4, STEPS, STEPS]), draw([None, None, BATCH])
    time = STEPS if special and time is None else time
    shared = Shared(time, batch, bool(batch) and draw([False, False, True]))
    given = inputs(draw, time, batch)
    net = Net(draw, shared, [])
    for x, kind in given:
        if kind in {"index", "one"}:
            mask_zero = kind == "index" and draw([False, True])
            shared.masked |= mask_zero
            y = layers.Embedding(KNOWN, draw([2, 3]), mask_zero=mask_zero)(x)
            net.put(y if kind == "index" else layers.Flatten()(y), "seq" if kind == "index" else "static")
        else:
            net.put(x, kind)
    count = draw([3, 4, 5, 6, 8])
    if special:
        before = draw(list(range(count)))
        grown(net, before, list(STEPS_OF))
        special(net)
        count -= before
    grown(net, count, list(STEPS_OF))
    return Graph(*finished(net, given), shared)


def finished(net: Net, given: list[tuple[Any, str]]) -> tuple[Any, dict[str, str]]:
    """Everything that nothing has used yet goes to an output."""
    draw = net.draw
    while net.leaves("frames"):
        (t, *_) = net.leaves("frames")
        net.used.add(id(t))
        net.must.discard(id(t))
        net.call(layers.TimeDistributed(layers.Flatten()), t, "seq")
    ends = []
    for kind in ("seq", "latest"):
        leaves = net.leaves(kind)
        for t in leaves[:1]:
            ends.append(Tensor(layers.Concatenate()([u.x for u in leaves]) if len(leaves) > 1 else t.x, kind))
    statics = net.leaves("static")
    if len(ends) and statics and ends[-1].kind == "latest":
        ends[-1] = Tensor(layers.Concatenate()([ends[-1].x, *(t.x for t in statics)]), "latest")
        statics = []
    outputs = []
    for t in ends:
        if t.kind == "seq" and draw([False, True]):
            outputs.append(layers.LSTM(3, stateful=net.all.stateful)(t.x))
        else:
            outputs.append(layers.Dense(3, activation="tanh")(t.x))
    if len(outputs) == 1 and draw([False, True]):
        outputs.append(layers.Activation("softplus")(outputs[0]))
    ys: Any = outputs[0] if len(outputs) == 1 else outputs
    calls = str([layer["inbound_nodes"] for layer in keras.Model([x for x, _ in given], ys).get_config()["layers"]])
    used = [x for x, _ in given if f"['{x.name}', 0, 0]" in calls]
    form = draw(["list", "dict"])
    xs = used if form == "list" else {x.name: x for x in used}
    if len(outputs) > 1 and draw([False, True]):
        ys = {f"answer{i}": y for i, y in enumerate(outputs)}
    return keras.Model(xs, ys), {x.name: kind for x, kind in given}


# what must be refused


def repeated(t: Any, time: int) -> Any:
    return layers.RepeatVector(time)(t)


# a and b: sequences (batch, time, 3), u: (batch, 3), known only at the end. time is the length of all windows
LEAKS: dict[str, Callable[[Any, Any, Any, int], Any]] = {
    **{
        f"{name} of latest": lambda a, b, u, time, name=name: getattr(layers, name)()([a, u])
        for name in ("Add", "Subtract", "Multiply", "Average", "Maximum", "Minimum")
    },
    "latest in front": lambda a, b, u, time: layers.Add()([u, a, b]),
    "latest of one sample": lambda a, b, u, time: layers.Multiply()([a, layers.Reshape((1, 3))(u)]),
    "plus": lambda a, b, u, time: a + keras.ops.expand_dims(u, 1),
    "repeat, concatenate": lambda a, b, u, time: layers.Concatenate()([a, repeated(u, time)]),
    "repeat, recurrent": lambda a, b, u, time: layers.GRU(2)(repeated(u, time)),
    "repeat, out": lambda a, b, u, time: repeated(u, time),
    "repeat a state": lambda a, b, u, time: layers.Add()([a, repeated(layers.GRU(3, return_state=True)(b)[1], time)]),
    "initial_state": lambda a, b, u, time: layers.LSTM(3, return_sequences=True)(a, initial_state=[u, u]),
    "initial_state of GRU": lambda a, b, u, time: layers.GRU(3)(a, initial_state=u),
    "initial_state of RNN": lambda a, b, u, time: layers.RNN(layers.GRUCell(3))(a, initial_state=u),
    "encoder, decoder": lambda a, b, u, time: layers.LSTM(3)(b, initial_state=layers.LSTM(3, return_state=True)(a)[1:]),
    "softmax over time": lambda a, b, u, time: layers.Softmax(axis=1)(a),
    "softmax over both": lambda a, b, u, time: layers.Softmax(axis=[1, 2])(a),
    "softmax by hand": lambda a, b, u, time: keras.ops.softmax(a, axis=1),
    "layer norm over time": lambda a, b, u, time: layers.LayerNormalization(axis=1)(a),
    "layer norm over both": lambda a, b, u, time: layers.LayerNormalization(axis=[1, 2])(a),
    "batch norm over time": lambda a, b, u, time: layers.BatchNormalization(axis=1)(a),
    "group norm": lambda a, b, u, time: layers.GroupNormalization(groups=1)(a),
    "unit norm over time": lambda a, b, u, time: layers.UnitNormalization(axis=1)(a),
    "rms norm over time": lambda a, b, u, time: layers.RMSNormalization(axis=1)(a),
    "concatenate over time": lambda a, b, u, time: layers.Concatenate(axis=1)([a, b]),
    "concatenate over time, -2": lambda a, b, u, time: layers.Concatenate(axis=-2)([b, a]),
    "latest put in front": lambda a, b, u, time: layers.Concatenate(axis=1)([layers.Reshape((1, 3))(u), a]),
    "dot over time": lambda a, b, u, time: layers.Dot(axes=1)([a, b]),
    "dot over features": lambda a, b, u, time: layers.Dot(axes=2)([a, b]),
    "dot with latest": lambda a, b, u, time: layers.Dot(axes=(2, 1))([a, u]),
    "dot with latest, in front": lambda a, b, u, time: layers.Dot(axes=(1, 2))([u, a]),
    "attention": lambda a, b, u, time: layers.Attention()([a, b]),
    "additive attention": lambda a, b, u, time: layers.AdditiveAttention()([a, b]),
    "heads": lambda a, b, u, time: layers.MultiHeadAttention(1, 2)(a, b),
    "causal heads": lambda a, b, u, time: layers.MultiHeadAttention(1, 2)(a, a, use_causal_mask=True),
    "convolution": lambda a, b, u, time: layers.Conv1D(3, 3, padding="same")(a),
    "depthwise": lambda a, b, u, time: layers.DepthwiseConv1D(3, padding="same")(a),
    "separable": lambda a, b, u, time: layers.SeparableConv1D(3, 2, padding="same")(a),
    "transposed": lambda a, b, u, time: layers.Conv1DTranspose(3, 2, padding="same")(a),
    "convolution over frames": lambda a, b, u, time: layers.TimeDistributed(layers.Flatten())(
        layers.Conv2D(2, 2, padding="same")(layers.Reshape((time, 3, 1))(a))
    ),
    "pooling over frames": lambda a, b, u, time: layers.TimeDistributed(layers.Flatten())(
        layers.MaxPooling2D(3, 1, padding="same")(layers.Reshape((time, 3, 1))(a))
    ),
    "max pooling": lambda a, b, u, time: layers.MaxPooling1D(2, 1, padding="same")(a),
    "average pooling": lambda a, b, u, time: layers.AveragePooling1D(2)(a),
    "global average": lambda a, b, u, time: layers.GlobalAveragePooling1D()(a),
    "global max": lambda a, b, u, time: layers.GlobalMaxPooling1D(keepdims=True)(a),
    "squeeze, excite": lambda a, b, u, time: layers.Multiply()([a, layers.GlobalAveragePooling1D(keepdims=True)(a)]),
    "padding": lambda a, b, u, time: layers.ZeroPadding1D(1)(a),
    "cropping": lambda a, b, u, time: layers.Cropping1D((1, 0))(a),
    "upsampling": lambda a, b, u, time: layers.UpSampling1D(2)(a),
    "PReLU": lambda a, b, u, time: layers.PReLU()(a),
    "PReLU, other axis": lambda a, b, u, time: layers.PReLU(shared_axes=[2])(a),
    "bidirectional": lambda a, b, u, time: layers.Bidirectional(layers.LSTM(2, return_sequences=True))(a),
    "bidirectional, last": lambda a, b, u, time: layers.Bidirectional(layers.GRU(2))(a),
    "backwards": lambda a, b, u, time: layers.LSTM(2, return_sequences=True, go_backwards=True)(a),
    "backwards, last": lambda a, b, u, time: layers.RNN(layers.GRUCell(2), go_backwards=True)(a),
    "permute": lambda a, b, u, time: layers.Permute((2, 1))(a),
    "dense over time": lambda a, b, u, time: layers.Permute((2, 1))(layers.Dense(time)(layers.Permute((2, 1))(a))),
    "reshape": lambda a, b, u, time: layers.Reshape((3, time))(a),
    "reshape into one axis": lambda a, b, u, time: layers.GRU(2)(layers.Reshape((time * 3, 1))(a)),
    "flatten, norm": lambda a, b, u, time: layers.Dense(2)(layers.LayerNormalization()(layers.Flatten()(a))),
    "flatten, softmax": lambda a, b, u, time: layers.Dense(2, "softmax")(layers.Softmax()(layers.Flatten()(a))),
    "flatten, average": lambda a, b, u, time: layers.Average()([layers.Flatten()(a), layers.Flatten()(b)]),
    "flatten, back": lambda a, b, u, time: layers.GRU(2)(layers.Reshape((time, 3))(layers.Flatten()(a))),
    "flatten, add": lambda a, b, u, time: layers.Add()([a, layers.Dense(3)(layers.Flatten()(b))]),
    "flatten, multiply": lambda a, b, u, time: layers.Multiply()([layers.Flatten()(a), layers.Flatten()(b)]),
    "flatten, repeat": lambda a, b, u, time: repeated(layers.Dense(3)(layers.Flatten()(a)), time),
    "dense, repeat": lambda a, b, u, time: layers.Concatenate()([b, repeated(layers.Dense(2, "relu")(u), time)]),
    "mean by hand": lambda a, b, u, time: a - keras.ops.mean(a, axis=1, keepdims=True),
    "flip": lambda a, b, u, time: keras.ops.flip(a, axis=1),
    "slice": lambda a, b, u, time: a[:, ::-1],
    "last of all": lambda a, b, u, time: layers.Add()([a, a[:, -1:]]),
    "cumulative": lambda a, b, u, time: keras.ops.cumsum(a, axis=1),
    "roll": lambda a, b, u, time: keras.ops.roll(a, 1, axis=1),
    "lambda": lambda a, b, u, time: layers.Lambda(lambda x: x[:, ::-1], output_shape=(time, 3))(a),
    "stream in a sample": lambda a, b, u, time: layers.TimeDistributed(layers.GRU(2))(layers.Reshape((time, 3, 1))(a)),
    "model on a latest value": lambda a, b, u, time: broadcast(a, u),
    "mask of another time": lambda a, b, u, time: layers.LSTM(2)(
        a, mask=keras.ops.flip(keras.ops.any(keras.ops.not_equal(b, 0.0), axis=-1), axis=1)
    ),
}  # fmt: skip


def broadcast(a: Any, u: Any) -> Any:
    """A model inside that adds its two inputs: it does not know where they come from."""
    x, y = layers.Input(a.shape[1:], a.shape[0]), layers.Input(u.shape[1:], u.shape[0])
    return keras.Model([x, y], layers.LSTM(2)(layers.Add()([x, y])))([a, u])


def leak(net: Net, name: str, deep: int) -> None:
    """The step, in the net or in models inside it."""
    t = net.take("seq") or net.tensors[0]
    if deep:
        x = net.input(t)
        inner = Net(net.draw, net.all, [Tensor(x, "seq")], net.depth + 1)
        leak(inner, name, deep - 1)
        y = inner.tensors[-1]
        net.must.add(id(net.put(keras.Model(x, y.x)(t.x), y.kind)))
        return
    a, b = sized(net, t, 3), net.call(layers.GRU(3, return_sequences=True), t)
    u = recurrent(net, False, t)
    assert u is not None
    y = LEAKS[name](a.x, b.x, sized(net, u, 3).x, net.all.time)
    if len(y.shape) == 3 and y.shape[1] != net.all.time:  # nothing else could meet it
        y = layers.LSTM(2)(y)
    net.must.add(id(net.put(y, "latest" if len(y.shape) == 2 else "seq" if len(y.shape) == 3 else "frames")))


def refused(draw: Draw, name: str) -> Graph:
    """A graph with one step that needs the future, somewhere."""
    return graph(draw, lambda net: leak(net, name, draw([0, 0, 1, 2])))


# comparing


def weigh(model: Any, scale: float = 0.5) -> None:
    """Weights large enough that the outputs move, the same on every back end."""
    rng = np.random.default_rng(1)
    values = []
    for v in map(np.asarray, model.get_weights()):
        noise = rng.normal(size=v.shape) * scale
        fan_in = max(1, int(np.prod(v.shape[:-1])))
        values.append((3 * noise / np.sqrt(fan_in) if v.ndim > 1 else v + abs(noise)).astype(np.float32))
    model.set_weights(values)


def data(found: Graph) -> dict[str, np.ndarray]:
    """Samples for each input, some of them zero."""
    rng = np.random.default_rng(3)
    time = found.all.time or STEPS
    empty = rng.random((BATCH, time)) < 0.35
    out = {}
    for x in found.model.inputs:
        kind = found.kinds[x.name]
        shape = tuple(x.shape[2:] if kind in {"seq", "frames", "index"} else x.shape[1:])
        if kind == "one":
            out[x.name] = rng.integers(0, KNOWN, (BATCH, 1))
        elif kind == "index":
            out[x.name] = np.where(rng.random((BATCH, time)) < 0.4, 0, rng.integers(0, KNOWN, (BATCH, time)))
        elif kind == "static":
            out[x.name] = rng.normal(size=(BATCH, *shape))
        else:
            value = rng.normal(size=(BATCH, time, *shape))
            gaps = empty if rng.random() < 0.7 else rng.random((BATCH, time)) < 0.35
            value[gaps] = 0
            out[x.name] = value
    return {name: v.astype(np.float32) for name, v in out.items()}


def compared(found: Graph, source: Any, sizes: list[float]) -> Iterator[str]:
    """What is wrong with what we read, if anything."""
    ours = stepstream.load(source)
    if ours.reading.blockers:
        yield f"blocked: {[(b.layer, b.kind, b.reason) for b in ours.reading.blockers]}"
        return
    model, given = found.model, data(found)
    named = {x.name for x in model.inputs}
    known = {name for name, _ in ours.graph.inputs}
    if named != known:
        yield f"inputs {known} for {named}"
        return
    x = ours.batch(given)
    yield from whole(found, ours, x, given, None, sizes)
    if not found.all.softmax:  # a Softmax layer takes the mask for one over its features
        mask = np.random.default_rng(5).random(x.shape[:2]) < 0.6
        yield from whole(found, ours, x, given, mask, sizes)
        yield from steps_under(ours, x, mask)
    try:
        verify_contract(ours, x)
    except AssertionError as e:
        yield f"contract: {e}"


def whole(
    found: Graph, ours: Any, x: np.ndarray, given: dict[str, np.ndarray], mask: np.ndarray | None, sizes: list[float]
) -> Iterator[str]:
    """Our whole pass and Keras', perhaps with a mask of the user's for all inputs with time."""
    model, options = found.model, {}
    if found.all.stateful:
        for layer in model._flatten_layers():
            if isinstance(layer, layers.RNN):
                for state in keras.tree.flatten(layer.states):
                    state.assign(np.zeros(state.shape, np.float32))
    by_name = isinstance(model.input, dict)
    if mask is not None:
        tensor = keras.ops.convert_to_tensor(mask)
        masks = {i.name: None if found.kinds[i.name] in {"static", "one"} else tensor for i in model.inputs}
        options["mask"] = masks if by_name else [masks[i.name] for i in model.inputs]
    fed = dict(given) if by_name else [given[i.name] for i in model.inputs]
    try:
        answers = keras.tree.flatten(model(fed, training=False, **options))
    except (ValueError, TypeError, RuntimeError):
        if mask is None:
            raise
        return  # Keras itself hands some layers inside TimeDistributed a mask that they cannot take
    names = sorted(model.output) if isinstance(model.output, dict) else list(ours.output_names)
    theirs = dict(zip(names, (keras.ops.convert_to_numpy(y) for y in answers), strict=True))
    if mask is None:
        result = ours.run(given)
        result = result if isinstance(result, dict) else {names[0]: result}
        measure = yardstick(ours, x)
    else:
        result = dict(zip(ours.output_names, ours.executor.whole(x, mask), strict=True))
        double = NumpyExecutor(ours.graph, np.float64)
        exact, single = (np.concatenate(steps(e, x, mask), axis=-1) for e in (double, ours.executor))
        measure = Yardstick(exact, np.maximum.accumulate(difference(single, exact), axis=1))
    at, time = 0, x.shape[1]
    for name, size in zip(ours.output_names, ours.output_sizes, strict=True):
        own = slice(at, at + size)
        at += size
        a, b = result[name], theirs[name]
        if a.shape != b.shape:
            yield f"output {name}: shape {a.shape} for {b.shape}"
            continue
        positions = [time - 1] if a.ndim == 2 else list(range(time))
        part = Yardstick(measure.exact[..., own], measure.noise[..., own]).at(positions)
        check = compare(name, "Keras", a.reshape(BATCH, -1, size), b.reshape(BATCH, -1, size), part)
        if not check.ok:
            yield f"{'' if mask is None else 'with a mask: '}{check}"
        sizes.append(check.error if not check.note else 0.0)
        if mask is None:
            sizes.append(-float(np.ptp(b, axis=0).max()))


def steps(executor: Any, x: np.ndarray, mask: np.ndarray) -> list[np.ndarray]:
    """(m, time, units) for each output, step by step under a mask."""
    state, out = executor.initial_state(len(x)), []
    for t in range(x.shape[1]):
        ys, state = executor.step(x[:, t], state, mask[:, t])
        out.append(ys)
    return [np.stack(y, axis=1) for y in zip(*out, strict=True)]


def steps_under(ours: Any, x: np.ndarray, mask: np.ndarray) -> Iterator[str]:
    """Whether stepping under a mask equals the whole pass at every position."""
    stepwise = steps(ours.executor, x, mask)
    for t in range(x.shape[1]):
        for name, a, b in zip(
            ours.output_names, stepwise, ours.executor.last(x[:, : t + 1], mask[:, : t + 1]), strict=True
        ):
            if (error := difference(a[:, t], b).max()) > 1e-5 * (1 + np.abs(b).max()):
                yield f"output {name}: step and whole differ under a mask at {t} by {error:.2g}"


def told(found: Graph) -> str:
    """The graph for whoever has to find out."""
    lines = [f"time {found.all.time}, batch {found.all.batch}"]
    for layer in found.model.layers:
        config = {k: v for k, v in layer.get_config().items() if isinstance(v, int | str | float) and v is not True}
        lines.append(f"  {type(layer).__name__} {layer.name} {config}"[:200])
    return "\n".join(lines)


def check_graphs(folder: str, count: int) -> str:
    """`count` graphs through memory and files in turn -> whatever is wrong, and a line of figures."""
    seen, problems, errors, still, different = 0, [], [0.0], 0, set()

    @bytes_for(count)
    def check(choices: bytes) -> None:
        nonlocal seen, still
        found = graph(drawing(choices))
        weigh(found.model)
        sizes: list[float] = []
        source = saved(found.model, folder, seen)
        seen += 1
        try:
            wrong = list(compared(found, source, sizes))
        except Exception as e:  # a finding like another: the graph that made it is told
            wrong = [f"{type(e).__name__}: {e}"]
        different.add(told(found))
        errors.extend(s for s in sizes if s >= 0)
        still += bool(sizes) and max(-s for s in sizes) < MOVES
        if wrong:
            problems.append(f"{seen}: " + "\n".join(wrong) + "\n" + told(found))

    check()
    if still > count // 10:
        problems.append(f"the outputs of {still} graphs hardly move, so the comparison says little")
    figures = f"{len(different)} graphs on {keras.backend.backend()}, {len(problems)} wrong, error {max(errors):.2g}"
    return "\n\n".join([*problems, figures])


def check_refusals(folder: str, count: int) -> str:
    """Every step that needs the future, at random places of `count` graphs."""
    seen, problems, names = 0, [], list(LEAKS)

    @bytes_for(count)
    def check(choices: bytes) -> None:
        nonlocal seen
        name = names[seen % len(names)]
        found = refused(drawing(choices), name)
        source = saved(found.model, folder, seen)
        seen += 1
        try:
            answer = "it loads" if not stepstream.load(source).reading.blockers else ""
        except Exception as e:
            answer = f"{type(e).__name__}: {e}"
        if answer:
            problems.append(f"{seen}: {name}: {answer}\n{told(found)}")

    check()
    return "\n\n".join([*problems, f"{seen} refusals on {keras.backend.backend()}, {len(problems)} wrong"])


def bytes_for(count: int) -> Callable[[Any], Any]:
    """Hypothesis' rows of bytes, always the same."""
    row = st.binary(min_size=400, max_size=400)
    same = settings(
        max_examples=count, derandomize=True, database=None, deadline=None, phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )  # fmt: skip
    return lambda test: same(given(row)(test))


def drawing(choices: bytes) -> Draw:
    row = iter(choices)
    return lambda options: options[next(row, 0) % len(options)]


def saved(model: Any, folder: str, number: int) -> Any:
    """The model itself, or a file of it."""
    form = (None, "keras", "h5")[number % 3]
    if form is None:
        return model
    path = f"{folder}/model.{form}"
    try:
        model.save(path)
    except (TypeError, NotImplementedError):  # some operations have no form in HDF5
        return model
    return path


def main(folder: str, graphs: int, refusals: int) -> int:
    """What is wrong with so many graphs that load, and so many that must not."""
    warnings.simplefilter("ignore")
    for kind in (keras.initializers.VarianceScaling, keras.initializers.Orthogonal, keras.initializers.RandomUniform):
        kind.__call__ = lambda self, shape, **options: keras.ops.zeros(shape)  # `weigh` follows, and this is fast
    if graphs:
        print(check_graphs(folder, graphs))
    if refusals:
        print(check_refusals(folder, refusals))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3])))
