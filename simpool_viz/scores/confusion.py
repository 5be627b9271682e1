"""Confusion tables of pixels by true and predicted class, and the intersection over union of classes from them."""

from __future__ import annotations

import numpy as np
from torch import Tensor
from torch.nn import functional as F


def count_pixels(logits: Tensor, labels: Tensor, void: int) -> Tensor:
    """The confusion table of predicted and true classes of pixels.

    Args:
        logits: (B, K, h, w) of tokens, upsampled bilinearly to the size of the labels.
        labels: (B, H, W) integers, the true class of every pixel.
        void: the label of pixels that are left out.

    Returns:
        (K, K) int64 on the CPU, true classes in rows.
    """
    predicted = F.interpolate(logits.float(), labels.shape[-2:], mode="bilinear", align_corners=False).argmax(1).cpu()
    truth, count = labels.cpu(), logits.shape[1]
    counted = truth != void
    return (truth[counted] * count + predicted[counted]).bincount(minlength=count * count).view(count, count)


def class_ious(table: np.ndarray) -> np.ndarray:
    """Intersection over union of each class.

    Args:
        table: confusion tables (..., K, K), true classes in rows.

    Returns:
        (..., K) float64 in [0, 1]; NaN for a class that is neither true nor predicted anywhere.
    """
    hit = np.diagonal(table, axis1=-2, axis2=-1).astype(float)
    union = table.sum(-1) + table.sum(-2) - hit
    return np.divide(hit, union, out=np.full_like(hit, np.nan), where=union > 0)


def mean_ious(table: np.ndarray) -> np.ndarray:
    """Mean intersection over union over the classes that are true or predicted somewhere.

    Args:
        table: confusion tables (..., K, K), true classes in rows.

    Returns:
        (...) float64 in [0, 1].
    """
    return np.asarray(np.nanmean(class_ious(table), axis=-1))
