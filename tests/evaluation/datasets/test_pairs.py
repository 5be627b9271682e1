"""Folders of images and masks: paired by their paths, subfolders too, or refused with what was found."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from simpool_viz.errors import DataError
from simpool_viz.evaluation.datasets import DataSet, open_data_set, pair_files
from tests.evaluation.datasets.trees import rectangle, references, save_mask, save_photo
from tests.helpers import make_mask_set


def test_photos_and_masks_are_paired_by_stem_in_the_order_of_names(data: DataSet) -> None:
    assert data.name == "discs" and data.kind == "pairs"
    assert [(sample.key, sample.truth.file.name) for sample in data.samples] == [  # type: ignore[attr-defined]
        ("0.jpg", "0.png"),
        ("1.jpg", "1.png"),
        ("2.jpg", "2.bmp"),
        ("3.jpg", "3.png"),
    ]


def test_hidden_files_and_spare_masks_are_passed_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_mask_set(tmp_path / "discs")
    (tmp_path / "discs" / "images" / ".DS_Store").touch()
    (tmp_path / "discs" / "images" / "thumbnails").mkdir()
    (tmp_path / "discs" / "masks" / "spare.png").touch()
    monkeypatch.chdir(tmp_path / "discs")
    found = open_data_set(Path("."))
    assert len(found) == 4 and found.name == "discs"


def test_subfolders_are_paired_by_their_paths(tmp_path: Path) -> None:
    for name, box in (("cats/1", (0, 0, 10, 5)), ("dogs/1", (20, 10, 30, 20))):
        save_photo(tmp_path / "images" / f"{name}.jpg")
        save_mask(tmp_path / "masks" / f"{name}.png", rectangle(*box, 255))
    found = references(open_data_set(tmp_path))
    assert list(found) == ["cats/1.jpg", "dogs/1.jpg"]
    assert np.array_equal(found["cats/1.jpg"].objects, rectangle(0, 0, 10, 5) > 0)
    assert np.array_equal(found["dogs/1.jpg"].objects, rectangle(20, 10, 30, 20) > 0)


def test_a_photo_without_a_mask_is_kept_with_its_reason(tmp_path: Path) -> None:
    folder = make_mask_set(tmp_path / "discs")
    (folder / "masks" / "1.png").unlink()
    found = open_data_set(folder)
    assert len(found) == 4
    with pytest.raises(DataError, match=r"masks holds no mask for 1\.jpg"):
        found.samples[1].reference()
    with pytest.raises(DataError, match=r"masks holds no mask for 1\.jpg"):
        pair_files(folder / "images", folder / "masks")


def test_a_half_folder_is_explained(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    with pytest.raises(DataError, match=r"as a folder of images and masks it lacks masks or instances.*Found: images/"):
        open_data_set(tmp_path)
    (tmp_path / "masks").mkdir()
    with pytest.raises(DataError, match="images holds no image"):
        open_data_set(tmp_path)
    save_photo(tmp_path / "images" / "a.jpg")
    save_mask(tmp_path / "masks" / "b.png", rectangle(0, 0, 5, 5))
    with pytest.raises(DataError, match=r"no mask for any of the 1 images, such as a\.jpg.*It holds b\.png"):
        open_data_set(tmp_path)
