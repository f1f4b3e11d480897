"""`stepstream run` with a model that decides: a column more, by the names of the classes where it has them."""

import csv
import json
import re
from dataclasses import replace

import numpy as np
import pytest
from rich.console import Console
from typer.testing import CliRunner

from make import RULE, deciding, question
from stepstream import InputError, Model
from stepstream.cli import run
from stepstream.cli.app import app
from stepstream.cli.job import columns_of
from stepstream.graph.attach import with_trigger

SAMPLES = (2 * np.random.default_rng(3).normal(size=(30, 3))).astype(np.float32)
MODEL = deciding(1, k=2)
NAMED = Model(MODEL.reading, classes=["calm", "busy"])
ONE_NAME = Model(MODEL.reading, classes=["busy"])


@pytest.fixture
def answers(tmp_path, monkeypatch):
    """Runs the command in this process over a file of two streams -> the bytes of its answers."""
    path, out = tmp_path / "in.csv", tmp_path / "out"
    with path.open("w", newline="") as file:
        csv.writer(file).writerows(
            [["key", "x", "y", "z"], *(["ab"[i % 2], *x.tolist()] for i, x in enumerate(SAMPLES))]
        )

    def command(model, *options, name="out.csv", windowing="carry"):
        monkeypatch.setattr(run, "load_model", lambda *_: model)
        to = out.with_name(name)
        got = CliRunner().invoke(
            app, ["run", "model", str(path), "--key", "key", "--windowing", windowing, "--out", str(to), *options]
        )
        assert got.exit_code == 0, got.output
        return to.read_text()

    return command


def decisions():
    streams = {key: MODEL.stream("carry") for key in "ab"}
    out = []
    for i, x in enumerate(SAMPLES):
        stream = streams["ab"[i % 2]]
        stream.step(x)
        out.append(stream.decision)
    assert {None, 0, 1} == set(out)
    return out


@pytest.mark.parametrize("model", [MODEL, NAMED, ONE_NAME], ids=["no names", "names", "the unit's name"])
def test_the_decision_is_a_column(answers, model):
    named = {"calm,busy": ("calm", "busy"), "busy": ("not busy", "busy")}.get(",".join(model.classes or ()))
    rows = list(csv.DictReader(answers(model).splitlines()))
    answer = "p_busy" if named else "n1"
    assert list(rows[0]) == ["key", "time", "age", answer, "decision", "complete", "beyond_training_length"]
    names = named or ("0", "1")
    assert [row["decision"] for row in rows] == ["" if d is None else names[d] for d in decisions()]
    objects = [json.loads(line) for line in answers(model, "--json", name="out.jsonl").splitlines()]
    names = named or (0, 1)
    assert [o["decision"] for o in objects] == [None if d is None else names[d] for d in decisions()]


def test_each_probability_has_the_name_of_its_class():
    model = deciding(3)
    assert columns_of(model)[3:-3] == ["n1_0", "n1_1", "n1_2"]
    named = Model(model.reading, classes=["calm", "busy", "age"])
    assert columns_of(named)[3:-3] == ["p_calm", "p_busy", "p_age"]


def test_auto_says_that_decisions_begin_anew_with_each_window(answers):
    trained = Model(replace(NAMED.reading, training_length=5))
    answers(trained)  # which warns of nothing
    with pytest.warns(UserWarning, match="the state restarts after every 5 samples") as told:
        answers(trained, windowing="auto", name="auto.csv")
    assert len(told) == 1
    assert "what was decided is forgotten there, and carry decides once a stream" in str(told[0].message)
    with pytest.warns(UserWarning, match="the state restarts") as told:
        answers(Model(replace(question().reading, training_length=5)), windowing="auto", name="plain.csv")
    assert "decided" not in str(told[0].message)


def test_it_is_the_same_with_a_store_and_without_a_trigger_there_is_none(answers, tmp_path):
    assert answers(MODEL, "--state", str(tmp_path / "states.db"), name="other.csv") == answers(MODEL)
    assert "decision" not in answers(question(), name="plain.csv")


def test_an_output_of_that_name_keeps_a_column_of_its_own(answers):
    graph = question().graph
    renamed = question().with_graph(type(graph)(graph.inputs, graph.nodes, (("decision", graph.outputs[0][1]),)))
    with pytest.raises(InputError, match="rename the layer"):
        with_trigger(renamed.graph, RULE)  # there would be two of one name
    assert answers(renamed, name="plain.csv").startswith("key,time,age,decision,complete,")


def test_the_view_shows_what_was_decided(answers, tmp_path, monkeypatch):
    drawn = tmp_path / "drawn"
    with drawn.open("w") as screen:
        monkeypatch.setattr(run, "Console", lambda **_: Console(file=screen, width=100))
        answers(NAMED, "--watch")
    head, *streams = [line for line in drawn.read_text().splitlines() if re.match("(stream|a|b) ", line)]
    assert re.split(r"\s{2,}| (?=now|decision|age)", head.strip())[1:] == ["probability", "now", "decision", "age"]
    newest = dict(zip("ab", decisions()[-2:], strict=True))
    assert [line.split()[0] for line in streams] == ["a", "b"]
    for line in streams:
        key, decision = line.split()[0], newest[line.split()[0]]
        assert [n for n in NAMED.classes if n in line.split()] == (
            [] if decision is None else [NAMED.classes[decision]]
        ), key
