"""What `stepstream train` says: the data, the course of the training, its interruption, and the figures at its end."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import typer
from rich.console import Console

from stepstream.cli.app import say, table_with
from stepstream.learn.data import Sequences, by_class
from stepstream.learn.evaluation_tables import about_classes, about_features
from stepstream.learn.guards import Finding
from stepstream.learn.learner import Row
from stepstream.learn.training import Training
from stepstream.learn.words import counted

# of a sweep's table, in the order in which they leave a narrow terminal
LEAST = ("precision", "recall", "end_precision", "end_recall", "end_f1", "f1")
SHORT = {"validation_loss": "val. loss"}


class Course:
    """Where a training is, and what was said of it: on standard error."""

    def __init__(self, err: Console, folder: Path | None) -> None:
        self._err, self._folder = err, folder
        self._said: set[str] = set()
        self._at = "before the first epoch"

    def say(self, finding: Finding) -> None:
        """Once."""
        if str(finding) not in self._said:
            say(self._err, f"! {finding}", "yellow")
        self._said.add(str(finding))

    def say_data(self, part: Sequences, held: Sequences | None) -> None:
        """What is learned from, before anybody waits for it."""
        say(self._err, f"{_counts(part)}; {about_features(part.features)}", "dim")
        if (labels := by_class(part)) is not None:
            say(self._err, about_classes(labels), "dim")
        if held is not None:
            say(self._err, f"held out: {_counts(held)}", "dim")

    @contextmanager
    def stage(self, what: str, epochs: int) -> Iterator[Callable[[Row], None]]:
        """A progress bar on a terminal; elsewhere nothing. epochs: of all its trainings together, at most."""
        from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

        columns = (
            TextColumn("{task.description}"),
            BarColumn(bar_width=None),
            TaskProgressColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[now]}"),
        )
        self._at, done = f"{what}, in epoch 1 of {epochs}", 0
        with Progress(*columns, console=self._err, transient=True, disable=not self._err.is_terminal) as progress:
            task = progress.add_task(what, total=epochs, now="")

            def tell(row: Row) -> None:
                nonlocal done
                done = max(done + 1, row["epoch"])  # a training that goes on from its checkpoint begins later
                self._at = f"{what}, after epoch {done} of {epochs}"
                named = (("loss", "loss"), ("validation_loss", "val."), ("accuracy", "acc."), ("auc", "AUC"))
                shown = [f"{short} {row[name]:.3f}" for name, short in named if row.get(name) is not None]
                progress.update(task, completed=done, now=" ".join(shown))

            yield tell

    @contextmanager
    def interruptible(self) -> Iterator[None]:
        """Ctrl-C ends in one line that says what is left of the work, and 130."""
        try:
            yield
        except KeyboardInterrupt:
            if self._folder is None:
                rest = "nothing was written; with --folder the same command would go on from the last epoch"
            elif any(self._folder.glob("*.npz")):  # of a training, or the histories of a sweep
                rest = f"no model was written; the same command goes on from the checkpoint in {self._folder}"
            else:
                rest = f"nothing was written, no checkpoint in {self._folder} either"
            print(f"stepstream: stopped by Ctrl-C ({self._at}): {rest}", file=sys.stderr)
            raise typer.Exit(130) from None


def _counts(data: Sequences) -> str:
    streams = len(set(data.streams))
    of = "" if streams == len(data) else f" of {counted(streams, 'stream')}"
    return f"{counted(len(data), 'sequence')}{of}, {counted(int(data.lengths.sum()), 'sample')}"


def show(out: Console, training: Training) -> None:
    """The end of a training."""
    report = training.report
    data = report["data"]
    say(
        out,
        f"trained on {counted(data['sequences'], 'sequence')}, {counted(data['samples'], 'sample')}, "
        f"{counted(report['epochs'], 'epoch')}, {report['seconds']:.0f} s; loss {training.history[-1]['loss']:.3f}",
    )
    if report["validation"] is not None:
        row = training.history[report["kept_epoch"] - 1]
        held = counted(report["validation"]["sequences"], "sequence")
        say(out, f"{held} held out, epoch {row['epoch']}:")
        names = [n.removeprefix("end_") for n in row if n.startswith("end_")]
        rows = [
            {"samples": what, **{n: row[f"{prefix}{n}"] for n in names}}
            for what, prefix in (("mean", ""), ("last", "end_"))
        ]
        rows[0]["loss"] = row["validation_loss"]
        rows[1]["loss"] = None
        out.print(table(rows, out.width))


def table(rows: Sequence[Row], width: int) -> Any:
    """Rows by name, without as many of the least columns as it takes to have room."""
    titles = {n: SHORT.get(n, n.replace("_", " ")) for n in rows[0]}
    cells = {n: [_cell(row[n]) for row in rows] for n in titles}
    for name in LEAST:
        if sum(max(map(len, (titles[n], *cells[n]))) + 2 for n in titles) - 2 > width:
            titles.pop(name, None)
    made = table_with(*titles.values())
    for i in range(len(rows)):
        made.add_row(*(cells[n][i] for n in titles))
    return made


def _cell(value: Any) -> str:
    return f"{value:.3f}" if isinstance(value, float) else "" if value is None else str(value)
