"""ImageNet-style folders with boxes: pictures in folders of classes, and an XML file of the same name for each.

Russakovsky et al., ImageNet Large Scale Visual Recognition Challenge, IJCV 2015. Pictures without an XML file, as most
of ImageNet's training photos are, are no part of the set. Boxes are taken as half-open.
"""

from __future__ import annotations

from pathlib import Path

from simpool_viz.batch.preparing import SUFFIXES
from simpool_viz.errors import DataError, OptionError
from simpool_viz.evaluation.datasets.kinds import DataSetKind, register_data_set
from simpool_viz.evaluation.datasets.pairs import files_below
from simpool_viz.evaluation.datasets.samples import Sample, XmlBoxes
from simpool_viz.outputs import printable

_PICTURES = ("Data/CLS-LOC", "images", ".")
_BOXES = ("Annotations/CLS-LOC", "Annotations", "annotations", "bboxes", "bbox")
_SPLITS = ("val", "train")


def _open_classes(folder: Path, split: str) -> list[Sample]:
    boxes = next(folder / name for name in _BOXES if (folder / name).is_dir())
    pictures = next(folder / name for name in _PICTURES if (folder / name).is_dir())
    there = [name for name in _SPLITS if (pictures / name).is_dir()]
    if split and split not in there:
        raise OptionError(f"{pictures} has no split {split!r}; choose --split {' or '.join(there) or '(it has none)'}")
    part = split or next(iter(there), "")
    boxes = boxes / part if part and (boxes / part).is_dir() else boxes
    by_stem = {path.stem: path for path in files_below(boxes).values() if path.suffix == ".xml"}
    found = {
        below: path
        for below, path in files_below(pictures / part).items()
        if path.suffix.lower() in SUFFIXES and path.stem in by_stem
    }
    if not found:
        raise DataError(
            f"none of the pictures in {pictures / part} has a file of its name in {boxes}, which holds {len(by_stem)} "
            "XML files"
        )
    return [Sample(printable(below), path, XmlBoxes(by_stem[path.stem], 0)) for below, path in found.items()]


register_data_set(
    DataSetKind(
        "imagenet",
        "an ImageNet-style folder with boxes",
        "Data/CLS-LOC/val, or images/ or val/, with pictures, and Annotations/ or bbox/ with XML files of their names",
        (
            ("Data/CLS-LOC", "val", "train", "images"),
            tuple(f"{name}/**/*.xml" for name in _BOXES[1:]),
        ),
        _open_classes,
        ("ILSVRC", "*/ILSVRC"),
        has_splits=True,
    )
)
