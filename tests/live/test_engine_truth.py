"""Labels that come later: which answers they judge, what the engine says of them, and that nothing of it gets lost."""

import json
import math

import numpy as np
import pytest
from engines import MODEL, SAMPLES, DictStore

from make import dense, model_of, recurrent
from stepstream import Engine, InputError, StepstreamWarning, StoreError
from stepstream.classes import FLOOR
from stepstream.live import journal, look, upkeep
from stepstream.live.ages import LADDER, rung_of
from stepstream.live.journal import Operation
from stepstream.live.migration import migrate
from stepstream.live.quality import BINS, SAMPLE, WINDOW, Judged, Quality
from stepstream.live.vault import QUALITY_KEY

THREE = model_of(recurrent("gru", 3, 4), dense(4, 3, "softmax"))
TWO = model_of(recurrent("gru", 3, 4), dense(4, 2, "softmax"))
NUMBER = model_of(recurrent("gru", 3, 4), dense(4, 1, "linear"))
TWO_NUMBERS = model_of(recurrent("gru", 3, 4), dense(4, 2, "linear"))


def quality(engine):
    return engine.stats()["quality"]


def counts(engine):
    """Labels, and how many answers were judged at each age."""
    found = quality(engine)
    return found["labels"], {int(age): round(m["all"]["n"]) for age, m in found["by_age"].items()}


def steps(engine, key, n, first=0, seq=None, end=False):
    """Answers, as float32 (n, outputs)."""
    out = []
    for i in range(n):
        number = None if seq is None else seq + i
        last = end and i == n - 1
        out.append(np.atleast_1d(engine.step(key, SAMPLES[first + i], number, end=last).value))
    return np.float32(out)


# what is judged


def test_the_truth_about_a_sequence_judges_its_answers_at_a_ladder_of_ages_and_the_newest():
    engine = Engine(MODEL, "carry", judge=10)
    assert quality(engine) is None
    steps(engine, "a", 8)
    assert engine.label("a", 1) == 6
    assert counts(engine) == (1, {1: 1, 2: 1, 3: 1, 5: 1, 7: 1})
    newest = quality(engine)["newest"]["all"]
    p = steps(Engine(MODEL, "carry"), "a", 8)[-1, 0]
    assert newest["n"] == 1
    assert newest["log_loss"] == pytest.approx(-math.log(p))
    json.dumps(engine.stats(), allow_nan=False)


def test_answers_that_come_after_the_truth_are_not_judged_by_it_and_a_retry_changes_nothing():
    engine = Engine(MODEL, "carry", judge=10)
    steps(engine, "a", 2)
    engine.label("a", 1)
    before = quality(engine)
    steps(engine, "a", 5)
    assert engine.label("a", 0) == 0
    assert quality(engine) == {**before, "duplicates": 1}


@pytest.mark.parametrize("how", ["end", "reset", "last sample"])
@pytest.mark.parametrize("numbered", [None, 10])
def test_a_sequence_that_is_over_can_be_labelled_until_another_is_over(how, numbered):
    engine = Engine(MODEL, "carry", judge=10)
    steps(engine, "a", 3, seq=numbered, end=how == "last sample")
    if how != "last sample":
        getattr(engine, how)("a")
    assert engine.label("a", 1, over=True) == 3
    assert engine.label("a", 1) == 0  # the newest one, still the same
    steps(engine, "a", 2, seq=None if numbered is None else 20)
    assert engine.label("a", 1, over=True) == 0
    assert quality(engine)["duplicates"] == 2
    assert engine.label("a", 0) == 2
    assert counts(engine) == (2, {1: 2, 2: 2, 3: 1})


def test_a_sequence_that_is_over_waits_while_the_next_goes_on():
    engine = Engine(MODEL, "tumbling(3)", judge=10)
    steps(engine, "a", 3)
    assert engine.label("a", 1, over=True) == 3  # a window that is full is over
    steps(engine, "a", 5, first=3)
    assert engine.label("a", 1, over=True) == 3  # samples 4 to 6
    assert engine.label("a", 1) == 2  # samples 7 and 8
    assert counts(engine) == (3, {1: 3, 2: 3, 3: 2})


