"""Leaks are found where they are, and nowhere else; scaling knows the training part alone."""

import re
from dataclasses import replace

import numpy as np
import pytest

from stepstream.errors import InputError
from stepstream.formats.reading import Provenance, Reading
from stepstream.graph.streamable import Blocker
from stepstream.learn.data import sequences, split
from stepstream.learn.files import read
from stepstream.learn.guards import leaks, silent
from stepstream.learn.scaling import scaling
from stepstream.model import Model, load


def noise(m=12, time=20, features=3, seed=0):
    return np.random.default_rng(seed).normal(size=(m, time, features)) * 3 + 5


LABELS = np.arange(12) % 2


def names(*args, **given):
    return [f.name for f in leaks(*args, **given)]


def test_nothing_in_plain_data():
    data = sequences(noise(), LABELS)
    assert names(*split(data)) == []
    assert names(sequences(noise(), np.arange(240).reshape(12, 20) % 2)) == []
    assert names(sequences(noise(), LABELS * 0.3)) == []


@pytest.mark.parametrize("ddof", [0, 1])
def test_sequences_normalised_by_themselves(ddof):
    X = noise()
    X[..., 1] = (X[..., 1] - X[..., 1].mean(1, keepdims=True)) / X[..., 1].std(1, keepdims=True, ddof=ddof)
    (found,) = leaks(sequences(np.round(X, 5), LABELS, features=["a", "b", "c"]))
    assert found.name == "normalised"
    assert found.words.startswith("feature b: nearly every sequence has mean 0 and standard deviation 1")
    assert "scale=" in found.remedy


def test_sequences_that_run_from_0_to_1():
    X = noise()
    X = (X - X.min(1, keepdims=True)) / np.ptp(X, axis=1, keepdims=True)
    assert names(sequences(X, LABELS)) == ["normalised"]
    whole = noise()
    assert names(sequences((whole - whole.mean((0, 1))) / whole.std((0, 1)), LABELS)) == []


def test_sequences_padded_with_zeros():
    X, lengths = noise(), np.arange(12) % 4 + 17
    for x, n in zip(X, lengths, strict=True):
        x[n:] = 0
    (found,) = leaks(sequences(X, LABELS))
    assert found.name == "padded"
    assert found.words.startswith("6 of 12 sequences end in several rows of zeros")
    assert "lengths=" in found.remedy
    assert "begin with several" in leaks(sequences(X[:, ::-1], LABELS))[0].words
    assert names(sequences(X, LABELS, lengths=lengths)) == []
    X[:, ::5] = 0  # zeros are measured, too
    assert names(sequences(X, LABELS)) == []


def test_a_feature_that_is_the_label():
    X = noise()
    X[..., 2] = LABELS[:, None] * 2
    (found,) = leaks(sequences(X, LABELS, features=["a", "b", "result"]))
    assert (found.name, "feature result" in found.words, "12 sequences" in found.words) == ("label", True, True)
    y = np.random.default_rng(0).integers(0, 2, (12, 20))
    X = noise()
    X[..., 0] = y + 0.1 * X[..., 0] / 50  # above 0.5 exactly where the label is 1
    assert [f.words[:9] for f in leaks(sequences(X, y))] == ["feature 0"]


def test_a_feature_that_is_the_time():
    X = noise()
    X[..., 0] = np.arange(20)
    assert names(sequences(X, LABELS)) == ["clock"]
    X = noise()
    X[LABELS == 1, :, 0] = np.arange(20)
    (found,) = leaks(sequences(X, np.where(LABELS, "broken", "fine")))
    assert "all sequences of broken, and in no other" in found.words


def test_streams_in_both_parts():
    data = sequences(noise(), LABELS, streams=[f"dev-{i // 2}" for i in range(12)])
    found = leaks(data.some(range(0, 7)), data.some(range(7, 12)))
    assert [f.name for f in found] == ["both-parts"]
    assert "1 stream occurs in both parts: dev-3" in found[0].words
    again = sequences(noise(), LABELS)  # numbers as names say nothing
    found = leaks(again.some(range(0, 7)), again.some(range(6, 12)))
    assert "1 sequence is the same, value for value, in both parts: 6" in found[0].words


def test_layers_that_look_ahead():
    blocker = Blocker("both_ways", "Bidirectional", "it reads from the end", "train it forwards alone")
    model = Model(Reading(None, (), (blocker,), None, Provenance("test", "test")))
    (found,) = leaks(sequences(noise(), LABELS), model=model)
    assert (found.name, found.remedy) == ("look-ahead", "train it forwards alone")
    assert str(found).startswith("both_ways (Bidirectional): it reads from the end; remedy: ")


def test_scaling_of_the_training_part(motions):
    X = noise()
    X[..., 2] = 23.7
    data = sequences([*X[:-1], X[-1, :5]], LABELS, features=["a", "b", "still"])
    found = scaling(data)
    rows = np.concatenate(data.x).astype(np.float64)
    assert found.constant == ("still",)
    assert found.mean == pytest.approx(rows.mean(0))
    assert found.std == pytest.approx([*rows[:, :2].std(0), 1])
    assert load(motions / "model.keras", scale=found.pair).n_features == 3


def test_scaling_of_large_numbers():
    """Unix times in float32: a naive sum of squares has no digit left."""
    x = 1.7e9 + np.arange(8000, dtype=np.float64).reshape(1, -1, 1) * 256
    assert scaling(sequences(x, [0])).std[0] == pytest.approx(x.std(), rel=1e-6)


@pytest.mark.parametrize(("size", "cure"), [(1e37, "larger units"), (1e20, "larger units"), (1e-8, "smaller units")])
def test_a_feature_that_no_model_could_scale_is_named(size, cure):
    x = np.stack([np.arange(-2.0, 3), size * np.arange(-2.0, 3)], axis=-1)[None]
    low, high = (re.escape(f"{s * size:.3g}") for s in (-2, 2))
    with pytest.raises(
        InputError, match=f"feature 'far': expected a .* values from {low} to {high}; give it in {cure}"
    ):
        scaling(sequences(x, [0], features=["near", "far"]))


def test_what_nothing_is_learned_of():
    X = noise()
    X[..., 1] = 7
    data = sequences(X, LABELS, features=["a", "b", "c"], classes=["calm", "busy", "odd"])
    feature, missing = silent(data, scaling(data).constant)
    assert feature.words.startswith("feature b: never changes in the training data")
    assert missing.words.startswith("no training data of class odd: the model will not say it")
    (columns,) = silent(replace(sequences(noise(), LABELS), left_out=("note", "by")), ())
    assert columns.words == "columns note, by: hold no numbers, and nothing is learned of them"
    assert "--features" in columns.remedy
    plain = sequences(noise(), LABELS)
    assert list(silent(plain, scaling(plain).constant)) == []


def test_a_table_without_a_key_is_one_sequence(tmp_path):
    path = tmp_path / "data.csv"
    path.write_text("machine,x,label\n" + "".join(f"m{i // 5},{i % 3},{i % 2}\n" for i in range(20)))
    (found,) = silent(read(path, label="label"), ())
    assert found.words == "all 20 samples are one sequence"
    assert found.remedy.endswith("a row belongs, perhaps the column machine: key= (--key)")
    assert list(silent(read(path, label="label", key="machine"), ())) == []
