"""ImageNet-style folders: pictures by class, boxes in XML files of the same names."""

from __future__ import annotations

from pathlib import Path

import pytest

from simpool_viz.errors import DataError, OptionError
from simpool_viz.evaluation.datasets import open_data_set
from simpool_viz.scores.boxes import object_boxes
from tests.evaluation.datasets.trees import references, save_photo, write_xml


@pytest.mark.parametrize(
    ("pictures", "boxes"),
    [
        ("ILSVRC/Data/CLS-LOC/val", "ILSVRC/Annotations/CLS-LOC/val"),
        ("val/n01", "Annotations/val/n01"),
        ("images/val/n01", "bbox"),
    ],
)
def test_boxes_are_half_open_from_zero_in_every_layout(tmp_path: Path, pictures: str, boxes: str) -> None:
    for name in ("x_1", "x_2", "x_3"):
        save_photo(tmp_path / pictures / f"{name}.JPEG")
    write_xml(tmp_path / boxes / "x_1.xml", (0, 0, 10, 5), (4, 2, 8, 4))
    write_xml(tmp_path / boxes / "x_2.xml", (0, 0, 40, 24))
    data = open_data_set(tmp_path)
    assert data.kind == "imagenet"
    one, other = references(data).values()
    assert object_boxes(one).tolist() == [[0, 0, 10, 5], [4, 2, 8, 4]], "also where one lies in another"
    assert one.objects.sum() == 50 and other.objects.all()
    with pytest.raises(OptionError, match="has no split 'train'"):
        open_data_set(tmp_path, split="train")


def test_boxes_of_other_pictures_are_explained(tmp_path: Path) -> None:
    save_photo(tmp_path / "val" / "n01" / "x_1.JPEG")
    write_xml(tmp_path / "Annotations" / "y.xml", (0, 0, 10, 5))
    with pytest.raises(DataError, match=r"none of the pictures in .*val has a file of its name in .*holds 1 XML files"):
        open_data_set(tmp_path)
