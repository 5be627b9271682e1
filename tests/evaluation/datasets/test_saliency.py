"""Sets of salient objects: every usual name of the two folders, masks cut at half."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from simpool_viz.errors import DataError
from simpool_viz.evaluation.datasets import open_data_set
from tests.evaluation.datasets.trees import rectangle, references, save_mask, save_photo


@pytest.mark.parametrize(
    ("images", "masks"),
    [
        ("DUTS-TE/DUTS-TE-Image", "DUTS-TE/DUTS-TE-Mask"),
        ("DUTS-TE-Image", "DUTS-TE-Mask"),
        ("images", "ground_truth_mask"),
        ("Imgs", "GT"),
        ("Imgs", "Imgs2/../GT"),
        (".", "."),
    ],
)
def test_grey_masks_are_cut_at_half_whatever_the_folders_are_called(tmp_path: Path, images: str, masks: str) -> None:
    if "Imgs2" in masks:
        (tmp_path / "Imgs2").mkdir()
    for name in ("a", "b"):
        save_photo(tmp_path / images / f"{name}.jpg")
        soft = np.maximum(rectangle(2, 3, 20, 15, 127), rectangle(4, 5, 18, 13, 128))
        save_mask(tmp_path / masks / f"{name}.png", soft)
    data = open_data_set(tmp_path)
    assert data.kind.startswith("saliency") and [sample.key for sample in data.samples] == ["a.jpg", "b.jpg"]
    for reference in references(data).values():
        assert np.array_equal(reference.objects, rectangle(4, 5, 18, 13) > 0)


def test_masks_of_one_and_faulty_ones(tmp_path: Path) -> None:
    for name in ("a", "b", "c", "d"):
        save_photo(tmp_path / "Imgs" / f"{name}.jpg")
    save_mask(tmp_path / "GT" / "a.png", rectangle(4, 5, 18, 13, 1))
    save_mask(tmp_path / "GT" / "b.png", rectangle(0, 0, 0, 0))
    save_mask(tmp_path / "GT" / "c.png", rectangle(1, 1, 5, 5, 255, (24, 40)))
    Image.new("RGB", (40, 24), (200, 10, 10)).save(tmp_path / "GT" / "d.png")
    a, b, c, d = open_data_set(tmp_path).samples
    assert np.array_equal(a.reference().objects, rectangle(4, 5, 18, 13) > 0)
    for sample, reason in ((b, "marks no object"), (c, "belongs to another picture or is turned"), (d, "colour")):
        with pytest.raises(ValueError, match=reason):
            sample.reference()
    (tmp_path / "GT").rename(tmp_path / "somewhere")
    with pytest.raises(DataError, match=r"as a set of salient objects it lacks .*GT"):
        open_data_set(tmp_path)
