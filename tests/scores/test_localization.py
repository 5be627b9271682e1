"""Scores against reference masks: each against a loop over pixels, with void, ties and h != w."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torchmetrics.functional.classification import binary_jaccard_index

from simpool_viz.images import Geometry
from simpool_viz.maps.attention_map import AttentionMap
from simpool_viz.masks import Cut, make_mask
from simpool_viz.scores.localization import (
    centre_prior,
    energy,
    iou,
    iou_at_best_threshold,
    iou_at_true_area,
    jaccard,
    pointing,
    precision_recall,
    score,
    score_baselines,
    score_map,
)
from simpool_viz.scores.references import Reference, bounded
from tests.helpers import one_object
from tests.oracles.masks import bilinear

SHAPE = (13, 21)


def reference(seed: int, with_void: bool = True) -> Reference:
    rng = np.random.default_rng(seed)
    void = (rng.random(SHAPE) < 0.2) & with_void
    return Reference((rng.random(SHAPE) < 0.3) & ~void, void)


def cells(array: np.ndarray) -> set[tuple[int, int]]:
    return {(int(r), int(c)) for r, c in np.argwhere(array)}


# --- overlap
# ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("with_void", [False, True])
def test_iou_precision_and_recall_count_pixels_outside_void(seed: int, with_void: bool) -> None:
    target = reference(seed, with_void)
    mask = np.random.default_rng(seed + 100).random(SHAPE) < 0.4
    mine, objects = cells(mask) - cells(target.void), cells(target.objects)
    assert iou(mask, target) == pytest.approx(len(mine & objects) / len(mine | objects))
    precision, recall = precision_recall(mask, target)
    assert precision == pytest.approx(len(mine & objects) / len(mine)) and recall == pytest.approx(
        len(mine & objects) / len(objects)
    )


def test_what_a_mask_does_in_void_changes_no_score() -> None:
    target = reference(0)
    mask, weights = np.random.default_rng(1).random(SHAPE) < 0.4, np.random.default_rng(2).random(SHAPE)
    changed = np.where(target.void, 0.001, weights)  # below every maximum, so that pointing stays the same as well
    weights[np.unravel_index(np.argmax(np.where(target.void, 0, weights)), SHAPE)] = 2
    changed[weights == 2] = 2
    assert score(weights, mask | target.void, target) == pytest.approx(score(changed, mask & ~target.void, target))


def test_iou_of_empty_masks() -> None:
    nothing = np.zeros(SHAPE, bool)
    target = reference(0)
    assert iou(nothing, Reference(nothing, nothing)) == 1
    assert iou(nothing, target) == 0 and precision_recall(nothing, target) == (0, 0)
    assert precision_recall(target.objects, target) == (1, 1) and iou(target.objects, target) == 1


@pytest.mark.parametrize("levels", [None, 5, 2])
@pytest.mark.parametrize("seed", range(4))
def test_iou_at_true_area_is_that_of_the_first_level_set_with_as_many_pixels(seed: int, levels: int | None) -> None:
    target = reference(seed)
    rng = np.random.default_rng(seed + 50)
    weights = rng.random(SHAPE) if levels is None else rng.integers(levels, size=SHAPE).astype(float)
    outside_void = sorted(
        ((float(w), cell) for cell, w in np.ndenumerate(weights) if not target.void[cell]), reverse=True
    )
    level = outside_void[int(target.objects.sum()) - 1][0]
    chosen = {cell for w, cell in outside_void if w >= level}
    objects = cells(target.objects)
    assert iou_at_true_area(weights, target) == pytest.approx(len(chosen & objects) / len(chosen | objects))


def test_iou_at_true_area_of_a_map_that_ranks_perfectly_is_one_and_of_a_constant_the_share_of_the_object() -> None:
    target = reference(3)
    assert iou_at_true_area(target.objects + 0.5 * np.random.default_rng(0).random(SHAPE), target) == 1
    assert iou_at_true_area(np.ones(SHAPE), target) == pytest.approx(target.objects.sum() / (~target.void).sum())


# --- pointing and energy
# ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("at", "hit"),
    [
        ((45, 70), True),
        ((45, 79 + 15), True),
        ((45, 79 + 16), False),
        ((40 - 15, 70), True),
        ((40 - 16, 70), False),
        ((49 + 9, 79 + 12), True),  # a diagonal of exactly 15
        ((49 + 11, 79 + 11), False),  # one of 15.6
        ((0, 0), False),
    ],
)
def test_pointing_hits_within_15_pixels_of_the_object(at: tuple[int, int], hit: bool) -> None:
    weights = np.zeros((90, 140))
    weights[at] = 1
    assert pointing(weights, one_object()) is hit


def test_pointing_with_equal_maxima_takes_no_place_between_them() -> None:
    weights = np.zeros((90, 140))
    weights[45, 10] = weights[45, 130] = 1  # both far from the object, their middle inside
    assert pointing(weights, one_object()) is False
    assert pointing(np.ones((90, 140)), one_object()) is True, "a constant map points at the middle"


@pytest.mark.parametrize("seed", range(20))
def test_pointing_is_the_distance_to_the_nearest_object(seed: int) -> None:
    from scipy.ndimage import distance_transform_edt

    rng = np.random.default_rng(seed)
    objects = rng.random((30, 40)) > 0.99
    objects[rng.integers(30), rng.integers(40)] = True
    distance = distance_transform_edt(~objects)
    for at in [(0, 0), (29, 39), (0, 39), *zip(rng.integers(30, size=9), rng.integers(40, size=9), strict=True)]:
        weights = np.zeros(objects.shape)
        weights[at] = 1
        for radius in (0, 3.5, 5, float("inf")):
            assert pointing(weights, Reference(objects, np.zeros_like(objects)), radius) == (distance[at] <= radius)


def test_pointing_radius_can_be_chosen() -> None:
    weights = np.zeros((90, 140))
    weights[45, 84] = 1
    assert pointing(weights, one_object(), radius=5) and not pointing(weights, one_object(), radius=4.9)


@pytest.mark.parametrize("seed", range(4))
def test_energy_is_the_share_of_positive_mass_on_objects_outside_void(seed: int) -> None:
    target = reference(seed)
    weights = np.random.default_rng(seed + 9).normal(size=SHAPE)
    mass = {cell: max(float(w), 0.0) for cell, w in np.ndenumerate(weights) if not target.void[cell]}
    assert energy(weights, target) == pytest.approx(sum(mass[c] for c in cells(target.objects)) / sum(mass.values()))


def test_energy_of_a_map_without_positive_mass_is_zero() -> None:
    assert energy(-np.ones(SHAPE), reference(0)) == 0


# --- baselines
# -------------------------------------------------------------------------------------------------------------


def test_centre_prior_has_sigma_of_half_the_side() -> None:
    prior = centre_prior((101, 101))
    assert prior[50, 50] == prior.max() == 1
    offset = 50 / 101  # of the outermost pixels' centres, in sides
    assert prior[50, 0] == pytest.approx(np.exp(-(offset**2) / 0.5)) and prior[0, 0] == pytest.approx(
        np.exp(-2 * offset**2 / 0.5)
    )
    assert centre_prior((3001, 3001))[1500, 0] == pytest.approx(np.exp(-0.5), abs=1e-3), "one sigma away"


@pytest.mark.parametrize("size", [(31, 20), (20, 31), (7, 7), (1, 9)])
def test_centre_prior_is_symmetric_and_falls_from_the_centre(size: tuple[int, int]) -> None:
    prior = centre_prior(size)
    assert prior.shape == size[::-1]
    assert np.allclose(prior, prior[::-1]) and np.allclose(prior, prior[:, ::-1])
    assert (np.diff(prior[: (size[1] + 1) // 2], axis=0) > 0).all() and (
        np.diff(prior[:, : (size[0] + 1) // 2], axis=1) > 0
    ).all()


def test_centre_prior_of_a_wide_picture_is_that_of_the_square_stretched() -> None:
    assert np.allclose(centre_prior((40, 20))[:, ::2].mean(), centre_prior((20, 20)).mean(), rtol=0.02)
    assert centre_prior((41, 21))[10, 0] == pytest.approx(np.exp(-((20 / 41) ** 2) / 0.5))


def test_baselines_are_the_prior_masked_at_mass_60_and_the_whole_picture() -> None:
    target = one_object()
    scores = score_baselines(target)
    assert list(scores) == ["centre prior", "whole picture"]
    share = target.objects.mean()
    whole = scores["whole picture"]
    assert whole["iou"] == whole["iou_at_true_area"] == whole["precision"] == whole["energy"] == pytest.approx(share)
    assert whole["recall"] == 1 and whole["pointing"] == 1
    prior = np.sort(centre_prior((140, 90)).ravel())[::-1]
    inside = np.searchsorted(prior.cumsum(), 0.6 * prior.sum()) + 1
    assert (
        scores["centre prior"]["precision"] == pytest.approx(200 / inside, rel=1e-2)
        and scores["centre prior"]["recall"] == 1
    )


# --- scoring a map
# ---------------------------------------------------------------------------------------------------------


def test_score_map_brings_mask_as_patches_and_map_bilinearly_to_the_size_of_the_reference() -> None:
    weights = np.random.default_rng(4).random((6, 9)).astype(np.float32)
    mask = make_mask(weights, Geometry((451, 300), (6, 9), 16), Cut("area", 0.3))
    target = one_object((60, 91))  # another size than the picture's, and not a multiple of the grid
    scores = score_map(mask, target)
    assert scores == score(bilinear(weights, 91, 60), mask.pixels(size=(91, 60)), target)
    figures = {"iou", "iou_at_true_area", "iou_at_best_threshold", "pointing", "energy", "precision", "recall"}
    assert set(scores) == figures
    assert scores["iou"] == iou(mask.pixels(size=(91, 60)), target)


def test_reference_of_other_proportions_than_its_picture_is_refused() -> None:
    weights = np.random.default_rng(0).random((4, 6), np.float32)
    mask = make_mask(weights, Geometry((60, 40), (4, 6), 10))
    for height, width in ((60, 40), (48, 48)):
        with pytest.raises(
            ValueError, match=f"is {width} x {height} pixels for a picture of 60 x 40; it belongs to another picture"
        ):
            score_map(mask, Reference(np.eye(height, width, dtype=bool), np.zeros((height, width), bool)))
    for height, width in ((40, 60), (80, 120), (41, 61), (13, 20)):
        reference = Reference(np.eye(height, width, dtype=bool), np.zeros((height, width), bool))
        assert 0 <= score_map(mask, reference)["iou"] <= 1


def test_pointing_takes_the_largest_of_several_plateaus() -> None:
    weights = np.zeros((60, 90))
    weights[5:8, 5:8] = weights[40:50, 70:80] = 1.0
    objects = np.zeros((60, 90), bool)
    objects[42:48, 72:78] = True
    assert pointing(weights, Reference(objects, np.zeros_like(objects)), radius=0)


def nearest(grid: np.ndarray, side: int) -> np.ndarray:
    """By loops: the cell whose area holds the pixel's centre."""
    h, w = grid.shape
    return np.array(
        [[grid[int((y + 0.5) * h / side), int((x + 0.5) * w / side)] for x in range(side)] for y in range(side)]
    )


