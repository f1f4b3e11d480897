"""Runs that go on: after another run, a kill, a signal, a reader that has gone; what is refused instead."""

import gzip
import os
import random
import signal
import subprocess
import sys
import time

import pytest
from typer.testing import CliRunner

from command import CARRY, HEADER, KEYED, NO_SERVER, STEPSTREAM, ages, rows, run
from make import question
from stepstream import Engine
from stepstream.cli import position, sink
from stepstream.cli.main import app
from stores.conftest import redis_server  # noqa: F401

TIMELESS = ["--key", "key", "--features", "x,y,z", "--windowing", "carry"]
ONE = b"a,b,c\n1,2,3\n"


def test_another_input_is_said(path, tmp_path):
    for name in ("one.csv", "two.csv"):
        (tmp_path / name).write_text(f"a,b,c\n1,2,{len(name)}\n{name[0] == 'o':d},2,3\n")
    options = ("--windowing", "carry", "--state", tmp_path / "states.db")
    run("run", path, tmp_path / "one.csv", *options)
    second = run("run", path, tmp_path / "two.csv", *options)
    assert b"of another input" in second.stderr
    assert [r["age"] for r in rows(second)] == ["3", "4"]
    again = run("run", path, tmp_path / "two.csv", *options)
    assert b"of another input" not in again.stderr
    assert rows(again) == []


@pytest.fixture
def long(recording, tmp_path):
    """The recording again and again: more than one batch."""
    header, *lines = recording.read_text().splitlines(keepends=True)
    (tmp_path / "long.csv").write_text(header + "".join(lines * 15))
    return tmp_path / "long.csv"


def test_a_full_disk_loses_no_record(path, long, tmp_path):
    """The output cannot grow; what was not written is written by the next run."""
    arguments = ["run", path, str(long), *TIMELESS, "--json"]
    expected = run(*arguments).stdout
    arguments += ["--state", str(tmp_path / "s.db"), "--out", str(tmp_path / "o.csv")]
    code = (
        "import resource, signal, sys\n"
        "sys.dont_write_bytecode = True\n"
        "from stepstream.cli.main import main\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (500_000, 500_000))\n"
        "main()\n"
    )
    command = [sys.executable, "-c", code, *arguments]
    out = subprocess.run(command, capture_output=True, text=True, check=False)
    assert out.returncode == 2
    assert out.stderr.endswith("o.csv: cannot be written: File too large\n")
    assert len(out.stderr.splitlines()) == 1
    run(*arguments)
    assert (tmp_path / "o.csv").read_bytes() == expected


def test_a_second_run_goes_on_where_the_first_stopped(path, recording, tmp_path):
    text = recording.read_text()
    expected = run("run", path, recording, *KEYED).stdout
    growing, state = tmp_path / "growing.csv", tmp_path / "states.db"
    growing.write_text("".join(text.splitlines(keepends=True)[:251]))
    first = run("run", path, growing, *KEYED, "--state", state).stdout
    growing.write_text(text)
    second = run("run", path, growing, *KEYED, "--state", state).stdout
    assert first + second.partition(b"\n")[2] == expected
    third = run("run", path, growing, *KEYED, "--state", state).stdout
    assert third.decode().strip() == HEADER


def test_answers_after_the_saved_state_are_cut_off_as_they_come_again(path, recording, tmp_path):
    text = recording.read_text()
    expected = run("run", path, recording, *KEYED).stdout
    growing, out = tmp_path / "growing.csv", tmp_path / "out.csv"
    growing.write_text("".join(text.splitlines(keepends=True)[:251]))
    arguments = ("run", path, growing, *KEYED, "--state", tmp_path / "states.db", "--out", out)
    run(*arguments)
    done = len(out.read_bytes())
    out.write_bytes(expected[: expected.index(b"\n", done + 200) + 1])  # killed before it saved again
    growing.write_text(text)
    run(*arguments)
    assert out.read_bytes() == expected


