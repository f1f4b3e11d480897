"""What happens to a SQLite store that is killed, cut off, damaged, full, read-only, or on a disk that fails."""

import os
import random
import re
import sqlite3
import subprocess
import sys
import threading
from collections import deque
from contextlib import closing
from pathlib import Path

import pytest

from stepstream.errors import StoreError
from stepstream.stores import checkpoints
from stepstream.stores.sqlite import SqliteStore
from stepstream.stores.sqlite_file import Claim
from stepstream.stores.turns import Turns
from stores.damage import crashed, flip
from stores.writer import KEYS, expected, recovered

HERE = Path(__file__).parent


def commit(store, entry=b"entry"):
    return store.commit(entry, lambda: (), ())


@pytest.mark.slow
def test_killed_at_any_moment(tmp_path):
    path = tmp_path / "states.db"
    rng = random.Random(5)
    for _ in range(12):
        writer = subprocess.Popen([sys.executable, HERE / "writer.py", path], stdout=subprocess.PIPE)
        said = [int(writer.stdout.readline()) for _ in range(rng.randint(1, 60))]
        writer.kill()
        said += [int(line) for line in writer.stdout.read().splitlines() if line]
        writer.stdout.close()
        writer.wait()
        store = SqliteStore(path)
        store.open({})
        last, sums = recovered(store)
        assert last in (said[-1], said[-1] + 1), "the one that nobody acknowledged may be there"
        assert sums == {key: expected(key, last) for key in range(KEYS)}
        assert store.verify() == []
        store.close()


@pytest.mark.parametrize("durability", ["sync", "interval", "none"])
def test_a_crash_of_the_process_loses_nothing(sqlite, tmp_path, durability):
    store = sqlite(durability=durability)
    numbers = [commit(store) for _ in range(30)]
    store.put(20, [(b"a", b"1")])
    store.trim(10)
    copy = SqliteStore(crashed(store.path, tmp_path))
    copy.open({})
    assert [n for n, _ in copy.journal()] == numbers[10:]
    assert [(s.key, s.number, s.record) for s in copy.records()] == [(b"a", 20, b"1")]
    copy.close()


def test_a_log_that_is_cut_off_anywhere(sqlite, tmp_path):
    store = sqlite()
    for n in range(20):
        commit(store, b"%d" % n * 500)
        store.put(n + 1, [(b"key", b"%d" % n)])
    rng = random.Random(6)
    size = Path(f"{store.path}-wal").stat().st_size
    found = []
    for length in sorted(rng.randrange(size) for _ in range(25)):
        image = crashed(store.path, tmp_path)
        os.truncate(f"{image}-wal", length)
        if length % 2:  # a page that was written in part: its end is whatever was there
            with open(f"{image}-wal", "ab") as log:
                log.write(rng.randbytes(9000))
        copy = SqliteStore(image)
        copy.open({})
        entries = list(copy.journal())
        assert entries == [(n + 1, b"%d" % n * 500) for n in range(len(entries))]
        stored = next(iter(copy.get([b"key"])), None)
        assert (stored.number if stored else 0) in (len(entries), len(entries) - 1)
        assert copy.verify() == []
        assert commit(copy) == len(entries) + 1
        copy.close()
        found.append(len(entries))
    assert found == sorted(found)
    assert len(set(found)) > 10


def test_a_damaged_record_is_named_and_the_others_served(sqlite):
    store = sqlite()
    store.put(0, [(b"before", b"1"), (b"key", b"a record to be found"), (b"after", b"3")])
    store.close()
    flip(store.path, store.path.read_bytes().index(b"record to be"))
    store = sqlite()
    assert {s.key: s.record for s in store.records()} == {b"before": b"1", b"key": None, b"after": b"3"}
    assert store.get([b"key"])[0].record is None
    assert store.get([b"after"])[0].record == b"3"
    assert store.verify() == ["record of key b'key': its checksum does not fit"]
    store.put(0, [(b"key", b"anew")])
    assert store.get([b"key"])[0].record == b"anew"
    assert store.verify() == []


