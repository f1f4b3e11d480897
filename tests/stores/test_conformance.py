"""What an engine asks of a store, asked of every kind."""

import inspect
import pkgutil
import threading
from importlib import import_module

import pytest

import stepstream.stores
from stepstream.errors import StoreError
from stepstream.stores.opening import store_at
from stepstream.stores.sqlite import DURABILITIES, SqliteStore
from stepstream.stores.store import Store, Stored

KINDS = ["memory", *(f"sqlite-{durability}" for durability in DURABILITIES), "redis"]
HEADER = {"fingerprint": "f00d", "windowing": "carry", "umlaut": "ä\0\n"}
ODD_KEYS = [b"", b"\0", b"a", b"A", b"a\0", b"\xff" * 300, b"*", b"state:a", b"[a]", b"'; DROP TABLE records"]


def none():
    return ()


@pytest.fixture(params=KINDS)
def kind(request):
    return request.param


@pytest.fixture
def store(places, kind):
    store = places(kind)
    store.open(HEADER)
    return store


def again(store, places, kind):
    """Closed, and opened by the next engine."""
    store.close()
    store = places(kind)
    store.open({})
    return store


def write(store, number, records, gone=()):
    """Records as a store of either kind is given them."""
    if store.keeps_journal:
        store.put(number, records.items())
        store.delete(number, gone)
    else:
        store.commit(b"", records.items, gone)


def content(store):
    found = [(stored.key, stored.record) for stored in store.records()]
    assert len(found) == len(dict(found)), "each once"
    return dict(found)


def test_every_kind_is_tested():
    found = set()
    for info in pkgutil.iter_modules(stepstream.stores.__path__):
        module = import_module(f"stepstream.stores.{info.name}")
        found |= {name for name, value in vars(module).items() if inspect.isclass(value) and name.endswith("Store")}
    assert found == {"Store", "MemoryStore", "SqliteStore", "RedisStore"}


def test_has_all_that_is_asked(store):
    asked = {name for name in vars(Store) if not name.startswith("_")}
    for name in asked:
        ours, theirs = getattr(type(store), name), getattr(Store, name)
        if inspect.isfunction(theirs):
            assert inspect.signature(ours) == inspect.signature(theirs), name
    assert isinstance(store.keeps_journal, bool)
    assert store.journal_bytes == 0


def test_an_empty_store_takes_the_header(places, kind):
    store = places(kind)
    assert store.open(HEADER) == HEADER
    assert list(store.records()) == list(store.journal()) == store.verify() == []


def test_an_old_store_keeps_its_header(store, places, kind):
    store.close()
    seen = []
    store = places(kind)
    assert store.open({"fingerprint": "other"}, seen.append) == HEADER
    assert seen == [HEADER]


def test_a_header_that_is_refused_changes_nothing(places, kind):
    def refuse(header):
        raise ValueError(header["fingerprint"])

    with pytest.raises(ValueError, match="mine"):
        places(kind).open({"fingerprint": "mine"}, refuse)
    store = places(kind)
    assert store.open(HEADER) == HEADER
    write(store, 0, {b"a": b"1"})
    store.close()
    with pytest.raises(ValueError, match="f00d"):
        places(kind).open({"fingerprint": "other"}, refuse)
    store = places(kind)
    assert store.open({}) == HEADER
    assert content(store) == {b"a": b"1"}


def test_a_header_can_be_replaced(store, places, kind):
    store.set_header({"fingerprint": "new"})
    store.close()
    assert places(kind).open(HEADER) == {"fingerprint": "new"}


def test_records_of_any_bytes(store, places, kind):
    records = {key: bytes([n]) * n for n, key in enumerate(ODD_KEYS)}
    write(store, 0, records)
    for reopened in (False, True):
        if reopened:
            store = again(store, places, kind)
        assert content(store) == records
        assert store.get(list(records)) == [Stored(key, 0, record) for key, record in records.items()]
        assert store.get([b"unknown"]) == []
        assert store.verify() == []


