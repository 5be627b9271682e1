"""Folders that `datasets` saves: as it writes them, by hand and where the package is installed by itself."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow as arrow
import pytest

from simpool_viz.errors import DataError, OptionError
from simpool_viz.evaluation.datasets import open_data_set
from tests.evaluation.datasets.test_shards import rows
from tests.evaluation.datasets.trees import SIZE, rectangle, references
from tests.helpers import make_photo


def save(folder: Path, count: int = 4) -> None:
    folder.mkdir(parents=True)
    names = [f"data-{i:05d}-of-00002.arrow" for i in (0, 1)]
    for i, name in enumerate(names):
        table = arrow.table(rows(count // 2, i * count // 2))
        with arrow.ipc.new_stream(str(folder / name), table.schema) as file:
            file.write_table(table)
    state = {"_data_files": [{"filename": name} for name in names], "_format_columns": None, "_split": None}
    (folder / "state.json").write_text(json.dumps(state))
    (folder / "dataset_info.json").write_text("{}")


def test_a_saved_set_and_a_split_of_several_are_its_rows(tmp_path: Path) -> None:
    save(tmp_path / "one")
    for split in ("train", "test"):
        save(tmp_path / "several" / split, 2 if split == "test" else 4)
    (tmp_path / "several" / "dataset_dict.json").write_text('{"splits": ["train", "test"]}')
    for data, count in (
        (open_data_set(tmp_path / "one"), 4),
        (open_data_set(tmp_path / "several"), 2),
        (open_data_set(tmp_path / "several", split="train"), 4),
    ):
        assert data.kind == "saved" and len(data) == count
        for i, (sample, reference) in enumerate(zip(data.samples, references(data).values(), strict=True)):
            assert np.array_equal(reference.objects, rectangle(i, 3, i + 5, 9) > 0)
            assert np.array_equal(data.samples[i].picture().rgb, make_photo(*SIZE, i)) and data.samples[i] == sample
    with pytest.raises(OptionError, match="has the splits train, test; choose one"):
        open_data_set(tmp_path / "several", split="val")


def test_missing_and_torn_files_are_explained(tmp_path: Path) -> None:
    save(tmp_path / "one")
    (tmp_path / "one" / "data-00001-of-00002.arrow").write_bytes(b"torn")
    with pytest.raises(DataError, match="is no readable Arrow file"):
        open_data_set(tmp_path / "one")
    (tmp_path / "one" / "data-00001-of-00002.arrow").unlink()
    with pytest.raises(DataError, match=r"lacks data-00001-of-00002\.arrow, which its state\.json names"):
        open_data_set(tmp_path / "one")
    (tmp_path / "one" / "state.json").write_text("[]")
    with pytest.raises(DataError, match="is no description of a saved data set"):
        open_data_set(tmp_path / "one")


def test_what_the_package_writes_is_read(tmp_path: Path) -> None:
    hub = pytest.importorskip("datasets")
    content = rows(3)
    content["mask"] = [{"bytes": one, "path": None} for one in content["mask"]]
    features = hub.Features({"image": hub.Image(), "mask": hub.Image(), "label": hub.Value("int64")})
    hub.Dataset.from_dict(content, features=features).save_to_disk(tmp_path / "one")
    found = references(open_data_set(tmp_path / "one"))
    assert len(found) == 3 and all(
        np.array_equal(one.objects, rectangle(i, 3, i + 5, 9) > 0) for i, one in enumerate(found.values())
    )
