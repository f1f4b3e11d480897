"""Run a trained sequence model on live streams, one sample at a time."""

from stepstream.errors import (
    BlockedError,
    ConcurrentUseError,
    ContractError,
    InputError,
    ModelFileError,
    StateError,
    StepstreamError,
    StepstreamWarning,
    StoreError,
)
from stepstream.live.engine import Engine
from stepstream.live.results import Result, Results
from stepstream.live.stream import Stream
from stepstream.live.windowing import Carry, Session, Sliding, Tumbling
from stepstream.model import Model, load
from stepstream.version import __version__

__all__ = [
    "BlockedError",
    "Carry",
    "ConcurrentUseError",
    "ContractError",
    "Engine",
    "InputError",
    "Model",
    "ModelFileError",
    "Result",
    "Results",
    "Session",
    "Sliding",
    "StateError",
    "StepstreamError",
    "StepstreamWarning",
    "StoreError",
    "Stream",
    "Tumbling",
    "__version__",
    "load",
]
