"""How commands end: closed descriptors, full disks, readers that leave, options that cannot be right."""

import contextlib
import json
import os
import pty
import subprocess
import sys

import numpy as np
import pytest

from command import CARRY, STEPSTREAM, rows, run
from stepstream.cli.app import print_json
from stepstream.cli.job import columns_of
from stepstream.cli.main import main
from stepstream.cli.options import names_of

ONE = b"a,b,c\n1,2,3\n"


def shell(line, code=0):
    out = subprocess.run(["bash", "-c", f"{sys.executable} -m stepstream {line}"], capture_output=True, timeout=60)
    assert out.returncode == code, out.stderr.decode()
    return out


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("check {path} >&-", "an open standard output"),
        ("run {path} {recording} --key key --features x,y,z --windowing carry >&-", "an open standard output"),
        ("run {path} --windowing carry <&-", "records on standard input, got a closed one"),
        ("check {path} > /dev/full", "No space left on device"),
        ("check {path} --json > /dev/full", "No space left on device"),
        ("run {path} {recording} --key key --features x,y,z --windowing carry > /dev/full", "standard output: cannot"),
    ],
)
def test_closed_and_full(path, recording, line, message):
    out = shell(line.format(path=path, recording=recording), code=2)
    (error,) = out.stderr.decode().splitlines()
    assert error.startswith("stepstream: ")
    assert message in error


def test_a_closed_standard_error_puts_nothing_into_the_data(path, recording):
    out = shell(f"run {path} {recording} --key key --features x,y,nope --windowing carry 2>&-", code=2)
    assert out.stdout == b""


@pytest.mark.parametrize("arguments", [["check"], ["check", "--json"], ["verify"]])
def test_a_reader_that_has_gone_is_quiet(path, arguments):
    reader, writer = os.pipe()
    os.close(reader)
    command = [*STEPSTREAM, arguments[0], path, *arguments[1:]]
    env = {**os.environ, "KERAS_BACKEND": "jax"}
    out = subprocess.run(command, stdout=writer, stderr=subprocess.PIPE, timeout=120, env=env, check=False)
    os.close(writer)
    assert (out.returncode, out.stderr) == (0, b"")


def test_help_ends_as_ever():
    assert b"Usage" in run("--help").stdout
    assert run("run", "--nonsense", code=2).stderr


def test_infinity_is_null_in_json(capsys):
    print_json({"error": float("inf"), "list": [float("nan"), 1.5], "n": 1, "ok": True})
    assert json.loads(capsys.readouterr().out, parse_constant=pytest.fail) == {
        "error": None,
        "list": [None, 1.5],
        "n": 1,
        "ok": True,
    }


def test_verify_prints_json_for_an_infinite_error(path, tmp_path):
    x = np.zeros((1, 100, 3), np.float32)
    np.save(tmp_path / "x.npy", x)
    np.save(tmp_path / "y.npy", np.full((1, 1), np.inf, np.float32))
    arguments = ("verify", path, "--data", tmp_path / "x.npy", "--expected", tmp_path / "y.npy", "--json")
    out = json.loads(run(*arguments, code=1, env={"KERAS_BACKEND": "jax"}).stdout, parse_constant=pytest.fail)
    assert [c["error"] for c in out["checks"] if not c["ok"]] == [None]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--windowing", "session(30)"], "name it with --time"),
        (["--features", "a,b"], "--features: expected 3 columns"),
        (["--features", "a,b,a"], "--features: expected different names"),
        (["--features", "a,,c"], "--features: expected different names"),
    ],
)
def test_options_that_cannot_be_right_are_refused_before_reading(path, options, message):
    """Nothing is sent and the pipe stays open: waiting for a record would take for ever."""
    command = [*STEPSTREAM, "run", path, *CARRY, "--on-bad", "skip", *options]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.wait(30) == 2
        assert message in process.stderr.read().decode()


@pytest.mark.parametrize("option", ["--key", "--time", "--end"])
def test_a_column_that_the_first_json_record_has_not_is_refused(path, option):
    data = b'{"a": 1, "b": 2, "c": 3}\n' * 2
    out = run("run", path, *CARRY, "--on-bad", "skip", "--features", "a,b,c", option, "k", data=data, code=2)
    assert b"expected a column 'k'" in out.stderr
    assert b"skipped" not in out.stderr


def test_blanks_around_feature_names(path):
    (answer,) = rows(run("run", path, *CARRY, "--features", " c , b,a", data=ONE))
    assert answer["age"] == "1"
    assert names_of("--features", "x, y,z ") == ["x", "y", "z"]
    assert b"different names separated by commas" in run("check", path, "--features", "x,,z", code=2).stderr


def test_output_columns_have_different_names(model, monkeypatch):
    monkeypatch.setattr(type(model), "output_names", property(lambda self: ("a", "a_0", "key", "output_key")))
    monkeypatch.setattr(type(model), "output_sizes", property(lambda self: (2, 1, 1, 1)))
    assert columns_of(model)[3:-2] == ["a_0", "a_1", "output_a_0", "output_key", "output_output_key"]


def test_state_show_of_a_time_in_milliseconds(model, tmp_path, monkeypatch, capsys):
    stream = model.stream("carry")
    stream.step([1, 2, 3], time=1767225600000.0)
    stream.save(tmp_path / "s.h5")
    monkeypatch.setattr(sys, "argv", ["stepstream", "state", "show", str(tmp_path / "s.h5")])
    with pytest.raises(SystemExit, match="0"):
        main()
    assert "1767225600000" in capsys.readouterr().out


@pytest.mark.parametrize("options", [["--watch"], []], ids=["view", "bar"])
def test_a_path_that_looks_like_markup_is_shown_as_it_is(path, tmp_path, options):
    """On a terminal, which shows the view, and the bar of a long file."""
    folder = tmp_path / "[" / "red] x"
    folder.mkdir(parents=True)
    with (folder / "d.csv").open("w") as f:
        f.write("a,b,c\n" + f"1,2,{'0' * 1000}3\n" * (1 if options else 1100))  # the bar is for files from 1 MiB
    ours, theirs = pty.openpty()
    command = [*STEPSTREAM, "run", path, str(folder / "d.csv"), *CARRY, "--out", str(tmp_path / "o.csv"), *options]
    env = {**os.environ, "COLUMNS": "250", "TERM": "xterm"}
    with subprocess.Popen(command, stderr=theirs, stdout=subprocess.DEVNULL, env=env) as process:
        os.close(theirs)
        seen = b""
        with contextlib.suppress(OSError):  # EIO: the other side has closed
            while data := os.read(ours, 65536):
                seen += data
        os.close(ours)
        assert process.wait(60) == 0, seen.decode()
    assert b"[/red]" in seen
