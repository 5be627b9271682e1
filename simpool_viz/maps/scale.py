"""The colour scale of a map: in what unit it is drawn, and between which values colours run.

A map that is non-negative is drawn as N w, "times uniform": 1 is what plain averaging would give, and colours run from
0 to the 99.5th percentile of the row or of the whole board.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

PERCENTILE = 99.5  # of the values as drawn, at which the colours end


@dataclass(frozen=True)
class Scale:
    """The values between which colours run, what they are called, and what a raw value is multiplied by to give one of
    them."""

    low: float
    high: float
    label: str
    factor: float = 1.0


def scale_of(weights: np.ndarray, unit: str) -> Scale:
    """The colour scale of one map (h, w) of an `AttentionMap.unit`.

    "uniform": N w, times uniform. "mean": w / mean(w), times its mean. "logit": as it is, symmetric around 0.
    """
    values = weights.astype(np.float64)
    if unit == "logit":
        return symmetric_scale(values, "logit per token")
    factor = float(values.size) if unit == "uniform" else 1.0 / (float(values.mean()) or 1.0)
    label = "times uniform" if unit == "uniform" else "times its mean"
    return Scale(0.0, float(np.percentile(values * factor, PERCENTILE)) or 1.0, label, factor)


def symmetric_scale(values: np.ndarray, label: str) -> Scale:
    """The scale of signed values as they are: symmetric around 0, as far as the percentile of their sizes."""
    high = float(np.percentile(np.abs(values), PERCENTILE)) or 1.0
    return Scale(-high, high, label)


def shared_scales(scales: list[Scale]) -> list[Scale]:
    """The same list with one scale for all rows of a kind."""
    low = {s.label: min(t.low for t in scales if t.label == s.label) for s in scales}
    high = {s.label: max(t.high for t in scales if t.label == s.label) for s in scales}
    return [replace(s, low=low[s.label], high=high[s.label]) for s in scales]
