"""Trimaps of the Oxford-IIIT Pet data set: the pet is the object, its border is left out, unless asked otherwise."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from simpool_viz.errors import OptionError
from simpool_viz.evaluation.datasets import open_data_set
from tests.evaluation.datasets.trees import rectangle, references, save_mask, save_photo, write_list

PET, BORDER = rectangle(6, 5, 20, 15), rectangle(4, 3, 22, 17) - rectangle(6, 5, 20, 15)


@pytest.fixture
def pets(tmp_path: Path) -> Path:
    trimap = 2 * np.ones_like(PET) - PET + BORDER  # 1 pet, 2 background, 3 border
    for name in ("Abyssinian_1", "beagle_2"):
        save_photo(tmp_path / "images" / f"{name}.jpg")
        save_mask(tmp_path / "annotations" / "trimaps" / f"{name}.png", trimap)
    (tmp_path / "annotations" / "trimaps" / "._beagle_2.png").touch()
    return tmp_path


def test_pet_border_and_background(pets: Path) -> None:
    data = open_data_set(pets)
    assert data.kind == "pets" and len(data) == 2
    for reference in references(data).values():
        assert np.array_equal(reference.objects, PET > 0) and np.array_equal(reference.void, BORDER > 0)


def test_object_ids_choose_others(pets: Path) -> None:
    for reference in references(open_data_set(pets, object_ids=[1, 3]), 1, 3).values():
        assert np.array_equal(reference.objects, PET + BORDER > 0) and not reference.void.any()
    for reference in references(open_data_set(pets), 2).values():
        assert np.array_equal(reference.objects, PET + BORDER == 0) and np.array_equal(reference.void, BORDER > 0)


def test_the_list_of_a_split_is_followed(pets: Path) -> None:
    write_list(pets / "annotations" / "test.txt", "#Image CLASS-ID", "beagle_2 2 2 1")
    assert [sample.key for sample in open_data_set(pets).samples] == ["beagle_2"]
    with pytest.raises(OptionError, match=r"has no list trainval\.txt"):
        open_data_set(pets, split="trainval")
