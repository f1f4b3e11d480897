"""What `evaluate` says is what counting by hand gives, and it says in words what goes wrong."""

import json
from dataclasses import replace

import numpy as np
import pytest

from learn_models import adding as make_adding
from learn_models import last_four
from make import SEQUENCE, dense, graph_model, model_of, random, recurrent
from stepstream.errors import InputError
from stepstream.learn import evaluation, metrics
from stepstream.learn.answers import probabilities
from stepstream.learn.by_step import points
from stepstream.learn.data import sequences
from stepstream.learn.decision_rules import Cost
from stepstream.learn.evaluation import evaluate
from stepstream.learn.files import read
from stepstream.learn.trigger import fit_trigger
from stepstream.model import Model


@pytest.fixture
def adding():
    return make_adding()


def whole(m=60, time=4, seed=0, share=0.5):
    """One label per sequence: the sign of its sum, with some noise in it."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(m, time, 1))
    y = x.sum(axis=(1, 2)) + rng.normal(size=m) / 2 > np.quantile(x.sum(axis=(1, 2)), 1 - share)
    return sequences(x, y.astype(int), features=["load"])


def names(evaluation):
    return [f.name for f in evaluation.findings]


def run_of(evaluation, windowing):
    return next(r for r in evaluation.runs if r.windowing == windowing)


def test_rows_are_what_counting_gives(adding):
    data = whole()
    found = evaluate(adding, data)
    (run,) = found.runs  # no sequence is longer than the training length
    p, y = np.stack(probabilities(adding, data)), np.array(data.y)
    assert [r.seen for r in run.seen] == ["1", "2", "3", "4"]
    for t, row in enumerate(run.seen):
        expected = metrics.measure(y, p[:, t]) | {"changes": row.figures["changes"]}
        assert row.figures == expected
        assert row.count == 60
        assert row.low < row.figures["accuracy"] < row.high
    top = p.argmax(axis=2)
    assert run.seen[3].figures["changes"] == (top[:, 1:] != top[:, :-1]).sum() / 60
    assert run.total.figures == run.seen[3].figures
    assert run.fraction[9].figures == run.seen[1].figures  # half of it
    assert len(run.fraction) == 20


def test_sequences_of_different_lengths(adding):
    x = np.random.default_rng(0).normal(size=(30, 4, 1))
    data = sequences([row[: 2 + i % 3] for i, row in enumerate(x)], np.arange(30) % 2)
    (run,) = evaluate(adding, data).runs
    assert [r.count for r in run.seen] == [30, 30, 20, 10]
    assert {r.count for r in run.fraction} == {30}
    assert run.fraction[-1].figures["accuracy"] == run.total.figures["accuracy"]
    right = [(p[-1].argmax() == y) for p, y in zip(probabilities(adding, data), data.y, strict=True)]
    assert run.total.figures["accuracy"] == np.mean(right)


def test_labels_per_sample_by_age(adding):
    data = last_four()
    found = evaluate(adding, data)
    carry, tumbling, sliding = (run_of(found, w) for w in ("carry", "tumbling(4)", "sliding(4)"))
    assert sum(r.count for r in carry.seen) == 8 * 120
    assert [r.seen for r in carry.seen][:6] == ["1", "2", "3", "4", "5", "6-7"]
    assert sliding.total.figures["accuracy"] == 1
    assert [r.figures["accuracy"] for r in tumbling.age][3] == 1
    assert tumbling.age[0].figures["accuracy"] < 0.8
    assert [r.count for r in tumbling.age] == [8 * 30] * 4
    for r in carry.seen[:4]:
        assert r.figures["accuracy"] == 1  # what it was trained for
    y = np.stack(data.y)
    top = np.stack(probabilities(adding, data)).argmax(axis=2)
    assert carry.seen[-1].figures["accuracy"] == pytest.approx((top == y)[:, carry.seen[-1].first - 1 :].mean())
    last = carry.seen[-1]  # neighbouring samples are not independent, so the interval is wider than of so many coins
    low, high = metrics.interval(last.figures["accuracy"], last.count)
    assert last.low < low < high < last.high
    assert evaluate(adding, last_four(m=4)).runs[0].total.low is None


def copied(data, times):
    """Each sequence several times, as windows of one stream that are nearly alike."""
    return sequences(
        np.repeat(np.stack(data.x), times, axis=0),
        np.repeat(np.stack(data.y), times, axis=0),
        streams=np.repeat(data.streams, times),
    )


@pytest.mark.parametrize("per_sample", [False, True])
def test_many_sequences_of_few_streams_are_no_more_certain_than_the_streams(adding, per_sample):
    data = last_four(m=12, time=12) if per_sample else whole(12)
    once, often = (evaluate(make_adding(sharpness=0.2), of, ["carry"]) for of in (data, copied(data, 50)))
    for one, more in zip(once.runs[0].seen, often.runs[0].seen, strict=True):
        assert more.figures["accuracy"] == pytest.approx(one.figures["accuracy"])
        assert more.high - more.low > 0.7 * (one.high - one.low)
    if not per_sample:
        assert "600 sequences of 12 streams" in next(f.words for f in often.findings if f.name == "few")
        assert "one stream more or less moves accuracy by 0.083" in str(often.findings)
    assert evaluate(adding, copied(data.some(range(4)), 50)).runs[0].total.low is None


def test_a_gap_or_a_loss_in_few_streams_is_chance_however_many_sequences_they_have(adding):
    """Of 5 streams one is wrong beyond the training length, and in 100 copies, too."""
    x = np.ones((5, 8, 1))
    x[0, 4:] = -3
    data = sequences(x, [1] * 5, classes=["0", "1"])
    for of in (data, copied(data, 100)):
        assert not {"carry-beyond-training", "miscalibrated"} & set(names(evaluate(adding, of)))


def test_carry_beyond_training_is_said_in_words(adding):
    found = evaluate(adding, last_four())
    assert names(found) == ["carry-beyond-training", "tumbling-forgets"]
    carried = found.findings[0]
    assert carried.words.startswith(
        "carry: beyond age 4, the oldest in training, accuracy falls from 1.00 (sliding(4) on the same samples) to 0.6"
    )
    assert "while the mean confidence is 0.9" in carried.words
    assert "use sliding(4), or train with state passing" in carried.remedy


def test_carry_beyond_training_with_one_label_per_sequence(adding):
    """The label is the sign of the first four; what comes behind only disturbs."""
    x = np.random.default_rng(1).normal(size=(80, 40, 1))
    x[:, 4:] *= 2
    found = evaluate(adding, sequences(x, (x[:, :4, 0].sum(axis=1) > 0).astype(int)))
    assert "falls from 1.00 (at age 4)" in found.findings[0].words
    assert {r.windowing for r in found.runs} == {"carry", "tumbling(4)", "sliding(4)"}


def test_nothing_to_say_of_what_is_fine(adding):
    x = np.repeat(np.random.default_rng(0).choice([-1.0, 1.0], (60, 1, 1)), 4, axis=1)
    x = x + np.random.default_rng(1).normal(size=x.shape) / 5
    data = sequences(x, (x.sum(axis=1)[:, 0] > 0).astype(int))
    assert names(evaluate(adding, data)) == []


def test_blind_before_the_end(adding):
    """Only the last of 4 samples tells."""
    x = np.random.default_rng(0).normal(size=(200, 4, 1))
    x[:, 3] *= 15
    y = (x.sum(axis=1)[:, 0] > 0).astype(int)
    found = evaluate(adding, sequences(x, y)).findings
    assert found[0].name == "blind-before-the-end"
    assert "at 75% of a sequence AUC is 0." in found[0].words
    assert "loss='mean' or 'ramp'" in found[0].remedy


@pytest.mark.parametrize("sharpness", [4, 30])
def test_nobody_is_told_to_train_as_the_model_was_trained(sharpness):
    x = np.random.default_rng(0).normal(size=(200, 4, 1))
    x[:, 3] *= 15
    data = sequences(x, (x.sum(axis=1)[:, 0] > 0).astype(int))
    model = make_adding(sharpness)
    said = " ".join(f"{f.words} {f.remedy}" for f in evaluate(model, data).findings)
    assert "loss='mean' or 'ramp'" in said
    for loss, told in (("mean", False), ("ramp", False), ("last", True)):
        trained = Model(replace(model.reading, reports={"training": {"recipe": {"loss": loss}}}))
        found = evaluate(trained, data).findings
        assert {"blind-before-the-end", "worse-than-prior"} & {f.name for f in found}
        said = " ".join(f"{f.words} {f.remedy}" for f in found)
        assert ("loss='mean' or 'ramp'" in said) == ("last step alone" in said) == told


def test_worse_than_the_shares_of_the_classes():
    found = evaluate(make_adding(sharpness=30), whole(300)).findings
    assert {"worse-than-prior", "miscalibrated"} <= {f.name for f in found}
    assert "surer than it is right" in next(f.words for f in found if f.name == "miscalibrated")


def test_what_the_data_cannot_show(adding):
    data = sequences(np.random.default_rng(0).normal(size=(25, 4, 1)), np.arange(25) == 0)
    found = {f.name: f for f in evaluate(adding, data).findings}
    assert "look at the intervals" in found["few"].words
    assert "of the labels: without ever saying it an accuracy of 9" in found["imbalance"].words
    one = sequences(np.ones((3, 4, 1)), [1, 1, 1])
    assert "one-class" in names(evaluate(adding, one))
    few = last_four(m=2)
    assert "2 sequences in all" in next(f.words for f in evaluate(adding, few).findings if f.name == "few")


def test_always_the_same_answer(adding):
    data = sequences(1e-5 * np.random.default_rng(0).normal(size=(60, 4, 1)) + 1e-3, np.arange(60) % 2)
    found = next(f for f in evaluate(adding, data).findings if f.name == "constant")
    assert "the answer is always 1, with probabilities that hardly change" in found.words
    assert "scale=" in found.remedy


def test_a_model_that_does_not_say_how_long_its_windows_were():
    found = evaluate(make_adding(length=None), whole())
    assert [r.windowing for r in found.runs] == ["carry"]
    assert "no-training-length" in names(found)


def carried(**recipe):
    """Trained, so to say, with a state that was carried on without a bound."""
    reading = make_adding(length=None).reading
    return Model(replace(reading, trained_ages=(1, None), reports={"training": {"recipe": recipe}}))


def test_a_model_whose_state_was_carried_on_in_training():
    found = evaluate(carried(), last_four())
    assert [r.windowing for r in found.runs] == ["carry"]
    assert not {"no-training-length", "carry-beyond-training"} & set(names(found))
    assert "training length: none, its state was carried on" in found.to_markdown()


@pytest.mark.parametrize("recipe", [{"window": 4, "truncated": None}, {"window": None, "truncated": 4}])
def test_carrying_is_compared_with_the_window_of_the_recipe(recipe):
    found = evaluate(carried(**recipe), last_four())
    assert [r.windowing for r in found.runs] == ["carry", "tumbling(4)", "sliding(4)"]
    assert found.about["training_length"] is None
    forgets = next(f for f in found.findings if f.name == "tumbling-forgets")
    assert "use carry, as in training, or sliding(4)" in forgets.remedy
    assert [r.windowing for r in evaluate(carried(**recipe), whole()).runs] == ["carry"]


@pytest.mark.parametrize("recipe", [{"window": "4"}, {"window": 0}, {"window": True}, {"truncated": 10**9}])
def test_a_report_may_say_anything(recipe):
    assert [r.windowing for r in evaluate(carried(**recipe), last_four()).runs] == ["carry"]


def test_zero_padding(adding):
    """Zeros add nothing, so both ways give what carry gives; a bias would show."""
    data = last_four()
    found = evaluate(adding, data)
    assert list(found.padded) == ["zeros behind", "zeros in front"]
    for rows in found.padded.values():
        assert [r.seen for r in rows] == ["1", "2", "3", "4"]
        for row, carried in zip(rows, run_of(found, "carry").seen, strict=False):
            assert row.figures["accuracy"] == carried.figures["accuracy"]


def test_no_zero_padding_of_a_few_streams(adding):
    assert evaluate(adding, last_four(m=4)).padded == {}


@pytest.mark.parametrize("by_a_layer", [False, True])
def test_zero_padding_behind_a_scale_fills_with_what_becomes_zero(adding, by_a_layer):
    from stepstream.graph.passes import scale_input

    graph = scale_input(adding.reading.graph, [3.0], [2.0])
    if by_a_layer:
        graph = replace(graph, nodes=tuple(replace(n, is_scale=False) for n in graph.nodes))
    scaled = Model(replace(adding.reading, graph=graph))
    data = last_four()
    moved = sequences([x * 2 + 3 for x in data.x], list(data.y), features=["load"])
    for a, b in zip(evaluate(scaled, moved).padded.values(), evaluate(adding, data).padded.values(), strict=True):
        assert [r.figures["accuracy"] for r in a] == [r.figures["accuracy"] for r in b]


def test_baselines(adding):
    data = whole(share=0.25)
    train = whole(40, seed=5, share=0.75)
    found = {b.name: b for b in evaluate(adding, data, train=train).baselines}
    y = np.array(data.y)
    prior = np.mean(train.y)
    assert found["prior"].figures["accuracy"] == y.mean()  # the training data are mostly 1
    assert found["prior"].figures["log_loss"] == pytest.approx(-np.log(np.where(y, prior, 1 - prior)).mean())
    assert "the training data" in found["prior"].words
    coin = found["coin at the first sample"].figures
    assert coin["earliness"] == 0.25
    assert coin["harmonic_mean"] == pytest.approx(2 * 0.5 * 0.75 / 1.25)


def test_decisions_of_a_trigger(adding):
    data, other = whole(m=120, seed=1), whole(seed=2)
    trigger = fit_trigger(adding, data, cost=Cost(error=2, delay=0.5))
    found = evaluate(trigger.model, other)
    assert found.decisions["the model's trigger"] == trigger.score(other)
    assert found.decisions["at the end"].earliness == 1
    assert "the model's trigger" in found.to_markdown()
    assert json.loads(json.dumps(found.to_dict()))["decisions"]["at_the_end"]["cost"] > 0.5
    assert not evaluate(adding, other).decisions
    for report in ({}, [], {"cost": 3}, {"cost": {"error": -1}}):
        strange = Model(replace(trigger.model.reading, reports={"trigger": report}), trigger.model.features)
        assert evaluate(strange, other).decisions["at the end"].cost < 1


def test_leaks_between_training_and_test(adding):
    data = whole()
    assert "both-parts" in names(evaluate(adding, data, train=data))


def test_the_model_s_own_order_of_classes():
    """Labels are matched by name before anything is counted."""
    data = last_four(m=5)
    named = Model(make_adding().reading, classes=["rising"])
    swapped = replace(data, classes=("rising", "falling"), y=tuple(1 - y for y in data.y))
    assert run_of(evaluate(named, swapped), "sliding(4)").total.figures["accuracy"] == 1


def test_regression():
    model = make_adding(activation="linear")
    data = last_four()
    sums = [np.convolve(x[:, 0], np.ones(4))[: len(x)] * 4 for x in data.x]
    found = evaluate(model, sequences(list(data.x), sums))
    assert run_of(found, "sliding(4)").total.figures["rmse"] < 1e-5
    assert run_of(found, "sliding(4)").total.figures["r2"] == pytest.approx(1)
    assert names(found) == ["carry-beyond-training"]
    assert "root mean square error" in found.findings[0].words
    assert found.baselines[0].figures["r2"] == pytest.approx(0)
    json.dumps(found.to_dict(), allow_nan=False)


def test_windowings_and_rows_of_one_s_own(adding):
    found = evaluate(adding, last_four(), ["sliding(2)", "carry"], ages=[10, 100, 500])
    assert [r.windowing for r in found.runs] == ["sliding(2)", "carry"]
    assert [r.seen for r in found.runs[0].seen] == ["1-10", "11-100"]
    with pytest.raises(InputError, match="ages: expected a whole number of samples from 1, got 0"):
        evaluate(adding, last_four(), ages=[0])
    with pytest.raises(InputError, match="windowing: expected"):
        evaluate(adding, last_four(), ["sideways"])


def test_windowings_by_other_names(adding):
    assert [r.windowing for r in evaluate(adding, last_four(), ["auto", "tumbling( 4 )"]).runs] == ["tumbling(4)"]


def test_carry_beyond_training_without_sliding_to_compare_with(adding):
    words = evaluate(adding, last_four(), ["carry"]).findings[0].words
    assert "accuracy falls from 1.00 (up to age 4) to 0.6" in words


def test_many_equal_classes_are_no_imbalance():
    y = np.repeat(np.arange(20), 10)
    model = model_of(recurrent("gru", 3, 4, sequences=False), dense(4, 20, "softmax"))
    found = evaluate(model, sequences(np.random.default_rng(0).normal(size=(200, 5, 3)), y))
    assert "imbalance" not in names(found)
    assert len(found.runs[0].seen) == 5


def test_a_model_that_flattens_its_windows():
    """It has no answer beyond its window under carry, which is left out."""
    op, params, weights = recurrent("lstm", 3, 4)
    nodes = [
        ("h", op, ["x"], params, weights),
        ("t", "position", ["x"], {"n": 7}, {}),
        ("y", "position_dense", ["h", "t"], {}, {"kernel": random(7, 4, 1), "bias": random(7, 1)}),
    ]
    model = graph_model({"x": ((3,), SEQUENCE)}, nodes, ["y"])
    x = np.random.default_rng(0).normal(size=(30, 20, 3))
    found = evaluate(model, sequences(x, np.arange(30) / 7))
    assert [r.windowing for r in found.runs] == ["tumbling(7)", "sliding(7)"]
    assert [r.windowing for r in evaluate(model, sequences(x[:, :7], np.arange(30) / 7)).runs] == ["carry"]


@pytest.mark.parametrize("classes", [None, ["calm", "busy"]])
def test_a_model_of_classes_is_not_evaluated_on_numbers(adding, classes):
    model = Model(adding.reading, classes=classes)
    x, y = np.ones((4, 3, 1)), np.arange(4)
    with pytest.raises(InputError, match=r"expected data with classes, as .* leave out regression=True"):
        evaluate(model, sequences(x, y + 0.5))
    with pytest.raises(InputError, match="got numbers to be predicted"):
        evaluate(model, sequences(x, y % 2, regression=True))
    shares = sequences(x, y / 8)
    if classes is None:
        assert evaluate(model, shares).about["classes"] is None
    else:
        with pytest.raises(InputError, match="the classes calm, busy"):
            evaluate(model, shares)


def test_sliding_is_left_out_where_it_would_take_hours(adding, monkeypatch):
    monkeypatch.setattr(evaluation, "PATIENCE", 1.0)
    found = evaluate(adding, last_four())
    assert [r.windowing for r in found.runs] == ["carry", "tumbling(4)"]
    assert "ask for it" in next(f.remedy for f in found.findings if f.name == "left-out")


def test_numbers_of_samples_that_no_sequence_has_are_told(adding):
    found = next(f for f in evaluate(adding, whole(), ages=[3, 99]).findings if f.name == "beyond-the-longest")
    assert found.words == "no sequence has 99 samples: the longest has 4"
    assert "beyond-the-longest" not in names(evaluate(adding, whole(), ages=[3]))


def test_points():
    assert points(5) == [1, 2, 3, 4, 5]
    assert points(31)[-3:] == [20, 30, 31]
    assert points(1000, [7])[:8] == [1, 2, 3, 4, 5, 6, 7, 10]
    assert 333 in points(1000, [333])
    assert points(10, ages=[20]) == [10]


def test_the_packaged_model_on_its_recording(model, recording, tmp_path):
    """Six streams of a label each: the figures are small, and what is said fits them."""
    labels = json.loads((recording.parent / "labels.json").read_text())
    head, *lines = recording.read_text().splitlines()
    key = head.split(",")[0]
    labelled = tmp_path / "labelled.csv"
    labelled.write_text("\n".join([f"{head},label", *(f"{row},{labels[row.split(',')[0]]}" for row in lines)]))
    data = read(labelled, key=key, time="time", label="label", features=["x", "y", "z"])
    named = type(model)(model.reading, ["x", "y", "z"], ["badminton"])
    with pytest.raises(InputError, match="expected the classes"):
        evaluate(named, data)
    y = [data.classes[y] if data.classes[y] == "badminton" else "other" for y in data.y]
    found = evaluate(named, sequences(list(data.x), y, features=data.features))
    assert found.runs[0].total.figures["accuracy"] >= 5 / 6
    assert "few" in names(found)


def test_occupancy(cases, adding):
    """A recording of a real room: read, matched, and answered at every minute."""
    data = read(cases / "occupancy" / "datatest.txt", label="5", features=["2"], header=False)
    found = evaluate(adding, data, ["carry"])
    assert found.about["samples"] == 2665
    assert sum(r.count for r in found.runs[0].seen) == 2665
    assert found.about["classes"] == {"0": 1693, "1": 972}


def test_the_first_answer_counts_whatever_rows_are_asked_for(adding):
    every, few = evaluate(adding, whole()), evaluate(adding, whole(), ages=[3])
    assert few.baselines == every.baselines
    assert every.baselines[-1].figures["accuracy"] == every.runs[0].seen[0].figures["accuracy"]
