"""Drawing: scales in times uniform, colours by matplotlib's own tables, overlays and cut-outs to the pixel, and no
figure made."""

from __future__ import annotations

import subprocess
import sys

import matplotlib
import numpy as np
import pytest
from PIL import Image

from simpool_viz.drawing.board_picture import Strip, compose_board
from simpool_viz.drawing.pixels import (
    BOX,
    DIVERGING,
    OUTLINE,
    SEQUENTIAL,
    Look,
    colour_map,
    colour_table,
    cut_out,
    display_boxes,
    display_picture,
    overlay,
)
from simpool_viz.maps.scale import Scale, scale_of, shared_scales
from tests.oracles.masks import bilinear, token_of_centre


def photo(height: int = 60, width: int = 91) -> np.ndarray:
    return np.random.default_rng(0).integers(256, size=(height, width, 3), dtype=np.uint8)


# --- scales
# ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(7, 11), (14, 14), (56, 40), (1, 5)])
def test_uniform_map_is_drawn_as_one_times_uniform_on_every_grid(shape: tuple[int, int]) -> None:
    scale = scale_of(np.full(shape, 1 / (shape[0] * shape[1]), np.float32), "uniform")
    assert scale.low == 0 and scale.high == pytest.approx(1) and scale.label == "times uniform"


def test_scale_runs_from_zero_to_the_995th_percentile_of_n_w() -> None:
    weights = np.random.default_rng(1).exponential(size=(20, 30))
    weights /= weights.sum()
    times_uniform = sorted(600 * float(w) for w in weights.ravel())
    place = 0.995 * 599
    wanted = times_uniform[int(place)] + (place - int(place)) * (
        times_uniform[int(place) + 1] - times_uniform[int(place)]
    )
    scale = scale_of(weights, "uniform")
    assert scale.low == 0 and scale.high == pytest.approx(wanted)


def test_signed_scale_is_symmetric_and_in_its_own_unit() -> None:
    weights = np.random.default_rng(2).normal(size=(20, 30)) - 0.3
    scale = scale_of(weights, "logit")
    assert scale.high == -scale.low == pytest.approx(np.percentile(np.abs(weights), 99.5))
    assert scale.label != "times uniform"


@pytest.mark.parametrize("signed", [False, True])
def test_map_of_zeros_has_a_scale_and_the_colour_of_zero(signed: bool) -> None:
    zeros = np.zeros((3, 5), np.float32)
    scale = scale_of(zeros, "logit" if signed else "uniform")
    assert scale.high > scale.low
    table = colour_table(DIVERGING if signed else "inferno")
    assert (colour_map(zeros, scale, signed, Look(), (10, 6)) == table[128 if signed else 0]).all(axis=2).all()


def test_shared_scales_span_all_rows_of_a_kind_and_leave_the_other_kind_alone() -> None:
    scales = [
        Scale(0, 3, "times uniform"),
        Scale(-2, 2, "logit per token"),
        Scale(0, 8, "times uniform"),
        Scale(-5, 5, "logit per token"),
    ]
    assert shared_scales(scales) == [
        Scale(0, 8, "times uniform"),
        Scale(-5, 5, "logit per token"),
        Scale(0, 8, "times uniform"),
        Scale(-5, 5, "logit per token"),
    ]
    assert shared_scales([]) == []


# --- colours
# ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [*SEQUENTIAL, DIVERGING])
def test_colour_table_is_that_of_matplotlib(name: str) -> None:
    table = colour_table(name)
    assert table.shape == (256, 3) and table.dtype == np.uint8
    assert np.abs(table - 255 * matplotlib.colormaps[name](np.arange(256))[:, :3]).max() <= 0.5 + 1e-9


def test_patches_show_each_cell_in_the_colour_of_its_times_uniform() -> None:
    weights = np.random.default_rng(3).random((4, 7)).astype(np.float32)
    weights /= weights.sum()
    scale, look = Scale(0.0, 2.5, "times uniform"), Look("viridis")
    drawn = colour_map(weights, scale, False, look, (91, 60))
    table = colour_table("viridis")
    for y in range(0, 60, 7):
        for x in range(0, 91, 6):
            value = 28 * float(weights[token_of_centre(y, 60, 4), token_of_centre(x, 91, 7)])
            wanted = min(255, round(255 * value / 2.5))
            assert (
                min(np.abs(table[max(0, min(255, wanted + d))].astype(int) - drawn[y, x]).max() for d in (-1, 0, 1))
                == 0
            )
    assert len(np.unique(drawn.reshape(-1, 3), axis=0)) <= 28


