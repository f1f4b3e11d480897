"""`stepstream state ...` on a store: what a user sees, and that what is refused changes nothing."""

import contextlib
import io
import json
import sys
import zipfile
from pathlib import Path

import h5py
import numpy as np
import pytest

import stepstream
from command import NO_SERVER, run
from stepstream import Engine
from stepstream.cli import main
from stepstream.live.look import Listing, streams
from stepstream.stores.sqlite import SqliteStore
from stores.conftest import redis_server  # noqa: F401

SAMPLES = np.random.default_rng(3).normal(size=(60, 3)).astype(np.float32)
KEYS = ["dev-1", 7, b"\x00\xff", "a\x1b[31mb"]


@pytest.fixture(params=["sqlite", "redis"])
def where(request, tmp_path, monkeypatch):
    """The name of a store that is not there yet."""
    monkeypatch.chdir(tmp_path)
    if request.param == "sqlite":
        return "states.db"
    name = "".join(c if c.isalnum() else "-" for c in request.node.name)
    return request.getfixturevalue("redis_server").url(name)


@pytest.fixture
def db(tmp_path, monkeypatch):
    """The name of a SQLite store that is not there yet, in the current folder."""
    monkeypatch.chdir(tmp_path)
    return "states.db"


@pytest.fixture
def renewed(path, tmp_path):
    """The packaged model with other weights."""
    new = tmp_path / "renewed.keras"
    with zipfile.ZipFile(path) as source, zipfile.ZipFile(new, "w") as target:
        for name in source.namelist():
            data = source.read(name)
            if name.endswith(".h5"):
                image = io.BytesIO()
                with h5py.File(io.BytesIO(data)) as old, h5py.File(image, "w") as file:
                    for item in old:
                        old.copy(item, file)
                    file.visititems(lambda _, o: o.write_direct(o[()] * 0.9) if isinstance(o, h5py.Dataset) else None)
                data = image.getvalue()
            target.writestr(name, data)
    return str(new)


def fill(where, model, keys=KEYS, **options):
    with Engine(model, "carry", where, **options) as e:
        for i, key in enumerate(keys):
            for n in range(i + 2):
                e.step(key, SAMPLES[n], seq=n, time=1_700_000_000 + n)
        e.step("over", SAMPLES[0], seq=0, end=True)
    return where


def crashed(engine):
    engine._tender.stop()
    engine._streams.vault.store.close()


def here(*arguments, code=0):
    """As `run`, quickly, in this process: (stdout, stderr). Not where it holds an engine of the same file."""
    out, err = io.StringIO(), io.StringIO()
    with (
        pytest.MonkeyPatch.context() as patch,
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
    ):
        patch.setattr(sys, "argv", ["stepstream", "state", *map(str, arguments)])
        status = main._status()
    assert status == code, err.getvalue()
    return out.getvalue(), err.getvalue()


def said(*arguments, code=0):
    return here(*arguments, code=code)[0]


def refused(*arguments):
    out, err = here(*arguments, code=2)
    assert out == ""
    (line,) = [line for line in err.splitlines() if not line.startswith("stepstream: warning: ")]  # of no kernel
    return line.removeprefix("stepstream: ")


def listed(*arguments):
    return json.loads(said("ls", *arguments, "--json"))


def beside(*arguments):
    """What a process says beside this one, which has an engine."""
    return run("state", *arguments).stdout.decode()


# ls and show


def test_ls_lists_streams_of_all_kinds_of_keys(where, model):
    fill(where, model)
    found = listed(where)
    assert {(s["key"], s["key_type"]): (s["age"], s["samples"], s["time"], s["seq"]) for s in found["streams"]} == {
        ("dev-1", "str"): (2, 2, 1_700_000_001.0, 1),
        (7, "int"): (3, 3, 1_700_000_002.0, 2),
        ("00ff", "bytes"): (4, 4, 1_700_000_003.0, 3),
        ("a\x1b[31mb", "str"): (5, 5, 1_700_000_004.0, 4),
    }
    assert (found["journal_entries"], found["more"], found["damaged"]) == (0, False, [])
    text = said("ls", where)
    for line in ("dev-1", "7 (int)", "00ff (bytes)", r"'a\x1b[31mb'"):
        assert line in text
    assert "2023-11-14 22:13:22" in text
    assert "\x1b" not in text
    assert len(listed(where, "--limit", 2)["streams"]) == 2
    assert "and more than these 2; --limit shows more" in said("ls", where, "--limit", 2)


