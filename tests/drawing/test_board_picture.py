"""The picture of a whole board: every row unchanged, captions whole."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest

from simpool_viz.drawing.board_picture import Strip, compose_board
from simpool_viz.drawing.pixels import DIVERGING, colour_table
from simpool_viz.maps.scale import Scale
from tests.helpers import noisy_photo


def test_composed_board_shows_photo_overlay_and_mask_of_every_row_unchanged() -> None:
    pictures = [noisy_photo(60, 91) // 2 + 10 * i for i in range(5)]
    strips = [
        Strip("first", ["a", "b"], pictures[1:3], Scale(0, 3, "times uniform"), "inferno"),
        Strip("second", ["c"], pictures[3:5], Scale(-1, 1, "logit per token"), DIVERGING),
    ]
    board = np.asarray(compose_board(pictures[0], "photo.jpg", strips))
    places = [
        (y, x)
        for wanted in pictures
        for y, x in np.argwhere((board[: board.shape[0] - 59, : board.shape[1] - 90] == wanted[0, 0]).all(axis=2))
        if np.array_equal(board[y : y + 60, x : x + 91], wanted)
    ]
    assert len(places) == 5
    assert places[1][0] == places[2][0] == places[0][0] and places[3][0] == places[4][0] > places[1][0] + 60
    assert places[1][1] == places[3][1] > places[0][1] and places[2][1] == places[4][1] > places[1][1]


LINES = [
    "predicts tench, 42 %",
    "mask 30 % of picture, 2 components",
    "spatial entropy 0.69 nats of logits",
    "grid 15 x 1, 3 ms",
]


def board_of(size: tuple[int, int], rows: int = 1, lines: list[str] = LINES) -> np.ndarray:
    picture = np.zeros((*size, 3), np.uint8)
    strip = Strip("ResNet: pooling", lines, [picture, picture], Scale(0, 3, "times uniform"), "viridis")
    return np.asarray(compose_board(picture, "photo", [strip] * rows))


@pytest.mark.parametrize("size", [(30, 480), (300, 30), (8, 8)])
def test_rows_of_elongated_and_tiny_photos_have_the_same_whole_caption(size: tuple[int, int]) -> None:
    roomy, board = board_of((300, 200)), board_of(size, rows=2)
    written = np.flatnonzero((roomy[64:, -330:] != 255).any(axis=(1, 2)))
    assert len(written) > 60
    # Where the lines stop and the room above the colour bar begins.
    end = written[np.flatnonzero(np.diff(written) > 30)[0]] + 1
    caption = roomy[64 : 64 + end, -330:]
    tops = [y for y in range(len(board) - end) if np.array_equal(board[y : y + end, -330:], caption)]
    assert len(tops) == 2, "both rows have it, without the colour bar or another row drawn over it"
    rows = (board == colour_table("viridis")[0]).all(axis=2).any(axis=1)
    assert rows.sum() == 20, "two colour bars of 10 pixels"


def test_long_caption_lines_are_wrapped_and_not_cut_at_the_edge() -> None:
    note = "a heuristic here: the classifier's head is applied to every patch token"
    board = board_of((300, 200), lines=[note])
    assert (board[:, -8:] == 255).all(), "nothing reaches the edge"
    assert ((board != 255).any(axis=2).sum()) > (
        (board_of((300, 200), lines=[note[:40]]) != 255).any(axis=2).sum()
    ) + 200


def test_no_figure_is_made_and_pyplot_never_imported() -> None:
    code = (
        "import sys, numpy as np\n"
        "from simpool_viz.drawing.board_picture import *\n"
        "from simpool_viz.drawing.pixels import *\n"
        "from simpool_viz.maps.scale import *\n"
        "p = np.zeros((60, 91, 3), np.uint8)\n"
        "s = scale_of(np.ones((3, 5), np.float32), 'uniform')\n"
        "c = colour_map(np.ones((3, 5), np.float32), s, False, DrawingStyle(), (91, 60))\n"
        "compose_board(p, 'photo', [Strip('t', ['l'], [overlay(p, c, 0.5), cut_out(p, p[:, :, 0] == 0, [])], s, "
        "'inferno')])\n"
        "sys.exit('matplotlib.pyplot' in sys.modules or 'matplotlib.figure' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], timeout=600).returncode == 0
