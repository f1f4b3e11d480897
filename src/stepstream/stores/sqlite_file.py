"""A store's SQLite file: who may open it, how it is laid out, and what SQLite's errors mean to its owner."""

from __future__ import annotations

import fcntl
import os
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from urllib.parse import quote

from stepstream.errors import StoreError

APPLICATION = 0x53745374  # "StSt", in the file's header: this SQLite file is a stepstream store
SCHEMA = 1

# 8 kB: measured best for journal entries of 40 kB (fewer pages each) and records of 400 bytes (less written for each)
PAGE = 8192
_CACHE_KB = 65536  # inner pages and the index of a million keys
_BUSY = 10.0  # seconds to wait for a person who writes to the file with another tool

# Records by row number, with an index of keys: rows stay in the order in which the engine first wrote them, which is
# the order in which it writes them again. Clustered by key (WITHOUT ROWID) took 2.5 times as long to fill, and 1.7
# times as long to write again.
_TABLES = (
    "CREATE TABLE header (key BLOB PRIMARY KEY, value BLOB NOT NULL, checksum INTEGER NOT NULL) WITHOUT ROWID",
    "CREATE TABLE records (id INTEGER PRIMARY KEY, key BLOB NOT NULL UNIQUE, number INTEGER NOT NULL, "
    "checksum INTEGER NOT NULL, record BLOB NOT NULL)",
    "CREATE TABLE journal (number INTEGER PRIMARY KEY, checksum INTEGER NOT NULL, entry BLOB NOT NULL)",
    # one row: entries up to this number are no part of the journal any more, though some may wait to be deleted
    "CREATE TABLE trimmed (number INTEGER NOT NULL, checksum INTEGER NOT NULL)",
)

_CURES = {
    "SQLITE_FULL": "free space on its disk, then open the store again",
    "SQLITE_READONLY": "make the file and its folder writable, then open the store again",
    "SQLITE_CANTOPEN": "give a path in an existing folder that can be written",
    "SQLITE_CORRUPT": "put a backup in its place",
    "SQLITE_NOTADB": "give another path, or put a backup in its place",
    "SQLITE_BUSY": "end the tool that writes to this file, then open the store again",
    "SQLITE_IOERR": "look for the fault of its disk, then open the store again",
}


@contextmanager
def explained(path: Path, expected: str) -> Iterator[None]:
    """Errors of SQLite and of the system as a StoreError."""
    try:
        yield
    except sqlite3.Error as e:
        name = getattr(e, "sqlite_errorname", "SQLITE_ERROR")
        cure = next((cure for code, cure in _CURES.items() if name.startswith(code)), "open the store again")
        raise StoreError(f"{path}: expected {expected}, got '{e}' ({name}); {cure}") from e
    except OSError as e:
        raise StoreError(f"{path}: expected {expected}, got {e}; see to it, then open the store again") from e


def claim_of(path: Path) -> Path:
    """The file whose lock is the claim to a store."""
    return path.with_name(f"{path.name}-claim")


class Claim:
    """The right to write to a store, for one process and one engine in it; a crash gives it back.

    A lock on a file beside the store, not on the store itself: to close a second descriptor of a SQLite file drops the
    locks that SQLite holds on it. Nor SQLite's own exclusive mode, which would shut out backups and read-only tools.
    """

    def __init__(self, path: Path) -> None:
        """Raises StoreError where another has it, and for what cannot be a store."""
        if path.exists() and not path.is_file():
            got = "a folder; name a file in it" if path.is_dir() else "something else; name a file"
            raise StoreError(f"{path}: expected a store, which is a file, got {got}")
        self._path = claim_of(path)
        while True:
            self._new = not self._path.exists()
            self._file = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
            try:
                fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as e:
                holder = os.pread(self._file, 20, 0).decode("ascii", "replace").strip() or "unknown"
                os.close(self._file)
                raise StoreError(
                    f"{path}: expected a store that no engine has, got one that is open in process {holder}; close it "
                    f"there, or give each engine its own file"
                ) from e
            with suppress(FileNotFoundError):
                if os.path.samestat(os.fstat(self._file), self._path.stat()):
                    break
            os.close(self._file)  # of one who has withdrawn it meanwhile
        os.ftruncate(self._file, 0)
        os.pwrite(self._file, f"{os.getpid()}\n".encode(), 0)

    def withdraw(self) -> None:
        """The claim was to what is no store: nothing of it is left beside another's file."""
        if self._new:
            self._path.unlink(missing_ok=True)

    def release(self) -> None:
        """The file stays, for the next claim."""
        os.close(self._file)


