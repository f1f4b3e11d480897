"""The form of a network that is trained: raw logits, and states that come in and go out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, final

from stepstream.errors import InputError
from stepstream.learn.framework import keras
from stepstream.learn.network import last_layer, memory


@final
@dataclass(frozen=True)
class Twin:
    """model: [x (b, time, features), states (b, units) ..., mask (b, time) where masked] -> [logits (b, time, outputs),
    last states ...]. sizes: units of each state; () where nothing is carried. copies: (layer of the core, its copy).
    """

    model: Any
    sizes: tuple[int, ...]
    masked: bool
    copies: tuple[tuple[Any, Any], ...]

    def give_back(self) -> None:
        """Write the trained weights of the copies into the network they were made from."""
        for layer, copy in self.copies:
            layer.set_weights(copy.get_weights())


def twin(core: Any, carries: bool, masked: bool) -> Twin:
    """Make it. Layers whose settings stay are shared with the core.

    The last activation is left to the loss, which is exact in logits. masked: a mask says which samples there are, so
    that a window's last state is that of its last sample. Raises InputError where `carries` and something else than
    recurrent layers remembers samples, or the network has masks of its own.
    """
    layers = keras().layers
    recurrent, others = memory(core) if carries else ([], [])
    if others or (carries and not recurrent):
        found = ", ".join(others) or "no recurrent layer"
        raise InputError(
            f"network: expected recurrent layers alone to remember samples, where states are passed on, got {found}; "
            "train without state_passing and truncated"
        )
    x = layers.Input((None, core.inputs[0].shape[-1]), name="samples")
    mask = layers.Input((None,), dtype="bool", name="there") if masked else None
    end, answers, starts, finals, copies = last_layer(core), [], [], [], {}

    def copy(layer: Any) -> Any:
        if layer in recurrent:
            copies[layer] = type(layer).from_config({**layer.get_config(), "return_state": True})
        elif layer is end and (made := _linear(layer)) is not None:
            copies[layer] = made
        return copies.get(layer, layer)

    def call(layer: Any, *args: Any, **options: Any) -> Any:
        if layer is copies.get(end, end):
            if isinstance(layer, layers.Activation):
                options.pop("mask", None)  # that a Softmax in its place would have taken
            answers.append(layer(*args, **options))
            # the clone that comes of this is thrown away: Keras would refuse one with inputs that it does not know of
            return layers.Identity()(x)
        if layer not in copies.values():
            return layer(*args, **options)
        if options.get("mask") is not None or options.get("initial_state") is not None or len(args) > 1:
            raise InputError(
                f"network: layer {layer.name!r} has a mask or a first state of its own, which does not go with "
                "state_passing and truncated"
            )
        sizes = keras().tree.flatten(layer.cell.state_size)
        own = [layers.Input((size,), name=f"{layer.name}_{i}") for i, size in enumerate(sizes)]
        options = {k: v for k, v in options.items() if k != "mask"} | ({} if mask is None else {"mask": mask})
        y, *last = layer(args[0], initial_state=own, **options)
        starts.extend(own)
        finals.extend(last)
        return y

    keras().models.clone_model(core, x, copy, call)
    if len(answers) != 1:
        raise InputError(f"network: expected layer {end.name!r} to be called once, got {len(answers)} calls")
    for layer, made in copies.items():
        made.set_weights(layer.get_weights())
    inputs = [x, *starts, *([] if mask is None else [mask])]
    model = keras().Model(inputs, [answers[0], *finals])
    return Twin(model, tuple(s.shape[-1] for s in starts), masked, tuple(copies.items()))


def _linear(layer: Any) -> Any:
    """A last layer without its sigmoid or softmax; None where it has none."""
    layers, activations = keras().layers, keras().activations
    if isinstance(layer, layers.TimeDistributed):
        inner = _linear(layer.layer)
        return None if inner is None else layers.TimeDistributed(inner, name=layer.name)
    if isinstance(layer, layers.Softmax):
        return layers.Activation("linear", name=layer.name)
    if getattr(layer, "activation", None) not in (activations.sigmoid, activations.softmax):
        return None
    return type(layer).from_config({**layer.get_config(), "activation": "linear"})
