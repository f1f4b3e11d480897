"""`stepstream bench` and what is behind it: who is timed, who is left out and why."""

import json

import numpy as np
import pytest

from command import run
from make import EXAMPLES, question
from stepstream import bench as module
from stepstream.bench import bench
from stepstream.errors import ContractError


def test_the_command_names_every_way_and_what_it_runs_on(motions):
    found = json.loads(run("bench", motions / "model.keras", "--rounds", 1, "--json").stdout)
    names = [t["name"] for t in found["timings"]]
    for name in ("carry", "tumbling(100)", "sliding(100)"):
        assert f"one stream, {name}" in names
    for batch in ("16", "64", "1,024"):
        assert f"a batch of {batch}" in names
    assert all(t["seconds"] > 0 for t in found["timings"])
    assert found["timings"][0]["times"] == 1
    assert found["runs_on"]
    text = run("bench", motions / "model.keras", "--rounds", 1, "--training-length", 3).stdout.decode()
    assert text.startswith("runs on: ")
    assert "one stream, sliding(3)" in text


@pytest.mark.parametrize("op", ["lstm", "position", "repeat", "concatenate"])
def test_any_model_can_be_timed(op):
    assert len(bench(EXAMPLES[op](), rounds=1).timings) >= 4


class Live:
    """In place of a Keras model."""

    input_shape = (None, None, 3)

    def __init__(self, answer):
        self.answer = answer

    def predict_on_batch(self, x):
        return self.answer(np.asarray(x))


def test_a_live_model_is_timed_when_its_answers_are_the_models():
    model = question()
    result = bench(model, Live(lambda x: model.run(x)), rounds=1)
    assert "live" in result.timings[-1].name
    assert result.left_out == ()
    result = bench(model, Live(lambda x: model.run(x) + 0.01), rounds=1)
    assert not any("live" in t.name for t in result.timings)
    assert result.left_out == ("live Keras: other answers than the model's; stepstream verify says where",)
    assert "not timed: live Keras" in str(result)


def test_an_executor_that_is_wrong_is_not_timed(monkeypatch):
    monkeypatch.setattr(module, "CLOSE", -1.0)
    with pytest.raises(ContractError, match="not NumPy's"):
        bench(question(), rounds=1)
