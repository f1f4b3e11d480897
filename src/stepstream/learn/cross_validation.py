"""Which loss, how much noise and whether random starts, by cross-validation inside the training data."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, final

import numpy as np

from stepstream.errors import InputError
from stepstream.graph.ir import Array
from stepstream.learn import checkpoint
from stepstream.learn.batches import rows
from stepstream.learn.data import Sequences, folds
from stepstream.learn.kinds import of_kind
from stepstream.learn.learner import Learner, Row
from stepstream.learn.network import anew
from stepstream.learn.recipe import LOSSES, Recipe
from stepstream.learn.scaling import scaling
from stepstream.learn.scores import mean
from stepstream.learn.training import by_position, identity

NOISES = (0.0, 0.1, 0.3)  # of a feature's spread
STARTS = (0.0, 0.5)


@final
@dataclass(frozen=True, eq=False)
class Tried:
    """A recipe under cross-validation: its mean validation loss over the folds by epoch, (epochs,), and where it is
    lowest. scores: all measures there, means over the folds.
    """

    recipe: Recipe
    curve: Array
    epochs: int
    scores: Row

    @property
    def loss(self) -> float:
        """The lowest mean validation loss."""
        return float(self.curve[self.epochs - 1])


@final
@dataclass(frozen=True, eq=False)
class Sweep:
    """tried: every recipe. best: the recipe with the lowest loss, for training on all data: with the number of
    epochs that was best, and without early stopping.
    """

    tried: tuple[Tried, ...]
    best: Recipe

    def table(self) -> list[Row]:
        """A row for each recipe, lowest loss first."""
        return [
            {"loss": t.recipe.loss, "noise": t.recipe.noise, "starts": t.recipe.starts, "epochs": t.epochs, **t.scores}
            for t in sorted(self.tried, key=lambda t: t.loss)
        ]


def cross_validate(
    data: Sequences,
    recipe: Recipe,
    k: int = 5,
    network: Any = None,
    progress: Callable[[Recipe, int, Row], None] | None = None,
    folder: str | Path | None = None,
) -> Tried:
    """Train on all parts but one, k times, by stream; every part is the validation part once.

    All are trained for the recipe's epochs: `patience` plays no part. network: as in `train`; of a Keras model the
    layers alone, with new weights, as its own may have seen the validation parts. Where they have not, and matter, give
    a function that builds it with them. progress: called with the recipe, the fold (from 0) and the history's row after
    each epoch. folder: where the histories of folds that are over are kept: called again, those are not trained again.
    """
    network = anew(network)
    return _crossed(data, recipe, k, network, progress, Learner.of(data, recipe, network), folder)


def _crossed(
    data: Sequences,
    recipe: Recipe,
    k: int,
    network: Any,
    progress: Callable[[Recipe, int, Row], None] | None,
    learner: Learner,
    folder: str | Path | None,
) -> Tried:
    """learner: made for these data and a recipe of the same network and rates, so that nothing is compiled again."""
    recipe = replace(recipe, patience=None)
    kept = _Histories(folder, identity(data, None, learner) if folder is not None else "")
    histories = []
    for fold, (part, held) in enumerate(folds(data, k, recipe.seed)):

        def tell(row: Row, fold: int = fold) -> None:
            if progress is not None:
                progress(recipe, fold, row)

        if (history := kept.get(recipe, k, fold)) is not None:
            for row in history:
                tell(row)
        else:
            if learner.kind == "regression":  # whose network starts from the mean of the part's labels
                learner = Learner.of(part, recipe, network)
            scale = scaling(part)
            history = learner.fit(
                rows(part, recipe, scale),
                recipe,
                rows(held, recipe, scale, validation=True),
                by_position(data, recipe),
                tell,
            )
            kept.put(recipe, k, fold, history)
        histories.append(history)
    curve = np.mean([[row["validation_loss"] for row in h] for h in histories], axis=0)
    epochs = int(curve.argmin()) + 1
    at = [h[epochs - 1] for h in histories]
    scores = {name: mean([row[name] for row in at]) for name in at[0] if name not in ("epoch", "loss")}
    return Tried(recipe, curve, epochs, scores)


@final
class _Histories:
    """Of trainings that are over, by recipe and fold, in a file of the folder; without a folder none are kept."""

    NAME = "sweep.npz"

    def __init__(self, folder: str | Path | None, data: str) -> None:
        self._folder = None if folder is None else Path(folder)
        self._about: dict[str, Any] = {"identity": data, "histories": {}}
        found = None if self._folder is None else checkpoint.read(self._folder, self.NAME)
        if found is not None:
            if found[0].get("identity") != data:
                raise InputError(
                    f"{folder}: expected the histories of a sweep on these data, got those of other data or another "
                    "network; name another folder, or delete this one"
                )
            self._about = found[0]

    def get(self, recipe: Recipe, k: int, fold: int) -> list[Row] | None:
        return self._about["histories"].get(self._name(recipe, k, fold))

    def put(self, recipe: Recipe, k: int, fold: int, history: list[Row]) -> None:
        self._about["histories"][self._name(recipe, k, fold)] = history
        if self._folder is not None:
            checkpoint.write(self._folder, self._about, {}, self.NAME)

    @staticmethod
    def _name(recipe: Recipe, k: int, fold: int) -> str:
        return json.dumps([recipe.to_dict(), k, fold])


def sweep(
    data: Sequences,
    recipe: Recipe | None = None,
    *,
    losses: Sequence[str] = LOSSES,
    noises: Sequence[float] = NOISES,
    starts: Sequence[float] = STARTS,
    k: int = 5,
    network: Any = None,
    progress: Callable[[Recipe, int, Row], None] | None = None,
    folder: str | Path | None = None,
) -> Sweep:
    """Try every loss with every noise, and the best of these with every share of random starts; the lowest
    cross-validated mean loss over all samples wins.

    All are measured alike, whatever they are trained for: by the mean step loss. `patience` plays no part. network: as
    in `cross_validate`. folder: called again with the same arguments after an interruption, the folds that were over
    are not trained again. Raises InputError.
    """
    recipe = Recipe() if recipe is None else recipe
    for what, values in (("losses", losses), ("noises", noises), ("starts", starts)):
        if not values:
            raise InputError(f"{what}: expected at least one to try, got none")
    of_kind("recipe", recipe, Recipe)
    of_kind("data", data, Sequences)
    network = anew(network)
    learner = Learner.of(data, recipe, network)

    def attempt(**changes: Any) -> Tried:
        return _crossed(data, replace(recipe, **changes), k, network, progress, learner, folder)

    first, *rest = (0.0,) if recipe.truncated is not None else starts  # streams that are played whole have one start
    tried = [attempt(loss=loss, noise=noise, starts=first) for loss in losses for noise in noises]
    best = min(tried, key=lambda t: t.loss)
    tried += [attempt(loss=best.recipe.loss, noise=best.recipe.noise, starts=share) for share in rest]
    best = min(tried, key=lambda t: t.loss)
    return Sweep(tuple(tried), replace(best.recipe, epochs=best.epochs, patience=None))
