"""What happens to a Redis store whose server dies, starts anew or forgets, and to an engine that comes too late."""

import sys

import pytest

from stepstream.errors import StoreError
from stores.server import start_redis

pytest.importorskip("redis")
from stepstream.stores.opening import is_address, shown, store_at
from stepstream.stores.redis import RedisStore

HEADER = {"fingerprint": "f00d"}


@pytest.fixture
def at(redis_server, request):
    """A function: a store at the prefix of this test, opened."""
    opened = []

    def make(server=redis_server, check=None, **options):
        store = RedisStore(server.url("").partition("?")[0], request.node.name, **options)
        opened.append(store)
        store.open(HEADER, check)
        return store

    yield make
    for store in opened:
        store.close()


def commit(store, **records):
    return store.commit(b"", {key.encode(): value for key, value in records.items()}.items, ())


def content(store):
    return {stored.key: stored.record for stored in store.records()}


def test_the_next_engine_takes_over_and_the_first_is_refused_from_then_on(at):
    old = at()
    commit(old, a=b"old")
    new = at()
    commit(new, a=b"new")
    for write in (
        lambda: commit(old, a=b"too late"),
        lambda: commit(old, a=b"again"),
        lambda: old.put(0, [(b"a", b"evicted")]),
    ):
        with pytest.raises(StoreError, match="engine that has this prefix, got another that opened it since"):
            write()
    assert content(new) == {b"a": b"new"}
    old.close()  # takes nothing from the other
    commit(new, b=b"2")
    assert content(new) == {b"a": b"new", b"b": b"2"}


@pytest.mark.parametrize(
    "write",
    [
        lambda store: commit(store),
        lambda store: store.put(0, [(b"a", b"x")]),
        lambda store: store.delete(0, [b"a"]),
        lambda store: store.set_header({}),
    ],
)
def test_every_write_is_fenced(at, write):
    old, new = at(), at()
    commit(new, a=b"1")
    with pytest.raises(StoreError, match="got another that opened it since"):
        write(old)
    assert content(new) == {b"a": b"1"}
    new.close()
    assert new.open({}) == HEADER


def test_a_commit_of_many_pieces_is_fenced_as_one(at):
    old = at()
    old.commit(b"", {b"%d" % n: b"1" for n in range(2500)}.items, (b"%d" % n for n in range(1500)))
    assert len(content(old)) == 1000
    new = at()
    with pytest.raises(StoreError, match="got another"):
        old.commit(b"", {b"%d" % n: b"2" for n in range(2500)}.items, ())
    assert set(content(new).values()) == {b"1"}


def test_a_token_that_is_lost_is_no_claim(at, redis_server):
    store = at()
    with redis_server.client() as client:
        client.delete(*client.keys("*:token"))
    with pytest.raises(StoreError, match="got another that opened it since"):
        commit(store, a=b"1")


def test_prefixes_do_not_meet(redis_server):
    names = ["a", "a:", "[a]", "a*", "*", "a\\", "ä"]
    stores = [RedisStore(redis_server.url("").partition("?")[0], f"apart {name}") for name in names]
    for number, store in enumerate(stores):
        store.open({"name": str(number)})
        commit(store, key=b"%d" % number)
    for number, store in enumerate(stores):
        commit(store, other=b"%d" % number)
        assert content(store) == {b"key": b"%d" % number, b"other": b"%d" % number}
        assert store.verify() == []
        store.close()


def test_what_was_acknowledged_outlives_the_server(at, lasting_redis):
    store = at(lasting_redis)
    for n in range(50):
        commit(store, **{f"key {n % 7}": b"%d" % n, "last": b"%d" % n})
    lasting_redis.kill()
    with pytest.raises(StoreError, match=r"expected a commit to be written, got .*; see to the server, then open"):
        commit(store, last=b"never")
    lasting_redis.start()
    with pytest.raises(StoreError, match="got one that broke earlier; open it again"):
        commit(store, last=b"never")
    store.close()
    assert store.open({}) == HEADER
    assert content(store)[b"last"] == b"49"
    assert len(content(store)) == 8
    assert store.verify() == []
    commit(store, last=b"50")


