"""What `check` tells a person, a program and a notebook."""

import json
from html.parser import HTMLParser

import pytest

import stepstream
from make import dense, model_of, recurrent


def test_a_good_model_as_text_and_data(motions):
    model = stepstream.load(motions / "model.keras", features=["x", "y", "z"], classes=["badminton"])
    report = model.check()
    data = json.loads(json.dumps(report.to_dict()))
    assert data["ok"]
    assert data["training_length"] == 100
    assert data["features"] == 3
    assert data["feature_names"] == ["x", "y", "z"]
    assert data["classes"] == ["badminton"]
    assert data["fingerprint"] == model.fingerprint
    # h and c of 32 and of 16 units
    assert data["state_floats"] == 2 * 32 + 2 * 16
    # per step: 4 gates over inputs and units, twice, and the dense layer
    assert data["multiply_adds"] == 4 * 32 * (3 + 32) + 4 * 16 * (32 + 16) + 16
    lstm = next(r for r in data["layers"] if r["kind"] == "LSTM")
    assert lstm["state"] == {"h": [32], "c": [32]}
    assert lstm["role"] == "sequence"
    text = str(report)
    for part in (
        "100 samples",
        "x, y, z",
        "lstm_1",
        "h 16, c 16",
        "7,568",
        "badminton",
        "this model steps on a stream",
        "sliding(100, by=states) would carry 9,601 floats",
        "Keras 3",
    ):
        assert part in text


class Tags(HTMLParser):
    def __init__(self):
        super().__init__()
        self.open, self.seen = [], []

    def handle_starttag(self, tag, attrs):
        self.seen.append(tag)
        if tag != "br":
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


@pytest.mark.parametrize("name", ["lstm", "<script>alert(1)</script>"])
def test_html_is_well_formed_and_escaped(keras_free_model, name):
    html = keras_free_model(name).check()._repr_html_()
    tags = Tags()
    tags.feed(html)
    assert not tags.open
    assert "script" not in tags.seen
    assert tags.seen.count("tr") == 1 + 2


@pytest.fixture
def keras_free_model():
    from dataclasses import replace

    from stepstream.formats.reading import LayerInfo
    from stepstream.model import Model

    def build(name):
        model = model_of(recurrent("lstm", 3, 4), dense(4, 1))
        layers = (LayerInfo(name, "LSTM"), model.reading.layers[1])
        nodes = (replace(model.graph.nodes[0], layer=name), model.graph.nodes[1])
        return Model(replace(model.reading, layers=layers, graph=replace(model.graph, nodes=nodes)))

    return build


def test_a_window_too_large_to_slide_over_is_said_to_be():
    report = model_of(recurrent("lstm", 100, 4), features=100, training_length=1_000_000).check()
    assert report.ok
    assert report.sliding.startswith("sliding(1000000): expected at most")
    assert report.sliding in str(report)


def test_an_unknown_training_length_names_the_cure():
    text = str(model_of(recurrent("lstm", 3, 4), training_length=None).check())
    assert "training length: not known; give training_length= to load()" in text
    assert "sliding" not in text
