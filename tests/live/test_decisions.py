"""A stream that is decided upon is the same wherever it runs: alone, among others, evicted, crashed and restored."""

import asyncio
import os
import pickle
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from engines import WINDOWINGS, DictStore

from make import RULE, SCALE, deciding, graph_model, model_of, question, recurrent
from stepstream import Engine, InputError
from stepstream.graph.attach import calibrated, logits, with_trigger
from stepstream.graph.ir import TimeRole
from stepstream.ops.executor import NumpyExecutor

REVOCABLE, LATCHED = deciding(1, k=2, latched=False), deciding(1, k=2, latched=True)
CLASSES = deciding(3, k=1, latched=False, sequences=False)
MODELS = {"revocable": REVOCABLE, "latched": LATCHED, "classes": CLASSES}
SAMPLES = (2 * np.random.default_rng(3).normal(size=(60, 3))).astype(np.float32)
TIMES = np.cumsum(np.where(np.arange(60) % 13 == 0, 20.0, 1.0))
STRIDED = ["sliding(7, stride=3, by=states)", "sliding(7, stride=2, by=recompute)"]


def alone(samples, windowing="carry", model=REVOCABLE, times=TIMES):
    """Values and decisions of a stream of its own."""
    stream = model.stream(windowing)
    return [(as_list(stream.step(x, time=t)), stream.decision) for x, t in zip(samples, times, strict=False)]


def as_list(value):
    return None if value is None else np.atleast_1d(value).tolist()


def answer(result):
    return as_list(result.value), result.decision


def answers(results):
    return [(v, None if d < 0 else d) for v, d in zip(results.values.tolist(), results.decision.tolist(), strict=True)]


def crash(engine):
    """What a killed process leaves: the journal, and no snapshot."""
    engine._tender.stop()
    return engine._streams.vault.store.crash()


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("n", [None, 7])
def test_the_decision_is_that_of_the_whole_pass(name, n):
    model = MODELS[name]
    oracle = NumpyExecutor(model.graph)
    found = [d for _, d in alone(SAMPLES, "carry" if n is None else f"sliding({n})", model)]
    expected = []
    for t in range(len(SAMPLES)):
        window = SAMPLES[0 if n is None else max(0, t + 1 - n) : t + 1]
        expected.append(int(oracle.last(window[None])[-1][0, 0]))
    assert [-1 if d is None else d for d in found] == expected
    assert len(set(expected)) > 1


def test_a_latched_decision_stays_until_the_reset_and_a_revocable_one_does_not():
    for model, changes in ((LATCHED, False), (REVOCABLE, True)):
        found = [d for _, d in alone(SAMPLES, model=model)]
        first = next(i for i, d in enumerate(found) if d is not None)
        assert (set(found[first:]) != {found[first]}) == changes
    stream = LATCHED.stream("carry")
    stream.steps(SAMPLES)
    assert stream.decision is not None
    stream.reset()
    assert stream.decision is None
    assert stream.step(SAMPLES[0]) is not None
    assert stream.decision is None  # two in a row


@pytest.mark.parametrize("windowing", [*WINDOWINGS, *STRIDED])
@pytest.mark.parametrize("name", MODELS)
def test_it_is_a_part_of_the_state(name, windowing, tmp_path):
    model = MODELS[name]
    expected = alone(SAMPLES[:30], windowing, model)
    short, long, restored, filed = (model.stream(windowing) for _ in range(4))
    assert short.decision is None
    for x, t, (value, decision) in zip(SAMPLES, TIMES, expected, strict=False):
        before = short.decision
        fork = short.fork()
        assert as_list(short.peek(x, t)) == value
        assert short.decision == before
        assert as_list(short.step(x.tolist(), t)) == value
        assert as_list(long.step(x, t, mask=True)) == value  # a mask takes the long way
        assert short.decision == long.decision == decision
        assert fork.decision == before
        fork.step(x, t)
        assert fork.decision == decision
        again = model.stream(windowing)
        again.restore(short.snapshot())
        assert again.decision == decision
        restored.step(x, t)
        assert restored.decision == decision
        restored = again
        filed.step(x, t)
        filed.save(tmp_path / "state.h5")
        filed = model.stream(windowing)
        filed.load(tmp_path / "state.h5")
        assert filed.decision == decision
    many = model.stream(windowing)
    many.steps(SAMPLES[:30], TIMES[:30])
    assert many.decision == expected[-1][1]
    assert many.snapshot() == short.snapshot()


