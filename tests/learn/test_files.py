"""Files as labelled sequences; what is wrong in them is named with its place and the cure."""

import gzip
import io
import re
import zipfile

import numpy as np
import pytest

from stepstream.errors import InputError
from stepstream.learn.files import read

TABLE = """key,time,x,y,note,label
a,1,0.5,1,first,walk
b,1,0,2,,run
a,2,0.25,3,,walk
b,5,-1,4,,run
a,3,1e3,5,,walk
"""


def write(tmp_path, text, name="data.csv"):
    path = tmp_path / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def named(**given):
    return {"key": "key", "time": "time", "label": "label", **given}


@pytest.fixture
def table(tmp_path):
    return write(tmp_path, TABLE)


def test_csv_by_key(table):
    data = read(table, **named())
    assert data.features == ("x", "y")  # the other columns that hold numbers
    assert data.keys == ("a", "b")
    assert data.classes == ("run", "walk")
    assert [int(y) for y in data.y] == [1, 0]
    assert data.x[0].tolist() == [[0.5, 1], [0.25, 3], [1000, 5]]
    assert data.x[1].tolist() == [[0, 2], [-1, 4]]


def test_the_same_from_other_forms(tmp_path, table):
    expected = read(table, **named())
    tsv = write(tmp_path, TABLE.replace(",", "\t"), "data.tsv")
    packed = write(tmp_path, gzip.compress(TABLE.encode()), "data.csv.gz")
    marked = write(tmp_path, b"\xef\xbb\xbf" + TABLE.replace("\n", "\r\n\r\n").encode(), "marked.csv")
    bare = write(tmp_path, TABLE.partition("\n")[2].replace(",", ";"), "bare.txt")
    forms = [read(p, **named()) for p in (tsv, packed, marked)]
    forms.append(read(bare, key="0", time="1", label="5", features=["2", "3"], header=False, delimiter=";"))
    for data in forms:
        assert data.keys == expected.keys
        assert [int(y) for y in data.y] == [1, 0]
        assert all(np.array_equal(a, b) for a, b in zip(data.x, expected.x, strict=True))


def test_labels_that_change_are_per_sample(tmp_path):
    path = write(tmp_path, "x,label\n1,0\n2,1\n3,1.0\n")
    data = read(path, label="label")
    assert (data.per_sample, data.keys, data.classes) == (True, ("0",), ("0", "1"))
    assert data.y[0].tolist() == [0, 1, 1]
    with pytest.raises(InputError, match=r"line 3: expected the label '0' throughout.*per sample"):
        read(path, label="label", label_per="sequence")


def test_labels_per_sample_where_asked_for(table):
    data = read(table, **named(label_per="sample"))
    assert [y.tolist() for y in data.y] == [[1, 1, 1], [0, 0]]


def test_sequences_of_one_stream_in_the_order_of_time(tmp_path):
    path = write(tmp_path, "part,who,at,x,label\np2,ann,10,1,0\np1,ann,1,2,1\np3,bob,5,3,0\n")
    data = read(path, key="part", stream="who", time="at", label="label")
    assert data.keys == ("p1", "p3", "p2")
    assert data.streams == ("ann", "bob", "ann")


def test_numbers_to_be_predicted(tmp_path):
    path = write(tmp_path, "x,left\n1,3\n2,2\n")
    assert read(path, label="left").classes == ("2", "3")
    data = read(path, label="left", regression=True)
    assert data.classes is None
    assert data.y[0].tolist() == [3, 2]
    assert read(write(tmp_path, "x,left\n1,3.5\n2,2\n"), label="left").classes is None


