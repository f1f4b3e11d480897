"""Moves what SQLite's write-ahead log holds into its file, and sees to the disk now and then, beside the commits."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import ExitStack, closing
from pathlib import Path
from threading import Condition, Lock, Thread

from stepstream.errors import StoreError
from stepstream.stores.sqlite_file import connect, explained
from stepstream.stores.turns import Turns

LOG = 32 << 20  # bytes; about when a checkpoint is due. The log then grows to a few times that, and is written over
_BEHIND = 8 * LOG  # where snapshots wait for the disk
_PASSES = 2  # beside the commits, before the one that they wait for: each leaves a fraction of the one before


class Checkpoints:
    """A thread of its own for the life of an open store.

    A checkpoint copies the log while commits go on, twice, and then a short rest while they wait; only so is all of it
    copied, and the next commit begins the log anew. SQLite before 3.51.3 can lose a commit that begins the
    log anew while another connection checkpoints (sqlite.org/wal.html, "The WAL-Reset Bug"). Here that cannot meet: a
    reader keeps commits from it during the first two passes, and the last pass has its turn.
    """

    def __init__(
        self, path: Path, turns: Turns, reading: Lock, interval: float | None, failed: Callable[[StoreError], None]
    ) -> None:
        """reading: held by who reads for short. interval: seconds between syncs, or None. failed: is told the first
        error, which is also the last: nothing is done from then on.
        """
        self._path = path
        self._turns = turns
        self._reading = reading
        self._interval = interval
        self._failed = failed
        self._news = Condition()
        self._syncing = Lock()
        self._behind = 0  # bytes in the log, about
        self._unsynced = False
        self._stopped = False
        with ExitStack() as undo:
            self._db = undo.enter_context(closing(connect(path)))
            self._pin = undo.enter_context(closing(connect(path)))
            self._log = os.open(f"{path}-wal", os.O_RDWR | os.O_CLOEXEC)  # there as long as a connection is
            undo.callback(os.close, self._log)
            self._thread = Thread(target=self._run, name=f"checkpoints of {path.name}", daemon=True)
            self._thread.start()
            self._undo = undo.pop_all()

    def wrote(self, size: int) -> None:
        """So many bytes, about, went into the log. To be called during the turn that wrote them."""
        with self._news:
            self._behind += size
            self._unsynced = True
            if self._behind >= LOG:
                self._news.notify_all()

    def emptied(self) -> None:
        """The log is empty. To be called during the turn that did it."""
        with self._news:
            self._behind = 0
            self._news.notify_all()

    def wait(self) -> None:
        """Until the log is not far too long."""
        with self._news:
            self._news.wait_for(lambda: self._stopped or self._behind < _BEHIND)

    def sync(self) -> None:
        """The log reaches the disk; who comes while another sees to that waits for it. Raises StoreError, once."""
        with self._syncing:
            with self._news:
                due, self._unsynced = self._unsynced, False
            if due:
                try:
                    with explained(self._path, "its log to reach the disk"):
                        os.fsync(self._log)
                except StoreError as e:
                    self._failed(e)  # before who waits goes on
                    raise

    def stop(self) -> None:
        with self._news:
            self._stopped = True
            self._news.notify_all()
        self._thread.join()
        self._undo.close()

    def _run(self) -> None:
        try:
            while True:
                with self._news:
                    self._news.wait_for(lambda: self._stopped or self._behind >= LOG, self._interval)
                    stopped, due = self._stopped, self._behind >= LOG
                if stopped:
                    return
                if self._interval is not None:
                    self.sync()
                if due:
                    with explained(self._path, "its log to be moved into it"):
                        self._checkpoint()
        except StoreError as e:
            self._failed(e)
            with self._news:
                self._stopped = True
                self._news.notify_all()

    def _checkpoint(self) -> None:
        copied = 0  # of what is behind, by the passes so far
        for _ in range(_PASSES):
            with self._turns:
                # all copied, or compacted meanwhile: then SQLite lets the reader look past the log, and holds nothing
                if self._behind == copied:
                    break
                copied = self._behind
                self._pin.execute("BEGIN")
                self._pin.execute("SELECT number FROM trimmed").fetchone()
            try:
                self._pass()
            finally:
                with self._turns:
                    self._pin.execute("ROLLBACK")
        with self._turns, self._reading:
            self._pass()
            self.emptied()

    def _pass(self) -> None:
        self._db.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()