def test_jaccard_is_dinos_protocol_written_out() -> None:
    rng = np.random.default_rng(3)
    labels = np.zeros((30, 40), np.int64)
    labels[3:12, 5:20], labels[15:28, 22:39], labels[:, :2] = 1, 7, 255
    reference = Reference((labels != 0) & (labels != 255), labels == 255, labels)
    masks = rng.random((3, 6, 8)) < 0.4
    assert len(reference.instances) == 2
    per_object = []
    for number in (1, 7):
        truth, void = nearest(labels == number, 48), nearest(labels == 255, 48)
        scores = []
        for mask in masks:
            shown = nearest(mask, 48)
            scores.append((shown & truth & ~void).sum() / ((shown | truth) & ~void).sum())
        per_object.append(scores)
    own, best = jaccard(masks, reference, side=48)
    assert own == pytest.approx(np.mean([scores[0] for scores in per_object]))
    assert best == pytest.approx(np.mean([max(scores) for scores in per_object])) and best > own


def test_jaccard_is_taken_at_480_pixels() -> None:
    """The size of DINO's protocol; an object of a single row of pixels is seen there and not at half of it."""
    labels = np.zeros((480, 640), np.int64)
    labels[101, 30:90], labels[300:460, 100:600] = 1, 2
    reference = Reference(labels != 0, np.zeros(labels.shape, bool), labels)
    masks = np.random.default_rng(4).random((3, 9, 12)) < 0.5
    at_480 = jaccard(masks, reference, side=480)
    assert jaccard(masks, reference) == at_480
    assert all(jaccard(masks, reference, side=side) != at_480 for side in (240, 479, 960))
    shown = nearest(masks[0], 480)
    by_hand = [(shown & t).sum() / (shown | t).sum() for t in (nearest(labels == n, 480) for n in (1, 2))]
    assert at_480[0] == pytest.approx(np.mean(by_hand)) and min(by_hand) > 0


