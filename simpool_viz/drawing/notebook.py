"""What a notebook shows of a recording, a map, a mask and a board: a small picture, and a caption below it.

The values find this module by its name (`outputs.Displayed`). Captions are HTML in which every name is escaped, since
names of files, classes and checkpoints come from elsewhere.
"""

from __future__ import annotations

import base64
import html
import io
from functools import singledispatch
from typing import Any

import numpy as np
from PIL import Image

from simpool_viz.board.board import Board
from simpool_viz.drawing.pixels import DrawingStyle, colour_map, display_picture
from simpool_viz.drawing.render import render_board
from simpool_viz.images import Geometry
from simpool_viz.maps.attention_map import AttentionMap
from simpool_viz.maps.registry import map_methods, maps_of
from simpool_viz.maps.scale import scale_of
from simpool_viz.masks import ObjectMask, mask_rules
from simpool_viz.recording import Recording

SMALL, WIDE = 320, 1200  # pixels of the longer side of one picture, and of the width of a board
MOST_NAMES = 8  # of maps, that a caption lists


@singledispatch
def picture_of(value: Any) -> Image.Image | None:
    """The picture of a value.

    Args:
        value: a `Recording`, an `AttentionMap`, an `ObjectMask` or a `Board`.

    Returns:
        An RGB picture, a mask as greys; None for an empty board.

    Raises:
        TypeError: something else.
    """
    raise TypeError(f"there is no picture of a {type(value).__name__}")


@singledispatch
def caption_of(value: Any) -> list[str]:
    """The lines below the picture of a value, as plain text.

    Args:
        value: as for `picture_of`.

    Raises:
        TypeError: something else.
    """
    raise TypeError(f"there is no caption of a {type(value).__name__}")


def display_png(value: Any) -> bytes | None:
    """The picture of a value as a PNG; None where there is none."""
    picture = picture_of(value)
    if picture is None:
        return None
    out = io.BytesIO()
    picture.save(out, "PNG")
    return out.getvalue()


def display_html(value: Any) -> str | None:
    """The picture of a value with its caption, as HTML without scripts or addresses; None where there is none."""
    png = display_png(value)
    if png is None:
        return None
    title, *lines = (html.escape(line) for line in caption_of(value))
    text = "<br>".join([f"<strong>{title}</strong>", *lines])
    source = f"data:image/png;base64,{base64.b64encode(png).decode()}"
    return (
        f'<figure style="margin:0"><img alt="{title}" style="max-width:100%" src="{source}">'
        f"<figcaption>{text}</figcaption></figure>"
    )


def _size(geometry: Geometry) -> tuple[int, int]:
    """(width, height) of the picture at a longer side of at most `SMALL` pixels."""
    width, height = geometry.original
    factor = min(1.0, SMALL / max(width, height))
    return max(1, round(width * factor)), max(1, round(height * factor))


@picture_of.register
def _(value: Recording) -> Image.Image:
    return Image.fromarray(display_picture(value.picture.rgb, SMALL))


@picture_of.register
def _(value: AttentionMap) -> Image.Image:
    fused = value.fused()
    drawn = colour_map(
        fused, scale_of(fused, value.unit), value.signed, DrawingStyle(smooth=False), _size(value.geometry)
    )
    return Image.fromarray(drawn)


@picture_of.register
def _(value: ObjectMask) -> Image.Image:
    return Image.fromarray(np.where(value.pixels(size=_size(value.geometry)), 255, 0).astype(np.uint8))


@picture_of.register
def _(value: Board) -> Image.Image | None:
    if not value.pictures or not value.rows:
        return None
    drawn = render_board(value)
    if drawn.width <= WIDE:
        return drawn
    return drawn.resize((WIDE, max(1, round(drawn.height * WIDE / drawn.width))), Image.Resampling.LANCZOS)


@caption_of.register
def _(value: Recording) -> list[str]:
    facts, (h, w) = value.encoder.facts, value.tokens.grid
    width, height = value.geometry.original
    classes = ", ".join(f"{name} {100 * probability:.0f} %" for _, name, probability in value.top_classes(3))
    maps = [name for name, why in maps_of(value.encoder).items() if why is None]
    return [
        f"{facts.title or facts.name} on {value.picture.name}",
        f"{width} x {height} pixels, {w} x {h} tokens, {len(value.blocks)} blocks of attention",
        *([f"classes: {classes}"] if classes else []),
        f"maps: {', '.join(maps)}",
    ]


@caption_of.register
def _(value: AttentionMap) -> list[str]:
    fused, (h, w) = value.fused(), value.geometry.grid
    scale, names = scale_of(fused, value.unit), list(value.names)
    more = [f"and {len(names) - MOST_NAMES} more"] if len(names) > MOST_NAMES else []
    return [
        map_methods()[value.method].title if value.method in map_methods() else value.method,
        f"{w} x {h} tokens, colours from {scale.low:.3g} to {scale.high:.3g} {scale.label}",
        ", ".join([*names[:MOST_NAMES], *more]),
        *([value.note] if value.note else []),
    ]


@caption_of.register
def _(value: ObjectMask) -> list[str]:
    boxes = ", ".join(str(tuple(box)) for box in value.boxes)
    amount = "" if value.amount is None else f" {value.amount:g}"
    return [
        f"Object mask: {mask_rules()[value.rule].title}{amount}",
        f"{100 * value.coverage:.0f} % of the picture, {value.components} "
        f"{'component' if value.components == 1 else 'components'}",
        f"boxes (x0, y0, x1, y1): {boxes or 'none'}",
    ]


@caption_of.register
def _(value: Board) -> list[str]:
    checkpoints = list(dict.fromkeys(row.checkpoint for row in value.rows))
    photos = ", ".join(picture.name for picture in value.pictures)
    return [f"{len(value.rows)} maps of {photos}", f"checkpoints: {', '.join(checkpoints)}", *value.skipped]
