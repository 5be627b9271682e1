"""Sets of photos and masks: paired by stem, or refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from simpool_viz.evaluation.datasets import MaskSet, open_mask_set
from tests.helpers import make_mask_set


def test_photos_and_masks_are_paired_by_stem_in_the_order_of_names(data: MaskSet) -> None:
    assert data.name == "discs"
    assert [(i.name, m.name) for i, m in data.pairs] == [
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
    found = open_mask_set(Path("."))
    assert len(found.pairs) == 4 and found.name == "discs"


def test_folder_that_is_no_mask_set_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"must hold the folders images/ and masks/"):
        open_mask_set(tmp_path)
    make_mask_set(tmp_path / "discs")
    (tmp_path / "discs" / "masks" / "1.png").unlink()
    with pytest.raises(ValueError, match=r"masks holds no mask for 1\.jpg"):
        open_mask_set(tmp_path / "discs")
    for kind in ("images", "masks"):
        (tmp_path / "empty" / kind).mkdir(parents=True)
    with pytest.raises(ValueError, match="images holds no image"):
        open_mask_set(tmp_path / "empty")
