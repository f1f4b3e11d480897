"""Every error of the package: what was expected, what was got, where, and the cure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from stepstream.graph.streamable import Blocker


class StepstreamError(Exception):
    """Base of every error raised on purpose by this package."""


class ModelFileError(StepstreamError, ValueError):
    """A model file could not be read, or not be written; the message names the file and the place in it."""


class BlockedError(StepstreamError):
    """The model cannot step; `blockers` lists every reason with its remedy."""

    def __init__(self, blockers: Sequence[Blocker]) -> None:
        self.blockers = tuple(blockers)
        lines = [f"  {b.layer} ({b.kind}): {b.reason}\n    remedy: {b.remedy}" for b in self.blockers]
        count = f"{len(lines)} layers block" if len(lines) > 1 else "1 layer blocks"
        super().__init__(f"the model cannot step on a stream: {count} it\n" + "\n".join(lines))

    def __reduce__(self) -> tuple[type[BlockedError], tuple[tuple[Blocker, ...]]]:
        return type(self), (self.blockers,)


class GraphError(StepstreamError, ValueError):
    """A graph breaks a rule of shapes, roles, weights or order."""


class InputError(StepstreamError, ValueError):
    """A sample, a time or an argument was refused; nothing has changed."""


class StateError(StepstreamError, ValueError):
    """A saved state does not fit this model, this windowing or this file layout; nothing has changed."""


class ContractError(StepstreamError, AssertionError):
    """The contract does not hold; the message lists what failed."""


class ConcurrentUseError(StepstreamError, RuntimeError):
    """One Stream was used by two threads at the same time; nothing has changed."""


class StepstreamWarning(UserWarning):
    """Something works, but perhaps not as its user expects."""


class StoreError(StepstreamError):
    """A store cannot be opened, read or written; what was acknowledged before is safe."""