def test_the_truth_about_one_sample_judges_its_answer_while_it_is_remembered():
    engine = Engine(MODEL, "carry", judge=1, remember=3)
    answers = steps(engine, "a", 14, seq=0)
    assert engine.label("a", 1, seq=12) == 1
    assert engine.label("a", 0, seq=12) == 0
    assert engine.label("a", 1, seq=10) == 0  # no longer remembered
    assert engine.label("a", 1, seq=14) == 0  # not there yet
    assert engine.label("a", 0, seq=11) == 1
    found = quality(engine)
    assert (found["samples"], found["sequences"], found["missed"], found["duplicates"]) == (2, 0, 2, 1)
    assert found["by_age"]["10"]["all"]["n"] == 2  # ages 12 and 13, between two of the ladder
    expected = np.mean([(1 - answers[12, 0]) ** 2, answers[11, 0] ** 2])
    assert found["newest"]["all"]["brier"] == pytest.approx(expected)


def test_what_nobody_has_answered_is_missed():
    engine = Engine(MODEL, "carry", judge=5)
    assert engine.label("nobody", 1) == 0
    steps(engine, "a", 2)
    assert engine.label("a", 1, over=True) == 0  # nothing is over
    engine.reset("a", delete=True)
    assert engine.label("a", 1) == 0
    found = quality(engine)
    assert (found["labels"], found["missed"], found["by_age"]) == (0, 3, {})
    assert found["newest"]["all"]["accuracy"] is None


def test_a_fork_and_a_restored_stream_are_judged_by_their_own_answers():
    engine = Engine(MODEL, "carry", judge=10)
    steps(engine, "a", 4)
    engine.fork("a", "b")
    assert engine.label("b", 1) == 0
    steps(engine, "b", 3, first=4)
    assert engine.label("b", 1) == 2  # ages 5 and 7
    state = engine.export("a")
    engine.restore("a", state)
    steps(engine, "a", 1, first=4)
    assert engine.label("a", 1) == 1
    assert engine.label("a", 0, over=True) == 4  # what was replaced
    assert counts(engine) == (3, {1: 1, 2: 1, 3: 1, 5: 2, 7: 1})


def test_many_samples_of_a_stream_in_one_call_are_judged_as_if_they_came_alone():
    one, many = (Engine(MODEL, "tumbling(4)", judge=10) for _ in range(2))
    keys = ["a", "b", "a", "a", "b", "a", "a", "a"]
    for key, x in zip(keys, SAMPLES, strict=False):
        one.step(key, x)
    many.step_many(keys[:2], SAMPLES[:2])
    many.step_many(keys[2:], SAMPLES[2:8])
    for engine in (one, many):
        engine.label("a", 1)
        engine.label("a", 1, over=True)
        engine.label("b", 0)
    assert quality(one) == quality(many)


# bad labels


@pytest.mark.parametrize(
    ("model", "y", "says"),
    [
        (MODEL, 2, "expected a class from 0 to 1, got 2"),
        (MODEL, 0.5, "expected a class from 0 to 1"),
        (MODEL, "yes", "expected a class from 0 to 1"),
        (MODEL, None, "expected a class"),
        (THREE, -1, "expected a class from 0 to 2"),
        (NUMBER, math.nan, "expected 1 finite number, got nan"),
        (TWO_NUMBERS, 1.0, "expected 2 finite numbers"),
        (TWO_NUMBERS, "ab", "expected 2 finite numbers"),
    ],
)
def test_a_bad_truth_is_refused_and_changes_nothing(model, y, says):
    engine = Engine(model, "carry", judge=5)
    steps(engine, "a", 2)
    with pytest.raises(InputError, match=says):
        engine.label("a", y)
    assert quality(engine) is None
    assert engine.label("a", [1, 2] if model is TWO_NUMBERS else 1) == 2


def test_bad_calls_are_refused():
    engine = Engine(MODEL, "carry", judge=5)
    with pytest.raises(InputError, match="key"):
        engine.label(1.5, 1)
    with pytest.raises(InputError, match="sequence number"):
        engine.label("a", 1, seq=-1)
    with pytest.raises(InputError, match="leave out seq= or over="):
        engine.label("a", 1, seq=1, over=True)
    with pytest.raises(InputError, match="give it judge=n"):
        Engine(MODEL, "carry").label("a", 1)
    with pytest.raises(InputError, match="judge: expected a whole number"):
        Engine(MODEL, "carry", judge=-1)


