"""The registry of data sets: a folder is what it holds, or it is told what it lacks."""

from __future__ import annotations

from pathlib import Path

import pytest

from simpool_viz.errors import DataError, OptionError
from simpool_viz.evaluation.datasets import data_set_kinds, open_data_set
from tests.evaluation.datasets.trees import rectangle, save_mask, save_photo
from tests.helpers import make_mask_set


def test_a_folder_of_no_kind_is_told_what_it_holds_and_every_kind_that_is_known(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").touch()
    with pytest.raises(DataError) as refused:
        open_data_set(tmp_path)
    text = str(refused.value)
    assert "Found: notes.txt." in text and all(f"{name}: " in text for name in data_set_kinds())
    with pytest.raises(DataError, match="there is no folder"):
        open_data_set(tmp_path / "nowhere")
    with pytest.raises(DataError, match=r"is no data set of a known kind\. It is a file \.txt"):
        open_data_set(tmp_path / "notes.txt")


@pytest.mark.parametrize("kind", data_set_kinds())
def test_an_empty_folder_is_told_what_each_kind_would_hold(tmp_path: Path, kind: str) -> None:
    with pytest.raises(DataError) as refused:
        open_data_set(tmp_path, kind)
    assert data_set_kinds()[kind].layout in str(refused.value) and "Found: nothing." in str(refused.value)


def test_the_kind_can_be_said_where_a_folder_is_of_several(tmp_path: Path) -> None:
    save_photo(tmp_path / "images" / "a.jpg")
    save_mask(tmp_path / "masks" / "a.png", rectangle(0, 0, 5, 5, 1) + rectangle(20, 5, 30, 9, 2))
    assert open_data_set(tmp_path).kind == "pairs"
    assert len(open_data_set(tmp_path).samples[0].reference().instances) == 2
    assert open_data_set(tmp_path, "saliency").kind == "saliency"
    with pytest.raises(OptionError, match="there is no kind of data set 'vocs'; choose one of pairs, voc"):
        open_data_set(tmp_path, "vocs")


def test_splits_and_labels_of_a_set_that_has_none_are_refused(tmp_path: Path) -> None:
    folder = make_mask_set(tmp_path / "discs")
    with pytest.raises(OptionError, match="which has no splits"):
        open_data_set(folder, split="val")
    with pytest.raises(OptionError, match="which has no labels to choose from"):
        open_data_set(folder, "saliency", object_ids=[1])
