"""A store goes to another model: what its streams go on from, to the bit, and that it is all of them or none."""

import shutil
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest

from make import EXAMPLES, KNOTS, RULE, SCALE, dense, model_of, question, recurrent
from stepstream import Engine, InputError, Model, StateError, StoreError
from stepstream.graph.attach import calibrated, with_trigger, without_trigger
from stepstream.live import look, upkeep
from stepstream.live.migration import differing, migrate
from stepstream.stores.redis import RedisStore
from stepstream.stores.sqlite import SqliteStore
from stores.conftest import places, redis_server  # noqa: F401


def reweighted(model, factor=0.9):
    """The same architecture, other weights."""
    nodes = tuple(
        replace(n, weights={k: (w * np.float32(factor)).astype(np.float32) for k, w in n.weights.items()})
        for n in model.graph.nodes
    )
    return Model(replace(model.reading, graph=replace(model.graph, nodes=nodes)))


OLD = question()
NEW = reweighted(OLD)
WIDE = model_of(recurrent("gru", 3, 5), dense(5, 2))  # another architecture, two outputs
SAMPLES = np.random.default_rng(3).normal(size=(60, 3)).astype(np.float32)
WINDOWINGS = [
    "carry",
    "tumbling(7)",
    "sliding(7, by=states)",
    "sliding(7, stride=3, by=states)",
    "sliding(7, by=recompute)",
    "sliding(7, stride=2, by=recompute)",
    "session(10)",
]
AGES = {f"{n} samples": n for n in (1, 3, 6, 7, 8, 9, 13, 16, 20)}


@pytest.fixture(params=["sqlite", "redis"])
def where(request, tmp_path):
    """The name of a store that is not there yet."""
    if request.param == "sqlite":
        return str(tmp_path / "states.db")
    name = "".join(c if c.isalnum() else "-" for c in request.node.name)
    return request.getfixturevalue("redis_server").url(name)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "states.db"


def fill(engine, ages=AGES):
    for key, n in ages.items():
        engine.step_many([key] * n, SAMPLES[:n], time=list(range(n)))


def crash(engine):
    """What a killed process leaves: the journal, and no snapshot."""
    engine._tender.stop()
    engine._streams.vault.store.close()


def alone(model, windowing, samples):
    stream = model.stream(windowing)
    return [stream.step(x, time=i) for i, x in enumerate(samples)]


def test_an_engine_of_another_model_names_the_command(where):
    with Engine(OLD, "carry", where):
        pass
    with pytest.raises(StateError, match=f"{NEW.fingerprint}, got one of {OLD.fingerprint};.*`stepstream state migr"):
        Engine(NEW, "carry", where)


# reset


@pytest.mark.parametrize("new", [NEW, WIDE], ids=["weights", "architecture"])
def test_reset_lets_streams_begin_anew_and_numbers_stay(where, new, tmp_path):
    with Engine(OLD, "carry", where, remember=3) as e:
        before = [e.step("a", SAMPLES[i], seq=10 + i) for i in range(4)]
        e.step(7, SAMPLES[0], time=5.0)
        e.step("over", SAMPLES[0], seq=1, end=True)
        e.step_many([b"k"], SAMPLES[:1], bookmark=lambda _: b"how far")
    done = migrate(where, new, "reset", backup=tmp_path / "backup")
    assert (done.streams, done.ended) == (3, 1)
    with Engine(new, "carry", where, remember=3) as e:
        assert {s.key: (s.age, s.samples, s.time, s.seq) for s in e.streams()} == {
            "a": (0, 0, None, 13),
            7: (0, 0, None, None),
            b"k": (0, 0, None, None),
        }
        assert e.bookmark == b"how far"
        assert e.step("over", SAMPLES[0], seq=1).duplicate
        again = e.step("a", SAMPLES[3], seq=13)
        assert again == before[3]._replace(duplicate=True, **({} if new is NEW else {"value": None}))
        assert e.step("a", SAMPLES[0], seq=5).value is None
        assert np.all(e.step("a", SAMPLES[5], seq=14).value == alone(new, "carry", SAMPLES[5:6])[0])


