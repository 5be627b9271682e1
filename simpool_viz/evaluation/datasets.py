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
    """name, and (image, mask) paths in the order of their names."""

    name: str
    pairs: list[tuple[Path, Path]]


def open_mask_set(folder: Path) -> MaskSet:
    """Pair the files of `images/` and `masks/`.

    Raises:
        DataError: a folder is missing, or an image has no mask.
    """
    images, masks = folder / "images", folder / "masks"
    if not images.is_dir() or not masks.is_dir():
        raise DataError(f"{folder} must hold the folders images/ and masks/, with files of the same names")
    instances = folder / "instances"
    return MaskSet(folder.resolve().name, pair_files(images, instances if instances.is_dir() else masks))


def pair_files(images: Path, masks: Path) -> list[tuple[Path, Path]]:
    """(image, mask) by the stems of their names, in the order of the images' names; spare masks are passed over.

    Raises:
        DataError: no image, or one without a mask.
    """
    by_stem = {path.stem: path for path in _files(masks)}
    paths = _files(images)
    lonely = [path.name for path in paths if path.stem not in by_stem]
    if lonely or not paths:
        raise DataError(
            f"{images} holds no image" if not paths else f"{masks} holds no mask for {', '.join(lonely[:5])}"
        )
    return [(path, by_stem[path.stem]) for path in paths]


def _files(folder: Path) -> list[Path]:
    """The folder's files in the order of their names, without hidden ones such as .DS_Store."""
    return sorted(path for path in folder.iterdir() if path.is_file() and not path.name.startswith("."))
