"""Keys of streams -> rows of a state table: native where the kernel is, else a dict."""

from __future__ import annotations

import operator
import os
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from stepstream.graph.ir import Array
from stepstream.kernel.executor import native
from stepstream.limits import MAX_KEY_BYTES

Key = str | bytes | int


class KeyTable:
    """1, "1" and b"1" are three keys. Rows are whole numbers from 0; those of removed keys are given out again.

    A key has at most 1,024 bytes, an int 1,024 bits. Keys cannot be chosen so that they collide: hashes depend on a
    secret drawn for each table. For one thread.

    Every method raises TypeError or ValueError for what is no key, and then has changed nothing.
    """

    def __init__(self) -> None:
        module = native()
        seed = os.urandom(16)
        self._table: Any = (
            _Plain()
            if module is None
            else module.KeyTable(int.from_bytes(seed[:8], "little"), int.from_bytes(seed[8:], "little"))
        )

    def __len__(self) -> int:
        return len(self._table)

    @property
    def native(self) -> Any:
        """The kernel's own table, for others in the kernel; without a kernel a stand-in that they cannot use."""
        return self._table

    @property
    def rows(self) -> int:
        """All rows in use are below."""
        return int(self._table.rows)

    def find(self, keys: Sequence[Key]) -> Array:
        """int64 (keys,): their rows, -1 for those that are not there."""
        return np.frombuffer(self._table.find(keys), np.int64)

    def insert(self, keys: Sequence[Key]) -> Array:
        """int64 (keys,): their rows, new ones where they are not there yet."""
        return np.frombuffer(self._table.insert(keys), np.int64)

    def remove(self, keys: Sequence[Key]) -> Array:
        """int64 (keys,): the rows that are free now, -1 for keys that were not there."""
        return np.frombuffer(self._table.remove(keys), np.int64)

    def key(self, row: int) -> Key:
        """The key of a row; KeyError where it is free."""
        if not 0 <= row < self.rows:
            raise KeyError(f"no key has row {row}")
        key: Key = self._table.key(row)
        return key

    def items(self) -> Iterator[tuple[Key, int]]:
        """(key, row), by row."""
        for row in range(self.rows):
            try:
                yield self.key(row), row
            except KeyError:
                continue


class _Plain:
    """The native table's interface over a dict."""

    def __init__(self) -> None:
        self._rows: dict[tuple[type, Key], int] = {}
        self._keys: list[Key | None] = []
        self._free: list[int] = []

    def __len__(self) -> int:
        return len(self._rows)

    @property
    def rows(self) -> int:
        return len(self._keys)

    @staticmethod
    def _all(keys: Sequence[Key]) -> list[tuple[type, Key]]:
        if isinstance(keys, str | bytes | bytearray | memoryview):
            raise TypeError("expected a sequence of keys, got one key")
        out: list[tuple[type, Key]] = []
        for key in list(keys):
            if isinstance(key, str):
                try:
                    size = len(key.encode())
                except UnicodeEncodeError as e:
                    raise ValueError("expected a key of whole characters, got half a surrogate pair") from e
                out.append((str, str.__str__(key)))
            elif isinstance(key, bytes):
                size = len(key)
                out.append((bytes, bytes.__getitem__(key, slice(None))))
            elif hasattr(key, "__index__") and not isinstance(key, bool):
                whole, size = int.__add__(operator.index(key), 0), 8
                if whole.bit_length() > 1024:
                    raise ValueError("expected an int of at most 1,024 bits as a key, got a larger one")
                out.append((int, whole))
            else:
                raise TypeError(f"expected a key of type str, bytes or int, got {type(key).__name__}")
            if size > MAX_KEY_BYTES:
                raise ValueError(f"expected a key of at most {MAX_KEY_BYTES} bytes, got {size}")
        return out

    def find(self, keys: Sequence[Key]) -> bytearray:
        return bytearray(np.array([self._rows.get(k, -1) for k in self._all(keys)], np.int64))

    def insert(self, keys: Sequence[Key]) -> bytearray:
        out = []
        for k in self._all(keys):
            if k not in self._rows:
                if not self._free:
                    self._keys.append(None)
                    self._free.append(len(self._keys) - 1)
                self._rows[k] = row = self._free.pop()
                self._keys[row] = k[1]
            out.append(self._rows[k])
        return bytearray(np.array(out, np.int64))

    def remove(self, keys: Sequence[Key]) -> bytearray:
        out = []
        for k in self._all(keys):
            row = self._rows.pop(k, -1)
            if row >= 0:
                self._keys[row] = None
                self._free.append(row)
            out.append(row)
        return bytearray(np.array(out, np.int64))

    def key(self, row: int) -> Key:
        key = self._keys[row]
        if key is None:
            raise KeyError(f"no key has row {row}")
        return key
