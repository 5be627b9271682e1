"""Masks as files that other tools read: binary PNG, COCO polygons and COCO run lengths.

All are of masks in pixels, (H, W) bool. A PNG and run lengths are exact; polygons run along the edges of pixels and cut
their corners, and have no holes.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

from simpool_viz.errors import OptionError
from simpool_viz.masks import label_components


@dataclass(frozen=True)
class NamedMask:
    """A mask in a list of annotations.

    Attributes:
        pixels: (H, W) bool.
        picture: index of its picture.
        about: further entries of its annotation, such as checkpoint and map.
    """

    pixels: np.ndarray
    picture: int
    about: dict[str, Any]


def png_of(pixels: np.ndarray) -> bytes:
    """A mask as a grey PNG of its size: 255 is the object, 0 the rest."""
    buffer = io.BytesIO()
    Image.fromarray(np.where(pixels, 255, 0).astype(np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()


def run_lengths(pixels: np.ndarray) -> dict[str, Any]:
    """A mask as COCO's uncompressed run lengths, which pycocotools reads with `frPyObjects`.

    Args:
        pixels: (H, W) bool.

    Returns:
        size, [H, W], and counts: lengths of the runs of 0, 1, 0, ... down the columns, one after the other.

    Examples:
        >>> import numpy as np
        >>> from simpool_viz.mask_files import run_lengths
        >>> run_lengths(np.array([[False, True, True], [False, False, True]]))
        {'size': [2, 3], 'counts': [2, 1, 1, 2]}
    """
    flat = pixels.ravel(order="F").astype(np.int8)
    changes = np.flatnonzero(np.diff(flat, prepend=0))  # a mask that begins with an object has a run of no zeros
    counts = np.diff(np.concatenate([[0], changes, [flat.size]]))
    return {"size": [int(side) for side in pixels.shape], "counts": [int(count) for count in counts]}


def mask_of_runs(size: Sequence[int], counts: Sequence[int]) -> np.ndarray:
    """The mask (H, W) bool of COCO's uncompressed run lengths, as `run_lengths` makes them.

    Args:
        size: [H, W].
        counts: lengths of the runs of 0, 1, 0, ... down the columns.

    Raises:
        OptionError: runs that do not fill the picture.
    """
    height, width = size
    if min(counts, default=-1) < 0 or sum(counts) != height * width:
        raise OptionError(
            f"the run lengths of a mask of {width} x {height} pixels add up to {width * height}, none negative"
        )
    values = np.arange(len(counts)) % 2 == 1
    return np.repeat(values, counts).reshape(width, height).T


def polygons(pixels: np.ndarray) -> list[list[float]]:
    """The outer outline of each 8-connected component of a mask, as COCO's polygons.

    Args:
        pixels: (H, W) bool.

    Returns:
        [x0, y0, x1, y1, ...] of each component in raster order, in pixels from the picture's upper left corner. Holes
        are filled; run lengths keep them.
    """
    from scipy.ndimage import binary_fill_holes
    from skimage.measure import approximate_polygon, find_contours

    labels, count = label_components(pixels)
    outlines = []
    for number in range(1, count + 1):
        solid = binary_fill_holes(np.pad(labels == number, 1), structure=np.ones((3, 3)))
        # Parts that touch at a corner are one outline.
        contours = find_contours(solid.astype(np.float32), 0.5, fully_connected="high")
        longest = max(contours, key=len)
        corners = approximate_polygon(longest, 0.01)[:-1]  # the last point is the first
        outlines.append([round(float(v), 2) for v in (corners[:, ::-1] - 0.5).ravel()])
    return outlines


def coco_annotations(
    pictures: Sequence[tuple[str, tuple[int, int]]], masks: Sequence[NamedMask], *, as_polygons: bool
) -> dict[str, Any]:
    """Masks as a COCO annotation file: one annotation of the category "object" each.

    Args:
        pictures: name and (W, H) of each picture.
        masks: of these pictures, at their size.
        as_polygons: polygons as segmentation, else run lengths. A mask without a pixel has no annotation.

    Returns:
        images, categories and annotations, ready for `json.dumps`. Ids count from 1.
    """
    annotations = []
    for number, mask in enumerate(masks, 1):
        rows, columns = (np.flatnonzero(mask.pixels.any(axis)) for axis in (1, 0))
        if not len(rows):
            continue
        x, y = int(columns[0]), int(rows[0])
        annotations.append(
            {
                "id": number,
                "image_id": mask.picture + 1,
                "category_id": 1,
                "segmentation": polygons(mask.pixels) if as_polygons else run_lengths(mask.pixels),
                "area": int(mask.pixels.sum()),
                "bbox": [x, y, int(columns[-1]) - x + 1, int(rows[-1]) - y + 1],
                "iscrowd": 0,
                **mask.about,
            }
        )
    images = [
        {"id": number, "file_name": name, "width": width, "height": height}
        for number, (name, (width, height)) in enumerate(pictures, 1)
    ]
    return {"images": images, "categories": [{"id": 1, "name": "object"}], "annotations": annotations}