@pytest.mark.parametrize("capacity", [2, 100])
@pytest.mark.parametrize("windowing", [*WINDOWINGS, *STRIDED])
@pytest.mark.parametrize("name", MODELS)
def test_in_an_engine_with_eviction_and_a_crash(name, windowing, capacity):
    model, keys, n = MODELS[name], ["a", "b", "c"], 24
    given = {key: SAMPLES[10 * i : 10 * i + n] for i, key in enumerate(keys)}
    expected = {key: alone(given[key], windowing, model) for key in keys}
    store = DictStore()
    for first in range(0, n, 8):
        engine = Engine(model, windowing, store, capacity=capacity, remember=2)
        for t in range(first, first + 4):  # one by one; each drives another out
            for key in keys:
                got = engine.step(key, given[key][t], seq=t, time=TIMES[t])
                assert answer(got) == expected[key][t]
                assert answer(engine.step(key, given[key][t], seq=t, time=TIMES[t])) == expected[key][t]
        for t in range(first + 4, first + 8, 2):  # several of a stream, and arrays of the plain form
            for two in (keys[:2], keys[2:]):
                x = np.concatenate([given[key][t : t + 2] for key in two])
                times = np.tile(TIMES[t : t + 2], len(two))
                got = engine.step_many(np.repeat(two, 2).tolist(), x, np.tile([t, t + 1], len(two)), times)
                assert answers(got) == [expected[key][i] for key in two for i in (t, t + 1)]
        crash(engine)
    with Engine(model, windowing, store, capacity=2, remember=2) as engine:
        for key in keys:
            stream = model.stream(windowing)
            stream.steps(given[key], TIMES[:n])
            assert engine.export(key).row.tobytes() == stream.snapshot().row.tobytes()
            for t in (n - 2, n - 1):
                again = engine.step(key, given[key][t], seq=t)
                assert again.duplicate
                assert answer(again) == expected[key][t]
            old = engine.step(key, given[key][0], seq=0)
            assert (old.value, old.decision, old.duplicate) == (None, None, True)


def test_a_repeated_sample_gets_the_decision_of_back_then():
    decisions = [d for _, d in alone(SAMPLES)]
    t = next(i for i in range(1, 59) if decisions[i] is not None and decisions[i + 1] is None)
    engine = Engine(REVOCABLE, "carry", remember=3)
    for i in range(t + 2):
        engine.step("a", SAMPLES[i], seq=i, time=TIMES[i])
    assert engine.step("a", SAMPLES[t], seq=t).decision == decisions[t]
    many = engine.step_many(["a"] * 4, SAMPLES[:4], seq=[0, t, t + 1, t - 1])
    assert many.duplicate.all()
    assert many.decision.tolist() == [-1, decisions[t], -1, -1 if decisions[t - 1] is None else decisions[t - 1]]
    assert np.isnan(many.values[0, 0])


def test_forks_restores_and_ends_take_it_with_them():
    expected = alone(SAMPLES, model=LATCHED, times=[None] * 60)
    first = next(i for i, (_, d) in enumerate(expected) if d is not None)
    engine = Engine(LATCHED, "carry")
    engine.step_many(["a"] * (first + 1), SAMPLES[: first + 1])
    engine.fork("a", "b")
    engine.restore("c", engine.export("a"))
    for key in "abc":
        assert engine.step(key, SAMPLES[first + 1]).decision == expected[first][1]
    assert as_list(engine.peek("a", SAMPLES[first + 2])) == expected[first + 2][0]
    assert engine.step("a", SAMPLES[first + 2], end=True).decision == expected[first][1]
    assert engine.step("a", SAMPLES[0]).decision is None


