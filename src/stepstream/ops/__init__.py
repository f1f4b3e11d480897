"""The ops: one file per family, each with parameters, state, NumPy step and NumPy whole."""

from stepstream.ops import activation, dense, embedding, normalise, recurrent
from stepstream.ops.op import REGISTRY, Op

__all__ = ["REGISTRY", "Op", "activation", "dense", "embedding", "normalise", "recurrent"]
