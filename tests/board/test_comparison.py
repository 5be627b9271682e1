"""Order, agreement and difference of rows, each against a computation of its own."""

from __future__ import annotations

import dataclasses
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from simpool_viz import make_board
from simpool_viz.board.board import Board, Row, Settings
from simpool_viz.board.comparison import ROW_FIGURES, agreement, arrange, difference, parse_sort
from simpool_viz.images import Geometry
from simpool_viz.masks import Cut, make_mask
from simpool_viz.modeling.encoder import Encoder
from simpool_viz.scores.references import read_reference


@pytest.fixture(scope="module")
def board(photos: dict[str, Path], resnet: Encoder, resnet_gap: Encoder) -> Board:
    references = {0: read_reference(photos["wide mask"])}
    return make_board(
        [photos["wide"], photos["tall"]], [resnet, resnet_gap], ["pooling", "contribution", "kmeans"], None, references
    )


def labels(board: Board, picture: int = 0) -> list[tuple[str, str]]:
    return [(row.checkpoint, row.request.name) for row in board.rows if row.picture == picture]


# --- order
# ----------------------------------------------------------------------------------------------------


def test_sort_is_read_from_text() -> None:
    assert parse_sort("entropy") == ("entropy", False) and parse_sort("entropy:lowest") == ("entropy", True)
    assert parse_sort("iou:highest") == ("iou", False)
    for text, says in (
        ("beauty", "sorted by probability, entropy"),
        ("iou:down", "highest or lowest, as in iou:lowest"),
    ):
        with pytest.raises(ValueError, match=says):
            parse_sort(text)


@pytest.mark.parametrize("name", list(ROW_FIGURES))
def test_rows_are_sorted_by_every_figure_within_their_photo_and_those_without_it_come_last(
    board: Board, name: str
) -> None:
    for suffix, sign in (("", -1), (":lowest", 1)):
        sorted_board = arrange(board, sort=name + suffix)
        assert [row.picture for row in sorted_board.rows] == [0] * 5 + [
            1
        ] * 5 and sorted_board.pictures == board.pictures
        assert sorted(map(id, sorted_board.rows)) == sorted(map(id, board.rows)), "every row stays, unchanged"
        for picture in (0, 1):
            values = [ROW_FIGURES[name].value(row) for row in sorted_board.rows if row.picture == picture]
            known = [v for v in values if v is not None]
            assert known == sorted(known, key=lambda v: sign * v) and values[: len(known)] == known


def test_figures_are_those_of_the_row(board: Board) -> None:
    row = board.rows[0]
    assert row.prediction is not None and ROW_FIGURES["probability"].value(row) == row.prediction[1]
    assert ROW_FIGURES["peak"].value(row) == pytest.approx(
        float(row.attention.weights[0].max() * row.attention.weights[0].size)
    )
    assert ROW_FIGURES["iou"].value(row) == row.scores["iou"] and ROW_FIGURES["iou"].value(board.rows[-1]) is None
    signed = board.rows[1]
    assert ROW_FIGURES["peak"].value(signed) == pytest.approx(float(signed.attention.weights.max()))


def test_rows_are_grouped_by_checkpoint_or_map_and_sorted_within(board: Board) -> None:
    simpool, gap = "small_simpool", "small_gap"
    assert labels(arrange(board, "map")) == [
        (simpool, "pooling"), (simpool, "contribution"), (gap, "contribution"), (simpool, "kmeans"), (gap, "kmeans"),
    ]  # fmt: skip
    assert labels(arrange(board, "checkpoint")) == [(simpool, n) for n in ("pooling", "contribution", "kmeans")] + [
        (gap, n) for n in ("contribution", "kmeans")
    ]
    grouped = arrange(board, "map", "entropy:lowest")
    assert [label for _, label in labels(grouped)] == ["pooling", "contribution", "contribution", "kmeans", "kmeans"]
    one, other = [row.entropy for row in grouped.rows if row.picture == 0][1:3]
    assert one <= other
    with pytest.raises(ValueError, match="grouped by none, checkpoint, map, not by 'colour'"):
        arrange(board, "colour")


# --- agreement
# ----------------------------------------------------------------------------------------------------


def pixel_sets(masks: list, size: tuple[int, int]) -> list[set[tuple[int, int]]]:
    """The pixels of each mask, one by one: a pixel belongs to the cell that holds its centre."""
    sets = []
    for mask in masks:
        h, w = mask.weights.shape
        pixels = ((x, y) for y in range(size[1]) for x in range(size[0]))
        sets.append(
            {
                (x, y)
                for x, y in pixels
                if mask.weights[int((y + 0.5) * h / size[1]), int((x + 0.5) * w / size[0])] >= np.float32(mask.level)
            }
        )
    return sets


