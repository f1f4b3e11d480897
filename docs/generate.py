"""Write the pages of the reference that come from the code: `python docs/generate.py`. A test keeps them current."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import typer.main

import stepstream
from stepstream import learn
from stepstream.cli.main import app
from stepstream.formats.keras_activation import ACTIVATIONS
from stepstream.formats.keras_layers import IDENTITIES, LAYERS
from stepstream.graph.streamable import REASONS
from stepstream.learn.by_step import Row
from stepstream.learn.calibration import Correction
from stepstream.learn.evaluation import Baseline, Run
from stepstream.testing import Verification, verify_contract

HERE = Path(__file__).parent / "reference"


def pages() -> dict[Path, str]:
    """Every generated page and its text."""
    texts = {"command-line.md": command_line, "layers.md": layers, "python.md": python}
    return {HERE / name: "\n".join(build()).rstrip() + "\n" for name, build in texts.items()}


def command_line() -> Iterator[str]:
    yield from ("# Command line", "", "<!-- written by docs/generate.py -->", "")
    yield from (
        "Data goes to standard output, all else to standard error. Exit status: 0 done, 1 the answer is no,",
        "2 an error, 130 and 143 stopped by Ctrl-C and SIGTERM, with the state kept. `NO_COLOR` is honoured.",
        "",
    )
    yield RUNNING
    yield from _command("stepstream", typer.main.get_command(app))


RUNNING = """## Records, restarts and signals

- An answer has a column for each unit of the model's outputs, named after the layer, with `_0`, `_1`, ... where it has
  several. Where the model knows its classes by name, as after `train`, `calibrate` and `decide`, a column is `p_` and
  the class whose probability it is: of one sigmoid unit the second class. `decision` is the class decided upon.
- A record is one line, in UTF-8; a quoted CSV cell cannot hold a line's end. Names are different, in a header as in a
  JSON object. A key is a text or a number and is kept as text: 1, 1.0 and "1" are one stream. A number as a time is
  always epoch seconds, so that a date needs its dashes.
- Records that are there at once, up to 1,000, are a batch: answered, written and committed together. Where they come
  one by one, each has its answer before the next is waited for.
- `--state` names the store of an `Engine`: a SQLite file, or `redis://host/0?prefix=name`. A batch is committed with
  the place in the input and in the output, after its answers are written, so that a run that was killed at any moment
  goes on with the same bytes. With `--durability sync`, the default, and `interval` this holds when the machine fails,
  too; `none` is for the death of the process alone: of a machine that fails the output may have less than the store
  says, and the next run is refused. A store of another model or windowing is refused.
- With `--state` a **file** is read from the record at which the run before stopped, with the same `--features`,
  `--key`, `--time`, `--end` and header; a last line without its end is left for the next run. It may grow meanwhile,
  and a bad record at which a run stopped may be mended (not in a compressed file); a file whose records were edited
  where they had been read is refused. A file of another name is read from its start, and the streams go on. **Standard
  input and named pipes** start anew: the streams go on, with the first record that arrives.
- `--out` goes on where the run before stopped: over the same input answers behind the last commit are cut off, because
  they come again; otherwise nothing is cut. A file that the run before did not write is refused.
- Ctrl-C and SIGTERM end a file after the batch in hand, and a pipe after all lines that have been read. A second one
  ends the process at once, with the state of the last commit. Where the reader of the answers leaves, the batch that
  it did not take whole is not kept.
- A stream is over after a record with a true `--end`; its key's next record begins anew.
- Files are read everywhere; waiting for lines of a pipe needs POSIX (Linux, macOS).
"""


def _command(name: str, command: Any) -> Iterator[str]:
    if hasattr(command, "commands"):
        for inner in sorted(command.commands):
            yield from _command(f"{name} {inner}", command.commands[inner])
        return
    arguments = [p for p in command.params if p.param_type_name == "argument"]
    options = [p for p in command.params if p.param_type_name == "option" and not p.hidden and p.name != "help"]
    usage = [name, *(p.name.upper() if p.required else f"[{p.name.upper()}]" for p in arguments)]
    yield from (f"## `{' '.join(usage)}`", "")
    yield from (" ".join((command.help or "").split()), "")
    if arguments or options:
        yield from ("| | | default |", "| --- | --- | --- |")
    for p in arguments:
        yield f"| `{p.name.upper()}` | {p.help} | |"
    for p in options:
        names = " / ".join(f"`{o}`" for o in [*p.opts, *p.secondary_opts])
        default = "" if p.default is None or p.default is False or p.is_flag else f"`{p.default}`"
        yield f"| {names} | {p.help} | {default} |"
    yield ""


def layers() -> Iterator[str]:
    yield from ("# Keras layers", "", "<!-- written by docs/generate.py -->", "", "## What steps", "")
    yield "`stepstream check MODEL` says the same of your own file, layer by layer."
    yield ""
    yield f"- **Layers**: {_names(sorted([*LAYERS, 'TimeDistributed']))}."
    yield f"- **Nothing to do outside training**: {_names(sorted(IDENTITIES))}."
    yield f"- **Activations**, by name or as a layer: {_names(sorted(ACTIVATIONS))}."
    yield from ("", "Options of these layers that mix samples of different times (`go_backwards`, an `axis` over time,")
    yield "`mask_zero`, ...) block, each with a reason of its own."
    yield from ("", STREAMS)
    yield from ("## What blocks, and what to do", "", "| layer | why | remedy |", "| --- | --- | --- |")
    grouped: dict[tuple[str, str], list[str]] = {}
    for name, reason in REASONS.items():
        grouped.setdefault(reason, []).append(name)
    for (reason, remedy), names in grouped.items():
        yield f"| {_names(names)} | {reason} | {remedy} |"
    yield from ("", "Any other layer is unknown: nothing says how it computes, and no code from a file is ever run.")


STREAMS = """## Which inputs are streams

