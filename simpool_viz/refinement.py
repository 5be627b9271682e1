"""Refines a mask to the edges of its photo: what the pixels say beyond the map.

A map knows its tokens and no finer. These methods move the outline within a band around it to where the colours change.
They are for looking and for taking masks along; scores of a map are those of its own mask, unless they are asked for by
their own name.

Every method works on a photo of at most `LONGEST` pixels and for a bounded number of steps.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import cv2
import numpy as np

from simpool_viz.errors import MissingPackageError, OptionError

LONGEST = 400  # pixels of the longer side on which a method works
BAND = 0.03  # of the longer side: how far the outline may move to either side
GRABCUT_STEPS = 4
WALKER_BETA = 130.0  # how much harder a walk over an edge is (Grady, 2006; scikit-image's beta)
GUIDED_EPSILON = 1e-4  # of colours in [0, 1]


@dataclass(frozen=True)
class Refinement:
    """A registered method.

    Attributes:
        name: by which it is requested.
        title: for readers.
        paper: its source.
        function: of the photo (H, W, 3) uint8, what is object and what is background for sure, and the mask, each
            (H, W) bool; returns (H, W) bool.
    """

    name: str
    title: str
    paper: str
    function: Callable[[np.ndarray, np.ndarray, np.ndarray, np.ndarray], np.ndarray]


def _grabcut(rgb: np.ndarray, inside: np.ndarray, outside: np.ndarray, mask: np.ndarray) -> np.ndarray:
    labels = np.where(mask, cv2.GC_PR_FGD, cv2.GC_PR_BGD).astype(np.uint8)
    labels[inside], labels[outside] = cv2.GC_FGD, cv2.GC_BGD
    models = np.zeros((1, 65)), np.zeros((1, 65))
    cv2.setRNGSeed(0)  # of the clusters that its colour models begin with
    cv2.grabCut(
        np.ascontiguousarray(rgb[:, :, ::-1]), labels, (0, 0, 1, 1), *models, GRABCUT_STEPS, cv2.GC_INIT_WITH_MASK
    )
    return (labels == cv2.GC_FGD) | (labels == cv2.GC_PR_FGD)


def _random_walker(rgb: np.ndarray, inside: np.ndarray, outside: np.ndarray, mask: np.ndarray) -> np.ndarray:
    from skimage.segmentation import random_walker

    seeds = np.where(inside, 1, np.where(outside, 2, 0))
    walked: np.ndarray = random_walker(rgb / 255.0, seeds, beta=WALKER_BETA, mode="cg_j", tol=1e-4, channel_axis=-1)
    return walked == 1


def _guided(rgb: np.ndarray, inside: np.ndarray, outside: np.ndarray, mask: np.ndarray) -> np.ndarray:
    if not hasattr(cv2, "ximgproc"):
        raise MissingPackageError(
            "the guided filter is in OpenCV's contrib build; install opencv-contrib-python-headless in place of "
            "opencv-python-headless, or choose grabcut or random_walker"
        )
    radius = max(2, round(BAND * max(mask.shape)))
    guide, share = rgb.astype(np.float32) / 255, mask.astype(np.float32)
    filtered: np.ndarray = cv2.ximgproc.guidedFilter(guide, share, radius, GUIDED_EPSILON)
    return ((filtered >= 0.5) | inside) & ~outside


REFINEMENTS: dict[str, Refinement] = {
    method.name: method
    for method in (
        Refinement("grabcut", "GrabCut", "Rother, Kolmogorov & Blake, GrabCut, SIGGRAPH 2004", _grabcut),
        Refinement(
            "random_walker", "random walker", "Grady, Random Walks for Image Segmentation, PAMI 2006", _random_walker
        ),
        Refinement("guided", "guided filter", "He, Sun & Tang, Guided Image Filtering, ECCV 2010", _guided),
    )
}


def available_refinements() -> dict[str, Refinement]:
    """The methods that this installation has: the guided filter needs OpenCV's contrib build."""
    return {name: method for name, method in REFINEMENTS.items() if name != "guided" or hasattr(cv2, "ximgproc")}


def check_refinement(name: str) -> str:
    """The name of a method, or "" for none.

    Raises:
        OptionError: there is no such method.
    """
    if name and name not in REFINEMENTS:
        raise OptionError(f"masks are refined by {', '.join(REFINEMENTS)}, not by {name!r}")
    return name


def refine(mask: np.ndarray, rgb: np.ndarray, method: str = "grabcut") -> np.ndarray:
    """Move the outline of a mask to the edges of its photo.

    Pixels further than a band of 3 % of the longer side from the outline keep their side. A mask so thin that nothing
    of it lies deeper than the band has a thinner one.

    Args:
        mask: (H, W) bool.
        rgb: (H, W, 3) uint8, the photo at the same size.
        method: a name of `REFINEMENTS`.

    Returns:
        (H, W) bool; the mask itself where it is empty or the whole picture.

    Raises:
        OptionError: no such method, or a photo of another size.
        MissingPackageError: OpenCV's contrib build is not installed, for the guided filter.

    Examples:
        >>> from simpool_viz import load_checkpoint, record
        >>> from simpool_viz.refinement import refine
        >>> recording = record(load_checkpoint("resnet_simpool"), "cat.jpg")
        >>> mask = recording.map("simpool").mask().pixels()
        >>> refine(mask, recording.picture.rgb, "grabcut").shape == mask.shape
        True
    """
    check_refinement(method)
    if rgb.shape[:2] != mask.shape:
        raise OptionError(f"the mask is {mask.shape[::-1]} pixels and the photo {rgb.shape[1::-1]}; give one size")
    if not method or mask.all() or not mask.any():
        return mask
    height, width = mask.shape
    factor = min(1.0, LONGEST / max(mask.shape))
    size = max(1, round(width * factor)), max(1, round(height * factor))
    small = cv2.resize(mask.astype(np.uint8), size, interpolation=cv2.INTER_AREA) > 0
    photo = cv2.resize(rgb, size, interpolation=cv2.INTER_AREA)
    inside, outside = _sure(small)
    if not inside.any() or not outside.any():
        return mask
    refined = REFINEMENTS[method].function(photo, inside, outside, small)
    if factor == 1:
        return refined
    enlarged: np.ndarray = cv2.resize(refined.astype(np.float32), (width, height), interpolation=cv2.INTER_LINEAR)
    return enlarged >= 0.5


def _sure(mask: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """What lies deeper in the mask, and further from it, than the band; a thinner one where nothing would."""
    deep, far = (
        cv2.distanceTransform(np.pad(part, 1, mode="edge").astype(np.uint8), cv2.DIST_L2, 5)[1:-1, 1:-1]
        for part in (mask, ~mask)
    )
    band = BAND * max(mask.shape)
    return deep > min(band, 0.7 * float(deep.max())), far > min(band, 0.7 * float(far.max()))