def test_a_damaged_entry_is_named(sqlite):
    store = sqlite()
    for n in range(5):
        commit(store, b"entry to be found, number %d" % n)
    store.close()
    flip(store.path, store.path.read_bytes().index(b"found, number 2"))
    store = sqlite()
    journal = store.journal()
    assert [next(journal)[0], next(journal)[0]] == [1, 2]
    with pytest.raises(StoreError, match=r"states\.db: expected journal entry 3 as it was written, got a damaged one"):
        next(journal)
    assert ["journal entry 3" in line for line in store.verify()] == [True]


def test_a_missing_entry_is_named(sqlite):
    store = sqlite()
    for _ in range(5):
        commit(store)
    store.close()
    with closing(sqlite3.connect(store.path)) as db:
        db.execute("DELETE FROM journal WHERE number = 3")
        db.commit()
    with pytest.raises(StoreError, match="expected journal entry 3 as it was written, got number 4"):
        list(sqlite().journal())


def test_a_damaged_header_is_refused(sqlite):
    store = sqlite()
    store.close()
    flip(store.path, store.path.read_bytes().index(b"f00d"))
    with pytest.raises(StoreError, match="expected a header as it was written, got a damaged one at b'fingerprint'"):
        sqlite()


@pytest.mark.slow
def test_a_byte_that_flips_anywhere_is_never_believed(sqlite, tmp_path):
    """Any place of the file, in any of its structures: what comes out is right, or missing with a complaint."""
    records = {b"key %d" % n: b"%d" % n * 40 for n in range(100)}
    store = sqlite()
    for n in range(20):
        commit(store, b"%d" % n * 1000)
    store.put(5, records.items())
    store.trim(5)
    store.close()
    whole = store.path.read_bytes()
    rng = random.Random(7)
    complaints = 0
    for at in [*range(100), *(rng.randrange(len(whole)) for _ in range(150))]:
        path = tmp_path / "flipped.db"
        path.write_bytes(whole)
        flip(path, at)
        copy = SqliteStore(path)
        found, complained = {}, []
        try:
            copy.open({})
            complained += copy.verify()
            for stored in copy.records():
                found[stored.key] = stored.record
            for number, entry in copy.journal():
                assert entry == b"%d" % (number - 1) * 1000
        except StoreError as e:
            complained.append(str(e))
        finally:
            copy.close()
        assert all(record is None or records[key] == record for key, record in found.items())
        assert complained or found == records, at
        complaints += bool(complained)
    assert complaints > 20


def test_opened_twice(sqlite, tmp_path):
    store = sqlite()
    link = tmp_path / "link.db"
    link.symlink_to(store.path)
    for path in (store.path, link):
        with pytest.raises(StoreError, match=f"no engine has, got one that is open in process {os.getpid()}; close it"):
            SqliteStore(path).open({})
    code = "import sys; from stepstream.stores.sqlite import SqliteStore; SqliteStore(sys.argv[1]).open({})"
    other = subprocess.run([sys.executable, "-c", code, store.path], capture_output=True, text=True)
    assert f"open in process {os.getpid()}" in other.stderr
    commit(store)
    with closing(sqlite3.connect(f"file:{store.path}?mode=ro", uri=True)) as tool:  # who only reads may
        assert tool.execute("SELECT count(*) FROM journal").fetchone() == (1,)
    assert commit(store) == 2


def test_a_newer_schema_is_refused(sqlite):
    store = sqlite()
    store.close()
    with closing(sqlite3.connect(store.path)) as db:
        db.execute("PRAGMA user_version = 7")
    with pytest.raises(StoreError, match="expected a store of schema 1, got schema 7; use the newer stepstream"):
        sqlite()


