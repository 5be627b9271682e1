"""The scores of a photo: known answers for a map that is the object, and for the baselines."""

from __future__ import annotations

import numpy as np
import pytest

from simpool_viz.evaluation.scoring import BASELINES, FIGURES, MapToScore, score_photo
from simpool_viz.images import Geometry
from simpool_viz.masks import choose_cut, make_mask
from simpool_viz.scores.references import Reference

GRID, STRIDE = (6, 9), 8
SIZE = (GRID[1] * STRIDE, GRID[0] * STRIDE)


def map_of(grid: np.ndarray, number: int = 0, box: tuple[int, int, int, int] | None = None) -> MapToScore:
    mask = make_mask(grid, Geometry(SIZE, GRID, STRIDE), choose_cut("mass", 1.0))
    return MapToScore(number, "a: b", "b", mask, (grid > 0)[None], box, {"spatial_entropy": 0.5})


def object_on(grid: np.ndarray) -> Reference:
    objects = np.kron(grid > 0, np.ones((STRIDE, STRIDE))) > 0
    return Reference(objects, np.zeros_like(objects))


def test_a_map_that_is_the_object_has_all_of_it_and_one_elsewhere_nothing() -> None:
    grid, elsewhere = np.zeros(GRID, np.float32), np.zeros(GRID, np.float32)
    grid[1:4, 1:4], elsewhere[1:4, 5:8] = 1, 1
    reference = object_on(grid)
    good, bad, *plain = score_photo(reference, [map_of(grid, 0, (8, 8, 32, 32)), map_of(elsewhere, 1, (40, 8, 64, 32))])
    assert set(good.figures) | {"deletion", "insertion"} == set(FIGURES)
    for name in ("iou", "jaccard", "jaccard_best", "pointing", "recall", "precision", "corloc"):
        assert good.figures[name] == 1
    assert good.figures["energy"] > 0.75 and good.figures["iou_at_true_area"] > 0.8  # edges are enlarged bilinearly
    for name in ("iou", "jaccard", "corloc", "iou_at_true_area"):
        assert bad.figures[name] == pytest.approx(0, abs=0.02)
    assert (good.checkpoint, bad.checkpoint) == (0, 1) and [one.label for one in plain] == list(BASELINES)
    assert all(one.checkpoint == -1 for one in plain)
    whole = plain[1].figures
    assert whole["iou"] == whole["energy"] == whole["precision"] == pytest.approx(9 / 54)
    assert whole["recall"] == whole["pointing"] == 1 and whole["corloc"] == 0


def test_counts_are_of_all_pixels_at_224_and_of_every_threshold() -> None:
    grid = np.zeros(GRID, np.float32)
    grid[1:4, 1:4] = 1
    (one, *_) = score_photo(object_on(grid), [map_of(grid)])
    assert one.counts is not None and one.counts.steps.sum() == 224 * 224 and one.counts.boxes.shape == (4, 255)
    assert one.counts.boxes[0].any() and one.counts.boxes[1].any()
    assert one.figures["corloc"] == 0, "no box is none that fits"
