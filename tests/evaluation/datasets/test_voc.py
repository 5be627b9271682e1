"""PASCAL VOC as it unpacks: objects, classes, void borders, boxes that count from 1, and lists."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from simpool_viz.errors import DataError, OptionError
from simpool_viz.evaluation.datasets import open_data_set
from simpool_viz.scores.boxes import object_boxes
from tests.evaluation.datasets.trees import rectangle, references, save_mask, save_photo, write_list, write_xml


@pytest.fixture
def voc(tmp_path: Path) -> Path:
    root = tmp_path / "VOCdevkit" / "VOC2012"
    for name in ("2007_1", "2007_2"):
        save_photo(root / "JPEGImages" / f"{name}.jpg")
    objects = rectangle(2, 3, 10, 9, 1) + rectangle(20, 5, 30, 20, 2)
    classes = rectangle(2, 3, 10, 9, 8) + rectangle(20, 5, 30, 20, 15)
    for array in (objects, classes):
        array[5:20, 30] = 255  # a void border
    save_mask(root / "SegmentationObject" / "2007_1.png", objects, palette=True)
    save_mask(root / "SegmentationClass" / "2007_1.png", classes, palette=True)
    # Two values alone: 255 is void all the same.
    save_mask(root / "SegmentationObject" / "2007_2.png", rectangle(0, 0, 5, 5, 255), palette=True)
    save_mask(root / "SegmentationClass" / "2007_2.png", rectangle(0, 0, 5, 5, 255), palette=True)
    write_list(root / "ImageSets" / "Segmentation" / "val.txt", "2007_1")
    write_list(root / "ImageSets" / "Segmentation" / "train.txt", "2007_2")
    write_list(root / "ImageSets" / "Main" / "val.txt", "2007_1")
    write_xml(root / "Annotations" / "2007_1.xml", (3, 4, 10, 9), (1, 1, 40, 24))
    return tmp_path


@pytest.mark.parametrize("below", [".", "VOCdevkit", "VOCdevkit/VOC2012"])
def test_objects_are_numbered_and_borders_are_void_wherever_it_unpacks(voc: Path, below: str) -> None:
    data = open_data_set(voc / below)
    assert data.kind == "voc"
    (reference,) = references(data).values()
    assert np.array_equal(reference.objects, (rectangle(2, 3, 10, 9) + rectangle(20, 5, 30, 20)) > 0)
    assert np.array_equal(reference.void, rectangle(30, 5, 31, 20) > 0)
    assert object_boxes(reference).tolist() == [[2, 3, 10, 9], [20, 5, 30, 20]]


def test_object_ids_are_classes(voc: Path) -> None:
    (reference,) = references(open_data_set(voc, object_ids=[15]), 15).values()
    assert np.array_equal(reference.objects, rectangle(20, 5, 30, 20) > 0)
    assert np.array_equal(reference.void, rectangle(30, 5, 31, 20) > 0)


def test_a_split_is_its_list_and_a_mask_of_void_alone_marks_no_object(voc: Path) -> None:
    data = open_data_set(voc, split="train")
    assert [sample.key for sample in data.samples] == ["2007_2"] and data.name.endswith(" train")
    with pytest.raises(ValueError, match="marks no object"):
        data.samples[0].reference()
    with pytest.raises(OptionError, match=r"has no list test\.txt; choose --split train, val"):
        open_data_set(voc, split="test")


def test_boxes_count_from_one_and_may_cover_the_picture(voc: Path) -> None:
    (reference,) = references(open_data_set(voc, "voc_boxes")).values()
    assert object_boxes(reference).tolist() == [[2, 3, 10, 9], [0, 0, 40, 24]]
    assert reference.objects.all() and np.array_equal(reference.instances[0], rectangle(2, 3, 10, 9) > 0)


def test_a_half_present_set_is_told_what_it_lacks(voc: Path) -> None:
    root = voc / "VOCdevkit" / "VOC2012"
    for path in (root / "SegmentationClass").iterdir():
        path.unlink()
    (root / "SegmentationClass").rmdir()
    (root / "ImageSets" / "Main" / "val.txt").unlink()
    with pytest.raises(DataError) as refused:
        open_data_set(root)
    text = str(refused.value)
    assert "as PASCAL VOC with masks it lacks SegmentationClass" in text
    assert "as PASCAL VOC with boxes it lacks ImageSets/Main/*.txt" in text
    assert "Found: Annotations/, ImageSets/, JPEGImages/, SegmentationObject/." in text


def test_a_torn_or_missing_annotation_is_a_reason(voc: Path) -> None:
    xml = voc / "VOCdevkit" / "VOC2012" / "Annotations" / "2007_1.xml"
    (sample,) = open_data_set(voc, "voc_boxes").samples
    for content, reason in (
        ("<annotation><object>", "is no XML with the boxes of objects"),
        ("<annotation><object><name>cat</name></object></annotation>", "is no XML with the boxes of objects"),
        ("<annotation></annotation>", "marks no object"),
    ):
        xml.write_text(content)
        with pytest.raises(DataError, match=reason):
            sample.reference()
    xml.unlink()
    with pytest.raises(DataError, match=r"2007_1\.xml cannot be read"):
        sample.reference()
