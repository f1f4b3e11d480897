"""`stepstream evaluate`: the Python call as a command."""

import json

import numpy as np
import pytest

from command import run


@pytest.fixture
def data(tmp_path):
    """Sixteen sequences of 100 samples, half of them shaken as in badminton."""
    rng = np.random.default_rng(0)
    y = np.arange(16) % 2
    X = rng.normal(size=(16, 100, 3)) * np.where(y, 8, 0.3)[:, None, None]
    path = tmp_path / "data.npz"
    np.savez(path, X=X, y=y, features=["x", "y", "z"])
    return path


def test_tables_on_the_terminal(path, data):
    text = run("evaluate", path, data, env={"COLUMNS": "80"}).stdout.decode()
    assert "training length: 100 samples" in text
    assert "By number of samples seen, carry" in text
    assert "coin at the first sample" in text
    assert "…" not in text
    assert max(map(len, text.splitlines())) <= 80


def test_a_narrow_terminal_has_fewer_columns_and_whole_numbers(path, data):
    text = run("evaluate", path, data, env={"COLUMNS": "40"}).stdout.decode()
    assert "…" not in text
    assert max(map(len, text.splitlines())) <= 40


def test_json_and_files(path, data, tmp_path):
    pytest.importorskip("matplotlib")
    files = {end: tmp_path / f"out.{end}" for end in ("html", "md", "png")}
    out = run(
        "evaluate", path, data, "--windowing", "carry", "--windowing", "sliding(50)", "--at", "10,100", "--json",
        "--html", files["html"], "--markdown", files["md"], "--png", files["png"],
    )  # fmt: skip
    found = json.loads(out.stdout)
    assert list(found["windowings"]) == ["carry", "sliding(50)"]
    assert [r["last"] for r in found["windowings"]["carry"]["by_seen"]] == [10, 100]
    assert files["html"].read_text().startswith("<!DOCTYPE html>")
    assert files["md"].read_text().startswith("# What the model is worth")
    assert files["png"].stat().st_size > 10_000


def test_a_table_with_keys_and_what_was_trained_on(path, tmp_path):
    lines = ["who,t,x,y,z,what"] + [
        f"{k},{t},{(k % 2 * 5 + 1) * np.sin(t * (k + 1)):.3f},{t % 3},{k},{'badminton' if k % 2 else 'other'}"
        for k in range(6)
        for t in range(12)
    ]
    table = tmp_path / "rows.csv"
    table.write_text("\n".join(lines))
    options = ["--key", "who", "--time", "t", "--label", "what", "--features", "x,y,z"]
    copy = tmp_path / "train.csv"
    copy.write_text("\n".join(lines))
    out = json.loads(run("evaluate", path, table, *options, "--train", copy, "--json").stdout)
    assert out["about"]["sequences"] == 6
    assert out["about"]["classes"] == {"badminton": 3, "other": 3}
    assert "both-parts" in [f["name"] for f in out["findings"]]


def test_a_table_with_another_delimiter(path, tmp_path):
    table = tmp_path / "rows.csv"
    table.write_text("x;y;z;what\n" + "".join(f"{t % 3};{t % 4};{t % 5};{t % 2}\n" for t in range(20)))
    out = run("evaluate", path, table, "--label", "what", "--delimiter", ";", "--json")
    assert json.loads(out.stdout)["about"]["samples"] == 20


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--at", "some"], "--at: expected whole numbers"),
        (["--windowing", "sideways"], "windowing: expected"),
        (["--label", "y"], "label: expected none"),
        (["--html", "{data}"], "--html: expected another file than that of DATA"),
        (["--png", "/nowhere/out.png"], "--png: expected a file in a folder that is there"),
        (["--markdown", "/nowhere/out.md"], "--markdown: expected a file in a folder that is there"),
        (["--html", "/"], "--html: expected a file, got the folder"),
        (["--png", "out.svg"], "--png: expected a name that ends in .png, got out.svg"),
        (["--html", "{data}.txt"], "--html: expected a name that ends in .html or .htm"),
    ],
)
def test_what_is_refused(path, data, options, words):
    if "--png" in options:
        pytest.importorskip("matplotlib")
    out = run("evaluate", path, data, *[o.format(data=data) for o in options], code=2)
    assert words in out.stderr.decode()
    assert out.stdout == b""