def test_ls_beside_a_running_engine_says_what_it_does_not_know(where, model, path):
    fill(where, model)
    with Engine(model, "carry", where) as e:
        before = e.step("dev-1", SAMPLES[2])
        found, exact = (json.loads(beside("ls", where, "--json", *o)) for o in ((), ("--model", path)))
        ages = {s["key"]: s["age"] for s in found["streams"]}
        sqlite = where == "states.db"
        assert found["journal_entries"] == (1 if sqlite else 0)
        assert ages["dev-1"] == (2 if sqlite else 3)
        assert exact["journal_entries"] == 0
        assert {s["key"]: s["age"] for s in exact["streams"]}["dev-1"] == before.age == 3
        if sqlite:
            out = run("state", "ls", where)
            assert b"1 journal entry is not yet in the records, which may be behind: --model replays" in out.stderr
        assert e.step("dev-1", SAMPLES[3]).age == 4  # it still has its store


def test_ls_of_a_crash_with_its_model_is_exact_and_writes_nothing(db, model, path):
    e = Engine(model, "carry", db)
    for n in range(9):
        e.step_many([f"k{i}" for i in range(n + 1)], SAMPLES[: n + 1])
    crashed(e)
    before = Path(db).read_bytes()
    assert listed(db)["streams"] == []
    assert {s["key"]: s["age"] for s in listed(db, "--model", path)["streams"]} == {f"k{i}": 9 - i for i in range(9)}
    assert Path(db).read_bytes() == before


def test_show_says_what_a_store_holds(where, model):
    fill(where, model)
    about = json.loads(said("show", where, "--json"))
    assert about["header"]["fingerprint"] == model.fingerprint
    assert about["header"]["windowing"] == "carry"
    assert (about["streams"], about["ended"], about["damaged"], about["journal_entries"]) == (4, 1, 0, 0)
    text = said("show", where)
    assert f"fingerprint  {model.fingerprint}" in text
    assert "ended        1, whose numbers are kept" in text
    assert ("file" in text) == (where == "states.db")


def test_show_of_one_stream(where, model):
    fill(where, model, remember=3, keep=2)
    about = json.loads(said("show", where, "00ff", "--key-type", "bytes", "--json"))
    assert (about["key"], about["key_type"], about["age"], about["seq"], about["ended"]) == (
        "00ff",
        "bytes",
        4,
        3,
        False,
    )
    assert (about["remember"], about["keep"], about["features"]) == (3, 2, 3)
    text = said("show", where, "7", "--key-type", "int")
    assert "stream       7 (int)\nage          3\nsamples      3\nlast time    2023-11-14T22:13:22+00:00\n" in text
    assert "stream       over, ended" in said("show", where, "over")


def test_show_still_knows_state_files(db, model):
    stream = model.stream("carry")
    stream.step(SAMPLES[0])
    stream.save("state.h5")
    assert f"fingerprint: {model.fingerprint}" in said("show", "state.h5")
    assert "KEY: expected none for a state file, got 'dev-1'" in refused("show", "state.h5", "dev-1")


# export and import


