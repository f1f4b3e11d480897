"""`stepstream state show STORE [KEY]`, and what the commands about states share."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.markup import escape
from rich.text import Text

from stepstream.arrays import short
from stepstream.cli.app import app, console, print_json, table_with
from stepstream.cli.options import JsonOption
from stepstream.cli.position import HDF5_MAGIC
from stepstream.errors import InputError
from stepstream.kernel.keys import Key
from stepstream.live import snapshot
from stepstream.stores.opening import is_address

state_app = typer.Typer(no_args_is_help=True, help="Look at states, move them, and bring them to another model.")
app.add_typer(state_app, name="state")
MAX_ROWS = 50
SQLITE = b"SQLite format 3\0"

DASH = "; put -- before a key that begins with a dash."
StoreArgument = Annotated[
    str, typer.Argument(help="A SQLite store's path, or redis://host/0?prefix=name.", show_default=False)
]
KeyTypeOption = Annotated[str, typer.Option(help="Of KEY: str, bytes (written in hex) or int.")]


@state_app.callback()
def state() -> None:
    """Look at states, move them, and bring them to another model."""


@state_app.command()
def show(
    store: Annotated[
        str,
        typer.Argument(help="A SQLite store's path, redis://host/0?prefix=name, or a state file.", show_default=False),
    ],
    key: Annotated[str | None, typer.Argument(help=f"One stream of the store{DASH}")] = None,
    key_type: KeyTypeOption = "str",
    as_json: JsonOption = False,
) -> None:
    """Say which model and windowing states belong to, and what a store, one stream in it or a state file holds. An
    engine may have the store meanwhile.
    """
    if holds_streams(store):
        _show_store(store, key, key_type, as_json)
    elif key is not None:
        raise InputError(f"KEY: expected none for a state file, got {key!r}; leave it out to see what {store} holds")
    else:
        _show_file(Path(store), as_json)


def holds_streams(name: str) -> bool:
    """Whether it is a store: an address, or the path of a SQLite file; else it is a state file. Raises InputError at
    what is neither.
    """
    if is_address(name):
        return True
    path = Path(name)
    expected = f"{name}: expected a store, as an engine makes it, or a state file"
    if path.is_dir():
        raise InputError(f"{expected}, got a folder; name a file in it")
    if not path.is_file():
        raise InputError(f"{expected}, got {'something else' if path.exists() else 'no file'}; name one")
    with open(path, "rb") as file:
        head = file.read(max(len(SQLITE), len(HDF5_MAGIC)))
    if not head.startswith((SQLITE, HDF5_MAGIC)):
        raise InputError(f"{expected}, got {'other content' if head else 'an empty file'}; put a backup in its place")
    return head.startswith(SQLITE)


def parse_key(text: str, kind: str) -> Key:
    """As --key-type says. Raises InputError."""
    try:
        if kind == "str":
            return text
        if kind == "bytes":
            return bytes.fromhex(text)
        if kind == "int":
            return int(text)
    except ValueError as e:
        what = "bytes in hex, such as 00ff," if kind == "bytes" else "a whole number"
        raise InputError(f"KEY: expected {what} for --key-type {kind}, got {short(text)}") from e
    raise InputError(f"--key-type: expected str, bytes or int, got {kind!r}")


def key_text(key: Key) -> str:
    """On one line of a terminal; what is not a text says so, and a text that could be taken for another is quoted."""
    if isinstance(key, bytes):
        return f"{key.hex()} (bytes)"
    if isinstance(key, int):
        return f"{key} (int)"
    plain = key.isprintable() and key == key.strip() != "" and not key.endswith((" (bytes)", " (int)"))
    return key if plain and key[0] not in "'\"" else repr(key)


def key_json(key: Key) -> dict[str, Any]:
    """The key, and its type as --key-type has it."""
    if isinstance(key, bytes):
        return {"key": key.hex(), "key_type": "bytes"}
    return {"key": key, "key_type": "int" if isinstance(key, int) else "str"}


def time_text(value: Any) -> str:
    """ISO 8601, or the number where it is none of our days."""
    if value is None:
        return ""
    try:
        return datetime.fromtimestamp(value, UTC).isoformat()
    except (ValueError, OverflowError, OSError):  # seconds of another count, milliseconds for example
        return f"{value:.15g}"


def short_time(value: float | None) -> str:
    """For a column whose name says UTC."""
    text = time_text(value if value is None else round(value))
    return text.removesuffix("+00:00").replace("T", " ")


def size_text(size: int) -> str:
    """Bytes for people."""
    value, unit = float(size), "bytes"
    for larger in ("kB", "MB", "GB", "TB"):
        if value < 1000:
            break
        value, unit = value / 1000, larger
    return f"{size} bytes" if unit == "bytes" else f"{value:.3g} {unit}"


def facts(pairs: dict[str, str]) -> None:
    """Print names and what they are, below each other."""
    out, width = console(), max(map(len, pairs)) + 2
    for name, value in pairs.items():
        out.print(Text.assemble((name.ljust(width if value else 0), "bold"), value), soft_wrap=True)


def count_text(n: int, one: str, many: str) -> str:
    """A number of things."""
    return f"1 {one}" if n == 1 else f"{n:,} {many}"


def _show_store(store: str, key: str | None, key_type: str, as_json: bool) -> None:
    from stepstream.live import look  # imports databases

    if key is not None:
        stream = look.show_stream(store, parse_key(key, key_type))
        if as_json:
            print_json({**stream, **key_json(stream["key"])})
            return
        facts(
            {
                "stream": key_text(stream["key"]) + (", ended" if stream["ended"] else ""),
                "age": "unknown" if stream["age"] is None else f"{stream['age']:,}",
                "samples": f"{stream['samples']:,}",
                "last time": time_text(stream["time"]),
                "last used": time_text(stream["used"]),
                "last number": "" if stream["seq"] is None else str(stream["seq"]),
                "remembers": count_text(stream["remember"], "answer", "answers"),
                "keeps": count_text(stream["keep"], "sample", "samples"),
                "record": size_text(stream["record_bytes"]),
            }
        )
        say_behind(stream["journal_entries"])
        return
    about = look.show(store)
    if as_json:
        print_json(about)
        return
    first = ("fingerprint", "windowing", "arithmetic", "layout")
    header = about["header"]
    pairs = {name: str(header[name]) for name in [*(n for n in first if n in header), *sorted({*header} - {*first})]}
    pairs["streams"] = f"{about['streams']:,}"
    if about["ended"]:
        pairs["ended"] = f"{about['ended']:,}, whose numbers are kept"
    if about["damaged"]:
        pairs["damaged"] = f"{count_text(about['damaged'], 'record', 'records')}; `stepstream state verify` names them"
    pairs["records"] = size_text(about["record_bytes"])
    if about["bookmark_bytes"]:
        pairs["bookmark"] = size_text(about["bookmark_bytes"])
    if "file_bytes" in about:
        entries = count_text(about["journal_entries"], "entry", "entries")
        pairs["journal"] = f"{entries}, {size_text(about['journal_bytes'])}"
        pairs["file"] = f"{size_text(about['file_bytes'])}, {size_text(about['free_bytes'])} of it free"
        pairs["log"] = size_text(about["log_bytes"])
    facts(pairs)
    say_behind(about["journal_entries"])


def say_behind(entries: int, cure: str = "an engine takes them up when it snapshots or opens the store") -> None:
    """That records alone are not all there is."""
    if entries:
        what = count_text(entries, "journal entry is", "journal entries are")
        console(err=True).print(f"{what} not yet in the records, which may be behind: {cure}", soft_wrap=True)


def _show_file(file: Path, as_json: bool) -> None:
    about = snapshot.describe(file)
    if as_json:
        print_json(about)
        return
    out = console()
    for name, value in about["attributes"].items():
        out.print(f"{name}: {value}", markup=False, soft_wrap=True)
    table = table_with("stream", "age", "samples", "last time")
    for stream in about["streams"][:MAX_ROWS]:
        age = "unknown" if stream["age"] is None else str(stream["age"])
        named = key_text(stream["key"]) if stream["key"] else ""  # of a file of one stream it is empty
        table.add_row(escape(named), age, str(stream["samples"]), time_text(stream["time"]))
    out.print(table)
    if len(about["streams"]) > MAX_ROWS:
        out.print(f"and {len(about['streams']) - MAX_ROWS} more; --json has them all")
    for name, norm in about["norms"].items():
        out.print(f"{name}: root mean square {norm:.4g}", markup=False)
