"""CUB-200-2011: masks of several people, boxes as x, y, width, height, and its split."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from simpool_viz.errors import DataError, OptionError
from simpool_viz.evaluation.datasets import open_data_set
from simpool_viz.scores.boxes import object_boxes
from tests.evaluation.datasets.trees import rectangle, references, save_mask, save_photo, write_list

NAMES = ("001.Albatross/a.jpg", "002.Auk/b.jpg", "002.Auk/c.jpg")


@pytest.fixture
def birds(tmp_path: Path) -> Path:
    root = tmp_path / "CUB_200_2011"
    write_list(root / "images.txt", *(f"{i} {name}" for i, name in enumerate(NAMES, 1)))
    write_list(root / "train_test_split.txt", "1 0", "2 1", "3 0")
    write_list(root / "bounding_boxes.txt", "1 2.0 3.0 8.0 6.0", "2 0.0 0.0 40.0 24.0")
    for name in NAMES:
        save_photo(root / "images" / name)
        # Three of five people, and one of them alone around it.
        mask = np.maximum(rectangle(2, 3, 20, 15, 51), rectangle(4, 5, 18, 13, 153))
        mask[8, 8] = 255
        save_mask(root / "segmentations" / name.replace("jpg", "png"), mask)
    return tmp_path


def test_masks_are_what_half_of_the_people_say(birds: Path) -> None:
    data = open_data_set(birds)
    assert data.kind == "cub" and [sample.key for sample in data.samples] == [NAMES[0], NAMES[2]]
    for reference in references(data).values():
        assert np.array_equal(reference.objects, rectangle(4, 5, 18, 13) > 0) and not reference.void.any()


def test_boxes_stand_in_where_there_are_no_masks(birds: Path) -> None:
    shutil.rmtree(birds / "CUB_200_2011" / "segmentations")
    one, other = open_data_set(birds).samples
    assert object_boxes(one.reference()).tolist() == [[2, 3, 10, 9]]
    with pytest.raises(DataError, match=r"bounding_boxes\.txt has no box of four numbers for 3"):
        other.reference()
    (train,) = references(open_data_set(birds, split="train")).values()
    assert train.objects.all() and object_boxes(train).tolist() == [[0, 0, 40, 24]]
    assert len(open_data_set(birds, split="all")) == 3
    with pytest.raises(OptionError, match="choose --split test, train or all"):
        open_data_set(birds, split="val")


def test_a_half_present_set_is_told_what_it_lacks(birds: Path) -> None:
    root = birds / "CUB_200_2011"
    (root / "train_test_split.txt").unlink()
    with pytest.raises(DataError, match=r"as CUB-200-2011 it lacks train_test_split\.txt"):
        open_data_set(root)