def test_other_files_are_refused_and_left_as_they_are(tmp_path):
    other = tmp_path / "other.db"
    with closing(sqlite3.connect(other)) as db:
        db.execute("CREATE TABLE people (name)")
    text = tmp_path / "notes.txt"
    text.write_text("not a database " * 100)
    for path, message in ((other, "got another SQLite database"), (text, "SQLITE_NOTADB")):
        before = path.read_bytes()
        with pytest.raises(StoreError, match=message):
            SqliteStore(path).open({})
        assert path.read_bytes() == before
    with pytest.raises(StoreError, match="expected a store that can be read and written"):
        SqliteStore(tmp_path / "no folder" / "states.db").open({})


@pytest.mark.parametrize(
    ("path", "options", "message"),
    [
        ("", {}, "expected the path of a store"),
        ("a\0b", {}, "expected the path of a store"),
        ("a", {"durability": "always"}, "one of sync, interval, none, got 'always'"),
        ("a", {"interval": 0}, "an interval in seconds above 0, got 0"),
        ("a", {"interval": float("nan")}, "above 0, got nan"),
    ],
)
def test_wrong_arguments(path, options, message):
    with pytest.raises(StoreError, match=message):
        SqliteStore(path, **options)


def test_a_full_disk(small_disk):
    store = SqliteStore(small_disk / "states.db")
    store.open({})
    ballast = small_disk / "ballast"
    ballast.write_bytes(bytes(1 << 20))
    acknowledged = []
    with pytest.raises(StoreError, match="free space on its disk, then open the store again"):
        acknowledged.extend(commit(store, b"x" * 20_000) for _ in range(100))
    assert len(acknowledged) > 5
    with pytest.raises(StoreError, match=r"got one that broke earlier; open it again .*SQLITE_FULL"):
        commit(store)
    with pytest.raises(StoreError, match="broke earlier"):
        store.get([b"key"])
    ballast.unlink()
    store.close()
    store.open({})
    assert [n for n, _ in store.journal()] == acknowledged
    assert commit(store) == len(acknowledged) + 1
    assert store.verify() == []
    store.close()


def test_a_backup_to_a_full_disk_breaks_nothing(sqlite, small_disk):
    store = sqlite()
    for _ in range(30):
        commit(store, b"x" * 100_000)
    with pytest.raises(StoreError, match="free space"):
        store.backup(str(small_disk / "backup.db"))
    assert list(small_disk.iterdir()) == []
    assert commit(store) == 31


def test_a_read_only_disk(small_disk):
    store = SqliteStore(small_disk / "states.db")
    store.open({})
    commit(store)
    store.close()
    subprocess.run(["mount", "-o", "remount,ro", small_disk], check=True)
    with pytest.raises(StoreError, match=r"expected a store that can be read and written, got .*Read-only"):
        store.open({})


def test_a_read_only_file(sqlite):
    store = sqlite()
    store.close()
    store.path.chmod(0o444)
    if os.access(store.path, os.W_OK):
        pytest.skip("root may write to any file; test_a_read_only_disk is for root")
    with pytest.raises(StoreError, match=r"SQLITE_READONLY.*make the file and its folder writable"):
        sqlite()


FAILING = """
import os, sys
from stepstream.errors import StoreError
from stepstream.stores.sqlite import SqliteStore
from stepstream.stores.sqlite_file import Claim

def tried(call):
    try:
        return call()
    except StoreError as e:
        return str(e)

durability, path, fail = sys.argv[1:]
store = SqliteStore(path, durability)
store.open({})
print(store.commit(b"one", tuple, ()))
open(fail, "w").close()
print(tried(lambda: store.commit(b"two", tuple, ()) if durability == "sync" else store.sync()))
os.unlink(fail)
print(tried(lambda: store.commit(b"three", tuple, ())))
store.close()
store.open({})
print([n for n, _ in store.journal()])
print(store.commit(b"four", tuple, ()), store.verify())
store.close()
"""


