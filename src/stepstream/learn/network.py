"""The network that is trained: the default one, or the user's own, answering at every sample."""

from __future__ import annotations

from typing import Any

from stepstream.errors import BlockedError, InputError
from stepstream.formats import keras as keras_format
from stepstream.learn.data import Sequences
from stepstream.learn.framework import keras, seeded
from stepstream.learn.recipe import Recipe
from stepstream.model import load

# behind a recurrent layer these do to every sample what they did to the last one, as long as they look along the
# last axis
POINTWISE = {"Dense", "Dropout", "Activation", "LeakyReLU", "ReLU", "ELU", "Softmax", "GaussianNoise", "Rescaling"}
ALONG_LAST = {"BatchNormalization", "LayerNormalization"}
ENDS = {"binary": "sigmoid", "classes": "softmax", "regression": "linear"}


def kind_of(data: Sequences, recipe: Recipe) -> str:
    """What is to be answered: "binary", "classes" or "regression". Raises InputError where data and recipe differ."""
    if data.classes is None:
        if recipe.outputs not in (None, "regression"):
            raise InputError(f"outputs: expected regression, as the labels are numbers, got {recipe.outputs!r}")
        return "regression"
    if len(data.classes) < 2:
        raise InputError(f"expected labels of at least 2 classes, got {', '.join(data.classes)} alone")
    if recipe.outputs == "regression":
        raise InputError(f"outputs: expected binary or classes, as the labels are {', '.join(data.classes)}")
    if recipe.outputs == "binary" and len(data.classes) > 2:
        raise InputError(f"outputs: expected classes, as there are {len(data.classes)} of them, got 'binary'")
    return recipe.outputs or ("binary" if len(data.classes) == 2 else "classes")


def default(recipe: Recipe, features: int, outputs: int, kind: str, target: tuple[float, float] = (0.0, 1.0)) -> Any:
    """LSTM 32 -> LeakyReLU -> Dropout 0.2 -> LSTM 16 -> Dropout 0.2 -> LeakyReLU -> Dense, or what the recipe says.

    Over scaled (time, features); answers at every sample: (time, outputs). target: mean and standard deviation of what
    regression predicts, put behind the last layer.
    """
    layers = keras().layers
    cell = {"lstm": layers.LSTM, "gru": layers.GRU, "rnn": layers.SimpleRNN}[recipe.cell]
    inner: list[Any] = []
    for i, units in enumerate(recipe.units):
        inner.append(cell(units, return_sequences=True, name=f"{recipe.cell}_{i + 1}"))
        rest = [layers.LeakyReLU(name=f"leaky_{i + 1}")]
        if recipe.dropout:
            # as in the network that most users bring: the last dropout stands before its activation
            rest.insert(int(i < len(recipe.units) - 1), layers.Dropout(recipe.dropout, name=f"dropout_{i + 1}"))
        inner += rest
    inner.append(layers.Dense(outputs, activation=ENDS[kind], name="dense"))
    if kind == "regression":
        inner.append(layers.Rescaling(target[1], target[0], name="unscale"))
    x = y = layers.Input((None, features), name="samples")
    for layer in inner:
        y = layer(y)
    return keras().Model(x, y)


def own(network: Any, recipe: Recipe, features: int, classes: int | None) -> tuple[Any, str]:
    """The user's network and its kind: a copy of a Keras model with its weights, or what a builder function returns.

    A builder is called as `network(recipe, features)`. Raises InputError for what cannot be trained at every sample,
    BlockedError for layers that cannot step on a stream.
    """
    with seeded(recipe.seed):
        if _is_model(network):
            given, weights = network, network.get_weights()
        elif callable(network):
            given, weights = network(recipe, features), None
            if not _is_model(given):
                raise InputError(f"network: expected a function that returns a Keras model, got {type(given).__name__}")
        else:
            raise InputError(f"network: expected a Keras model or a function, got {type(network).__name__}")
        if blockers := keras_format.read(given).blockers:
            raise BlockedError(blockers)
        alone = len(given.inputs) == len(given.outputs) == 1
        flat = keras().Model(given.inputs[0], given.outputs[0]) if alone else None
        if flat is None or len(flat.inputs[0].shape) != 3 or flat.inputs[0].shape[-1] != features:
            got = [tuple(i.shape) for i in given.inputs]
            raise InputError(f"network: expected one input of (time, {features}) and one output, got {got}")
        if scaling := [la.name for la in flat.layers if isinstance(la, keras().layers.Normalization)]:
            raise InputError(
                f"network: expected one over samples that training has scaled, got layer {scaling[0]!r}, which scales "
                "them once more; leave it out"
            )
        if weights is None:
            weights = given.get_weights()
        model = _every_sample(flat, features)
    model.set_weights(weights)
    return model, _kind(model, recipe, classes)


