"""Masks that are moved to the edges of a photo: towards a known outline, never beyond the band."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from simpool_viz.errors import MissingPackageError, OptionError
from simpool_viz.refinement import BAND, REFINEMENTS, refine

AVAILABLE = [name for name in REFINEMENTS if name != "guided" or hasattr(cv2, "ximgproc")]


def scene(height: int, width: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A photo of a blue disc on a yellow ground with noise, the disc, and a mask of coarse patches over it."""
    y, x = np.mgrid[:height, :width]
    disc = (y - 0.5 * height) ** 2 + (x - 0.45 * width) ** 2 < (0.3 * height) ** 2
    rgb = np.where(disc[:, :, None], [40, 60, 170], [210, 190, 90]) + np.random.default_rng(0).normal(
        0, 12, (height, width, 3)
    )
    cells = cv2.resize(disc.astype(np.float32), (width // 16, height // 16), interpolation=cv2.INTER_AREA) >= 0.4
    coarse = cv2.resize(cells.astype(np.uint8), (width, height), interpolation=cv2.INTER_NEAREST) > 0
    return rgb.clip(0, 255).astype(np.uint8), disc, coarse


def overlap(one: np.ndarray, other: np.ndarray) -> float:
    return float((one & other).sum() / (one | other).sum())


@pytest.mark.parametrize("method", AVAILABLE)
@pytest.mark.parametrize("size", [(240, 320), (700, 530)])
def test_the_outline_moves_to_the_edge(method: str, size: tuple[int, int]) -> None:
    rgb, disc, coarse = scene(*size)
    refined = refine(coarse, rgb, method)
    assert refined.shape == disc.shape and refined.dtype == bool
    assert overlap(refined, disc) > 0.98 > overlap(coarse, disc) + 0.01


@pytest.mark.parametrize("method", AVAILABLE)
def test_nothing_changes_beyond_the_band_and_twice_is_the_same(method: str) -> None:
    rgb, _, coarse = scene(240, 320)
    refined = refine(coarse, rgb, method)
    depth = cv2.distanceTransform(coarse.astype(np.uint8), cv2.DIST_L2, 5)
    depth += cv2.distanceTransform((~coarse).astype(np.uint8), cv2.DIST_L2, 5)
    assert depth[refined != coarse].max() <= BAND * 320 + 1
    assert np.array_equal(refined, refine(coarse, rgb, method))


@pytest.mark.parametrize("method", AVAILABLE)
def test_masks_without_an_outline_stay(method: str) -> None:
    rgb = scene(48, 64)[0]
    for mask in (np.zeros((48, 64), bool), np.ones((48, 64), bool)):
        assert np.array_equal(refine(mask, rgb, method), mask)
    speck = np.zeros((48, 64), bool)
    speck[20, 30] = True
    assert refine(speck, rgb, method).sum() < 200
    assert np.array_equal(refine(speck, rgb, ""), speck)


def test_what_cannot_be_refined_is_refused() -> None:
    rgb, _, coarse = scene(48, 64)
    with pytest.raises(OptionError, match="masks are refined by grabcut, random_walker, guided, not by 'crf'"):
        refine(coarse, rgb, "crf")
    with pytest.raises(OptionError, match="give one size"):
        refine(coarse, rgb[:-1], "grabcut")


@pytest.mark.skipif("guided" in AVAILABLE, reason="OpenCV's contrib build is installed")
def test_the_guided_filter_names_the_build_that_has_it() -> None:
    rgb, _, coarse = scene(48, 64)
    with pytest.raises(MissingPackageError, match="opencv-contrib-python-headless"):
        refine(coarse, rgb, "guided")
