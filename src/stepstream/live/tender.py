"""What an Engine does by itself: idle streams go to the store, and snapshots keep its journal short."""

from __future__ import annotations

import warnings
from threading import Event, Thread, current_thread
from time import monotonic
from typing import TYPE_CHECKING
from weakref import finalize, ref

from stepstream.errors import StepstreamWarning

if TYPE_CHECKING:
    from stepstream.live.engine import Engine

LOOK = 0.5  # seconds between two looks; a journal grows by some ten megabytes in it


class Tender:
    """A thread, for as long as somebody has the engine and has not closed it."""

    def __init__(self, engine: Engine, journal_bytes: int, every: float) -> None:
        """A snapshot begins when the journal has so many bytes, or the last one began so many seconds ago."""
        self._stopped = Event()
        finalize(engine, self._stopped.set)
        arguments = ref(engine), self._stopped, journal_bytes, every
        self._thread = Thread(target=_tend, args=arguments, name="snapshots of an engine", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """A snapshot that has begun comes to its end."""
        self._stopped.set()
        if self._thread is not current_thread():  # a callback closes the engine
            self._thread.join()


def _tend(engine: ref[Engine], stopped: Event, journal_bytes: int, every: float) -> None:
    last = monotonic()
    while not stopped.wait(LOOK):
        here = engine()
        if here is None or here.broken:  # the calls that come say so
            return
        try:
            due = here.tend()
            if due >= journal_bytes or monotonic() - last >= every:
                last = monotonic()
                here.snapshot()
        except Exception as e:  # of the store, or of a callback
            if not here.broken:
                warnings.warn(f"a snapshot was not completed: {e}", StepstreamWarning, stacklevel=1)
            last = monotonic()
        del here
