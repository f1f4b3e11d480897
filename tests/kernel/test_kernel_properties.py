"""The kernel and its table of keys, for whatever Hypothesis can think of."""

import pytest

from make import dense, model_of, recurrent
from stepstream.kernel.keys import KeyTable
from stepstream.kernel.plan import ACTIVATIONS
from stepstream.ops.activation import FUNCTIONS
from stepstream.testing import verify_contract

hypothesis = pytest.importorskip("hypothesis")
from hypothesis import given, settings  # noqa: E402  (importorskip comes first)
from hypothesis import strategies as st  # noqa: E402

KEYS = st.one_of(
    st.text(max_size=20), st.binary(max_size=20), st.integers(-(2**80), 2**80), st.sampled_from([1, "1", b"1"])
)


@settings(deadline=None, derandomize=True, max_examples=25)
@given(units=st.integers(1, 40), features=st.integers(1, 9), op=st.sampled_from(["lstm", "gru", "simple_rnn"]),
       act=st.sampled_from(sorted(set(ACTIVATIONS) & set(FUNCTIONS) - {"glu", "exponential", "squareplus"})),
       gate=st.sampled_from(["sigmoid", "hard_sigmoid", "softmax"]))  # fmt: skip
def test_recurrent_layers_of_any_kind_keep_the_contract(units, features, op, act, gate):
    verify_contract(
        model_of(recurrent(op, features, units, activation=act, gate=gate), dense(units, 3), features=features)
    )


@settings(deadline=None, derandomize=True)
@given(st.lists(st.tuples(st.sampled_from(["insert", "remove", "find"]), st.lists(KEYS, max_size=8)), max_size=40))
def test_it_behaves_as_a_dict(steps):
    t, known = KeyTable(), {}
    for what, keys in steps:
        rows = getattr(t, what)(keys).tolist()
        for key, row in zip(keys, rows, strict=True):
            own = (type(key), key)
            if what == "insert":
                assert known.setdefault(own, row) == row
            elif what == "find":
                assert known.get(own, -1) == row
            else:
                assert known.pop(own, -1) == row
        assert len(set(known.values())) == len(known) == len(t)
    assert {(type(k), k): row for k, row in t.items()} == known
