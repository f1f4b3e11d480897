"""Talking to bench/keras_worker.py, one process for each back end."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any


class Worker:
    def __init__(self, backend: str) -> None:
        self._process = subprocess.Popen(
            [sys.executable, str(Path(__file__).with_name("keras_worker.py"))],
            env={**os.environ, "KERAS_BACKEND": backend}, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL, text=True,
        )  # fmt: skip
        self.writer, self.notes = "", {}  # type: str, dict[str, float]
        self._network, self._ways = "", []  # type: str, list[str]

    def _ask(self, **order: Any) -> dict[str, Any]:
        assert self._process.stdin
        assert self._process.stdout
        self._process.stdin.write(json.dumps(order) + "\n")
        self._process.stdin.flush()
        answer: dict[str, Any] = json.loads(self._process.stdout.readline())
        return answer

    def ways(self, network: str) -> list[str]:
        if network != self._network:
            answer = self._ask(do="make", network=network)
            self._network, self.writer, self._ways, self.notes = network, answer["writer"], answer["ways"], {}
        return self._ways

    def answers(self, way: str, count: int) -> list[float]:
        return list(self._ask(do="answers", way=way, count=count)["y"])

    def time(self, way: str, calls: int) -> float:
        return float(self._ask(do="time", way=way, calls=calls)["seconds"])

    def close(self) -> None:
        assert self._process.stdin
        self._process.stdin.close()
        self._process.wait()


@contextmanager
def workers(backends: Sequence[str]) -> Iterator[list[Worker]]:
    found = [Worker(b) for b in backends if importlib.util.find_spec(b)]
    try:
        yield found
    finally:
        for worker in found:
            worker.close()
