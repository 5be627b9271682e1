"""Intersection over union of classes, from tables of pixels by true and found class."""

from __future__ import annotations

import numpy as np


def class_ious(table: np.ndarray) -> np.ndarray:
    """IoU of each class, (..., K) in [0, 1], from confusion tables (..., K, K), true class in rows; NaN for one neither there nor found."""
    hit = np.diagonal(table, axis1=-2, axis2=-1).astype(float)
    union = table.sum(-1) + table.sum(-2) - hit
    return np.divide(hit, union, out=np.full_like(hit, np.nan), where=union > 0)


def mean_ious(table: np.ndarray) -> np.ndarray:
    """The mean IoU of confusion tables (..., K, K) over the classes that are there or found."""
    return np.asarray(np.nanmean(class_ious(table), axis=-1))
