"""Recipe: every setting of a training, in one value that prints as JSON."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, final

from stepstream import limits
from stepstream.arguments import whole
from stepstream.errors import InputError
from stepstream.formats import json_text

CELLS = ("lstm", "gru", "rnn")
OUTPUTS = ("binary", "classes", "regression")
LOSSES = ("last", "mean", "ramp")
SHARES = {"dropout": 0.999, "noise": math.inf, "prefixes": 1, "starts": 1, "average": 0.9999, "state_passing": 1}
MAX_COUNT = 10**9  # epochs, rows and units beyond it are typing errors


@final
@dataclass(frozen=True)
class Recipe:
    """How a model is trained. Raises InputError for a setting that cannot be.

    cell, units, dropout: the default network, see `stepstream.learn.network`. outputs: "binary" (one sigmoid),
    "classes" (softmax) or "regression"; None: by the data. rate, decay: Adam at rate / (1 + decay * updates made).
    clip: longest gradient, over all weights together; longer ones are shortened, or a recurrent network forgets in one
    update what it has learned (Pascanu et al. 2013, arXiv:1211.5063); None: never. batch: windows in one update, or
    lanes under `truncated`.
    loss: the weights of a sequence's samples, which sum to 1: "last" the last alone, "mean" all alike, "ramp" rising
    linearly. noise: standard deviation of what is added to the inputs, in units of the scaled features.
    prefixes: share of the sequences (0 to 1) that are cut at a random length, anew in every epoch. starts: share of
    them that begin at a random sample of their first half, for streams that are joined at any moment.
    average: the model that is kept has the running mean of the weights, over about 1 / (1 - average) updates, which
    depends less on the seed and on when training ends (Polyak & Juditsky 1992); 0: the weights of the last update.
    window: cut sequences into windows of so many samples. state_passing: share of the windows (0 to 1) that start from
    another window's last state. truncated: back-propagate through so many samples at a time while the state is carried
    on to the stream's end.
    class_weights: "balanced", or a weight for each class by name. patience: stop after so many epochs without a lower
    loss on the validation part, and keep the best. seed: of all that is random.
    """

    cell: str = "lstm"
    units: tuple[int, ...] = (32, 16)
    dropout: float = 0.2
    outputs: str | None = None
    rate: float = 0.001
    decay: float = 0.001
    clip: float | None = 1.0
    epochs: int = 200
    batch: int = 16
    loss: str = "mean"
    noise: float = 0.0
    prefixes: float = 0.0
    starts: float = 0.0
    average: float = 0.98
    window: int | None = None
    state_passing: float = 0.0
    truncated: int | None = None
    class_weights: str | Mapping[str, float] | None = None
    patience: int | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        for name, options in (("cell", CELLS), ("outputs", (None, *OUTPUTS)), ("loss", LOSSES)):
            if getattr(self, name) not in options:
                named = ", ".join(str(o) for o in options)
                raise InputError(f"{name}: expected one of {named}, got {getattr(self, name)!r}")
        if not isinstance(self.units, tuple | list) or not self.units:
            raise InputError(f"units: expected a number for each recurrent layer, got {self.units!r}")
        object.__setattr__(self, "units", tuple(whole("units", u, 1, MAX_COUNT) for u in self.units))
        for name, high in SHARES.items():
            object.__setattr__(self, name, _number(name, getattr(self, name), 0, high))
        object.__setattr__(self, "decay", _number("decay", self.decay, 0, math.inf))
        for name in ("rate", *(["clip"] if self.clip is not None else [])):
            if not (value := _number(name, getattr(self, name), 0, math.inf)):
                raise InputError(f"{name}: expected a number above 0, got 0")
            object.__setattr__(self, name, value)
        for name, low, high in (("epochs", 1, MAX_COUNT), ("batch", 1, MAX_COUNT), ("seed", 0, 2**32 - 1)):
            object.__setattr__(self, name, whole(name, getattr(self, name), low, high))
        for name, high in (("window", limits.MAX_WINDOW), ("truncated", limits.MAX_WINDOW), ("patience", MAX_COUNT)):
            if getattr(self, name) is not None:
                object.__setattr__(self, name, whole(name, getattr(self, name), 1, high))
        if self.truncated is not None:
            for name in ("window", "state_passing", "prefixes", "starts"):
                if getattr(self, name):
                    raise InputError(
                        f"{name}: expected none beside truncated={self.truncated}, which plays streams whole, "
                        f"got {getattr(self, name)!r}"
                    )
        if isinstance(self.class_weights, Mapping):
            weights = {
                str(k): _number(f"class_weights of {k!r}", v, 0, math.inf) for k, v in self.class_weights.items()
            }
            if not any(weights.values()):
                raise InputError(
                    f"class_weights: expected one above 0 at least, got {weights}: nothing would be learned"
                )
            object.__setattr__(self, "class_weights", weights)
        elif self.class_weights not in (None, "balanced"):
            raise InputError(
                f'class_weights: expected None, "balanced" or a weight for each class, got {self.class_weights!r}'
            )

    @property
    def carries(self) -> bool:
        """Whether the model is trained to go on beyond the end of a window."""
        return self.state_passing > 0 or self.truncated is not None

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return {**asdict(self), "units": list(self.units)}

    def to_json(self) -> str:
        """All settings as text that `from_json` reads."""
        return json.dumps(self.to_dict(), indent=2)

    @staticmethod
    def from_json(text: str) -> Recipe:
        """What `to_json` wrote; settings that are not there have their defaults. Raises InputError."""
        settings = json_text.value(text, "recipe", InputError)  # refuses a setting given twice
        known = [f.name for f in fields(Recipe)]
        if not isinstance(settings, dict) or (unknown := sorted(set(settings) - set(known))):
            got = unknown if isinstance(settings, dict) else type(settings).__name__
            raise InputError(f"recipe: expected an object with the settings {', '.join(known)}, got {got}")
        return Recipe(**settings)


def _number(name: str, value: Any, low: float, high: float) -> float:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if not number or not low <= value <= high or not math.isfinite(value):
        upper = "" if high == math.inf else f" to {high}"
        raise InputError(f"{name}: expected a number from {low}{upper}, got {value!r}")
    return float(value)
