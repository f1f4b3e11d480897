"""An engine on the stores that people use, by their names; what its own thread does; and bookmarks."""

import gc
import weakref

import numpy as np
import pytest
from engines import MODEL, SAMPLES, alone, until

from stepstream import Engine, InputError, StateError, StepstreamWarning, StoreError
from stepstream.stores.memory import MemoryStore
from stores.conftest import places, redis_server  # noqa: F401

KINDS = ["memory", "sqlite-sync", "redis"]


@pytest.fixture(params=KINDS)
def store(request, places):  # noqa: F811
    """A function: the same place, for the next engine."""
    return lambda: places(request.param)


def test_closed_and_opened_again(store):
    for n in range(4):
        with Engine(MODEL, "carry", store(), capacity=2) as e:
            for key in "abc":
                assert e.step(key, SAMPLES[n], seq=n).value == alone(SAMPLES[: n + 1])[n]
                assert e.step(key, SAMPLES[n], seq=n).duplicate
    with Engine(MODEL, "carry", store()) as e:
        e.end("a")
        e.reset("b", delete=True)
        assert e.step("a", SAMPLES[3], seq=3).duplicate  # its tombstone knows
        assert {s.key for s in e.streams()} == {"c"}


def test_a_bookmark_is_kept_with_its_samples(store):
    with Engine(MODEL, "carry", store()) as e:
        assert e.bookmark == b""
        got = e.step_many(["a", "b"], SAMPLES[:2], bookmark=lambda answers: answers.values.tobytes())
        assert e.bookmark == got.values.tobytes()
        e.step_many(["a"], [[np.nan, 0, 0]], on_bad="skip", bookmark=lambda answers: b"nothing but a bookmark")
    with Engine(MODEL, "carry", store()) as e:
        assert e.bookmark == b"nothing but a bookmark"
        assert {s.key: s.age for s in e.streams()} == {"a": 1, "b": 1}

        def fails(answers):
            raise OSError("the output is full")

        with pytest.raises(OSError, match="the output is full"):
            e.step_many(["a"], SAMPLES[:1], bookmark=fails)
        with pytest.raises(StoreError, match="failed before: the output is full"):
            e.step("b", SAMPLES[0])
    with Engine(MODEL, "carry", store()) as e:
        assert e.bookmark == b"nothing but a bookmark"
        assert e.step("a", SAMPLES[2]).value == alone(SAMPLES[[0, 2]])[1]


def test_a_bookmark_survives_a_crash_and_snapshots(tmp_path, places):  # noqa: F811
    path = tmp_path / "states.db"
    e = Engine(MODEL, "carry", path)
    for n in range(3):
        e.step_many(["a"], SAMPLES[n : n + 1], bookmark=lambda _, n=n: b"%d" % n)
        if n == 1:
            e.snapshot()
    e._streams.vault.store.close()  # as a crash leaves it: with a journal
    with Engine(MODEL, "carry", path) as e:
        assert e.bookmark == b"2"
        assert e.export("a").age == 3
    with Engine(MODEL, "carry", path) as e:
        assert e.bookmark == b"2"


def test_an_empty_bookmark_replaces_another(store):
    with Engine(MODEL, "carry", store()) as e:
        e.step_many(["a"], SAMPLES[:1], bookmark=lambda _: b"one")
    with Engine(MODEL, "carry", store()) as e:
        assert e.bookmark == b"one"
        e.step_many(["a"], SAMPLES[:1], bookmark=lambda _: b"")
    with Engine(MODEL, "carry", store()) as e:
        assert e.bookmark == b""


def test_a_bookmark_needs_a_store():
    with pytest.raises(InputError, match="bookmark: expected a store"):
        Engine(MODEL, "carry").step_many(["a"], SAMPLES[:1], bookmark=lambda _: b"")


def test_a_store_of_another_model_stays_as_it_is(store):
    with Engine(MODEL, "carry", store()) as e:
        e.step("a", SAMPLES[0])
    with pytest.raises(StateError, match=r"windowing tumbling\(3\), got one of carry"):
        Engine(MODEL, "tumbling(3)", store())
    with Engine(MODEL, "carry", store()) as e:
        assert e.step("a", SAMPLES[1]).value == alone(SAMPLES[:2])[1]


@pytest.mark.parametrize("durability", ["sync", "interval", "none"])
def test_durability_of_a_path(tmp_path, durability):
    path = str(tmp_path / "states.db")
    with Engine(MODEL, "carry", path, durability) as e:
        e.step("a", SAMPLES[0])
    with Engine(MODEL, "carry", path) as e:
        assert e.export("a").age == 1


def test_durability_must_make_sense(tmp_path, redis_server):  # noqa: F811
    with pytest.raises(InputError, match="durability: expected a store"):
        Engine(MODEL, "carry", durability="sync")
    with pytest.raises(InputError, match="durability: expected none beside a store"):
        Engine(MODEL, "carry", MemoryStore(), durability="sync")
    with pytest.raises(StoreError, match="expected durability to be one of sync, interval, none, got 'always'"):
        Engine(MODEL, "carry", tmp_path / "states.db", durability="always")
    with pytest.raises(StoreError, match="expected none, or sync, for a Redis server, got 'interval'"):
        Engine(MODEL, "carry", redis_server.url("lax"), durability="interval")
    with pytest.raises(StoreError, match="appendonly yes and appendfsync always for durability sync, got no everysec"):
        Engine(MODEL, "carry", redis_server.url("lax"), durability="sync")


def test_snapshots_come_by_themselves(tmp_path):
    with Engine(MODEL, "carry", tmp_path / "states.db", snapshot_bytes=10_000) as e:
        e.step_many(list(range(60)), SAMPLES)
        assert 0 < e.stats()["journal_bytes"] < 10_000
        for _ in range(9):
            e.step_many(list(range(60)), SAMPLES)
        until(lambda: e.stats()["journal_bytes"] == 0)
        assert e.export(7).age == 10
    with Engine(MODEL, "carry", tmp_path / "states.db", snapshot_every=0.01) as e:
        e.step("a", SAMPLES[0])
        until(lambda: e.stats()["journal_bytes"] == 0)


def test_idle_streams_leave_although_nobody_calls(tmp_path):
    with Engine(MODEL, "carry", tmp_path / "states.db", idle_after=0.01) as e:
        e.step("a", SAMPLES[0])
        until(lambda: e._streams.events["evicted"] == 1)
        assert e.step("a", SAMPLES[1]).value == alone(SAMPLES[:2])[1]


def test_what_stops_a_snapshot_is_said(tmp_path):
    def stop(key):
        raise RuntimeError(f"told of {key}")

    def run():
        with Engine(MODEL, "carry", tmp_path / "states.db", idle_after=0.01, on_evict=stop) as e:
            e.step("a", SAMPLES[0])
            until(lambda: e._streams.events["evicted"] == 1)  # to close it waits for what comes after

    with pytest.warns(StepstreamWarning, match="a snapshot was not completed: told of a"):
        run()


def test_an_engine_that_nobody_has_any_more_is_gone(tmp_path):
    e = Engine(MODEL, "carry", tmp_path / "states.db")
    thread, gone = e._tender._thread, weakref.ref(e)
    e._streams.vault.store.close()
    del e
    gc.collect()
    until(lambda: gone() is None and not thread.is_alive())