def test_the_last_write_holds(store):
    write(store, 0, {b"a": b"1", b"b": b"2"})
    write(store, 0, {b"a": b"3" * 10_000}, gone=[b"b", b"unknown"])
    assert content(store) == {b"a": b"3" * 10_000}
    assert store.get([b"b"]) == []


def test_many_records(store, places, kind):
    records = {f"stream {n}".encode(): b"%d" % n * 20 for n in range(3000)}
    store.put(0, iter(records.items()))
    half = dict(list(records.items())[:1500])
    store.delete(0, iter(half))
    left = {key: record for key, record in records.items() if key not in half}
    assert content(store) == left
    assert content(again(store, places, kind)) == left


def test_a_record_stays_that_is_newer_than_what_was_deleted(store, places, kind):
    if not store.keeps_journal:
        pytest.skip("a commit deletes, and nothing comes in between")
    for _ in range(5):
        store.commit(b"", none, ())
    store.put(5, [(b"newer", b"1")])
    store.put(4, [(b"older", b"2")])
    store.delete(4, [b"newer", b"older"])
    assert content(again(store, places, kind)) == {b"newer": b"1"}


def test_an_iterator_that_fails_breaks_nothing(store):
    def failing():
        yield b"a", b"1"
        raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        store.put(0, failing())
    store.put(0, [(b"a", b"2")])
    assert content(store) == {b"a": b"2"}


def test_a_commit(store, places, kind):
    numbers = [store.commit(b"entry %d" % n, {b"key": b"%d" % n}.items, [b"none"]) for n in range(5)]
    for reopened in (False, True):
        if reopened:
            store = again(store, places, kind)
        if store.keeps_journal:
            assert numbers == [1, 2, 3, 4, 5]
            assert list(store.journal()) == [(n, b"entry %d" % (n - 1)) for n in numbers]
            assert store.journal_bytes == 5 * len(b"entry 0")
            assert content(store) == {}
        else:
            assert numbers == [0] * 5
            assert list(store.journal()) == []
            assert content(store) == {b"key": b"4"}


def test_a_snapshot(store, places, kind):
    for n in range(200):
        store.commit(b"%03d" % n, none, ())
    number = 150 if store.keeps_journal else 0
    store.put(number, [(b"a", b"state")])
    store.trim(number)
    store.trim(number)  # once more is none
    for reopened in (False, True):
        if reopened:
            store = again(store, places, kind)
        assert [n for n, _ in store.journal()] == (list(range(151, 201)) if store.keeps_journal else [])
        assert store.journal_bytes == (150 if store.keeps_journal else 0)
        assert store.get([b"a"]) == [Stored(b"a", number, b"state")]
        assert store.verify() == []
    assert store.commit(b"next", none, ()) == (201 if store.keeps_journal else 0)


def test_numbers_go_on_when_all_is_trimmed(store, places, kind):
    last = [store.commit(b"x", none, ()) for _ in range(3)][-1]
    store.trim(last)
    store = again(store, places, kind)
    assert store.commit(b"y", none, ()) == (4 if store.keeps_journal else 0)


def test_a_backup_is_whole(store, tmp_path):
    write(store, 0, {b"a": b"1", b"": b"2"})
    number = store.commit(b"entry", none, ())
    path = tmp_path / "backup.db"
    store.backup(str(path))
    write(store, number, {b"a": b"later"})
    store.commit(b"later", none, ())
    assert [p.name for p in tmp_path.glob("backup*")] == ["backup.db"]
    copy = SqliteStore(path)
    assert copy.open({}) == HEADER
    assert content(copy) == {b"a": b"1", b"": b"2"}
    assert list(copy.journal()) == ([(1, b"entry")] if store.keeps_journal else [])
    assert copy.verify() == []
    copy.close()
    with pytest.raises(StoreError, match=r"backup\.db: expected the name of a new file"):
        store.backup(str(path))
    with pytest.raises(StoreError, match="no-folder"):
        store.backup(str(tmp_path / "no-folder" / "x.db"))