def test_an_object_that_vanishes_at_480_pixels_is_left_out_of_jaccard() -> None:
    labels = np.zeros((480, 4800), np.int64)
    labels[100:200, 1000:2000] = 1
    alone = Reference(labels != 0, np.zeros(labels.shape, bool), labels.copy())
    labels[300, 0:3] = 2  # between the columns that are taken, of which there is one in ten
    both = Reference(labels != 0, np.zeros(labels.shape, bool), labels)
    masks = np.random.default_rng(4).random((3, 9, 12)) < 0.5
    assert len(both.instances) == 2 and jaccard(masks, both) == jaccard(masks, alone)
    speck = Reference(labels == 2, np.zeros(labels.shape, bool), np.where(labels == 2, 2, 0))
    assert np.isnan(jaccard(masks, speck)).all()


def test_best_threshold_is_the_best_of_a_thousand_tried_one_by_one() -> None:
    rng = np.random.default_rng(3)
    objects = rng.random((30, 40)) < 0.3
    void = (rng.random((30, 40)) < 0.1) & ~objects
    weights = rng.random((30, 40)) + objects
    truth = Reference(objects, void)
    found, threshold = iou_at_best_threshold(weights, truth)
    counted = weights[~void]
    share = (weights - counted.min()) / (counted.max() - counted.min())
    tried = [iou(share * 1000 >= k, truth) for k in range(1001)]
    assert found == pytest.approx(max(tried)) and found == pytest.approx(tried[round(1000 * threshold)])
    assert found >= iou_at_true_area(weights, truth) - 5e-3, "but for the steps between thresholds"
    constant = iou_at_best_threshold(np.ones((30, 40)), truth)
    assert constant == (pytest.approx(objects.sum() / (~void).sum()), 0.0)


