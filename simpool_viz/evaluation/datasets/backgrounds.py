"""Photos with masks on changed backgrounds, all else as it was, so that the same reference scores their maps.

After ImageNet-9 (Xiao et al., Noise or Signal: The Role of Image Backgrounds in Object Recognition, ICLR 2021, arXiv
2006.09994): the object is cut out by its mask and stays where it is. Composites are made when they are read, the same
at every time.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from PIL import Image, ImageOps

from simpool_viz.errors import DataError, OptionError
from simpool_viz.evaluation.datasets.samples import DataSet, Sample
from simpool_viz.images import Picture
from simpool_viz.scores.references import Reference

FILLED = 256  # px, the longer side at which the place of an object is filled
MARGIN = 0.015  # of the longer side, by which more than the object is filled, so that nothing of its edge remains
BLUR = 1 / 12  # of the shorter side, the sigma of a blurred background

Compose = Callable[[np.ndarray, np.ndarray, np.ndarray | None], np.ndarray]


@dataclass(frozen=True)
class BackgroundKind:
    """How a background is changed.

    Attributes:
        name: as it is given to `--backgrounds`.
        title: what remains of a photo, a phrase.
        compose: of a photo (H, W, 3) uint8, its objects (H, W) bool and another photo without its objects, of any size,
            the composite (H, W, 3) uint8.
        takes_other: whether it needs another photo.
    """

    name: str
    title: str
    compose: Compose
    takes_other: bool = False


def without_objects(rgb: np.ndarray, objects: np.ndarray) -> np.ndarray:
    """A photo whose objects are filled from what surrounds them (Telea, An image inpainting technique, 2004).

    Args:
        rgb: (H, W, 3) uint8.
        objects: (H, W) bool.

    Returns:
        (H, W, 3) uint8, unchanged outside the objects and a narrow margin.

    Raises:
        DataError: nothing surrounds them.
    """
    height, width = objects.shape
    reach = 2 * max(1, round(MARGIN * max(height, width))) + 1
    filled = cv2.dilate(objects.astype(np.uint8), np.ones((reach, reach), np.uint8)).astype(bool)
    if filled.all():
        raise DataError("its objects leave no background from which their place could be filled")
    factor = min(1.0, FILLED / max(height, width))
    size = max(1, round(width * factor)), max(1, round(height * factor))
    small = cv2.resize(rgb, size, interpolation=cv2.INTER_AREA)
    # Every pixel that has a part of the object is filled, so that none of its colour spreads.
    hole = cv2.resize(filled.astype(np.float32), size, interpolation=cv2.INTER_AREA) > 0
    if hole.all():
        raise DataError("its objects leave no background from which their place could be filled")
    given = cv2.inpaint(small, hole.astype(np.uint8), 3, cv2.INPAINT_TELEA)
    large = cv2.resize(given, (width, height), interpolation=cv2.INTER_LINEAR)
    return np.where(filled[..., None], large, rgb)


def _only_foreground(rgb: np.ndarray, objects: np.ndarray, other: np.ndarray | None) -> np.ndarray:
    return np.where(objects[..., None], rgb, 0).astype(np.uint8)


def _blurred(rgb: np.ndarray, objects: np.ndarray, other: np.ndarray | None) -> np.ndarray:
    behind = cv2.GaussianBlur(without_objects(rgb, objects), (0, 0), BLUR * min(objects.shape))
    return np.where(objects[..., None], rgb, behind)


def _mixed(rgb: np.ndarray, objects: np.ndarray, other: np.ndarray | None) -> np.ndarray:
    size = objects.shape[1], objects.shape[0]
    behind = np.asarray(ImageOps.fit(Image.fromarray(np.asarray(other)), size, Image.Resampling.BICUBIC))
    return np.where(objects[..., None], rgb, behind)


def _no_foreground(rgb: np.ndarray, objects: np.ndarray, other: np.ndarray | None) -> np.ndarray:
    return without_objects(rgb, objects)


BACKGROUNDS: dict[str, BackgroundKind] = {
    kind.name: kind
    for kind in (
        BackgroundKind("mixed", "the object on another photo's background", _mixed, takes_other=True),
        BackgroundKind("only_foreground", "the object on black", _only_foreground),
        BackgroundKind("blurred", "the object on its own background, blurred", _blurred),
        BackgroundKind("no_foreground", "the background alone, the object's place filled", _no_foreground),
    )
}


def with_backgrounds(data: DataSet, kind: str, object_ids: Sequence[int] = (), seed: int = 0) -> DataSet:
    """A data set on changed backgrounds: the same photos, keys and references.

    Args:
        data: photos with masks.
        kind: a name of `BACKGROUNDS`.
        object_ids: the labels that count as object, and are cut out.
        seed: of the order in which each photo of "mixed" gets the background of the next.

    Returns:
        Photos that are composed when they are read. One whose composite cannot be made is one that cannot be read.

    Raises:
        OptionError: no such kind.
        DataError: "mixed" of a single photo.

    Examples:
        >>> from simpool_viz.evaluation.datasets.backgrounds import BACKGROUNDS
        >>> list(BACKGROUNDS)
        ['mixed', 'only_foreground', 'blurred', 'no_foreground']
    """
    if kind not in BACKGROUNDS:
        raise OptionError(f"no background is called {kind!r}; there are {', '.join(BACKGROUNDS)}")
    places = data.places()
    if BACKGROUNDS[kind].takes_other and len(places) < 2:
        raise DataError(f"{data.name} is a single photo, and a mixed background is that of another; add a photo")
    order = np.random.default_rng(seed).permutation(len(places))
    next_one = dict(zip(order.tolist(), np.roll(order, -1).tolist(), strict=True))
    samples = []
    for number, (key, place) in enumerate(places):
        other = places[next_one[number]] if BACKGROUNDS[kind].takes_other else None
        samples.append(Composite(key, b"", PlacedTruth(place), place, kind, other, tuple(object_ids)))
    return DataSet(f"{data.name} {kind}", data.kind, samples)


def _sample_at(place: Any) -> Sample:
    """A sample from where it is: itself, or a row of a table."""
    found: Sample = place if isinstance(place, Sample) else place.samples[place.number]
    return found


@dataclass(frozen=True)
class PlacedTruth:
    """The reference of a photo that lies somewhere.

    Attributes:
        place: the photo's sample, or where it stands in a table.
    """

    place: Any

    def read(self, size: tuple[int, int], object_ids: Sequence[int]) -> Reference:
        """As `Truth.read`."""
        return _sample_at(self.place).truth.read(size, object_ids)


@dataclass(frozen=True)
class Composite(Sample):
    """A photo on a changed background, with the photo's own reference.

    Attributes:
        place: where the photo is, as of `PlacedTruth`.
        kind: a name of `BACKGROUNDS`.
        other: key and place of the photo whose background it gets, where it gets one.
        object_ids: the labels that are cut out.
    """

    place: Any = None
    kind: str = ""
    other: tuple[str, Any] | None = None
    object_ids: tuple[int, ...] = ()

    def picture(self) -> Picture:
        """The composite, of the photo's size.

        Raises:
            SimpoolError: one of the photos or masks cannot be read.
            DataError: a photo without background, where that is needed.
        """
        own = _sample_at(self.place).picture()
        objects = self.truth.read(own.size, self.object_ids).objects
        behind = None if self.other is None else self._behind(*self.other)
        return Picture(BACKGROUNDS[self.kind].compose(own.rgb, objects, behind), own.name)

    def _behind(self, key: str, place: Any) -> np.ndarray:
        sample = _sample_at(place)
        picture = sample.picture()
        objects = sample.truth.read(picture.size, self.object_ids).objects
        try:
            return without_objects(picture.rgb, objects)
        except DataError as error:
            raise DataError(f"the background of {key} cannot be taken: {error}") from error