def test_reset_may_bring_another_windowing(where):
    with Engine(OLD, "carry", where) as e:
        fill(e)
    migrate(where, NEW, "reset", windowing="sliding(5)", backup=False)
    with Engine(NEW, "sliding(5)", where) as e:
        assert e.step("7 samples", SAMPLES[0]).value == alone(NEW, "sliding(5)", SAMPLES[:1])[0]


def test_only_reset_may(path):
    with Engine(OLD, "carry", path) as e:
        fill(e)
    with pytest.raises(InputError, match="windowing: expected none under keep"):
        migrate(path, NEW, "keep", OLD, windowing="tumbling(7)")
    with pytest.raises(InputError, match=r"how: expected one of reset, keep, replay, got 'copy'"):
        migrate(path, NEW, "copy", OLD)


# keep


@pytest.mark.parametrize("windowing", WINDOWINGS)
def test_kept_states_stay_as_they_are(where, windowing):
    with Engine(OLD, windowing, where) as e:
        fill(e)
        e.step("a", SAMPLES[0], seq=3)
        states = {s.key: e.export(s.key) for s in e.streams()}
    done = migrate(where, NEW, "keep", OLD, backup=False)
    assert done.streams == len(states)
    with Engine(NEW, windowing, where) as e:
        for key, state in states.items():
            assert e.export(key) == replace(state, fingerprint=NEW.fingerprint)
        assert e.step("a", SAMPLES[0], seq=3).duplicate
        stream = NEW.stream(windowing)
        stream.restore(replace(states["8 samples"], fingerprint=None))
        assert e.step("8 samples", SAMPLES[8], time=8).value == stream.step(SAMPLES[8], time=8)


KEPT = {
    "a calibration": lambda g: calibrated(g, SCALE),
    "a shorter one": lambda g: calibrated(g, SCALE[:2], KNOTS),
    "a trigger": lambda g: with_trigger(g, RULE, k=3),
    "another trigger": lambda g: with_trigger(g, RULE[:2], k=1, latched=False),
    "both": lambda g: with_trigger(calibrated(g, SCALE), RULE, k=3),
    "none": lambda g: g,
}


FEW = {key: n for key, n in AGES.items() if n in {1, 3, 8, 16}}


@pytest.mark.parametrize("windowing", ["carry", "tumbling(7)", *(w for w in WINDOWINGS if "stride" in w)])
@pytest.mark.parametrize("before", ["a calibration", "a trigger", "both", "none"])
def test_another_calibration_or_trigger_keeps_the_network_where_it_is(path, windowing, before):
    old = OLD.with_graph(KEPT[before](OLD.graph))
    with Engine(old, windowing, path, keep=3, remember=2) as e:
        fill(e, FEW)
        answer = [e.step("numbered", x, seq=i, time=i) for i, x in enumerate(SAMPLES[:2])][-1]
        e.restore("unknown age", replace(e.export("3 samples"), age=None if windowing == "carry" else 3))
    for name, after in KEPT.items():
        new = OLD.with_graph(after(OLD.graph))
        store = path.with_name(f"{name}.db")
        if new.fingerprint == old.fingerprint:
            continue
        shutil.copy(path, store)
        assert migrate(store, new, "keep", old, backup=False).streams == len(FEW) + 2
        with Engine(new, windowing, store, keep=3, remember=2) as e:
            for key in [*FEW, "unknown age"]:
                new.stream(windowing).restore(e.export(key))  # which looks at every count
            again = e.step("numbered", SAMPLES[1], seq=1)
            assert again == answer._replace(duplicate=True, decision=answer.decision if new.decides else None)
            other = all_along(new.with_graph(without_trigger(new.graph)), windowing)
            for key, n in FEW.items():
                for i in range(n, n + 4):  # the probabilities are those of a stream that was calibrated so all along
                    assert e.step(key, SAMPLES[i], time=i).value == other.step(key, SAMPLES[i], time=i).value


