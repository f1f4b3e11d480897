"""Check vectors: a few samples and the outputs that a bundle must give for them, on the machine that loads it.

They show what no sum can: that the file's numbers still mean what they meant, to this version and on this processor.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from stepstream import limits
from stepstream.errors import ContractError, ModelFileError
from stepstream.formats.reading import CheckVectors
from stepstream.graph.ir import Array, Graph, TimeRole
from stepstream.graph.passes import input_scale
from stepstream.graph.validate import validate
from stepstream.ops import REGISTRY
from stepstream.ops.executor import NumpyExecutor
from stepstream.testing import LARGEST, TOLERANCE, Check, compare, difference, outputs, stepped, yardstick

if TYPE_CHECKING:
    from stepstream.model import Model

STREAMS = 3
STEPS = 16  # where the model does not say how long its windows are
MOST_STEPS = 32
TRIES = 8
CALL = 1000  # numbers that NumPy adds in the time that a call of it takes


def made(model: Model) -> CheckVectors | None:
    """None for a model whose samples cost too much to be stepped at every load.

    Raises ContractError where kernel and NumPy do not agree: no other machine could load the file.
    """
    work = _work(model.graph)
    length = model.window_length or model.training_length or STEPS
    time = min(length, MOST_STEPS, limits.MAX_CHECK_WORK // (STREAMS * work))
    if not time:
        return None
    for seed in range(TRIES):  # a sample may lie where an op leaps, and rounding decides
        x = _samples(model, time, seed)
        vectors = CheckVectors(x, stepped(model.executor, x), model.fingerprint)
        check = _compared(model, vectors, stepped(NumpyExecutor(model.graph), x))
        if check.ok:
            return vectors
    raise ContractError(f"expected a model that computes the same on every machine, got {check}; see model.verify()")


def prove(model: Model, where: str) -> None:
    """Run the check vectors of the model's file. Raises ModelFileError where something else comes out."""
    vectors, work = model.reading.vectors, _work(model.graph)
    if vectors is None:
        if STREAMS * work <= limits.MAX_CHECK_WORK:
            raise ModelFileError(f"{where}: expected check vectors, got none")
        return
    streams, time, numbers = vectors.y.shape
    most, expected = limits.MAX_CHECK_WORK // work, sum(model.executor.output_sizes)
    if streams * time > most or numbers != expected:
        wanted = f"at most {most} samples of {expected} outputs"
        raise ModelFileError(f"{where}: check vectors: expected {wanted}, got {streams * time} of {numbers}")
    check = _compared(model, vectors, stepped(model.executor, vectors.x))
    if not check.ok:
        raise ModelFileError(
            f"{where}: check vectors: expected the outputs that the file was saved with, got others on {model.runs_on} "
            f"(largest error {check.error:.2g} at sample {check.position}, allowed {check.tolerance:.2g}); save the "
            "bundle again from the original, and see model.verify()"
        )


def _compared(model: Model, vectors: CheckVectors, ours: Array) -> Check:
    """As the contract has it. The costly part, how well float32 can do at all, is left out where nobody asks.

    Decisions are whole numbers: they are the same or they are others.
    """
    given, expected = outputs(model, ours), outputs(model, vectors.y)
    error = float(difference(given, expected).max())
    check = Check("check vectors", "the file", error, None, TOLERANCE, True)
    if error > TOLERANCE:
        check = compare("check vectors", "the file", given, expected, yardstick(model, vectors.x))
    off = difference(ours, vectors.y)[..., given.shape[-1] :].max(axis=(0, 2), initial=0)  # (time,)
    if check.ok and off.any():
        return Check("check vectors, decisions", "the file", float(off.max()), int(off.argmax()), 0, False)
    return check


def _work(graph: Graph) -> int:
    """Numbers touched for one sample, about, and in the time that it takes to call NumPy."""
    specs = validate(graph)
    calls = sum(1 + len(n.inputs) for n in graph.nodes)
    return 1 + CALL * calls + sum(REGISTRY[n.op].work(n, *(specs[i] for i in n.inputs)) for n in graph.nodes)


def _samples(model: Model, time: int, seed: int) -> Array:
    """float32 (streams, time, features), where the model's scaling expects them; the same bits with every NumPy."""
    # RandomState's stream never changes, and a sum and a product are the same everywhere
    drawn = np.random.RandomState(seed).random_sample((STREAMS, time, model.n_features))
    x = 4 * drawn - 2
    scale = input_scale(model.graph)
    if scale is not None:
        mean, std = scale
        x = x * std + mean
    for column, count in model.index_columns.items():
        x[..., column] = np.floor(drawn[..., column] * count)
    for name, spec in model.graph.inputs:
        if spec.role is TimeRole.STATIC:
            x[..., model.input_columns[name]] = x[:, :1, model.input_columns[name]]
    return np.clip(x, -LARGEST, LARGEST).astype(np.float32)
