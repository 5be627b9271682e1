"""Spatial entropy one map at a time, from methods.md section 4: flood fill, then a sum over the components."""

from __future__ import annotations

import math

import numpy as np

from tests.oracles.masks import components


def spatial_entropy(scores: np.ndarray, mode: str = "mass", level: float | None = None) -> float:
    """Entropy in nats of one map (h, w), in float64, above a level, or else above its mean."""
    s = np.asarray(scores, np.float64)
    if s.max() - s.min() <= 1e-6 * np.abs(s).max():
        return 0.0
    excess = s - (s.mean() if level is None else level)
    amount = np.maximum(excess, 0) + 1e-9 if mode == "mass" else np.ones(s.shape)
    masses = [sum(float(amount[cell]) for cell in cells) for cells in components(excess > 0)]
    shares = [m / sum(masses) for m in masses]
    return -sum(p * math.log(p) for p in shares)