def test_all_goes_on_after_compacting_and_syncing(store, places, kind):
    store.put(0, ((b"%d" % n, b"x" * 1000) for n in range(1000)))
    store.delete(0, [b"%d" % n for n in range(999)])
    store.compact()
    store.sync()
    store.put(0, [(b"new", b"y")])
    assert content(again(store, places, kind)) == {b"999": b"x" * 1000, b"new": b"y"}


CALLS = {
    "set_header": lambda s: s.set_header({}),
    "rewrite": lambda s: s.rewrite({}, none()),
    "records": lambda s: s.records(),
    "journal": lambda s: s.journal(),
    "commit": lambda s: s.commit(b"", none, ()),
    "put": lambda s: s.put(0, [(b"", b"")]),
    "get": lambda s: s.get([b""]),
    "delete": lambda s: s.delete(0, [b""]),
    "trim": lambda s: s.trim(0),
    "sync": lambda s: s.sync(),
    "backup": lambda s: s.backup("never written"),
    "verify": lambda s: s.verify(),
    "compact": lambda s: s.compact(),
}


def test_rewritten_as_a_whole(store, places, kind):
    write(store, 0, {b"a": b"1", b"b": b"2", b"c": b"3"})
    store.rewrite({"new": "header"}, ((s.key, s.record + b"!") for s in store.records() if s.key != b"b"))
    store = again(store, places, kind)
    assert content(store) == {b"a": b"1!", b"b": b"2", b"c": b"3!"}

    def fails():
        yield b"a", b"lost"
        raise RuntimeError("no more")

    with pytest.raises(RuntimeError, match="no more"):
        store.rewrite({"newer": "header"}, fails())
    store.close()
    store = places(kind)
    assert store.open({}) == {"new": "header"}
    assert content(store) == {b"a": b"1!", b"b": b"2", b"c": b"3!"}


@pytest.mark.parametrize("call", CALLS)
def test_a_closed_store_refuses(store, call):
    store.close()
    store.close()
    with pytest.raises(StoreError, match=r"expected an open store, got a closed one.*open it first"):
        CALLS[call](store)


def test_every_call_is_tested_on_a_closed_store():
    assert {*CALLS, "open", "close", "keeps_journal", "number", "journal_bytes"} == {
        name for name in vars(Store) if not name.startswith("_")
    }


def test_a_store_object_opens_again(store):
    with pytest.raises(StoreError, match="close it"):
        store.open(HEADER)
    write(store, 0, {b"a": b"1"})
    store.close()
    assert store.open({}) == HEADER
    assert content(store) == {b"a": b"1"}


def test_threads(store):
    """Commits, evictions, readers and a snapshot at once: nothing is lost, and entries are numbered in order."""
    numbers, errors = [[] for _ in range(3)], []

    def commits(mine):
        for n in range(60):
            mine.append(store.commit(b"x" * 100, {b"touched %d" % n: b"t"}.items, ()))

    def puts(name):
        store.put(0, ((b"%s %d" % (name, n), b"r" * 50) for n in range(1500)))

    def reads():
        for n in range(100):
            found = next(iter(store.get([b"a %d" % n])), None)
            assert found is None or found.record == b"r" * 50
        for found in store.records():
            assert found.record in (b"r" * 50, b"t")

    def guarded(call, *args):
        try:
            call(*args)
        except BaseException as e:
            errors.append(e)

    work = [(commits, mine) for mine in numbers] + [(puts, b"a"), (puts, b"b"), (reads,), (reads,)]
    threads = [threading.Thread(target=guarded, args=args) for args in work]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    assert all(mine == sorted(mine) for mine in numbers)
    if store.keeps_journal:
        assert sorted(n for mine in numbers for n in mine) == list(range(1, 181))
        assert [n for n, _ in store.journal()] == list(range(1, 181))
    found = content(store)
    assert sum(key.startswith((b"a ", b"b ")) for key in found) == 3000
    assert sum(key.startswith(b"touched") for key in found) == (0 if store.keeps_journal else 60)
    assert store.verify() == []


def test_opened_by_name(tmp_path):
    assert store_at(tmp_path / "a.db").path == store_at(str(tmp_path / "a.db")).path == tmp_path / "a.db"
