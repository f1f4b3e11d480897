"""States in a Redis server: every commit writes the records that it touched, in one MULTI."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from itertools import islice
from pathlib import Path
from secrets import token_bytes
from threading import Lock
from typing import Any, TypeVar
from urllib.parse import SplitResult, parse_qsl, urlencode, urlsplit

from stepstream.errors import StoreError
from stepstream.stores.checksum import checksum
from stepstream.stores.copies import write_copy
from stepstream.stores.store import Header, Records, Stored

SCHEMA = 1
Item = TypeVar("Item")

_PIECE = 1000  # records in one command: the server answers others in between, and counts its arguments in a million
_SCAN = 1000

# KEYS: the token's, then records'. ARGV: the token, seconds to live (0: for ever), how many to set, then their values;
# the other keys are deleted. Every piece of a MULTI checks the token, and they all find the same.
_WRITE = """
if redis.call('GET', KEYS[1]) ~= ARGV[1] then
  return redis.error_reply('FENCED another engine has this prefix')
end
local live, set = tonumber(ARGV[2]), tonumber(ARGV[3])
for i = 1, set do
  if live > 0 then redis.call('SET', KEYS[1 + i], ARGV[3 + i], 'PX', live)
  else redis.call('SET', KEYS[1 + i], ARGV[3 + i]) end
