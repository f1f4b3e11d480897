"""One update of the weights, compiled once for every shape: JAX as a pure function, PyTorch as it runs.

What differs between recipes (the weights of the samples, noise, first states) comes in as arrays, so that
cross-validation and sweeps never compile again.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, final

import numpy as np

from stepstream.errors import InputError
from stepstream.graph.ir import Array
from stepstream.learn.batches import Batch
from stepstream.learn.framework import keras
from stepstream.learn.recipe import Recipe
from stepstream.learn.twin import Twin

GROUPS = ("trainable", "other", "optimiser", "average")


def stepper(twin: Twin, kind: str, recipe: Recipe) -> Stepper:
    """For the back end that Keras runs on."""
    return (_Jax if keras().backend.backend() == "jax" else _Torch)(twin, kind, recipe)


def losses(kind: str, y: Any, z: Any) -> Any:
    """Loss of every sample, (b, time): y (b, time) against raw answers z (b, time, outputs)."""
    ops = keras().ops
    if kind == "binary":
        return ops.binary_crossentropy(y, z[..., 0], from_logits=True)
    if kind == "classes":
        return ops.sparse_categorical_crossentropy(ops.cast(y, "int32"), z, from_logits=True)
    return ops.square(y - z[..., 0])


def mixed(average: list[Any], values: list[Any], share: Any) -> list[Any]:
    """The running mean, `share` of it kept."""
    return [share * a + (1 - share) * v for a, v in zip(average, values, strict=True)]


class Stepper(ABC):
    """Weights, optimiser and random state of one network under training."""

    def __init__(self, twin: Twin, kind: str, recipe: Recipe) -> None:
        decayed = keras().optimizers.schedules.InverseTimeDecay(recipe.rate, decay_steps=1, decay_rate=recipe.decay)
        self.twin, self.kind = twin, kind
        self.model = twin.model
        self.optimiser = keras().optimizers.Adam(decayed, global_clipnorm=recipe.clip)
        self.optimiser.build(self.model.trainable_variables)
        self.average = recipe.average

    def share(self, updates: Any) -> Any:
        """How much the running mean keeps of itself: less over the first updates, as the first weights are no good."""
        updates = keras().ops.cast(updates, "float32")
        return keras().ops.minimum(self.average, (1 + updates) / (10 + updates))

    @abstractmethod
    def update(self, one: Batch, states: list[Array]) -> tuple[Any, list[Array]]:
        """Improve the weights on one batch; returns its loss (a number, perhaps not computed yet) and the last states.

        The loss is sum(c * w * losses) / sum(w). states: float32 (b, units) each, constants to the gradient.
        """

    @abstractmethod
    def answers(self, x: Array, states: list[Array], mask: Array, group: str = "average") -> tuple[Array, list[Array]]:
        """Raw answers (b, time, outputs) without dropout, and the last states; by the mean weights, or by the newest,
        "trainable".
        """

    @abstractmethod
    def variables(self) -> dict[str, list[Any]]:
        """All values by group."""

    @abstractmethod
    def put(self, values: dict[str, list[Array]]) -> None:
        """Set all values of the groups that are there."""

    @abstractmethod
    def give_back(self) -> None:
        """Write the weights into the network that was given for training."""

    def state(self, groups: tuple[str, ...] = GROUPS) -> dict[str, Array]:
        """A copy of the values of these groups by name, for `restore`."""
        ours = self.variables()
        return {f"{g}.{i}": np.array(keras().ops.convert_to_numpy(v)) for g in groups for i, v in enumerate(ours[g])}

    def kept(self) -> dict[str, Array]:
        """A copy of what the model is to have in the end: the running mean of the weights, in their place, too."""
        found = self.state(("average", "other"))
        return found | {n.replace("average", "trainable"): v for n, v in found.items() if n.startswith("average")}

    def restore(self, state: dict[str, Array]) -> None:
        """Set the values that `state` gave; raises InputError where they are another network's."""
        ours = self.variables()
        values: dict[str, list[Array]] = {}
        for group in GROUPS:
            if f"{group}.0" not in state:
                continue
            names = [f"{group}.{i}" for i in range(len(ours[group]))]
            for name, own in zip(names, ours[group], strict=True):
                if name not in state or state[name].shape != tuple(own.shape):
                    got = state[name].shape if name in state else "none"
                    raise InputError(f"checkpoint: expected shape {tuple(own.shape)} for {name}, got {got}")
            values[group] = [state[name] for name in names]
        self.put(values)

    def inputs(self, x: Any, states: Any, mask: Any) -> list[Any]:
        """What the twin takes."""
        return [x, *states, *([mask] if self.twin.masked else [])]

    def zeros(self, rows: int) -> list[Array]:
        """First states."""
        return [np.zeros((rows, size), np.float32) for size in self.twin.sizes]