def test_agreement_is_the_iou_of_every_pair_also_of_different_grids() -> None:
    rng, original = np.random.default_rng(0), (43, 29)
    grids = [(4, 6), (4, 6), (7, 10)]
    masks = [
        make_mask(rng.random(grid).astype(np.float32), Geometry(original, grid, 8), Cut("area", 0.3)) for grid in grids
    ]
    values = agreement(masks)
    sets = pixel_sets(masks, original)
    for i, one in enumerate(sets):
        for j, other in enumerate(sets):
            assert values[i, j] == pytest.approx(float(Fraction(len(one & other), len(one | other))), abs=1e-12)
    assert np.array_equal(values, values.T) and np.array_equal(np.diag(values), np.ones(3)) and 0 < values[0, 1] < 1


def test_agreement_follows_size_and_smoothness() -> None:
    rng = np.random.default_rng(1)
    masks = [make_mask(rng.random((3, 5)).astype(np.float32), Geometry((50, 30), (3, 5), 8)) for _ in range(2)]
    smooth = [mask.pixels(smooth=True, size=(20, 12)) for mask in masks]
    assert agreement(masks, True, (20, 12))[0, 1] == pytest.approx(
        (smooth[0] & smooth[1]).sum() / (smooth[0] | smooth[1]).sum()
    )
    assert agreement(masks, True, (20, 12))[0, 1] != agreement(masks, False, (20, 12))[0, 1]
    with pytest.raises(ValueError, match="on one picture"):
        agreement([masks[0], make_mask(np.ones((3, 5)), Geometry((51, 30), (3, 5), 8))])


# --- difference
# ----------------------------------------------------------------------------------------------------


def with_map(row: Row, weights: np.ndarray, unit: str = "uniform") -> Row:
    weights = weights.astype(np.float32)
    geometry = dataclasses.replace(row.attention.geometry, grid=weights.shape)
    attention = dataclasses.replace(row.attention, weights=weights[None], geometry=geometry, unit=unit, logits=None)
    return dataclasses.replace(row, attention=attention, mask=attention.mask())


def test_difference_is_taken_in_times_uniform_at_every_pixel_also_of_different_grids(board: Board) -> None:
    rng, row = np.random.default_rng(2), board.rows[0]
    one, other = (with_map(row, a / a.sum()) for a in (rng.random((3, 4)), rng.random((5, 7))))
    values = difference(one, other)
    width, height = row.attention.geometry.original
    assert values.shape == (height, width)
    for x, y in ((0, 0), (width - 1, height - 1), (17, 31), (60, 5)):
        cells = [(int((y + 0.5) * h / height), int((x + 0.5) * w / width)) for h, w in ((3, 4), (5, 7))]
        expected = 12 * one.attention.weights[0][cells[0]] - 35 * other.attention.weights[0][cells[1]]
        assert values[y, x] == pytest.approx(expected, abs=1e-6)
    assert np.array_equal(difference(other, one), -values) and not difference(one, one).any()


def test_smooth_difference_on_one_grid_is_the_smooth_map_of_the_difference(board: Board) -> None:
    import torch

    rng, row = np.random.default_rng(3), board.rows[0]
    a, b = rng.random((4, 6)), rng.random((4, 6))
    values = difference(with_map(row, a), with_map(row, b), smooth=True, size=(48, 32))
    grid = torch.from_numpy(24 * (a.astype(np.float32).astype(float) - b.astype(np.float32)))[None, None]
    expected = torch.nn.functional.interpolate(grid, size=(32, 48), mode="bilinear", align_corners=False)[0, 0]
    assert np.allclose(values, expected.numpy(), atol=1e-10)


def test_maps_that_cannot_be_subtracted_are_refused(board: Board) -> None:
    rows = board.rows
    with pytest.raises(
        ValueError, match=r"is drawn in times uniform and .* in logit per token, so they have no difference"
    ):
        difference(rows[0], rows[1])
    with pytest.raises(ValueError, match="two maps of one picture"):
        difference(rows[0], rows[5])
    with pytest.raises(ValueError, match="logits per token of different grids"):
        difference(with_map(rows[1], np.eye(3), "logit"), with_map(rows[1], np.eye(4), "logit"))
    assert difference(rows[1], rows[3]).any(), "contributions of two checkpoints on one grid"


def test_settings_of_the_board_stay(board: Board) -> None:
    assert arrange(board, "map").settings == Settings() and arrange(board).rows == board.rows