@pytest.mark.parametrize(
    ("text", "given", "words"),
    [
        ("", {}, "empty file"),
        ("key,time,x,label\n", {}, "columns of numbers|at least one row"),
        (TABLE, {"label": None}, r"give label= \(--label\)"),
        (TABLE, {"label": "class"}, "line 1: expected a column 'class'"),
        (TABLE, {"features": ["x", "z"]}, "expected a column 'z'"),
        (TABLE, {"features": ["x", "label"]}, "each column to mean one thing"),
        (TABLE, {"label_per": "window"}, "label_per"),
        (TABLE, {"features": ["note"]}, "line 2: expected a number in 'note', got 'first'"),
        (
            TABLE.replace("b,5", "b,0.5"),
            {},
            "line 5: expected a time after 1.0 of sequence 'b', .*backwards; sort",
        ),
        (TABLE.replace("b,5", "b,1"), {}, "line 5: .*the same time twice"),
        (TABLE.replace("1e3", "nan"), {}, "line 6: expected a finite number in 'x'"),
        (TABLE.replace("1e3", "1e39"), {}, "line 6: expected a finite number in 'x'"),
        (TABLE.replace("1e3", "1_0"), {}, "line 6: expected a number in 'x', got '1_0'"),
        (TABLE.replace("1e3", ""), {}, "line 6: expected a number in 'x', got ''"),
        (TABLE.replace("a,3,", ",3,"), {}, "line 6: expected a key in 'key'"),
        (TABLE.replace("1e3,5,,walk", "1e3,5,,"), {}, "line 6: expected a label in 'label', got none"),
        (TABLE.replace("1e3,5", "1e3"), {}, "line 6: expected 6 columns, got 5"),
        (TABLE.replace("first", '"first'), {}, "line 2: expected a closing quote"),
        (TABLE.replace("key,", "time,"), {"key": None}, "different column names"),
        ("1,2\n3,4\n", {"key": None, "time": None}, "header=False"),
        (TABLE.encode() + b"\xff,4,1,1,,walk\n", {}, "line 7: expected UTF-8, got byte 0xff"),
        (b"key,time,x,label\na,1,\xff,walk\n", {}, r"data\.csv: line 2: expected UTF-8, got byte 0xff"),
        (b"a,b\n" + b"1" * 2**21, {"key": None, "time": None, "label": "b"}, "line 2 is longer"),
    ],
)
def test_wrong_tables(tmp_path, text, given, words):
    with pytest.raises(InputError, match=words) as caught:
        read(write(tmp_path, text), **named(**given))
    assert str(caught.value).startswith((str(tmp_path), "label_per"))


def test_a_key_in_two_streams(tmp_path):
    path = write(tmp_path, "part,who,x,label\np,ann,1,0\np,bob,2,0\n")
    with pytest.raises(InputError, match="line 3: expected sequence 'p' to stay in the stream 'ann', got 'bob'"):
        read(path, key="part", stream="who", label="label")


def test_damaged_gzip(tmp_path):
    with pytest.raises(InputError, match="damaged behind line"):
        read(write(tmp_path, gzip.compress(TABLE.encode())[:-12], "data.csv.gz"), **named())


def parquet(tmp_path, **columns):
    pyarrow = pytest.importorskip("pyarrow")
    import pyarrow.parquet as pq

    path = tmp_path / "data.parquet"
    pq.write_table(pyarrow.table(columns), path)
    return path


def test_parquet(tmp_path):
    path = parquet(
        tmp_path,
        device=[7, 7, 8],
        at=np.array(["2026-01-01T00:00:00", "2026-01-01T00:00:01", "2026-01-01"], "datetime64[ns]"),
        x=np.array([1, 2, 3], np.float32),
        n=[4, 5, 6],
        note=["a", "b", "c"],
        label=[True, True, False],
    )
    data = read(path, key="device", time="at", label="label")
    assert data.features == ("x", "n")
    assert dict(zip(data.keys, [x.tolist() for x in data.x], strict=True)) == {"7": [[1, 4], [2, 5]], "8": [[3, 6]]}
    assert data.classes == ("0", "1")


def test_wrong_parquet(tmp_path):
    path = parquet(tmp_path, x=[1.0, None, 3.0], label=[0, 1, None])
    with pytest.raises(InputError, match="row 2: expected a finite number in 'x'"):
        read(path, label="label")
    with pytest.raises(InputError, match="expected a column 'note'"):
        read(path, label="label", features=["note"])
    path = parquet(tmp_path, x=[1.0, 2.0, 3.0], label=[0, 1, None])
    with pytest.raises(InputError, match="row 3: expected a label"):
        read(path, label="label")
    import pyarrow

    broken = pyarrow.array([b"a", b"\xf1", b"b"]).view(pyarrow.string())
    with pytest.raises(InputError, match="not a readable Parquet file: 'utf-8' codec"):
        read(parquet(tmp_path, x=[1.0, 2.0, 3.0], label=broken), label="label")
    with pytest.raises(InputError, match="not a readable Parquet file"):
        read(write(tmp_path, b"PAR1 and nothing else", "other.parquet"), label="label")


