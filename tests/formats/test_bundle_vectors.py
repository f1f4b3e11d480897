"""Check vectors: every load proves that this machine gives what the file was saved with."""

import copy
from dataclasses import replace

import numpy as np
import pytest
from bundle_making import joined, parted, refused

import make
import stepstream
from make import question
from stepstream import Model, limits, vectors
from stepstream.formats.reading import CheckVectors
from stepstream.graph.passes import scale_input


def test_check_vectors_lie_where_the_scaling_expects_samples(motions, path):
    mean, std = np.array([100, -5, 0]), np.array([10, 0.1, 1])
    stepstream.load(motions / "model.keras", scale=(mean, std)).save(path)
    x = stepstream.load(path).reading.vectors.x
    assert x.shape == (3, 32, 3)  # of a training length of 100
    scaled = (x - mean) / std
    assert np.abs(scaled).max() < 2.01
    assert scaled.std(axis=(0, 1)).min() > 1


def test_check_vectors_take_indices_and_repeat_what_has_no_time(path):
    make.looked_up().save(path)
    x = stepstream.load(path).reading.vectors.x
    assert x.shape == (3, 7, 1)
    assert set(x.ravel()) <= set(range(11))
    assert len(set(x.ravel())) > 5
    make.repeated().save(path)
    x = stepstream.load(path).reading.vectors.x
    assert (x[:, :, 3:] == x[:, :1, 3:]).all()
    assert (x[0] != x[1]).any()


def test_every_load_runs_the_check_vectors_on_what_will_serve(path, monkeypatch):
    question().save(path)
    values, arrays = parted(path.read_bytes())
    for off, fits in ((5e-6, True), (1e-3, False)):
        moved = {**arrays, "check/y": arrays["check/y"] + np.float32(off)}
        if fits:
            path.write_bytes(joined(copy.deepcopy(values), moved))
            stepstream.load(path)
        else:
            message = refused(path, joined(copy.deepcopy(values), moved))
            assert "check vectors: expected the outputs that the file was saved with" in message
            assert "0.001" in message


@pytest.mark.parametrize("units", [1, 3])
def test_of_a_model_that_decides_outputs_and_decisions_are_checked(units, path, monkeypatch):
    make.deciding(units).save(path)
    values, arrays = parted(path.read_bytes())
    numbers, decided = arrays["check/y"].copy(), arrays["check/y"].copy()
    numbers[..., 0] += 1e-3
    decided[1, 4, -1] += 1
    for wrong, position in ((numbers, None), (decided, 4)):
        message = refused(path, joined(copy.deepcopy(values), {**arrays, "check/y": wrong}))
        assert "check vectors: expected the outputs that the file was saved with" in message
        assert position is None or f"at sample {position}" in message
    monkeypatch.setattr(vectors, "TOLERANCE", -1.0)  # as if float32 could do no better: the long way
    make.deciding(units).save(path)
    assert stepstream.load(path).decides


def test_a_bundle_without_check_vectors_is_refused_unless_its_samples_cost_too_much(path, monkeypatch):
    question().save(path)
    values, arrays = parted(path.read_bytes())
    bare = joined(values, {name: a for name, a in arrays.items() if not name.startswith("check")})
    assert "expected check vectors, got none" in refused(path, bare)
    monkeypatch.setattr(limits, "MAX_CHECK_WORK", 50_000)  # a sample counts as about 21,000
    stepstream.load(path)
    question().save(path)
    assert stepstream.load(path).reading.vectors is None
    assert "check vectors: expected at most 2 samples" in refused(path, joined(values, arrays))
    monkeypatch.setattr(limits, "MAX_CHECK_WORK", 300_000)
    question().save(path)
    assert stepstream.load(path).reading.vectors.x.shape == (3, 5, 3)


def test_vectors_of_another_graph_are_not_kept(path):
    model = question()
    old = CheckVectors(np.zeros((1, 1, 3)), np.zeros((1, 1, 1)), "another")
    Model(replace(model.reading, vectors=old)).save(path)
    assert stepstream.load(path).reading.vectors.x.shape == (3, 7, 3)


def test_a_model_that_overflows_comes_back(path):
    model = make.explosive()
    grown = Model(replace(model.reading, graph=scale_input(model.reading.graph, 0.0, 1e-38)))
    grown.save(path)
    assert stepstream.load(path).fingerprint == grown.fingerprint
