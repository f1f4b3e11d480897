"""`stepstream verify` and Keras: which files it is given. The Keras here is a stand-in that leaves a trace."""

import json
import sys
from pathlib import Path

import pytest

from command import run

sys.path.insert(0, str(Path(__file__).parents[1] / "formats"))
import hostile

KERAS = (
    "def load_model(path, **options):\n    open('canary', 'w').write('opened')\n    raise ValueError('a stand-in')\n"
)


@pytest.fixture
def verify(tmp_path, monkeypatch):
    """Runs the command on a file -> (what it says, whether Keras was given the file)."""
    for name, code in (
        ("keras/__init__.py", "from keras import saving"),
        ("keras/saving.py", KERAS),
        ("tensorflow.py", ""),
    ):
        (tmp_path / "lib" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "lib" / name).write_text(code)
    monkeypatch.syspath_prepend(tmp_path / "lib")
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path / 'lib'}:{Path(hostile.__file__).parents[2] / 'src'}")
    monkeypatch.chdir(tmp_path)

    def call(name, data, code=0):
        (tmp_path / name).write_bytes(data)
        out = run("verify", name, code=code)
        return (out.stdout + out.stderr).decode(), (tmp_path / "canary").exists()

    return call


@pytest.mark.parametrize(("name", "data"), [("m.h5", hostile.h5()), ("m.keras", hostile.keras())])
def test_a_plain_model_is_given_to_keras(verify, name, data):
    text, opened = verify(name, data)
    assert opened
    assert "Keras cannot open the file, not compared: ValueError: a stand-in" in text


def test_a_model_that_cannot_step_is_not(verify):
    made = hostile.config()
    code = [hostile.bytecode_text(), None, None]
    made["config"]["layers"].insert(1, {"class_name": "Lambda", "config": {"name": "x", "function": code}})
    text, opened = verify("m.h5", hostile.h5(model_config=made), code=2)
    assert not opened
    assert "Lambda" in text


def foreign():
    """Models that step here, as what they name beside their layers is not read."""
    for thing in (
        {"class_name": "Lambda", "config": {"function": [hostile.bytecode_text(), None, None]}},
        {"class_name": "__lambda__", "config": {"value": hostile.bytecode_text()}},
        {"class_name": "function", "config": "system", "module": "os", "registered_name": "function"},
        {"class_name": "Zeros", "config": {}, "module": hostile.MODULE},
        {"class_name": "Zeros", "config": {}, "registered_name": "own>Zeros"},
        {"class_name": ["Zeros"], "config": {}},
    ):
        yield hostile.config(2, lstm={"kernel_initializer": thing})
        yield hostile.config(2, dense={"metadata": [{"x": thing}]})
    unused = {"class_name": "Lambda", "name": "l", "config": {"name": "l"}, "inbound_nodes": []}
    made = hostile.functional(
        [7, 3], ("LSTM", "lstm", {"units": 2}, [["x"]]), ("Dense", "dense", {"units": 1}, [["lstm"]])
    )
    made["config"]["layers"].append(unused)
    yield made


@pytest.mark.parametrize("config", list(foreign()), ids=lambda config: json.dumps(config)[-40:])
def test_a_file_that_names_anything_else_is_not(verify, config):
    text, opened = verify("m.h5", hostile.h5(model_config=config))
    assert not opened
    assert "not compared" in text
    assert "the contract holds" in text
