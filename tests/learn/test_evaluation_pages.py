"""What is handed on: texts and pages that hold everything, and nothing that a name in the data could break."""

import json
import re
import sys
from html.parser import HTMLParser

import pytest

from learn_models import adding, last_four
from stepstream.errors import InputError
from stepstream.learn.data import sequences
from stepstream.learn.evaluation import evaluate
from stepstream.learn.evaluation_tables import sections

HOSTILE = "<script>alert(1)</script>|`x`"


@pytest.fixture(scope="module")
def found():
    return evaluate(adding(), last_four())


@pytest.fixture(scope="module")
def hostile():
    data = last_four(m=3, time=4)
    y = [["fine", HOSTILE][int(y[-1])] for y in data.y]
    return evaluate(adding(), sequences(list(data.x), y, features=[HOSTILE]))


def test_json_is_plain(found):
    data = json.loads(json.dumps(found.to_dict(), allow_nan=False))
    assert set(data["windowings"]) == {"carry", "tumbling(4)", "sliding(4)"}
    rows = data["windowings"]["sliding(4)"]["by_seen"]
    assert rows[0]["count"] == 8
    assert rows[0]["accuracy"] == 1
    assert data["findings"][0]["name"] == "carry-beyond-training"
    assert data["zero_padded"]["zeros_behind"][0]["first"] == 1
    assert not [key for key in data["baselines"] if " " in key]
    assert data["about"]["training_length"] == 4


def test_markdown(found):
    text = str(found)
    assert text == found.to_markdown()
    assert "## Findings" in text
    for section in sections(found):
        assert f"## {section.title}" in text
    tables = [line for line in text.splitlines() if line.startswith("|")]
    assert all(line.endswith("|") for line in tables)
    assert "| sliding(4) | 1.000 | 1.000 |" in text


def test_markdown_of_hostile_names(hostile):
    text = hostile.to_markdown()
    assert "<script>" not in text
    assert r"\<script\>" in text


def test_narrow_sections_keep_what_matters(found):
    for section in sections(found):
        narrow = section.fitting(80)
        assert narrow.columns[0] == section.columns[0]
        assert len(narrow.rows) == len(section.rows)
        if "accuracy" in section.columns:
            assert "accuracy" in narrow.columns
        assert section.fitting(1000) == section
    seen = next(s for s in sections(found) if s.title.startswith("By number"))
    narrow = seen.fitting(80)
    assert max(sum(max(map(len, c)) + 2 for c in zip(narrow.columns, *narrow.rows, strict=True)) - 2, 0) <= 80
    assert len(narrow.columns) < len(seen.columns)


class Page(HTMLParser):
    """Opened and closed tags, and what they point at."""

    def __init__(self):
        super().__init__()
        self.open, self.links, self.tags = [], [], set()

    def handle_starttag(self, tag, attributes):
        self.tags.add(tag)
        if tag not in {"meta", "path", "use", "line", "circle", "rect", "br"}:
            self.open.append(tag)
        self.links += [v for k, v in attributes if k in {"src", "href", "xlink:href", "data"}]

    def handle_startendtag(self, tag, attributes):
        self.tags.add(tag)
        self.links += [v for k, v in attributes if k in {"src", "href", "xlink:href", "data"}]

    def handle_endtag(self, tag):
        if self.open and self.open[-1] == tag:
            self.open.pop()


def test_html_is_one_page_by_itself(found, hostile):
    pytest.importorskip("matplotlib")
    for evaluation, words in ((found, "carry: beyond age 4"), (hostile, "&lt;script&gt;")):
        text = evaluation.to_html()
        page = Page()
        page.feed(text)
        assert words in text
        assert page.open == []
        assert "script" not in page.tags
        assert {"svg", "table", "style"} <= page.tags
        assert all(link.startswith("#") for link in page.links)
        assert not re.search(r"url\((?!#)|@import", text)
    assert hostile.to_html() == text  # the same bytes each time


def test_plots(found, tmp_path):
    pytest.importorskip("matplotlib")
    found.save_png(tmp_path / "plots.png")
    assert (tmp_path / "plots.png").read_bytes().startswith(b"\x89PNG")


def test_plots_of_numbers():
    pytest.importorskip("matplotlib")
    data = last_four()
    found = evaluate(adding(activation="linear"), sequences(list(data.x), [x[:, 0] * 2 for x in data.x]))
    assert "Root mean square error by samples seen" in found.to_html()


def test_without_matplotlib(found, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    for call in (found.to_html, lambda: found.save_png(tmp_path / "plots.png")):
        with pytest.raises(InputError, match=r"pip install 'stepstream\[train\]'"):
            call()