end
for i = set + 2, #KEYS do redis.call('DEL', KEYS[i]) end
return 1
"""


class RedisStore:
    """One prefix of a Redis server. Keys: {prefix}:header, {prefix}:token, and {prefix}:state:KEY for each stream.

    The newest engine to open a prefix has it: opening takes a new fencing token, every write checks that its token is
    still the newest, and one that comes too late, however long its engine slept, changes nothing and breaks its store.
    A commit is one MULTI, so a crash leaves all or nothing of it; whether it is on the disk when it returns is the
    server's setting: `appendfsync always` says yes. A server that was started anew may have forgotten commits, so a
    store does not go on with another than it was opened at.
    """

    keeps_journal = False
    number = journal_bytes = 0

    def __init__(
        self, url: str, prefix: str = "stepstream", expire: float | None = None, lasting: bool = False
    ) -> None:
        """Connects to nothing yet. expire: seconds after which a record that was not written again is gone. lasting:
        only with a server that answers when all is on its disk.

        Raises StoreError at a wrong argument, or without redis-py.
        """
        if not prefix:
            raise StoreError("expected a prefix of at least one character, got none; give each engine its own")
        if expire is not None and not 0.001 <= expire < 1e12:
            raise StoreError(f"expected seconds to live above 0 in expire, got {expire!r}")
        try:
            import redis
        except ImportError as e:
            raise StoreError(
                f"expected redis-py for a store at {without_password(url)}, got none; pip install 'stepstream[redis]'"
            ) from e
        self._redis = redis
        self._url = url
        self._where = f"{without_password(url)}, prefix {prefix!r}"
        # braces: all keys of a prefix in one slot of a cluster, or scripts could not write them together
        self._base = b"{" + prefix.encode() + b"}:"
        self._lasting = lasting
        self._live = 0 if expire is None else round(expire * 1000)
        self._lock = Lock()
        self._client: Any = None
        self._state: StoreError | None = None
        self._run_id: str | None = None
        self._token = b""

    @classmethod
    def at(cls, url: str, lasting: bool = False) -> RedisStore:
        """As its address says: redis://host:port/db?prefix=...&expire=seconds. Raises StoreError at another."""
        parts = _parts(url)
        query = parse_qsl(parts.query, keep_blank_values=True)
        ours = {key: value for key, value in query if key in ("prefix", "expire")}
        for name in ours:
            if len(given := [value for key, value in query if key == name]) > 1:
                raise StoreError(f"{without_password(url)}: expected one {name}, got {len(given)}: {', '.join(given)}")
        rest = _address(parts.scheme, parts.netloc, parts.path)
        if others := urlencode([pair for pair in query if pair[0] not in ours]):
            rest += f"?{others}"
        try:
            expire = float(ours["expire"]) if "expire" in ours else None
        except ValueError as e:
            raise StoreError(
                f"expected a number of seconds as expire, got {ours['expire']!r}, in {without_password(url)}"
            ) from e
        return cls(rest, ours.get("prefix", "stepstream"), expire, lasting)

    def open(self, header: Header, check: Callable[[Header], None] | None = None) -> Header:
        if self._client is not None:
            raise StoreError(f"{self._where}: expected a closed store, got an open one; close it first")
        self._state, self._run_id = None, None
        try:
            with self._explained("a server that answers"):
                self._connect()
                self._refuse_forgetful()
                if self._lasting:
                    self._refuse_lax()
                return self._claim(header, check)
        except BaseException:
            self.close()
            raise

    def look(self) -> Header:
        """Open to be read alone, beside the engine that has the prefix: it keeps it, and every write is refused here.

        Raises StoreError, also where there is no store.
        """
        if self._client is not None:
            raise StoreError(f"{self._where}: expected a closed store, got an open one; close it first")
        self._state, self._run_id, self._token = None, None, b"of nobody"
        try:
            with self._explained("a server that answers"):
                self._connect()
                header = self._found()
            if header is None:
                raise StoreError(
                    f"{self._where}: expected a store, got no keys of this prefix; name the prefix of one, or begin it "
                    "with an engine"
                )
        except BaseException:
            self.close()
            raise
        return header

    def set_header(self, header: Header) -> None:
        self._write([[(self._base + b"header", _header_bytes(header))]], [], self._live)

    def rewrite(self, header: Header, records: Records) -> None:
        """All in one MULTI, which the server takes up to its client-query-buffer-limit: 1 GB by default."""
        pieces = list(_pieces(self._named(records), _PIECE))
        self._write([*pieces, [(self._base + b"header", _header_bytes(header))]], [], self._live)

    def records(self) -> Iterator[Stored]:
        self._ready()
        return self._records()

    def _records(self) -> Iterator[Stored]:
        seen: set[bytes] = set()  # SCAN may name a key twice
        prefix = self._base + b"state:"
        with self._explained("its records to be readable"):
            for keys in _pieces(self._names(), _PIECE):
                new = [key for key in dict.fromkeys(keys) if key not in seen]
                seen.update(new)
                for key, value in zip(new, self._client.mget(new) if new else (), strict=True):
                    if value is not None:  # deleted meanwhile, or expired
                        yield _stored(key[len(prefix) :], value)

    def _names(self) -> Iterator[bytes]:
        """Of all records, in the server; some perhaps twice."""
        prefix = self._base + b"state:"
        pattern = b"".join(b"\\" + bytes([c]) if c in b"*?[]\\^-" else bytes([c]) for c in prefix) + b"*"
        yield from self._client.scan_iter(pattern, count=_SCAN)

    def journal(self) -> Iterator[tuple[int, bytes]]:
        self._ready()
        return iter(())

    def commit(self, entry: bytes, touched: Callable[[], Records], gone: Iterable[bytes]) -> int:
        pairs = list(_pieces(self._named(touched()), _PIECE))
        keys = list(_pieces((self._base + b"state:" + key for key in gone), _PIECE))
        self._write(pairs, keys, self._live)
        return 0

    def put(self, number: int, records: Records) -> None:
        for piece in _pieces(self._named(records), _PIECE):
            self._write([piece], [], self._live)

    def get(self, keys: Sequence[bytes]) -> list[Stored]:
        self._ready()
        found = []
        for piece in _pieces(keys, _PIECE):
            with self._explained("records to be readable"):
                values = self._client.mget([self._base + b"state:" + key for key in piece])
            found += [_stored(key, value) for key, value in zip(piece, values, strict=True) if value is not None]
        return found

    def delete(self, number: int, keys: Iterable[bytes]) -> None:
        for piece in _pieces((self._base + b"state:" + key for key in keys), _PIECE):
            self._write([], [piece], self._live)

    def trim(self, number: int) -> None:
        self._ready()

    def sync(self) -> None:
        """Nothing: when the disk has it is a setting of the server."""
        self._ready()

    def backup(self, path: str) -> None:
        """Commits wait until it is written; of a big store, rather let the server make one (BGSAVE)."""
        self._ready()
        with self._lock, self._explained("its header to be readable"):
            header = self._found()
            write_copy(Path(path), header or {}, self._whole_records())

    def verify(self) -> list[str]:
        self._ready()
        damaged = [
            f"record of key {found.key!r}: its checksum does not fit"
            for found in self._records()
            if found.record is None
        ]
        try:
            with self._explained("its header to be readable"):
                self._found()
        except StoreError as e:
            damaged.append(f"header: {e}")
        return damaged

    def sizes(self) -> dict[str, int]:
        """There is no journal; what room the records take is the server's to say."""
        self._ready()
        with self._explained("its records to be counted"):
            return {"records": len(set(self._names())), "journal_entries": 0, "journal_bytes": 0}

    def compact(self) -> None:
        """Nothing: the server does so by itself."""
        self._ready()

    def close(self) -> None:
        """The token stays the newest: who writes with an older one is still refused."""
        client, self._client = self._client, None
        if client is not None:
            client.close()

    def _connect(self) -> None:
        redis = self._redis
        try:
            self._client = redis.Redis.from_url(
                self._url,
                # a commit that was sent twice might come behind another engine's
                retry=redis.retry.Retry(redis.backoff.NoBackoff(), 0),
                redis_connect_func=self._greet,
                socket_timeout=30,
            )
            self._client.ping()  # settings that it does not know are found out only now
        except (ValueError, TypeError) as e:
            raise StoreError(
                f"{self._where}: expected an address such as redis://host:6379/0?prefix=name, got one that redis-py "
                f"refuses ({e}); correct it"
            ) from e

    def _greet(self, connection: Any) -> None:
        """A new connection, perhaps because the last one broke: only with the server that the store was opened at."""
        connection.on_connect()
        connection.send_command("INFO", "server")
        info = connection.read_response()
        text = info if isinstance(info, str) else info.decode()
        run_id = next(line for line in text.split() if line.startswith("run_id:"))
        if self._run_id is None:
            self._run_id = run_id
        elif run_id != self._run_id:
            connection.disconnect()
            self._state = self._state or StoreError(
                f"{self._where}: expected the server that the store was opened at, got one started since, which may "
                "have forgotten commits; open the store again"
            )
            raise self._redis.ConnectionError(str(self._state))

    def _refuse_forgetful(self) -> None:
        memory = self._client.info("memory")
        if memory.get("maxmemory") and str(memory.get("maxmemory_policy", "")).startswith("allkeys"):
            raise StoreError(
                f"{self._where}: expected a server that keeps what it is given, got maxmemory-policy "
                f"{memory['maxmemory_policy']}, which deletes streams when memory is short; set it to noeviction"
            )

    def _refuse_lax(self) -> None:
        settings = {name: self._client.config_get(name).get(name) for name in ("appendonly", "appendfsync")}
        if (found := " ".join(map(str, settings.values()))) != "yes always":
            raise StoreError(
                f"{self._where}: expected appendonly yes and appendfsync always for durability sync, got {found}; set "
                "them, or leave durability to the server"
            )

    def _claim(self, header: Header, check: Callable[[Header], None] | None) -> Header:
        """Read, compare, take over: as one, or once more where another engine came in between."""
        name, token = self._base + b"header", self._base + b"token"
        self._token = token_bytes(16)  # not a count: that could come again when a server has lost it
        with self._client.pipeline() as pipe:
            while True:
                pipe.watch(name)
                found = self._header_of(pipe.get(name))
                if check is not None:
                    check(dict(header) if found is None else found)
                pipe.multi()
                if found is None:
                    pipe.set(name, _header_bytes(header))
                pipe.set(token, self._token)
                with suppress(self._redis.WatchError):
                    pipe.execute()
                    return dict(header) if found is None else found

    def _found(self) -> dict[str, str] | None:
        """The header of what is there."""
        return self._header_of(self._client.get(self._base + b"header"))

    def _header_of(self, value: bytes | None) -> dict[str, str] | None:
        if value is None:
            return None
        text = _stored(b"header", value).record
        if text is None:
            raise StoreError(
                f"{self._where}: expected a header as it was written, got a damaged one; restore the server's backup, "
                "or give another prefix"
            )
        found = json.loads(text)
        if found["schema"] != SCHEMA:
            raise StoreError(
                f"{self._where}: expected a store of schema {SCHEMA}, got schema {found['schema']}; use the newer "
                "stepstream that wrote it"
            )
        return {str(key): str(value) for key, value in found["header"].items()}

    def _named(self, records: Records) -> Iterator[tuple[bytes, bytes]]:
        for key, record in records:
            yield self._base + b"state:" + key, checksum(key, 0, record).to_bytes(4, "little") + record

    def _whole_records(self) -> Records:
        for key, _, record in self._records():
            if record is None:
                raise StoreError(
                    f"{self._where}: expected records as they were written, got a damaged one of key {key!r}; delete it"
                )
            yield key, record

    def _write(self, pairs: list[list[tuple[bytes, bytes]]], gone: list[list[bytes]], live: int) -> None:
        """All or nothing, and only by who has the prefix."""
        pieces = [(piece, list[bytes]()) for piece in pairs]
        pieces += [(list[tuple[bytes, bytes]](), piece) for piece in gone]
        with self._lock:
            self._ready()
            try:
                with self._explained("a commit to be written"), self._client.pipeline(transaction=True) as pipe:
                    for puts, dels in pieces or [([], [])]:  # an empty commit is refused as any other
                        keys = [self._base + b"token", *(key for key, _ in puts), *dels]
                        lasts = 0 if self._base + b"header" in keys else live
                        values = [self._token, lasts, len(puts), *(value for _, value in puts)]
                        pipe.eval(_WRITE, len(keys), *keys, *values)
                    pipe.execute()
            except BaseException as e:  # an interrupt too: nobody knows whether the commit was made
                if self._state is None:
                    self._state = e if isinstance(e, StoreError) else StoreError(f"{self._where}: {type(e).__name__}")
                raise

    def _ready(self) -> None:
        if self._client is None:
            raise StoreError(f"{self._where}: expected an open store, got a closed one; open it first")
        if self._state is not None:
            raise StoreError(
                f"{self._where}: expected a store that works, got one that broke earlier; open it again ({self._state})"
            )

    @contextmanager
    def _explained(self, expected: str) -> Iterator[None]:
        """Errors of the server and of the way to it as a StoreError."""
        try:
            yield
        except self._redis.RedisError as e:
            if self._state is not None:  # found out while it was called
                raise self._state from e
            # of a command among others redis-py's message holds the command too, and so the script's text
            said = str(e).rpartition("caused error: ")[2]
            if said.startswith("FENCED"):
                raise StoreError(
                    f"{self._where}: expected to be the engine that has this prefix, got another that opened it since; "
                    "close this one, or give each its own prefix"
                ) from e
            raise StoreError(
                f"{self._where}: expected {expected}, got {type(e).__name__} '{said}'; see to the server, then open "
                "the store again"
            ) from e


