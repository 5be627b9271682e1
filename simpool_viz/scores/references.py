"""Reads what says where the objects of a picture are: mask files of every usual kind, and boxes.

A file holds either labels, the number of each pixel's object, or a grey mask, how much of a pixel is object. What a
file does not say without doubt is asked for (`object_ids`), never guessed as "all is object".
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import numpy as np
from PIL import Image, ImageOps

from simpool_viz.errors import OptionError, PictureError
from simpool_viz.images import MOST_LARGE_PIXELS, expand_cells, open_picture

VOID = 255  # in a label map, as in PASCAL VOC
MANY = 64  # levels; a map of objects with more numbers than this is taken for a mask with soft edges
MOST_SCORED = 1280  # pixels of the longer side at which scores are counted
TINT = 24  # of 255 levels, by which a grey pixel's channels may differ
Box = tuple[float, float, float, float]
_BOX = r"\s*-?\d+(\.\d+)?\s*(,\s*-?\d+(\.\d+)?\s*){3}"
_BOXES = re.compile(rf"{_BOX}(;{_BOX})*")


@dataclass(frozen=True)
class Reference:
    """A reference mask of a picture.

    Attributes:
        objects: (H, W) bool, the pixels of all objects.
        void: (H, W) bool, the pixels that are left out of every count.
        labels: (H, W) int64, the number of each pixel's object; None where objects are not numbered.
        boxes: the box of each object where a data set gives it, since objects may hide each other in `labels`; else
            empty, and the boxes are those of the objects' pixels.
    """

    objects: np.ndarray
    void: np.ndarray
    labels: np.ndarray | None = None
    boxes: tuple[Box, ...] = ()

    @property
    def instances(self) -> list[np.ndarray]:
        """One mask (H, W) bool per object; a single one where objects are not numbered."""
        if self.labels is None:
            return [self.objects]
        return [self.labels == number for number in np.unique(self.labels[self.objects])]

    @property
    def size(self) -> tuple[int, int]:
        """(width, height) in pixels."""
        return self.objects.shape[1], self.objects.shape[0]


def read_reference(
    path: str | os.PathLike[str], picture_size: tuple[int, int] | None = None, object_ids: Sequence[int] = ()
) -> Reference:
    """Read a mask file.

    It is turned as its EXIF data say, like a photo. Then:

    - where transparency varies, transparent pixels are background; where what is visible is of one colour, or is a
      photo cut out, the transparency is the mask;
    - a palette picture in colours holds labels, its indices; one in greys is read as a grey picture;
    - a grey picture with soft edges (JPEG; more than 64 levels; or levels of 128 to 254 beside 255) is cut at half;
    - any other holds labels: 0 is background, every other number an object, 255 void where there are more than two
      values.

    Args:
        path: the file.
        picture_size: (W, H) of the upright picture, to which the mask is brought by nearest neighbour; None leaves it
            as it is.
        object_ids: the labels that count as object, as in a trimap or a map of classes; all but 0 and void by default.

    Raises:
        PictureError: not a picture, in colour, too large, of other proportions than the picture, without an object, or
            with nothing but objects.
        OptionError: `object_ids` that the file has not.

    Examples:
        >>> from pathlib import Path
        >>> from simpool_viz.scores.references import read_reference
        >>> reference = read_reference(Path("cat_mask.png"))
        >>> reference.size, len(reference.instances), bool(reference.void.any())
        ((451, 300), 1, False)
    """
    return decode_reference(Path(path), str(path), picture_size, object_ids)


def decode_reference(
    source: Path | IO[bytes],
    path: str,
    picture_size: tuple[int, int] | None = None,
    object_ids: Sequence[int] = (),
) -> Reference:
    """As `read_reference`, of a file that is open for reading bytes too.

    Args:
        source: the file.
        path: its name in errors.
        picture_size: as in `read_reference`.
        object_ids: as in `read_reference`.

    Raises:
        PictureError: as in `read_reference`.
        OptionError: as in `read_reference`.
    """
    with open_picture(source, f"the reference mask {path}", MOST_LARGE_PIXELS) as file:
        lossy = file.format == "JPEG"
        values, labelled = _values(ImageOps.exif_transpose(file), path)
    if object_ids:
        reference = _chosen(values, object_ids, path)
    elif not labelled and (lossy or _is_soft(values)):
        objects = values >= _half(values)
        reference = Reference(objects, np.zeros_like(objects), objects.astype(np.int64))
    else:
        reference = _of_labels(values)
    _check(reference, values, path)
    return reference if picture_size is None else resized(reference, picture_size)


def read_labels(source: Path | IO[bytes], path: str) -> np.ndarray:
    """The numbers of a label map (H, W) int64, as they are stored: the indices of a palette, or grey values.

    Args:
        source: the file, or one that is open for reading bytes.
        path: its name in errors.

    Raises:
        PictureError: not a picture, or one in colour.
    """
    with open_picture(source, f"the reference mask {path}", MOST_LARGE_PIXELS) as file:
        image = ImageOps.exif_transpose(file)
        if image.mode == "P":
            return np.asarray(image).astype(np.int64)
        if _is_colour(image, None):
            raise PictureError(f"the reference mask {path} cannot be read: it is a colour picture, and a mask is grey")
        return _greys(image)


def read_grey_mask(source: Path | IO[bytes], path: str) -> Reference:
    """A grey mask, cut at half: how much of a pixel is object, or how many of several people say so.

    Args:
        source: the file, or one that is open for reading bytes.
        path: its name in errors.

    Raises:
        PictureError: not a grey picture, or one that marks no object.
    """
    with open_picture(source, f"the reference mask {path}", MOST_LARGE_PIXELS) as file:
        image = ImageOps.exif_transpose(file)
        plain = image.convert("RGB") if image.mode == "P" else image
        if _is_colour(plain, None):
            raise PictureError(f"the reference mask {path} cannot be read: it is a colour picture, and a mask is grey")
        values = _greys(plain)
    objects = values >= (1 if values.max() == 1 else _half(values))
    return _marked(Reference(objects, np.zeros_like(objects), objects.astype(np.int64)), path)


def reference_of_labels(labels: np.ndarray, void: np.ndarray, path: str) -> Reference:
    """A reference of numbered objects.

    Args:
        labels: (H, W) int64, 0 outside all objects.
        void: (H, W) bool, the pixels that are left out, whatever their label.
        path: the name of its file in errors.

    Raises:
        PictureError: it marks no object.
    """
    objects = (labels != 0) & ~void
    return _marked(Reference(objects, void, np.where(objects, labels, 0)), path)


def _marked(reference: Reference, path: str) -> Reference:
    if not reference.objects.any():
        raise PictureError(f"the reference mask {path} marks no object")
    return reference


def _values(image: Image.Image, path: str) -> tuple[np.ndarray, bool]:
    """The values (H, W) int64 of a mask, and whether they are labels for sure."""
    alpha = _alpha(image)
    if image.mode == "P":
        palette = np.array(image.getpalette("RGB"), np.int64).reshape(-1, 3)
        indices = np.asarray(image).astype(np.int64)
        used = palette[np.unique(indices[alpha >= 128] if alpha is not None else indices).clip(max=len(palette) - 1)]
        coloured = len(used) > 0 and bool((used.max(1) - used.min(1)).max() > TINT)
        labelled = coloured and len(used) > 1
        values = indices if labelled else palette[indices.clip(max=len(palette) - 1)].max(2)
    else:
        values, labelled = _greys(image), False
        coloured = _is_colour(image, alpha)
    if alpha is None:
        if coloured and image.mode != "P":
            raise PictureError(f"the reference mask {path} cannot be read: it is a colour picture, and a mask is grey")
        return values, labelled
    visible = values[alpha >= 128]
    if (coloured and image.mode != "P") or len(np.unique(visible)) <= 1:  # a photo that is cut out, or one colour
        return alpha, False
    return np.where(alpha >= 128, values, 0), labelled


def _alpha(image: Image.Image) -> np.ndarray | None:
    """The opacity (H, W) int64 in [0, 255], None where it does not vary."""
    if "A" not in image.getbands() and "transparency" not in image.info:
        return None
    alpha = np.asarray(image.convert("RGBA").getchannel("A")).astype(np.int64)
    return alpha if alpha.min() < alpha.max() else None


def _greys(image: Image.Image) -> np.ndarray:
    """The grey values (H, W) int64; those of a mask in [0, 1] as 0 to 255."""
    if image.mode == "1":
        return 255 * np.asarray(image).astype(np.int64)
    if image.mode == "F":
        values = np.nan_to_num(np.asarray(image).astype(np.float64))
        return np.round(255 * values if values.max() <= 1 else values).astype(np.int64)
    plain = image if image.mode in ("L", "I") or image.mode.startswith("I;16") else image.convert("RGB").convert("L")
    return np.asarray(plain).astype(np.int64)


def _is_colour(image: Image.Image, alpha: np.ndarray | None) -> bool:
    """Whether more than 1 % of the visible pixels are not grey."""
    if image.mode in ("L", "LA", "La", "1", "F") or image.mode.startswith("I"):
        return False
    rgb = np.asarray(image.convert("RGB")).astype(np.int16)
    seen = rgb if alpha is None else rgb[alpha >= 128]
    return seen.size > 0 and bool(((seen.max(-1) - seen.min(-1)) > TINT).mean() > 0.01)


def _is_soft(values: np.ndarray) -> bool:
    """Whether grey values are those of a mask with soft edges, or of one that never reaches 0 or its largest value."""
    levels = np.unique(values)
    high = levels[levels >= _half(values)]
    if len(levels) == 2:
        return bool(levels[0] > 0 and len(high) == 1)
    if values.max() > VOID:
        return len(levels) > 4 * MANY
    return len(levels) > MANY or bool(VOID in levels and len(high) > 1)


def _half(values: np.ndarray) -> int:
    """Half the range of the values' bits."""
    return 128 if values.max() <= 255 else 32768


