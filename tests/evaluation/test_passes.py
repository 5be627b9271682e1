"""A pass over a data set: batches of one shape, worker processes, tables of bytes, and faults that end nothing."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as arrow
import pyarrow.parquet as parquet
import pytest

from simpool_viz.batch import boards
from simpool_viz.batch.boards import Job
from simpool_viz.batch.preparing import Fault, Prepared
from simpool_viz.board.board import Board, Settings
from simpool_viz.errors import AbsentClassError, DataError, OptionError
from simpool_viz.evaluation.datasets import DataSet, open_data_set
from simpool_viz.evaluation.passes import Pace, photo_scores, scores_in_order
from simpool_viz.evaluation.scoring import MapToScore
from simpool_viz.maps.request import MapRequest
from simpool_viz.modeling.encoder import Encoder
from simpool_viz.scores.references import Reference
from tests.evaluation.datasets.trees import pairs_of
from tests.helpers import make_mask_set

POOLING = [MapRequest("pooling")]


def nothing(reference: Reference, maps: Sequence[MapToScore]) -> int:
    return len(maps)


def width(reference: Reference, maps: Sequence[MapToScore]) -> int:
    return reference.size[0]


def test_batches_of_any_size_and_worker_processes_give_the_scores_of_photos_alone(
    data: DataSet, resnet: Encoder
) -> None:
    job = Job([resnet], POOLING, Settings(size=48))
    alone = photo_scores(data, job, Pace(batch=1, workers=0))
    for pace in (Pace(batch=3, workers=0), Pace(batch=2, workers=1)):
        for found, wanted in zip(photo_scores(data, job, pace), alone, strict=True):
            for one, other in zip(found, wanted, strict=True):
                assert (one.label, one.checkpoint) == (other.label, other.checkpoint)
                assert one.figures == pytest.approx(other.figures, abs=2e-3)
                assert one.counts is not None and other.counts is not None
                assert (one.counts.boxes != other.counts.boxes).mean() < 0.01


def test_a_batch_is_of_one_shape_and_of_one_part(
    data: DataSet, resnet: Encoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    many = DataSet("many", "pairs", [
        type(one)(f"{copy}/{one.key}", one.photo, one.truth) for copy in range(3) for one in data.samples
    ])  # fmt: skip
    batches: list[list[Prepared]] = []
    make_boards = boards.make_boards
    monkeypatch.setattr(boards, "make_boards", lambda job, batch: batches.append(batch) or make_boards(job, batch))
    job = Job([resnet], POOLING, Settings(size=48))
    assert scores_in_order(many, job, nothing, Pace(batch=2, workers=0, part=5)) == [1] * len(many)
    keys = [one.key for one in many.samples]
    assert sorted(one.key for batch in batches for one in batch) == sorted(keys)
    for batch in batches:
        assert len({one.shape for one in batch}) == 1 and len(batch) <= 2
        assert len({keys.index(one.key) // 5 for one in batch}) == 1, "of one part"


def test_scores_come_back_in_the_order_of_the_set(data: DataSet, resnet: Encoder) -> None:
    job, widths = Job([resnet], POOLING, Settings(size=48)), [one.picture().size[0] for one in data.samples]
    assert len(set(widths)) > 1
    assert scores_in_order(data, job, width, Pace(batch=2, workers=0)) == widths


def test_a_photo_without_the_class_that_is_asked_for_is_a_row_with_its_reason(
    data: DataSet, resnet: Encoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_boards = boards.make_boards

    def refusing(job: Job, batch: list[Prepared]) -> list[Board]:
        if any(one.key == "1.jpg" for one in batch):
            raise AbsentClassError("no token has the class car")
        return make_boards(job, batch)

    monkeypatch.setattr(boards, "make_boards", refusing)
    faults: list[Fault] = []
    job = Job([resnet], POOLING, Settings(size=48))
    assert len(scores_in_order(data, job, nothing, Pace(batch=4, workers=0), faults=faults)) == len(data) - 1
    assert faults == [Fault("1.jpg", "1.jpg: no token has the class car")]


def test_tables_of_bytes_give_the_scores_of_the_same_files(data: DataSet, resnet: Encoder, tmp_path: Path) -> None:
    rows = [{"image": image.read_bytes(), "mask": mask.read_bytes()} for image, mask in pairs_of(data)]
    parquet.write_table(arrow.Table.from_pylist(rows), tmp_path / "discs.parquet", row_group_size=3)
    job = Job([resnet], POOLING, Settings(size=48))
    wanted = photo_scores(data, job, Pace(batch=2, workers=0))
    for workers in (0, 1):
        found = photo_scores(open_data_set(tmp_path), job, Pace(batch=2, workers=workers))
        for mine, other in zip(found, wanted, strict=True):
            assert [one.figures for one in mine] == [one.figures for one in other]


def test_faults_are_rows_and_a_set_of_nothing_else_is_refused(resnet: Encoder, tmp_path: Path) -> None:
    folder = make_mask_set(tmp_path / "discs")
    (folder / "images" / "0.jpg").write_bytes(b"")
    (folder / "masks" / "1.png").unlink()
    (folder / "masks" / "3.png").write_bytes(b"torn")
    faults: list[Fault] = []
    job = Job([resnet], POOLING, Settings(size=48))
    scores = photo_scores(open_data_set(folder), job, Pace(workers=0), faults=faults)
    assert len(scores) == 1 and sorted(fault.key for fault in faults) == ["0.jpg", "1.jpg", "3.jpg"]
    assert all(fault.sentence.startswith(fault.key) for fault in faults)
    (folder / "masks" / "2.bmp").write_bytes(b"torn")
    with pytest.raises(DataError, match=r"none of the photos of discs can be scored\. \d\.jpg"):
        photo_scores(open_data_set(folder), job, Pace(workers=0))


def test_impossible_paces_are_refused() -> None:
    for wrong in ({"batch": 0}, {"workers": -1}, {"part": 0}):
        with pytest.raises(OptionError, match="the batch must be positive"):
            Pace(**wrong)
    assert Pace().workers_for(4) == 0 and Pace().workers_for(400) >= 1 and Pace(workers=3).workers_for(4) == 3


def test_an_object_that_vanishes_at_the_size_of_jaccard_is_left_out(resnet: Encoder, tmp_path: Path) -> None:
    """A line of one pixel in a photo of 2,000 columns has no pixel at 480: the score is that of the other object."""
    from PIL import Image

    for kind in ("images", "masks"):
        (tmp_path / kind).mkdir()
    size = (2000, 1000)
    big = np.zeros(size[::-1], np.uint8)
    big[300:700, 500:1500] = 1
    with_line = big.copy()
    with_line[100:900, 1] = 2
    line = np.where(with_line == 2, with_line, 0).astype(np.uint8)
    for name, mask in (("big", big), ("line", line), ("with_line", with_line)):
        Image.fromarray(np.full((*size[::-1], 3), 90, np.uint8)).save(tmp_path / "images" / f"{name}.png")
        Image.fromarray(mask).save(tmp_path / "masks" / f"{name}.png")
    job = Job([resnet], POOLING, Settings(size=48))
    found = photo_scores(open_data_set(tmp_path), job, Pace(workers=0))
    big_only, line_only, both = ({one.label: one.figures["jaccard"] for one in scores} for scores in found)
    assert both == pytest.approx(big_only) and big_only["centre prior"] > 0.2
    assert all(np.isnan(value) for value in line_only.values())
