"""Drawing: scales in times uniform, colours by matplotlib's own tables, overlays and cut-outs to the pixel, and no
figure made."""

from __future__ import annotations

import matplotlib
import numpy as np
import pytest
from PIL import Image

from simpool_viz.drawing.pixels import (
    BOX,
    DIVERGING,
    OUTLINE,
    SEQUENTIAL,
    DrawingStyle,
    colour_map,
    colour_table,
    cut_out,
    display_boxes,
    display_picture,
    overlay,
)
from simpool_viz.maps.scale import Scale
from tests.helpers import noisy_photo
from tests.oracles.masks import bilinear, token_of_centre


@pytest.mark.parametrize("name", [*SEQUENTIAL, DIVERGING])
def test_colour_table_is_that_of_matplotlib(name: str) -> None:
    table = colour_table(name)
    assert table.shape == (256, 3) and table.dtype == np.uint8
    assert np.abs(table - 255 * matplotlib.colormaps[name](np.arange(256))[:, :3]).max() <= 0.5 + 1e-9


def test_patches_show_each_cell_in_the_colour_of_its_times_uniform() -> None:
    weights = np.random.default_rng(3).random((4, 7)).astype(np.float32)
    weights /= weights.sum()
    scale, style = Scale(0.0, 2.5, "times uniform", 28.0), DrawingStyle("viridis", smooth=False)
    drawn = colour_map(weights, scale, False, style, (91, 60))
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
    drawn = colour_map(weights, Scale(0.0, 2.0, "", 28.0), False, DrawingStyle("gray", smooth=True), (45, 30))
    wanted = (bilinear(weights, 45, 30) * 28 / 2 * 255).clip(0, 255)
    assert np.abs(drawn[:, :, 0] - wanted).max() <= 0.5 + 1e-3
    patches = colour_map(weights, Scale(0.0, 2.0, "", 28.0), False, DrawingStyle("gray", smooth=False), (45, 30))
    assert len(np.unique(drawn)) > len(np.unique(patches)) and len(np.unique(patches)) <= 28


def test_values_beyond_the_scale_take_its_end_colours() -> None:
    weights = np.array([[-1.0, 0.0, 1.0, 9.0]], np.float32)
    drawn = colour_map(weights, Scale(0.0, 4.0, "", 4.0), False, DrawingStyle("magma"), (4, 1))[0]
    table = colour_table("magma")
    assert np.array_equal(drawn[[0, 1, 3]], table[[0, 0, 255]]) and np.array_equal(drawn[2], table[255])


def test_signed_maps_are_blue_below_zero_pale_at_zero_and_red_above_in_their_own_unit() -> None:
    weights = np.array([[-2.0, 0.0, 2.0]], np.float32)
    drawn = colour_map(weights, Scale(-2.0, 2.0, ""), True, DrawingStyle("viridis"), (3, 1))[0].astype(int)
    assert np.array_equal(drawn, colour_table(DIVERGING)[[0, 128, 255]])
    assert drawn[0, 2] > drawn[0, 0] and drawn[2, 0] > drawn[2, 2] and drawn[1].min() > 230


@pytest.mark.parametrize(
    ("opacity", "colours"), [(-0.1, "inferno"), (1.1, "inferno"), (float("nan"), "inferno"), (0.5, "jet")]
)
def test_look_refuses_what_cannot_be_drawn(opacity: float, colours: str) -> None:
    with pytest.raises(
        ValueError, match=r"colours are inferno, .* not 'jet'" if colours == "jet" else "opacity lies in"
    ):
        DrawingStyle(colours, opacity)


def test_overlay_mixes_by_opacity() -> None:
    rgb, colours = noisy_photo(), noisy_photo()[::-1].copy()
    assert np.array_equal(overlay(rgb, colours, 0), rgb) and np.array_equal(overlay(rgb, colours, 1), colours)
    mixed = overlay(rgb, colours, 0.3).astype(float)
    assert (
        np.abs(mixed - (0.3 * colours + 0.7 * rgb)).max() <= 0.5 + 1e-6 and overlay(rgb, colours, 0.3).dtype == np.uint8
    )


def test_overlay_takes_a_read_only_picture() -> None:
    """As `np.asarray` of a PIL image gives it."""
    rgb = np.asarray(Image.fromarray(noisy_photo()))
    assert not rgb.flags.writeable and np.array_equal(overlay(rgb, noisy_photo(), 0), noisy_photo())
    assert cut_out(rgb, np.ones((60, 91), bool), []).shape == (60, 91, 3)


def test_cut_out_keeps_the_masked_pixels_and_darkens_and_greys_the_rest() -> None:
    rgb, mask = noisy_photo(), np.zeros((60, 91), bool)
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
    cut = cut_out(noisy_photo(), np.zeros((60, 91), bool), [(20, 10, 70, 40)])
    blue = (cut == BOX).all(axis=2)
    rows, columns = np.nonzero(blue)
    assert (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1) == (20, 10, 70, 40)
    assert blue[10, 20:70].all() and blue[39, 20:70].all() and not blue[11:39, 21:69].any()


def test_empty_and_full_masks_are_drawn() -> None:
    assert cut_out(noisy_photo(), np.zeros((60, 91), bool), []).max() <= 0.22 * 255 + 12
    assert np.array_equal(cut_out(noisy_photo(), np.ones((60, 91), bool), [])[1:-1, 1:-1], noisy_photo()[1:-1, 1:-1])


def test_display_boxes_leave_specks_out_unless_there_is_nothing_else() -> None:
    mask = np.zeros((100, 200), bool)
    mask[3, 5] = True
    assert display_boxes(mask) == [(5, 3, 6, 4)]
    mask[20:50, 60:90] = True
    assert display_boxes(mask) == [(60, 20, 90, 50)]
    assert display_boxes(np.zeros((100, 200), bool)) == []


@pytest.mark.parametrize(("longest", "size"), [(91, (91, 60)), (200, (91, 60)), (45, (45, 30)), (1, (1, 1))])
def test_display_picture_is_reduced_and_never_enlarged(longest: int, size: tuple[int, int]) -> None:
    shown = display_picture(noisy_photo(), longest)
    assert shown.shape == (size[1], size[0], 3)
    if size == (91, 60):
        assert np.array_equal(shown, noisy_photo())
