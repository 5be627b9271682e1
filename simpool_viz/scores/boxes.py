"""Boxes: CorLoc, and MaxBoxAcc and MaxBoxAccV2 over a grid of thresholds.

Boxes are half-open, (x0, y0, x1, y1). The true boxes of a picture are those of its objects, and one of them is enough.

Sources: Choe et al., Evaluating Weakly Supervised Object Localization Methods Right, CVPR 2020, section 3.2, and its
extension, TPAMI 2022, where MaxBoxAccV2 takes the boxes of all components and the mean over three IoUs. As in their
released code, the thresholds k / 1000 cut a map of 8 bits, so that 255 masks are distinct.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from simpool_viz.masks import Box, component_boxes, largest_component
from simpool_viz.scores.references import Reference

LEVELS = 255
V2_IOUS = (0.3, 0.5, 0.7)


def box_ious(boxes: np.ndarray, others: np.ndarray) -> np.ndarray:
    """IoU of each box with each other one.

    Args:
        boxes: (n, 4), x0, y0, x1, y1, half-open.
        others: (m, 4), likewise.

    Returns:
        (n, m) in [0, 1].
    """
    a, b = boxes[:, None].astype(np.float64), others[None].astype(np.float64)
    sides = (np.minimum(a[..., 2:], b[..., 2:]) - np.maximum(a[..., :2], b[..., :2])).clip(min=0)
    shared = sides.prod(-1)
    areas = [(c[..., 2:] - c[..., :2]).prod(-1) for c in (a, b)]
    ious: np.ndarray = shared / (areas[0] + areas[1] - shared)
    return ious


def object_boxes(reference: Reference) -> np.ndarray:
    """The box of each object of a reference: (n, 4) float64 in its pixels, the one that its data set gives or that
    around its pixels."""
    if reference.boxes:
        return np.array(reference.boxes, np.float64)
    boxes = []
    for instance in reference.instances:
        rows, columns = (np.flatnonzero(instance.any(axis)) for axis in (1, 0))
        boxes.append((columns[0], rows[0], columns[-1] + 1, rows[-1] + 1))
    return np.array(boxes, np.float64)


def resized_boxes(boxes: np.ndarray, size: tuple[int, int], to: tuple[int, int]) -> np.ndarray:
    """Boxes (n, 4) in a picture of `size` (W, H), as those of the same picture at the size `to`: (n, 4) float64."""
    return boxes * np.array([to[0] / size[0], to[1] / size[1]] * 2)


def iou_of_box(box: Box | None, truth: np.ndarray) -> float:
    """The IoU of one box with the true box that it fits best, 0 without a box.

    CorLoc (Deselaers et al., ECCV 2010) is the share of pictures where it is at least 0.5.

    Args:
        box: x0, y0, x1, y1.
        truth: (n, 4).
    """
    return 0.0 if box is None else float(box_ious(np.array([box]), truth).max())


def largest_box(grid: np.ndarray) -> Box | None:
    """The box of the largest 8-connected component of a mask (h, w) bool, which is the box of DINO-seg (Siméoni et al.,
    BMVC 2021, section 4.1) for a mask at 60 % of the mass; None without a component."""
    return next(iter(component_boxes(largest_component(grid))), None)


@dataclass(frozen=True)
class LevelBoxes:
    """The boxes of a map's components at each threshold; the mask at k is floor(255 v) > k.

    Attributes:
        boxes: (n, 4) in pixels of the map, in the order of the masks that they belong to.
        starts: (m,) the first box of each mask.
        largest: (m,) the box of each mask's component with the most pixels, the topmost of equals.
        masks: (255,) the mask of each threshold.
    """

    boxes: np.ndarray
    starts: np.ndarray
    largest: np.ndarray
    masks: np.ndarray


def level_boxes(scaled: np.ndarray) -> LevelBoxes:
    """Cut a map at every threshold.

    Args:
        scaled: (side, side) in [0, 1], from `scaled_map`; a constant one has the whole picture as its only box.
    """
    levels = np.floor(scaled * LEVELS).astype(np.uint8)
    if levels.max() == 0:
        levels[:] = LEVELS
    cuts = np.flatnonzero(np.bincount(levels.ravel(), minlength=LEVELS + 1)[:-1])  # where the mask changes
    cuts = cuts if len(cuts) else np.array([0])
    found = [_components((levels > cut).view(np.uint8)) for cut in cuts.tolist()]
    starts = np.cumsum([0, *(len(boxes) for boxes, _ in found)])[:-1]
    largest = starts + np.array([number for _, number in found])
    masks = (np.searchsorted(cuts, np.arange(LEVELS), side="right") - 1).clip(min=0)
    return LevelBoxes(np.concatenate([boxes for boxes, _ in found]), starts, largest, masks)


def box_curves(found: LevelBoxes, truth: np.ndarray) -> np.ndarray:
    """The IoU of a map's boxes with the true boxes at each threshold.

    Args:
        found: the boxes of the map.
        truth: (n, 4) boxes in pixels of the map.

    Returns:
        (2, 255): of the best of all components, for MaxBoxAccV2, and of the largest component, for MaxBoxAcc.
    """
    ious = box_ious(found.boxes, truth).max(1)
    return np.stack([np.maximum.reduceat(ious, found.starts), ious[found.largest]])[:, found.masks]


def _components(mask: np.ndarray) -> tuple[np.ndarray, int]:
    """The boxes of the 8-connected components of a mask (h, w) uint8 that is not empty, (n, 4), and which of them has
    the most pixels.

    Contours find them in a seventh of the time of labels. The polygon through the border pixels' centres has
    A + B / 2 + 1 pixels (Pick's theorem, A the area and B the steps of the border), and a hole, whose polygon runs
    through the pixels around it, A - B / 2 + 1.
    """
    contours, ((*links,),) = cv2.findContours(mask, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
    outer = [i for i, (_, _, _, parent) in enumerate(links) if parent < 0][::-1]  # the topmost first
    corners = np.array([cv2.boundingRect(contours[i]) for i in outer])
    corners[:, 2:] += corners[:, :2]
    if len(outer) == 1:
        return corners, 0
    pixels = dict.fromkeys(outer, 0.0)
    for i, (contour, (_, _, _, parent)) in enumerate(zip(contours, links, strict=True)):
        steps = len(contour) if len(contour) > 1 else 0
        filled, component = (1, i) if parent < 0 else (-1, parent)
        pixels[component] += filled * (cv2.contourArea(contour) + 1) + steps / 2
    return corners, int(np.argmax([pixels[i] for i in outer]))


def max_box_accuracy(shares: np.ndarray) -> np.ndarray:
    """MaxBoxAcc at one IoU, or MaxBoxAccV2 at several: the best threshold of each, then their mean.

    Args:
        shares: (..., I, 255), at each IoU and threshold the share of the pictures that have a box of this IoU.

    Returns:
        (...) in [0, 1].
    """
    accuracy: np.ndarray = shares.max(-1).mean(-1)
    return accuracy


def reached(curve: np.ndarray, ious: Sequence[float]) -> np.ndarray:
    """Whether the boxes of a picture reach each IoU at each threshold: (I, 255) bool, of one of `box_curves`."""
    return curve[None] >= np.array(ious)[:, None]
