"""The board as one picture: the photo, and per row its overlay, mask, caption and colour bar."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from simpool_viz.drawing.pixels import colour_table
from simpool_viz.maps.scale import Scale

INK, PAPER, FAINT = (24, 24, 27), (255, 255, 255), (105, 105, 112)
SIDE = 330  # pixels of a caption's width
Line = tuple[str, int, tuple[int, int, int], int]  # of a caption: text, font size, colour, height in pixels


@dataclass(frozen=True)
class Strip:
    """One row of the board as drawn.

    Attributes:
        title: of the row.
        lines: of the caption.
        pictures: overlay and cut-out, (H, W, 3) uint8 each.
        scale: of the colour bar.
        colours: colour table of the colour bar.
    """

    title: str
    lines: list[str]
    pictures: list[np.ndarray]
    scale: Scale
    colours: str


def compose_board(photo: np.ndarray, title: str, strips: list[Strip]) -> Image.Image:
    """The photo once at the left, and per strip its overlay, mask, caption and colour bar.

    Args:
        photo: (H, W, 3) uint8.
        title: of the photo.
        strips: rows, whose pictures have the size of the photo.

    Returns:
        An RGB picture.
    """
    height, width = photo.shape[:2]
    gap, top = 16, 64
    captions = [_caption_lines(strip) for strip in strips]
    column, row = max(width, 84) + gap, max([height, *map(_caption_height, captions)]) + gap
    board = Image.new("RGB", (gap + 3 * column + SIDE + gap, top + max(1, len(strips)) * row), PAPER)
    draw = ImageDraw.Draw(board)
    draw.text((gap, 14), title, INK, font(20))
    for i, label in enumerate(("photo", "attention", "object mask")):
        draw.text((gap + i * column, 42), label, FAINT, font(13))
    board.paste(Image.fromarray(photo), (gap, top))
    for n, (strip, caption) in enumerate(zip(strips, captions, strict=True)):
        for i, picture in enumerate(strip.pictures, 1):
            board.paste(Image.fromarray(picture), (gap + i * column, top + n * row))
        _draw_caption(board, strip, caption, gap + 3 * column, top + n * row, row - gap)
    return board


def wrap(text: str, size: int, width: int = SIDE) -> list[str]:
    """Break a text into lines.

    Args:
        text: words with spaces between them.
        size: of the font in pixels.
        width: of a line in pixels, at most; a single longer word has a line of its own.

    Returns:
        The lines, at least one.
    """
    letters, lines = font(size), [""]
    for word in text.split():
        longer = f"{lines[-1]} {word}".lstrip()
        if lines[-1] and letters.getlength(longer) > width:
            lines.append(word)
        else:
            lines[-1] = longer
    return lines


def _caption_lines(strip: Strip) -> list[Line]:
    title = [(line, 16, INK, 23) for line in wrap(strip.title, 16)]
    return title + [(line, 13, FAINT, 19) for text in strip.lines for line in wrap(text, 13)]


def _caption_height(lines: list[Line]) -> int:
    return sum(height for *_, height in lines) + 44  # with the colour bar


def _draw_caption(board: Image.Image, strip: Strip, lines: list[Line], x: int, top: int, height: int) -> None:
    draw, y = ImageDraw.Draw(board), top
    for text, size, colour, line in lines:
        draw.text((x, y), text, colour, font(size))
        y += line
    width, y = SIDE - 20, top + height
    bar = colour_table(strip.colours)[np.linspace(0, 255, width).astype(int)][None].repeat(10, 0)
    board.paste(Image.fromarray(bar), (x, y - 32))
    for share in (0.0, 0.5, 1.0):
        value = strip.scale.low + share * (strip.scale.high - strip.scale.low)
        text = f"{value:.3g}" + (f"  {strip.scale.label}" if share == 0 else "")
        anchor = {0.0: "la", 0.5: "ma", 1.0: "ra"}[share]
        draw.text((x + share * width, y - 19), text, FAINT, font(12), anchor=anchor)


@lru_cache(maxsize=16)
def font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    """DejaVu Sans of a size in pixels; matplotlib ships it, so that every machine draws the same letters."""
    import matplotlib

    return ImageFont.truetype(f"{matplotlib.get_data_path()}/fonts/ttf/DejaVuSans.ttf", size)
