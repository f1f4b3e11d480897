"""`stepstream run` from outside: files, pipes, signals and continued runs."""

import csv
import gzip
import io
import json
import os
import re
import select
import signal
import subprocess
import sys
from datetime import datetime
from pathlib import Path

import numpy as np
import pytest

import stepstream
from command import HEADER, KEYED, STEPSTREAM, ages, rows, run


def test_every_record_gets_the_answer_of_its_stream(path, recording, model):
    got = rows(run("run", path, recording, *KEYED))
    streams = {}
    with recording.open() as f:
        for record, answer in zip(csv.DictReader(f), got, strict=True):
            stream = streams.setdefault(record["key"], model.stream("carry"))
            y = stream.step([float(record[n]) for n in "xyz"], time=datetime.fromisoformat(record["time"]).timestamp())
            assert answer["key"] == record["key"]
            assert answer["time"] == record["time"]
            assert int(answer["age"]) == stream.age
            assert np.float32(answer["dense"]) == np.float32(y)
            assert answer["complete"] == str(stream.complete).lower()
    assert len(got) == 600


def test_all_input_forms_give_the_same_bytes(path, recording, tmp_path):
    expected = run("run", path, recording, *KEYED).stdout
    text = recording.read_text()
    records = list(csv.DictReader(io.StringIO(text)))
    (tmp_path / "r.csv.gz").write_bytes(gzip.compress(text.encode()))
    (tmp_path / "bom.csv").write_bytes(b"\xef\xbb\xbf" + text.encode())
    (tmp_path / "crlf.csv").write_bytes(text.replace("\n", "\r\n").encode())
    (tmp_path / "unsuspected.csv").write_bytes(gzip.compress(text.encode()))
    (tmp_path / "tab.csv").write_text(text.replace(",", "\t"))
    (tmp_path / "tab.tsv").write_text(text.replace(",", "\t"))
    (tmp_path / "semicolon.csv").write_text(text.replace(",", ";"))
    numbers = [{k: v if k in ("key", "time") else float(v) for k, v in r.items()} for r in records]
    (tmp_path / "r.jsonl").write_text("".join(json.dumps(r) + "\n" for r in numbers))
    (tmp_path / "bare.csv").write_text(text.partition("\n")[2])
    forms = [[tmp_path / n] for n in ("r.csv.gz", "unsuspected.csv", "bom.csv", "crlf.csv", "r.jsonl", "tab.tsv")]
    forms.append([tmp_path / "semicolon.csv", "--delimiter", ";"])
    forms.append([tmp_path / "tab.csv", "--delimiter", r"\t"])
    for form in forms:
        assert run("run", path, *form, *KEYED).stdout == expected, form
    assert run("run", path, *KEYED, data=text.encode()).stdout == expected
    assert run("run", path, *KEYED, data=(tmp_path / "r.jsonl").read_bytes()).stdout == expected
    bare = ("--no-header", "--key", "0", "--time", "1", "--features", "2,3,4", "--windowing", "carry")
    assert run("run", path, tmp_path / "bare.csv", *bare).stdout == expected
    run("run", path, recording, *KEYED, "--out", tmp_path / "out.csv")
    assert (tmp_path / "out.csv").read_bytes() == expected
    assert run("run", path, recording, *KEYED, "--out", "/dev/stdout").stdout == expected


def test_parquet(path, recording, tmp_path):
    pq = pytest.importorskip("pyarrow.parquet")
    table = pytest.importorskip("pyarrow.csv").read_csv(recording)
    pq.write_table(table, tmp_path / "r.parquet")
    got = rows(run("run", path, tmp_path / "r.parquet", *KEYED))
    expected = rows(run("run", path, recording, *KEYED))
    assert [r["dense"] for r in got] == [r["dense"] for r in expected]
    assert [datetime.fromisoformat(r["time"]).timestamp() for r in got] == [
        datetime.fromisoformat(r["time"]).timestamp() for r in expected
    ]
    (tmp_path / "x.parquet").write_bytes(b"PAR1 and no more")
    assert b"x.parquet: not a readable Parquet file" in run("run", path, tmp_path / "x.parquet", code=2).stderr


def test_a_named_pipe_is_read_as_it_fills_and_can_be_stopped(path, tmp_path, model):
    os.mkfifo(tmp_path / "pipe")
    command = [*STEPSTREAM, "run", path, str(tmp_path / "pipe"), "--windowing", "carry", "--state", str(tmp_path / "s")]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process, (tmp_path / "pipe").open("wb") as pipe:
        pipe.write(b"a,b,c\n1,2,3\n")
        pipe.flush()
        assert process.stdout.readline().decode().strip() == HEADER
        assert process.stdout.readline()
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 143
    assert ages(model, tmp_path / "s") == {"": 1}


