"""What a person watches: every stream's probability as it evolves, or a bar."""

from __future__ import annotations

import sys
import threading
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.live import Live
from rich.markup import escape
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from stepstream.cli.rows import Source

BAR_FROM_BYTES = 2**20
BARS = "▁▂▃▄▅▆▇█"
MAX_STREAMS = 40  # rows on a screen


class Watch:
    """A table of streams: the trace of the first output since the view began, newest at the right.

    decides: a column more, for what was decided.
    """

    def __init__(
        self, console: Console, title: str, labels: Mapping[str, str] | None = None, decides: bool = False
    ) -> None:
        self._labels, self._decides = labels or {}, decides
        self._title = title
        self._width = max(20, min(60, console.width - (74 if decides else 58)))
        self._traces: dict[str, deque[float]] = {}
        self._last: dict[str, tuple[float, int | None, bool, bool, str]] = {}
        self._lock = threading.Lock()  # the view is drawn by a thread of its own
        self._live = Live(console=console, refresh_per_second=12, get_renderable=self.table)

    def __enter__(self) -> Self:
        self._live.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self._live.refresh()
        self._live.stop()

    def add(self, key: str, value: float, age: int | None, complete: bool, beyond: bool, decision: str = "") -> None:
        """One answer of one stream. decision: empty for none."""
        with self._lock:
            self._traces.setdefault(key, deque(maxlen=self._width)).append(value)
            self._last[key] = value, age, complete, beyond, decision

    def table(self) -> Table:
        with self._lock:
            return self._table()

    def _table(self) -> Table:
        table = Table(title=Text(self._title), title_justify="left", title_style="bold", box=None, pad_edge=False)
        table.add_column("stream", style="bold")
        if self._labels:
            table.add_column("truth")
        head = "probability, sample by sample"
        head = head if len(head) <= self._width else "probability"  # whole on a narrow screen too
        table.add_column(head, width=self._width, no_wrap=True)
        table.add_column("now", justify="right")
        if self._decides:
            table.add_column("decision")
        table.add_column("age", justify="right")
        table.add_column("")
        values = [v for trace in self._traces.values() for v in trace]
        low, high = min([0.0, *values]), max([1.0, *values])
        for key in list(self._traces)[-MAX_STREAMS:]:
            value, age, complete, beyond, decision = self._last[key]
            trace = Text()
            for v in self._traces[key]:
                trace.append(BARS[round((v - low) / (high - low) * (len(BARS) - 1))], _style(v))
            note = "beyond training length" if beyond else "complete" if complete else ""
            label = [escape(self._labels.get(key, ""))] if self._labels else []
            now = Text(f"{value:.3f}", _style(value))
            decided = [escape(decision)] if self._decides else []
            table.add_row(
                escape(key), *label, trace, now, *decided, "?" if age is None else str(age), f"[dim]{note}[/]"
            )
        hidden = len(self._traces) - MAX_STREAMS
        if hidden > 0:
            table.caption = f"and {hidden} more streams"
        return table


def _style(value: float) -> str:
    return "green" if value >= 0.5 else "cyan"


@contextmanager
def progress(source: Source, view: Watch | None) -> Iterator[Callable[[], None]]:
    """A view, a bar on long files when a person watches, or nothing."""
    if view is not None:
        with view:
            yield lambda: None
    elif source.size is not None and source.size >= BAR_FROM_BYTES and sys.stderr.isatty():
        columns = (
            TextColumn("{task.description}", markup=False),  # a path may look like markup
            BarColumn(),
            TextColumn("{task.percentage:>3.0f} %"),
            TimeRemainingColumn(),
        )
        with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
            task = bar.add_task(source.name, total=source.size)
            yield lambda: bar.update(task, completed=source.consumed())
    else:
        yield lambda: None
