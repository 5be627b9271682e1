"""Every score of the maps of one photo against its reference, and what the protocols count of it.

It runs in worker processes, so that nothing here imports PyTorch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np

from simpool_viz.masks import Box, ObjectMask
from simpool_viz.scores.boxes import (
    V2_IOUS,
    LevelBoxes,
    box_curves,
    iou_of_box,
    largest_box,
    level_boxes,
    object_boxes,
    reached,
    resized_boxes,
)
from simpool_viz.scores.localization import (
    baselines,
    centre_prior,
    jaccard_of,
    score_baselines,
    score_map,
    square_objects,
)
from simpool_viz.scores.references import Reference
from simpool_viz.scores.threshold_curves import SIDE, count_steps, scaled_map

BASELINES = ("centre prior", "whole picture")
# Of a photo, as they are kept; those of a set are made of the counts.
FIGURES = (
    "iou",
    "iou_at_true_area",
    "iou_at_best_threshold",
    "pointing",
    "energy",
    "precision",
    "recall",
    "jaccard",
    "jaccard_best",
    "spatial_entropy",
    "corloc",
    "deletion",
    "insertion",
)


@dataclass(frozen=True)
class MapToScore:
    """A map of a photo.

    Attributes:
        checkpoint: its number.
        label: checkpoint and map, for readers.
        request: the map as it was asked for.
        mask: of the fused map, by the rule that is scored.
        at_mass: (1 + M, h, w) bool, the masks at 60 % of the mass: of the fused map, then of each of its maps.
        box: of CorLoc, in pixels of the photo.
        figures: what was measured with the model: spatial entropy, and the areas of deletion and insertion.
    """

    checkpoint: int
    label: str
    request: str
    mask: ObjectMask
    at_mass: np.ndarray
    box: Box | None
    figures: dict[str, float]


@dataclass(frozen=True)
class Counts:
    """What protocols that choose their threshold on the set count of a photo.

    Attributes:
        boxes: (4, 255) bool, whether a component's box reaches each IoU of `V2_IOUS`, and the largest one's 0.5.
        steps: (2, 1001) int32, of `count_steps`.
    """

    boxes: np.ndarray
    steps: np.ndarray


@dataclass(frozen=True)
class MapScores:
    """The scores of a map, or of a baseline, on a photo.

    Attributes:
        checkpoint: its number; -1 of a baseline.
        label: as of `MapToScore`, or the baseline's.
        request: likewise.
        figures: those of `FIGURES` that there are.
        counts: for the protocols; None of baselines of insertion and deletion, which have no more.
    """

    checkpoint: int
    label: str
    request: str
    figures: dict[str, float]
    counts: Counts | None


def score_photo(reference: Reference, maps: Sequence[MapToScore]) -> list[MapScores]:
    """The scores of each map of a photo, then those of the baselines.

    Args:
        reference: of the photo, `bounded`.
        maps: of the photo.
    """
    truth = object_boxes(reference)
    squares = square_objects(reference)
    scored = [_scored(one, reference, truth, squares) for one in maps]
    plain = score_baselines(reference)
    for name, (_, mask) in baselines(reference).items():
        box = largest_box(mask)
        figures = plain[name] | _jaccard(mask[None], squares) | {"corloc": float(iou_of_box(box, truth) >= 0.5)}
        scored.append(MapScores(-1, name, name, figures, _count(*_cut_baseline(name), truth, reference)))
    return scored


def _scored(one: MapToScore, reference: Reference, truth: np.ndarray, squares: np.ndarray) -> MapScores:
    figures = score_map(one.mask, reference) | _jaccard(one.at_mass, squares) | one.figures
    figures["corloc"] = float(_iou_of(one, reference, truth) >= 0.5)
    counts = count_photo(one.mask.weights, truth, reference)
    return MapScores(one.checkpoint, one.label, one.request, figures, counts)


def _iou_of(one: MapToScore, reference: Reference, truth: np.ndarray) -> float:
    """The IoU of its box, brought to whole pixels of the reference, with the best true box."""
    if one.box is None:
        return 0.0
    (box,) = resized_boxes(np.array([one.box]), one.mask.geometry.original, reference.size).round()
    return iou_of_box((box[0], box[1], box[2], box[3]), truth)


def _jaccard(masks: np.ndarray, squares: np.ndarray) -> dict[str, float]:
    own, best = jaccard_of(masks, squares)
    return {"jaccard": own, "jaccard_best": best}


def count_photo(weights: np.ndarray, truth: np.ndarray, reference: Reference) -> Counts:
    """Count a photo for the protocols.

    Args:
        weights: (h, w), the map on its grid, or at any size.
        truth: (n, 4), boxes of the objects in pixels of the reference.
        reference: the reference mask.
    """
    scaled = scaled_map(weights)
    return _count(scaled, level_boxes(scaled), truth, reference)


@cache
def _cut_baseline(name: str) -> tuple[np.ndarray, LevelBoxes]:
    """A baseline at the size of the protocols and its boxes, which are the same for every photo."""
    prior = centre_prior((SIDE, SIDE)) if name == "centre prior" else np.ones((1, 1))
    scaled = scaled_map(prior)
    return scaled, level_boxes(scaled)


def _count(scaled: np.ndarray, found: LevelBoxes, truth: np.ndarray, reference: Reference) -> Counts:
    every, largest = box_curves(found, resized_boxes(truth, reference.size, (SIDE, SIDE)))
    boxes = np.concatenate([reached(every, V2_IOUS), reached(largest, (0.5,))])
    return Counts(boxes, count_steps(scaled, reference).astype(np.int32))
