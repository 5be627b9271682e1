"""Sources of photos: folders by class."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest

from simpool_viz import load_checkpoint
from simpool_viz.errors import DataError, MissingPackageError, OptionError
from simpool_viz.training.data import load_photos
from simpool_viz.training.loop import train
from simpool_viz.training.measure import classify_held_out, find_correct
from simpool_viz.training.sources import open_source, read_classes
from tests.helpers import small_resnet, small_spec, vit_recipe
from tests.photos import CLASSES, shape_photo


def test_folder_of_pictures_by_class_trains(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for split, count in (("train", 24), ("val", 9)):
        for i in range(count):
            folder = tmp_path / "data" / split / CLASSES[i % 3]
            folder.mkdir(parents=True, exist_ok=True)
            shape_photo(CLASSES[i % 3], 70, 50, rng).save(folder / f"{i}.png")
    assert read_classes(tmp_path / "data") == CLASSES and len(open_source(tmp_path / "data", "train")) == 24
    photos = load_photos(tmp_path / "data", "val", tmp_path / "cache", stored=40)
    assert photos.images.shape == (9, 40, 40, 3) and sorted(photos.labels.tolist()) == [0, 0, 0, 1, 1, 1, 2, 2, 2]
    folder = train(vit_recipe(tmp_path / "data", small_spec("gap"), stored=40), tmp_path, tmp_path / "cache")
    assert (
        load_checkpoint(folder, device="cpu").facts.classes == CLASSES
        and "| data | 24 photos" in (folder / "README.md").read_text()
    )


def test_folder_that_holds_nothing_is_told(tmp_path: Path) -> None:
    with pytest.raises(
        ValueError, match=r"holds no train-\*\.parquet; set data=.* or with train/images and train/labels"
    ):
        open_source(tmp_path, "train")
    (tmp_path / "train" / "empty").mkdir(parents=True)
    with pytest.raises(ValueError, match="is no folder of pictures by class"):
        open_source(tmp_path, "train")


@pytest.mark.parametrize("content", ["{", "7", ""])
def test_names_of_classes_that_are_no_list_are_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / "classes.json").write_text(content)
    with pytest.raises(DataError, match=r"classes\.json is not readable as a list of class names"):
        read_classes(tmp_path)


def test_damaged_parquet_is_refused_and_a_missing_reader_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "val-0.parquet").write_bytes(b"no parquet, but long enough to look for its end")
    with pytest.raises(DataError, match="holds a damaged parquet file"):
        open_source(tmp_path, "val")
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(MissingPackageError, match=r"needs the package pyarrow, .* pip install pyarrow"):
        open_source(tmp_path, "val")


def test_held_out_photos_are_classified_in_one_call(tmp_path: Path) -> None:
    rng, encoder = np.random.default_rng(0), small_resnet()
    for i in range(6):
        folder = tmp_path / "val" / CLASSES[i % 3]
        folder.mkdir(parents=True, exist_ok=True)
        shape_photo(CLASSES[i % 3], 70, 50, rng).save(folder / f"{i}.png")
    (tmp_path / "classes.json").write_text(json.dumps(CLASSES))
    (row,) = classify_held_out([encoder], tmp_path)
    photos = load_photos(tmp_path, "val", tmp_path / "cache")
    assert row.encoder is encoder and row.right.tolist() == find_correct([encoder], photos, [64])[0].tolist()
    (tmp_path / "classes.json").write_text('["cat", "dog"]')
    with pytest.raises(OptionError, match="small_simpool knows other classes than"):
        classify_held_out([encoder], tmp_path)