def npz(tmp_path, **arrays):
    path = tmp_path / "data.npz"
    np.savez(path, **arrays)
    return path


def test_npz(tmp_path):
    X = np.arange(24.0).reshape(2, 4, 3)
    data = read(npz(tmp_path, X=X, y=["b", "a"], keys=["k", "l"], features=["x", "y", "z"], classes=["b", "a"]))
    assert np.array_equal(np.stack(data.x), X)
    assert (data.keys, data.features, data.classes) == (("k", "l"), ("x", "y", "z"), ("b", "a"))
    data = read(npz(tmp_path, X=X.reshape(8, 3), y=[0, 1], lengths=[3, 5], streams=["s", "s"]))
    assert data.lengths.tolist() == [3, 5]
    assert data.streams == ("s", "s")


def test_features_of_arrays_are_chosen_not_renamed(tmp_path):
    X = np.arange(24.0).reshape(2, 4, 3)
    path = npz(tmp_path, X=X, y=[0, 1], features=["x", "y", "z"])
    data = read(path, features=["z", "x"])
    assert data.features == ("z", "x")
    assert np.array_equal(np.stack(data.x), X[..., [2, 0]])
    with pytest.raises(InputError, match=r"features: expected some of .*'x', 'y', 'z'.*, got 'load'"):
        read(path, features=["load"])
    path = npz(tmp_path, X=X, y=[0, 1])
    data = read(path, features=["2"])
    assert (data.features, data.named) == (("feature 2",), False)
    assert np.array_equal(np.stack(data.x), X[..., [2]])
    with pytest.raises(InputError, match="numbers, as the file names none, got 'x'"):
        read(path, features=["x", "y", "z"])


def test_columns_without_a_header_have_no_names(tmp_path):
    bare = write(tmp_path, TABLE.partition("\n")[2])
    data = read(bare, key="0", time="1", label="5", features=["2", "3"], header=False)
    assert (data.features, data.named) == (("feature 2", "feature 3"), False)


def test_a_delimiter_holds_for_tsv_too(tmp_path):
    path = write(tmp_path, TABLE.replace(",", ";"), "data.tsv")
    assert read(path, **named(), delimiter=";").features == ("x", "y")


@pytest.mark.parametrize("kind", ["npz", "ts", "parquet"])
@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"delimiter": ","}, "delimiter: expected none for a .{} file"),
        ({"header": False}, "header: expected none for a .{} file"),
        ({"label_per": "sample"}, "label_per: expected sequence for this .{} file"),
    ],
)
def test_options_without_a_use_are_refused(tmp_path, kind, given, words):
    if kind == "npz":
        path = npz(tmp_path, X=np.ones((2, 4, 1)), y=[0, 1])
    else:
        path = write(tmp_path, TS if kind == "ts" else "", f"data.{kind}")
    if kind == "parquet":
        if "label_per" in given:
            assert read(parquet(tmp_path, x=[1.0, 2.0], label=[0, 0]), label="label", **given).per_sample
            return
        given = {**given, "label": "label"}
    with pytest.raises(InputError, match=re.escape(words.format(kind))):
        read(path, **given)


def test_labels_per_sequence_and_per_sample_where_they_are(tmp_path):
    assert not read(write(tmp_path, TS, "tiny.ts"), label_per="sequence").per_sample
    path = npz(tmp_path, X=np.ones((2, 4, 1)), y=np.zeros((2, 4), int))
    assert read(path, label_per="sample").per_sample
    with pytest.raises(InputError, match=r"label_per: expected sample for this \.npz file"):
        read(path, label_per="sequence")


