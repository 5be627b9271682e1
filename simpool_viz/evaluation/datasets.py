"""Data sets of photos with reference masks: a folder with `images/` and `masks/`, paired by file stem.

Where it also holds `instances/`, label maps with a number for each object, those are the references: their objects
together are the mask, and each by itself counts for DINO's Jaccard score.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from simpool_viz.errors import DataError


@dataclass(frozen=True)
class MaskSet:
    """A data set of photos with masks.

    Attributes:
        name: of its folder.
        pairs: paths of (image, mask), in the order of the images' names.
    """

    name: str
    pairs: list[tuple[Path, Path]]


def open_mask_set(folder: Path) -> MaskSet:
    """Pair the files of `images/` with those of `masks/`, or of `instances/` where that folder exists.

    Args:
        folder: of the data set.

    Raises:
        DataError: a folder is missing, or an image has no mask.
    """
    images, masks = folder / "images", folder / "masks"
    if not images.is_dir() or not masks.is_dir():
        raise DataError(f"{folder} must hold the folders images/ and masks/, with files of the same names")
    instances = folder / "instances"
    return MaskSet(folder.resolve().name, pair_files(images, instances if instances.is_dir() else masks))


def pair_files(images: Path, masks: Path) -> list[tuple[Path, Path]]:
    """Pair images and masks whose file names have the same stem; masks without an image are ignored.

    Args:
        images: folder of images.
        masks: folder of masks.

    Returns:
        Paths of (image, mask), in the order of the images' names.

    Raises:
        DataError: no image, or one without a mask.
    """
    by_stem = {path.stem: path for path in _files(masks)}
    paths = _files(images)
    unpaired = [path.name for path in paths if path.stem not in by_stem]
    if unpaired or not paths:
        raise DataError(
            f"{images} holds no image" if not paths else f"{masks} holds no mask for {', '.join(unpaired[:5])}"
        )
    return [(path, by_stem[path.stem]) for path in paths]


def _files(folder: Path) -> list[Path]:
    """The folder's files in the order of their names, without hidden ones such as .DS_Store."""
    return sorted(path for path in folder.iterdir() if path.is_file() and not path.name.startswith("."))