def test_classes_have_names():
    names = ["rest", "walk", "run"]
    engine = Engine(type(THREE)(THREE.reading, classes=names), "carry", judge=5)
    steps(engine, "a", 1)
    assert engine.label("a", "walk") == 1
    assert quality(engine)["newest"]["all"]["recall"].keys() == set(names)
    assert sum(r is not None for r in quality(engine)["newest"]["all"]["recall"].values()) == 1
    with pytest.raises(InputError, match="or one of rest, walk, run, got 'jump'"):
        engine.label("a", "jump")


def labelled(model, classes, y):
    """The class that this truth stands for, by its name in the figures."""
    engine = Engine(type(model)(model.reading, classes=classes), "carry", judge=5)
    steps(engine, "a", 1)
    assert engine.label("a", y) == 1
    (found,) = [c for c, r in quality(engine)["newest"]["all"]["recall"].items() if r is not None]
    return found


@pytest.mark.parametrize("y", [1, 1.0, True, np.int64(1), np.array(1), "1"])
def test_a_whole_number_is_a_class_by_its_name_where_names_are_other_numbers(y):
    assert labelled(THREE, ["1", "2", "3"], y) == "1"
    assert labelled(THREE, ["2", "1", "0"], y) == "1"
    assert labelled(TWO, ["-1", "1"], y) == "1"
    assert labelled(THREE, ["0", "1", "2"], y) == "1"


def test_a_number_that_is_no_such_name_is_refused():
    engine = Engine(type(THREE)(THREE.reading, classes=["1", "2", "3"]), "carry", judge=5)
    for wrong in (0, 4, 10**5000):
        with pytest.raises(InputError, match="y: expected one of 1, 2, 3, got"):
            engine.label("a", wrong)
    assert labelled(THREE, ["rest", "walk", "run"], 1) == "walk"  # names that are no numbers are counted


def test_one_name_is_that_of_the_second_class():
    for y in ("badminton", 1):
        assert labelled(MODEL, ["badminton"], y) == "badminton"
    for y in ("not badminton", 0):
        assert labelled(MODEL, ["badminton"], y) == "not badminton"
    engine = Engine(type(MODEL)(MODEL.reading, classes=["badminton"]), "carry", judge=5)
    with pytest.raises(InputError, match="from 0 to 1, or one of not badminton, badminton, got 'tennis'"):
        engine.label("a", "tennis")


# figures


def ece(p, y):
    """By the textbook: the gap between confidence and accuracy in each bin, weighted by how many are there."""
    top, hit = p.max(axis=1), p.argmax(axis=1) == y
    bins = np.minimum((top * BINS).astype(int), BINS - 1)
    return sum(abs(top[bins == b].mean() - hit[bins == b].mean()) * (bins == b).mean() for b in set(bins.tolist()))


@pytest.mark.parametrize("model", [MODEL, TWO, THREE])
def test_figures_of_classes_are_those_of_scikit_learn(model):
    metrics = pytest.importorskip("sklearn.metrics")
    engine = Engine(model, "carry", judge=5)
    rng, classes = np.random.default_rng(4), 3 if model is THREE else 2
    truth = rng.integers(0, classes, 40)
    answers = []
    for i, y in enumerate(truth.tolist()):
        x = rng.normal(size=(3, 3)).astype(np.float32) * 3
        answers.append([np.atleast_1d(engine.step(i, one).value) for one in x])
        engine.label(i, y)
    p = np.array(answers, np.float64)  # (40, 3, outputs)
    p = np.concatenate([1 - p, p], axis=2) if p.shape[2] == 1 else p
    found = quality(engine)
    for age in (1, 2, 3):
        m, q = found["by_age"][str(age)]["all"], p[:, age - 1]
        guess = q.argmax(axis=1)
        assert m["n"] == 40
        assert m["accuracy"] == pytest.approx(metrics.accuracy_score(truth, guess))
        assert m["balanced_accuracy"] == pytest.approx(metrics.balanced_accuracy_score(truth, guess))
        recall = metrics.recall_score(truth, guess, average=None)
        assert list(m["recall"].values()) == pytest.approx(recall.tolist())
        q = q / q.sum(axis=1, keepdims=True)
        assert m["log_loss"] == pytest.approx(metrics.log_loss(truth, q, labels=range(classes)), rel=1e-5)
        if classes == 2:
            assert m["brier"] == pytest.approx(metrics.brier_score_loss(truth, q[:, 1]), rel=1e-5)
        else:
            assert m["brier"] == pytest.approx(((q - np.eye(3)[truth]) ** 2).sum(axis=1).mean(), rel=1e-5)
        assert m["calibration_error_equal_width"] == pytest.approx(ece(q, truth), rel=1e-5)
    assert found["newest"] == found["by_age"]["3"]