def _of_labels(values: np.ndarray) -> Reference:
    is_label_map = len(np.unique(values)) > 2 and bool((values == VOID).any())
    void = (values == VOID) & is_label_map
    return Reference((values != 0) & ~void, void, values)


def _chosen(values: np.ndarray, object_ids: Sequence[int], path: str) -> Reference:
    """The labels that are asked for; 255 is void where it is none of them and there are more than two values."""
    there = np.unique(values)
    if missing := sorted(set(object_ids) - set(there.tolist())):
        raise OptionError(
            f"the reference mask {path} has no label {', '.join(map(str, missing))}; its labels are {_listed(there)}"
        )
    objects = np.isin(values, list(object_ids))
    void = (values == VOID) & ~objects & (len(there) > 2)
    return Reference(objects, void, np.where(objects, values, 0))


def _check(reference: Reference, values: np.ndarray, path: str) -> None:
    """Refuse a mask that says nothing: no object, or no background."""
    if not reference.objects.any():
        raise PictureError(f"the reference mask {path} marks no object; pixels other than 0 are taken as object")
    if (reference.objects | reference.void).all():
        raise PictureError(
            f"the reference mask {path} leaves no background: its values are {_listed(np.unique(values))}. If they are "
            "labels, say which of them are objects (object_ids, --object-ids)"
        )


