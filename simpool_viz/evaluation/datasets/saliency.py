"""Sets of salient objects: pictures as JPEG and grey masks as PNG, of the same names.

Their folders are called in many ways: DUTS-TE-Image and DUTS-TE-Mask (Wang et al., CVPR 2017), images and
ground_truth_mask (ECSSD, Shi et al., TPAMI 2016), Imgs and GT, or both lie in one. Masks are cut at half.
"""

from __future__ import annotations

from pathlib import Path

from simpool_viz.batch.preparing import SUFFIXES
from simpool_viz.evaluation.datasets.kinds import DataSetKind, register_data_set
from simpool_viz.evaluation.datasets.pairs import files_below, paired_below
from simpool_viz.evaluation.datasets.samples import GreyMask, Sample

_IMAGES = ("*-Image", "*-image", "Image", "Images", "image", "images", "Imgs", "imgs")
_MASKS = ("*-Mask", "*-mask", "Mask", "Masks", "mask", "masks", "GT", "gt", "ground_truth*")


def _first(folder: Path, patterns: tuple[str, ...]) -> Path:
    return next(path for pattern in patterns for path in sorted(folder.glob(pattern)) if path.is_dir())


def _open_salient(folder: Path, split: str) -> list[Sample]:
    masks = _first(folder, _MASKS)
    pictures = files_below(_first(folder, _IMAGES))
    return paired_below(_pictures(pictures), files_below(masks), masks, GreyMask)


def _open_beside(folder: Path, split: str) -> list[Sample]:
    pictures, masks = (
        {
            path.name: path
            for path in sorted(folder.iterdir())
            if path.suffix.lower() in suffixes and path.name[0] != "."
        }
        for suffixes in ((".jpg", ".jpeg"), (".png",))
    )
    return paired_below(pictures, masks, folder, GreyMask)


def _pictures(files: dict[str, Path]) -> dict[str, Path]:
    """Those files that are pictures and, where some are JPEG, no maps beside them."""
    found = {below: path for below, path in files.items() if path.suffix.lower() in SUFFIXES}
    photos = {below: path for below, path in found.items() if path.suffix.lower() in (".jpg", ".jpeg")}
    return photos or found


register_data_set(
    DataSetKind(
        "saliency",
        "a set of salient objects",
        "a folder of pictures, such as DUTS-TE-Image/, images/ or Imgs/, and one of grey masks of the same names, such "
        "as DUTS-TE-Mask/, ground_truth_mask/ or GT/",
        (_IMAGES, _MASKS),
        _open_salient,
        ("DUTS-*", "ECSSD"),
    )
)
register_data_set(
    DataSetKind(
        "saliency_beside",
        "a set of salient objects in one folder",
        "*.jpg and *.png of the same names in one folder",
        (("*.jpg", "*.jpeg"), ("*.png",)),
        _open_beside,
    )
)