def all_along(model, windowing):
    engine = Engine(model, windowing)
    fill(engine, FEW)
    return engine


def test_what_was_decided_stays_decided(path):
    old = OLD.with_graph(with_trigger(OLD.graph, [[0, 0, 1]], k=2))
    with Engine(old, "carry", path) as e:
        e.step_many(["a"] * 2, SAMPLES[:2])
        decided = e.step("a", SAMPLES[2]).decision
        e.step("b", SAMPLES[0])
    assert decided is not None
    new = OLD.with_graph(with_trigger(calibrated(OLD.graph, [0.5]), [[0, 0, -1]], k=2))
    migrate(path, new, "keep", old, backup=False)
    with Engine(new, "carry", path) as e:
        assert e.step("a", SAMPLES[3]).decision == decided
        assert e.step("b", SAMPLES[3]).decision is None
    migrate(path, old, "keep", new, backup=False)
    with Engine(old, "carry", path) as e:
        assert [e.step("b", SAMPLES[i]).decision is None for i in (4, 5)] == [True, False]


@pytest.mark.parametrize("how", ["reset", "replay"])
def test_a_remembered_decision_is_never_taken_for_an_output(path, how):
    two = model_of(recurrent("gru", 3, 5), dense(5, 2, "softmax"))
    one = OLD.with_graph(with_trigger(OLD.graph, [[0, 0, 1]]))
    for first, second in ((one, two), (two, one)):
        store = path.with_name(f"{first.decides}.db")
        with Engine(first, "carry", store, keep=3) as e:
            assert (e.step("a", SAMPLES[0], seq=1).decision is None) == (first is two)
        migrate(store, second, how, backup=False)
        with Engine(second, "carry", store, keep=3) as e:
            again = e.step("a", SAMPLES[0], seq=1)
            assert (again.value, again.decision, again.duplicate) == (None, None, True)
            assert (e.step("a", SAMPLES[0], seq=2).decision is None) == (second is two)


def test_keep_is_for_the_same_architecture(path):
    with Engine(OLD, "carry", path) as e:
        fill(e)
        before = e.export("3 samples")
    with pytest.raises(InputError, match="expected the model before, --from, got none: keep is for"):
        migrate(path, NEW, "keep")
    with pytest.raises(StateError, match=r"expected the same architecture under keep, got .* before and .* now"):
        migrate(path, WIDE, "keep", OLD)
    with pytest.raises(StateError, match=f"store of fingerprint {WIDE.fingerprint}, got one of {OLD.fingerprint}"):
        migrate(path, NEW, "keep", WIDE)
    assert [p.name for p in sorted(path.parent.iterdir())] == ["states.db", "states.db-claim"]
    with Engine(OLD, "carry", path) as e:
        assert e.export("3 samples") == before


def test_the_first_difference_is_named():
    def gru(units=4, outputs=1, features=3, activation="tanh"):
        return model_of(recurrent("gru", features, units, activation), dense(units, outputs), features=features).graph

    assert differing(gru(), gru()) is None
    assert differing(gru(), reweighted(model_of(recurrent("gru", 3, 4), dense(4, 1))).graph) is None
    assert differing(gru(), gru(units=5)) == "units 4 before and 5 now, in layer 'gru_0'"
    assert differing(gru(), gru(outputs=2)) == "units 1 before and 2 now, in layer 'dense_1'"
    assert differing(gru(), gru(activation="relu")) == "name tanh before and relu now, in layer 'gru_0'"
    assert differing(gru(), gru(features=2)).startswith("inputs [['input0', [3], 'sequence']] before and")
    assert differing(gru(), model_of(recurrent("lstm", 3, 4), dense(4, 1)).graph).startswith("op gru before and lstm")
    more = model_of(recurrent("gru", 3, 4), dense(4, 1), dense(1, 1)).graph
    assert "before and" in differing(gru(), more)


