"""Boxes against torchvision, and MaxBoxAcc against every threshold tried with SciPy's components."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
import torch
from scipy.ndimage import find_objects, label
from torchvision.ops import box_iou

from simpool_viz.scores.boxes import (
    box_curves,
    box_ious,
    iou_of_box,
    largest_box,
    level_boxes,
    max_box_accuracy,
    object_boxes,
    reached,
    resized_boxes,
)
from simpool_viz.scores.references import Reference, reference_of_boxes, resized
from simpool_viz.scores.threshold_curves import scaled_map

SIDE = 40


def some_boxes(seed: int, count: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    corner = rng.integers(0, SIDE - 10, (count, 2))
    return np.concatenate([corner, corner + rng.integers(2, 10, (count, 2))], axis=1)


def test_iou_of_boxes_is_torchvisions() -> None:
    one, other = some_boxes(0, 30), some_boxes(1, 20)
    assert box_ious(one, other) == pytest.approx(box_iou(*(torch.from_numpy(b).double() for b in (one, other))).numpy())
    assert iou_of_box((2, 2, 6, 6), np.array([[2, 2, 6, 4], [20, 20, 30, 30]])) == 0.5
    assert iou_of_box(None, one) == 0


def test_every_object_has_a_box() -> None:
    labels = np.zeros((20, 30), int)
    labels[2:5, 4:9], labels[10:19, 20:30], labels[:, 0] = 3, 7, 255
    reference = Reference((labels > 0) & (labels != 255), labels == 255, labels)
    boxes = object_boxes(reference)
    assert boxes.tolist() == [[4, 2, 9, 5], [20, 10, 30, 19]]
    assert resized_boxes(boxes, (30, 20), (60, 10)).tolist() == [[8, 1, 18, 2.5], [40, 5, 60, 9.5]]


def test_largest_box_is_that_of_the_largest_component() -> None:
    grid = np.zeros((6, 9), bool)
    grid[0, 0:3] = grid[3:5, 5:8] = True
    assert largest_box(grid) == (5, 3, 8, 5) and largest_box(np.zeros((3, 3), bool)) is None


@pytest.mark.parametrize("seed", range(4))
def test_box_curves_are_those_of_a_thousand_thresholds_tried_one_by_one(seed: int) -> None:
    scaled, truth = scaled_map(np.random.default_rng(seed).random((6, 8)), SIDE), some_boxes(seed, 2) + 0.25
    curves = box_curves(level_boxes(scaled), truth)
    eight_bits = np.floor(255 * scaled)
    for k in range(1000):
        cut = int(k / 1000 * 255)
        parts, _ = label(eight_bits > cut, np.ones((3, 3)))
        boxes = np.array([(x.start, y.start, x.stop, y.stop) for y, x in find_objects(parts)])
        ious = box_iou(torch.from_numpy(boxes).double(), torch.from_numpy(truth)).max(1).values.numpy()
        sizes = np.bincount(parts.ravel())[1:]
        assert curves[0, cut] == pytest.approx(ious.max())
        assert any(curves[1, cut] == pytest.approx(ious[i]) for i in np.flatnonzero(sizes == sizes.max()))


@pytest.mark.parametrize("share", [0.05, 0.3, 0.45, 0.6, 0.8])
def test_the_largest_component_of_noise_has_the_most_pixels(share: float) -> None:
    """Noise has single pixels, spurs, rings and components within holes."""
    rng = np.random.default_rng(3)
    for _ in range(5):
        scaled = (rng.random((40, 40)) < share).astype(float)
        parts, _ = label(scaled, np.ones((3, 3)))
        sizes = np.bincount(parts.ravel())[1:]
        boxes = [(x.start, y.start, x.stop, y.stop) for y, x in find_objects(parts)]
        for chosen in (boxes[i] for i in np.flatnonzero(sizes == sizes.max())):
            _, largest = box_curves(level_boxes(scaled), np.array([chosen]))
            assert largest.min() == largest.max() and (largest[0] == 1 or (sizes == sizes.max()).sum() > 1)


def test_boxes_of_blobs_by_hand() -> None:
    scaled = np.zeros((SIDE, SIDE))
    scaled[0:10, 0:10], scaled[20:30, 20:40] = 1.0, 0.5
    every, largest = box_curves(level_boxes(scaled), np.array([[0, 0, 10, 10]]))
    assert every.tolist() == [1.0] * 255, "the first blob is a component of its own at every threshold"
    assert largest.tolist() == [0.0] * 127 + [1.0] * 128, "below one half the second blob is the larger one"
    assert (
        box_curves(level_boxes(np.zeros((SIDE, SIDE))), np.array([[0, 0, SIDE, SIDE // 2]])).tolist()
        == [[0.5] * 255] * 2
    )


def test_max_box_accuracy_takes_the_best_threshold_of_each_iou_over_the_set() -> None:
    curves = np.zeros((2, 255))
    curves[0, :100], curves[1, 50:] = 0.6, 0.75
    shares = np.stack([reached(curve, (0.3, 0.5, 0.7)) for curve in curves]).mean(0)
    assert max_box_accuracy(shares[:2]) == 1 and max_box_accuracy(shares[2:]) == 0.5
    assert max_box_accuracy(shares) == pytest.approx((1 + 1 + 0.5) / 3)


@pytest.mark.parametrize("seed", range(6))
def test_components_have_the_boxes_of_outer_contours_and_contours_of_holes_add_others(seed: int) -> None:
    """The released code of MaxBoxAccV2 takes the boxes of all contours, those around holes too; here every component
    has one, which is that of its outer contour."""
    mask = (scaled_map(np.random.default_rng(seed).random((7, 5)), SIDE) > 0.4).astype(np.uint8)

    def contour_boxes(mode: int) -> set[tuple[int, ...]]:
        contours, _ = cv2.findContours(mask, mode, cv2.CHAIN_APPROX_SIMPLE)
        found = map(cv2.boundingRect, contours)
        return {(x, y, x + w, y + h) for x, y, w, h in found}

    parts, _ = label(mask, np.ones((3, 3)))
    boxes = {(x.start, y.start, x.stop, y.stop) for y, x in find_objects(parts)}
    inside = {  # a component within a hole of another one has an outer contour that is no outermost one
        box for box in boxes if box not in contour_boxes(cv2.RETR_EXTERNAL)
    }
    assert contour_boxes(cv2.RETR_EXTERNAL) <= boxes <= contour_boxes(cv2.RETR_TREE)
    assert boxes - inside == contour_boxes(cv2.RETR_EXTERNAL)


def test_a_ring_has_one_box_where_contours_have_two() -> None:
    ring = np.zeros((SIDE, SIDE))
    ring[5:35, 5:35], ring[12:28, 12:28] = 1, 0
    outer, hole = np.array([[5, 5, 35, 35]]), np.array([[11, 11, 29, 29]])
    assert box_curves(level_boxes(ring), outer).min() == 1 and box_curves(
        level_boxes(ring), hole
    ).max() == pytest.approx(18**2 / 30**2)
    contours, _ = cv2.findContours(ring.astype(np.uint8), cv2.RETR_TREE, cv2.CHAIN_APPROX_SIMPLE)
    assert sorted(cv2.boundingRect(one) for one in contours) == [(5, 5, 30, 30), (11, 11, 18, 18)]


def test_boxes_of_a_data_set_are_kept_where_they_hide_each_other_and_follow_the_size() -> None:
    given = [(0.0, 0.0, 10.0, 8.0), (0.0, 0.0, 40.0, 20.0), (2.0, 2.0, 4.0, 4.0)]
    reference = reference_of_boxes(given, (40, 20), whole=True)
    assert object_boxes(reference).tolist() == [list(box) for box in given] and reference.objects.all()
    assert object_boxes(resized(reference, (20, 10))).tolist() == [[v / 2 for v in box] for box in given]
