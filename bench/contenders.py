"""The same networks in other hands: each steps `batch` streams, keeps their states, and answers (batch,)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from networks import SLOPE, Network

from stepstream.graph.ir import Array

Step = Callable[[Array], Array]  # x (batch, features) -> answers


def _sigmoid(x: Array) -> Array:
    return 1 / (1 + np.exp(-x))


def _turned(weights: Array, order: list[int]) -> Array:
    """The gates, side by side on the last axis, in another order."""
    return np.concatenate([np.split(weights, len(order), axis=-1)[g] for g in order], axis=-1)


def numpy_step(network: Network, batch: int) -> Step:
    """As one writes it by hand: inputs and state side by side, one product for all gates."""
    states = [[np.zeros((batch, u), np.float32) for _ in range(2)] for u in network.units]
    joined = [np.concatenate([w["kernel"], w["recurrent"]]) for kind, w in network.layers if kind == "lstm"]

    def step(x: Array) -> Array:
        lstm = 0
        for i, (kind, w) in enumerate(network.layers):
            if kind == "dense":
                return _sigmoid(x @ w["kernel"] + w["bias"])[:, 0]
            if kind == "lstm":
                h, c = states[i]
                z = np.concatenate([x, h], axis=1) @ joined[lstm] + w["bias"]
                lstm += 1
                u = h.shape[1]
                s = _sigmoid(z)
                c = s[:, u : 2 * u] * c + s[:, :u] * np.tanh(z[:, 2 * u : 3 * u])
                h = s[:, 3 * u :] * np.tanh(c)
                states[i] = [h, c]
            else:
                h, _ = states[i]
                u = h.shape[1]
                a, b = x @ w["kernel"] + w["bias"][0], h @ w["recurrent"] + w["bias"][1]
                zr = _sigmoid(a[:, : 2 * u] + b[:, : 2 * u])
                candidate = np.tanh(a[:, 2 * u :] + zr[:, u:] * b[:, 2 * u :])
                h = zr[:, :u] * h + (1 - zr[:, :u]) * candidate
                states[i][0] = h
            x = np.where(h >= 0, h, SLOPE * h) if network.leaky else h
        raise AssertionError

    return step


# ONNX Runtime


def _onnx(network: Network, decomposed: bool) -> bytes:
    from onnx import TensorProto, helper, numpy_helper

    nodes: list[Any] = []
    weights: list[Any] = []
    inputs = [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["b", network.features])]
    outputs = [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["b", 1])]

    def weight(name: str, value: Array) -> str:
        weights.append(numpy_helper.from_array(np.ascontiguousarray(value), name))
        return name

    def op(kind: str, *names: str, out: str | list[str], **attributes: Any) -> Any:
        outs = [out] if isinstance(out, str) else out
        nodes.append(helper.make_node(kind, list(names), outs, **attributes))
        return out

    source = "x"
    weight("zero", np.array([0], np.int64))
    weight("one", np.ones(1, np.float32))
    for i, (kind, w) in enumerate(network.layers):
        if kind == "dense":
            op("Gemm", source, weight("dw", w["kernel"]), weight("db", w["bias"]), out="logit")
            op("Sigmoid", "logit", out="y")
            continue
        u = network.units[i]
        slots = ["h", "c"] if kind == "lstm" else ["h"]
        for s in slots:
            lead = ["b", u] if decomposed else [1, "b", u]
            inputs.append(helper.make_tensor_value_info(f"{s}{i}", TensorProto.FLOAT, lead))
            outputs.append(helper.make_tensor_value_info(f"{s}{i}_", TensorProto.FLOAT, lead))
        if not decomposed:
            order = [0, 3, 1, 2] if kind == "lstm" else [0, 1, 2]  # ONNX: i o f c, and z r h
            if kind == "lstm":
                bias = np.concatenate([_turned(w["bias"], order), np.zeros(4 * u, np.float32)])[None]
            else:
                bias = np.concatenate([w["bias"][0], w["bias"][1]])[None]
            op("Unsqueeze", source, "zero", out=f"s{i}")
            names = [
                f"s{i}",
                weight(f"w{i}", _turned(w["kernel"], order).T[None]),
                weight(f"r{i}", _turned(w["recurrent"], order).T[None]),
            ]
            names += [weight(f"b{i}", bias), "", *(f"{s}{i}" for s in slots)]
            extra = {} if kind == "lstm" else {"linear_before_reset": 1}
            op(kind.upper(), *names, out=["", *(f"{s}{i}_" for s in slots)], hidden_size=u, **extra)
            op("Squeeze", f"h{i}_", "zero", out=f"o{i}")
        elif kind == "lstm":
            op("Concat", source, f"h{i}", out=f"xh{i}", axis=1)
            joined = np.concatenate([w["kernel"], w["recurrent"]])
            op("Gemm", f"xh{i}", weight(f"w{i}", joined), weight(f"b{i}", w["bias"]), out=f"z{i}")
            op("Split", f"z{i}", out=[f"{g}{i}" for g in "IFGO"], axis=1, num_outputs=4)
            for g in "IFO":
                op("Sigmoid", f"{g}{i}", out=f"s{g}{i}")
            op("Tanh", f"G{i}", out=f"tG{i}")
            op("Mul", f"sF{i}", f"c{i}", out=f"fc{i}")
            op("Mul", f"sI{i}", f"tG{i}", out=f"ig{i}")
            op("Add", f"fc{i}", f"ig{i}", out=f"c{i}_")
            op("Tanh", f"c{i}_", out=f"tc{i}")
            op("Mul", f"sO{i}", f"tc{i}", out=f"h{i}_")
            op("Identity", f"h{i}_", out=f"o{i}")
        else:
            op("Gemm", source, weight(f"w{i}", w["kernel"]), weight(f"b{i}", w["bias"][0]), out=f"a{i}")
            op("Gemm", f"h{i}", weight(f"r{i}", w["recurrent"]), weight(f"b2{i}", w["bias"][1]), out=f"u{i}")
            op("Split", f"a{i}", out=[f"a{g}{i}" for g in "zrh"], axis=1, num_outputs=3)
            op("Split", f"u{i}", out=[f"u{g}{i}" for g in "zrh"], axis=1, num_outputs=3)
            for g in "zr":
                op("Add", f"a{g}{i}", f"u{g}{i}", out=f"p{g}{i}")
                op("Sigmoid", f"p{g}{i}", out=f"s{g}{i}")
            op("Mul", f"sr{i}", f"uh{i}", out=f"ru{i}")
            op("Add", f"ah{i}", f"ru{i}", out=f"pc{i}")
            op("Tanh", f"pc{i}", out=f"cand{i}")
            op("Sub", f"h{i}", f"cand{i}", out=f"d{i}")
            op("Mul", f"sz{i}", f"d{i}", out=f"zd{i}")
            op("Add", f"cand{i}", f"zd{i}", out=f"h{i}_")
            op("Identity", f"h{i}_", out=f"o{i}")
        source = f"o{i}"
        if network.leaky:
            source = op("LeakyRelu", source, out=f"l{i}", alpha=SLOPE)
    graph = helper.make_graph(nodes, "step", inputs, outputs, weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    return bytes(model.SerializeToString())


def _session(network: Network, decomposed: bool) -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(_onnx(network, decomposed), options, providers=["CPUExecutionProvider"])


def _states(session: Any, batch: int, units: list[int]) -> dict[str, Array]:
    found = {}
    for given in session.get_inputs()[1:]:
        u = units[int(given.name[1:])]
        found[given.name] = np.zeros((batch, u) if len(given.shape) == 2 else (1, batch, u), np.float32)
    return found


def onnx_run(network: Network, batch: int, decomposed: bool) -> Step:
    """The public `run`, states as arrays in and out."""
    session = _session(network, decomposed)
    feeds = _states(session, batch, network.units)
    names = [f"{n}_" for n in feeds]

    def step(x: Array) -> Array:
        y, *new = session.run(["y", *names], {"x": x, **feeds})
        feeds.update(zip(list(feeds), new, strict=True))
        return y[:, 0]

    return step


def onnx_bound(network: Network, batch: int, decomposed: bool) -> Step:
    """IO binding: inputs and outputs stay where they are; states change places after each step."""
    import onnxruntime

    session = _session(network, decomposed)
    value = onnxruntime.OrtValue.ortvalue_from_numpy
    x = np.zeros((batch, network.features), np.float32)
    y = np.zeros((batch, 1), np.float32)
    sides = [_states(session, batch, network.units) for _ in range(2)]
    held = [{n: value(a) for n, a in side.items()} for side in sides]
    bindings = []
    for now in (0, 1):
        binding = session.io_binding()
        binding.bind_input("x", "cpu", 0, np.float32, x.shape, x.ctypes.data)
        binding.bind_output("y", "cpu", 0, np.float32, y.shape, y.ctypes.data)
        for name in sides[0]:
            binding.bind_ortvalue_input(name, held[now][name])
            binding.bind_ortvalue_output(f"{name}_", held[1 - now][name])
        bindings.append(binding)
    turn = [0]

    def step(sample: Array) -> Array:
        x[:] = sample
        session.run_with_iobinding(bindings[turn[0]])
        turn[0] = 1 - turn[0]
        return y[:, 0]

    return step


# PyTorch


def torch_step(network: Network, batch: int, cells: bool) -> Step:
    """LSTMCell and GRUCell, or the layers on sequences of one sample."""
    import torch

    torch.set_num_threads(1)
    layers: list[Any] = []
    for kind, w in network.layers:
        if kind == "dense":
            layer: Any = torch.nn.Linear(w["kernel"].shape[0], 1)
            weights = {"weight": w["kernel"].T, "bias": w["bias"]}
        else:
            features, u = w["kernel"].shape[0], w["recurrent"].shape[0]
            name = kind.upper() + ("Cell" if cells else "")
            layer = getattr(torch.nn, name)(features, u)
            order = [0, 1, 2, 3] if kind == "lstm" else [1, 0, 2]  # GRU there: r z n
            bias = np.atleast_2d(w["bias"])
            end = "" if cells else "_l0"
            recurrent_bias = _turned(bias[1], order) if len(bias) > 1 else np.zeros_like(bias[0])
            weights = {
                f"weight_ih{end}": _turned(w["kernel"], order).T, f"weight_hh{end}": _turned(w["recurrent"], order).T,
                f"bias_ih{end}": _turned(bias[0], order), f"bias_hh{end}": recurrent_bias,
            }  # fmt: skip
        layer.load_state_dict({k: torch.from_numpy(np.ascontiguousarray(v)) for k, v in weights.items()})
        layers.append(layer)
    states: list[Any] = [None] * len(layers)

    def step(sample: Array) -> Array:
        with torch.inference_mode():
            x = torch.from_numpy(sample)
            for i, (kind, _) in enumerate(network.layers):
                if kind == "dense":
                    return torch.sigmoid(layers[i](x))[:, 0].numpy()
                if cells:
                    states[i] = layers[i](x, states[i])
                    x = states[i][0] if kind == "lstm" else states[i]
                else:
                    y, states[i] = layers[i](x[None], states[i])
                    x = y[0]
                x = torch.nn.functional.leaky_relu(x, SLOPE) if network.leaky else x
        raise AssertionError

    return step


# JAX


def jax_step(network: Network, batch: int) -> Step:
    import jax
    import jax.numpy as jnp

    weights = [{k: jnp.asarray(v) for k, v in w.items()} for _, w in network.layers]

    def compute(x: Any, states: Any) -> Any:
        new = []
        for i, (kind, _) in enumerate(network.layers):
            w = weights[i]
            if kind == "dense":
                return jax.nn.sigmoid(x @ w["kernel"] + w["bias"])[:, 0], new
            h, c = states[i]
            if kind == "lstm":
                a, f, g, o = jnp.split(x @ w["kernel"] + h @ w["recurrent"] + w["bias"], 4, axis=1)
                c = jax.nn.sigmoid(f) * c + jax.nn.sigmoid(a) * jnp.tanh(g)
                h = jax.nn.sigmoid(o) * jnp.tanh(c)
            else:
                a, b = x @ w["kernel"] + w["bias"][0], h @ w["recurrent"] + w["bias"][1]
                (az, ar, ah), (bz, br, bh) = jnp.split(a, 3, axis=1), jnp.split(b, 3, axis=1)
                z, r = jax.nn.sigmoid(az + bz), jax.nn.sigmoid(ar + br)
                h = z * h + (1 - z) * jnp.tanh(ah + r * bh)
            new.append((h, c))
            x = jnp.where(h >= 0, h, SLOPE * h) if network.leaky else h
        raise AssertionError

    jitted = jax.jit(compute)
    states = [tuple(jnp.zeros((batch, u)) for _ in range(2)) for u in network.units]

    def step(x: Array) -> Array:
        nonlocal states
        y, states = jitted(x, states)
        return np.asarray(y)

    return step