def test_json_output(path):
    out = run("run", path, "--windowing", "carry", "--json", data=b"a,b,c\n1,2,3\n")
    (line,) = out.stdout.decode().splitlines()
    assert json.loads(line).keys() == set(HEADER.split(","))


def test_answers_arrive_line_by_line(path):
    """Each answer is there before the next record is sent."""
    command = [*STEPSTREAM, "run", path, "--windowing", "carry"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        process.stdin.write(b"a,b,c\n")
        for n in range(1, 4):
            process.stdin.write(b"1,2,3\n")
            process.stdin.flush()
            if n == 1:
                assert process.stdout.readline().decode().strip() == HEADER
            assert process.stdout.readline().split(b",")[2] == str(n).encode()
        process.stdin.close()
        assert process.wait(30) == 0


def test_a_blank_line_holds_up_no_answer(path):
    """Nor do half a line, and several lines at once."""
    command = [*STEPSTREAM, "run", path, "--windowing", "carry"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0) as process:
        for sent, answers in ((b"a,b,c\n1,2,3\n\n \r\n", 2), (b"1,2,3\n1,2,3\n1,2", 2), (b",3\n\n", 1)):
            process.stdin.write(sent)
            for _ in range(answers):
                assert select.select([process.stdout], [], [], 10)[0]
                assert process.stdout.readline()
        process.stdin.close()
        assert process.wait(30) == 0


@pytest.mark.parametrize("options", ["--key device", "--time when", "--end last", "--features a,b,z", "--key a"])
def test_columns_that_are_not_there_are_no_bad_records(path, options):
    """Skipping would skip everything."""
    arguments = ("run", path, "--windowing", "carry", "--on-bad", "skip", *options.split())
    out = run(*arguments, data=b"a,b,c\n1,2,3\n", code=2)
    assert b"expected" in out.stderr
    assert b"skipped" not in out.stderr
    assert out.stderr.count(b"standard input: ") == 1


def test_a_file_is_not_read_and_written_at_once(path, tmp_path):
    data = tmp_path / "data.csv"
    data.write_text("a,b,c\n1,2,3\n")
    x = tmp_path / "x"
    for options in (["--out", data], ["--state", data], *(["--out", x, o, x] for o in ("--state", "--architecture"))):
        out = run("run", path, data, "--windowing", "carry", *options, code=2)
        assert b"expected another file" in out.stderr
    assert data.read_text() == "a,b,c\n1,2,3\n"


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"a,a,c\n1,2,3\n", "standard input: line 1: expected different column names"),
        (b"a,b,c\n1,2,1e39\n", "standard input, line 2: expected a finite number in 'c', within float32, got '1e39'"),
        (b"x" * (2**20 + 2), "standard input: line 1 is longer than 1048576 bytes"),
    ],
)
def test_input_that_cannot_be_used_is_named(path, data, message):
    out = run("run", path, "--windowing", "carry", data=data, code=2)
    assert out.stderr.decode().startswith(f"stepstream: {message}")


def test_a_null_key_is_a_bad_record(path):
    out = run("run", path, "--key", "k", data=b'{"k": null, "a": 1, "b": 2, "c": 3}\n', code=2)
    assert b"line 1: expected a key" in out.stderr


def test_end_resets_a_stream(path):
    data = b"k,a,b,c,last\nu,1,2,3,0\nu,1,2,3,true\nu,1,2,3,no\n"
    got = rows(run("run", path, "--key", "k", "--end", "last", "--windowing", "carry", data=data))
    assert [r["age"] for r in got] == ["1", "2", "1"]
    assert got[0]["dense"] == got[2]["dense"]


BAD = b"t,a,b,c\n2026-01-02,1,2,3\n2026-01-02,1,x,3\n2026-01-03,1,2\n2026-01-01,1,2,3\nsoon,1,2,3\n2026-01-04,1,nan,3\n"


def test_bad_records_stop_with_file_line_and_reason(path, tmp_path):
    (tmp_path / "bad.csv").write_bytes(BAD)
    out = run("run", path, tmp_path / "bad.csv", "--time", "t", "--windowing", "carry", code=2)
    assert b"bad.csv, line 3: expected a number in 'b', got 'x'" in out.stderr
    assert len(rows(out)) == 1


