"""Rows of a board as pictures, and the whole board as one."""

from __future__ import annotations

from collections.abc import Callable
from operator import attrgetter
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from simpool_viz.board.board import Board, Row
from simpool_viz.drawing.board_picture import Strip, compose_board
from simpool_viz.drawing.pixels import (
    DIVERGING,
    DrawingStyle,
    colour_map,
    cut_out,
    display_boxes,
    display_picture,
    overlay,
)
from simpool_viz.maps.scale import Scale, scale_of, shared_scales
from simpool_viz.outputs import write_picture
from simpool_viz.refinement import refine

LONGEST = 1024  # pixels of the exported overlays and masks
SUFFIXES = {"jpeg": "jpg", "png": "png"}
BOARD_HEIGHT = 300  # pixels, about, of a picture on the board


def render_row(
    board: Board, row: Row, scale: Scale, style: DrawingStyle, longest: int = LONGEST
) -> tuple[np.ndarray, np.ndarray]:
    """Overlay and cut-out of a row.

    Args:
        board: the board that holds the row's picture.
        row: the row to draw.
        scale: its colour scale, as from `row_scales`.
        style: colours, opacity and smoothing.
        longest: pixels of the longer side, at most.

    Returns:
        The map over the picture and the masked object, (H, W, 3) uint8 each.
    """
    rgb = display_picture(board.pictures[row.picture].rgb, longest)
    size = rgb.shape[1], rgb.shape[0]
    colours = colour_map(row.mask.weights, scale, row.attention.signed, style, size)
    mask = refine(row.mask.pixels(size=size), rgb, row.refine)
    return overlay(rgb, colours, style.opacity), cut_out(rgb, mask, display_boxes(mask) if style.boxes else [])


def row_scales(board: Board, style: DrawingStyle) -> list[Scale]:
    """The colour scale of each row: its own, or the board's where the style shares one."""
    scales = [scale_of(row.mask.weights, row.attention.unit) for row in board.rows]
    return shared_scales(scales) if style.shared_scale else scales


def render_board(
    board: Board, style: DrawingStyle | None = None, caption: Callable[[Row], list[str]] = attrgetter("lines")
) -> Image.Image:
    """The whole board as one RGB picture, one block per photo.

    Args:
        board: with at least one picture.
        style: how maps are drawn; the default style where None.
        caption: the lines beside a row.
    """
    style = style or DrawingStyle()
    scales, blocks = row_scales(board, style), []
    for index, picture in enumerate(board.pictures):
        width, height = picture.size
        longest = round(BOARD_HEIGHT * max(1.0, min(width / height, 1.6)))
        strips = []
        for row, scale in zip(board.rows, scales, strict=True):
            if row.picture == index:
                images = render_row(board, row, scale, style, longest)
                strips.append(
                    Strip(
                        row.title,
                        caption(row),
                        list(images),
                        scale,
                        DIVERGING if row.attention.signed else style.colours,
                    )
                )
        blocks.append(compose_board(display_picture(picture.rgb, longest), picture.name, strips))
    whole = Image.new("RGB", (max(b.width for b in blocks), sum(b.height for b in blocks)), "white")
    for i, block in enumerate(blocks):
        whole.paste(block, (0, sum(b.height for b in blocks[:i])))
    return whole


def save_picture(picture: np.ndarray, path: Path) -> None:
    """Write a picture as its suffix says: JPEG, which takes a tenth of the time, or PNG, which loses nothing.

    Args:
        picture: (H, W, 3) uint8, RGB.
        path: ending in .jpg or .png.

    Raises:
        OSError: the file cannot be written.
    """
    options: dict[str, Any] = {"quality": 90, "subsampling": 0} if path.suffix == ".jpg" else {"compress_level": 1}
    write_picture(Image.fromarray(picture), path, **options)