def test_a_state_goes_out_and_comes_back_to_the_bit(where, model, path):
    fill(where, model)
    with Engine(model, "carry", where) as e:
        state = e.export(7)
        assert beside("export", where, "7", "--key-type", "int", "--model", path, "--to", "7.h5") == "7 (int) -> 7.h5\n"
        e.step("dev-1", SAMPLES[2], seq=2)  # it still has its store
    stream = model.stream("carry")
    stream.load("7.h5")
    assert stream.snapshot().row.tobytes() == state.row.tobytes()
    said("import", "7.h5", where, "new", "--model", path)
    said("import", "7.h5", where, "dev-1", "--model", path, "--replace")
    with Engine(model, "carry", where) as e:
        assert e.export(7) == e.export("new") == e.export("dev-1") == state
        assert e.step("dev-1", SAMPLES[2], seq=2).duplicate  # its numbers stay
        assert e.step("new", SAMPLES[3]).value == stream.step(SAMPLES[3])


@pytest.mark.parametrize("windowing", ["tumbling(7)", "sliding(7)", "session(10)"])
def test_any_windowing_goes_out_and_comes_back(db, model, path, windowing):
    e = Engine(model, windowing, db)
    e.step_many(["a"] * 9 + ["b"], SAMPLES[:10], time=list(range(10)))
    state = e.export("a")
    beside("export", db, "a", "--model", path, "--to", "a.h5")  # from the journal
    e.close()
    said("import", "a.h5", db, "c", "--model", path)
    with Engine(model, windowing, db) as e:
        assert e.export("c") == state


# reset, compact, verify


def test_reset(where, model, path):
    fill(where, model)
    assert said("reset", where, "dev-1", "a\x1b[31mb", "--model", path).startswith("dev-1 begins anew\n'a\\x1b")
    assert said("reset", where, "over", "--model", path, "--delete") == "over deleted\n"
    with Engine(model, "carry", where) as e:
        assert {s.key: (s.age, s.seq) for s in e.streams()}["dev-1"] == (0, 1)
        assert not e.step("over", SAMPLES[0], seq=0).duplicate


def test_reset_keeps_what_others_remember(db, model, path):
    with Engine(model, "carry", db, remember=4, keep=3) as e:
        answers = [e.step("a", x, seq=i) for i, x in enumerate(SAMPLES[:4])]
        e.step("b", SAMPLES[0])
    e = Engine(model, "carry", db, remember=4, keep=3)
    e.step("a", SAMPLES[4], seq=4)
    crashed(e)
    said("reset", db, "b", "--model", path)
    with Engine(model, "carry", db, remember=4, keep=3) as e:
        assert e.step("a", SAMPLES[1], seq=1) == answers[1]._replace(duplicate=True)
        assert np.array_equal(e._streams.table.kept(e._streams.find("a")), SAMPLES[2:5])


def test_compact_gives_back_room(db, model):
    with Engine(model, "carry", db) as e:
        for i in range(20):
            e.step_many([f"{i}-{n}" for n in range(60)], SAMPLES)
    with Engine(model, "carry", db) as e:
        for info in e.streams():
            e.reset(info.key, delete=True)
    size = Path(db).stat().st_size
    assert "kB given back" in said("compact", db)
    assert Path(db).stat().st_size < size / 3
    assert said("compact", db) == "0 bytes given back\n"


def test_compact_of_a_server(model, redis_server):  # noqa: F811
    where = redis_server.url("compact")
    with Engine(model, "carry", where) as e:
        assert beside("compact", where) == "the server gives back room by itself\n"
        e.step("a", SAMPLES[0])  # it still has its store


def test_verify_lists_what_is_damaged(db, model, path):
    fill(db, model)
    assert said("verify", db) == said("verify", db, "--model", path) == "nothing is damaged\n"
    data = bytearray(Path(db).read_bytes())
    data[data.index(b"sdev-1") + 60] ^= 1  # in its record
    Path(db).write_bytes(data)
    assert said("verify", db, code=1) == "record of key b'sdev-1': its checksum does not fit\n"
    assert json.loads(said("verify", db, "--json", code=1))["ok"] is False
    assert listed(db)["damaged"] == [{"key": "dev-1", "key_type": "str"}]
    assert "1 damaged record" in said("ls", db)
    assert "1 record; `stepstream state verify` names them" in said("show", db)
    assert "stream 'dev-1': its record in the store is damaged" in refused("show", db, "dev-1")
    assert "stream 'dev-1': its record" in refused("export", db, "dev-1", "--model", path, "--to", "x.h5")
    model.stream("carry").save("x.h5")
    assert "stream 'dev-1': its record" in refused("import", "x.h5", db, "dev-1", "--model", path)
    assert "stream 'dev-1': its record" in refused("reset", db, "dev-1", "--model", path)
    said("reset", db, "dev-1", "--delete", "--model", path)
    assert said("verify", db, "--model", path) == "nothing is damaged\n"


