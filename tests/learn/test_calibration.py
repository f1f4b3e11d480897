"""Calibration of whole models: what it finds, what it leaves alone, and what the model then says."""

import json
from dataclasses import replace

import numpy as np
import pytest

import stepstream
from learn.walks import labelled, passing, walks
from make import dense, model_of
from stepstream.errors import InputError
from stepstream.graph import attach
from stepstream.learn.answers import probabilities, raw_logits
from stepstream.learn.calibration import BY_STEP, IDENTITY, ISOTONIC, METHODS, TEMPERATURE, calibrate
from stepstream.learn.data import sequences
from stepstream.learn.distribution import drift_reference
from stepstream.learn.evaluation import evaluate
from stepstream.learn.trigger import fit_trigger
from stepstream.learn.unseen import described, out_of_fold

TIME = 12


@pytest.fixture(scope="module")
def overconfident():
    y, z = walks(300, TIME)
    return labelled(y, 2 * z)


@pytest.fixture(scope="module")
def new():
    y, z = walks(1000, TIME, seed=9)
    return labelled(y, 2 * z)


def test_an_overconfident_model_is_cooled_to_the_truth(overconfident, new):
    found = calibrate(passing(), overconfident, held_out=new)
    assert found.method == TEMPERATURE
    assert found.report["temperature"] == pytest.approx({"1": 2, "6": 2, "12": 2}, rel=0.25)
    for part in ("cross_validated", "held_out"):
        before, after = found.report[part]["before"], found.report[part]["after"]
        assert after["log_loss"] < before["log_loss"]
        assert after["brier"] < before["brier"]
        assert after["calibration_error"] < before["calibration_error"] / 2
        assert found.report[part]["gain"] > 2 * found.report[part]["gain_error"]
    assert not found.warnings
    json.dumps(found.report, allow_nan=False)


def test_what_is_right_already_is_left_alone():
    y, z = walks(300, TIME)
    model = passing()
    found = calibrate(model, labelled(y, z))
    assert found.method == IDENTITY
    assert found.model.graph == model.graph


@pytest.mark.parametrize("seed", range(6))
def test_new_data_are_never_made_much_worse(seed):
    """Small calibration parts, of models that are calibrated, too sure and too hesitant."""
    y, z = walks(40, TIME, seed=seed)
    truth, test = walks(1000, TIME, seed=100 + seed)
    factor = (0.5, 1, 2)[seed % 3]
    found = calibrate(passing(), labelled(y, factor * z), held_out=labelled(truth, factor * test))
    held = found.report["held_out"]
    assert held["gain"] > -0.02 if factor == 1 else held["gain"] >= 0


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("units", [1, 2, 4])
def test_no_method_changes_the_class_on_top_or_the_raw_logits(method, units):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(60, TIME, 1)) * 2
    y = np.clip((x[:, -1, 0] + rng.normal(size=60)).round() + 1, 0, max(units, 2) - 1).astype(int)
    data = sequences(x, y, classes=[f"class {i}" for i in range(max(units, 2))])
    model = passing(units)
    found = calibrate(model, data, method=method)
    assert found.method == method
    before, after = probabilities(model, data), probabilities(found.model, data)
    np.testing.assert_array_equal([p.argmax(1) for p in before], [p.argmax(1) for p in after])
    np.testing.assert_array_equal(raw_logits(model, data), raw_logits(found.model, data))
    assert attach.uncalibrated(found.model.graph) == model.graph
    for p, z in zip(after, raw_logits(model, data), strict=True):
        np.testing.assert_allclose(p, found.correction.apply(z, np.arange(1, TIME + 1)), atol=2e-6)


def test_a_calibration_replaces_the_one_before(overconfident):
    once = calibrate(passing(), overconfident)
    twice = calibrate(once.model, overconfident)
    assert twice.model.graph == once.model.graph
    assert twice.report == once.report


