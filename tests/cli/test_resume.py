"""Runs that go on: after another run, a kill, a signal, a reader that has gone; what is refused instead."""

import json
import signal
import subprocess
import sys
import time

import pytest

from command import CARRY, HEADER, KEYED, STEPSTREAM, rows, run

ONE = b"a,b,c\n1,2,3\n"


def test_another_input_is_said(path, tmp_path):
    for name in ("one.csv", "two.csv"):
        (tmp_path / name).write_text(f"a,b,c\n1,2,{len(name)}\n{name[0] == 'o':d},2,3\n")
    options = ("--windowing", "carry", "--state", tmp_path / "state.h5")
    run("run", path, tmp_path / "one.csv", *options)
    second = run("run", path, tmp_path / "two.csv", *options)
    assert b"of another input" in second.stderr
    assert [r["age"] for r in rows(second)] == ["3", "4"]
    again = run("run", path, tmp_path / "two.csv", *options)
    assert b"of another input" not in again.stderr
    assert rows(again) == []


def test_a_full_disk_loses_no_record(path, recording, tmp_path):
    """The output cannot grow; what was not written is written by the next run."""
    expected = run("run", path, recording, *KEYED).stdout
    files = ["--state", str(tmp_path / "s.h5"), "--out", str(tmp_path / "o.csv")]
    arguments = ["run", path, str(recording), *KEYED, *files]
    code = (
        "import resource, signal, sys\n"
        "sys.dont_write_bytecode = True\n"
        "from stepstream.cli.main import main\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (20000, 20000))\n"
        "main()\n"
    )
    command = [sys.executable, "-c", code, *arguments, "--save-every", "0"]
    out = subprocess.run(command, capture_output=True, text=True, check=False)
    assert out.returncode == 2
    assert "o.csv: cannot be written: File too large" in out.stderr
    run(*arguments)
    assert (tmp_path / "o.csv").read_bytes() == expected


def test_a_second_run_goes_on_where_the_first_stopped(path, recording, tmp_path):
    text = recording.read_text()
    expected = run("run", path, recording, *KEYED).stdout
    growing, state = tmp_path / "growing.csv", tmp_path / "state.h5"
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
    arguments = ("run", path, growing, *KEYED, "--state", tmp_path / "state.h5", "--out", out)
    run(*arguments)
    done = len(out.read_bytes())
    out.write_bytes(expected[: expected.index(b"\n", done + 200) + 1])  # killed before it saved again
    growing.write_text(text)
    run(*arguments)
    assert out.read_bytes() == expected


def test_another_input_is_read_from_its_start(path, recording, tmp_path):
    lines = recording.read_text().splitlines(keepends=True)
    monday, tuesday, state = tmp_path / "monday.csv", tmp_path / "tuesday.csv", tmp_path / "state.h5"
    monday.write_text("".join(lines[:301]))
    tuesday.write_text("".join(lines[:1] + lines[301:]))
    out = [run("run", path, day, *KEYED, "--state", state).stdout for day in (monday, tuesday)]
    assert out[0] + out[1].partition(b"\n")[2] == run("run", path, recording, *KEYED).stdout


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_signals_save_the_state(path, recording, tmp_path, number, code):
    lines = recording.read_bytes().splitlines(keepends=True)
    state = tmp_path / "state.h5"
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


def test_a_killed_run_goes_on_to_the_same_bytes(path, recording, tmp_path):
    """SIGKILL in the middle: what was written after the last saved state is written again, once."""
    lines = recording.read_text().splitlines(keepends=True)
    long, state, out = tmp_path / "long.csv", tmp_path / "state.h5", tmp_path / "out.csv"
    with long.open("w") as f:
        f.write(lines[0])
        for _ in range(15):
            f.writelines(lines[1:])
    keyed = ("--key", "key", "--features", "x,y,z", "--windowing", "carry")
    expected = run("run", path, long, *keyed).stdout
    arguments = ["run", path, str(long), *keyed, "--state", str(state), "--out", str(out)]
    with subprocess.Popen([*STEPSTREAM, *arguments, "--save-every", "0"]) as process:
        while not state.exists() and process.poll() is None:
            time.sleep(0.01)
        process.kill()
        assert process.wait(30) == -signal.SIGKILL
    assert out.stat().st_size < len(expected)
    run(*arguments)
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
    arguments = ["run", path, file, *KEYED, "--state", tmp_path / "s.h5"]
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
    assert option[0].replace("--no-", "--") in out.stderr.decode()
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
    data, state = tmp_path / "d.csv", tmp_path / "s.h5"
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
    command = [*STEPSTREAM, "run", path, *CARRY, "--state", str(tmp_path / "s.h5")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        process.stdin.write(ONE)
        process.stdin.flush()
        assert process.stdout.readline().decode().strip() == HEADER
        assert process.stdout.readline()
        process.stdout.close()
        process.stdin.write(b"4,5,6\n")
        process.stdin.flush()
        assert process.wait(30) == 0
        assert process.stderr.read() == b""
    again = run("run", path, *CARRY, "--state", tmp_path / "s.h5", data=b"a,b,c\n4,5,6\n")
    both = run("run", path, *CARRY, data=b"a,b,c\n1,2,3\n4,5,6\n")
    assert rows(again) == rows(both)[1:]


def test_a_signal_loses_no_line_in_hand(path, tmp_path):
    """All lines arrive in one piece, and the signal while the first are answered."""
    count = 600  # less than PIPE_BUF, so that they arrive together
    command = [*STEPSTREAM, "run", path, *CARRY, "--state", str(tmp_path / "s.h5")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        process.stdin.write(b"a,b,c\n" + b"1,2,3\n" * count + b"4,5")
        process.stdin.flush()
        lines = [process.stdout.readline(), process.stdout.readline()]  # the header, and an answer: all is in hand
        process.send_signal(signal.SIGTERM)
        lines += process.stdout.readlines()
        assert process.wait(30) == 143
        assert b"3 bytes of it are dropped" in process.stderr.read()
    assert len(lines) == count + 1
    (stream,) = json.loads(run("state", "show", tmp_path / "s.h5", "--json").stdout)["streams"]
    assert stream["age"] == count


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


def test_a_state_that_could_not_be_saved_is_refused_before_the_first_record(path, tmp_path, model):
    for state in (tmp_path / "gone" / "s.h5", tmp_path):
        out = run("run", path, *CARRY, "--state", state, data=ONE, code=2)
        assert b"--state" in out.stderr
        assert out.stdout == b""
    stream = model.stream("carry")
    stream.step([1, 2, 3])
    stream.save(tmp_path / "one.h5")
    before = (tmp_path / "one.h5").read_bytes()
    out = run("run", path, *CARRY, "--state", tmp_path / "one.h5", data=ONE, code=2)
    assert b"expected states that `stepstream run` saved, got a file without keys" in out.stderr
    assert (tmp_path / "one.h5").read_bytes() == before