@pytest.mark.parametrize("durability", ["sync", "none"])
def test_a_disk_that_fails_to_sync(tmp_path, failing_disk, durability):
    out = subprocess.run(
        [sys.executable, "-c", FAILING, durability, tmp_path / "states.db", failing_disk["FAIL"]],
        env=failing_disk,
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    first, second, third, journal, fourth = out.splitlines()
    assert first == "1"
    assert "look for the fault of its disk" in second or "Input/output error" in second
    assert "got one that broke earlier; open it again" in third
    assert journal == "[1]"
    assert fourth == "2 []"


def test_an_interrupted_commit_breaks_the_store(sqlite):
    """Whether it was made, nobody knows: the next number would be a guess."""

    class Interrupted:
        def __init__(self, db):
            self.db = db

        def execute(self, sql, *values):
            found = self.db.execute(sql, *values)
            if sql == "COMMIT":
                raise KeyboardInterrupt
            return found

    store = sqlite()
    commit(store)
    store._db = Interrupted(store._db)
    with pytest.raises(KeyboardInterrupt):
        commit(store)
    with pytest.raises(StoreError, match="broke earlier"):
        commit(store)
    store.close()
    assert [n for n, _ in sqlite().journal()] == [1, 2]


def test_a_log_that_cannot_be_moved_breaks_the_store(sqlite, monkeypatch):
    store = sqlite()
    monkeypatch.setattr(checkpoints, "LOG", 1)
    monkeypatch.setattr(checkpoints.Checkpoints, "_pass", lambda self: self._db.execute("no such statement"))
    with pytest.raises(StoreError, match=r"broke earlier.*its log to be moved into it"):
        deque((commit(store) for _ in range(20_000)), maxlen=0)
    with pytest.raises(StoreError, match="broke earlier"):
        store.put(0, ((b"%d" % n, b"") for n in range(1000)))


def test_the_log_stays_short(sqlite, monkeypatch):
    monkeypatch.setattr(checkpoints, "LOG", 1 << 18)
    monkeypatch.setattr(checkpoints, "_BEHIND", 1 << 20)
    store = sqlite()
    for n in range(60):
        store.put(n, ((b"%d" % key, b"x" * 400) for key in range(1000)))
    assert Path(f"{store.path}-wal").stat().st_size < 6 << 20  # of 30 MB that went through it
    assert store.verify() == []


@pytest.mark.parametrize(("busy", "passes"), [(True, 3), (False, 2)])
def test_no_commit_begins_the_log_anew_beside_a_checkpoint(sqlite, monkeypatch, busy, passes):
    """Where SQLite before 3.51.3 may lose it. The salt in the log's header says when it was begun."""
    store = sqlite()
    copy, seen = checkpoints.Checkpoints._pass, []

    def salt():
        return Path(f"{store.path}-wal").read_bytes()[16:24]

    def watched(self):
        before = salt()
        copy(self)
        if busy and not store._turns._taken:
            commit(store)
        seen.append(salt() == before)

    monkeypatch.setattr(checkpoints.Checkpoints, "_pass", watched)
    for _ in range(3):
        commit(store)
        store._checkpoints._checkpoint()
        assert seen == [True] * passes
        seen.clear()
        before = salt()
        commit(store)
        assert salt() != before, "all was copied"


def test_an_older_record_never_replaces_a_newer(sqlite):
    store = sqlite()
    for _ in range(3):
        commit(store)
    store.put(3, [(b"a", b"evicted")])
    store.put(2, [(b"a", b"from a snapshot begun before")])
    assert store.get([b"a"]) == [(b"a", 3, b"evicted")]


def test_entries_that_a_crash_left_behind_are_swept(sqlite, monkeypatch):
    store = sqlite()
    for _ in range(5):
        commit(store)
    monkeypatch.setattr(SqliteStore, "_sweep", lambda self: None)
    store.trim(3)
    store.close()
    monkeypatch.undo()
    store = sqlite()
    assert [n for n, _ in store.journal()] == [4, 5]
    with closing(sqlite3.connect(store.path)) as db:
        assert db.execute("SELECT count(*) FROM journal").fetchone() == (2,)
    assert store.journal_bytes == 2 * len(b"entry")


def test_compacting_gives_room_back(sqlite):
    store = sqlite()
    for _ in range(50):
        commit(store, b"x" * 100_000)
    store.trim(50)
    store.compact()
    assert store.path.stat().st_size < 1 << 18
    assert commit(store) == 51


def test_a_sync_waits_for_one_that_is_under_way(sqlite, monkeypatch):
    """And where that one fails, the other does not say that all is on the disk."""
    store = sqlite(durability="none")
    commit(store)
    begun, go_on, said, fsync = threading.Event(), threading.Event(), [], os.fsync

    def slow(file):
        begun.set()
        assert go_on.wait(30)
        if len(said) > 1:
            raise OSError(5, "Input/output error")
        fsync(file)

    monkeypatch.setattr(checkpoints.os, "fsync", slow)

    def sync():
        try:
            said.append(store.sync())
        except StoreError as e:
            said.append(str(e))

    for number in range(2):
        begun.clear(), go_on.clear()
        threads = [threading.Thread(target=sync) for _ in range(2)]
        threads[0].start()
        assert begun.wait(30)
        threads[1].start()
        threads[1].join(0.1)
        assert threads[1].is_alive()
        go_on.set()
        for thread in threads:
            thread.join()
        if number == 0:
            assert said == [None, None]
            commit(store)
    assert "Input/output error" in said[2]
    assert "expected a store that works, got one that broke earlier" in said[3]


@pytest.mark.parametrize("busy", [False, True])
def test_an_interrupt_while_taking_a_turn_leaves_it_to_the_others(busy):
    """At every line of it, alone and behind somebody who has the turn."""
    line = 1
    while _interrupted_at(line, busy):
        line += 1
    assert line > 5


def _interrupted_at(line, busy):
    """Whether there is such a line; by number, as they are reached first."""
    turns, seen = Turns(), set()
    if busy:
        turns.__enter__()
        other = threading.Timer(0.05, turns.__exit__)
        other.start()

    def trace(frame, event, _):
        if frame.f_code is Turns.__enter__.__code__ and event == "line" and frame.f_lineno not in seen:
            seen.add(frame.f_lineno)
            if len(seen) == line:
                raise KeyboardInterrupt
        return trace

    before, interrupted = sys.gettrace(), False
    sys.settrace(trace)
    try:
        turns.__enter__()
    except KeyboardInterrupt:
        interrupted = True
    finally:
        sys.settrace(before)
    if not interrupted:
        turns.__exit__()
    if busy:
        other.join()
    assert turns._taken is None
    assert not turns._waiting
    return interrupted


def test_what_is_no_store_is_left_alone(tmp_path):
    """Nothing is written beside another's file."""
    (tmp_path / "text").write_text("text\n" * 99)
    with closing(sqlite3.connect(tmp_path / "other.db")) as other:
        other.execute("CREATE TABLE theirs (x)")
    (tmp_path / "folder").mkdir()
    before = sorted(tmp_path.iterdir())
    for name in ("text", "other.db", "folder", "/dev/null", "gone/s.db"):  # nor where nothing can be
        with pytest.raises(StoreError, match=r"expected a (stepstream )?store"):
            SqliteStore(tmp_path / name).open({})
    assert sorted(tmp_path.iterdir()) == before
    assert not Path("/dev/null-claim").exists()


@pytest.mark.parametrize("path", [":memory:", "file:s.db", "file:s.db?mode=memory"])
def test_what_sqlite_takes_for_something_else_is_refused(path, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(StoreError, match=f"write ./{re.escape(path)} for a file of this name"):
        SqliteStore(path)
    store = SqliteStore(f"./{path}")
    store.open({})
    store.close()
    assert (tmp_path / path).is_file()


def test_a_claim_that_is_withdrawn_is_nobody_elses(tmp_path):
    """One who opened the claim's file before it went takes the new one."""
    path = tmp_path / "s.db"
    first = Claim(path)
    first.withdraw()
    second = Claim(path)
    with pytest.raises(StoreError, match="open in process"):
        Claim(path)
    first.release()
    second.release()
