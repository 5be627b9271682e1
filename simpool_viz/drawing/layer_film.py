"""The maps of a checkpoint's blocks one after another, as the frames of a film."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from PIL import Image, ImageDraw

from simpool_viz.board.every_head import layers
from simpool_viz.drawing.board_picture import INK, PAPER, font
from simpool_viz.drawing.pixels import WIDEST, DrawingStyle, colour_map, display_picture, overlay
from simpool_viz.images import Geometry, Picture
from simpool_viz.maps.attention_map import AttentionMap
from simpool_viz.maps.scale import scale_of, shared_scales

RATE = 2.0  # blocks per second
ASKED = (255, 122, 0)  # of the frame around the token that was asked for
LINE = 30  # pixels of the caption's height


def layer_frames(
    picture: Picture,
    maps: list[AttentionMap],
    fusion: str | int = "mean",
    style: DrawingStyle | None = None,
    at: tuple[float, float] | None = None,
    longest: int = WIDEST,
) -> Iterator[np.ndarray]:
    """One frame per block: its map over the photo, and a caption that counts the blocks.

    Args:
        picture: the photo.
        maps: of every block, from `every_head`.
        fusion: of the heads, as for `layers`.
        style: how maps are drawn; with a shared scale, one range for all blocks.
        at: (x, y) in pixels of the photo, in the token that was asked for, which is marked.
        longest: pixels of the longer side, at most.

    Yields:
        (H, W, 3) uint8 RGB.
    """
    style, photo = style or DrawingStyle(), display_picture(picture.rgb, longest)
    size = photo.shape[1], photo.shape[0]
    fused = layers(maps, fusion)
    scales = [scale_of(weights, one.unit) for weights, one in zip(fused, maps, strict=True)]
    scales = shared_scales(scales) if style.shared_scale else scales
    heads = f"{fusion} of {len(maps[0].names)} heads" if isinstance(fusion, str) else f"head {fusion}"
    for block, (weights, scale, one) in enumerate(zip(fused, scales, maps, strict=True)):
        caption = Image.new("RGB", (size[0], LINE), PAPER)
        text = f"block {block} (0 to {len(maps) - 1}), {heads}, up to {scale.high:.2g} {scale.label}"
        letters = next((font(s) for s in (16, 14, 12, 10) if font(s).getlength(text) <= size[0] - 12), font(8))
        ImageDraw.Draw(caption).text((6, LINE // 2), text, INK, letters, anchor="lm")
        colours = colour_map(weights, scale, one.signed, style, size)
        frame = Image.fromarray(overlay(photo, colours, style.opacity))
        if at is not None:
            _mark(frame, one.geometry, at)
        yield np.concatenate([np.asarray(frame), np.asarray(caption)])


def _mark(frame: Image.Image, geometry: Geometry, at: tuple[float, float]) -> None:
    """Draw a frame around the token that was asked for."""
    row, column = geometry.token_at(*at)
    x0, y0, x1, y1 = geometry.box_to_pixels((column, row, column + 1, row + 1))
    along, down = frame.width / geometry.original[0], frame.height / geometry.original[1]
    corners = (x0 * along, y0 * down, x1 * along - 1, y1 * down - 1)
    draw = ImageDraw.Draw(frame)
    draw.rectangle([corners[0] - 1, corners[1] - 1, corners[2] + 1, corners[3] + 1], outline=INK, width=1)
    draw.rectangle(corners, outline=ASKED, width=2)
