"""`stepstream state ls|export|import|reset|compact|verify STORE`: streams in a store, and the store itself."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from stepstream.cli import files
from stepstream.cli.app import console, print_json, table_with
from stepstream.cli.options import ArchitectureOption, JsonOption, ScaleOption, load_model
from stepstream.cli.state import (
    DASH,
    MAX_ROWS,
    KeyTypeOption,
    StoreArgument,
    key_json,
    key_text,
    parse_key,
    say_behind,
    short_time,
    size_text,
    state_app,
)
from stepstream.errors import InputError
from stepstream.live import snapshot
from stepstream.stores.opening import is_address

ModelOption = Annotated[
    Path, typer.Option(help="The store's model, a .keras, .h5 or .stepstream file.", show_default=False)
]
KeyArgument = Annotated[str, typer.Argument(help=f"The stream's key{DASH}", show_default=False)]


@state_app.command("ls")
def ls(
    store: StoreArgument,
    model: Annotated[
        Path | None, typer.Option(help="The store's model: ages as of now, with the journal replayed in memory.")
    ] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Streams at most; default: 50, and with --json all.")] = None,
    scale: ScaleOption = None,
    architecture: ArchitectureOption = None,
    as_json: JsonOption = False,
) -> None:
    """List the streams of a store. It is read alone, so an engine may have it meanwhile."""
    from stepstream.live import look  # imports databases

    loaded = None if model is None else load_model(model, None, scale, architecture)
    found = look.streams(store, loaded, limit if limit is not None or as_json else MAX_ROWS)
    if as_json:
        damaged = json.dumps([key_json(key) for key in found.damaged])
        print(f'{{"journal_entries": {found.journal_entries}, "more": {json.dumps(found.more)}, "damaged": {damaged},')
        print(' "streams": [', end="")
        for i, stream in enumerate(found.streams):  # line by line: they may be millions
            rest = dict(zip(stream._fields[1:], stream[1:], strict=True))
            print(f"{',' if i else ''}\n  {json.dumps({**key_json(stream.key), **rest})}", end="")
        print("]}")
        return
    table = table_with("stream", "age", "samples", "last time (UTC)", "last used (UTC)", "number")
    for stream in found.streams:
        table.add_row(
            escape(key_text(stream.key)),
            "unknown" if stream.age is None else f"{stream.age:,}",
            f"{stream.samples:,}",
            short_time(stream.time),
            short_time(stream.used),
            "" if stream.seq is None else str(stream.seq),
        )
    out = console()
    out.print(table)
    if found.more:
        out.print(f"and more than these {len(found.streams):,}; --limit shows more, --json all")
    if found.damaged:
        out.print(f"{len(found.damaged):,} damaged records left out; `stepstream state verify` names them", style="red")
    say_behind(found.journal_entries, "--model replays them in memory")


@state_app.command("export")
def export(
    store: StoreArgument,
    key: KeyArgument,
    model: ModelOption,
    to: Annotated[Path, typer.Option(help="HDF5 file to write; `Stream.load` takes it.", show_default=False)],
    key_type: KeyTypeOption = "str",
    scale: ScaleOption = None,
    architecture: ArchitectureOption = None,
) -> None:
    """Write the state of one stream to a file, to the bit. The store is read alone, so an engine may have it."""
    from stepstream.live import look  # imports databases

    parsed = parse_key(key, key_type)
    path = None if is_address(store) else Path(store)
    files.different({"STORE": path, "--model": model, "--scale": scale, "--architecture": architecture, "--to": to})
    if to.exists() and not snapshot.is_ours(to):
        raise InputError(
            f"--to {to}: expected a new file, or a state file by stepstream to replace, got another file; name another"
        )
    look.export(store, parsed, load_model(model, None, scale, architecture), to)
    console().print(f"{key_text(parsed)} -> {to}", markup=False, soft_wrap=True)


@state_app.command("import")
def import_(
    file: Annotated[Path, typer.Argument(help="HDF5 file by `state export` or `Stream.save`.", show_default=False)],
    store: StoreArgument,
    key: KeyArgument,
    model: ModelOption,
    replace: Annotated[bool, typer.Option("--replace", help="Also where there is a stream of this key.")] = False,
    key_type: KeyTypeOption = "str",
    scale: ScaleOption = None,
    architecture: ArchitectureOption = None,
) -> None:
    """Give one stream the state of a file, to the bit; its numbers stay. For a store that no engine has: a Redis store
    is taken from the engine that has it.
    """
    from stepstream.live import upkeep  # imports databases

    parsed = parse_key(key, key_type)
    upkeep.restore(store, parsed, load_model(model, None, scale, architecture), file, replace)
    console().print(f"{file} -> {key_text(parsed)}", markup=False, soft_wrap=True)


@state_app.command("reset")
def reset(
    store: StoreArgument,
    key: Annotated[list[str], typer.Argument(help=f"Keys of streams{DASH}", show_default=False)],
    model: ModelOption,
    delete: Annotated[
        bool, typer.Option("--delete", help="Numbers go too; damaged and ended streams as well.")
    ] = False,
    key_type: KeyTypeOption = "str",
    scale: ScaleOption = None,
    architecture: ArchitectureOption = None,
) -> None:
    """Let streams begin anew; their numbers stay. For a store that no engine has: a Redis store is taken from the
    engine that has it.
    """
    from stepstream.live import upkeep  # imports databases

    keys = [parse_key(text, key_type) for text in key]
    upkeep.reset(store, keys, load_model(model, None, scale, architecture), delete)
    for one in keys:
        console().print(f"{key_text(one)} {'deleted' if delete else 'begins anew'}", markup=False, soft_wrap=True)


@state_app.command("compact")
def compact(store: StoreArgument) -> None:
    """Give back the room that deleted records took. For a store that no engine has."""
    from stepstream.live import upkeep  # imports databases

    saved = upkeep.compact(store)
    text = "the server gives back room by itself" if saved is None else f"{size_text(saved)} given back"
    console().print(text)


@state_app.command("verify")
def verify(
    store: StoreArgument,
    model: Annotated[
        Path | None, typer.Option(help="The store's model: also whether all of it is of that model.")
    ] = None,
    scale: ScaleOption = None,
    architecture: ArchitectureOption = None,
    as_json: JsonOption = False,
) -> None:
    """List what is damaged in a store; exit 1 where something is. It is read alone, so an engine may have it."""
    from stepstream.live import look  # imports databases

    loaded = None if model is None else load_model(model, None, scale, architecture)
    found = look.verify(store, loaded)
    if as_json:
        print_json({"ok": not found, "damaged": found})
    else:
        for line in found:
            console().print(line, style="red", markup=False, soft_wrap=True)
        if not found:
            console().print("nothing is damaged", style="green")
    raise typer.Exit(1 if found else 0)
