"""Any order of calls, with the store closed or its process crashed in between, against a dictionary and a list."""

import shutil
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from stepstream.stores.checksum import checksum
from stepstream.stores.memory import MemoryStore
from stepstream.stores.sqlite import DURABILITIES, SqliteStore

hypothesis = pytest.importorskip("hypothesis")
from hypothesis import given, settings  # noqa: E402  (importorskip comes first)
from hypothesis import strategies as st  # noqa: E402

calm = settings(deadline=None, derandomize=True, max_examples=60)
keys = st.sampled_from([b"", b"a", b"b", b"\0\xff"]) | st.binary(max_size=40)
bodies = st.binary(max_size=50) | st.binary(max_size=3).map(lambda some: some * 5000)
calls = st.one_of(
    st.tuples(st.just("commit"), st.dictionaries(keys, bodies, max_size=3), st.lists(keys, max_size=2)),
    st.tuples(st.just("put"), st.integers(0, 3), st.dictionaries(keys, bodies, max_size=5)),
    st.tuples(st.just("delete"), st.integers(0, 3), st.lists(keys, max_size=3)),
    st.tuples(st.just("trim"), st.integers(0, 4)),
    st.tuples(st.sampled_from(["compact", "sync", "close", "crash"])),
)


class Model:
    """What a store should hold."""

    def __init__(self, keeps_journal):
        self.keeps_journal = keeps_journal
        self.records = {}
        self.journal = {}
        self.last = self.trimmed = 0

    def commit(self, touched, gone):
        if self.keeps_journal:
            self.last += 1
            self.journal[self.last] = repr(touched).encode()
            return self.last
        self.records |= {key: (0, record) for key, record in touched.items()}
        self.delete(0, gone)
        return 0

    def put(self, number, records):
        for key, record in records.items():
            if number >= self.records.get(key, (0,))[0]:
                self.records[key] = (number, record)

    def delete(self, number, keys):
        for key in keys:
            if self.records.get(key, (0,))[0] <= number:
                self.records.pop(key, None)

    def trim(self, number):
        self.trimmed = max(self.trimmed, number)
        self.journal = {n: entry for n, entry in self.journal.items() if n > self.trimmed}


def same(store, model):
    assert {found.key: (found.number, found.record) for found in store.records()} == model.records
    assert dict(store.journal()) == model.journal
    assert store.journal_bytes == sum(map(len, model.journal.values()))
    for key in model.records:
        assert store.get([key]) == [(key, *model.records[key])]


def play(store, script, crash):
    store.open({})
    model = Model(store.keeps_journal)
    for name, *args in script:
        if name == "commit":
            touched, gone = args
            entry = repr(touched).encode()
            assert store.commit(entry, touched.items, gone) == model.commit(touched, gone)
        elif name == "put":
            number = max(0, model.last - args[0])
            store.put(number, args[1].items())
            model.put(number, args[1])
        elif name == "delete":
            number = max(0, model.last - args[0])
            store.delete(number, args[1])
            model.delete(number, args[1])
        elif name == "trim":
            number = max(0, model.last - args[0])
            store.trim(number)
            model.trim(number)
        elif name == "close":
            store.close()
            store.open({})
        elif name == "crash":
            store = crash(store)
            store.open({})
        else:
            getattr(store, name)()
        same(store, model)
    assert store.verify() == []
    store.close()


@calm
@given(st.lists(calls, max_size=12))
def test_memory(script):
    play(MemoryStore(), script, crash=lambda store: store.close() or store)


@pytest.mark.slow
@calm
@given(st.sampled_from(DURABILITIES), st.lists(calls, max_size=12))
def test_sqlite(durability, script):
    with TemporaryDirectory() as folder:
        paths = (Path(folder) / f"{n}.db" for n in range(100))

        def crash(store):
            path = next(paths)
            for end in ("", "-wal"):
                shutil.copy(f"{store.path}{end}", f"{path}{end}")
            store.close()
            return SqliteStore(path, durability)

        play(SqliteStore(next(paths), durability), script, crash)


@calm
@given(st.binary(max_size=50), st.integers(-(2**63), 2**63 - 1), st.binary(max_size=50), st.integers(0, 10**6))
def test_a_checksum_covers_every_bit(key, number, record, bit):
    written = checksum(key, number, record)
    whole = bytearray(key + (number % 2**64).to_bytes(8, "little") + record)
    bit %= 8 * len(whole)
    whole[bit // 8] ^= 1 << bit % 8
    split = len(key)
    number = int.from_bytes(whole[split : split + 8], "little")
    assert checksum(bytes(whole[:split]), number, bytes(whole[split + 8 :])) != written


@calm
@given(st.binary(min_size=1, max_size=20), st.data())
def test_a_checksum_tells_a_key_from_a_record(joint, data):
    one, two = (data.draw(st.integers(0, len(joint))) for _ in range(2))
    if one != two:
        assert checksum(joint[:one], 0, joint[one:]) != checksum(joint[:two], 0, joint[two:])
