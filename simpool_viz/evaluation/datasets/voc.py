"""PASCAL VOC 2012 as it unpacks: masks of objects, or boxes.

Everingham et al., The PASCAL Visual Object Classes Challenge, IJCV 2010. Object masks number each object, and 255 is
the void border; `object_ids` are classes, of the class masks. Boxes count pixels from 1.
"""

from __future__ import annotations

from pathlib import Path

from simpool_viz.errors import DataError, OptionError
from simpool_viz.evaluation.datasets.kinds import DataSetKind, register_data_set
from simpool_viz.evaluation.datasets.samples import LabelMap, Sample, Truth, XmlBoxes

PLACES = ("VOC20*", "VOCdevkit/VOC20*", "*/VOCdevkit/VOC20*")


def names_of_split(folder: Path, split: str, default: str) -> list[str]:
    """The first words of the lines of a list file, such as ImageSets/Segmentation/val.txt.

    Args:
        folder: of the lists.
        split: the list's name without suffix; where empty, `default`, or the only list.
        default: the usual one.

    Raises:
        OptionError: there is no such list.
        DataError: it is empty.
    """
    lists = {path.stem: path for path in sorted(folder.glob("*.txt"))}
    wanted = split or (default if default in lists or len(lists) != 1 else next(iter(lists)))
    if wanted not in lists:
        raise OptionError(f"{folder} has no list {wanted}.txt; choose --split {', '.join(lists) or '(it has none)'}")
    names = [line.split()[0] for line in lists[wanted].read_text(encoding="utf-8").splitlines() if line.split()]
    names = [name for name in names if not name.startswith("#")]
    if not names:
        raise DataError(f"{lists[wanted]} names no photo")
    return list(dict.fromkeys(names))


def _open_masks(folder: Path, split: str) -> list[Sample]:
    def truth(name: str) -> Truth:
        classes = folder / "SegmentationClass" / f"{name}.png"
        return LabelMap(folder / "SegmentationObject" / f"{name}.png", classes)

    names = names_of_split(folder / "ImageSets" / "Segmentation", split, "val")
    return [Sample(name, folder / "JPEGImages" / f"{name}.jpg", truth(name)) for name in names]


def _open_boxes(folder: Path, split: str) -> list[Sample]:
    names = names_of_split(folder / "ImageSets" / "Main", split, "val")
    return [
        Sample(name, folder / "JPEGImages" / f"{name}.jpg", XmlBoxes(folder / "Annotations" / f"{name}.xml", 1))
        for name in names
    ]


register_data_set(
    DataSetKind(
        "voc",
        "PASCAL VOC with masks",
        "JPEGImages/, SegmentationObject/, SegmentationClass/ and ImageSets/Segmentation/*.txt",
        (("JPEGImages",), ("SegmentationObject",), ("SegmentationClass",), ("ImageSets/Segmentation/*.txt",)),
        _open_masks,
        PLACES,
        has_splits=True,
        object_ids="classes, 1 to 20",
    )
)
register_data_set(
    DataSetKind(
        "voc_boxes",
        "PASCAL VOC with boxes",
        "JPEGImages/, Annotations/*.xml and ImageSets/Main/*.txt",
        (("JPEGImages",), ("Annotations/*.xml",), ("ImageSets/Main/*.txt",)),
        _open_boxes,
        PLACES,
        has_splits=True,
    )
)