# replay


@pytest.mark.parametrize("windowing", WINDOWINGS)
@pytest.mark.parametrize("new", [NEW, WIDE], ids=["weights", "architecture"])
def test_replayed_streams_are_as_if_the_new_model_had_been_there(where, windowing, new):
    with Engine(OLD, windowing, where, keep=10, remember=2) as e:
        fill(e)
        e.step("a", SAMPLES[0], seq=3)
        e.step("over", SAMPLES[0], seq=1, end=True)
    done = migrate(where, new, "replay", backup=False)
    carries = windowing in {"carry", "session(10)"}
    exact = {key for key, n in AGES.items() if not carries or n <= 10}
    assert (done.streams, done.ended, done.exact) == (len(AGES) + 1, 1, len(exact) + 1)
    with Engine(new, windowing, where, keep=10, remember=2) as e, Engine(new, windowing, keep=10) as all_along:
        fill(all_along)
        for key, n in AGES.items():
            if key in exact:
                assert replace(e.export(key), time=None) == replace(all_along.export(key), time=None)
                for i in range(n, n + 9):
                    a, b = e.step(key, SAMPLES[i], time=i), all_along.step(key, SAMPLES[i], time=i)
                    assert np.array_equal(a.value, b.value)
                    assert a._replace(value=None) == b._replace(value=None)
            else:
                assert e.export(key).age == 10
                assert e.export(key).samples == n
                got, expected = e.step(key, SAMPLES[n], time=n), alone(new, windowing, SAMPLES[n - 10 : n + 1])[-1]
                assert np.array_equal(got.value, expected)
                assert got.age == 11
        assert e.step("a", SAMPLES[0], seq=3).duplicate
        assert e.step("over", SAMPLES[0], seq=1).duplicate


@pytest.mark.parametrize("windowing", [w for w in WINDOWINGS if "(7" in w])
def test_a_window_of_which_less_was_kept_begins_with_what_was(where, windowing):
    with Engine(OLD, windowing, where, keep=4) as e:
        fill(e)
    done = migrate(where, NEW, "replay", backup=False)
    short = [key for key, n in AGES.items() if (n if "sliding" in windowing else (n - 1) % 7 + 1) > 4]
    assert done.exact == len(AGES) - len(short)
    with Engine(NEW, windowing, where) as e:
        for key in short:
            n = AGES[key]
            got = e.step(key, SAMPLES[n], time=n)
            assert (got.age, got.complete) == (5, False)
            assert got.value == alone(NEW, windowing, SAMPLES[n - 4 : n + 1])[-1]


def test_the_kept_samples_can_be_replayed_again(where):
    with Engine(OLD, "carry", where, keep=20) as e:
        fill(e)
    for model in (WIDE, NEW, WIDE, OLD):
        done = migrate(where, model, "replay", backup=False)
        assert done.exact == len(AGES)
    with Engine(OLD, "carry", where, keep=20) as e, Engine(OLD, "carry") as all_along:
        fill(all_along)
        for key in AGES:
            assert e.export(key) == all_along.export(key)


@pytest.mark.parametrize("name", sorted(EXAMPLES))
def test_every_kind_of_model_is_replayed(path, name):
    old = EXAMPLES[name]()
    new = reweighted(old, 0.5)
    if new.fingerprint == old.fingerprint:
        pytest.skip("it has no weights")
    rng = np.random.default_rng(5)
    n = min(old.window_length or 6, 6)
    x = rng.normal(size=(n, old.n_features)).astype(np.float32)
    for column, count in old.index_columns.items():
        x[:, column] = rng.integers(count, size=n)
    static = [column for _, column in old.stream("carry")._static]
    x[:, static] = x[0, static]
    with Engine(old, "carry", path, keep=6) as e:
        e.step_many(["k"] * (n - 1), x[: n - 1])
    assert migrate(path, new, "replay", backup=False).exact == 1
    with Engine(new, "carry", path) as e, Engine(new, "carry") as all_along:
        all_along.step_many(["k"] * (n - 1), x[: n - 1])
        assert e.export("k") == all_along.export("k")
        a, b = e.step_many(["k"], x[n - 1 :]), all_along.step_many(["k"], x[n - 1 :])
        assert a.values.tobytes() == b.values.tobytes()


