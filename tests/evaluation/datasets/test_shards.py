"""Parquet files of pictures and masks: in order, one by one, with what a row may lack."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pyarrow as arrow
import pyarrow.parquet as parquet
import pytest

from simpool_viz.batch.places import contents
from simpool_viz.errors import DataError, OptionError
from simpool_viz.evaluation.datasets import open_data_set
from tests.evaluation.datasets.trees import SIZE, file_bytes, rectangle, references
from tests.helpers import make_photo


def rows(count: int, first: int = 0) -> dict[str, list[object]]:
    photos = [file_bytes(make_photo(*SIZE, i), "PNG") for i in range(first, first + count)]
    masks = [file_bytes(rectangle(i, 3, i + 5, 9, 255), "PNG") for i in range(first, first + count)]
    return {
        "image": [{"bytes": photo, "path": None} for photo in photos],
        "mask": [*masks],
        "label": list(range(count)),
    }


def test_rows_are_samples_in_their_order_by_stream_and_one_by_one(tmp_path: Path) -> None:
    for shard in (0, 1):
        table = arrow.table(rows(5, 5 * shard))
        parquet.write_table(table, tmp_path / f"test-{shard}.parquet", row_group_size=2)
    data = open_data_set(tmp_path)
    assert data.kind == "shards" and len(data) == 10
    found = references(data)
    assert list(found) == data.samples.keys == [f"test-{i // 5}/{i % 5}" for i in range(10)]  # type: ignore[attr-defined]
    for i, (sample, reference) in enumerate(zip(data.samples, found.values(), strict=True)):
        assert np.array_equal(reference.objects, rectangle(i, 3, i + 5, 9) > 0)
        assert np.array_equal(sample.picture().rgb, make_photo(*SIZE, i))
        assert data.samples[i] == sample and data.samples[i - 10] == sample
    assert [sample.key for sample in data.samples[3:6]] == list(found)[3:6]
    with pytest.raises(IndexError):
        data.samples[10]
    assert len(open_data_set(tmp_path / "test-1.parquet")) == 5
    assert len(open_data_set(tmp_path, split="test")) == 10
    with pytest.raises(OptionError, match="has no files of 'val'; choose --split test"):
        open_data_set(tmp_path, split="val")


def test_a_row_without_a_picture_or_a_mask_says_so(tmp_path: Path) -> None:
    table = rows(3)
    table["image"][1], table["mask"][2] = None, None
    parquet.write_table(arrow.table(table), tmp_path / "a.parquet")
    _, empty, bare = open_data_set(tmp_path).samples
    with pytest.raises(ValueError, match=r"a/1 is empty"):
        empty.picture()
    with pytest.raises(DataError, match="a/2 has no mask in the column mask"):
        bare.reference()


def test_other_columns_and_torn_files_are_explained(tmp_path: Path) -> None:
    parquet.write_table(arrow.table({"image": rows(1)["image"], "label": [3]}), tmp_path / "a.parquet")
    with pytest.raises(DataError, match=r"needs a column of pictures .* its columns with bytes are image"):
        open_data_set(tmp_path)
    (tmp_path / "a.parquet").write_bytes(b"PAR1")
    with pytest.raises(DataError, match="is no readable parquet file"):
        open_data_set(tmp_path)


def test_places_give_the_rows_in_any_selection_and_travel_without_the_names(tmp_path: Path) -> None:
    for number, count in enumerate((40, 3)):
        table = arrow.table(rows(count, 40 * number))
        parquet.write_table(table, tmp_path / f"part-{number}.parquet", row_group_size=16)
    data = open_data_set(tmp_path)
    every = list(data.samples)
    places = data.places()
    assert [key for key, _ in places] == [one.key for one in every]
    for chosen in (range(43), [0, 1, 2], [15, 16, 39, 40, 42], [41], []):
        some = pickle.loads(pickle.dumps([places[i] for i in chosen]))
        assert list(contents(some)) == [(every[i].key, every[i]) for i in chosen]
    assert "keys" not in vars(pickle.loads(pickle.dumps(places[0][1])).samples)