def test_verify_finds_what_has_a_checksum_and_is_no_record(db, model, path, renewed):
    fill(db, model)
    store = SqliteStore(db)
    store.open({})
    store.put(store._last, [(b"sbad", b"no record"), (b"?", b"no key")])
    store.commit(b"\x01no entry", tuple, ())
    store.close()
    for options in ((), ("--model", path)):
        bad, key, entry = said("verify", db, *options, code=1).splitlines()
        assert "record of key b'sbad': stream 'bad': expected a record of layout 1" in bad
        assert "record of key b'?': expected the key of a stream" in key
        assert "journal: journal entry" in entry
    assert "header: expected a store of fingerprint" in said("verify", db, "--model", renewed, code=1)


def test_verify_of_a_server(model, redis_server):  # noqa: F811
    where = fill(redis_server.url("verify"), model)
    assert said("verify", where) == "nothing is damaged\n"
    client = redis_server.client()
    (name,) = client.keys("*{verify}:state:sdev-1")
    client.set(name, b"damaged")
    assert said("verify", where, code=1) == "record of key b'sdev-1': its checksum does not fit\n"


# migrate


def test_migrate(where, model, path, renewed):
    fill(where, model, keep=4)
    text = said("migrate", where, "--to", renewed, "--how", "replay")
    assert "streams    4\nexact      3, whose kept samples reach back" in text
    assert "not exact  1, which begin with the samples that were kept\nended      1," in text
    assert f"states.db.before-{model.fingerprint[:12]}" in text
    text = said("migrate", where, "--from", renewed, "--to", path, "--how", "keep", "--no-backup")
    assert f"model    {model.fingerprint}\nstreams  4\n" in text
    assert "backup   none" in text
    arguments = "migrate", where, "--to", renewed, "--how", "reset", "--backup", "b.db", "--windowing", "tumbling(5)"
    done = json.loads(said(*arguments, "--json"))
    assert done == {"how": "reset", "streams": 4, "ended": 1, "exact": 0, "backup": "b.db"}
    with Engine(stepstream.load(renewed), "tumbling(5)", where) as e:
        assert {s.age for s in e.streams()} == {0}
    assert listed("b.db", "--model", path)["journal_entries"] == 0


# what is refused