@pytest.mark.parametrize("kept", [False, True])
def test_all_records_before_a_bad_one_are_answered(path, tmp_path, model, kept):
    """In the middle of a batch; a time that runs backwards is seen by the engine alone."""
    good = [f"k{n % 3},{n},1,2,3\n" for n in range(300)]
    data = tmp_path / "d.csv"
    data.write_text("".join(["k,t,a,b,c\n", *good[:200], "k1,5,1,2,3\n", *good[200:]]))
    options = ["--key", "k", "--time", "t", "--windowing", "carry", "--features", "a,b,c"]
    state = ["--state", tmp_path / "s.db"] if kept else []
    out = run("run", path, data, *options, *state, code=2)
    assert re.match(rb"stepstream: \S+d\.csv, line 202: expected a time from 199\.0 on, got 5\.0", out.stderr)
    assert len(rows(out)) == 200
    skipping = run("run", path, data, *options, *state, "--on-bad", "skip")
    assert skipping.stderr.count(b"line 202: expected a time from") == 1
    assert b"1 records skipped" in skipping.stderr
    data.write_text("".join(["k,t,a,b,c\n", *good]))
    whole = rows(run("run", path, data, *options))
    assert rows(skipping) == whole[200 if kept else 0 :]
    if kept:
        assert ages(model, tmp_path / "s.db") == {"k0": 100, "k1": 100, "k2": 100}


def test_bad_records_can_be_skipped(path, tmp_path):
    (tmp_path / "bad.csv").write_bytes(BAD + b"2026-01-05,1,2,3\n")
    out = run("run", path, tmp_path / "bad.csv", "--time", "t", "--windowing", "carry", "--on-bad", "skip")
    assert [r["age"] for r in rows(out)] == ["1", "2"]
    errors = out.stderr.decode()
    for line, reason in (
        (3, "expected a number"),
        (4, "expected 4 columns, got 3"),
        (5, "time runs backwards|expected a time from"),
        (6, "ISO 8601"),
        (7, "expected a finite number in 'b', within float32, got 'nan'"),
    ):
        assert any(f"line {line}:" in e and any(r in e for r in reason.split("|")) for e in errors.splitlines()), line
    assert "5 records skipped" in errors


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--features", "a,b"], "3 columns"),
        (["--features", "a,b,nope"], "'nope'"),
        (["--key", "nope"], "'nope'"),
        (["--windowing", "weekly"], "windowing"),
        (["--on-bad", "ignore"], "--on-bad"),
        (["--delimiter", ";;"], "--delimiter"),
        (["--scale", "/nowhere.json"], "nowhere.json"),
    ],
)
def test_wrong_options(path, arguments, message):
    out = run("run", path, *arguments, data=b"a,b,c\n1,2,3\n", code=2)
    assert message in out.stderr.decode()
    assert "Traceback" not in out.stderr.decode()


def test_missing_files_are_named(path, tmp_path):
    assert b"nowhere.csv" in run("run", path, "nowhere.csv", code=2).stderr
    assert b"nowhere.keras" in run("run", "nowhere.keras", code=2).stderr
    assert b"gone" in run("run", path, "--out", tmp_path / "gone" / "o.csv", data=b"a,b,c\n1,2,3\n", code=2).stderr


def test_no_color_and_no_terminal(path):
    def colours(**env):
        out = run("check", path, env={"NO_COLOR": "", "FORCE_COLOR": "", "TERM": "xterm", **env}).stdout
        return re.findall(rb"\x1b\[[0-9;]*3[0-7]m", out), b"\x1b" in out

    assert colours() == ([], False)
    assert colours(FORCE_COLOR="1")[0]
    assert colours(FORCE_COLOR="1", NO_COLOR="1")[0] == []


def test_check_says_no_with_1(path, cases):
    assert json.loads(run("check", path, "--json").stdout)["ok"] is True
    out = run("check", cases / "emg" / "lstm2_first.keras", code=1)
    assert b"reshape" in out.stdout


def test_verify(path, recording, model, tmp_path):
    x = np.random.default_rng(0).normal(size=(3, 100, 3)).astype(np.float32)
    np.save(tmp_path / "x.npy", x)
    np.save(tmp_path / "y.npy", model.run(x))
    np.save(tmp_path / "wrong.npy", model.run(x) + 0.01)
    arguments = ("verify", path, "--data", tmp_path / "x.npy", "--expected")
    good = json.loads(run(*arguments, tmp_path / "y.npy", "--json").stdout)
    assert good["ok"]
    assert good["checks"]
    bad = json.loads(run(*arguments, tmp_path / "wrong.npy", "--json", code=1).stdout)
    assert [c["position"] for c in bad["checks"] if not c["ok"]] == [99]