def test_another_input_is_read_from_its_start(path, recording, tmp_path):
    lines = recording.read_text().splitlines(keepends=True)
    monday, tuesday, state = tmp_path / "monday.csv", tmp_path / "tuesday.csv", tmp_path / "states.db"
    monday.write_text("".join(lines[:301]))
    tuesday.write_text("".join(lines[:1] + lines[301:]))
    out = [run("run", path, day, *KEYED, "--state", state).stdout for day in (monday, tuesday)]
    assert out[0] + out[1].partition(b"\n")[2] == run("run", path, recording, *KEYED).stdout


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_signals_save_the_state(path, recording, tmp_path, number, code):
    lines = recording.read_bytes().splitlines(keepends=True)
    state = tmp_path / "states.db"
    command = [*STEPSTREAM, "run", path, *KEYED, "--state", str(state)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        process.stdin.write(b"".join(lines[:101]))
        process.stdin.flush()
        first = b"".join(process.stdout.readline() for _ in range(101))
        process.send_signal(number)
        assert process.wait(30) == code
        assert process.stdout.read() == b""
    second = run("run", path, *KEYED, "--state", state, data=lines[0] + b"".join(lines[101:])).stdout
    assert first + second.partition(b"\n")[2] == run("run", path, recording, *KEYED).stdout


@pytest.mark.parametrize("kind", ["sync", "interval", "none", "redis"])
def test_a_killed_run_goes_on_to_the_same_bytes(path, long, tmp_path, request, kind):
    """SIGKILL at any moment: what was written after the last commit is written again, once. Streams end on the way."""
    ended = [*TIMELESS, "--end", "last"]
    header, *lines = long.read_text().splitlines()
    long.write_text("\n".join([f"{header},last", *(f"{line},{n % 997 == 0:d}" for n, line in enumerate(lines))]) + "\n")
    out = tmp_path / "out.csv"
    expected = run("run", path, long, *ended).stdout
    state = [str(tmp_path / "states.db"), "--durability", kind]
    if kind == "redis":
        state = [request.getfixturevalue("redis_server").url("killed")]
    arguments = ["run", path, str(long), *ended, "--out", str(out), "--state", *state]
    rng, kills = random.Random(kind), 0
    while kills < 4:
        with subprocess.Popen([*STEPSTREAM, *arguments]) as process:
            before = out.stat().st_size if out.exists() else -1
            while process.poll() is None and (out.stat().st_size if out.exists() else -1) == before:
                time.sleep(0.001)
            time.sleep(rng.random() / 20)
            process.kill()
            if process.wait(30) == 0:
                break
        kills += 1
    assert kills
    run(*arguments)
    assert out.read_bytes() == expected


@pytest.mark.parametrize(("durability", "waits"), [("sync", True), ("interval", True), ("none", False)])
def test_the_output_is_on_the_disk_before_the_store_says_so(path, recording, tmp_path, monkeypatch, durability, waits):
    """A machine that stops must not take answers that the store counts, or the next run is refused."""
    out, synced, bookmarks, fsync = tmp_path / "out.csv", [], [], os.fsync

    def noted(file):
        fsync(file)
        if os.path.samestat(os.fstat(file), out.stat()):
            synced.append(out.stat().st_size)

    def bookmarkled(counts):
        bookmarks.append((counts["out"], synced[-1:] == [counts["out"]]))
        return to_bookmark(counts)

    to_bookmark = position.to_bookmark
    monkeypatch.setattr(sink.os, "fsync", noted)
    monkeypatch.setattr(position, "to_bookmark", bookmarkled)
    arguments = [path, recording, *KEYED, "--state", tmp_path / "s.db", "--durability", durability, "--out", out]
    answer = CliRunner().invoke(app, ["run", *map(str, arguments)])
    assert answer.exit_code == 0, answer.output
    assert len(bookmarks) > 1
    assert all(on_disk == waits for _, on_disk in bookmarks)


def test_what_a_killed_run_appended_to_another_output_is_cut_off(path, recording, tmp_path):
    """The second input's first answers were written, and not committed."""
    lines = recording.read_text().splitlines(keepends=True)
    monday, tuesday, out = tmp_path / "monday.csv", tmp_path / "tuesday.csv", tmp_path / "out.csv"
    monday.write_text("".join(lines[:301]))
    tuesday.write_text("".join(lines[:1]))
    arguments = [*KEYED, "--state", tmp_path / "states.db", "--out", out]
    run("run", path, monday, *arguments)
    run("run", path, tuesday, *arguments)
    expected = run("run", path, recording, *KEYED).stdout
    out.write_bytes(expected[: len(out.read_bytes()) + 500])
    tuesday.write_text("".join(lines[:1] + lines[301:]))
    run("run", path, tuesday, *arguments)
    assert out.read_bytes() == expected


def test_a_closed_pipe_is_quiet(path, recording, tmp_path):
    options = "--key key --features x,y,z --windowing carry"
    shell = f"{sys.executable} -m stepstream run {path} {recording} {options} | head -n 2"
    out = subprocess.run(["bash", "-c", shell], capture_output=True, check=True, timeout=60)
    assert len(out.stdout.splitlines()) == 2
    assert out.stderr == b""


@pytest.fixture
def growing(recording, tmp_path):
    """The recording's first 300 samples, and what it grows to."""
    text = recording.read_bytes()
    file = tmp_path / "growing.csv"
    file.write_bytes(b"".join(text.splitlines(keepends=True)[:301]))
    return file, text


@pytest.fixture
def started(path, growing, tmp_path):
    """A run over the first half, to o.csv; its command."""
    file, text = growing
    arguments = ["run", path, file, *KEYED, "--state", tmp_path / "s.db"]
    run(*arguments, "--out", tmp_path / "o.csv")
    file.write_bytes(text)
    return arguments


def test_the_output_goes_on(path, recording, started, tmp_path):
    run(*started, "--out", tmp_path / "o.csv")
    assert (tmp_path / "o.csv").read_bytes() == run("run", path, recording, *KEYED).stdout


def gone(file):
    file.unlink()


def shorter(file):
    file.write_bytes(file.read_bytes()[:-9])


def changed_at_its_head(file):
    file.write_bytes(b"K" + file.read_bytes()[1:])


def changed_at_its_tail(file):
    file.write_bytes(file.read_bytes()[:-2] + b"#\n")


@pytest.mark.parametrize("change", [gone, shorter, changed_at_its_head, changed_at_its_tail])
def test_an_output_that_is_not_the_one_before_is_refused(started, tmp_path, change):
    out = tmp_path / "o.csv"
    change(out)
    before = out.read_bytes() if out.exists() else None
    assert b"o.csv: expected the output that goes on from" in run(*started, "--out", out, code=2).stderr
    assert (out.read_bytes() if out.exists() else None) == before


def test_a_run_to_standard_output_is_followed_by_a_new_file_alone(started, tmp_path):
    half = run(*started).stdout
    (tmp_path / "other.csv").write_text("somebody's only copy\n")
    out = run(*started, "--out", tmp_path / "other.csv", code=2)
    assert b"a file that the run before did not write" in out.stderr
    assert (tmp_path / "other.csv").read_text() == "somebody's only copy\n"
    run(*started, "--out", tmp_path / "new.csv")
    assert (tmp_path / "new.csv").read_bytes() == half.splitlines(keepends=True)[0]


@pytest.mark.parametrize(
    "option",
    [["--features", "y,x,z"], ["--key", "time"], ["--time", "key"], ["--end", "z"], ["--no-header"], ["--json"]],
    ids=lambda option: option[0],
)
def test_other_options_over_the_same_records_are_refused(started, tmp_path, option):
    before = (tmp_path / "o.csv").read_bytes()
    out = run(*started, *option, "--out", tmp_path / "o.csv", code=2)
    said = out.stderr.decode()
    assert any(words in said for words in (option[0].replace("--no-", "--"), "feature columns", "expected a column"))
    assert (tmp_path / "o.csv").read_bytes() == before


@pytest.mark.parametrize("form", ["pipe", "another file"])
def test_streams_that_go_on_with_other_records_append(path, recording, started, growing, tmp_path, form):
    lines = growing[1].splitlines(keepends=True)
    rest = lines[0] + b"".join(lines[301:])
    out = tmp_path / "o.csv"
    with out.open("ab") as f:
        f.write(b"wrist-01,written after the last saved st")  # by a run that was killed
    if form == "pipe":
        run("run", path, *started[3:], "--out", out, data=rest)
    else:
        (tmp_path / "rest.csv").write_bytes(rest)
        run("run", path, tmp_path / "rest.csv", *started[3:], "--out", out)
    assert out.read_bytes() == run("run", path, recording, *KEYED).stdout
    out.write_text("another file\n")
    assert b"with at least" in run("run", path, *started[3:], "--out", out, data=rest, code=2).stderr
    assert out.read_text() == "another file\n"


def test_a_line_without_its_end_is_left_for_the_next_run(path, tmp_path):
    data, state = tmp_path / "d.csv", tmp_path / "s.db"
    data.write_text("a,b,c\n1,2,3\n4,5,6")
    first = run("run", path, data, *CARRY, "--state", state)
    assert [r["age"] for r in rows(first)] == ["1"]
    assert b"d.csv: the last line has no end yet and is left for the next run" in first.stderr
    data.write_text("a,b,c\n1,2,3\n4,5,60\n")
    second = run("run", path, data, *CARRY, "--state", state)
    data.write_text("a,b,c\n1,2,3\n4,5,60")
    whole = run("run", path, data, *CARRY)
    assert whole.stderr == b""
    assert rows(second) == rows(whole)[1:]


def test_a_reader_that_leaves_takes_no_state_with_it(path, tmp_path):
    """What was answered is saved, though the next answer found no reader."""
    command = [*STEPSTREAM, "run", path, *CARRY, "--state", str(tmp_path / "s.db")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        process.stdin.write(ONE)
        process.stdin.flush()
        assert process.stdout.readline().decode().strip() == HEADER
        assert process.stdout.readline()
        process.stdout.close()
        process.stdin.write(b"4,5,6\n")
        process.stdin.flush()
        assert process.wait(10) == 0
        assert process.stderr.read() == b""
    again = run("run", path, *CARRY, "--state", tmp_path / "s.db", data=b"a,b,c\n4,5,6\n")
    both = run("run", path, *CARRY, data=b"a,b,c\n1,2,3\n4,5,6\n")
    assert rows(again) == rows(both)[1:]


def test_a_signal_loses_no_line_in_hand(path, tmp_path, model):
    """All lines arrive in one piece, and the signal while the first are answered."""
    count = 600  # less than PIPE_BUF, so that they arrive together
    command = [*STEPSTREAM, "run", path, *CARRY, "--state", str(tmp_path / "s.db")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        process.stdin.write(b"a,b,c\n" + b"1,2,3\n" * count + b"4,5")
        process.stdin.flush()
        lines = [process.stdout.readline(), process.stdout.readline()]  # the header, and an answer: all is in hand
        process.send_signal(signal.SIGTERM)
        lines += process.stdout.readlines()
        assert process.wait(30) == 143
        assert b"3 bytes of it are dropped" in process.stderr.read()
    assert len(lines) == count + 1
    assert ages(model, tmp_path / "s.db") == {"": count}


def test_a_second_signal_ends_a_run_that_nobody_reads(path):
    command = [*STEPSTREAM, "run", path, *CARRY]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        process.stdin.write(b"a,b,c\n" + b"1,2,3\n" * 10000)  # the answers are more than a pipe holds
        process.stdin.flush()
        time.sleep(3)
        process.send_signal(signal.SIGINT)
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(1)
        process.send_signal(signal.SIGINT)
        assert process.wait(30) == -signal.SIGINT


def test_a_state_that_could_not_be_kept_is_refused_before_the_first_record(path, tmp_path, model):
    for state, message in (
        (tmp_path / "gone" / "s.db", "s.db: expected a store that can be read and written"),
        (tmp_path, "expected a file, got a folder"),
        ("redis://127.0.0.1:1", NO_SERVER),
    ):
        out = run("run", path, *CARRY, "--state", state, data=ONE, code=2)
        assert message in out.stderr.decode()
        assert out.stdout == b""
    assert not list(tmp_path.iterdir())
    own = tmp_path / "other.keras"
    own.write_bytes(b"PK somebody's only model")
    out = run("run", path, *CARRY, "--state", own, data=ONE, code=2)
    assert b"other.keras: expected a store" in out.stderr
    assert list(tmp_path.iterdir()) == [own]
    own.unlink()
    stream = model.stream("carry")
    stream.step([1, 2, 3])
    stream.save(tmp_path / "one.h5")
    before = (tmp_path / "one.h5").read_bytes()
    out = run("run", path, *CARRY, "--state", tmp_path / "one.h5", data=ONE, code=2)
    assert b"one.h5: expected a store, a SQLite file or redis://..., got HDF5" in out.stderr
    assert b"go on from it in Python with Stream.load, or name another file" in out.stderr
    assert (tmp_path / "one.h5").read_bytes() == before
    assert [file.name for file in tmp_path.iterdir()] == ["one.h5"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--durability", "sync"], "--durability sync: expected --state too"),
        (["--durability", "always", "--state", "s.db"], "--durability: expected sync, interval, none, got 'always'"),
        (["--durability", "none", "--state", "redis://127.0.0.1:1"], "expected none, or sync, for a Redis server"),
    ],
)
def test_durability_must_make_sense(path, options, message):
    assert message in run("run", path, *CARRY, *options, data=ONE, code=2).stderr.decode()


def test_a_store_of_another_model_is_refused_by_name(path, tmp_path, model):
    """Of another windowing too; and one that another program bookmarks."""
    other_model, state = question(), tmp_path / "states.db"
    with Engine(other_model, "carry", state) as e:
        e.step("a", [1, 2, 3])
    for theirs, options in (
        (f"fingerprint {model.fingerprint}", CARRY),
        ("fingerprint", ("--windowing", "sliding(7)")),
    ):
        out = run("run", path, *options, "--state", state, data=ONE, code=2)
        assert f"--state {state}: expected a store of {theirs}" in out.stderr.decode()
        assert other_model.fingerprint in out.stderr.decode()
    with Engine(other_model, "carry", state) as e:
        assert e.export("a").age == 1
    other = tmp_path / "bookmarkled.db"
    with Engine(model, "carry", other) as e:
        e.step_many(["a"], [[1, 2, 3]], bookmark=lambda _: b"mine")
    out = run("run", path, *CARRY, "--state", other, data=ONE, code=2)
    assert b"bookmarkled.db: expected a bookmark by `stepstream run`, got b'mine'" in out.stderr
    out = run("run", path, "--windowing", "sliding(7)", "--state", other, data=ONE, code=2)
    assert b"expected a store of windowing sliding(7" in out.stderr


def test_streams_of_an_engine_go_on(path, tmp_path, model):
    """A store that Python has begun, and no run has bookmarkled."""
    with Engine(model, "carry", tmp_path / "states.db") as e:
        e.step("", [1, 2, 3])
    (answer,) = rows(run("run", path, *CARRY, "--state", tmp_path / "states.db", data=ONE))
    assert answer["age"] == "2"
    assert ages(model, tmp_path / "states.db") == {"": 2}


def edited(file, n, old, new):
    """Its line of number n is another, of the same length or not."""
    lines = file.read_bytes().splitlines(keepends=True)
    assert old in lines[n]
    lines[n] = lines[n].replace(old, new)
    file.write_bytes(b"".join(lines))


@pytest.mark.parametrize("form", ["csv", "jsonl", "gz", "parquet"])
def test_an_input_that_was_edited_where_it_was_read_is_refused(path, tmp_path, form):
    """Behind its first bytes too, or records would be left out or applied twice."""
    data, state = tmp_path / f"d.{form}", tmp_path / "s.db"
    rng = random.Random(3)
    records = [[rng.random() for _ in "abc"] for _ in range(3000)]

    def write(records):
        text = "a,b,c\n" + "".join(f"{a},{b},{c}\n" for a, b, c in records)
        if form == "jsonl":
            text = "".join(f'{{"a": {a}, "b": {b}, "c": {c}}}\n' for a, b, c in records)
        if form == "parquet":
            pa = pytest.importorskip("pyarrow")
            table = pa.table(dict(zip("abc", zip(*records, strict=True), strict=True)))
            pytest.importorskip("pyarrow.parquet").write_table(table, data, row_group_size=1500)
        else:
            data.write_bytes(gzip.compress(text.encode(), mtime=0) if form == "gz" else text.encode())

    write(records)
    arguments = ["run", path, data, *CARRY, "--state", state]
    assert len(rows(run(*arguments))) == 3000
    assert rows(run(*arguments)) == []
    for change in (records[:2000] + records[2001:], [*records[:2000], [0, 0, 0], *records[2000:]]):
        write(change)
        error = run(*arguments, code=2).stderr
        assert b"that were read to be as they were, got a file that was edited; put it back, or start" in error
    write(records)
    assert rows(run(*arguments)) == []
    if form in {"csv", "jsonl", "parquet"}:  # it has grown
        write([*records, [1, 2, 3]])
        assert [r["age"] for r in rows(run(*arguments))] == ["3001"]


def test_an_input_that_was_edited_at_its_head_is_no_other_input(started, growing):
    edited(growing[0], 5, b"wrist", b"ankle")
    error = run(*started, code=2).stderr
    assert b"growing.csv as it was when 300 of its records were read, got one that was edited" in error
    edited(growing[0], 5, b"ankle", b"wrist")
    assert len(rows(run(*started))) == 300


def test_a_bad_record_can_be_mended(path, tmp_path):
    """It was not consumed, and a run goes on with it, wherever it is."""
    for n in (1, 3, 2500):
        data, arguments = tmp_path / f"{n}.csv", ["run", path, tmp_path / f"{n}.csv", *CARRY]
        data.write_text("a,b,c\n" + "1,2,3\n" * 3000)
        whole = rows(run(*arguments))
        edited(data, n, b"2", b"two")
        arguments += ["--state", tmp_path / f"{n}.db"]
        first = rows(run(*arguments, code=2))
        edited(data, n, b"two", b"2")
        assert first + rows(run(*arguments)) == whole
