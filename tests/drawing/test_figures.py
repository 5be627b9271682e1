"""Figures: where cells stand and what they show, read back from their pixels."""

from __future__ import annotations

import csv
import dataclasses
import io
from pathlib import Path

import numpy as np
import pytest
import torch

from simpool_viz import make_board, record
from simpool_viz.board.board import Board
from simpool_viz.board.comparison import agreement, difference
from simpool_viz.board.inspection import exponent_groups
from simpool_viz.board.segmentation import segment
from simpool_viz.drawing.figures import (
    CELL,
    GAP,
    agreement_figure,
    agreement_table,
    draw_agreement,
    draw_difference,
    draw_exponents,
    draw_matrix,
    draw_parts,
    draw_segmentation,
    matrix_columns,
)
from simpool_viz.drawing.pixels import DIVERGING, DrawingStyle, colour_map, colour_table, display_picture, palette
from simpool_viz.drawing.render import render_row, row_scales
from simpool_viz.maps.scale import scale_of
from simpool_viz.modeling.encoder import Encoder
from tests.helpers import dense, make_photo, small_vit


@pytest.fixture(scope="module")
def board(photos: dict[str, Path], resnet: Encoder, resnet_gap: Encoder) -> Board:
    return make_board([photos["wide"], photos["tall"]], [resnet, resnet_gap], ["pooling", "contribution"])


def test_matrix_has_photos_down_and_checkpoints_with_maps_across(board: Board) -> None:
    assert matrix_columns(board) == [
        ("small_simpool", "pooling"),
        ("small_simpool", "contribution"),
        ("small_gap", "contribution"),
    ]
    style = DrawingStyle(opacity=0.5)
    pixels = np.asarray(draw_matrix(board, style))
    heights = [display_picture(p.rgb, CELL).shape[0] for p in board.pictures]
    bottom = pixels.shape[0] - sum(h + GAP for h in heights)
    scales = row_scales(board, style)
    for index, row in enumerate(board.rows):
        cell = render_row(board, row, scales[index], style, CELL)[0]
        column = 1 + matrix_columns(board).index((row.checkpoint, row.request.label))
        y = bottom + sum(h + GAP for h in heights[: row.picture])
        x = GAP + column * (CELL + GAP) + (CELL - cell.shape[1]) // 2
        assert np.array_equal(pixels[y : y + cell.shape[0], x : x + cell.shape[1]], cell), row.title


def test_matrix_leaves_the_cell_of_a_missing_map_empty(board: Board) -> None:
    rows = [row for row in board.rows if (row.picture, row.checkpoint) != (1, "small_gap")]
    pixels = np.asarray(draw_matrix(Board(board.pictures, rows, {}, [], board.settings)))
    x = GAP + 3 * (CELL + GAP)
    assert (pixels[-50:, x : x + CELL] == 255).all() and not (pixels[-200:-50, GAP : GAP + CELL] == 255).all()


def test_agreement_figure_is_coloured_by_iou(board: Board) -> None:
    values = np.array([[1.0, 0.25], [0.25, 1.0]])
    pixels = np.asarray(draw_agreement(values, ["one", "two"]))
    table = colour_table("viridis")
    for value in (1.0, 0.25):
        assert (pixels == table[round(255 * value)]).all(axis=2).sum() > 2000
    whole = agreement_figure(board)
    assert whole.height == 2 * draw_agreement(np.eye(3), ["a", "b", "c"]).height


def test_agreement_table_has_every_pair_of_a_photo_once(board: Board) -> None:
    table = list(csv.DictReader(io.StringIO(agreement_table(board))))
    assert [line["picture"] for line in table] == ["wide.png"] * 3 + ["tall.png"] * 3
    values = agreement([row.mask for row in board.rows[3:]])
    assert [float(line["iou"]) for line in table[3:]] == pytest.approx(
        [values[0, 1], values[0, 2], values[1, 2]], abs=1e-4
    )
    assert (table[1]["checkpoint"], table[1]["map"], table[1]["other_checkpoint"]) == (
        "small_simpool",
        "pooling",
        "small_gap",
    )


def test_parts_stand_in_lines_of_their_groups_each_on_its_own_scale(board: Board) -> None:
    rng, row = np.random.default_rng(0), board.rows[0]
    weights = rng.random((3, 8, 12)).astype(np.float32)
    attention = dataclasses.replace(row.attention, weights=weights, names=("a", "b", "c"), logits=None)
    style = DrawingStyle(opacity=1.0)
    pixels = np.asarray(draw_parts(board.pictures[0], attention, [("first", [0, 2]), ("second", [1])], style))
    photo = display_picture(board.pictures[0].rgb, CELL)
    size, line = (photo.shape[1], photo.shape[0]), photo.shape[0] + 24 + GAP
    for part, column, top in ((0, 0, GAP + 26), (2, 1, GAP + 26), (1, 0, GAP + 26 + line + 26)):
        x = GAP + column * (size[0] + GAP)
        expected = colour_map(weights[part], scale_of(weights[part], "uniform"), False, style, size)
        assert np.array_equal(pixels[top : top + size[1], x : x + size[0]], expected), part


def test_difference_is_red_where_the_first_is_stronger(board: Board) -> None:
    first, second = board.rows[1], board.rows[2]
    pixels = np.asarray(
        draw_difference(board, first, second, DrawingStyle(opacity=1.0, smooth=False), longest=91)
    ).astype(int)
    values = difference(first, second)
    top = pixels.shape[0] - 48 - values.shape[0]
    shown = pixels[top : top + 60, GAP : GAP + 91]
    strongest, weakest = (
        np.unravel_index(values.argmax(), values.shape),
        np.unravel_index(values.argmin(), values.shape),
    )
    assert shown[strongest][0] > shown[strongest][2] and shown[weakest][2] > shown[weakest][0]
    high = np.percentile(np.abs(values), 99.5)
    index = np.round(np.clip((values + high) / (2 * high) * 255, 0, 255)).astype(int)
    assert np.abs(shown - colour_table(DIVERGING)[index]).max() <= 4


def test_figure_shows_every_class_found_in_its_colour() -> None:
    recording = record(dense(), make_photo(150, 90))
    found, figure = segment(recording), np.asarray(draw_segmentation(recording, opacity=1.0))
    colours = palette(len(found.names))
    for index in found.found():
        assert (figure[:, 170:190].reshape(-1, 3) == colours[index]).all(1).any(), "in the legend, right of the photo"
        assert (figure[10:100, 10:160].reshape(-1, 3) == colours[index]).all(1).any(), "and on the photo"


def test_bars_are_as_long_as_the_exponents_and_the_positions() -> None:
    encoder = small_vit("ggem", groups=3)
    encoder.pooling.mean.p.data = torch.tensor([2.0, 8.0, 4.0])  # type: ignore[union-attr]
    recording = record(encoder, make_photo(150, 90))
    pixels = np.asarray(draw_exponents(recording)).astype(int)
    bars = abs(pixels - (194, 65, 12)).sum(2) < 12
    half = bars.shape[1] // 2
    positions = [group.positions for group in exponent_groups(recording)]
    for side, expected in ((bars[:, :half], [2, 8, 4]), (bars[:, half:], positions)):
        filled = side.sum(1)
        starts = np.flatnonzero((filled[1:] > 0) & (filled[:-1] == 0)) + 1
        lengths = np.array([filled[start + 3] for start in starts])
        assert len(lengths) == 3
        assert lengths / lengths.max() == pytest.approx(np.array(expected) / max(expected), abs=0.02)
