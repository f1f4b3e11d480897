"""The native kernel: every op, every activation, the same bits however rows are put together, and nothing beyond."""

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import stepstream
from make import EXAMPLES, dense, graph_model, model_of, question, recurrent
from stepstream.graph.ir import TimeRole, frozen
from stepstream.kernel.executor import KernelExecutor, executor_for, native, update
from stepstream.kernel.plan import _CONVERTERS, ACTIVATIONS, OPTIONS, plan
from stepstream.live.windowing import Sliding
from stepstream.ops import REGISTRY
from stepstream.ops.activation import FUNCTIONS
from stepstream.ops.executor import NumpyExecutor
from stepstream.testing import compare, outputs, samples, stepped, verify_contract, yardstick

little_memory = pytest.mark.skipif(
    "asan" in os.environ.get("LD_PRELOAD", ""), reason="AddressSanitizer needs all the address space"
)
pytestmark = pytest.mark.skipif(native() is None, reason="the native kernel is not built")
BATCHES = [1, 2, 5, 6, 7, 64, 1000]
PYTHONPATH = os.pathsep.join([str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH", "")])  # for make.py


def bits(x):
    return np.ascontiguousarray(x).view(np.uint32)


def test_every_op_is_in_the_kernel():
    assert set(REGISTRY) - set(_CONVERTERS) == {"flatten"}, "flatten never steps; everything else does"


@pytest.mark.parametrize("op", EXAMPLES)
def test_an_op_is_what_numpy_computes(op):
    model = EXAMPLES[op]()
    assert isinstance(model.executor, KernelExecutor)
    assert model.runs_on.startswith("native kernel")
    x = samples(model, streams=7)
    for mask in (None, np.random.default_rng(1).random(x.shape[:2]) > 0.3):
        ours, oracle = stepped(model.executor, x, mask), stepped(NumpyExecutor(model.graph), x, mask)
        check = compare(op, "NumPy", outputs(model, ours), outputs(model, oracle), yardstick(model, x, mask=mask))
        assert check.ok, check
        assert not model.decides or (ours[..., -1] == oracle[..., -1]).all()


@pytest.mark.parametrize("name", [a for a in ACTIVATIONS if a not in {"softmax", "log_softmax", "sparsemax", "glu"}])
def test_an_activation_over_the_whole_range(name):
    """Within 5e-7 of float64, absolute or relative, from the smallest to the largest float, and NaN stays NaN."""
    x = np.arange(0, 2**32, 9973, dtype=np.uint64).astype(np.uint32).view(np.float32)
    x = np.concatenate([x[np.isfinite(x)], np.linspace(-20, 20, 100_000, dtype=np.float32), np.zeros(16, np.float32)])
    x = np.append(x[: len(x) // 16 * 16], [np.float32(np.nan)] * 16).astype(np.float32)
    options = np.array([default for _, default in OPTIONS.get(name, ())] + [0, 0, 0], np.float32)[:3]
    y = np.empty_like(x)
    native().activate(ACTIVATIONS.index(name), options, x, y)
    extra = {"approximate": True} if name == "gelu_tanh" else {}
    with np.errstate(all="ignore"):
        exact = FUNCTIONS[name.removesuffix("_tanh") if extra else name](x.astype(np.float64), **extra)
        error = np.abs(y - exact) / np.maximum(1, np.abs(exact))
        same = (np.isinf(y) & (np.abs(exact) > np.finfo(np.float32).max)) | (np.isnan(y) & np.isnan(exact))
    assert (np.isnan(y) == np.isnan(exact)).all()
    assert np.where(same, 0, error).max() <= 5e-7


@pytest.mark.parametrize("units", [1, 3, 17, 48, 100, 1000])
@pytest.mark.parametrize("op", ["lstm", "gru", "simple_rnn"])
def test_any_number_of_units_and_any_batch(op, units):
    features = 5 if units < 1000 else 17
    sequences = model_of(recurrent(op, features, units, sequences=False), dense(units, 2), features=features)
    executor = sequences.executor
    x = np.random.default_rng(units).normal(size=(max(BATCHES), 3, features)).astype(np.float32)
    x = x if units < 1000 else x[:64]
    whole = stepped(executor, x)
    exact = stepped(NumpyExecutor(sequences.graph, np.float64), x[:7])
    assert np.abs(whole[:7] - exact).max() < 1e-5
    for batch in (b for b in BATCHES if b <= len(x)):
        parts = [stepped(executor, x[at : at + batch]) for at in range(0, len(x) if batch > 7 else 14, batch)]
        together = np.concatenate(parts)
        assert (bits(together) == bits(whole[: len(together)])).all()


def table_of(executor, x):
    """A table after the first sample, and the answers to all."""
    table = executor.initial_state(len(x))
    return table, [update(executor.machine, table, None, x[:, t])[0] for t in range(x.shape[1])]


@pytest.mark.parametrize("model", [question(), EXAMPLES["gru"](), EXAMPLES["conv"]()], ids=["question", "gru", "conv"])
def test_rows_threads_and_neighbours_change_nothing(model):
    executor, x = model.executor, samples(model, streams=50, time=4)
    table, answers = table_of(executor, x)
    order = np.random.default_rng(0).permutation(200)[:50]
    wide = np.full((200, executor.state_size), np.nan, np.float32)
    wide[order] = executor.initial_state(50)
    for t in range(4):
        out, finite = update(executor.machine, wide, order, x[:, t].astype(np.float64), threads=1 + t % 3)
        assert finite.all()
        assert (bits(out) == bits(answers[t])).all()
    assert (bits(wide[order]) == bits(table)).all()
    assert np.isnan(np.delete(wide, order, axis=0)).all()


def test_a_row_that_would_not_stay_finite_keeps_its_state():
    executor = question().executor
    x = np.zeros((9, 3), np.float32)
    x[4] = np.nan
    table = executor.initial_state(9)
    update(executor.machine, table, None, np.ones((9, 3)))
    before = table.copy()
    out, finite = update(executor.machine, table, None, x)
    assert finite.tolist() == [True] * 4 + [False] + [True] * 4
    assert (bits(table[4]) == bits(before[4])).all()
    assert not (bits(table[3]) == bits(before[3])).all()
    assert np.isnan(out[4]).all()
    assert np.isfinite(np.delete(out, 4)).all()


def test_what_does_not_fit_is_refused_and_changes_nothing():
    executor = question().executor
    table, x = executor.initial_state(5), np.zeros((2, 3), np.float32)
    before = table.copy()
    for rows, samples_, message in (
        ([1, 1], x, "got row 1 twice"),
        ([0, 5], x, "got 5"),
        ([-1, 0], x, "got -1"),
        ([0], x, "each of 2 samples"),
        ([0, 1], x[:, :2], "3 features"),
        (None, x, "each of 2 samples"),
    ):
        with pytest.raises(ValueError, match=message):
            update(executor.machine, table, rows, samples_)
    with pytest.raises(ValueError, match="96 floats"):
        update(executor.machine, table[:, :95].copy(), [0, 1], x)
    locked = table.copy()
    locked.setflags(write=False)
    for other in (np.zeros((10, 96), np.float32)[::2], locked, table.astype(np.float64), table[0]):
        with pytest.raises(ValueError, match="expected a table of float32"):
            update(executor.machine, other, [0, 1], x)  # a copy would lose the states
    for rows, samples_, mask, message in (
        (np.array([True, False]), x, None, "expected row numbers"),
        ([0.9, 1.7], x, None, "expected row numbers"),
        ([[0], [1]], x, None, "expected row numbers"),
        ([0, 1], np.ma.masked_array(x, x == 0), None, "expected samples of floats"),
        ([0, 1], x.astype(str), None, "expected samples of floats"),
        ([0, 1], x[0], None, "expected samples of floats"),
        ([0, 1], x, [0.5, 1.0], "expected a mask of bools"),
    ):
        with pytest.raises(ValueError, match=message):
            update(executor.machine, table, rows, samples_, mask)
    assert (bits(table) == bits(before)).all()
    out, finite = update(executor.machine, table, np.zeros(0, np.int64), np.zeros((0, 3)))
    assert out.shape == (0, 1)
    assert finite.shape == (0,)
    update(executor.machine, table, [0, 4, 2], np.zeros((3, 6))[:, ::2])  # strided samples are copied
    frozen = np.ones((2, 3), np.float32)
    frozen.setflags(write=False)
    update(executor.machine, table, [0, 1], frozen)


def test_samples_that_lie_in_the_table_are_read_first():
    executor = model_of(recurrent("simple_rnn", 5, 5), features=5).executor
    table = np.random.default_rng(0).normal(size=(300, 5)).astype(np.float32)
    apart, backwards = table.copy(), np.arange(300)[::-1]
    out, _ = update(executor.machine, table, backwards, table)
    expected, _ = update(executor.machine, apart, backwards, apart.copy())
    assert (bits(out) == bits(expected)).all()


@pytest.mark.parametrize("way", ["states", "recompute"])
def test_a_window_beside_nan_goes_on(way):
    executor = Sliding(3, by=way).on(question().executor)[1]
    table, x = executor.initial_state(4), np.ones((4, 3), np.float32)
    update(executor.machine, table, None, x)
    alone = table[2:3].copy()
    x[1] = np.nan
    out, finite = update(executor.machine, table, None, x)
    assert finite.tolist() == [True, False, True, True]
    expected, _ = update(executor.machine, alone, None, x[2:3])
    assert (bits(out[2]) == bits(expected[0])).all()
    assert (bits(table[2]) == bits(alone[0])).all()


@pytest.mark.parametrize("way", ["states", "recompute"])
def test_an_answer_that_nobody_gets_does_not_count(way):
    """The newest state's answer would overflow, the oldest's, which is the stream's, does not."""
    rnn = recurrent("simple_rnn", 1, 1, activation="linear", sequences=False)
    for name, value in (("kernel", 1.0), ("recurrent", 0.5), ("bias", 0.0)):
        rnn[2][name][:] = value
    top = dense(1, 1, activation="exponential")
    top[2]["kernel"][:], top[2]["bias"][:] = 1, 0
    executor = Sliding(3, by=way).on(model_of(rnn, top, features=1).executor)[1]
    table = executor.initial_state(1)
    for value in (-1000, 100):
        _, finite = update(executor.machine, table, None, np.full((1, 1), value, np.float32))
        assert finite.all()


@little_memory
def test_threads_that_cannot_be_started_are_done_without():
    code = (
        "import resource, numpy as np\n"
        "from make import question; from stepstream.kernel.executor import update\n"
        "e = question().executor; t, x = e.initial_state(20_000), np.zeros((20_000, 3), np.float32)\n"
        "used = int(open('/proc/self/statm').read().split()[0]) * resource.getpagesize()\n"
        "resource.setrlimit(resource.RLIMIT_AS, (used + 200 * 2**20,) * 2)\n"
        "print(update(e.machine, t, None, x, threads=100)[1].all())"
    )
    env = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH", "")]),
    }
    run = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=False)
    assert (run.returncode, run.stdout) == (0, "True\n"), run.stderr


@little_memory
def test_no_memory_is_an_error_of_python():
    code = (
        "import resource\n"
        "from make import dense, model_of\n"
        "stream = model_of(dense(3, 200_000)).stream('carry')\n"
        "used = int(open('/proc/self/statm').read().split()[0]) * resource.getpagesize()\n"
        "resource.setrlimit(resource.RLIMIT_AS, (used + 2**16,) * 2)\n"
        "try:\n    stream.step([1, 2, 3])\nexcept MemoryError:\n    print('MemoryError')"
    )
    env = {**os.environ, "PYTHONPATH": PYTHONPATH}
    run = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=False)
    assert (run.returncode, run.stdout) == (0, "MemoryError\n"), run.stderr


def test_an_index_out_of_range_is_refused_behind_a_mask_too():
    op, params, weights = recurrent("lstm", 4, 3, sequences=False)
    model = graph_model(
        {"i": ((), TimeRole.SEQUENCE), "m": ((1,), TimeRole.SEQUENCE)},
        [
            ("e", "embedding", ["i"], {}, {"table": np.ones((5, 3))}),
            ("v", "mask_differs", ["m"], {"value": 0.0}, {}),
            ("c", "concatenate", ["e", "m"], {"axis": -1}, {}),
            ("h", op, ["c", "v"], params, weights),
        ],
        ["h"],
    )
    stream = model.stream("carry")
    stream.step([2.0, 1.0])
    for index in (9.0, 0.5, -3.0):
        with pytest.raises(stepstream.InputError, match="expected a whole number from 0 to 4"):
            stream.step([index, 0.0])
    assert stream.age == 1


@pytest.mark.parametrize("way", ["states", "recompute"])
@pytest.mark.parametrize("count", [np.nan, np.inf, -1, 0.5, 1e9])
def test_a_window_without_a_count_is_flagged_and_left_alone(way, count):
    executor = Sliding(3, by=way).on(question().executor)[1]
    table = executor.initial_state(2)
    table[0, -1] = count
    before = table.copy()
    out, finite = update(executor.machine, table, None, np.ones((2, 3)), guard=False)
    assert finite.tolist() == [False, True]
    assert np.isnan(out[0]).all()
    assert (bits(table[0]) == bits(before[0])).all()
    assert np.isfinite(out[1]).all()


ALL_BITS = """
import sys, numpy as np
from make import EXAMPLES
from stepstream.testing import samples, stepped
for name, make in EXAMPLES.items():
    model = make()
    x = samples(model, streams=7)
    mask = np.random.default_rng(1).random(x.shape[:2]) > 0.3
    print(name, model.runs_on, *(stepped(model.executor, x, m).tobytes().hex() for m in (None, mask)), sep="|")
"""


def bits_of_all(isa):
    """{example: (what it runs on, bits, bits with masks)}, in a process for this instruction set."""
    env = {**os.environ, "STEPSTREAM_ISA": isa, "PYTHONPATH": PYTHONPATH}
    run = subprocess.run([sys.executable, "-c", ALL_BITS], env=env, capture_output=True, text=True, check=False)
    if "this processor cannot" in run.stderr:
        pytest.skip(f"this processor has no {isa}")
    assert run.returncode == 0, run.stderr
    return {name: tuple(rest) for name, *rest in (line.split("|") for line in run.stdout.splitlines())}


@pytest.mark.parametrize("isa", ["base", "v3", "v4"] if native() and native().ISA in {"v3", "v4"} else ["base"])
def test_every_instruction_set_gives_the_same_bits(isa):
    found = bits_of_all(isa)
    assert set(found) == set(EXAMPLES)
    for name, (runs_on, *theirs) in found.items():
        assert runs_on == f"native kernel, {isa}"
        model = EXAMPLES[name]()
        x = samples(model, streams=7)
        for mask, bits in zip((None, np.random.default_rng(1).random(x.shape[:2]) > 0.3), theirs, strict=True):
            assert stepped(model.executor, x, mask).tobytes().hex() == bits, (name, mask is not None)


@pytest.mark.parametrize("windowing", ["carry", "tumbling(3)", "sliding(3, by=states)", "sliding(3, by=recompute)"])
def test_the_short_way_through_a_stream_is_the_long_one(windowing):
    model = question()
    short, long = model.stream(windowing), model.stream(windowing)
    for at, row in enumerate(np.random.default_rng(2).normal(size=(12, 3)).astype(np.float32)):
        forms = [row.tolist(), tuple(row.tolist()), row, row.astype(np.float64), row[None], row[None, None]]
        y = long.step(row, time=float(at), mask=True)  # a mask takes the long way
        for form in forms:
            assert short.peek(form) == y
            assert short.fork().step(form) == y
        assert short.step(forms[0], at if at % 2 else float(at)) == y
        hidden = np.ma.masked_array(row, [False, True, False])
        for wrong in (hidden, memoryview(row), hidden.astype(np.float64)):
            with pytest.raises(stepstream.InputError):
                short.step(wrong)
        with pytest.raises(stepstream.InputError, match=f"expected a time from {at}.0 on"):
            short.step(forms[0], at - 0.5)
        assert short.time == long.time
        assert (short.age, short.complete, short.beyond_training_length) == (
            long.age, long.complete, long.beyond_training_length,
        )  # fmt: skip
        for layer, slots in short.state.items():
            for name, value in slots.items():
                assert (bits(value) == bits(long.state[layer][name])).all()


def test_an_op_that_the_kernel_lacks_runs_on_numpy_and_is_named(monkeypatch):
    monkeypatch.delitem(_CONVERTERS, "prelu")
    executor, runs_on = executor_for(EXAMPLES["prelu"]().graph)
    assert type(executor) is NumpyExecutor
    assert "no layer 'prelu_1' (prelu)" in runs_on


def test_a_long_run_is_as_exact_as_numpy():
    """At most twice NumPy's own float32 error at the 99th percentile over 3,000 steps."""
    model = question()
    x = np.random.default_rng(4).normal(size=(4, 3000, 3)).astype(np.float32)
    exact = stepped(NumpyExecutor(model.graph, np.float64), x)
    ours, plain = (np.abs(stepped(e, x) - exact) for e in (model.executor, NumpyExecutor(model.graph)))
    assert np.percentile(ours, 99) <= 2 * np.percentile(plain, 99)


def test_a_layer_that_is_called_twice_lies_in_memory_once():
    op, params, weights = recurrent("lstm", 3, 3)
    weights = {name: frozen(w) for name, w in weights.items()}
    twice = [("a", op, ["x"], params, weights), ("b", op, ["a"], params, weights)]
    shared = graph_model({"x": ((3,), TimeRole.SEQUENCE)}, twice, ["b"])
    first, second = shared.graph.nodes
    assert all(np.shares_memory(first.weights[name], second.weights[name]) for name in first.weights)
    apart = replace(second, weights={name: w.copy() for name, w in second.weights.items()})
    larger = plan(replace(shared.graph, nodes=(first, apart)))
    assert 2 * sum(w.size for w in plan(shared.graph).weights) == sum(w.size for w in larger.weights)
    verify_contract(shared)


def test_a_layer_that_is_too_large_for_the_kernel_runs_on_numpy_and_is_named():
    from stepstream.kernel.plan import MAX_SCRATCH

    model = model_of(dense(3, MAX_SCRATCH), ("activation", {"activation": {"name": "relu"}}, {}))
    assert type(model.executor) is NumpyExecutor
    assert "too large" in model.runs_on
    assert "'dense_0'" in model.runs_on
