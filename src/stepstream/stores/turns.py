"""Who writes next: first come, first served."""

from __future__ import annotations

from collections import deque
from threading import Lock


class Turns:
    """A fair lock. Under a plain one, a thread that writes chunk after chunk, or commit after commit, keeps it from the
    others for as long as it likes; here a commit waits for one chunk, and a chunk for one commit.
    """

    def __init__(self) -> None:
        self._inner = Lock()
        self._taken: Lock | None = None  # by whom
        self._waiting: deque[Lock] = deque()

    def __enter__(self) -> None:
        mine = Lock()
        mine.acquire()
        try:
            with self._inner:
                if self._taken is None:
                    self._taken = mine
                    mine.release()
                else:
                    self._waiting.append(mine)
            mine.acquire()  # until it is handed over
        except BaseException:  # an interrupt: let the others have it
            with self._inner:
                if mine in self._waiting:
                    self._waiting.remove(mine)
                elif self._taken is mine:
                    self._hand_over()
            raise

    def __exit__(self, *error: object) -> None:
        with self._inner:
            self._hand_over()

    def _hand_over(self) -> None:
        self._taken = self._waiting.popleft() if self._waiting else None
        if self._taken is not None:
            self._taken.release()
