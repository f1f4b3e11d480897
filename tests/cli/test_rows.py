"""Records out of files and pipes: what is no record, or no file, is named; good ones beside it stay."""

import gzip
import os
from datetime import UTC, datetime

import pytest

import stepstream
from command import CARRY, rows, run
from stepstream import cells
from stepstream.cli.lines import PipeLines
from stepstream.cli.rows import open_rows


def records(tmp_path, content, name="d.csv", header=True):
    (tmp_path / name).write_bytes(content)
    return list(open_rows(tmp_path / name, ",", header, lambda: False).records)


@pytest.mark.parametrize("name", ["d.csv", "d.jsonl"])
def test_bytes_that_are_no_utf_8_are_one_bad_record(tmp_path, name):
    lines = {"d.csv": b"k,a\n\xff,1\n\xc3\xa9,2\n", "d.jsonl": b'{"k": 0}\n{"k": "\xff"}\n{"k": "\xc3\xa9"}\n'}
    bad, good = records(tmp_path, lines[name], name)[-2:]
    assert bad.line == 2
    assert bad.error.startswith("expected UTF-8, got byte 0xff at column ")
    assert good.fields["k"] == "é"
    assert good.error is None


def test_a_header_that_is_no_utf_8_is_refused(tmp_path):
    with pytest.raises(stepstream.InputError, match=r"d\.csv: line 1: expected UTF-8, got byte 0xff at column 1"):
        records(tmp_path, "a,b\n1,2\n".encode("utf-16"))


def test_an_unclosed_quote_is_one_bad_record(tmp_path):
    found = records(tmp_path, b'note,a\n"fine, it is",1\n"open,2\nwell,3\n"o""k",4\n1,"5')
    assert [r.fields.get("a") for r in found] == ["1", None, "3", "4", None]
    assert [r.line for r in found] == [2, 3, 4, 5, 6]
    assert {r.error for r in found if not r.fields} == {"expected a closing quote: a record is one line"}


def test_column_names(tmp_path):
    with pytest.raises(stepstream.InputError, match=r"line 1: .* the header holds numbers .*; use --no-header"):
        records(tmp_path, b"0.1,2,1e3\n4,5,6\n")
    assert len(records(tmp_path, b"0.1,2,1e3\n4,5,6\n", header=False)) == 2
    assert len(records(tmp_path, b"0,1,2\n4,5,6\n")) == 1  # as pandas names columns without names
    assert len(records(tmp_path, b"dev-1,2,1e3\n4,5,6\n")) == 1
    with pytest.raises(stepstream.InputError, match="different column names"):
        records(tmp_path, b"a,a\n4,5\n")


def test_blank_lines_are_no_records_and_count_as_lines(path, tmp_path):
    (record,) = records(tmp_path, b"\n \r\na,b\n\n1,2\n\n")
    assert (record.line, record.fields) == (5, {"a": "1", "b": "2"})
    (answer,) = rows(run("run", path, *CARRY, data=b'\n\n{"a": 1, "b": 2, "c": 3}\n'))
    assert answer["age"] == "1"


def test_a_name_twice_in_a_json_object_is_refused(tmp_path):
    first, second = records(tmp_path, b'{"a": 1, "b": 2, "a": 3}\n{"a": 1}\n', "d.jsonl")
    assert first.error.endswith("expected different names, got ['a'] twice")
    assert second.fields == {"a": 1}


@pytest.mark.parametrize("cut", [slice(0, 40), slice(0, -12)])
def test_a_damaged_gzip_file_is_named(path, recording, tmp_path, cut):
    data = gzip.compress(recording.read_bytes())
    damaged = data[:100] + bytes(b ^ 0x55 for b in data[100:300]) + data[300:]
    (tmp_path / "cut.csv.gz").write_bytes(data[cut])
    (tmp_path / "damaged.csv.gz").write_bytes(damaged)
    for name in ("cut", "damaged"):
        with pytest.raises(stepstream.InputError, match=rf"{name}\.csv\.gz: cannot be read"):
            list(open_rows(tmp_path / f"{name}.csv.gz", ",", True, lambda: False).records)


@pytest.mark.parametrize(
    ("data", "message"),
    [(gzip.compress(b"a,b,c\n1,2,3\n"), "gzip -dc"), (b"PAR1\x15\x04", "name the file")],
    ids=["gzip", "parquet"],
)
def test_what_a_pipe_cannot_hold(path, data, message):
    out = run("run", path, *CARRY, data=data, code=2)
    assert message in out.stderr.decode()
    assert out.stderr.startswith(b"stepstream: standard input: expected lines of CSV or JSON")


def test_a_folder_as_standard_input(tmp_path):
    descriptor = os.open(tmp_path, os.O_RDONLY)
    try:
        with pytest.raises(stepstream.InputError, match="cannot be read: Is a directory"):
            list(PipeLines(descriptor, "standard input", lambda: False))
    finally:
        os.close(descriptor)


