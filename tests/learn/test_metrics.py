"""Every figure against scikit-learn's, and what has no meaning is None."""

import numpy as np
import pytest

from learn_models import adding
from stepstream.learn import metrics, remarks
from stepstream.learn.data import sequences
from stepstream.learn.evaluation import evaluate
from stepstream.learn.scores import step_loss


def answers(n, classes, seed=0, ties=False):
    rng = np.random.default_rng(seed)
    y = np.concatenate([np.arange(classes), rng.integers(0, classes, n - classes)])
    p = rng.dirichlet(np.ones(classes), n)
    p[np.arange(n), y] += rng.random(n)
    p /= p.sum(axis=1, keepdims=True)
    if ties:
        p = np.round(p * 8) + 1
        p /= p.sum(axis=1, keepdims=True)
    return y, p


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("classes", [2, 3, 5])
@pytest.mark.parametrize("n", [7, 200])
def test_as_scikit_learn(n, classes, ties):
    sk = pytest.importorskip("sklearn.metrics")
    y, p = answers(n, classes, ties=ties)
    top, labels = p.argmax(axis=1), list(range(classes))
    average = {"average": "binary"} if classes == 2 else {"average": "macro"}
    found = metrics.measure(y, p)
    expected = {
        "accuracy": sk.accuracy_score(y, top),
        "balanced_accuracy": sk.balanced_accuracy_score(y, top),
        "precision": sk.precision_score(y, top, zero_division=0, **average),
        "recall": sk.recall_score(y, top, zero_division=0, **average),
        "f1": sk.f1_score(y, top, zero_division=0, **average),
        "auc": sk.roc_auc_score(y, p[:, 1] if classes == 2 else p, multi_class="ovr", labels=labels),
        "log_loss": sk.log_loss(y, p, labels=labels),
        "brier": sk.brier_score_loss(y, p, labels=labels) if classes > 2 else sk.brier_score_loss(y, p[:, 1]),
        "confidence": p.max(axis=1).mean(),
    }
    for name, value in expected.items():
        assert found[name] == pytest.approx(value, abs=1e-6), name


def test_numbers_as_scikit_learn():
    sk = pytest.importorskip("sklearn.metrics")
    rng = np.random.default_rng(0)
    y = rng.normal(size=50)
    predicted = y + rng.normal(size=50) / 2
    found = metrics.measure_numbers(y, predicted)
    assert found["mae"] == pytest.approx(sk.mean_absolute_error(y, predicted))
    assert found["rmse"] == pytest.approx(sk.root_mean_squared_error(y, predicted))
    assert found["r2"] == pytest.approx(sk.r2_score(y, predicted))
    assert metrics.measure_numbers(np.ones(3), np.ones(3)) == {"mae": 0, "rmse": 0, "r2": None}
    assert set(metrics.measure_numbers(y[:0], y[:0]).values()) == {None}


@pytest.mark.parametrize("classes", [2, 3])
def test_one_class_alone(classes):
    p = np.full((4, classes), 1 / classes)
    found = metrics.measure(np.zeros(4, int), p)
    assert found["auc"] is None
    assert found["balanced_accuracy"] is None
    assert found["accuracy"] == 1
    if classes == 2:
        assert [found[n] for n in ("precision", "recall", "f1")] == [None] * 3


def test_no_answers():
    assert metrics.measure(np.zeros(0, int), np.zeros((0, 2))) == dict.fromkeys(metrics.CLASSES)


def test_a_class_that_is_not_there_is_left_out_of_auc():
    y, p = answers(50, 3)
    kept = y != 2
    areas = [metrics.auc((y[kept] == c).astype(int), np.stack([1 - p[kept, c], p[kept, c]], axis=1)) for c in (0, 1)]
    assert metrics.auc(y[kept], p[kept]) == pytest.approx(np.mean(areas))


def test_probabilities_of_zero_are_no_infinity():
    p = np.array([[1.0, 0.0]])
    assert metrics.log_loss(np.array([1]), p) == pytest.approx(15.94, abs=0.01)


def test_calibration_error():
    rng = np.random.default_rng(0)
    p1 = rng.random(20_000)
    y = (rng.random(20_000) < p1).astype(int)
    p = np.stack([1 - p1, p1], axis=1)
    assert metrics.calibration_error(y, p) < 0.02
    sharp = np.stack([p1 < 0.5, p1 >= 0.5], axis=1).astype(float)  # sure of every answer, right in three of four
    assert metrics.calibration_error(y, sharp) == pytest.approx(0.25, abs=0.01)
    coin = np.full((1000, 2), 0.5)
    assert metrics.calibration_error(np.arange(1000) % 2, coin) == 0  # all in one bin, in whatever order
    both = np.repeat([[0.4, 0.6], [0.1, 0.9]], 500, axis=0)  # too unsure of the first half, too sure of the second
    y = np.r_[np.ones(500, int), np.arange(500) % 5 < 3]
    assert metrics.calibration_error(y, both) == pytest.approx((0.4 + 0.3) / 2)


def test_changes_of_mind():
    p = np.eye(3)[[0, 0, 1, 0, 2, 2]]
    assert metrics.changes_of_mind(p).tolist() == [0, 0, 1, 2, 3, 3]


def test_interval():
    low, high = metrics.interval(0.9, 100)
    assert (round(low, 3), round(high, 3)) == (0.826, 0.945)
    assert metrics.interval(1.0, 5)[1] == 1


def test_a_coin_at_the_first_sample_scores_two_thirds():
    assert metrics.harmonic_mean(0.5, 0.01) == pytest.approx(0.664, abs=0.001)
    assert metrics.harmonic_mean(0.0, 1.0) == 0


def test_a_wrong_certainty_costs_the_same_everywhere(monkeypatch):
    """In training, in tables, and for class shares that leave a class out."""
    worst = metrics.log_loss(np.array([1]), np.array([[1.0, 0.0]]))
    assert worst == pytest.approx(-np.log(np.finfo(np.float32).eps))
    assert step_loss("binary", [np.array([[1.0, 0.0]])], [np.array([1.0])]) == worst
    shares = []
    monkeypatch.setattr(remarks, "early", lambda rows, loss, _: shares.append(loss) or ())
    x = np.random.default_rng(0).normal(size=(4, 4, 1))
    evaluate(adding(), sequences(x, [1] * 4), train=sequences(x + 1, [0] * 4))
    assert shares == [worst]