- Three axes or more, `(batch, time, ...)`: a stream.
- Two axes, `(batch, features)`: no time; it accompanies every sample, and is the same in all of a stream.
- Two axes into an `Embedding`: a stream of indices, `(batch, time)`. Beside a stream of samples it has no time, as
  several categories have none, where its length is fixed and not that of the stream; with the stream's own length it is
  taken for a stream. `check` notes what was assumed where both could be meant.
"""


def _names(names: list[str]) -> str:
    return ", ".join(f"`{n}`" for n in names)


def python() -> Iterator[str]:
    yield from ("# Python", "", "<!-- written by docs/generate.py -->", "")
    names = [n for n in stepstream.__all__ if not n.startswith("__")]
    errors = [n for n in names if _is_error(getattr(stepstream, n))]
    first = ["load", "Model", "Stream"]
    for name in first + [n for n in names if n not in errors + first]:
        made = name in {"Model", "Stream"}  # by load() and by Model.stream()
        yield from _entry(f"stepstream.{name}", getattr(stepstream, name), parameters=not made)
    report = inspect.signature(stepstream.Model.check, eval_str=True).return_annotation
    yield from _entry("stepstream.report.Report", report, parameters=False)
    yield from _entry("stepstream.testing.verify_contract", verify_contract)
    yield from _entry("stepstream.testing.Verification", Verification, parameters=False)
    yield from LEARNING
    for name in [*ON_THE_WAY, *(n for n in learn.__all__ if n not in ON_THE_WAY)]:
        value = getattr(learn, name)
        made = inspect.isclass(value) and value not in {learn.Recipe, learn.Cost}  # by the calls before it
        yield from _entry(f"stepstream.learn.{name}", value, parameters=not made)
    for value in (Run, Row, Baseline, Correction):
        yield from _entry(f"{value.__module__}.{value.__name__}", value, parameters=False)
    yield from ("## Errors and warnings", "", "| | |", "| --- | --- |")
    for name in errors:
        bases = [b.__name__ for b in getattr(stepstream, name).__bases__]
        yield f"| `stepstream.{name}` ({', '.join(bases)}) | {_doc(getattr(stepstream, name))} |"


LEARNING = (
    "## `stepstream.learn`",
    "",
    "Models that are made for streams. `from stepstream import learn` imports no framework; `train`, `sweep` and",
    "`cross_validate` import one when they are called, and need the extra `train`.",
    "",
)

# from data to decisions, as one needs them; what is not named here follows
ON_THE_WAY = [
    *("read", "sequences", "Sequences", "split", "folds"),
    *("Recipe", "train", "Training", "sweep", "Sweep", "cross_validate", "Tried"),
    *("evaluate", "Evaluation", "probabilities"),
    *("calibrate", "Calibration", "out_of_fold", "OutOfFold"),
    *("Cost", "fit_trigger", "Trigger", "Score", "decisions"),
]


def _is_error(value: Any) -> bool:
    return inspect.isclass(value) and issubclass(value, Exception)


def _entry(title: str, value: Any, parameters: bool = True) -> Iterator[str]:
    yield from (f"## `{title}{_signature(value) if parameters else ''}`", "", *_lines(value), "")
    if not inspect.isclass(value):
        return
    for name, member in vars(value).items():
        if name.startswith("_") or isinstance(member, staticmethod) or not (callable(member) or _property(member)):
            continue
        function = getattr(member, "fget", None) or getattr(member, "func", None) or member
        if not inspect.getdoc(function):
            continue
        call = "" if _property(member) else _signature(member)
        yield from (f"### `.{name}{call}`", "", *_lines(function), "")


def _property(member: Any) -> bool:
    return isinstance(member, property) or hasattr(member, "func")


def _signature(value: Any) -> str:
    """Annotations as they are written in the source."""
    signature = inspect.signature(value)
    parts = list[str]()
    for p in signature.parameters.values():
        if p.kind is p.KEYWORD_ONLY and "*" not in parts:
            parts.append("*")
        if p.name != "self":
            default = "" if p.default is p.empty else f" = {p.default!r}"
            parts.append(f"{p.name}: {p.annotation}{default}")
    returns = signature.return_annotation
    arrow = "" if returns in {signature.empty, None, "None"} else f" -> {returns}"
    return f"({', '.join(parts)}){arrow}"


def _doc(value: Any) -> str:
    return " ".join((inspect.getdoc(value) or "").split())


def _lines(value: Any) -> list[str]:
    return [line.rstrip() for line in (inspect.getdoc(value) or "").splitlines()]


if __name__ == "__main__":
    for path, text in pages().items():
        path.write_text(text, encoding="utf-8")
        print(path)