def test_many_streams_get_the_methods_with_many_parameters():
    """Confidence that no temperature mends: log odds beyond 2 mean no more than 2."""
    y, z = walks(600, TIME)
    truth, test = walks(1000, TIME, seed=3)

    def bent(log_odds):
        return log_odds + 3 * np.sign(log_odds) * (abs(log_odds) > 0.7)

    found = calibrate(passing(), labelled(y, bent(z)), held_out=labelled(truth, bent(test)))
    tried = {t["method"]: t["log_loss"] for t in found.report["tried"]}
    assert set(tried) == set(METHODS)
    assert found.method == ISOTONIC
    assert found.report["held_out"]["gain"] > 0.05


def test_the_length_is_the_training_length_and_later_samples_are_as_its_last(overconfident):
    found = calibrate(passing(training_length=5), overconfident)
    assert found.correction.scale.shape == (5,)
    assert found.report["length"] == 5
    assert len(found.report["cross_validated"]["after"]["by_step"]["log_loss"]) == 5


def test_labels_per_sample_are_observations_at_their_age():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(120, TIME)) * 2
    y = (rng.random((120, TIME)) < 1 / (1 + np.exp(-x))).astype(int)
    found = calibrate(passing(), sequences(3 * x[..., None], y, classes=("no", "yes")))
    assert found.report["temperature"] == pytest.approx({"1": 3, "6": 3, "12": 3}, rel=0.3)


