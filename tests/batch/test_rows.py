"""Rows of a parquet file are those of a board: maps to half precision, masks to the last pixel, figures exactly."""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image

from simpool_viz import Settings, make_board, read_batch, write_batch
from simpool_viz.batch import boards, engine
from simpool_viz.batch.boards import Job, make_boards
from simpool_viz.batch.preparing import Prepared
from simpool_viz.batch.reader import BatchRow
from simpool_viz.batch.rows import BoardWork, halved
from simpool_viz.board.board import Board
from simpool_viz.errors import AbsentClassError, DataError, MapError, OptionError
from simpool_viz.export import masks_of
from simpool_viz.modeling.encoder import Encoder
from tests.helpers import make_photo

pytest.importorskip("pyarrow")
SIZES = [(91, 60), (64, 100), (91, 60)]
FINITE = st.floats(-(2.0**100), 2.0**100, width=32, allow_subnormal=False)


@pytest.fixture(autouse=True)
def read_here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine, "work_ahead", lambda read, given, *_: (read(key, *rest) for key, rest in given))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("photos")
    for i, (width, height) in enumerate(SIZES):
        Image.fromarray(make_photo(width, height, i)).save(folder / f"{i}.png")
    (folder / "empty.jpg").touch()
    return folder


@given(arrays(np.float32, (2, 3, 4), elements=FINITE))
def test_half_precision_keeps_what_is_promised(weights: np.ndarray) -> None:
    halves, scale = halved(weights)
    assert halves.dtype == np.float16 and np.isfinite(halves).all() and np.log2(scale) == int(np.log2(scale))
    largest = float(np.abs(weights).max())
    error = np.abs(halves.astype(np.float64) * scale - weights)
    bound = np.where(np.abs(weights) > largest * 2.0**-13, np.abs(weights) * 2.0**-11, largest * 2.0**-24)
    assert (error <= bound).all()


def test_half_precision_keeps_attention_over_many_tokens() -> None:
    weights = np.random.default_rng(0).dirichlet(np.full(16_384, 0.3)).astype(np.float32).reshape(1, 128, 128)
    halves, scale = halved(weights)
    assert abs(float((halves.astype(np.float64) * scale).sum()) - 1) < 1e-4
    assert np.abs(weights.astype(np.float16).astype(np.float64) - weights)[weights > 0].max() > 0
    large = weights > weights.max() * 1e-4
    assert (np.abs(halves.astype(np.float64) * scale / np.where(large, weights, 1) - 1)[large]).max() < 2.0**-11


@pytest.mark.parametrize("refine", ["", "grabcut"])
def test_rows_are_those_of_boards(folder: Path, tmp_path: Path, resnet: Encoder, vit: Encoder, refine: str) -> None:
    settings, maps = Settings(size=64, refine=refine), ["pooling", "cls"]
    report = write_batch([folder], [resnet, vit], tmp_path / "out", maps, settings, batch=2, part=2)
    assert report.done == 3 and [fault.key for fault in report.faults] == ["empty.jpg"]
    result = read_batch(tmp_path / "out")
    found = list(result)
    assert result.complete and len(result) == len(found) == 7 and [row.index for row in found] == [0, 0, 1, 1, 2, 2, 3]
    assert found[-1] == BatchRow(3, "empty.jpg", "", report.faults[0].sentence, "", "", (), None, None, None, {})
    for i in range(3):
        board = make_board([folder / f"{i}.png"], [resnet, vit], maps, settings)
        for row, wanted, mask in zip(found[2 * i : 2 * i + 2], board.rows, masks_of(board), strict=True):
            assert (row.picture, row.checkpoint, row.map) == (f"{i}.png", wanted.checkpoint, wanted.request.label)
            assert row.names == wanted.attention.names and row.size == SIZES[i] and row.weights is not None
            tolerance = 2e-3 * np.abs(wanted.attention.weights).max()
            np.testing.assert_allclose(row.weights, wanted.attention.weights, atol=tolerance)
            assert row.mask is not None and row.mask.shape == SIZES[i][::-1]
            assert (row.mask != mask.pixels).mean() < 0.02, "batches round in another way than single pictures"
            figures = row.figures
            assert (figures["input_width"], figures["input_height"]) == wanted.input_size
            assert figures["coverage"] == pytest.approx(wanted.mask.coverage, abs=0.02)
            assert figures["spatial_entropy"] == pytest.approx(wanted.entropy, abs=0.02)
            assert figures["prediction"] == (wanted.prediction[0] if wanted.prediction else None)
            assert figures["unit"] == wanted.attention.unit and figures["method"] == wanted.attention.method