def test_verify_compares_with_keras_where_it_is(path):
    pytest.importorskip("keras")
    pytest.importorskip("jax")
    result = json.loads(run("verify", path, "--json", env={"KERAS_BACKEND": "jax"}).stdout)
    assert result["ok"]
    assert result["checks"][-1]["compared_with"] == "live keras"
    assert all("written by Keras" in note for note in result["notes"])


@pytest.mark.parametrize("content", [b"", b"1,2,3\n", b"\x93NUMPY\x01\x00garbage"])
def test_verify_data_that_is_no_array(path, tmp_path, content):
    (tmp_path / "x.npy").write_bytes(content)
    out = run("verify", path, "--data", tmp_path / "x.npy", code=2)
    assert out.stderr.decode().strip().endswith("x.npy: expected an array saved with numpy.save: not such a file")


def test_version():
    assert run("--version").stdout.decode().strip() == f"stepstream {stepstream.__version__}"


def test_verify_says_that_keras_is_missing(path):
    code = "import sys; sys.modules['keras'] = None; from stepstream.cli.main import main; main()"
    command = [sys.executable, "-c", code, "verify", path]
    out = subprocess.run(command, capture_output=True, text=True, check=False)
    assert out.returncode == 0, out.stderr
    assert "Keras not installed: not compared" in out.stdout


def test_state_show(path, tmp_path, model):
    stream = model.stream("carry")
    stream.step([1, 2, 3])
    stream.save(tmp_path / "one.h5")
    (shown,) = json.loads(run("state", "show", tmp_path / "one.h5", "--json").stdout)["streams"]
    assert shown["age"] == 1
    text = run("state", "show", tmp_path / "one.h5").stdout.decode()
    assert model.fingerprint in text
    assert run("state", "show", path, code=2).stderr


def test_scale_file(path, tmp_path, motions):
    (tmp_path / "scale.json").write_text('{"mean": [1, 2, 3], "std": [2, 2, 2]}')
    arguments = ("run", path, "--windowing", "carry", "--scale", tmp_path / "scale.json")
    (answer,) = rows(run(*arguments, data=b"a,b,c\n3,4,5\n"))
    model = stepstream.load(path, scale=([1, 2, 3], [2, 2, 2]))
    assert np.float32(answer["dense"]) == np.float32(model.stream("carry").step([3, 4, 5]))
    for text in ("[]", '{"mean": 1}', "x", '{"mean": ["a"], "std": [1]}'):
        (tmp_path / "scale.json").write_text(text)
        assert b"Traceback" not in run(*arguments, data=b"a,b,c\n3,4,5\n", code=2).stderr


@pytest.mark.parametrize("end", ["-wal", "-shm", "-journal", "-claim"])
def test_the_output_is_no_file_beside_the_store(path, recording, tmp_path, end):
    state = tmp_path / "s.db"
    out = run("run", path, recording, *KEYED, "--state", state, "--out", f"{state}{end}", code=2)
    assert f"--out: expected another file than that of --state, which keeps s.db{end}" in out.stderr.decode()
    assert list(tmp_path.iterdir()) == []


def test_a_hard_link_is_the_same_file(path, recording, tmp_path):
    for name, source in (("INPUT", recording), ("MODEL", path)):
        own, link = tmp_path / f"own-{name}", tmp_path / f"link-{name}"
        own.write_bytes(Path(source).read_bytes())
        link.hardlink_to(own)
        arguments = (own, recording) if name == "MODEL" else (path, own)
        for option in ("--out", "--state"):
            out = run("run", *arguments, *KEYED, option, link, code=2)
            assert f"{option}: expected another file than that of {name}" in out.stderr.decode()
            assert own.read_bytes() == Path(source).read_bytes()


@pytest.mark.parametrize("option", ["--key", "--time", "--end"])
def test_a_column_that_is_not_there_is_named_before_anything_is_written(path, recording, tmp_path, option):
    arguments = ("--windowing", "carry", option, "nope", "--state", tmp_path / "s.db", "--out", tmp_path / "o.csv")
    out = run("run", path, recording, *arguments, code=2)
    assert f"{recording}: expected a column 'nope', got [" in out.stderr.decode()
    assert b"--features" not in out.stderr
    assert list(tmp_path.iterdir()) == []
    out = run("run", path, recording, "--windowing", "carry", option, "nope", code=2)
    assert out.stdout == b""
    out = run("run", path, "--windowing", "carry", option, "nope", data=recording.read_bytes(), code=2)
    assert b"expected a column 'nope'" in out.stderr
