"""The demo's network and the problem that it learns; imported by its trainer and by the export worker."""

from __future__ import annotations

from typing import Any

import numpy as np
from paddle import nn

FEATURES = 32
CLASSES = 10
TRAINING_SAMPLES = 8000
HELD_OUT_SAMPLES = 2000

_TEACHER_WIDTH = 3
_WIDTH = 256


def build() -> Any:
    """The untrained network: what `release.entrypoint` names."""
    return nn.Sequential(
        nn.Linear(FEATURES, _WIDTH),
        nn.BatchNorm1D(_WIDTH),
        nn.ReLU(),
        nn.Linear(_WIDTH, _WIDTH),
        nn.BatchNorm1D(_WIDTH),
        nn.ReLU(),
        nn.Linear(_WIDTH, CLASSES),
    )


def training_samples() -> tuple[Any, Any]:
    """Features and labels to learn from."""
    return _samples(seed=1, count=TRAINING_SAMPLES)


def held_out_samples() -> tuple[Any, Any]:
    """Features and labels that no training step has seen."""
    return _samples(seed=2, count=HELD_OUT_SAMPLES)


def _samples(*, seed: int, count: int) -> tuple[Any, Any]:
    """Random points, labelled by a teacher: a fixed random network with one hidden layer."""
    teacher = np.random.default_rng(0)
    hidden = teacher.standard_normal((FEATURES, _TEACHER_WIDTH))
    head = teacher.standard_normal((_TEACHER_WIDTH, CLASSES))
    features = np.random.default_rng(seed).standard_normal((count, FEATURES))
    labels = (np.tanh(features @ hidden) @ head).argmax(axis=1)
    return features.astype("float32"), labels.astype("int64")
