"""Recurrent layers and cells, CuDNN's layouts among them.

File-format facts. CuDNNLSTM and CuDNNGRU keep each gate's input kernel as (units, features) in row-major order inside
an array of shape (features, units), each recurrent gate transposed, and two biases one after the other: of the input
and of the recurrent product. Gates: LSTM i, f, c, o; GRU z, r, h.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import islice
from typing import Any

import numpy as np

from stepstream.formats.keras_activation import activation
from stepstream.formats.keras_build import Blocked, Builder, Layer, Tensor, array
from stepstream.formats.keras_places import is_custom
from stepstream.graph.ir import Array, TimeRole, frozen, state_ref
from stepstream.graph.streamable import Blocker

OPS = {
    "SimpleRNN": "simple_rnn", "LSTM": "lstm", "GRU": "gru", "CuDNNLSTM": "lstm", "CuDNNGRU": "gru",
    "SimpleRNNCell": "simple_rnn", "LSTMCell": "lstm", "GRUCell": "gru",
}  # fmt: skip
GATES = {"simple_rnn": 1, "gru": 3, "lstm": 4}
SLOTS = {"simple_rnn": 1, "gru": 1, "lstm": 2}


def recurrent(layer: Layer, build: Builder, xs: list[Tensor]) -> list[Tensor]:
    """LSTM, GRU, SimpleRNN, their CuDNN forms and RNN over cells -> the output, and the states if asked for."""
    config = layer.config
    if config.get("go_backwards"):
        raise layer.block("go_backwards=True reads the stream from its end", "train it in forward direction")
    if config.get("time_major"):
        raise layer.block("time_major=True puts time before the batch", "rebuild it with time_major=False")
    cells = _cells(layer)
    x, initial = xs[0], xs[1:]
    _takes_a_stream(layer, build, x)
    states = _constants(layer, cells, initial)
    mask = layer.kwargs.get("mask", x.mask)
    carried = x.mask
    if states is not None and layer.writer.keras >= 3 and "mask" not in layer.kwargs:
        mask = None  # called with two tensors, Keras 3 does not hand the mask on, though the output still carries it
    if config.get("stateful") and layer.called_before:
        raise layer.block(
            "it is called twice with stateful=True: the second call starts from the last state of the first",
            "use stateful=False, or a layer for each call; rebuild the model with the same weights",
        )
    sequences = bool(config.get("return_sequences", False))
    y, found = x, list[list[Tensor]]()
    for i, cell in enumerate(cells):
        last = i == len(cells) - 1
        params, weights = _cell(cell, build)
        params["return_sequences"] = sequences or not last
        params["zero_output_for_mask"] = bool(config.get("zero_output_for_mask", False)) and last
        if states is not None:
            names = ("initial_h", "initial_c")[: SLOTS[OPS[cell.kind]]]
            weights |= dict(zip(names, states[i], strict=True))
        y = build.add(cell, OPS[cell.kind], [y], params, weights, [] if mask is None else [mask])
        y = replace(
            y, shape=(params["units"],), role=TimeRole.SEQUENCE if params["return_sequences"] else TimeRole.LATEST
        )
        slots = ("h", "c")[: SLOTS[OPS[cell.kind]]]
        refs = [None if y.id is None else state_ref(y.id, slot) for slot in slots]
        found.append([Tensor(ref, y.shape, TimeRole.LATEST) for ref in refs])
    y = replace(y, mask=carried if sequences else None)
    if _last_cell_first(layer):
        found.reverse()
    return [y, *(state for own in found for state in own)] if config.get("return_state") else [y]


def _last_cell_first(layer: Layer) -> bool:
    """Up to Keras 2.1 the states of stacked cells were listed so; later ones can be told to."""
    cell = layer.config.get("cell")
    if not isinstance(cell, Mapping) or cell["class_name"] != "StackedRNNCells":
        return False
    return layer.writer.version < (2, 2) or bool(cell["config"].get("reverse_state_order"))


def _takes_a_stream(layer: Layer, build: Builder, x: Tensor) -> None:
    if x.role is TimeRole.SEQUENCE and len(x.shape) == 1 and not build.timeless:
        return
    if build.timeless:
        raise layer.block("it would need a stream inside every sample", "wrap only layers that work on one sample")
    if x.made_by is not None:
        raise Blocked(x.made_by)
    if x.role is TimeRole.SEQUENCE:
        raise layer.block(f"expected a vector for each sample, got {x.shape}", "flatten each sample first; retrain")
    raise layer.block(
        "its input has no time on the stream: a value that is known only after the last sample cannot be fed back",
        "give it a sequence; retrain",
    )


def _cells(layer: Layer) -> list[Layer]:
    """The cells of a layer, in order; a plain layer is its own."""
    if layer.kind != "RNN":
        return [layer]
    inner = layer.config["cell"]
    stacked = inner["class_name"] == "StackedRNNCells"
    entries = inner["config"]["cells"] if stacked else [inner]
    weights = iter(layer.weights)
    out = []
    for entry in entries:
        kind, config = entry["class_name"], entry["config"]
        if kind not in {"LSTMCell", "GRUCell", "SimpleRNNCell"} or is_custom(entry):
            raise layer.block(
                f"its cell {kind} is not a standard one, and no code from a file is ever run",
                "use LSTMCell, GRUCell or SimpleRNNCell; retrain",
            )
        count = 3 if config.get("use_bias", True) else 2
        own = list(islice(weights, count))
        out.append(replace(layer, kind=kind, config=config, place=_Fixed(own)))
    if not out or next(weights, None) is not None:
        raise layer.fail("expected the weights of its cells, got another number of arrays")
    return out


class _Fixed:
    """Weights that were taken out of their place already."""

    def __init__(self, arrays: list[Array]) -> None:
        self._arrays = arrays

    def arrays(self) -> list[Array]:
        return self._arrays

    def layers(self, entries: Sequence[Mapping[str, Any]]) -> list[Any]:
        raise AssertionError("a cell holds no layers")

    def wrapped(self, entry: Mapping[str, Any]) -> Any:
        raise AssertionError("a cell wraps nothing")


def _constants(layer: Layer, cells: list[Layer], tensors: list[Tensor]) -> list[list[Array]] | None:
    """initial_state as arrays (units,) for each cell, or None where it is zero."""
    given = layer.kwargs.get("initial_state")
    if tensors or _holds_tensors(given):
        raise layer.block(
            "its initial_state is computed by other layers: known only when a stream starts, or after its last sample",
            "start from zeros or constants; give the values as a further input of every sample instead; retrain",
        )
    if given is None:
        return None
    parts = list(given) if isinstance(given, list | tuple) else [given]
    flat = [p for part in parts for p in (part if isinstance(part, list | tuple) and not _numeric(part) else [part])]
    values = [array(layer, "initial_state", v) for v in flat]
    out, at = [], iter(values)
    for cell in cells:
        own = []
        for _ in range(SLOTS[OPS[cell.kind]]):
            value = next(at, None)
            if value is None:
                raise layer.fail(f"expected a constant for each state, got {len(values)}")
            rows = np.unique(value.reshape(-1, cell.whole("units")), axis=0)
            if len(rows) != 1:
                raise layer.block("its initial_state differs within the batch", "use one initial state for all")
            own.append(rows[0])
        out.append(own)
    return out


def _numeric(value: Any) -> bool:
    while isinstance(value, list | tuple) and value:
        value = value[0]
    return isinstance(value, int | float)


def _holds_tensors(value: Any) -> bool:
    if isinstance(value, list | tuple):
        return any(map(_holds_tensors, value))
    return isinstance(value, Tensor)


def _cell(cell: Layer, build: Builder) -> tuple[dict[str, Any], dict[str, Array]]:
    """params and weights of the op, without the options of the layer around it."""
    config, op = cell.config, OPS[cell.kind]
    cudnn = cell.kind.startswith("CuDNN")
    units = cell.whole("units")
    params: dict[str, Any] = {"units": units, "activation": {"name": "tanh"}}
    if not cudnn:
        params["activation"] = activation(cell, "activation", "tanh")
    if op != "simple_rnn":
        default = "sigmoid" if cell.writer.version >= (2, 3) or cudnn else "hard_sigmoid"
        params["recurrent_activation"] = activation(cell, "recurrent_activation", default)
    names = ("kernel", "recurrent", "bias") if config.get("use_bias", True) else ("kernel", "recurrent")
    weights = cell.named_weights(*names)
    if "bias" in weights and weights["bias"].shape == (2 * GATES[op] * units,):
        # whatever the class: CuDNN's weights may stand in a plain layer; once for all calls of the layer
        key = tuple(map(id, weights.values()))
        if key not in build.unfused:
            build.unfused[key] = (weights, _unfused(cell, GATES[op], weights))
        weights = dict(build.unfused[key][1])
    if op == "gru":
        two = weights["bias"].ndim == 2 if "bias" in weights else cell.writer.version >= (2, 4)
        params["reset_after"] = cudnn or bool(config.get("reset_after", two))
    return params, weights


def _unfused(cell: Layer, gates: int, weights: dict[str, Array]) -> dict[str, Array]:
    """CuDNN's layout as that of the plain layer."""
    kernel, recurrent = weights["kernel"], weights["recurrent"]
    units = cell.whole("units")
    if kernel.ndim != 2 or recurrent.shape != (units, gates * units) or kernel.shape[1] != gates * units:
        raise cell.fail(f"expected kernels with {gates} gates of {units} units, got {kernel.shape}, {recurrent.shape}")
    parts = [g.reshape(units, -1).T for g in np.split(kernel, gates, axis=1)]
    out = {"kernel": np.hstack(parts), "recurrent": np.hstack([g.T for g in np.split(recurrent, gates, axis=1)])}
    two = weights["bias"].reshape(2, gates * units)
    out["bias"] = two if gates == 3 else two.sum(axis=0)
    return {k: frozen(w) for k, w in out.items()}


def made_time(layer: Layer) -> Blocker:
    """For a layer whose new axis a recurrent layer takes for time."""
    return Blocker(
        layer.name,
        layer.kind,
        "it makes the time axis inside the model, so that one input holds all samples of a window",
        "feed the network samples with the time axis already in its input; rebuild it so with the same weights",
    )