@pytest.fixture
def parquet():
    pytest.importorskip("pyarrow")
    return pytest.importorskip("pyarrow.parquet")


def test_parquet_with_a_column_twice_is_refused(parquet, tmp_path):
    import pyarrow

    parquet.write_table(pyarrow.table([[1.0], [2.0]], names=["a", "a"]), tmp_path / "d.parquet")
    with pytest.raises(stepstream.InputError, match=r"d\.parquet: expected different column names"):
        list(open_rows(tmp_path / "d.parquet", ",", True, lambda: False).records)


def test_parquet_times_that_python_has_not(parquet, tmp_path):
    import pyarrow as pa

    fine = pa.array([1, 1767225600123456789, None], pa.timestamp("ns"))
    wide = pa.array([1, 2**60, 3], pa.timestamp("us"))
    parquet.write_table(pa.table({"t": fine, "u": wide}), tmp_path / "d.parquet")
    first, second, third = open_rows(tmp_path / "d.parquet", ",", True, lambda: False).records
    assert first.fields["t"] == datetime(1970, 1, 1)
    assert second.error.startswith("not readable as Python values")
    assert third.fields["t"] is None
    assert [r.line for r in (first, second, third)] == [1, 2, 3]
    parquet.write_table(pa.table({"t": fine}), tmp_path / "d.parquet")
    assert list(open_rows(tmp_path / "d.parquet", ",", True, lambda: False).records)[1].fields["t"] == datetime(
        2026, 1, 1, 0, 0, 0, 123456
    )


@pytest.mark.parametrize(
    ("value", "expected"),
    [("a", "a"), (" a", " a"), (1, "1"), (1.0, "1"), ("1", "1"), ("1.0", "1.0"), (1.5, "1.5"), (b"a", "a"), (0, "0")],
)
def test_keys(value, expected):
    assert cells.key(value, "k") == expected


@pytest.mark.parametrize(
    "value",
    ["", None, float("nan"), float("inf"), True, [], ["a"], {"a": 1}, b"\xff", b"", "a\0", "\0", "\ud800", "a\udfff"],
    ids=ascii,
)
def test_what_is_no_key(value):
    with pytest.raises(stepstream.InputError, match="expected a key in"):
        cells.key(value, "k")


def test_a_key_that_cannot_be_saved_costs_one_record(path, tmp_path):
    good = '{"k": "u", "a": 1, "b": 2, "c": 3}\n'
    bad = "".join(good.replace("u", key) for key in (r"u\u0000", r"\ud800", ""))
    arguments = ("run", path, *CARRY, "--key", "k", "--on-bad", "skip", "--state", tmp_path / "s.db")
    out = run(*arguments, data=(good + bad + good).encode())
    assert [r["age"] for r in rows(out)] == ["1", "2"]
    assert b"3 records skipped" in out.stderr
    assert (tmp_path / "s.db").exists()


def test_a_key_has_an_end():
    assert cells.key("ü" * 512, "k") == "ü" * 512
    for long in ("ü" * 513, "x" * 1025):
        with pytest.raises(stepstream.InputError, match="expected a key in 'k' of at most 1024 bytes, got '"):
            cells.key(long, "k")


@pytest.mark.parametrize(
    "value", ["1_0", "1_000.5", b"1_0", "", "x", None, [], 10**400, "1e39", float("nan")], ids=ascii
)
def test_what_is_no_feature(value):
    with pytest.raises(stepstream.InputError, match="number in 'a'"):
        cells.number(value, "a")


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("1767225600.5", 1767225600.5),
        (1767225600, 1767225600),
        ("2026-01-01", 1767225600),
        (" 2026-01-01T00:00:00Z ", 1767225600),
        ("20260101T000000", 1767225600),
        ("2026-01-01T01:00:00+01:00", 1767225600),
        (datetime(2026, 1, 1), 1767225600),
        (datetime(2026, 1, 1, tzinfo=UTC), 1767225600),
        ("20260101", 20260101),  # a plain number is seconds
        ("9999-01-01", 253370764800),
    ],
)
def test_times(value, expected):
    assert cells.seconds(value) == expected


@pytest.mark.parametrize(
    "value",
    ["soon", "", None, "1_0", 10**400, "nan", float("inf"), True, [], "2026-01-01\ud80000:00", 1767225600000],
    ids=ascii,
)
def test_what_is_no_time(value):
    with pytest.raises(stepstream.InputError, match="expected a time in ISO 8601 or epoch seconds, got "):
        cells.seconds(value)


def test_milliseconds_are_recognised():
    for value in (1767225600000, "1767225600000", -1767225600000.0):
        with pytest.raises(stepstream.InputError, match="if these are milliseconds, divide them by 1000"):
            cells.seconds(value)
