"""The verifier can fail: broken executors and wrong expectations are found, at the right place."""

import numpy as np
import pytest

import stepstream
from make import dense, model_of, question, random, recurrent, windowed
from stepstream.errors import ContractError
from stepstream.ops.executor import NumpyExecutor
from stepstream.testing import positions_of, verify_contract

EXECUTOR = type(question().executor)  # the kernel's, or NumPy's
X = np.random.default_rng(8).normal(size=(3, 7, 3)).astype(np.float32)


@pytest.fixture
def model():
    return question()


def test_right_expectations_hold_for_the_last_position_and_for_all(model):
    every = np.stack([model.run(X[:, : t + 1]) for t in range(7)], axis=1)
    for expected in (every, every[:, -1], every[:, -1, 0]):
        result = model.verify(X, expected)
        assert result.ok, result
        assert result.checks[-1].compared_with == "the expected outputs"
    assert model.verify(X).notes


@pytest.mark.parametrize("position", [0, 3, 6])
def test_a_wrong_expectation_is_found_where_it_is(model, position):
    every = np.stack([model.run(X[:, : t + 1]) for t in range(7)], axis=1)
    every[1, position] += 1e-3
    result = model.verify(X, every)
    assert not result.ok
    (check,) = (c for c in result.checks if not c.ok)
    assert check.position == position
    assert check.error == pytest.approx(1e-3, rel=0.1)
    last = model.verify(X, every[:, 6])
    assert last.ok == (position != 6)
    assert last.checks[-1].position == 6


def test_another_model_is_not_excused_as_ill_conditioned(model):
    """Its error against float64 is large, but that is its own and not that of float32."""
    other = model_of(recurrent("lstm", 3, 32), recurrent("lstm", 32, 16, sequences=False), dense(16, 1))
    result = model.verify(X, other.run(X))
    assert not result.ok


def test_float32_that_drifts_apart_is_said_to_be_ill_conditioned():
    op, params, weights = recurrent("simple_rnn", 3, 64)
    wild = {"kernel": weights["kernel"], "recurrent": weights["recurrent"] * 4}  # a recurrent gain of 4: chaos
    model = model_of((op, params, wild), dense(64, 1, "linear"))
    x = random(4, 40, 3)
    double = NumpyExecutor(model.graph, np.float64).whole(x)[0]
    assert np.abs(double - model.run(x)).max() > 1e-4
    result = model.verify(x, double)
    assert result.ok, result
    assert "ill-conditioned" in str(result.checks[-1])


def test_a_long_window_is_compared_at_some_positions_and_says_so(monkeypatch):
    passes, last = [], NumpyExecutor.last
    monkeypatch.setattr(NumpyExecutor, "last", lambda self, x, *mask: passes.append(x) or last(self, x, *mask))
    result = windowed(120).verify()
    assert result.ok, result
    assert len(passes) < 300
    assert "the whole pass at 53 positions" in str(result)
    assert "compared with the whole pass at 53 of 120 positions" in str(result)
    assert {0, 119, 120, 121} <= set(positions_of(122))
    assert "positions:" not in str(windowed(7).verify())


def test_a_step_that_fails_at_the_end_of_a_long_window_is_found(monkeypatch):
    step, n = EXECUTOR.step, 60

    def late(self, x, state, mask=None):
        ys, rows = step(self, x, state, mask)
        seen = state[:, 8:9]  # behind h and c
        return tuple(y + np.float32(1e-3) * (seen == n - 1) for y in ys), rows

    monkeypatch.setattr(EXECUTOR, "step", late)
    with pytest.raises(ContractError, match=r"step equals whole:.*at position 59"):
        verify_contract(windowed(n))


@pytest.mark.parametrize(
    "expected", [np.zeros((3, 2)), np.zeros((2, 1)), np.zeros((3, 6, 1)), np.zeros(4), np.zeros((3, 7, 2))]
)
def test_expectations_of_another_shape_are_refused(model, expected):
    with pytest.raises(stepstream.InputError, match=r"\(3, 1\) or \(3, 7, 1\)"):
        model.verify(X, expected)


def test_expectations_without_samples_are_refused(model):
    with pytest.raises(stepstream.InputError, match="give x="):
        model.verify(expected=np.zeros((4, 1)))


def by_batch(y, rows, x, state):
    return y + np.float32(1e-7) * (len(x) > 1), rows


def by_neighbour(y, rows, x, state):
    return y + 0 * x.sum(), rows


def by_place(y, rows, x, state):
    return y + np.arange(len(x), dtype=np.float32)[:, None] * np.float32(1e-7), rows


def by_another_order_of_gates(y, rows, x, state):
    return y, np.roll(rows, 1, axis=1)


@pytest.mark.parametrize("fault", [by_batch, by_neighbour, by_place, by_another_order_of_gates])
def test_a_broken_executor_is_found(model, monkeypatch, fault):
    step = EXECUTOR.step

    def broken(self, x, state, mask=None):
        (y,), rows = step(self, x, state, mask)
        y, rows = fault(y, rows, x, state)
        return (y,), rows

    monkeypatch.setattr(EXECUTOR, "step", broken)
    with np.errstate(all="ignore"), pytest.raises(ContractError, match="FAILED"):
        verify_contract(model)


def test_a_state_that_fades_is_not_excused_by_its_own_error(model, monkeypatch):
    step = EXECUTOR.step

    def fading(self, x, state, mask=None):
        ys, rows = step(self, x, state, mask)
        return ys, rows * np.float32(0.9) if self.dtype == np.float32 else rows

    monkeypatch.setattr(EXECUTOR, "step", fading)
    with pytest.raises(ContractError, match="step equals whole"):
        verify_contract(model)


def test_a_step_that_does_not_know_masks_is_found(model, monkeypatch):
    step = EXECUTOR.step
    monkeypatch.setattr(EXECUTOR, "step", lambda self, x, state, mask=None: step(self, x, state))
    with pytest.raises(ContractError, match="masked"):
        verify_contract(model)


def test_a_file_that_holds_another_state_is_found(model, monkeypatch):
    monkeypatch.setattr(stepstream.Stream, "load", lambda self, path: None)
    with pytest.raises(ContractError, match="saved to a file"):
        verify_contract(model)


def test_bits_that_hang_on_changing_company_are_found(model, monkeypatch):
    """Right as long as a batch stays together, wrong where it was split or merged on the way."""
    step, sizes = EXECUTOR.step, {}

    def jealous(self, x, state, mask=None):
        (y,), rows = step(self, x, state, mask)
        faithful = all(sizes.setdefault(row.tobytes(), len(x)) == len(x) for row in state if row.any())
        sizes.update((row.tobytes(), len(x)) for row in rows)
        return (y if faithful else y + np.float32(1e-7),), rows

    monkeypatch.setattr(EXECUTOR, "step", jealous)
    with pytest.raises(ContractError, match="change at every sample"):
        verify_contract(model)


def test_a_state_that_loses_bits_is_found(model, monkeypatch):
    pack = NumpyExecutor.pack
    monkeypatch.setattr(NumpyExecutor, "pack", lambda self, slots: pack(self, slots).astype(np.float16).astype("f4"))
    with pytest.raises(ContractError, match="saved and restored"):
        verify_contract(model)


def test_a_reset_that_keeps_something_is_found(model, monkeypatch):
    monkeypatch.setattr(stepstream.Stream, "reset", lambda self: None)
    with pytest.raises(ContractError, match="reset equals fresh"):
        verify_contract(model)