BAD = {
    "ls of nothing": (["ls", "none.db"], "none.db: expected a store, got no file"),
    "ls of a folder": (["ls", "."], "expected a store, got a folder"),
    "ls of a text": (["ls", "text"], "text: expected a store"),
    "ls of an empty file": (["ls", "empty"], "empty: expected a store, got an empty file"),
    "ls of no server": (["ls", "redis://127.0.0.1:1/0"], NO_SERVER),
    "ls of another model": (["ls", "states.db", "--model", "NEW"], "expected a store of fingerprint"),
    "ls of no model": (["ls", "states.db", "--model", "none.keras"], "none.keras"),
    "show of nothing": (
        ["show", "none.db"],
        "none.db: expected a store, as an engine makes it, or a state file, got no f",
    ),
    "show of a stream in nothing": (["show", "none.db", "dev-1"], "or a state file, got no file"),
    "show of a folder": (["show", "."], "or a state file, got a folder; name a file in it"),
    "show of a stream in an empty file": (
        ["show", "empty", "dev-1"],
        "or a state file, got an empty file; put a backup",
    ),
    "show of a stream in a text": (["show", "text", "dev-1"], "or a state file, got other content; put a backup"),
    "show of an unknown key": (
        ["show", "states.db", "x"],
        "expected the key of a stream, got 'x', which has no record",
    ),
    "a key type": (["show", "states.db", "x", "--key-type", "float"], "--key-type: expected str, bytes or int"),
    "no whole number": (["show", "states.db", "x", "--key-type", "int"], "KEY: expected a whole number"),
    "no hex": (["show", "states.db", "x", "--key-type", "bytes"], "KEY: expected bytes in hex"),
    "export of an unknown key": (
        ["export", "states.db", "x", "--model", "OLD", "--to", "x.h5"],
        "expected the key of a stream, got 'x'",
    ),
    "export of one that ended": (
        ["export", "states.db", "over", "--model", "OLD", "--to", "x.h5"],
        "expected the key of a stream, got 'over'",
    ),
    "export to nowhere": (["export", "states.db", "dev-1", "--model", "OLD", "--to", "no/x.h5"], "cannot be written"),
    "export of another model": (
        ["export", "states.db", "dev-1", "--model", "NEW", "--to", "x.h5"],
        "`stepstream state migrate`",
    ),
    "import where a stream is": (
        ["import", "state.h5", "states.db", "dev-1", "--model", "OLD"],
        "expected a new key, got 'dev-1', which has a stream; --replace",
    ),
    "import of a text": (["import", "text", "states.db", "x", "--model", "OLD"], "text: not a readable state file"),
    "import of nothing": (["import", "none.h5", "states.db", "x", "--model", "OLD"], "none.h5"),
    "import into another model's": (["import", "state.h5", "states.db", "x", "--model", "NEW"], "expected a store of"),
    "import into nothing": (["import", "state.h5", "none.db", "x", "--model", "OLD"], "expected a store, got no file"),
    "import of another windowing": (
        ["import", "other.h5", "states.db", "x", "--model", "OLD"],
        r"expected the state of windowing carry, got one of tumbling(7)",
    ),
    "reset of an unknown key": (
        ["reset", "states.db", "dev-1", "x", "y", "--model", "OLD"],
        "expected keys of streams, got 'x', 'y', of which there is none",
    ),
    "reset of one that ended": (["reset", "states.db", "over", "--model", "OLD"], "got 'over', of which there is none"),
    "reset by another model": (["reset", "states.db", "dev-1", "--model", "NEW"], "expected a store of fingerprint"),
    "compact of nothing": (["compact", "none.db"], "expected a store, got no file"),
    "verify of nothing": (["verify", "none.db"], "expected a store, got no file"),
    "verify of a text": (["verify", "text"], "text: expected a store"),
    "migrate of nothing": (["migrate", "none.db", "--to", "NEW", "--how", "reset"], "expected a store, got no file"),
    "another way": (
        ["migrate", "states.db", "--to", "NEW", "--how", "copy"],
        "how: expected one of reset, keep, replay",
    ),
    "to the same model": (
        ["migrate", "states.db", "--to", "OLD", "--how", "reset"],
        "expected a store of another model",
    ),
    "keep without a model": (["migrate", "states.db", "--to", "NEW", "--how", "keep"], "--from, got none"),
    "replay of nothing kept": (["migrate", "states.db", "--to", "NEW", "--how", "replay"], "expected kept samples"),
    "from another model": (
        ["migrate", "states.db", "--from", "NEW", "--to", "NEW", "--how", "reset", "--windowing", "tumbling(3)"],
        "expected a store of fingerprint",
    ),
    "backup over a file": (
        ["migrate", "states.db", "--to", "NEW", "--how", "reset", "--backup", "text"],
        "text: expected the name of a new file",
    ),
    "backup and none": (
        ["migrate", "states.db", "--to", "NEW", "--how", "reset", "--backup", "b", "--no-backup"],
        "--backup: expected none beside --no-backup",
    ),
}


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    """A folder with all that the commands below are given."""
    folder = tmp_path_factory.mktemp("bad")
    from importlib.resources import files

    model = stepstream.load(files("stepstream") / "data" / "motions" / "model.keras")
    fill(str(folder / "states.db"), model)
    for windowing, name in (("carry", "state.h5"), ("tumbling(7)", "other.h5")):
        stream = model.stream(windowing)
        stream.step(SAMPLES[0])
        stream.save(folder / name)
    (folder / "text").write_text("text\n" * 99)
    (folder / "empty").touch()
    return folder


