"""A store by its name: a path, or an address."""

from __future__ import annotations

from pathlib import Path

from stepstream.errors import StoreError
from stepstream.stores.redis import RedisStore, without_password
from stepstream.stores.sqlite import Durability, SqliteStore
from stepstream.stores.store import Store

_REDIS = ("redis://", "rediss://", "unix://")


def is_address(where: str | Path) -> bool:
    """Whether it is an address of a server, not a path."""
    return isinstance(where, str) and where.lower().startswith(_REDIS)


def shown(where: str | Path) -> str:
    """Its name, for a person."""
    return without_password(str(where)) if is_address(where) else str(where)


def store_at(where: str | Path, durability: Durability | None = None, interval: float = 1.0) -> Store:
    """The store, not yet claimed: `Store.open` does that.

    where: "states.db", any path: SQLite, durability "sync" where none is given. Or
    "redis://host:port/db?prefix=...&expire=seconds", also rediss:// and unix://: Redis, whose durability is a setting
    of its server; "sync" insists on one that answers when all is on its disk.
    Raises StoreError.
    """
    if is_address(where):
        if durability not in (None, "sync"):
            raise StoreError(
                f"durability: expected none, or sync, for a Redis server, got {durability!r}; set appendfsync there"
            )
        return RedisStore.at(str(where), durability == "sync")
    return SqliteStore(where, durability or "sync", interval)