def test_what_was_loaded_is_not_exact_and_what_was_reset_begins_there(path, tmp_path):
    OLD.stream("carry").save(tmp_path / "state.h5")
    with Engine(OLD, "carry", path, keep=5) as e:
        fill(e, {"a": 4, "b": 3})
        e.reset("b")
        e.step_many(["b"] * 2, SAMPLES[:2])
        state = e.export("a")
        e.restore("c", replace(state, age=None))
        e.step_many(["c"] * 2, SAMPLES[:2])
    assert migrate(path, NEW, "replay").exact == 2
    with Engine(NEW, "carry", path) as e:
        assert {s.key: s.age for s in e.streams()} == {"a": 4, "b": 2, "c": 2}
        assert e.step("b", SAMPLES[2]).value == alone(NEW, "carry", SAMPLES[:3])[2]


def test_replay_needs_samples_that_suit(path, tmp_path):
    with Engine(OLD, "carry", path) as e:
        fill(e)
    with pytest.raises(StateError, match=r"expected kept samples to replay, got none: .* keep=n"):
        migrate(path, NEW, "replay")
    with Engine(OLD, "carry", path, keep=3) as e:
        e.step_many(["kept"] * 3, SAMPLES[:3])
    two = model_of(recurrent("gru", 2, 4), dense(4, 1), features=2)
    with pytest.raises(StateError, match="expected kept samples of 2 features to replay, got 3; choose reset"):
        migrate(path, two, "replay", backup=False)
    explodes = reweighted(model_of(recurrent("simple_rnn", 3, 4, "linear"), dense(4, 1, "linear")), 1e30)
    with pytest.raises(StateError, match=r"stream 'kept': expected kept samples that the model has an answer for"):
        migrate(path, explodes, "replay", backup=False)
    with Engine(OLD, "carry", path) as e:
        assert (e.export("3 samples").age, e.export("kept").age) == (3, 3)


# the journal, backups, and whoever has the store


def test_the_model_before_replays_the_journal_first(path):
    e = Engine(OLD, "carry", path, keep=20)
    fill(e)
    e.snapshot()
    e.step("1 samples", SAMPLES[1], time=1)
    crash(e)
    for how in ("reset", "replay"):
        with pytest.raises(InputError, match="expected the model before, --from, got none: 1 journal entries"):
            migrate(path, NEW, how)
    assert migrate(path, NEW, "replay", OLD).exact == len(AGES)
    with Engine(NEW, "carry", path) as e:
        assert e.step("1 samples", SAMPLES[2]).value == alone(NEW, "carry", SAMPLES[:3])[2]


def test_a_journal_alone_does_not_say_what_is_kept(path):
    e = Engine(OLD, "carry", path, keep=20)
    fill(e)
    crash(e)
    with pytest.raises(StoreError, match=r"expected records of streams, got 9 journal entries alone: .*open the store"):
        migrate(path, NEW, "reset", OLD)