def anew(network: Any) -> Any:
    """The same network before it has learned anything: a Keras model as a function that builds it with new weights.

    For trainings on parts of the data that are judged by the rest, which a model's weights may have seen. A function is
    taken at its word.
    """
    return (lambda _recipe, _features: keras().models.clone_model(network)) if _is_model(network) else network


def _is_model(value: Any) -> bool:
    return hasattr(value, "get_config") and hasattr(value, "layers") and hasattr(value, "inputs")


def _every_sample(flat: Any, features: int) -> Any:
    """A copy over any number of samples that answers at each; its last recurrent layer returns sequences."""
    layers = keras().layers
    recurrent = [la for la in flat.layers if isinstance(la, layers.RNN)]
    closed = recurrent[-1] if len(flat.outputs[0].shape) == 2 and recurrent else None
    if len(flat.outputs[0].shape) != 3 and closed is None:
        raise InputError(
            f"network: expected answers at every sample, (time, outputs), got {tuple(flat.outputs[0].shape[1:])}; "
            "let the last recurrent layer have return_sequences=True and do without Flatten and pooling over time"
        )
    if closed is not None:
        behind = flat.layers[flat.layers.index(closed) + 1 :]
        for layer in behind:
            kind = type(layer).__name__
            last = kind in ALONG_LAST and list(_axes(layer)) == [1]
            if (kind not in POINTWISE and not last) or (kind == "Softmax" and layer.axis not in (-1, 1)):
                raise InputError(
                    f"network: layer {layer.name!r} ({kind}) stands behind {closed.name!r}, which answers once; "
                    "expected return_sequences=True there and layers behind it that work on (time, units)"
                )

    def copy(layer: Any) -> Any:
        config = layer.get_config()
        if layer is closed:
            config["return_sequences"] = True
        if closed is not None and type(layer).__name__ in {*ALONG_LAST, "Softmax"} and layer in behind:
            config["axis"] = -1
        if isinstance(layer, layers.RNN):
            config["stateful"] = False  # states come in as inputs where they are carried
        config.pop("build_config", None)
        return type(layer).from_config(config)

    x = layers.Input((None, features), name="samples")
    return keras().models.clone_model(flat, input_tensors=x, clone_function=copy)


def _axes(layer: Any) -> Any:
    axis = layer.axis
    return [1 if a == -1 else a for a in (axis if isinstance(axis, list | tuple) else [axis])]


def _kind(model: Any, recipe: Recipe, classes: int | None) -> str:
    """By the last layer's units and activation."""
    outputs = model.outputs[0].shape[-1]
    kinds: dict[int, str] = {1: "regression"}
    if classes is not None:
        kinds = {1: "binary", 2: "classes"} if classes == 2 else {classes: "classes"}
    kind = kinds.get(outputs)
    if kind is None or recipe.outputs not in (None, kind):
        wanted = " or ".join(f"{n} ({k})" for n, k in kinds.items() if recipe.outputs in (None, k)) or recipe.outputs
        raise InputError(f"network: expected {wanted} outputs at every sample, got {outputs}")
    if kind != "regression" and last_activation(model) != ENDS[kind]:
        raise InputError(
            f"network: expected a last layer with activation {ENDS[kind]!r}, got {last_activation(model)!r} "
            f"in {last_layer(model).name!r}"
        )
    return kind


def last_layer(model: Any) -> Any:
    """The layer that makes the answer."""
    return model.outputs[0]._keras_history.operation


def last_activation(model: Any) -> str | None:
    """Name of the activation that makes the answer, or None where it has no name."""
    layer = last_layer(model)
    layer = getattr(layer, "layer", layer)  # within TimeDistributed
    if type(layer).__name__ == "Softmax":
        return "softmax"
    function = getattr(layer, "activation", None)
    named = [n for n in set(ENDS.values()) if function is keras().activations.get(n)]
    return named[0] if named else None


def scaled(core: Any, mean: Any, std: Any) -> Any:
    """The same layers, weights shared, behind a Normalization: over samples as they come."""
    layers, tree = keras().layers, keras().tree
    x = layers.Input((None, len(mean)), name="samples")
    # the variance in double precision, so that its root is std again
    variance = std.astype("float64") ** 2
    y = layers.Normalization(mean=mean.tolist(), variance=variance.tolist(), name="scale")(x)

    def call(layer: Any, *args: Any, **options: Any) -> Any:
        return layer(*tree.map_structure(lambda a: y if a is x else a, args), **options)

    return keras().models.clone_model(core, x, lambda layer: layer, call)


def memory(model: Any) -> tuple[list[Any], list[str]]:
    """(recurrent layers, names of other layers that carry something from sample to sample)."""
    recurrent = [la for la in model.layers if isinstance(la, keras().layers.RNN)]
    known = {la.name for la in recurrent}
    return recurrent, [row.layer for row in load(model).check().rows if row.state and row.layer not in known]