@final
class _Jax(Stepper):
    def __init__(self, twin: Twin, kind: str, recipe: Recipe) -> None:
        import jax

        super().__init__(twin, kind, recipe)
        ops, model, optimiser = keras().ops, self.model, self.optimiser
        self._values: dict[str, list[Any]] = {
            "trainable": [v.value for v in model.trainable_variables],
            "other": [v.value for v in model.non_trainable_variables],
            "optimiser": [v.value for v in optimiser.variables],
            "average": [v.value for v in model.trainable_variables],
        }
        count = [v is optimiser.iterations for v in optimiser.variables].index(True)

        def loss(trainable: Any, other: Any, inputs: Any, y: Any, w: Any, c: Any) -> Any:
            outputs, other, extra = model.stateless_call(trainable, other, inputs, training=True, return_losses=True)
            z, *finals = outputs if isinstance(outputs, list | tuple) else [outputs]
            value = ops.sum(losses(kind, y, z) * w * c) / ops.maximum(ops.sum(w), 1e-12)
            return value + sum(extra), (value, other, finals)

        def update(trainable: Any, other: Any, own: Any, average: Any, inputs: Any, y: Any, w: Any, c: Any) -> Any:
            grads, (value, other, finals) = jax.grad(loss, has_aux=True)(trainable, other, inputs, y, w, c)
            share = self.share(own[count])
            trainable, own = optimiser.stateless_apply(own, grads, trainable)
            average = mixed(average, trainable, share)
            return (trainable, other, own, average), value, finals

        def answers(trainable: Any, other: Any, inputs: Any) -> Any:
            outputs, _ = model.stateless_call(trainable, other, inputs, training=False)
            return outputs if isinstance(outputs, list | tuple) else [outputs]

        self._update, self._answers = jax.jit(update), jax.jit(answers)
        self._compiled: dict[Any, Any] = {}

    def _run(self, function: Any, *arguments: Any) -> Any:
        """Compiled for the shape of the samples, which decides upon all others."""
        key = function, arguments[-4 if function is self._update else -1][0].shape
        if key not in self._compiled:
            # at XLA's own level compiling takes twice as long, and small recurrent networks run no faster
            options = {"xla_backend_optimization_level": 1}
            self._compiled[key] = function.lower(*arguments).compile(compiler_options=options)
        return self._compiled[key](*arguments)

    def update(self, one: Batch, states: list[Array]) -> tuple[Any, list[Array]]:
        ours = [self._values[group] for group in GROUPS]
        values, value, finals = self._run(
            self._update, *ours, self.inputs(one.x, states, one.there), one.y, one.w, one.c
        )
        self._values = dict(zip(GROUPS, values, strict=True))
        return value, [np.asarray(f) for f in finals]

    def answers(self, x: Array, states: list[Array], mask: Array, group: str = "average") -> tuple[Array, list[Array]]:
        inputs = self.inputs(x, states, mask)
        z, *finals = self._run(self._answers, self._values[group], self._values["other"], inputs)
        return np.asarray(z), [np.asarray(f) for f in finals]

    def variables(self) -> dict[str, list[Any]]:
        return self._values

    def put(self, values: dict[str, list[Array]]) -> None:
        import jax.numpy as jnp

        for group, arrays in values.items():
            # of the same type as before, or everything would be compiled again
            self._values[group] = [jnp.asarray(a, v.dtype) for a, v in zip(arrays, self._values[group], strict=True)]

    def give_back(self) -> None:
        for group, ours in (
            ("trainable", self.model.trainable_variables),
            ("other", self.model.non_trainable_variables),
        ):
            for variable, value in zip(ours, self._values[group], strict=True):
                variable.assign(value)
        self.twin.give_back()


@final
class _Torch(Stepper):
    def __init__(self, twin: Twin, kind: str, recipe: Recipe) -> None:
        super().__init__(twin, kind, recipe)
        self._average = [v.value.detach().clone() for v in self.model.trainable_variables]

    def update(self, one: Batch, states: list[Array]) -> tuple[Any, list[Array]]:
        import torch

        ops, model = keras().ops, self.model
        inputs = [ops.convert_to_tensor(v) for v in self.inputs(one.x, states, one.there)]
        model.zero_grad()
        outputs = model(inputs, training=True)
        z, *finals = outputs if isinstance(outputs, list | tuple) else [outputs]
        weights = ops.convert_to_tensor(one.w * one.c)
        loss = ops.sum(losses(self.kind, ops.convert_to_tensor(one.y), z) * weights) / max(float(one.w.sum()), 1e-12)
        (loss + sum(model.losses)).backward()
        ours = model.trainable_variables
        with torch.no_grad():
            share = self.share(self.optimiser.iterations.value)
            self.optimiser.apply([v.value.grad for v in ours], ours)
            self._average = mixed(self._average, [v.value for v in ours], share)
        return loss.detach(), [ops.convert_to_numpy(f) for f in finals]

    def answers(self, x: Array, states: list[Array], mask: Array, group: str = "average") -> tuple[Array, list[Array]]:
        import torch

        ops = keras().ops
        inputs = [ops.convert_to_tensor(v) for v in self.inputs(x, states, mask)]
        weights = self._average if group == "average" else [v.value for v in self.model.trainable_variables]
        other = [v.value for v in self.model.non_trainable_variables]
        with torch.no_grad():
            outputs, _ = self.model.stateless_call(weights, other, inputs, training=False)
        z, *finals = outputs if isinstance(outputs, list | tuple) else [outputs]
        return ops.convert_to_numpy(z), [ops.convert_to_numpy(f) for f in finals]

    def variables(self) -> dict[str, list[Any]]:
        return {
            "trainable": list(self.model.trainable_variables),
            "other": list(self.model.non_trainable_variables),
            "optimiser": list(self.optimiser.variables),
            "average": self._average,
        }

    def put(self, values: dict[str, list[Array]]) -> None:
        ours = self.variables()
        for group, arrays in values.items():
            if group == "average":
                self._average = [keras().ops.convert_to_tensor(a) for a in arrays]
            else:
                for variable, value in zip(ours[group], arrays, strict=True):
                    variable.assign(value)

    def give_back(self) -> None:
        self.twin.give_back()
