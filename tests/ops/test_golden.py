"""The ops against a second implementation: scalars, plain Python, float64, written from the papers."""

import math

import numpy as np
import pytest

from make import dense, model_of, random, recurrent
from stepstream.ops.activation import activate
from stepstream.ops.executor import NumpyExecutor

UNITS, FEATURES, STEPS = 4, 3, 6


def logistic(x):
    return 1 / (1 + math.exp(-x))


def gate_sums(w, x, h, gate, units, bias):
    """What goes into one gate of every unit; gates lie side by side in the columns."""
    columns = range(gate * units, (gate + 1) * units)
    return [
        sum(x[k] * w["kernel"][k][j] for k in range(len(x)))
        + sum(h[k] * w["recurrent"][k][j] for k in range(len(h)))
        + bias[j]
        for j in columns
    ]


def scalar_lstm(w, x, h, c):
    """Gates i, f, candidate, o."""
    n = len(h)
    i, f, g, o = (gate_sums(w, x, h, gate, n, w["bias"]) for gate in range(4))
    c = [logistic(f[u]) * c[u] + logistic(i[u]) * math.tanh(g[u]) for u in range(n)]
    return [logistic(o[u]) * math.tanh(c[u]) for u in range(n)], c


def scalar_gru(w, x, h, _):
    """Gates z, r, candidate; the reset gate comes before the recurrent product."""
    n = len(h)
    z, r = (gate_sums(w, x, h, gate, n, w["bias"]) for gate in range(2))
    z, r = [logistic(v) for v in z], [logistic(v) for v in r]
    g = gate_sums(w, x, [r[u] * h[u] for u in range(n)], 2, n, w["bias"])
    return [z[u] * h[u] + (1 - z[u]) * math.tanh(g[u]) for u in range(n)], None


def scalar_gru_after(w, x, h, _):
    """The reset gate comes after the recurrent product and its bias."""
    n = len(h)
    none = [0.0] * n
    total = [a + b for a, b in zip(*w["bias"], strict=True)]
    z, r = (gate_sums(w, x, h, gate, n, total) for gate in range(2))
    z, r = [logistic(v) for v in z], [logistic(v) for v in r]
    from_x = gate_sums(w, x, none, 2, n, w["bias"][0])
    from_h = gate_sums(w, [0.0] * len(x), h, 2, n, w["bias"][1])
    return [z[u] * h[u] + (1 - z[u]) * math.tanh(from_x[u] + r[u] * from_h[u]) for u in range(n)], None


def scalar_rnn(w, x, h, _):
    return [math.tanh(v) for v in gate_sums(w, x, h, 0, len(h), w["bias"])], None


@pytest.mark.parametrize(
    ("op", "options", "scalar"),
    [
        ("lstm", {}, scalar_lstm),
        ("gru", {"reset_after": False}, scalar_gru),
        ("gru", {"reset_after": True}, scalar_gru_after),
        ("simple_rnn", {}, scalar_rnn),
    ],
)
def test_recurrent_layers(op, options, scalar):
    layer = recurrent(op, FEATURES, UNITS, **options)
    model = model_of(layer)
    w = {name: weight.astype(float).tolist() for name, weight in layer[2].items()}
    samples = random(STEPS, FEATURES, scale=1.5)
    double = NumpyExecutor(model.graph, np.float64)
    stream, state = model.stream("carry"), double.initial_state(1)
    h, c = [0.0] * UNITS, [0.0] * UNITS
    for x in samples:
        h, c = scalar(w, x.astype(float).tolist(), h, c)
        (y,), state = double.step(x[None], state)
        np.testing.assert_allclose(y[0], h, rtol=0, atol=1e-12)
        np.testing.assert_allclose(stream.step(x), h, rtol=0, atol=1e-5)
        if c is not None:
            np.testing.assert_allclose(stream.state["lstm_0"]["c"], c, rtol=0, atol=1e-5)


def one_unit(op, kernel, recurrent_weights, bias, **params):
    weights = {"kernel": np.array([kernel]), "recurrent": np.array([recurrent_weights]), "bias": np.array(bias)}
    base = recurrent(op, 1, 1)[1]
    return model_of((op, {**base, **params}, weights), features=1).stream("carry")


def test_lstm_by_hand():
    """Only one gate at a time has a weight, so each has its own trace in the numbers."""
    # the candidate is tanh(1 x), the output gate sigmoid(2 x), the input gate sigmoid(3 x), the forget gate sigmoid(-1)
    stream = one_unit("lstm", [3.0, 0.0, 1.0, 2.0], [0.0] * 4, [0.0, -1.0, 0.0, 0.0])
    c1 = 0.9525741268224334 * 0.7615941559557649
    assert stream.step([1.0]) == pytest.approx(0.8807970779778823 * math.tanh(c1), abs=1e-6)
    c2 = 0.2689414213699951 * c1 + 0.5 * 0.0
    assert stream.step([0.0]) == pytest.approx(0.5 * math.tanh(c2), abs=1e-6)
    assert stream.state["lstm_0"]["c"][0] == pytest.approx(c2, abs=1e-6)