def test_smooth_colours_are_those_of_the_bilinear_map() -> None:
    weights = np.random.default_rng(4).random((4, 7)).astype(np.float32) / 14
    drawn = colour_map(weights, Scale(0.0, 2.0, ""), False, Look("gray", smooth=True), (45, 30))
    wanted = (bilinear(weights, 45, 30) * 28 / 2 * 255).clip(0, 255)
    assert np.abs(drawn[:, :, 0] - wanted).max() <= 0.5 + 1e-3
    patches = colour_map(weights, Scale(0.0, 2.0, ""), False, Look("gray"), (45, 30))
    assert len(np.unique(drawn)) > len(np.unique(patches)) and len(np.unique(patches)) <= 28


def test_values_beyond_the_scale_take_its_end_colours() -> None:
    weights = np.array([[-1.0, 0.0, 1.0, 9.0]], np.float32)
    drawn = colour_map(weights, Scale(0.0, 4.0, ""), False, Look("magma"), (4, 1))[0]
    table = colour_table("magma")
    assert np.array_equal(drawn[[0, 1, 3]], table[[0, 0, 255]]) and np.array_equal(drawn[2], table[255])


def test_signed_maps_are_blue_below_zero_pale_at_zero_and_red_above_in_their_own_unit() -> None:
    weights = np.array([[-2.0, 0.0, 2.0]], np.float32)
    drawn = colour_map(weights, Scale(-2.0, 2.0, ""), True, Look("viridis"), (3, 1))[0].astype(int)
    assert np.array_equal(drawn, colour_table(DIVERGING)[[0, 128, 255]])
    assert drawn[0, 2] > drawn[0, 0] and drawn[2, 0] > drawn[2, 2] and drawn[1].min() > 230


@pytest.mark.parametrize(
    ("opacity", "colours"), [(-0.1, "inferno"), (1.1, "inferno"), (float("nan"), "inferno"), (0.5, "jet")]
)
def test_look_refuses_what_cannot_be_drawn(opacity: float, colours: str) -> None:
    with pytest.raises(
        ValueError, match=r"colours are inferno, .* not 'jet'" if colours == "jet" else "opacity lies in"
    ):
        Look(colours, opacity)


# --- overlays and cut-outs
# --------------------------------------------------------------------------------------------------


def test_overlay_mixes_by_opacity() -> None:
    rgb, colours = photo(), photo()[::-1].copy()
    assert np.array_equal(overlay(rgb, colours, 0), rgb) and np.array_equal(overlay(rgb, colours, 1), colours)
    mixed = overlay(rgb, colours, 0.3).astype(float)
    assert (
        np.abs(mixed - (0.3 * colours + 0.7 * rgb)).max() <= 0.5 + 1e-6 and overlay(rgb, colours, 0.3).dtype == np.uint8
    )


def test_overlay_takes_a_read_only_picture() -> None:
    """As `np.asarray` of a PIL image gives it."""
    rgb = np.asarray(Image.fromarray(photo()))
    assert not rgb.flags.writeable and np.array_equal(overlay(rgb, photo(), 0), photo())
    assert cut_out(rgb, np.ones((60, 91), bool), []).shape == (60, 91, 3)


def test_cut_out_keeps_the_masked_pixels_and_darkens_and_greys_the_rest() -> None:
    rgb, mask = photo(), np.zeros((60, 91), bool)
    mask[10:40, 20:70] = True
    before = rgb.copy()
    cut = cut_out(rgb, mask, [])
    assert np.array_equal(rgb, before), "the picture itself is not drawn on"
    assert np.array_equal(cut[11:39, 21:69], rgb[11:39, 21:69])
    border = mask.copy()
    border[11:39, 21:69] = False
    assert (cut[border] == OUTLINE).all()
    rest = cut[~mask]
    assert (rest == rest[:, :1]).all() and rest.max() <= 0.22 * 255 + 12