def test_bad_samples_have_none():
    engine = Engine(CLASSES, "carry")
    x = SAMPLES[:6].copy()
    x[2] = np.nan
    got = engine.step_many(["a"] * 6, x, on_bad="skip")
    assert got.accepted.tolist() == [True, True, False, True, True, True]
    assert got.decision[2] == -1
    kept = [i for i in range(6) if i != 2]
    assert [answers(got)[i] for i in kept] == alone(x[kept], model=CLASSES, times=[None] * 5)


def test_what_stands_in_for_missing_samples_counts():
    held = Engine(REVOCABLE, "carry", every=1.0, on_missing="hold")
    held.step("a", SAMPLES[0], time=0.0)
    got = held.step_many(["a", "b"], SAMPLES[1:3], time=[3.0, 0.0])
    expected = alone(SAMPLES[[0, 0, 0, 1]], times=[0.0, 1.0, 2.0, 3.0])
    assert answers(got)[0] == expected[-1]


def test_concurrent_calls_get_theirs():
    engine = Engine(REVOCABLE, "carry")

    async def all_of_them():
        out = []
        for t in range(20):
            calls = (engine.astep(key, SAMPLES[t].tolist(), time=float(TIMES[t])) for key in range(5))
            out.append(await asyncio.gather(*calls))
        return out

    expected = alone(SAMPLES[:20])
    for t, results in enumerate(asyncio.run(all_of_them())):
        assert [answer(r) for r in results] == [expected[t]] * 5


def test_a_model_without_a_trigger_decides_nothing():
    model = question()
    assert not model.decides
    stream = model.stream("carry")
    stream.step(SAMPLES[0])
    assert stream.decision is None
    engine = Engine(model, "carry")
    assert engine.step("a", SAMPLES[0]).decision is None
    assert engine.step("a", SAMPLES[0]).decision is None
    for form in (SAMPLES[:2], SAMPLES[:2].tolist()):
        got = engine.step_many(["a", "a"], form)
        assert got.decision.dtype == np.int64
        assert got.decision.tolist() == [-1, -1]


def test_a_decision_is_no_output():
    plain = model_of(recurrent("lstm", 3, 4), ("activation", {"activation": {"name": "softmax"}}, {}))
    model = plain.with_graph(with_trigger(plain.graph, RULE))
    assert model.decides
    assert (model.output_names, model.output_sizes) == (plain.output_names, plain.output_sizes)
    assert model.run(SAMPLES[None]).tobytes() == plain.run(SAMPLES[None]).tobytes()
    assert model.stream("carry").steps(SAMPLES).tobytes() == plain.stream("carry").steps(SAMPLES).tobytes()
    assert model.fingerprint != plain.fingerprint
    copy = pickle.loads(pickle.dumps(model))
    assert copy.decides
    assert copy.fingerprint == model.fingerprint
    assert model.verify(SAMPLES[None], plain.run(SAMPLES[None])).ok


def test_an_output_that_is_called_so_is_an_output():
    node = ("decision", "dense", ["x"], {"units": 2, "activation": {"name": "linear"}}, {"kernel": np.ones((3, 2))})
    other = ("y", "dense", ["x"], {"units": 1, "activation": {"name": "linear"}}, {"kernel": np.ones((3, 1))})
    model = graph_model({"x": ((3,), TimeRole.SEQUENCE)}, [other, node], ["y", "decision"])
    assert not model.decides
    assert set(model.stream("carry").step([1, 2, 3])) == {"y", "decision"}


