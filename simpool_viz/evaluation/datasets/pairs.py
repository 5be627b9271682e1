"""Folders of images and masks of the same names: `images/` with `masks/`, paired by their paths without suffix.

Where there is also `instances/`, label maps with a number for each object, those are the references: their objects
together are the mask, and each by itself counts for DINO's Jaccard score.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from simpool_viz.errors import DataError
from simpool_viz.evaluation.datasets.kinds import DataSetKind, register_data_set
from simpool_viz.evaluation.datasets.samples import Absent, DataSet, MaskFile, Sample, Truth
from simpool_viz.outputs import printable


def set_of_pairs(name: str, pairs: Iterable[tuple[Path, Path]]) -> DataSet:
    """A data set of (image, mask) files, whose keys are the images' names."""
    return DataSet(name, "pairs", [Sample(image.name, image, MaskFile(mask)) for image, mask in pairs])


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


def files_below(folder: Path) -> dict[str, Path]:
    """The files in a folder and its subfolders by their path below it, in its order, without what is hidden."""
    found = {}
    for path in sorted(folder.rglob("*")):
        below = path.relative_to(folder)
        if not any(part.startswith(".") for part in below.parts) and path.is_file():
            found[below.as_posix()] = path
    return found


def paired_below(images: dict[str, Path], masks: dict[str, Path], where: Path, truth: type = MaskFile) -> list[Sample]:
    """Samples of images and masks whose paths without suffix are the same.

    Args:
        images: by path below their folder.
        masks: likewise.
        where: the folder of masks, in messages.
        truth: what a mask file is made to.

    Returns:
        In the order of the images; one without a mask has a reference that says so.

    Raises:
        DataError: none of the images has a mask.
    """
    by_stem = {_stem(below): path for below, path in masks.items()}
    samples, there = [], 0
    for below, path in images.items():
        mask = by_stem.get(_stem(below))
        there += mask is not None
        own: Truth = Absent(f"{where} holds no mask for {printable(below)}") if mask is None else truth(mask)
        samples.append(Sample(printable(below), path, own))
    if images and not there:
        example = next(iter(images))
        raise DataError(
            f"{where} holds no mask for any of the {len(images)} images, such as {example}; a mask has the name of its "
            f"image, with any suffix. It holds {', '.join(list(masks)[:5]) or 'no file'}"
        )
    return samples


def _stem(below: str) -> str:
    return str(Path(below).with_suffix(""))


def _open_pairs(folder: Path, split: str) -> list[Sample]:
    images = files_below(folder / "images")
    if not images:
        raise DataError(f"{folder / 'images'} holds no image")
    masks = folder / ("instances" if (folder / "instances").is_dir() else "masks")
    return paired_below(images, files_below(masks), masks)


register_data_set(
    DataSetKind(
        "pairs",
        "a folder of images and masks",
        "images/ and masks/ with files of the same names, and perhaps instances/ with a number for each object",
        (("images",), ("masks", "instances")),
        _open_pairs,
        object_ids="the labels of the masks",
    )
)