def test_a_map_is_scored_by_its_default_mask_and_large_references_smaller() -> None:
    weights = np.random.default_rng(1).random((6, 9)).astype(np.float32)
    attention = AttentionMap(weights[None], ("a",), Geometry((2600, 1800), (6, 9), 16), "toy")
    objects = np.zeros((1800, 2600), bool)
    objects[300:900, 400:1500] = True
    truth = Reference(objects, np.zeros_like(objects))
    assert score_map(attention, truth) == score_map(attention.mask(), truth)
    assert bounded(truth).size == (1280, 886)
    assert score_map(attention, truth) == score_map(attention, bounded(truth))
    small = Reference(objects[:90, :130] | (np.arange(130) > 70), objects[:90, :130])
    assert bounded(small) is small


@pytest.mark.parametrize("seed", range(3))
def test_iou_is_the_jaccard_index_of_torchmetrics_without_void(seed: int) -> None:
    rng = np.random.default_rng(seed)
    mask, objects, void = rng.random((3, 23, 41)) < np.array([0.4, 0.5, 0.2])[:, None, None]
    reference = Reference(objects & ~void, void)
    truth = torch.from_numpy(np.where(void, 2, objects).astype(np.int64))
    wanted = binary_jaccard_index(torch.from_numpy(mask.astype(np.int64)), truth, ignore_index=2)
    assert iou(mask, reference) == pytest.approx(float(wanted), abs=1e-6)