def test_masks_and_figures_are_those_of_the_board_of_the_same_batch(job: Job) -> None:
    """Without the rounding of batches: the same recording, to the last pixel and digit."""
    from simpool_viz.batch.preparing import prepare_picture
    from simpool_viz.images import Picture
    from simpool_viz.mask_files import mask_of_runs

    prepared = prepare_picture(Picture(make_photo(), "a"), job.frames, None)
    made = [row for one in BoardWork(job).record(iter([prepared])) for row in one.rows()]
    for row, wanted in zip(made, make_boards(job, [prepared])[0].rows, strict=True):
        assert np.array_equal(mask_of_runs(row["mask_size"], row["mask_counts"]), wanted.mask.pixels())
        assert row["coverage"] == wanted.mask.coverage and row["spatial_entropy"] == wanted.entropy
        assert row["boxes"] == [list(box) for box in wanted.mask.boxes] and row["level"] == wanted.mask.level


def test_pictures_stand_in_the_rows_where_they_are_asked_for(folder: Path, tmp_path: Path, resnet: Encoder) -> None:
    write_batch([folder], [resnet], tmp_path / "out", ["pooling"], Settings(size=64), pictures="png")
    found = [row for row in read_batch(tmp_path / "out") if not row.fault]
    for row, size in zip(found, SIZES, strict=True):
        for kind in ("overlay", "cut_out"):
            with Image.open(io.BytesIO(row.figures[kind])) as image:
                assert image.format == "PNG" and image.size == size
    table = read_batch(tmp_path / "out").table(["picture", "coverage"])
    assert table.column_names == ["picture", "coverage"] and table.num_rows == 4


def test_rows_of_one_checkpoint_or_map_are_had_alone(
    folder: Path, tmp_path: Path, resnet: Encoder, vit: Encoder
) -> None:
    write_batch([folder], [resnet, vit], tmp_path / "out", ["pooling", "cls", "rollout"], Settings(size=64))
    result = read_batch(tmp_path / "out")
    assert [row.map for row in result.rows(map="rollout")] == ["rollout"] * 3 + [""]
    assert {row.checkpoint for row in result.rows(checkpoint=resnet.facts.name)} == {resnet.facts.name, ""}
    with pytest.raises(DataError, match="holds no result of"):
        read_batch(folder)


def test_a_run_goes_on_only_with_the_same_weights_and_batches(folder: Path, tmp_path: Path, resnet: Encoder) -> None:
    import copy

    options: dict[str, Any] = {"maps": ["pooling"], "settings": Settings(size=64)}
    write_batch([folder], [resnet], tmp_path / "out", **options)
    assert write_batch([folder], [resnet], tmp_path / "out", **options).earlier == 3
    other = copy.deepcopy(resnet)
    next(other.parameters()).data.add_(1)
    for encoder, batch in ((other, 16), (resnet, 8)):
        with pytest.raises(FileExistsError, match="other settings"):
            write_batch([folder], [encoder], tmp_path / "out", **options, batch=batch)


def test_a_picture_without_the_class_that_is_asked_for_is_a_row_with_its_reason(
    job: Job, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refusing(job: Job, batch: Sequence[Prepared]) -> list[Board]:
        if absent := [one.key for one in batch if one.key in "36"]:
            raise AbsentClassError(f"no token of {absent[0]} has the class car")
        return make_boards(job, batch)

    monkeypatch.setattr(boards, "make_boards", refusing)
    work = BoardWork(job, batch=4)
    made = list(work.record(work.read(str(i), png) for i, png in enumerate(photos(8))))
    assert sorted(one.key for one in made) == [str(i) for i in range(8)]
    assert {one.key: one.fault for one in made if one.fault} == {
        key: f"no token of {key} has the class car" for key in "36"
    }
    assert all(one.rows() == [{}] if one.fault else len(one.rows()) == 3 for one in made)


def photos(count: int) -> Iterator[bytes]:
    for i in range(count):
        buffer = io.BytesIO()
        Image.fromarray(make_photo(91, 60, i)).save(buffer, "PNG")
        yield buffer.getvalue()


def test_what_no_checkpoint_has_and_formats_that_do_not_exist_are_refused(
    folder: Path, tmp_path: Path, resnet: Encoder
) -> None:
    with pytest.raises(MapError, match="its backbone is a CNN"):
        write_batch([folder], [resnet], tmp_path / "out", ["cls"], Settings(size=64))
    with pytest.raises(OptionError, match="jpeg, png or none"):
        write_batch([folder], [resnet], tmp_path / "other", pictures="webp")
    with pytest.raises(OptionError, match="must be positive"):
        write_batch([folder], [resnet], tmp_path / "other", batch=0)
    assert not (tmp_path / "other").exists()