@pytest.mark.parametrize("slot", [("trigger", "decision"), ("trigger", "class"), ("trigger", "streak")])
@pytest.mark.parametrize("value", [-1, 0.5, 9])
def test_a_decision_that_no_trigger_makes_is_refused(slot, value):
    stream = LATCHED.stream("carry")
    stream.steps(SAMPLES[:9])
    slots = LATCHED.executor.unpack(stream.snapshot().row)
    slots[slot] = np.float32([value])
    wrong = replace(stream.snapshot(), row=LATCHED.executor.pack(slots))
    for restore in (stream.restore, lambda state: Engine(LATCHED, "carry").restore("a", state)):
        with pytest.raises(InputError, match=f"expected {slot[1]} of 'trigger' to be a whole number from 0 to 2, got"):
            restore(wrong)


@pytest.mark.parametrize("node", ["calibration", "trigger"])
def test_a_place_that_is_not_that_of_the_age_is_refused(node):
    stream = LATCHED.stream("carry")
    stream.steps(SAMPLES[:9])
    slots = LATCHED.executor.unpack(stream.snapshot().row)
    assert slots[node, "count"] == len(SCALE)
    slots[node, "count"] = np.float32([2])
    with pytest.raises(InputError, match="expected a count of 4 at age 9, got 2"):
        stream.restore(replace(stream.snapshot(), row=LATCHED.executor.pack(slots)))


def test_two_classes_of_one_unit_have_names():
    model = question()
    named = type(model)(model.reading, classes=["no", "yes"])
    both = named.with_graph(with_trigger(calibrated(model.graph, SCALE), RULE))
    assert both.classes == ("no", "yes")
    assert named.with_graph(logits(model.graph)).classes is None  # a logit is no probability of either
    for wrong in (["yes", "yes"], ["no", "yes", "perhaps"]):
        with pytest.raises(InputError, match="classes: expected"):
            type(model)(model.reading, classes=wrong)
    regression = model_of(("dense", {"units": 1, "activation": {"name": "linear"}}, {"kernel": np.ones((3, 1))}))
    with pytest.raises(InputError, match="classes: expected 1 different names"):
        type(model)(regression.reading, classes=["no", "yes"])


def test_the_report_names_calibration_and_trigger():
    report = REVOCABLE.check()
    assert report.calibration in str(report)
    assert report.trigger == "a rule by sample, up to sample 4, after 2 in a row, revocable"
    assert f"decides: {report.trigger}" in str(report)
    assert report.to_dict()["trigger"] == report.trigger
    assert report.outputs == {"n1": 1}
    rows = {row.layer: row for row in report.rows}
    assert rows["trigger"].state == {"count": (1,), "streak": (1,), "class": (1,), "decision": (1,)}
    assert rows["calibration"].kind == "calibrate"
    assert report.state_floats == sum(sum(map(np.prod, row.state.values())) for row in report.rows)
    plain = question().check()
    assert plain.calibration is plain.trigger is None


NUMPY = """
from live.test_decisions import MODELS, SAMPLES, alone
for name, model in MODELS.items():
    print(name, model.runs_on.partition(":")[0], *(d for _, d in alone(SAMPLES, model=model)))
"""


def test_numpy_decides_the_same():
    tests = Path(__file__).parents[1]
    path = os.pathsep.join([str(tests), str(tests / "live"), os.environ.get("PYTHONPATH", "")])
    env = {**os.environ, "STEPSTREAM_ISA": "numpy", "PYTHONPATH": path}
    run = subprocess.run([sys.executable, "-c", NUMPY], env=env, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    lines = [line.split() for line in run.stdout.splitlines()]
    assert [name for name, *_ in lines] == list(MODELS)
    for name, runs_on, *decisions in lines:
        assert runs_on == "NumPy"
        assert decisions == [str(d) for _, d in alone(SAMPLES, model=MODELS[name])]
