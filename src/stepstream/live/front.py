"""Concurrent calls of one event loop, gathered into batches for an Engine."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from contextlib import suppress

from stepstream.live.incoming import Call
from stepstream.live.results import Result

Waiting = tuple[Call, "asyncio.Future[Result]"]


class Front:
    """For one event loop. step: answers to many calls in their order, each a Result or what it raises.

    What is called in one turn of the loop, or while a batch is under way, goes together, at most `batch` calls at a
    time. A lone call is not delayed; where there are several, `wait` seconds pass for others to join them, unless the
    batch is full before. apart: step in another thread, as it waits for a disk.
    """

    def __init__(
        self, step: Callable[[Sequence[Call]], Sequence[Result | Exception]], batch: int, wait: float, apart: bool
    ) -> None:
        self._step, self._batch, self._wait, self._apart = step, batch, wait, apart
        self._calls: list[Waiting] = []
        self._full = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    async def step(self, call: Call) -> Result:
        """The answer; calls of the same key are taken in their order."""
        loop = asyncio.get_running_loop()
        done: asyncio.Future[Result] = loop.create_future()
        self._calls.append((call, done))
        if len(self._calls) >= self._batch:
            self._full.set()
        if self._task is None:
            self._task = loop.create_task(self._run())
        return await done

    async def _run(self) -> None:
        part: list[Waiting] = []
        try:
            while self._calls:
                if self._wait and 1 < len(self._calls) < self._batch:
                    with suppress(TimeoutError):
                        await asyncio.wait_for(self._full.wait(), self._wait)
                part, self._calls = self._calls[: self._batch], self._calls[self._batch :]
                if len(self._calls) < self._batch:
                    self._full.clear()
                await self._answer(part)
        finally:
            left, self._calls, self._task = part + self._calls, [], None
            self._full.clear()
            for _, done in left:  # this task was cancelled, and nobody else would answer them
                done.cancel()

    async def _answer(self, part: Sequence[Waiting]) -> None:
        loop, calls = asyncio.get_running_loop(), [call for call, _ in part]
        answers: Sequence[Result | Exception]
        try:
            answers = await loop.run_in_executor(None, self._step, calls) if self._apart else self._step(calls)
        except Exception as e:  # raised to each caller that waits
            answers = [e] * len(part)
        for (_, done), answer in zip(part, answers, strict=True):
            if done.done():  # its caller no longer waits
                continue
            if isinstance(answer, Exception):
                done.set_exception(answer)
            else:
                done.set_result(answer)
