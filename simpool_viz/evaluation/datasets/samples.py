"""A photo of a data set, and what says where its objects are; both are read when they are needed, and not before.

Samples travel to worker processes, so that nothing here imports PyTorch.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from simpool_viz.errors import DataError, MissingPackageError, needs_packages
from simpool_viz.images import Picture, open_picture, read_picture
from simpool_viz.mask_files import mask_of_runs
from simpool_viz.scores.references import (
    Box,
    Reference,
    decode_reference,
    read_grey_mask,
    read_labels,
    read_reference,
    reference_of_boxes,
    reference_of_labels,
    resized,
)

VOID = 255


class Truth(Protocol):
    """What says where the objects of a photo are."""

    def read(self, size: tuple[int, int], object_ids: Sequence[int]) -> Reference:
        """The reference at the size (W, H) of the upright photo.

        Args:
            size: of the photo.
            object_ids: the labels that count as object; where empty, those of the data set.

        Raises:
            SimpoolError: it cannot be read, or marks no object.
        """


@dataclass(frozen=True)
class Sample:
    """A photo with its reference.

    Attributes:
        key: its name, which no other sample of the set has.
        photo: its file, or the bytes of one.
        truth: where its objects are.
    """

    key: str
    photo: Path | bytes
    truth: Truth

    def picture(self) -> Picture:
        """The photo.

        Raises:
            PictureError: as in `read_picture`.
        """
        if isinstance(self.photo, bytes):
            with open_picture(io.BytesIO(self.photo), self.key) as image:
                return read_picture(image, self.key)
        return read_picture(self.photo, self.key)

    def reference(self, size: tuple[int, int] | None = None, object_ids: Sequence[int] = ()) -> Reference:
        """Its reference.

        Args:
            size: (W, H) of the photo, which is read for it where it is not given.
            object_ids: as in `Truth.read`.

        Raises:
            SimpoolError: as in `Truth.read`.
        """
        return self.truth.read(size or self.picture().size, object_ids)


@dataclass(frozen=True)
class DataSet:
    """Photos with references.

    Attributes:
        name: of its folder, and of its split where it has several.
        kind: a name of `data_set_kinds`.
        samples: in their order; those of a table are read from it while they are gone through.
    """

    name: str
    kind: str
    samples: Sequence[Sample]

    def __len__(self) -> int:
        return len(self.samples)

    def places(self) -> list[tuple[str, Any]]:
        """Key and place of each sample for `batch.engine`, without reading any: the place is the sample itself, or
        where it stands in a table."""
        own = getattr(self.samples, "places", None)
        return [(sample.key, sample) for sample in self.samples] if own is None else own()

    def renamed(self, name: str) -> DataSet:
        """The same set under another name."""
        return replace(self, name=name)


# --- masks ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class MaskFile:
    """A mask file of any usual kind, as `read_reference` takes it.

    Attributes:
        file: its path, or its bytes.
        name: of the file where only its bytes are here.
    """

    file: Path | bytes
    name: str = ""

    def read(self, size: tuple[int, int], object_ids: Sequence[int]) -> Reference:
        """As `Truth.read`."""
        if isinstance(self.file, bytes):
            return decode_reference(io.BytesIO(self.file), self.name, size, object_ids)
        return read_reference(self.file, size, object_ids)


@dataclass(frozen=True)
class GreyMask:
    """A grey mask, cut at half.

    Attributes:
        file: its path.
    """

    file: Path

    def read(self, size: tuple[int, int], object_ids: Sequence[int]) -> Reference:
        """As `Truth.read`."""
        return resized(read_grey_mask(self.file, str(self.file)), size)


@dataclass(frozen=True)
class LabelMap:
    """A label map whose numbers are known.

    Attributes:
        file: holds the number of each pixel's object.
        classes: a map of the same size with the class of each pixel, from which `object_ids` choose; `file` by default.
        objects: the numbers that count as object; every one but 0 and `void` where empty.
        void: the numbers that are left out of every count, unless they are asked for as objects.
    """

    file: Path
    classes: Path | None = None
    objects: tuple[int, ...] = ()
    void: tuple[int, ...] = (VOID,)

    def read(self, size: tuple[int, int], object_ids: Sequence[int]) -> Reference:
        """As `Truth.read`."""
        labels = read_labels(self.file, str(self.file))
        chosen = labels if self.classes is None or not object_ids else read_labels(self.classes, str(self.classes))
        if chosen.shape != labels.shape:
            raise DataError(f"{self.file} and {self.classes} have different sizes")
        void = np.isin(chosen, [number for number in self.void if number not in object_ids])
        wanted = tuple(object_ids) or self.objects
        inside = np.isin(chosen, wanted) if wanted else labels != 0
        # Label 0 may be asked for, which `reference_of_labels` takes for the background.
        numbered = np.where(inside, labels + (0 in wanted), 0)
        return resized(reference_of_labels(numbered, void, str(self.file)), size)


@dataclass(frozen=True)
class CocoObjects:
    """The annotations of a photo in COCO's format; regions of a crowd are void.

    Attributes:
        name: of the photo, in errors.
        size: (W, H) of the photo as the file says it.
        annotations: with segmentation, category_id and iscrowd.
    """

    name: str
    size: tuple[int, int]
    annotations: tuple[dict[str, Any], ...]

    def read(self, size: tuple[int, int], object_ids: Sequence[int]) -> Reference:
        """As `Truth.read`; `object_ids` are categories. Where objects overlap, the smaller one is on top."""
        labels = np.zeros((self.size[1], self.size[0]), np.int64)
        void, boxes = np.zeros(labels.shape, bool), []
        chosen = [one for one in self.annotations if not object_ids or one["category_id"] in object_ids]
        masks = [(one, coco_mask(one["segmentation"], self.size, self.name)) for one in chosen]
        for number, (annotation, mask) in enumerate(sorted(masks, key=lambda pair: -pair[1].sum()), 1):
            if annotation.get("iscrowd"):
                void |= mask
            elif mask.any():
                labels[mask] = number
                boxes.append(_box_around(mask))
        # A pixel of an object that lies in a crowd too counts as the object's.
        reference = reference_of_labels(labels, void & (labels == 0), f"of {self.name}")
        return resized(replace(reference, boxes=tuple(boxes)), size)


def _box_around(mask: np.ndarray) -> Box:
    rows, columns = (np.flatnonzero(mask.any(axis)) for axis in (1, 0))
    return float(columns[0]), float(rows[0]), float(columns[-1] + 1), float(rows[-1] + 1)


def coco_mask(segmentation: Any, size: tuple[int, int], name: str) -> np.ndarray:
    """The mask (H, W) bool of a COCO segmentation.

    Args:
        segmentation: polygons, or run lengths as numbers or as a text.
        size: (W, H) of the photo.
        name: of the photo, in errors.

    Raises:
        DataError: none of these, or not of this size.
        MissingPackageError: pycocotools is not installed, which polygons and texts need.
    """
    width, height = size
    try:
        if isinstance(segmentation, dict) and isinstance(segmentation["counts"], list):
            mask = mask_of_runs(segmentation["size"], segmentation["counts"])
        else:
            with needs_packages("reading COCO's polygons and run lengths", "pycocotools"):
                from pycocotools import mask as coco
            if isinstance(segmentation, list):
                segmentation = coco.merge(coco.frPyObjects(segmentation, height, width))
            elif list(segmentation["size"]) != [height, width]:
                raise DataError(f"its size is {segmentation['size']} and that of the photo {[height, width]}")
            mask = coco.decode(segmentation).astype(bool)
    except MissingPackageError:
        raise
    except Exception as error:  # the decoder raises plain exceptions
        raise DataError(f"an annotation of {name} is no COCO segmentation: {error}") from error
    if mask.shape != (height, width):
        raise DataError(
            f"an annotation of {name} is of {mask.shape[1]} x {mask.shape[0]} pixels, not {width} x {height}"
        )
    return mask


# --- boxes ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class BoxList:
    """Boxes.

    Attributes:
        boxes: (x0, y0, x1, y1) in pixels of the photo, half-open.
    """

    boxes: tuple[Box, ...]

    def read(self, size: tuple[int, int], object_ids: Sequence[int]) -> Reference:
        """As `Truth.read`."""
        return reference_of_boxes(self.boxes, size, whole=True)


@dataclass(frozen=True)
class XmlBoxes:
    """The boxes of an annotation file in the XML of PASCAL VOC.

    Attributes:
        file: its path.
        first: the number of the first pixel: 1 in PASCAL VOC, whose boxes count pixels from 1 up to and with the last
            one; 0 where boxes are half-open and count from 0.
    """

    file: Path
    first: int

    def read(self, size: tuple[int, int], object_ids: Sequence[int]) -> Reference:
        """As `Truth.read`."""
        return reference_of_boxes(read_xml_boxes(self.file, self.first), size, whole=True)


def read_xml_boxes(file: Path, first: int) -> list[Box]:
    """The half-open boxes of an annotation file, as of `XmlBoxes`.

    Raises:
        DataError: it is missing, no XML, or has an object without a whole box.
    """
    from xml.etree import ElementTree

    try:
        root = ElementTree.fromstring(file.read_bytes())
        found = [[float(one.findtext(f"bndbox/{name}", "")) for name in _CORNERS] for one in root.iter("object")]
    except OSError as error:
        raise DataError(f"{file} cannot be read: {error.strerror}") from error
    except (ElementTree.ParseError, ValueError) as error:
        raise DataError(f"{file} is no XML with the boxes of objects: {error}") from error
    if not found:
        raise DataError(f"{file} marks no object")
    return [(x0 - first, y0 - first, x1, y1) for x0, y0, x1, y1 in found]


_CORNERS = ("xmin", "ymin", "xmax", "ymax")


@dataclass(frozen=True)
class Absent:
    """A reference that is not there, so that its photo is a row with this reason.

    Attributes:
        reason: what is missing, a sentence.
    """

    reason: str

    def read(self, size: tuple[int, int], object_ids: Sequence[int]) -> Reference:
        """Refuse.

        Raises:
            DataError: always, with the reason.
        """
        raise DataError(self.reason)