def claiming(shape):
    """An archive with an array that says it is of another shape than it has data for."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        for name in ("X", "y"):
            member = io.BytesIO()
            np.lib.format.write_array_header_1_0(member, {"descr": "<f8", "fortran_order": False, "shape": shape})
            archive.writestr(f"{name}.npy", member.getvalue() + bytes(16))
    return out.getvalue()


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "not a readable .npz"),
        (b"PK\x03\x04 and no more", "not a readable .npz"),
        (claiming((10**9, 10, 10)), r"array X.npy: expected data for shape"),
        (claiming((2**63, 2**63)), r"array X.npy: expected data for shape"),
    ],
)
def test_hostile_npz(tmp_path, content, words):
    with pytest.raises(InputError, match=words):
        read(write(tmp_path, content, "data.npz"))


def test_wrong_npz(tmp_path):
    with pytest.raises(InputError, match=r"got no y in \['X'\]"):
        read(npz(tmp_path, X=np.ones((1, 2, 3))))
    ragged = np.array([np.ones(2), np.ones(3)], object)
    with pytest.raises(InputError, match=r"Python objects, which may hold code; .* with an array of lengths"):
        read(npz(tmp_path, X=ragged, y=[0, 1]))
    with pytest.raises(InputError, match="label: expected none, as only tables have columns"):
        read(npz(tmp_path, X=np.ones((1, 2, 3)), y=[0]), label="y")


TS = """# a comment
@problemName Tiny
@timeStamps false
@missing false
@univariate false
@dimensions 2
@equalLength false
@classLabel true sit walk run
@data
1,2,3:4,5,6:walk
7,8:9,1e1:run
"""


def test_ts(tmp_path):
    data = read(write(tmp_path, TS, "tiny.ts"))
    assert data.classes == ("run", "sit", "walk")  # of the header, so that a part of the data has them too
    assert [int(y) for y in data.y] == [2, 0]
    assert data.x[0].tolist() == [[1, 4], [2, 5], [3, 6]]
    assert data.x[1].tolist() == [[7, 9], [8, 10]]


def test_ts_of_one_channel_and_of_targets(tmp_path):
    text = "@UNIVARIATE TRUE\n@seriesLength 3\n@equalLength true\n@classlabel true 2 10 1\n@DATA\n1,2,3:2\n4,5,6:10\n"
    data = read(write(tmp_path, text, "one.ts"))
    assert data.classes == ("1", "2", "10")
    assert data.x[1].tolist() == [[4], [5], [6]]
    data = read(write(tmp_path, "@targetlabel true\n@data\n1,2:0.5\n3:2\n", "targets.ts"))
    assert data.classes is None
    assert [float(y) for y in data.y] == [0.5, 2]


def test_options_of_ts(tmp_path):
    path = write(tmp_path, TS, "tiny.ts")
    data = read(path, features=["1"])
    assert [x.tolist() for x in data.x] == [[[4], [5], [6]], [[9], [10]]]
    with pytest.raises(InputError, match="features: expected some of"):
        read(path, features=["2"])
    with pytest.raises(
        InputError, match=r"regression: expected a \.ts file with @targetLabel true, got one of classes"
    ):
        read(path, regression=True)
    path = write(tmp_path, "@targetlabel true\n@data\n1,2:1\n3:0\n", "targets.ts")
    assert read(path).classes is None
    assert read(path, regression=True).classes is None
    assert read(path, regression=False).classes == ("0", "1")
    assert read(path, classes=["no", "yes"]).classes == ("no", "yes")


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("7,8:", "7,?:", "line 11: expected a value at every sample, got a missing one in channel 1; fill it"),
        ("7,8:", "7,:", "line 11: expected channels of the same length"),
        ("7,8:", "NaN,8:", "sequence '1', sample 1: expected finite"),
        ("7,8:", "1_1,8:", "line 11: expected numbers in channel 1"),
        ("7,8:", "", "line 11: expected 2 channels and a label between colons, got 1"),
        (":run", ":ran", "line 11: expected one of the classes .*'ran'"),
        ("@timeStamps false", "@timeStamps true", "expected @timeStamps false"),
        ("@classLabel true", "@classLabel false", "no labels"),
        ("@data", "", "line 10: expected @data before the sequences"),
        ("1,2,3:4,5,6:walk\n7,8:9,1e1:run\n", "", "behind @data, got none"),
        (
            "@equalLength false",
            "@equalLength true\n@seriesLength 3",
            "line 12: expected 3 samples, as the header",
        ),
    ],
)
def test_wrong_ts(tmp_path, old, new, words):
    with pytest.raises(InputError, match=words):
        read(write(tmp_path, TS.replace(old, new), "tiny.ts"))


def test_other_files(tmp_path):
    with pytest.raises(InputError, match=r"expected a \.csv, \.tsv"):
        read(write(tmp_path, "x", "data.arff"))
    with pytest.raises(InputError, match="No such file"):
        read(tmp_path / "none.npz")
    with pytest.raises(InputError, match="expected a file"):
        read(tmp_path, label="x")


@pytest.mark.parametrize("first", ["", "n/a", '" "'])
def test_a_column_of_numbers_that_begins_without_one_is_not_left_out_silently(tmp_path, first):
    path = write(tmp_path, f"x,y,label\n1,{first},a\n2,,a\n3,0.5,a\n4,7,a\n")
    with pytest.raises(
        InputError, match=r"line 4: expected no number in 'y', .* got 2 cells with numbers; .*--features"
    ):
        read(path, label="label")
    assert read(path, label="label", features=["x"]).features == ("x",)
    with pytest.raises(InputError, match="line 2: expected a number in 'y'"):
        read(path, label="label", features=["x", "y"])


def test_notes_may_hold_a_number(tmp_path):
    path = write(tmp_path, "x,note,nothing,label\n1,,,a\n2,late,nan,a\n3,7,nan,a\n")
    assert read(path, label="label").features == ("x",)
    bare = write(tmp_path, "1,,a\n2,5,a\n", "bare.csv")
    with pytest.raises(InputError, match="line 2: expected no number in '1'"):
        read(bare, label="2", header=False)


@pytest.mark.parametrize(("name", "got"), [("data.xlsx", "the ending .xlsx"), ("data", "a name without ending")])
def test_an_ending_that_nothing_reads_is_named_before_any_option(tmp_path, name, got):
    (tmp_path / name).write_text("a,b")
    for options in ({}, {"label": "b"}, {"header": False}):
        with pytest.raises(InputError, match=rf"expected a .csv, .tsv or .txt .*\.npz or \.ts file, got {got}"):
            read(tmp_path / name, **options)


def test_labels_per_sample_that_look_like_columns_of_classes(tmp_path):
    np.savez(path := tmp_path / "data.npz", X=np.ones((3, 3, 1)), y=np.eye(3))
    with pytest.raises(InputError, match="--label-per sample"):
        read(path)
    assert read(path, label_per="sample").per_sample


def test_a_column_of_which_float32_keeps_nothing_is_named(tmp_path):
    rows = [f"{key},{1.7e9 + 3 * t},{t % 3},{key}" for key in (0, 1) for t in range(20)]
    path = write(tmp_path, "\n".join(["key,at,x,label", *rows]))
    with pytest.raises(InputError, match=r"feature 'at': .*subtract an offset"):
        read(path, key="key", label="label")
    assert read(path, key="key", time="at", label="label").features == ("x",)


FLAGS = "key,time,on,note,label\na,1,True,,x\na,2,false,on,x\nb,1,FALSE,,y\nb,2,True,off,y\n"


def test_true_and_false_are_1_and_0_and_columns_without_numbers_are_told(tmp_path):
    data = read(write(tmp_path, FLAGS), **named())
    assert data.features == ("on",)
    assert [x.tolist() for x in data.x] == [[[1], [0]], [[0], [1]]]
    assert data.left_out == ("note",)
    assert read(write(tmp_path, FLAGS), **named(features=["on"])).left_out == ()


def test_true_and_false_in_parquet(tmp_path):
    pa = pytest.importorskip("pyarrow")
    columns = {"key": ["a", "b"], "on": [True, False], "note": ["", "x"], "label": [0, 1]}
    pytest.importorskip("pyarrow.parquet").write_table(pa.table(columns), path := tmp_path / "data.parquet")
    data = read(path, key="key", label="label")
    assert [x.tolist() for x in data.x] == [[[1]], [[0]]]
    assert data.left_out == ("note",)


@pytest.mark.parametrize("delimiter", [";", "\t"])
def test_another_delimiter_is_recognised_and_named(tmp_path, delimiter):
    path = write(tmp_path, TABLE.replace(",", delimiter))
    with pytest.raises(InputError, match=re.escape(f"say delimiter={delimiter!r} (--delimiter {delimiter!r})")):
        read(path, **named())
    assert read(path, **named(), delimiter=delimiter).features == ("x", "y")
    for wrong in ("", ", ", "\n", '"'):
        with pytest.raises(InputError, match="delimiter: expected one character"):
            read(path, **named(), delimiter=wrong)