def connect(path: Path, create: bool = True) -> sqlite3.Connection:
    """A connection for any thread, one at a time, that begins and commits by hand and never checkpoints by itself."""
    name = f"file:{quote(os.fspath(path))}?mode={'rwc' if create else 'rw'}"
    db = sqlite3.connect(name, timeout=_BUSY, isolation_level=None, check_same_thread=False, uri=True)
    try:
        db.text_factory = bytes  # damaged text must not be an error of another kind
        db.execute("PRAGMA wal_autocheckpoint=0")
        db.execute("PRAGMA secure_delete=OFF")  # Debian's default writes zeros over every trimmed entry
        db.execute("PRAGMA fullfsync=ON")  # macOS: through the disk's own cache
        db.execute("PRAGMA checkpoint_fullfsync=ON")
        db.execute("PRAGMA synchronous=NORMAL")
    except BaseException:
        db.close()
        raise
    return db


def one(db: sqlite3.Connection, sql: str) -> int:
    """The number that a statement answers."""
    (number,) = db.execute(sql).fetchone()
    return int(number)


def look(db: sqlite3.Connection, path: Path) -> bool:
    """Whether the file holds a store already; False where it is empty. Raises StoreError at anything else."""
    application, schema = one(db, "PRAGMA application_id"), one(db, "PRAGMA user_version")
    if application == APPLICATION:
        if schema != SCHEMA:
            raise StoreError(
                f"{path}: expected a store of schema {SCHEMA}, got schema {schema}; "
                f"{'use the newer stepstream that wrote it' if schema > SCHEMA else 'its header is damaged'}"
            )
        return True
    if application or schema or one(db, "SELECT count(*) FROM sqlite_master"):
        raise StoreError(f"{path}: expected a stepstream store, got another SQLite database; give another path")
    return False


def prepare(db: sqlite3.Connection) -> None:
    """Make the connection the writing one."""
    db.execute(f"PRAGMA page_size={PAGE}")  # of a file that is still empty
    db.execute("PRAGMA journal_mode=WAL")
    db.execute(f"PRAGMA cache_size=-{_CACHE_KB}")


def create(db: sqlite3.Connection) -> None:
    """Lay out an empty store, inside the caller's transaction."""
    for table in _TABLES:
        db.execute(table)
    db.execute(f"PRAGMA application_id={APPLICATION}")
    db.execute(f"PRAGMA user_version={SCHEMA}")


@contextmanager
def new_file(path: Path) -> Iterator[Path]:
    """Where to write a SQLite file that gets its name only once it is whole and on the disk. Raises StoreError where
    the name is taken already.
    """
    path = Path(os.path.realpath(path))
    if path.exists():
        raise StoreError(f"{path}: expected the name of a new file, got one that exists; name another, or remove it")
    part = path.with_name(f"{path.name}.part")
    with explained(path, "a copy to be written"):
        try:
            part.unlink(missing_ok=True)  # of a copy that was cut off
            yield part
            _to_disk(part)
            part.rename(path)
            _to_disk(path.parent)
        finally:
            part.unlink(missing_ok=True)


def _to_disk(path: Path) -> None:
    file = os.open(path, os.O_RDONLY)
    try:
        os.fsync(file)
    finally:
        os.close(file)
