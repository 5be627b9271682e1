"""The kinds of masks that are compared, and their IoU on one photo. It runs in worker processes, without PyTorch."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import product

import numpy as np

from simpool_viz.evaluation.scoring import MapToScore
from simpool_viz.images import expand_cells
from simpool_viz.masks import Cut, find_level, largest_component, smoothed, upsample
from simpool_viz.scores.localization import baselines, iou
from simpool_viz.scores.references import Reference

AMOUNTS: dict[str, tuple[float | None, ...]] = {
    "mass": (0.5, 0.6, 0.7, 0.75, 0.8, 0.9),
    "area": (0.15, 0.25, 0.35),
    "mean": (None,),
    "otsu": (None,),
}
SMOOTHINGS = (0.0, 0.5, 1.0)


CUTS = [
    Cut(rule, amount, smoothing, largest, smooth)
    for rule, amounts in AMOUNTS.items()
    for amount, smoothing, largest, smooth in product(amounts, SMOOTHINGS, (False, True), (False, True))
]


def cut_masks(weights: np.ndarray, size: tuple[int, int]) -> Iterator[tuple[Cut, np.ndarray]]:
    """Each of `CUTS` with its mask (H, W) bool, as `ObjectMask.pixels` makes it; what cuts share is computed once.

    Args:
        weights: (h, w).
        size: (W, H) in pixels.
    """
    blurred = {sigma: smoothed(weights, sigma) for sigma in SMOOTHINGS}
    enlarged = {sigma: upsample(map_, size) for sigma, map_ in blurred.items()}
    for cut in CUTS:
        level = find_level(blurred[cut.smoothing], cut.rule, cut.amount)
        if cut.smooth:
            mask = enlarged[cut.smoothing] >= level
            yield cut, largest_component(mask) if cut.largest else mask
        else:
            mask = blurred[cut.smoothing] >= np.float32(level)
            yield cut, expand_cells(largest_component(mask) if cut.largest else mask, size)


def cut_ious(
    reference: Reference, maps: Sequence[MapToScore]
) -> tuple[dict[str, float], dict[tuple[int, str], dict[str, float]]]:
    """The IoU of every mask of a photo.

    Args:
        reference: of the photo.
        maps: of the photo.

    Returns:
        Of each baseline by name; and by checkpoint and label of the map, of each of `CUTS` by its label.
    """
    plain = {name: iou(disc, reference) for name, (_, disc) in baselines(reference).items()}
    ious = {
        (one.checkpoint, one.label): {
            cut.label: iou(pixels, reference) for cut, pixels in cut_masks(one.mask.weights, reference.size)
        }
        for one in maps
    }
    return plain, ious