def test_gru_by_hand():
    # update gate sigmoid(-1), reset gate sigmoid(3 x), candidate tanh(x + r (h + 0.5))
    stream = one_unit("gru", [0.0, 3.0, 1.0], [0.0, 0.0, 1.0], [[-1.0, 0.0, 0.0], [0.0, 0.0, 0.5]])
    z = 0.2689414213699951
    h1 = (1 - z) * math.tanh(1 + 0.9525741268224334 * 0.5)
    assert stream.step([1.0]) == pytest.approx(h1, abs=1e-6)
    h2 = z * h1 + (1 - z) * math.tanh(0.5 * (h1 + 0.5))
    assert stream.step([0.0]) == pytest.approx(h2, abs=1e-6)


def softplus(x):
    return math.log1p(math.exp(x))


ONE_BY_ONE = [
    ({"name": "tanh"}, math.tanh),
    ({"name": "sigmoid"}, logistic),
    ({"name": "hard_sigmoid"}, lambda x: min(max(x + 3, 0), 6) / 6),
    ({"name": "hard_sigmoid_02"}, lambda x: min(max(0.2 * x + 0.5, 0), 1)),
    ({"name": "relu"}, lambda x: max(x, 0)),
    (
        {"name": "relu", "negative_slope": 0.1, "max_value": 2.0, "threshold": 0.5},
        lambda x: min(x, 2) if x >= 0.5 else 0.1 * (x - 0.5),
    ),
    ({"name": "leaky_relu"}, lambda x: x if x > 0 else 0.2 * x),
    ({"name": "leaky_relu", "negative_slope": 0.3}, lambda x: x if x > 0 else 0.3 * x),
    ({"name": "elu"}, lambda x: x if x > 0 else math.exp(x) - 1),
    (
        {"name": "selu"},
        lambda x: 1.0507009873554805 * (x if x > 0 else 1.6732632423543772 * (math.exp(x) - 1)),
    ),
    ({"name": "celu", "alpha": 2.0}, lambda x: x if x > 0 else 2 * (math.exp(x / 2) - 1)),
    ({"name": "gelu"}, lambda x: x * (1 + math.erf(x / math.sqrt(2))) / 2),
    ({"name": "softplus"}, softplus),
    ({"name": "softsign"}, lambda x: x / (1 + abs(x))),
    ({"name": "silu"}, lambda x: x * logistic(x)),
    ({"name": "mish"}, lambda x: x * math.tanh(softplus(x))),
    ({"name": "log_sigmoid"}, lambda x: math.log(logistic(x))),
    ({"name": "exponential"}, math.exp),
    ({"name": "hard_tanh"}, lambda x: min(max(x, -1), 1)),
    ({"name": "squareplus"}, lambda x: (x + math.sqrt(x * x + 4)) / 2),
    ({"name": "soft_shrink"}, lambda x: math.copysign(max(abs(x) - 0.5, 0), x)),
    ({"name": "hard_shrink"}, lambda x: x if abs(x) > 0.5 else 0),
    ({"name": "thresholded_relu", "theta": 1.0}, lambda x: x if x > 1 else 0),
]


@pytest.mark.parametrize(("activation", "scalar"), ONE_BY_ONE, ids=lambda a: a["name"] if isinstance(a, dict) else "")
def test_activations(activation, scalar):
    x = np.linspace(-5, 5, 41)
    np.testing.assert_allclose(activate(activation, x), [scalar(v) for v in x.tolist()], rtol=0, atol=1e-12)


def test_softmax_and_dense():
    op, params, weights = dense(FEATURES, 3, "softmax")
    executor = NumpyExecutor(model_of((op, params, weights)).graph, np.float64)
    x = [0.5, -1.0, 2.0]
    kernel, bias = weights["kernel"].astype(float).tolist(), weights["bias"].astype(float).tolist()
    z = [sum(x[k] * kernel[k][j] for k in range(3)) + bias[j] for j in range(3)]
    expected = [math.exp(v) / sum(math.exp(u) for u in z) for v in z]
    (y,), _ = executor.step(np.array([x]), executor.initial_state(1))
    np.testing.assert_allclose(y[0], expected, rtol=0, atol=1e-12)


def test_normalisations():
    gamma, beta, mean, variance = random(3), random(3, seed=1), random(3, seed=2), abs(random(3, seed=3))
    x = [0.5, -1.0, 2.0]
    batch = {"gamma": gamma, "beta": beta, "mean": mean, "variance": variance}
    executor = NumpyExecutor(model_of(("batch_norm", {"epsilon": 1e-2}, batch)).graph, np.float64)
    (y,), _ = executor.step(np.array([x]), executor.initial_state(1))
    g, b, m, v = (a.astype(float).tolist() for a in (gamma, beta, mean, variance))
    expected = [g[i] * (x[i] - m[i]) / math.sqrt(v[i] + 1e-2) + b[i] for i in range(3)]
    np.testing.assert_allclose(y[0], expected, rtol=0, atol=1e-12)

    layer = ("layer_norm", {"epsilon": 1e-2, "centre": True}, {"gamma": gamma, "beta": beta})
    executor = NumpyExecutor(model_of(layer).graph, np.float64)
    (y,), _ = executor.step(np.array([x]), executor.initial_state(1))
    mean = sum(x) / 3
    spread = math.sqrt(sum((value - mean) ** 2 for value in x) / 3 + 1e-2)
    expected = [g[i] * (x[i] - mean) / spread + b[i] for i in range(3)]
    np.testing.assert_allclose(y[0], expected, rtol=0, atol=1e-12)
