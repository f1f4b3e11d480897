"""Places where a store can be, and a Redis server of our own."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from stepstream.stores.memory import MemoryStore
from stepstream.stores.redis import RedisStore
from stepstream.stores.sqlite import SqliteStore
from stores.server import start_redis

HEADER = {"fingerprint": "f00d", "windowing": "carry"}


@pytest.fixture(scope="session")
def redis_server(tmp_path_factory):
    server = start_redis(tmp_path_factory.mktemp("redis"))
    yield server
    server.kill()


@pytest.fixture
def lasting_redis(tmp_path):
    """One that acknowledges nothing before it is on the disk."""
    server = start_redis(tmp_path, "--appendonly", "yes", "--appendfsync", "always")
    yield server
    server.kill()


@pytest.fixture
def places(request, tmp_path):
    """A function: the store of a kind at one place, made anew at each call; memory is its own place."""
    opened = []
    memory = MemoryStore()

    def make(kind):
        if kind == "memory":
            store = memory
        elif kind == "redis":
            url = request.getfixturevalue("redis_server").url(request.node.name.replace("[", "-").replace("]", "-"))
            store = RedisStore.at(url)
        else:
            store = SqliteStore(tmp_path / "states.db", kind.removeprefix("sqlite-"), interval=0.01)
        opened.append(store)
        return store

    yield make
    for store in opened:
        store.close()


@pytest.fixture
def sqlite(tmp_path):
    """A function: a SQLite store at one path, opened."""
    opened = []

    def make(**options):
        store = SqliteStore(tmp_path / "states.db", **options)
        opened.append(store)
        store.open(HEADER)
        return store

    yield make
    for store in opened:
        store.close()


@pytest.fixture
def small_disk(tmp_path):
    """A disk of 2 MB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    if os.geteuid() or subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", folder]).returncode:
        pytest.skip("mounting a small disk takes root")
    yield folder
    subprocess.run(["umount", "-l", folder], check=True)


@pytest.fixture
def failing_disk(tmp_path):
    """The environment of a process whose disk takes nothing any more, once the file named in FAIL exists."""
    if shutil.which("gcc") is None or not sys.platform.startswith("linux"):
        pytest.skip("a failing disk takes gcc and LD_PRELOAD")
    library, source = tmp_path / "failing.so", Path(__file__).parent / "failing_fsync.c"
    subprocess.run(["gcc", "-shared", "-fPIC", "-o", library, source, "-ldl"], check=True)
    before = os.environ.get("LD_PRELOAD", "")  # a sanitizer wants to be the first
    return {**os.environ, "LD_PRELOAD": f"{before} {library}".strip(), "FAIL": str(tmp_path / "fail")}