def test_a_server_started_anew_between_two_commits_is_noticed(at, lasting_redis):
    """It may have forgotten the newest commits, and then the token that says so too."""
    store = at(lasting_redis)
    commit(store, a=b"1")
    lasting_redis.kill()
    lasting_redis.start()
    with pytest.raises(StoreError, match="got one started since, which may have forgotten commits"):
        commit(store, a=b"2")
    with pytest.raises(StoreError, match="open"):
        store.get([b"a"])
    store.close()
    store.open({})
    assert content(store) == {b"a": b"1"}


def test_a_lost_connection_alone_is_made_again(at, redis_server):
    store = at()
    commit(store, a=b"1")
    with redis_server.client() as client:
        client.client_kill_filter(_type="normal", skipme=True)
    commit(store, a=b"2")
    assert content(store) == {b"a": b"2"}


def test_no_server(lasting_redis):
    lasting_redis.kill()
    store = RedisStore(f"redis://:secret@127.0.0.1:{lasting_redis.port}/0")
    with pytest.raises(StoreError, match="expected a server that answers, got ConnectionError") as error:
        store.open(HEADER)
    assert "secret" not in str(error.value)


def test_records_that_expire(at, redis_server):
    store = at(expire=1000)
    commit(store, a=b"1")
    store.put(0, [(b"b", b"2")])
    with redis_server.client() as client:
        lives = {key.rpartition(b":")[2]: client.pttl(key) for key in client.keys("*expire*")}
    assert 900_000 < lives.pop(b"a") <= 1_000_000
    assert 900_000 < lives.pop(b"b") <= 1_000_000
    assert lives == {b"header": -1, b"token": -1}


def test_damage_is_found(at, redis_server, tmp_path):
    store = at()
    commit(store, good=b"1", bad=b"2", short=b"3")
    with redis_server.client() as client:
        for key in client.keys("*damage*"):
            if key.endswith(b"bad"):
                client.setrange(key, 4, b"X")
            if key.endswith(b"short"):
                client.set(key, b"")
    assert content(store) == {b"good": b"1", b"bad": None, b"short": None}
    assert store.get([b"bad"])[0].record is None
    assert sorted(store.verify()) == [f"record of key b'{key}': its checksum does not fit" for key in ("bad", "short")]
    with pytest.raises(StoreError, match="got a damaged one of key"):
        store.backup(str(tmp_path / "backup.db"))
    store.delete(0, [b"bad", b"short"])
    with redis_server.client() as client:
        client.setrange(next(key for key in client.keys("*damage*") if key.endswith(b"header")), 20, b"X")
    assert ["header" in line for line in store.verify()] == [True]
    store.close()
    with pytest.raises(StoreError, match="expected a header as it was written, got a damaged one"):
        store.open({})


def test_a_newer_schema_is_refused_and_its_engine_keeps_it(at, monkeypatch):
    monkeypatch.setattr("stepstream.stores.redis.SCHEMA", 7)
    newer = at()
    monkeypatch.undo()
    with pytest.raises(StoreError, match="expected a store of schema 1, got schema 7; use the newer stepstream"):
        at()
    commit(newer, a=b"1")


def test_a_refused_header_leaves_the_prefix_to_its_engine(at):
    def refuse(header):
        raise ValueError("another model")

    store = at()
    with pytest.raises(ValueError, match="another model"):
        at(check=refuse)
    commit(store, a=b"1")


