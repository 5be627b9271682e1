"""Tables of pixels by true and found class, and the intersection over union of classes from them."""

from __future__ import annotations

import numpy as np
from torch import Tensor
from torch.nn import functional as F


def count_pixels(logits: Tensor, labels: Tensor, void: int) -> Tensor:
    """The confusion table (K, K) int64, on the CPU, of token logits (B, K, h, w), enlarged bilinearly, and labels (B,
    H, W)."""
    found = F.interpolate(logits.float(), labels.shape[-2:], mode="bilinear", align_corners=False).argmax(1).cpu()
    truth, count = labels.cpu(), logits.shape[1]
    counted = truth != void
    return (truth[counted] * count + found[counted]).bincount(minlength=count * count).view(count, count)


def class_ious(table: np.ndarray) -> np.ndarray:
    """IoU of each class, (..., K) in [0, 1], from confusion tables (..., K, K), true class in rows; NaN for one neither
    there nor found."""
    hit = np.diagonal(table, axis1=-2, axis2=-1).astype(float)
    union = table.sum(-1) + table.sum(-2) - hit
    return np.divide(hit, union, out=np.full_like(hit, np.nan), where=union > 0)


def mean_ious(table: np.ndarray) -> np.ndarray:
    """The mean IoU of confusion tables (..., K, K) over the classes that are there or found."""
    return np.asarray(np.nanmean(class_ious(table), axis=-1))
