"""The contract for every op that exists, and bit equality for many sizes."""

from dataclasses import replace

import numpy as np
import pytest

from make import EXAMPLES, NEVER_STEPS, dense, model_of, question, recurrent
from stepstream.ops import REGISTRY
from stepstream.ops.activation import FUNCTIONS
from stepstream.testing import stepped, verify_contract


@pytest.mark.parametrize("op", sorted(set(REGISTRY) - NEVER_STEPS))
def test_every_op_keeps_the_contract(op):
    assert op in EXAMPLES, f"give the op {op!r} an example in tests/make.py"
    model = EXAMPLES[op]()
    assert op in {n.op for n in model.graph.nodes}
    verify_contract(model)


@pytest.mark.parametrize("activation", sorted(set(FUNCTIONS) - {"glu"}))
@pytest.mark.parametrize("op", ["simple_rnn", "gru", "lstm"])
def test_every_activation_inside_every_recurrent_layer(op, activation):
    verify_contract(model_of(recurrent(op, 3, 4, activation=activation)))


@pytest.mark.parametrize("units", [1, 3, 16, 100, 256])
@pytest.mark.parametrize("op", ["simple_rnn", "gru", "lstm"])
def test_same_bits_in_every_batch(op, units):
    model = model_of(recurrent(op, 3, units), recurrent(op, units, units, sequences=False), dense(units, 2))
    x = np.random.default_rng(0).normal(size=(64, 5, 3)).astype(np.float32)
    alone = np.concatenate([stepped(model.executor, x[i : i + 1]) for i in range(64)])
    for batch in (2, 7, 64):
        together = np.concatenate([stepped(model.executor, x[i : i + batch]) for i in range(0, 64, batch)])
        assert together.tobytes() == alone.tobytes()


def test_the_question_at_100_samples():
    model = question()
    x = np.random.default_rng(1).normal(size=(2, 100, 3)).astype(np.float32)
    y = stepped(model.executor, x)
    assert np.ptp(y, axis=1).min() > 0.2  # the comparison is of something that moves
    verify_contract(model, x)


MASK = np.array([[True, False, True, True, False, True]])


def test_masked_samples_leave_the_state_alone():
    model = model_of(recurrent("lstm", 3, 4), recurrent("gru", 4, 3), dense(3, 1))
    x = np.random.default_rng(2).normal(size=(1, 6, 3)).astype(np.float32)
    mask = MASK
    (whole,) = model.executor.whole(x, mask)
    stream = model.stream("carry")
    answers = [stream.step(x[0, t], mask=bool(mask[0, t])) for t in range(6)]
    np.testing.assert_allclose(answers, whole[0, :, 0], atol=1e-6)
    kept = model.stream("carry").steps(x[:, mask[0]])
    np.testing.assert_array_equal(np.array(answers, np.float32)[mask[0]], kept[:, 0])
    assert answers[1] == answers[0]
    assert stream.age == 6


def test_masked_samples_give_zeros_where_the_layer_says_so():
    op, params, weights = recurrent("lstm", 3, 4)
    zeros = {**params, "zero_output_for_mask": True}
    model = model_of((op, zeros, weights))
    plain = model_of((op, params, weights)).stream("carry")
    stream = model.stream("carry")
    for x, keep in zip(np.random.default_rng(2).normal(size=(6, 3)), MASK[0].tolist(), strict=True):
        y = stream.step(x, mask=keep)
        expected = plain.step(x) if keep else np.zeros(4)
        np.testing.assert_array_equal(y, expected)
    x = np.random.default_rng(2).normal(size=(1, 6, 3)).astype(np.float32)
    (whole,) = model.executor.whole(x, MASK)
    assert not whole[0, ~MASK[0]].any()
    assert whole[0, MASK[0]].all()
    latest = model_of((op, {**zeros, "return_sequences": False}, weights))
    assert not latest.executor.whole(x, ~MASK)[0].any()  # the last sample is masked


def test_a_layer_that_takes_no_mask_does_not_see_it():
    model = model_of(recurrent("lstm", 3, 4))
    (node,) = model.graph.nodes
    deaf = type(model.executor)(replace(model.graph, nodes=(replace(node, inputs=("x",)),)))
    x = np.random.default_rng(2).normal(size=(1, 6, 3)).astype(np.float32)
    np.testing.assert_array_equal(deaf.whole(x, MASK)[0], model.executor.whole(x)[0])
    assert (model.executor.whole(x, MASK)[0] != model.executor.whole(x)[0]).any()


def test_masks_joined():
    x = np.random.default_rng(3).normal(size=(1, 4, 3)).astype(np.float32)
    x[0, 1, 0] = x[0, 2, 1] = 0  # sample 1 is masked by the first mask, sample 2 by the second
    alone = {}
    for op in ("mask_and", "mask_or"):
        h, y = EXAMPLES[op]().executor.whole(x)
        repeated = [t for t in range(1, 4) if (h[0, t] == h[0, t - 1]).all()]
        assert repeated == ([1, 2] if op == "mask_and" else [])
        assert (y[0, 1] == 0.5).all()  # where: the first mask alone
        assert not (y[0, 2] == 0.5).any()
        alone[op] = h
    assert (alone["mask_and"][0, 3] != alone["mask_or"][0, 3]).any()
