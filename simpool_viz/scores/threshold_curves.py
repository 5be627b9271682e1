"""Scores of a whole set over a grid of thresholds: PxAP, and the maximal F-beta.

Every map is resized to 224 x 224 pixels and brought to [0, 1] by its smallest and largest value, so that one threshold
means the same on every picture (Choe et al., Evaluating Weakly Supervised Object Localization Methods Right, CVPR
2020, section 3.2). Thresholds are k / 1000.
"""

from __future__ import annotations

import numpy as np

from simpool_viz.masks import upsample
from simpool_viz.scores.references import Reference

SIDE = 224  # pixels
STEPS = 1000
BETA_SQUARED = 0.3  # Achanta et al., Frequency-tuned Salient Region Detection, CVPR 2009


def scaled_map(weights: np.ndarray, side: int = SIDE) -> np.ndarray:
    """A map at the size of the protocol, brought to [0, 1].

    Args:
        weights: (h, w), on the token grid.
        side: of the square in pixels.

    Returns:
        (side, side) float64; zeros for a constant map.
    """
    large = upsample(weights, (side, side))
    low, high = large.min(), large.max()
    scaled: np.ndarray = (large - low) / (high - low) if high > low else np.zeros_like(large)
    return scaled


def count_steps(scaled: np.ndarray, reference: Reference) -> np.ndarray:
    """How many pixels of the objects and of the background lie at each threshold.

    Args:
        scaled: (side, side) in [0, 1], from `scaled_map`.
        reference: the reference mask at any size, brought to that of the map by nearest neighbour. Void pixels are left
            out.

    Returns:
        (2, 1001) int64: of objects, then of the background, the pixels with floor(1000 v) = k.
    """
    # As `images.expand_cells`, which shrinks by the pixel under each centre as well.
    rows, columns = (
        ((2 * np.arange(side) + 1) * size // (2 * side))
        for side, size in zip(scaled.shape, reference.objects.shape, strict=True)
    )
    objects, void = (one[rows[:, None], columns[None, :]] for one in (reference.objects, reference.void))
    step = np.floor(scaled * STEPS).astype(int)
    return np.stack([np.bincount(step[part], minlength=STEPS + 1) for part in (objects, ~objects & ~void)])


def pixel_average_precision(counts: np.ndarray) -> np.ndarray:
    """PxAP: the area under the precision and recall of all pixels of a set together.

    Args:
        counts: (..., 2, 1001), sums over pictures of `count_steps`.

    Returns:
        (...) in [0, 1], the sum over thresholds of precision times the recall that is gained there; NaN without an
        object.
    """
    hits, others = np.moveaxis(counts[..., ::-1].cumsum(-1), -2, 0)
    with np.errstate(invalid="ignore", divide="ignore"):
        recall = hits / hits[..., -1:]
        precision = np.where(hits > 0, hits / (hits + others), 0)
    gained = np.diff(recall, prepend=0.0, axis=-1)
    area: np.ndarray = (precision * gained).sum(-1)
    return area


def precision_recall_curves(counts: np.ndarray) -> np.ndarray:
    """Precision and recall at each threshold.

    Args:
        counts: (..., 2, 1001), of `count_steps`.

    Returns:
        (..., 2, 1001) of the pixels at or above k / 1000; a precision of no pixels, and a recall of no object, is 0.
    """
    hits, others = np.moveaxis(counts[..., ::-1].cumsum(-1)[..., ::-1], -2, 0)
    precision = hits / np.maximum(hits + others, 1)
    recall = hits / np.maximum(hits[..., :1], 1)
    return np.stack([precision, recall], axis=-2)


def maximal_f_beta(curves: np.ndarray) -> np.ndarray:
    """The largest F-beta of a threshold, with beta^2 = 0.3, of precision and recall averaged over pictures.

    Achanta et al., Frequency-tuned Salient Region Detection, CVPR 2009, equation 9.

    Args:
        curves: (..., 2, 1001), means over pictures of `precision_recall_curves`.

    Returns:
        (...) in [0, 1].
    """
    precision, recall = np.moveaxis(curves, -2, 0)
    weighted = BETA_SQUARED * precision + recall
    best: np.ndarray = ((1 + BETA_SQUARED) * precision * recall / np.where(weighted > 0, weighted, 1)).max(-1)
    return best