def test_ages_are_those_of_the_windowing():
    """Calibrated at ages 1 and 2, too sure at ages 3 and 4."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(200, TIME)) * 2
    y = (rng.random((200, TIME)) < 1 / (1 + np.exp(-x))).astype(int)
    sure = np.where(np.arange(TIME) % 4 < 2, 1, 4) * x
    data = sequences(sure[..., None], y, classes=("no", "yes"))
    found = calibrate(passing(training_length=4), data, windowing="tumbling(4)")
    assert found.report["temperature"]["1"] < 1.5
    assert found.report["temperature"]["4"] > 3


@pytest.mark.parametrize("windowing", ["carry", "tumbling(4)", "sliding(4)", "sliding(5, stride=2)"])
def test_the_model_calibrates_at_the_ages_at_which_it_was_fitted(windowing):
    """With one stream there are no folds, and the probabilities reported are those of the final calibration."""
    y, z = walks(60, TIME)
    data = labelled(y, 2 * z, streams=["a"] * 60)
    found = calibrate(passing(training_length=6), data, method=BY_STEP, windowing=windowing)
    assert len(set(found.correction.scale)) > 3
    np.testing.assert_allclose(probabilities(found.model, data, windowing), found.probabilities, atol=2e-6)


def test_a_models_own_training_data_are_recognised(overconfident, new, tmp_path):
    about = {"sequences": 300, "streams": 300, "samples": 300 * TIME, "shortest": TIME, "longest": TIME}
    mean = np.concatenate(overconfident.x).mean(axis=0).tolist()
    passing().save(tmp_path / "m.stepstream", reports={"training": {"data": about, "scaling": {"mean": mean}}})
    model = stepstream.load(tmp_path / "m.stepstream")
    assert "trained on these very data" in calibrate(model, overconfident).warnings[0]
    assert "trained on these very data" in fit_trigger(model, overconfident, family="threshold").warnings[0]
    assert not calibrate(model, new).warnings
    assert not calibrate(model, overconfident, logits=raw_logits(model, overconfident)).warnings


def parts_of(data, patience=None):
    """A training and a validation part, and a model that says that it was trained on them."""
    part, held = data.some(range(200)), data.some(range(200, 300))
    report = {"data": described(part), "scaling": {"mean": described(part)["mean"]}, "validation": described(held)}
    model = passing().with_graph(passing().graph, {"training": {**report, "recipe": {"patience": patience}}})
    return part, held, model


def test_the_file_that_a_training_held_a_part_of_out_is_recognised(overconfident, new):
    part, held, model = parts_of(overconfident)
    for data in (part, overconfident):
        assert "trained on these very data" in calibrate(model, data).warnings[0]
        (finding,) = [f for f in evaluate(model, data).findings if f.name == "known-data"]
        assert "trained on these very data" in finding.words
    for data in (held, new):
        assert not [w for w in calibrate(model, data).warnings if "these very data" in w]
        assert not [f for f in evaluate(model, data).findings if f.name == "known-data"]
    stopped = parts_of(overconfident, patience=3)[2]
    assert "by which the model's training was stopped" in calibrate(stopped, held).warnings[0]
    assert "by which the model's training was stopped" in str(evaluate(stopped, held).findings)


def test_held_out_data_that_were_not_held_out_are_told(overconfident, new):
    part, held, model = parts_of(overconfident)
    assert "that the calibration was fitted on" in calibrate(passing(), new, held_out=new).warnings[-1]
    assert "held-out data: the model was trained on" in calibrate(model, new, held_out=part).warnings[-1]
    assert not calibrate(model, new, held_out=held).warnings


@pytest.mark.parametrize(
    "report",
    [5, "text", [1], {"data": 5}, {"data": {}, "scaling": [1]}, {"scaling": {"mean": 5}}, {"data": {}, "scaling": None}]
    + [{"data": {"sequences": "a"}, "validation": {"mean": [0.0]}, "scaling": {"mean": [0.0]}}, {"validation": 7}]
    + [{"data": {}, "scaling": {"mean": mean}} for mean in ("text", ["a"], [None], [10**400], [[0.0]], {"a": 1})],
)
def test_a_training_report_of_another_form_is_none(overconfident, report):
    model = passing().with_graph(passing().graph, {"training": report})
    assert not calibrate(model, overconfident).warnings
    assert not fit_trigger(model, overconfident, family="threshold").warnings


def test_training_data_are_recognised_with_their_columns_in_another_order(overconfident):
    """The model takes its features by name, and so its report has their means in its own order."""
    x = [np.concatenate([x, x + 5], axis=1) for x in overconfident.x]
    own, other = (
        sequences([row[:, order] for row in x], np.array(overconfident.y), features=names, classes=("down", "up"))
        for order, names in (([0, 1], ["a", "b"]), ([1, 0], ["b", "a"]))
    )
    model = stepstream.Model(model_of(dense(2, 1), features=2).reading, features=["a", "b"])
    about = described(own)
    report = {"data": about, "scaling": {"mean": about["mean"]}}
    model = model.with_graph(model.graph, {"training": report})
    for data in (own, other):
        assert "trained on these very data" in calibrate(model, data).warnings[0]
        assert "trained on these very data" in fit_trigger(model, data, family="threshold").warnings[0]


def test_the_reports_of_a_chain_are_all_in_the_model(overconfident, tmp_path):
    model = passing().with_graph(passing().graph, {"note": 1})
    calibration = calibrate(model, overconfident)
    trigger = fit_trigger(calibration.model, overconfident, probabilities=calibration.probabilities)
    calibration.save(tmp_path / "calibrated.stepstream")
    trigger.save(tmp_path / "decides.stepstream")
    trigger.model.save(tmp_path / "model.stepstream")
    calibrated, *decide = (
        stepstream.load(tmp_path / f"{name}.stepstream").reports for name in ("calibrated", "decides", "model")
    )
    assert calibrated.keys() == {"note", "calibration"}
    assert calibrated["calibration"]["temperature"] == calibration.report["temperature"]
    for reports in decide:
        assert reports.keys() == {"note", "calibration", "trigger"}
        assert reports["calibration"] == calibrated["calibration"]
        assert reports["trigger"]["family"] == trigger.family
    again = calibrate(calibration.model, overconfident, method=BY_STEP)
    assert again.model.reports["calibration"]["method"] == BY_STEP
    assert model.reports.keys() == {"note"}


def test_a_trigger_that_was_fitted_on_other_probabilities_is_taken_off(overconfident):
    trigger = fit_trigger(passing(), overconfident, family="threshold")
    found = calibrate(trigger.model, overconfident)
    assert not found.model.decides
    assert found.model.graph == calibrate(passing(), overconfident).model.graph
    assert found.model.reports.keys() == {"calibration"}
    assert "has been taken off; fit it again by stepstream decide or fit_trigger(" in found.warnings[-1]
    assert found.report["warnings"] == list(found.warnings)


def test_a_trigger_stays_where_the_probabilities_do(overconfident):
    calibration = calibrate(passing(), overconfident)
    trigger = fit_trigger(calibration.model, overconfident, probabilities=calibration.probabilities)
    for model, method in ((trigger.model, TEMPERATURE), (fit_trigger(passing(), overconfident).model, IDENTITY)):
        found = calibrate(model, overconfident, method=method)
        assert found.model.graph == model.graph
        assert found.model.reports.keys() == {"calibration", "trigger"}
        assert not found.warnings


@pytest.mark.parametrize("windowing", ["carry", "tumbling(4)", "sliding(4)"])
@pytest.mark.parametrize("units", [1, 4])
def test_an_engine_watches_by_the_calibrated_probabilities(windowing, units):
    y, z = walks(300, TIME)
    training = labelled(y, 4 * z) if units == 1 else sequences(4 * z[..., None], y * 3, classes=tuple("abcd"))
    model = passing(units)
    model = model.with_graph(model.graph, {"drift": drift_reference(model, training, windowing)})
    some = training.some(np.arange(200))
    found = calibrate(model, some, method=TEMPERATURE, windowing=windowing)
    before, after = model.reports["drift"], found.model.reports["drift"]
    assert after["inputs"] == before["inputs"]
    fresh = drift_reference(found.model, some, windowing)
    assert after["windowing"] == fresh["windowing"]
    steps, expected = after["probability"]["by_step"], fresh["probability"]["by_step"]
    assert steps.keys() == expected.keys()
    for age, counts in expected.items():
        assert np.shape(steps[age]) == np.shape(counts)
        assert np.sum(steps[age]) == np.sum(counts)
        assert abs(np.array(steps[age]) - counts).sum() < 0.25 * np.sum(counts)  # by other folds, much the same
    _, z = walks(1000, TIME, seed=5)
    engine = stepstream.Engine(found.model, windowing, watch=1)
    engine.step_many(np.repeat(np.arange(1000), TIME), 4 * z.reshape(-1, 1).astype(np.float32))
    drift = engine.stats()["drift"]
    assert [w for w in drift["warnings"] if w.startswith("probability")] == []
    assert drift["probability"]["10" if windowing != "tumbling(4)" else "3"]["psi"] is not None


def test_fitting_a_trigger_on_the_data_of_the_calibration_is_said(overconfident, new):
    calibration = calibrate(passing(), overconfident)
    found = fit_trigger(calibration.model, overconfident, family="threshold")
    assert "calibrated on these very data" in found.warnings[0]
    assert "probabilities=calibration.probabilities" in found.report["warnings"][0]
    given = calibration.probabilities
    assert not fit_trigger(calibration.model, overconfident, family="threshold", probabilities=given).warnings
    assert not fit_trigger(calibration.model, new, family="threshold").warnings
    left = calibrate(passing(), overconfident, method=IDENTITY)  # nothing was fitted
    assert not fit_trigger(left.model, overconfident, family="threshold").warnings


def test_one_stream_cannot_be_validated():
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(3, 50, 1)), rng.integers(0, 2, (3, 50))
    data = sequences(x, y, streams=["a"] * 3)
    model = passing()
    found = calibrate(model, data)
    assert found.method == IDENTITY
    assert "one stream" in found.warnings[-1]
    assert "cross_validated" not in found.report
    trusted = calibrate(model, data, method=TEMPERATURE)
    assert trusted.method == TEMPERATURE
    assert [t["method"] for t in trusted.report["tried"]] == [IDENTITY]  # nobody knows what another is worth


def test_of_one_class_no_calibration_is_learned(overconfident):
    found = calibrate(passing(), overconfident.some(np.array(overconfident.y) == 1))
    assert found.method == IDENTITY
    assert found.model.graph == passing().graph
    assert "one class, of which no calibration is learned; the model is left as it is" in found.warnings[-1]


def test_little_data_is_said():
    y, z = walks(20, TIME)
    y[:18] = 0
    found = calibrate(passing(), labelled(y, z))
    assert any("rests on 20 streams" in w for w in found.warnings)
    assert any("class 'up' has" in w for w in found.warnings)
    assert found.report["warnings"] == list(found.warnings)


def test_calibrating_by_models_that_have_not_seen_a_sequence(overconfident):
    seen = []

    def train(part):
        seen.append(set(part.keys))
        return passing()

    outside = out_of_fold(train, overconfident, k=4)
    assert len(seen) == 4
    assert sorted(k for part in seen for k in part) == sorted(list(overconfident.keys) * 3)
    found = calibrate(passing(), overconfident, logits=outside.logits)
    assert found.report["out_of_fold_logits"]
    np.testing.assert_array_equal(found.correction.scale, calibrate(passing(), overconfident).correction.scale)
    np.testing.assert_allclose(outside.probabilities[0], probabilities(passing(), overconfident)[0], atol=1e-6)


def test_answers_out_of_fold_are_in_the_order_of_the_data_whatever_that_of_the_models(overconfident):
    flip = replace(overconfident, x=tuple(-x for x in overconfident.x))
    outside = out_of_fold(lambda part: stepstream.Model(passing(2).reading, classes=("up", "down")), flip, k=2)
    for found, expected in zip(outside.logits, raw_logits(passing(2), overconfident), strict=True):
        np.testing.assert_array_equal(found[:, 1] - found[:, 0], expected[:, 1] - expected[:, 0])


def test_logits_in_an_order_that_nobody_knows_are_refused(overconfident):
    model = stepstream.Model(passing(2).reading, classes=("up", "down"))
    logits = raw_logits(passing(2), overconfident)
    with pytest.raises(InputError, match=r"the model's order, up,down, .* got down,up; name the classes so"):
        calibrate(model, overconfident, logits=logits)
    fits = replace(overconfident, classes=("up", "down"))
    assert calibrate(model, fits, logits=logits).report["out_of_fold_logits"]


def test_cross_validated_probabilities_are_close_to_the_final_ones(overconfident):
    found = calibrate(passing(), overconfident)
    final = probabilities(found.model, overconfident)
    assert 0 < max(abs(a - b).max() for a, b in zip(found.probabilities, final, strict=True)) < 0.1


def test_probabilities_are_not_taken_for_logits(overconfident):
    outside = out_of_fold(lambda _: passing(), overconfident)
    for given in (outside.probabilities, [p[:, 1:] for p in outside.probabilities]):
        with pytest.raises(InputError, match=r"are these probabilities\? Give out_of_fold"):
            calibrate(passing(), overconfident, logits=given)
    alone = calibrate(passing(), overconfident, logits=[z[:, 1:] for z in outside.logits])
    both = calibrate(passing(), overconfident, logits=outside.logits)
    assert alone.report == both.report
    with pytest.raises(InputError, match=r"expected \(0, z\) at each sample for a model with one sigmoid unit, got"):
        calibrate(passing(), overconfident, logits=[z[:, ::-1] for z in outside.logits])
    with pytest.raises(InputError, match="expected a column for each class"):
        calibrate(passing(2), overconfident, logits=[z[:, 1:] for z in outside.logits])


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda d: calibrate(passing(), d, method="platt"), "method: expected auto, identity"),
        (lambda d: calibrate(passing(), d, logits=[np.zeros((TIME, 1))]), "logits: expected those of 300"),
        (lambda d: calibrate(passing(), d, logits=[np.zeros((3, 1))] * 300), r"expected finite \(12, 2\)"),
        (
            lambda d: calibrate(passing(), d, logits=[np.zeros((TIME, 2))] * 300, windowing="session(5)"),
            "windowing: expected carry",
        ),
        (lambda d: calibrate(passing(3), d), "expected 3 classes"),
        (
            lambda d: out_of_fold(lambda _: passing(), sequences([[[0.5], [1]]] * 2, [0.5, 2])),
            "expected data with classes",
        ),
        (
            lambda d: calibrate(model_of(dense(1, 1, "linear"), features=1), d),
            "expected a model that ends with a sigmoid",
        ),
        (
            lambda d: calibrate(passing(), sequences([[[0.5], [1]]], [0.5])),
            "expected data with classes to calibrate probabilities",
        ),
    ],
)
def test_what_does_not_fit_is_refused(overconfident, call, says):
    with pytest.raises(InputError, match=says):
        call(overconfident)
