"""An engine whose process, or whose Redis server, is killed: nothing acknowledged is lost, nothing is done twice.

The short form of bench/kill.py.
"""

import pytest
from kills import Killer, Options, operation

from stores.conftest import lasting_redis, redis_server  # noqa: F401

pytestmark = pytest.mark.slow


def test_an_engine_on_sqlite_that_is_killed(tmp_path):
    figures = Killer(Options(str(tmp_path / "states.db")), longest=0.3).run(6)
    assert figures["operations"] > 20
    assert figures["snapshots"] > 0


@pytest.mark.parametrize("durability", ["interval", "none"])
def test_an_engine_on_sqlite_that_waits_for_no_disk_is_killed(tmp_path, durability):
    """The system has what was written, and goes on."""
    options = Options(str(tmp_path / "states.db"), durability, "sliding(5)", seed=2)
    assert Killer(options, longest=0.2).run(3)["operations"] > 20


def test_an_engine_on_redis_that_is_killed(redis_server):  # noqa: F811
    options = Options(redis_server.url("kills"), windowing="tumbling(7)", seed=3)
    assert Killer(options, longest=0.3).run(4)["operations"] > 20


def test_an_engine_on_redis_whose_server_is_killed(lasting_redis):  # noqa: F811
    options = Options(lasting_redis.url("kills"), "sync", seed=4)
    assert Killer(options, lasting_redis, longest=0.3).run(5)["openings"] >= 6


def test_operations_follow_from_the_seed():
    options = Options("")
    for i in range(100):
        a, b = operation(options, i), operation(options, i)
        assert (a.kind, a.keys, a.seq, a.x.tolist()) == (b.kind, b.keys, b.seq, b.x.tolist())
    assert len({operation(options, i).kind for i in range(100)}) == 12
