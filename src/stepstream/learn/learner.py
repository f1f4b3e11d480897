"""A network under training: epochs, validation, early stopping, checkpoints."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, final

import numpy as np

from stepstream.errors import InputError
from stepstream.graph.ir import Array
from stepstream.learn import checkpoint
from stepstream.learn.batches import Rows, batch, batches, noisy
from stepstream.learn.data import Sequences
from stepstream.learn.framework import drawing, keras, seeded
from stepstream.learn.lanes import Pool, lanes
from stepstream.learn.network import default, kind_of, own
from stepstream.learn.recipe import Recipe
from stepstream.learn.scores import activated, scores, step_loss
from stepstream.learn.stepper import Stepper, stepper
from stepstream.learn.twin import twin

Row = dict[str, Any]  # of the history: numbers by name, for one epoch
Progress = Callable[[Row], None]
TOGETHER = 256  # rows answered at a time


@final
@dataclass
class Learner:
    """core: the Keras network over scaled samples. kind: what it answers. initial: all values before training."""

    core: Any
    kind: str
    stepper: Stepper
    initial: dict[str, Array]

    @staticmethod
    def of(data: Sequences, recipe: Recipe, network: Any = None) -> Learner:
        """The recipe's network, or the user's, for these data; raises as `learn.train` does."""
        kind = kind_of(data, recipe)
        if network is None:
            labels = np.concatenate([np.atleast_1d(y) for y in data.y]).astype(np.float64)
            target = (float(labels.mean()), float(labels.std()) or 1.0) if kind == "regression" else (0.0, 1.0)
            outputs = len(data.classes) if data.classes is not None and kind == "classes" else 1
            with seeded(recipe.seed):
                core = default(recipe, len(data.features), outputs, kind, target)
        else:
            classes = None if data.classes is None else len(data.classes)
            core, kind = own(network, recipe, len(data.features), classes)
        _check_batch_norm(core, data, recipe)
        with seeded(recipe.seed):
            # the last state is that of the last sample, of rows of any length; lanes have padding behind streams alone
            made = stepper(twin(core, recipe.carries, masked=recipe.state_passing > 0), kind, recipe)
        return Learner(core, kind, made, made.state())

    def answers(self, rows: Rows, starts: list[Array] | None = None) -> tuple[list[Array], list[Array]]:
        """Raw answers (time_i, outputs) of each row, and the last states of all, (rows, units) each.

        starts: the rows' first states; by default zeros.
        """
        count = len(rows.x)
        size = min(-(-count // 8) * 8, TOGETHER)  # in eights, so that parts of about the same size share a shape
        out: list[Array] = []
        finals: list[list[Array]] = []
        for at in range(0, count, size):
            one = batch(rows, np.arange(at, min(at + size, count)), size, rows.longest)
            first = self.stepper.zeros(size)
            for to, values in zip(first, starts or [], strict=starts is not None):
                to[: len(one.rows)] = values[at : at + size]
            z, last = self.stepper.answers(one.x, first, one.there)
            out += [z[i, : len(rows.x[row])] for i, row in enumerate(one.rows)]
            finals.append([f[: len(one.rows)] for f in last])
        return out, [np.concatenate(parts) for parts in zip(*finals, strict=True)]

    def validate(self, held: Rows, recipe: Recipe, by_position: bool) -> Row:
        """Mean step loss and measures on rows that play no part in training.

        Where states are passed on, the rows are answered from zeros and from one another's last states: the loss is
        weighted by the share, the measures are taken over both.
        """
        z, finals = self.answers(held)
        p, labels = [activated(self.kind, one) for one in z], held.y
        loss = step_loss(self.kind, p, labels)
        if recipe.state_passing:
            z, _ = self.answers(held, [np.roll(f, 1, axis=0) for f in finals])
            passed = [activated(self.kind, one) for one in z]
            share = recipe.state_passing
            loss = (1 - share) * loss + share * step_loss(self.kind, passed, labels)
            p, labels = p + passed, labels + labels
        return {"validation_loss": loss, **scores(self.kind, p, labels, by_position)}

    def epoch(self, rows: Rows, recipe: Recipe, number: int, pool: Pool) -> float:
        """One pass over all rows; returns the mean loss of its updates.

        Every epoch draws from a generator of its own, so that going on after an interruption needs none of its state.
        """
        rng = np.random.default_rng([recipe.seed, number])
        found = []
        if recipe.truncated is not None:
            count = min(recipe.batch, len(rows.x))
            states = self.stepper.zeros(count)
            order = rng.permutation(len(rows.x))
            for one, begins in lanes(rows, order, count, min(recipe.truncated, rows.longest)):
                states = [np.where(begins[:, None], 0, s) for s in states]
                one = replace(one, x=noisy(one.x, recipe, rng))
                if one.w.any():
                    value, states = self.stepper.update(one, states)
                    found.append(value)
                else:  # nothing to learn here, but the state goes on
                    states = self.stepper.answers(one.x, states, one.there, "trainable")[1]
        else:
            for one in batches(rows, recipe, rng):
                states = pool.draw(len(one.x), recipe.state_passing, rng)
                value, finals = self.stepper.update(replace(one, x=noisy(one.x, recipe, rng)), states)
                pool.fill(finals, len(one.rows))
                found.append(value)
        loss = float(np.mean([float(v) for v in found]))
        if not math.isfinite(loss):
            raise InputError(f"epoch {number + 1}: expected a finite loss, got {loss}; lower the rate ({recipe.rate})")
        return loss

    def fit(
        self,
        rows: Rows,
        recipe: Recipe,
        held: Rows | None = None,
        by_position: bool = True,
        progress: Progress | None = None,
        folder: Path | None = None,
        identity: str = "",
    ) -> list[Row]:
        """Train from the initial values, or on from the folder's checkpoint; returns a row for each epoch.

        With `patience` the weights of the best epoch are kept, else the last ones. identity: tells whether a
        checkpoint is of this training.
        """
        self.stepper.restore(self.initial)
        pool = Pool(self.stepper.twin.sizes)
        history: list[Row] = []
        best: dict[str, Array] = {}
        about = {"recipe": replace(recipe, epochs=1).to_dict(), "identity": identity}  # more epochs are the same run
        if folder is not None and (found := checkpoint.read(folder)) is not None:
            history, best = self._restore(folder, about, found, pool, recipe)
        while not _over(history, recipe):
            number = len(history)
            with drawing(int(np.random.SeedSequence([recipe.seed, number]).generate_state(1)[0])):
                row: Row = {"epoch": number + 1, "loss": self.epoch(rows, recipe, number, pool)}
            if held is not None:
                row |= self.validate(held, recipe, by_position)
            history.append(row)
            if recipe.patience is not None and best_epoch(history) == len(history):
                best = self.stepper.kept()
            if folder is not None:
                arrays = {f"now.{k}": v for k, v in self.stepper.state().items()} | {
                    f"best.{k}": v for k, v in best.items()
                }
                arrays |= {f"pool.{i}": s for i, s in enumerate(pool.states)}
                checkpoint.write(folder, {**about, "history": history}, arrays)
            if progress is not None:
                progress(row)
        self.stepper.restore(best or self.stepper.kept())
        self.stepper.give_back()
        return history

    def _restore(
        self, folder: Path, about: dict[str, Any], found: Any, pool: Pool, recipe: Recipe
    ) -> tuple[list[Row], dict[str, Array]]:
        said, arrays = found
        for what in about:
            if said.get(what) != about[what]:
                raise InputError(
                    f"{folder}: expected a checkpoint of this training, got one of "
                    f"{'another recipe' if what == 'recipe' else 'other data or another network'}; "
                    "name another folder, or delete this one"
                )
        if len(said["history"]) > recipe.epochs:
            raise InputError(
                f"{folder}: expected a checkpoint of at most {recipe.epochs} epochs, got {len(said['history'])}; "
                "name another folder, or delete this one"
            )
        parts: dict[str, dict[str, Array]] = {"now": {}, "best": {}, "pool": {}}
        for name, array in arrays.items():
            part, _, rest = name.partition(".")
            parts[part][rest] = array
        self.stepper.restore(parts["now"])
        pool.states = [parts["pool"][str(i)] for i in range(len(pool.states))]
        return said["history"], parts["best"]


def _check_batch_norm(core: Any, data: Sequences, recipe: Recipe) -> None:
    """Raises InputError where a BatchNormalization would learn from padding, as it does not know of masks here."""
    norms = [la.name for la in core.layers if isinstance(la, keras().layers.BatchNormalization)]
    lengths = data.lengths
    size = min(recipe.window or lengths.max(), lengths.max())
    if norms and ((lengths % size).any() or recipe.truncated or recipe.prefixes or recipe.starts):
        raise InputError(
            f"network: layer {norms[0]!r} (BatchNormalization) would learn from the padding behind shorter sequences; "
            "expected sequences of one length, without truncated, prefixes and starts; or take LayerNormalization"
        )


def best_epoch(history: list[Row]) -> int:
    """Number, from 1, of the epoch with the lowest loss on the validation part; of the first of them."""
    return int(np.argmin([row["validation_loss"] for row in history])) + 1


def _over(history: list[Row], recipe: Recipe) -> bool:
    if len(history) >= recipe.epochs:
        return True
    return recipe.patience is not None and bool(history) and len(history) - best_epoch(history) >= recipe.patience