def _listed(values: np.ndarray) -> str:
    shown = ", ".join(map(str, values[:8].tolist()))
    return f"{shown}, ... and {values[-1]}" if len(values) > 8 else shown


def resized(reference: Reference, size: tuple[int, int]) -> Reference:
    """A reference brought to the size of its picture by nearest neighbour.

    Args:
        reference: of that picture.
        size: (W, H) in pixels.

    Raises:
        PictureError: it has other proportions: it is turned or belongs to another picture.
    """
    check_proportions(reference.size, size)
    if reference.size == size:
        return reference
    labels = None if reference.labels is None else expand_cells(reference.labels, size)
    x, y = size[0] / reference.size[0], size[1] / reference.size[1]
    boxes = tuple((x0 * x, y0 * y, x1 * x, y1 * y) for x0, y0, x1, y1 in reference.boxes)
    return Reference(expand_cells(reference.objects, size), expand_cells(reference.void, size), labels, boxes)


def bounded(reference: Reference) -> Reference:
    """The reference as it is scored: at most `MOST_SCORED` pixels on its longer side, by nearest neighbour.

    A photo of a camera holds no more tokens than a small one, and its scores would take seconds.
    """
    factor = MOST_SCORED / max(reference.size)
    if factor >= 1:
        return reference
    width, height = (max(1, round(side * factor)) for side in reference.size)
    smaller = resized(reference, (width, height))
    # What is a speck in a large photo may vanish; then it is scored as it is.
    return smaller if smaller.objects.any() else reference


