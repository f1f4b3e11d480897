"""A store that is looked at while an engine has it, by its path or address."""

import pytest

from stepstream.errors import StoreError
from stepstream.stores.reading import reading
from stores.conftest import HEADER


@pytest.fixture(params=["sqlite-sync", "redis"])
def named(request, places, tmp_path):
    """(a store, opened; its name)"""
    store = places(request.param)
    store.open(HEADER)
    if request.param != "redis":
        return store, tmp_path / "states.db"
    url = request.getfixturevalue("redis_server").url(request.node.name.replace("[", "-").replace("]", "-"))
    return store, url


def fill(store, record=b"1"):
    if store.keeps_journal:
        store.put(0, [(b"a", record), (b"b", b"2")])
    else:
        store.commit(b"", lambda: [(b"a", record), (b"b", b"2")], ())


def test_read_beside_its_engine_which_keeps_it(named):
    store, name = named
    fill(store)
    if store.keeps_journal:
        store.commit(b"entry", tuple, ())
    with reading(name) as (header, reader):
        assert header == HEADER
        assert sorted((s.key, s.record) for s in reader.records()) == [(b"a", b"1"), (b"b", b"2")]
        assert [s.record for s in reader.get([b"b", b"unknown"])] == [b"2"]
        assert list(reader.journal()) == ([(1, b"entry")] if store.keeps_journal else [])
        sizes = reader.sizes()
        assert (sizes["journal_entries"], sizes["journal_bytes"]) == ((1, 5) if store.keeps_journal else (0, 0))
        assert reader.verify() == []
        fill(store, b"newer")
    with reading(name) as (_, reader):
        assert [s.record for s in reader.get([b"a"])] == [b"newer"]


def test_a_sqlite_store_is_seen_as_of_one_moment(sqlite, tmp_path):
    store = sqlite()
    fill(store)
    store.commit(b"entry", tuple, ())
    with reading(tmp_path / "states.db") as (_, reader):
        fill(store, b"newer")
        store.trim(1)
        assert [s.record for s in reader.get([b"a"])] == [b"1"]
        assert list(reader.journal()) == [(1, b"entry")]


def test_nothing_is_left_behind(sqlite, tmp_path):
    store = sqlite()
    fill(store)
    store.close()
    before = sorted(tmp_path.iterdir())
    with reading(tmp_path / "states.db") as (_, reader):
        assert len(list(reader.records())) == 2
    assert sorted(tmp_path.iterdir()) == before


@pytest.mark.parametrize("content", [None, b"", b"text\n" * 999])
def test_what_is_no_store_stays_as_it_is(tmp_path, content):
    path = tmp_path / "other"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(StoreError, match="other: expected a store"), reading(path):
        pass
    assert [p.read_bytes() for p in tmp_path.iterdir()] == ([content] if content is not None else [])


def test_no_prefix_is_made(redis_server):
    with (
        pytest.raises(StoreError, match="'nobody': expected a store, got no keys of this prefix"),
        reading(redis_server.url("nobody")),
    ):
        pass
    assert not redis_server.client().keys("*nobody*")


def test_what_is_looked_at_cannot_be_written(redis_server):
    from stepstream.stores.redis import RedisStore

    owner, looker = (RedisStore.at(redis_server.url("looked-at")) for _ in range(2))
    owner.open(HEADER)
    looker.look()
    with pytest.raises(StoreError, match="expected to be the engine that has this prefix"):
        looker.commit(b"", lambda: [(b"a", b"1")], ())
    owner.commit(b"", lambda: [(b"a", b"2")], ())
    with pytest.raises(StoreError, match="expected a closed store"):
        owner.look()
    owner.close()
    looker.close()