@pytest.mark.parametrize("case", BAD)
def test_bad_input_gets_one_error_and_changes_nothing(tree, case, path, renewed, monkeypatch):
    monkeypatch.chdir(tree)
    arguments, expected = BAD[case]
    before = {p.name: p.stat().st_size for p in tree.iterdir() if "claim" not in p.name}, streams("states.db")
    line = refused(*({"OLD": path, "NEW": renewed}.get(a, a) for a in arguments))
    assert expected in line
    after = {p.name: p.stat().st_size for p in tree.iterdir() if "claim" not in p.name}, streams("states.db")
    assert after == before
    assert isinstance(after[1], Listing)


@pytest.mark.parametrize(
    "arguments",
    [
        ["import", "state.h5", "states.db", "x", "--model", "OLD"],
        ["reset", "states.db", "dev-1", "--model", "OLD"],
        ["compact", "states.db"],
        ["migrate", "states.db", "--to", "NEW", "--how", "reset"],
    ],
)
def test_a_store_that_an_engine_has_is_left_to_it(tree, arguments, model, path, renewed, monkeypatch):
    monkeypatch.chdir(tree)
    with Engine(model, "carry", "states.db"):
        line = refused(*({"OLD": path, "NEW": renewed}.get(a, a) for a in arguments))
    assert "expected a store that no engine has, got one that is open in process" in line


def test_an_export_replaces_nothing_but_a_state_file(db, model, path):
    """Not the store, nor a file beside it, nor the model, whatever their names; nor anything else."""
    fill(db, model)
    own = Path("model.keras")
    own.write_bytes(Path(path).read_bytes())
    Path("link.db").hardlink_to(db)
    Path("link.keras").hardlink_to(own)
    Path("notes.txt").write_text("somebody's only copy\n")
    with h5py.File("weights.h5", "w") as file:
        file["weights"] = [1.0]
    before = {p.name: p.read_bytes() for p in Path().iterdir()}
    options = ("dev-1", "--model", own, "--to")
    for name in (db, f"./{db}", "link.db", own, "link.keras", f"{db}-wal", f"{db}-shm", f"{db}-journal", f"{db}-claim"):
        assert "--to: expected another file than that of" in refused("export", db, *options, name), name
    for name in ("notes.txt", "weights.h5", "."):
        assert "expected a new file, or a state file by stepstream" in refused("export", db, *options, name)
    assert {p.name: p.read_bytes() for p in Path().iterdir()} == before
    said("export", db, *options, "state.h5")
    said("export", db, *options, "state.h5")


def test_keys_that_could_be_taken_for_others_are_quoted(db, model):
    """An empty one too, which is that of a run without --key."""
    keys = ["", " ", "7 (int)", 7, "'a'", "-a", "a b"]
    fill(db, model, keys)
    shown = said("ls", db).splitlines()
    for text in ("''  ", "' '  ", "'7 (int)'  ", "7 (int)  ", "\"'a'\"  ", "-a  ", "a b  "):
        assert any(line.startswith(text) for line in shown), text
    assert "stream       ''\n" in said("show", db, "")
    assert "stream       -a\n" in said("show", db, "--", "-a")


def test_a_malformed_file_is_not_sent_to_verify_by_verify(db, model):
    fill(db, model)
    data = bytearray(Path(db).read_bytes())
    data[100:8192] = b"\xff" * 8092
    Path(db).write_bytes(data)
    line = refused("verify", db)
    assert "put a backup in its place" in line
    assert "verify" not in line