@pytest.mark.parametrize("model", [NUMBER, TWO_NUMBERS])
def test_figures_of_numbers_are_those_of_scikit_learn(model):
    metrics = pytest.importorskip("sklearn.metrics")
    engine = Engine(model, "carry", judge=5)
    n = model.output_sizes[0]
    truth = np.random.default_rng(5).normal(size=(30, n))
    answers = []
    for i in range(30):
        answers.append(steps(engine, i, 2, first=i))
        engine.label(i, truth[i])
    p = np.array(answers)
    m = quality(engine)["by_age"]["2"]["all"]
    assert m["mae"] == pytest.approx(metrics.mean_absolute_error(truth, p[:, 1]))
    assert m["rmse"] == pytest.approx(math.sqrt(metrics.mean_squared_error(truth, p[:, 1])))


def test_a_certain_wrong_answer_has_a_finite_log_loss():
    op, params, weights = dense(3, 1)
    weights = {"kernel": np.float32([[100], [0], [0]]), "bias": np.float32([0])}
    engine = Engine(model_of((op, params, weights)), "carry", judge=1)
    engine.step("a", [100.0, 0, 0])
    engine.label("a", 0)
    assert quality(engine)["newest"]["all"]["log_loss"] == pytest.approx(-math.log(FLOOR))


