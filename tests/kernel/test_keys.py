"""Keys -> rows: three kinds of keys, any order of insertions and removals, and nothing changes for what is no key."""

import numpy as np
import pytest

from stepstream.kernel import keys as module
from stepstream.kernel.executor import native
from stepstream.kernel.keys import KeyTable


@pytest.fixture(params=["native", "plain"])
def table(request, monkeypatch):
    if request.param == "plain":
        monkeypatch.setattr(module, "native", lambda: None)
    elif native() is None:
        pytest.skip("the native kernel is not built")
    return KeyTable


def test_three_keys_that_look_alike(table):
    t = table()
    rows = t.insert([1, "1", b"1", 1, np.int64(1)])
    assert rows.tolist() == [0, 1, 2, 0, 0]
    assert [t.key(r) for r in range(3)] == [1, "1", b"1"]
    assert [type(k) for k, _ in t.items()] == [int, str, bytes]
    assert t.find(["1", b"2", 1]).tolist() == [1, -1, 0]
    assert t.remove(["1", "1"]).tolist() == [1, -1]
    assert len(t) == 2
    with pytest.raises(KeyError):
        t.key(1)
    assert t.insert(["new"]).tolist() == [1], "rows of removed keys are given out again"


@pytest.mark.parametrize(
    "bad",
    [
        [1.5],
        [None],
        [True],
        ["ok", ("a",)],
        ["\ud800"],
        "one",
        b"one",
        7,
        bytearray(b"one"),
        memoryview(b"one"),
        [2**1024],
        [-(2**1024)],
        [10**5000],
    ],
)
def test_what_is_no_key_changes_nothing(table, bad):
    t = table()
    for method in (t.insert, t.remove, t.find):
        with pytest.raises((TypeError, ValueError)):
            method(bad)
    assert len(t) == t.rows == 0


def test_a_million_keys(table):
    t, keys = table(), [f"device-{i}" for i in range(1_000_000)]
    assert (t.insert(keys) == np.arange(1_000_000)).all()
    some = np.random.default_rng(0).permutation(1_000_000)[:200_000]
    assert (t.find([keys[i] for i in some]) == some).all()
    gone = [keys[i] for i in some]
    assert (np.sort(t.remove(gone)) == np.sort(some)).all()
    assert (t.find(gone) == -1).all()
    assert len(t) == 800_000


def test_keys_of_any_length_and_content(table):
    t, keys = (
        table(),
        [
            "",
            b"",
            "\0",
            b"\0",
            "a" * 1024,
            2**63 - 1,
            2**63,
            -(2**63),
            -(2**63) - 1,
            10**100,
            2**1024 - 1,
            1 - 2**1024,
        ],
    )
    assert t.insert(keys).tolist() == list(range(len(keys)))
    assert [t.key(i) for i in range(len(keys))] == keys
    for n, bad in ((1025, "a" * 1025), (1026, "é" * 513), (2000, b"a" * 2000)):
        with pytest.raises(ValueError, match=f"at most 1024 bytes, got {n}"):
            t.find([bad])


def test_a_key_is_what_it_holds_not_what_it_calls_itself(table):
    class Text(str):
        def __str__(self):
            return "other"

    class Number(int):
        def __index__(self):
            return 7

    t = table()
    t.insert(["a", 1])
    assert t.find([Text("a"), Number(1)]).tolist() == [0, 1]
    assert [type(t.key(r)) for r in t.insert([Text("b"), Number(2)])] == [str, int]


def test_an_index_is_asked_once(table):
    class Once:
        def __init__(self):
            self.asked = 0

        def __index__(self):
            self.asked += 1
            if self.asked > 1:
                raise ValueError
            return 5

    t = table()
    assert t.insert([*range(40), Once()]).tolist() == [*range(40), 5]