def test_cut_out_outlines_holes_as_well() -> None:
    mask = np.ones((60, 91), bool)
    mask[20:30, 40:50] = False
    cut = cut_out(np.zeros((60, 91, 3), np.uint8), mask, [])
    ring = np.zeros(mask.shape, bool)
    ring[19:31, 39:51] = True
    white = (cut == OUTLINE).all(axis=2)
    assert white[ring & mask].mean() > 0.9 and not white[~mask].any()


def test_boxes_are_drawn_on_their_first_and_last_pixels() -> None:
    cut = cut_out(photo(), np.zeros((60, 91), bool), [(20, 10, 70, 40)])
    blue = (cut == BOX).all(axis=2)
    rows, columns = np.nonzero(blue)
    assert (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1) == (20, 10, 70, 40)
    assert blue[10, 20:70].all() and blue[39, 20:70].all() and not blue[11:39, 21:69].any()


def test_empty_and_full_masks_are_drawn() -> None:
    assert cut_out(photo(), np.zeros((60, 91), bool), []).max() <= 0.22 * 255 + 12
    assert np.array_equal(cut_out(photo(), np.ones((60, 91), bool), [])[1:-1, 1:-1], photo()[1:-1, 1:-1])


def test_display_boxes_leave_specks_out_unless_there_is_nothing_else() -> None:
    mask = np.zeros((100, 200), bool)
    mask[3, 5] = True
    assert display_boxes(mask) == [(5, 3, 6, 4)]
    mask[20:50, 60:90] = True
    assert display_boxes(mask) == [(60, 20, 90, 50)]
    assert display_boxes(np.zeros((100, 200), bool)) == []


@pytest.mark.parametrize(("longest", "size"), [(91, (91, 60)), (200, (91, 60)), (45, (45, 30)), (1, (1, 1))])
def test_display_picture_is_reduced_and_never_enlarged(longest: int, size: tuple[int, int]) -> None:
    shown = display_picture(photo(), longest)
    assert shown.shape == (size[1], size[0], 3)
    if size == (91, 60):
        assert np.array_equal(shown, photo())


# --- the board
# -------------------------------------------------------------------------------------------------------------


def test_composed_board_shows_photo_overlay_and_mask_of_every_row_unchanged() -> None:
    pictures = [photo(60, 91) // 2 + 10 * i for i in range(5)]
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
        "c = colour_map(np.ones((3, 5), np.float32), s, False, Look(), (91, 60))\n"
        "compose_board(p, 'photo', [Strip('t', ['l'], [overlay(p, c, 0.5), cut_out(p, p[:, :, 0] == 0, [])], s, "
        "'inferno')])\n"
        "sys.exit('matplotlib.pyplot' in sys.modules or 'matplotlib.figure' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], timeout=600).returncode == 0


def test_maps_of_any_scale_are_drawn_in_times_their_mean() -> None:
    weights = np.random.default_rng(0).random((4, 6)).astype(np.float32)
    one, other = scale_of(weights, "mean"), scale_of(weights * 1000, "mean")
    assert one.label == other.label == "times its mean" and one.high == pytest.approx(other.high, rel=1e-5)
    drawn = [
        colour_map(w, s, False, Look(), (60, 40)).astype(int) for w, s in ((weights, one), (weights * 1000, other))
    ]
    assert np.abs(drawn[0] - drawn[1]).max() <= 8, "at most one step of the colour table, by rounding"
    shares = weights / weights.sum()
    assert scale_of(shares, "mean").high == pytest.approx(scale_of(shares, "uniform").high)
    zeros = np.zeros((4, 6), np.float32)
    assert np.isfinite(colour_map(zeros, scale_of(zeros, "mean"), False, Look(), (60, 40))).all()


def test_rows_share_a_scale_with_rows_of_their_own_unit_only() -> None:
    weights = np.random.default_rng(0).random((4, 6)).astype(np.float32)
    uniform, mean, larger = scale_of(weights, "uniform"), scale_of(weights, "mean"), scale_of(weights**4, "mean")
    shared = shared_scales([uniform, mean, larger])
    assert shared[0] == uniform and shared[1].high == shared[2].high == max(mean.high, larger.high)
    assert shared[1].factor == mean.factor and shared[2].factor == larger.factor
