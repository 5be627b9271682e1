"""The colour scale of a map: the unit in which it is drawn, and the values at both ends of the colours.

Weights w of N tokens that sum to 1 are drawn as N w, "times uniform", where 1 is the weight in a plain average. Colours
range from 0 to the 99.5th percentile of the row or of the whole board.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

PERCENTILE = 99.5  # of the drawn values, the upper end of the colours


@dataclass(frozen=True)
class Scale:
    """The colour scale of a map.

    Attributes:
        low: the drawn value at the lower end of the colours.
        high: the drawn value at their upper end.
        label: the unit of drawn values, for readers.
        factor: by which a raw weight is multiplied to give a drawn value.
    """

    low: float
    high: float
    label: str
    factor: float = 1.0


def scale_of(weights: np.ndarray, unit: str) -> Scale:
    """The colour scale of one map.

    Args:
        weights: (h, w), raw.
        unit: of the `AttentionMap`: "uniform" is drawn as N w, "times uniform"; "mean" as w / mean(w), "times its
            mean"; "logit" unchanged, on a scale symmetric around 0.
    """
    values = weights.astype(np.float64)
    if unit == "logit":
        return symmetric_scale(values, "logit per token")
    factor = float(values.size) if unit == "uniform" else 1.0 / (float(values.mean()) or 1.0)
    label = "times uniform" if unit == "uniform" else "times its mean"
    return Scale(0.0, float(np.percentile(values * factor, PERCENTILE)) or 1.0, label, factor)


def symmetric_scale(values: np.ndarray, label: str) -> Scale:
    """The colour scale of signed values: symmetric around 0, up to the 99.5th percentile of their magnitudes.

    Args:
        values: of any shape, drawn unchanged.
        label: their unit, for readers.
    """
    high = float(np.percentile(np.abs(values), PERCENTILE)) or 1.0
    return Scale(-high, high, label)


def shared_scales(scales: list[Scale]) -> list[Scale]:
    """The scales of several rows, in which rows of the same unit get a common range."""
    low = {s.label: min(t.low for t in scales if t.label == s.label) for s in scales}
    high = {s.label: max(t.high for t in scales if t.label == s.label) for s in scales}
    return [replace(s, low=low[s.label], high=high[s.label]) for s in scales]