def test_a_server_that_forgets_is_refused(tmp_path):
    server = start_redis(tmp_path, "--maxmemory", "100mb", "--maxmemory-policy", "allkeys-lru")
    try:
        with pytest.raises(StoreError, match="allkeys-lru, which deletes streams when memory is short"):
            RedisStore.at(server.url("x")).open(HEADER)
    finally:
        server.kill()


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("redis://h/0?prefix=", "a prefix of at least one character"),
        ("redis://h/0?expire=soon", "a number of seconds as expire, got 'soon'"),
        ("redis://h/0?expire=0", "seconds to live above 0 in expire, got 0.0"),
        ("redis://h/0?expire=nan", "seconds to live above 0 in expire, got nan"),
        ("redis://h:port/0", "got a port that is no number"),
        ("redis://h/x", "redis://h/x: expected an address such as .*, got a database that is no number"),
        ("redis://h/0?prefix=a&prefix=b", "redis://h/0: expected one prefix, got 2: a, b"),
        ("unix:///", "got no path of a socket, as in unix:///run/redis.sock"),
        ("unix://tmp/redis.sock", "got no path of a socket, as in unix:///run/redis.sock"),
        ("redis://h/0?socket_timeout=long", "got one that redis-py refuses"),
        ("redis://127.0.0.1:1/0?unheard=of", "got one that redis-py refuses"),
    ],
)
def test_wrong_addresses(url, message):
    with pytest.raises(StoreError, match=message):
        RedisStore.at(url).open(HEADER)


def test_an_error_shows_no_password():
    with pytest.raises(StoreError) as caught:
        RedisStore.at("redis://:secret@h/0?expire=soon")
    assert "secret" not in str(caught.value)
    assert "redis://h/0" in str(caught.value)


def test_without_redis_py(monkeypatch):
    monkeypatch.setitem(sys.modules, "redis", None)
    with pytest.raises(StoreError, match=r"expected redis-py .* pip install 'stepstream\[redis\]'"):
        RedisStore("redis://user:secret@host")


def test_what_the_server_refuses_is_no_other_engine(tmp_path):
    """A full memory is its own error, and the script that was sent is no part of what is said."""
    server = start_redis(tmp_path)
    try:
        store = RedisStore.at(server.url("full"))
        store.open(HEADER)
        commit(store, a=b"1")
        with server.client() as client:
            client.config_set("maxmemory", "1mb")
            with pytest.raises(StoreError, match=r"expected a commit to be written, got .*maxmemory") as error:
                commit(store, a=b"2" * 10)
            assert "another that opened it" not in str(error.value)
            assert "redis.call" not in str(error.value)
            client.config_set("maxmemory", "0")
        store.close()
        store.open({})
        assert content(store) == {b"a": b"1"}
        store.close()
    finally:
        server.kill()


def test_a_socket_and_a_scheme_in_upper_case(tmp_path):
    socket = tmp_path / "r@1.sock"
    server = start_redis(tmp_path, "--unixsocket", str(socket))
    try:
        for number, url in enumerate(
            (f"unix://{socket}?prefix=p", f"UNIX://{socket}?prefix=q", "REDIS" + server.url("r")[5:])
        ):
            assert is_address(url)
            store = store_at(url)
            store.open({"number": str(number)})
            commit(store, a=b"%d" % number)
            assert content(store) == {b"a": b"%d" % number}
            store.close()
        with server.client() as client:
            assert {key.rpartition(b":")[0] for key in client.keys("*:token")} == {b"{p}", b"{q}", b"{r}"}
    finally:
        server.kill()


@pytest.mark.parametrize(
    "password", ["secret", "se:cret", "@secret", "se/cret", "se?cret", "se#cret", "1?secret", "/cret@"]
)
@pytest.mark.parametrize(
    "rest", ["h/x?prefix=a&prefix=b", "h/x", "h:port/0", "h:1/0?unheard=of", "h/0?prefix=", "127.0.0.1:1"]
)
@pytest.mark.parametrize("user", ["", "user"])
def test_no_error_shows_a_password(password, rest, user):
    url = f"redis://{user}:{password}@{rest}"
    with pytest.raises(StoreError) as error:
        store_at(url).open(HEADER)
    for text in (str(error.value), repr(error.value), shown(url)):
        assert "cret" not in text