def test_the_store_as_it_was_is_kept(where, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with Engine(OLD, "carry", where) as e:
        fill(e)
        states = {s.key: e.export(s.key) for s in e.streams()}
    done = migrate(where, NEW, "reset")
    assert done.backup == tmp_path / f"states.db.before-{OLD.fingerprint[:12]}"
    with Engine(OLD, "carry", done.backup) as e:
        assert {s.key: e.export(s.key) for s in e.streams()} == states
    migrate(where, OLD, "reset", backup=False)
    assert migrate(where, NEW, "reset").backup.name.endswith("-2")
    with pytest.raises(StoreError, match="expected the name of a new file, got one that exists"):
        migrate(where, OLD, "reset", backup=done.backup)
    with pytest.raises(StateError, match=f"another model, got one of {NEW.fingerprint} already"):
        migrate(where, NEW, "reset")


def test_a_store_that_an_engine_has_is_left_to_it(path):
    with Engine(OLD, "carry", path) as e:
        fill(e)
        e.snapshot()
        with pytest.raises(StoreError, match="expected a store that no engine has"):
            migrate(path, NEW, "reset", backup=False)
        e.step("a", SAMPLES[0])


def test_no_store_is_made(tmp_path, redis_server):  # noqa: F811
    with pytest.raises(StoreError, match="expected a store, got no file"):
        migrate(tmp_path / "nothing.db", NEW, "reset")
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(StoreError, match="expected a store, got no keys"):
        migrate(redis_server.url("nothing"), NEW, "reset")
    with pytest.raises(StoreError, match="expected a store, got no keys"):
        look.streams(redis_server.url("nothing"))
    assert not redis_server.client().keys("*nothing*")


def test_a_damaged_record_is_named_and_nothing_changes(where, tmp_path, redis_server):  # noqa: F811
    with Engine(OLD, "carry", where) as e:
        fill(e)
    if where.startswith("redis"):
        client = redis_server.client()
        name = next(k for k in client.keys("*:state:s3 samples") if where.rpartition("=")[2].encode() in k)
        client.set(name, b"damaged")
    else:
        store = SqliteStore(where)
        store.open({})
        store._db.execute("UPDATE records SET record = x'00' WHERE key = ?", (b"s3 samples",))
        store.close()
    with pytest.raises(StoreError, match=r"stream '3 samples': its record in the store is damaged; .* --delete"):
        migrate(where, NEW, "reset", backup=False)
    upkeep.reset(where, ["3 samples"], OLD, delete=True)
    migrate(where, NEW, "reset", backup=False)
    with Engine(NEW, "carry", where) as e:
        assert len(e.streams()) == len(AGES) - 1


CUT_OFF = """
import os, sys
sys.path[:0] = {paths!r}
import test_migration as t
t.migrate({where!r}, t.NEW, "replay", backup=False, progress=lambda done, total: os._exit(9) if done >= {after} else 0)
"""


@pytest.mark.slow
def test_a_migration_that_is_cut_off_has_not_begun(where, monkeypatch, tmp_path):
    count = 10_000
    with Engine(OLD, "carry", where, keep=2) as e:
        for i in range(2):
            e.step_many(list(range(count)), np.tile(SAMPLES[i], (count, 1)))
    code = CUT_OFF.format(paths=sys.path, where=where, after=5000)
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 9
    with Engine(OLD, "carry", where, keep=2) as e:
        assert e.step(77, SAMPLES[2]).value == alone(OLD, "carry", SAMPLES[:3])[2]
        assert len(e.streams()) == count
    told = []
    done = migrate(where, NEW, "replay", backup=False, progress=lambda *pair: told.append(pair))
    assert told == [(4096, count), (8192, count), (count, count)]
    assert done.exact == count - 1
    with Engine(NEW, "carry", where) as e:
        assert e.step(78, SAMPLES[2]).value == alone(NEW, "carry", SAMPLES[:3])[2]


def test_a_redis_engine_that_was_there_finds_out(redis_server):  # noqa: F811
    where = redis_server.url("taken-over")
    e = Engine(OLD, "carry", where)
    fill(e)
    migrate(where, NEW, "reset", backup=False)
    with pytest.raises(StoreError, match="another that opened it since"):
        e.step("a", SAMPLES[0])
    e.close()
    store = RedisStore.at(where)
    assert store.look()["fingerprint"] == NEW.fingerprint
    store.close()
