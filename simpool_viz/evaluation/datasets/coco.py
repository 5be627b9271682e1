"""Annotation files in COCO's format: polygons, run lengths, and regions of a crowd, which are left out of counts.

Lin et al., Microsoft COCO: Common Objects in Context, ECCV 2014. Photos lie beside the file or in a folder of its
split.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from simpool_viz.errors import DataError, OptionError
from simpool_viz.evaluation.datasets.kinds import DataSetKind, register_data_set
from simpool_viz.evaluation.datasets.samples import CocoObjects, Sample

_FILES = ("annotations/instances_*.json", "annotations/*.json", "annotations.json", "instances*.json", "*coco*.json")


def _open_coco(path: Path, split: str) -> list[Sample]:
    file = path if path.is_file() else _file(path, split)
    folder = file.parent.parent if file.parent.name == "annotations" else file.parent
    images, annotations = _content(file)
    of_image: dict[Any, list[dict[str, Any]]] = {}
    for one in annotations:
        of_image.setdefault(one["image_id"], []).append(one)
    place = _place(folder, file, str(images[0]["file_name"]))
    samples = []
    for image in images:
        name = str(image["file_name"])
        truth = CocoObjects(name, (int(image["width"]), int(image["height"])), tuple(of_image.get(image["id"], ())))
        samples.append(Sample(name, place / name, truth))
    return samples


def _file(folder: Path, split: str) -> Path:
    """The annotation file of a split."""
    found = list(dict.fromkeys(path for pattern in _FILES for path in sorted(folder.glob(pattern))))
    if split:
        chosen = [path for path in found if path.stem == split or path.stem.endswith(f"_{split}")]
    else:
        chosen = [path for path in found if "val" in path.stem] or found
    if not chosen:
        raise OptionError(
            f"{folder} has no annotations of {split!r}; there are {', '.join(path.name for path in found)}"
        )
    return chosen[0]


def _content(file: Path) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Its images, and its annotations that have a segmentation."""
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"{file} is not readable as JSON: {error}") from error
    parts = [content.get(name) if isinstance(content, dict) else None for name in ("images", "annotations")]
    if not all(isinstance(part, list) for part in parts):
        raise DataError(f"{file} is no COCO annotation file: it has no lists images and annotations")
    images, annotations = parts[0] or [], parts[1] or []
    try:
        whole = all({"id", "file_name", "width", "height"} <= set(one) for one in images)
        whole = whole and all({"image_id", "segmentation", "category_id"} <= set(one) for one in annotations)
    except TypeError:
        whole = False
    if not whole:
        raise DataError(
            f"{file} is no COCO annotation file: an image has id, file_name, width and height, an annotation image_id, "
            "category_id and segmentation"
        )
    if not images:
        raise DataError(f"{file} names no photo")
    return images, annotations


def _place(folder: Path, file: Path, name: str) -> Path:
    """The folder in which the first photo lies."""
    part = file.stem.rpartition("_")[2]
    tried = [folder / part, folder / "images" / part, folder / "images", folder, file.parent]
    found = next((place for place in tried if (place / name).is_file()), None)
    if found is None:
        raise DataError(f"{file} names the photo {name}, which is in none of {', '.join(map(str, tried))}")
    return found


register_data_set(
    DataSetKind(
        "coco",
        "COCO",
        "annotations/*.json or annotations.json in COCO's format, and the photos in images/, in a folder of the split, "
        "or beside it",
        (_FILES,),
        _open_coco,
        file=".json",
        has_splits=True,
        object_ids="categories by their id",
    )
)
