"""COCO files: polygons, run lengths of both kinds, crowds, categories, and where the photos lie."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from simpool_viz.errors import DataError, OptionError
from simpool_viz.evaluation.datasets import open_data_set
from simpool_viz.mask_files import run_lengths
from simpool_viz.scores.boxes import object_boxes
from tests.evaluation.datasets.trees import SIZE, rectangle, references, save_photo

coco = pytest.importorskip("pycocotools.mask")
SQUARE, BAR, CROWD = rectangle(2, 3, 10, 9), rectangle(20, 5, 30, 20), rectangle(28, 0, 40, 24)


def annotation(segmentation: Any, image: int, category: int = 1, crowd: int = 0) -> dict[str, Any]:
    return {"image_id": image, "segmentation": segmentation, "category_id": category, "iscrowd": crowd}


def polygon(x0: int, y0: int, x1: int, y1: int) -> list[list[int]]:
    return [[x0, y0, x1, y0, x1, y1, x0, y1]]


def write_coco(path: Path, annotations: list[dict[str, Any]], images: int = 2) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    listed = [{"id": i, "file_name": f"{i}.jpg", "width": SIZE[0], "height": SIZE[1]} for i in range(1, images + 1)]
    path.write_text(json.dumps({"images": listed, "annotations": annotations, "categories": []}))


def compressed(mask: np.ndarray) -> dict[str, Any]:
    runs = coco.encode(np.asfortranarray(mask))
    return {"size": runs["size"], "counts": runs["counts"].decode()}


@pytest.mark.parametrize(
    ("file", "photos"),
    [
        ("annotations/instances_val2017.json", "val2017"),
        ("annotations/instances_val2017.json", "images/val2017"),
        ("annotations.json", "images"),
        ("_annotations.coco.json", "."),
    ],
)
def test_every_kind_of_segmentation_is_that_mask_and_crowds_are_void(tmp_path: Path, file: str, photos: str) -> None:
    write_coco(
        tmp_path / file,
        [
            annotation(polygon(2, 3, 10, 9), 1, category=17),
            annotation(run_lengths(BAR > 0), 1, category=18),
            annotation(run_lengths(CROWD > 0), 1, category=18, crowd=1),
            annotation(compressed(BAR), 2),
        ],
    )
    for i in (1, 2):
        save_photo(tmp_path / photos / f"{i}.jpg")
    data = open_data_set(tmp_path)
    assert data.kind == "coco"
    one, other = references(data).values()
    assert np.array_equal(one.objects, SQUARE + BAR > 0) and len(one.instances) == 2
    assert np.array_equal(one.void, (CROWD > 0) & (BAR == 0)), "an object in a crowd counts"
    assert object_boxes(one).tolist() == [[20, 5, 30, 20], [2, 3, 10, 9]]
    assert np.array_equal(other.objects, BAR > 0) and not other.void.any()
    chosen = open_data_set(tmp_path, object_ids=[17]).samples[0].reference(object_ids=[17])
    assert np.array_equal(chosen.objects, SQUARE > 0) and not chosen.void.any()
    with pytest.raises(ValueError, match="marks no object"):
        data.samples[1].reference(object_ids=[17])


def test_hidden_objects_keep_their_boxes_and_the_smaller_is_on_top(tmp_path: Path) -> None:
    save_photo(tmp_path / "images" / "1.jpg")
    write_coco(
        tmp_path / "annotations.json",
        [annotation(polygon(2, 3, 10, 9), 1), annotation(polygon(0, 0, 20, 20), 1)],
        images=1,
    )
    (reference,) = references(open_data_set(tmp_path)).values()
    assert object_boxes(reference).tolist() == [[0, 0, 20, 20], [2, 3, 10, 9]]
    assert sorted(int(one.sum()) for one in reference.instances) == [48, 352]


def test_faults_of_the_file_and_of_an_annotation_are_explained(tmp_path: Path) -> None:
    path = tmp_path / "annotations.json"
    path.write_text("{")
    with pytest.raises(DataError, match="not readable as JSON"):
        open_data_set(tmp_path)
    path.write_text('{"images": []}')
    with pytest.raises(DataError, match="it has no lists images and annotations"):
        open_data_set(tmp_path)
    path.write_text('{"images": [{"id": 1}], "annotations": []}')
    with pytest.raises(DataError, match="an image has id, file_name, width and height"):
        open_data_set(tmp_path)
    wrong = [{"size": [3, 3], "counts": [9]}, {"size": [24, 40], "counts": [1]}, "text", [[1, 2]]]
    write_coco(path, [annotation(one, i) for i, one in enumerate(wrong, 1)], images=len(wrong) + 1)
    with pytest.raises(DataError, match=r"names the photo 1\.jpg, which is in none of"):
        open_data_set(tmp_path)
    save_photo(tmp_path / "images" / "1.jpg")
    for sample in open_data_set(tmp_path).samples:
        with pytest.raises(ValueError, match=r"an annotation of|marks no object"):
            sample.truth.read(SIZE, ())
    with pytest.raises(OptionError, match=r"has no annotations of 'train'; there are annotations\.json"):
        open_data_set(tmp_path, split="train")
