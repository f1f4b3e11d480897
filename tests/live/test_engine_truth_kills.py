"""An engine that is killed among samples and labels has the figures of one that was not, to the bit."""

import random
import subprocess
import sys

import labelling
import pytest

from stores.conftest import redis_server  # noqa: F401

pytestmark = pytest.mark.slow


def killed(store, first, n):
    """The last operation that is acknowledged, when it is killed after n of them."""
    command = [sys.executable, labelling.__file__, store, str(first)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as writer:
        said = [writer.stdout.readline() for _ in range(n)]
        writer.kill()
        said += writer.stdout.readlines()
    return int([line for line in said if line.endswith("\n")][-1])


def lives_on(store, kills=3):
    rng, twin = random.Random(3), labelling.opened(None, capacity=100)
    doing, done = labelling.operations(twin), -1
    for _ in range(kills):
        said = killed(store, done + 1, rng.randrange(100, 250))
        while done < said:
            done = next(doing)
        with labelling.opened(store) as engine:
            found = labelling.figures(engine)
        if found != labelling.figures(twin):  # one that was begun, and not acknowledged, may be there
            done = next(doing)
        assert found == labelling.figures(twin)
    assert found["labels"] > 20


def test_the_figures_of_an_engine_on_sqlite_that_is_killed(tmp_path):
    lives_on(str(tmp_path / "states.db"))


def test_the_figures_of_an_engine_on_redis_that_is_killed(redis_server):  # noqa: F811
    lives_on(redis_server.url("labels"))