def _header_bytes(header: Header) -> bytes:
    text = json.dumps({"schema": SCHEMA, "header": dict(header)}).encode()
    return checksum(b"header", 0, text).to_bytes(4, "little") + text


def _stored(key: bytes, value: bytes) -> Stored:
    check, record = value[:4], value[4:]
    return Stored(key, 0, record if check == checksum(key, 0, record).to_bytes(4, "little") else None)


def _pieces(items: Iterable[Item], most: int) -> Iterator[list[Item]]:
    items = iter(items)
    while piece := list(islice(items, most)):
        yield piece


def without_password(url: str) -> str:
    """An address that may be shown."""
    scheme, _, rest = url.partition("://")
    head = re.split("[?#]", rest, maxsplit=1)[0]
    if "@" in rest[len(head) :] and "@" not in head and not re.fullmatch(r"[^:@/]+(:[0-9]*)?(/.*)?|/.*", head):
        head = "..."  # a password that is not quoted reaches beyond it
    if not (scheme.lower() == "unix" and head.startswith("/")):
        head = head.rpartition("@")[2]
    return f"{scheme.lower()}://{head}"


def _address(scheme: str, netloc: str, path: str) -> str:
    """`urlunsplit` drops the slashes of an empty host, as a socket's address has it."""
    return f"{scheme}://{netloc}{path}"


def _parts(url: str) -> SplitResult:
    """Of an address, none of whose errors shows a password. Raises StoreError."""
    shown, wrong = without_password(url), ""
    try:
        parts = urlsplit(url)
        if parts.scheme == "unix":
            if not parts.path.strip("/") or parts.netloc.rpartition("@")[2]:
                wrong = "no path of a socket, as in unix:///run/redis.sock?prefix=name"
        elif parts.port == 0:
            wrong = "port 0"
        elif not re.fullmatch("/?[0-9]*", parts.path):
            wrong = "a database that is no number"
        if parts.fragment or ("@" in parts.path and parts.scheme != "unix"):
            wrong = "a '#' or an '@' behind the host"
        if not all(name.isidentifier() for name, _ in parse_qsl(parts.query, keep_blank_values=True)):
            wrong = "a setting of no name behind the '?'"
    except ValueError:
        wrong = "a port that is no number"
    if wrong:
        raise StoreError(
            f"{shown}: expected an address such as redis://host:6379/0?prefix=name, got {wrong}; correct it, and write "
            "/ ? # @ in a password as %2F %3F %23 %40"
        ) from None
    return parts