def check_proportions(size: tuple[int, int], picture: tuple[int, int]) -> None:
    """Make sure that a reference of `size` (w, h) has the proportions of a picture (W, H), up to 2 % or one pixel.

    Raises:
        PictureError: it has not.
    """
    (width, height), (w, h) = picture, size
    if abs(w * height - h * width) > max(0.02 * w * height, width, height):
        why = "it belongs to another picture or is turned"
        raise PictureError(f"the reference mask is {w} x {h} pixels for a picture of {width} x {height}; {why}")


def reference_of_boxes(boxes: Sequence[Box], size: tuple[int, int], *, whole: bool = False) -> Reference:
    """Boxes as a reference: the pixels whose centres they contain, numbered from 1, smaller boxes on top.

    Args:
        boxes: (x0, y0, x1, y1) in pixels of the upright picture, half-open.
        size: (W, H) of the picture.
        whole: whether boxes may cover the picture, as in data sets, and are kept as they are beside their pixels.

    Raises:
        OptionError: no box, or one that is empty, outside the picture, or covers all of it.
    """
    if not boxes:
        raise OptionError("a reference needs at least one box (x0, y0, x1, y1)")
    width, height = size
    labels = np.zeros((height, width), np.int64)
    x, y = np.arange(width) + 0.5, np.arange(height)[:, None] + 0.5
    for number, (x0, y0, x1, y1) in sorted(enumerate(boxes, 1), key=lambda one: -_area(one[1])):
        inside = (x >= x0) & (x < x1) & (y >= y0) & (y < y1)
        if not (np.isfinite((x0, y0, x1, y1)).all() and inside.any()):
            raise OptionError(
                f"the box ({x0:g}, {y0:g}, {x1:g}, {y1:g}) holds no pixel of a picture of {width} x {height}; a box is "
                "x0, y0, x1, y1 with x0 < x1 and y0 < y1"
            )
        labels[inside] = number
    if labels.all() and not whole:
        raise OptionError(f"the boxes leave no background in a picture of {width} x {height}")
    return Reference(labels > 0, np.zeros(labels.shape, bool), labels, tuple(boxes) if whole else ())


def parse_reference(text: str, picture_size: tuple[int, int], object_ids: Sequence[int] = ()) -> Reference:
    """A reference as it is named on the command line: the path of a mask, or boxes "x0,y0,x1,y1;x0,y0,x1,y1".

    Args:
        text: a path or boxes.
        picture_size: (W, H) of the upright picture.
        object_ids: as in `read_reference`.

    Raises:
        PictureError: as in `read_reference`.
        OptionError: as in `read_reference` and `reference_of_boxes`.
    """
    if not _BOXES.fullmatch(text):
        return read_reference(Path(text), picture_size, object_ids)
    numbers = [[float(number) for number in box.split(",")] for box in text.split(";")]
    return reference_of_boxes([(x0, y0, x1, y1) for x0, y0, x1, y1 in numbers], picture_size)


def _area(box: Box) -> float:
    return (box[2] - box[0]) * (box[3] - box[1])
