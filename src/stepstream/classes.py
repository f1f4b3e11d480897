"""Probabilities of classes: one sigmoid unit counts as two, and what each answer loses against the truth."""

from __future__ import annotations

import numpy as np

from stepstream.graph.ir import Array

FLOOR = float(np.finfo(np.float32).eps)  # below it a probability counts as this much, or one answer would decide


def as_classes(p: Array) -> Array:
    """Answers (n, outputs) -> probabilities (n, classes); those of one unit as (1 - p, p)."""
    return np.concatenate([1 - p, p], axis=1) if p.shape[1] == 1 else p


def as_logits(z: Array) -> Array:
    """Logits (n, outputs) -> (n, classes); those of one unit as (0, z)."""
    return np.concatenate([np.zeros_like(z), z], axis=1) if np.shape(z)[1:] == (1,) else z


def log_losses(p: Array, y: Array) -> Array:
    """-ln of the probability of the true class, (n,). p: float64 (n, classes); y: class indices (n,)."""
    loss: Array = -np.log(np.clip(p[np.arange(len(y)), y], FLOOR, 1))
    return loss


def brier_scores(p: Array, y: Array) -> Array:
    """Two classes: (p1 - y)^2, from 0 to 1. More: the sum over all classes, from 0 to 2. (n,)"""
    if p.shape[1] == 2:
        return np.asarray((p[:, 1] - y) ** 2)
    return np.asarray(((p - np.eye(p.shape[1])[y]) ** 2).sum(axis=1))