def test_recent_figures_forget():
    engine = Engine(MODEL, "carry", judge=1)
    y = int(engine.step(0, SAMPLES[0]).value >= 0.5)
    n = 3 * WINDOW
    for i in range(n):
        engine.reset(0)
        engine.step(0, SAMPLES[0])
        engine.label(0, y if i >= n // 2 else 1 - y)
    m = quality(engine)["newest"]
    assert m["all"]["accuracy"] == 0.5
    weights = (1 - 1 / WINDOW) ** np.arange(n)[::-1]
    assert m["recent"]["n"] == pytest.approx(weights.sum())
    assert m["recent"]["accuracy"] == pytest.approx(weights[n // 2 :].sum() / weights.sum())
    assert m["recent"]["accuracy"] > 0.8


def test_the_ladder_is_about_half_as_large_again_each_time():
    assert LADDER[:13] == (1, 2, 3, 5, 7, 10, 15, 20, 30, 50, 70, 100, 150)
    assert rung_of([-1, 0, 1, 4, 10**9]).tolist() == [0, 0, 1, 3, 10**6]


# what survives


def opened(store, judge=10, **more):
    return Engine(MODEL, "carry", store, judge=judge, remember=2, capacity=2, **more)


def busy(engine):
    """Streams that are evicted, ended, labelled in all ways; what the engine says then."""
    for i in range(6):
        steps(engine, i, 3 + i, seq=0)
        if i % 2:
            engine.label(i, i % 3 == 0)
    engine.end(0)
    engine.label(0, 1, over=True)
    engine.label(3, 1, seq=5)
    steps(engine, 0, 2, seq=10)
    return quality(engine)


@pytest.mark.parametrize("journalled", [True, False])
@pytest.mark.parametrize("how", ["close", "crash", "snapshot and crash"])
def test_labels_survive_as_samples_do(journalled, how):
    store, kept = DictStore(journalled), {"labels", "newest", "by_age", "sequences", "samples"}
    engine = opened(store)
    before = busy(engine)
    if how == "close":
        engine.close()
    if how == "snapshot and crash":
        engine.snapshot()
        engine.label(2, 1)
        before = quality(engine)
    again = opened(store.crash())
    found = quality(again)
    assert {name: found[name] for name in kept} == {name: before[name] for name in kept}
    assert again.label(3, 0) == again.label(0, 0, over=True) == again.label(3, 0, seq=5) == 0  # they are known
    assert again.label(4, 1) == 5  # and what waits still does: ages 1, 2, 3, 5 and 7
    assert again.label(0, 1) == 2


@pytest.mark.parametrize("journalled", [True, False])
def test_a_label_that_the_store_does_not_take_was_not_given(journalled):
    store = DictStore(journalled)
    engine = opened(store)
    steps(engine, "a", 3)
    store.fails = OSError("full")
    with pytest.raises(OSError, match="full"):
        engine.label("a", 1)
    store.fails = None
    again = opened(store.crash())
    assert quality(again) is None
    assert again.label("a", 1) == 3


def test_sqlite_keeps_labels_over_a_crash_and_a_closing(tmp_path):
    path = tmp_path / "states.db"
    with opened(path) as engine:
        before = busy(engine)
    with opened(path) as engine:
        found = quality(engine)
        assert found == {**before, "missed": 0, "duplicates": 0}
    assert look.verify(path, MODEL) == []
    shown = look.show(path)
    assert shown["quality_bytes"] > 0
    assert (shown["streams"], shown["ended"]) == (6, 0)
    assert len(look.streams(path, MODEL).streams) == 6
    upkeep.reset(path, [5], MODEL)  # opens an engine of its own, which judges as much
    with opened(path) as engine:
        assert quality(engine)["labels"] == before["labels"]
        assert engine.label(4, 1) == 5


def test_an_engine_that_keeps_no_answers_keeps_what_labels_gave():
    store = DictStore()
    before = busy(opened(store))
    with opened(store.crash(), judge=0) as engine:
        assert quality(engine) == {**before, "missed": 0, "duplicates": 0}
        steps(engine, 1, 1, seq=50)
    with opened(store, judge=3) as engine:
        assert quality(engine)["labels"] == before["labels"]
        steps(engine, 1, 1, seq=60)
        assert engine.label(1, 1) == 1


def test_an_engine_may_wait_for_more_ages_or_fewer():
    store = DictStore()
    with opened(store, judge=2) as engine:
        steps(engine, "a", 4)
    with opened(store, judge=10) as engine:
        steps(engine, "a", 2, first=4)
    with opened(store, judge=5) as engine:
        assert engine.label("a", 1) >= 4


def test_a_damaged_record_of_what_labels_gave_is_said_and_begins_anew():
    store = DictStore()
    with opened(store) as engine:
        before = busy(engine)
    store.kept[QUALITY_KEY] = (store.kept[QUALITY_KEY][0], None)
    with pytest.warns(StepstreamWarning, match="what labels gave before begins anew"):
        engine = opened(store)
    assert quality(engine) is None
    assert engine.label(4, 1) == 5
    engine.close()
    number, good = store.kept[QUALITY_KEY]
    for bad in (good[:-1], b"\x02" + good[1:], good[:-8] + b"\xff" * 8, b"x"):
        store.kept[QUALITY_KEY] = (number, bad)
        with pytest.warns(StepstreamWarning, match="got other bytes"):
            opened(store).close()
    assert before["labels"] > 1


def test_another_model_begins_its_figures_anew(tmp_path):
    path = tmp_path / "states.db"
    with opened(path) as engine:
        busy(engine)
        engine.label(4, 1)
    new = model_of(recurrent("lstm", 3, 5), dense(5, 1))
    migrate(path, new, "reset", old=MODEL, backup=False)
    with Engine(new, "carry", path, judge=10, remember=2) as engine:
        assert quality(engine) is None
        assert engine.label(4, 1, seq=6) == 0  # an answer of the model before
        steps(engine, 4, 2, seq=20)
        assert engine.label(4, 1) == 2
        before = quality(engine)
    with Engine(new, "carry", path, judge=10, remember=2) as engine:
        assert quality(engine)["newest"] == before["newest"]


def test_the_bytes_of_a_label_are_these():
    judged = Judged(SAMPLE, np.array([1.0]), np.array([3, 3]), np.float32([[0.25], [0.25]]))
    data = judged.encode()
    assert data.hex() == (
        "02" "0100" "02000000" "000000000000f03f" "0300000000000000" "0300000000000000" "0000803e" "0000803e"
    )  # fmt: skip
    back = Quality(2, 1).judged(data)
    assert [np.array_equal(a, b) for a, b in zip(judged, back, strict=True)] == [True] * 4


@pytest.mark.parametrize(
    "at", [(0, b"\x03"), (1, b"\x02"), (3, b"\x00"), (7, b"\xff" * 8), (15, b""), (31, b"\xff" * 4)]
)
def test_a_journalled_label_with_other_bytes_is_refused(at):
    place, new = at
    data = Judged(SAMPLE, np.array([1.0]), np.array([3, 3]), np.float32([[0.25], [0.25]])).encode()
    bad = data[:place] + new + data[place + len(new) :] if new else data[:-1]
    store = DictStore()
    opened(store)
    store.commit(journal.encode([Operation(journal.LABEL, 1.0, ["a"], record=bad)]), None, ())
    with pytest.raises(StoreError, match="expected a label of this model"):
        opened(store.crash())
