"""Writes docs/street_scenes.jpg: `python docs/make_scenes.py SCENE SCENE`, two test scenes as a dense checkpoint finds
them.

The photos themselves are not ours to give away, so no pixel of them is shown: first the segmentation, then the Dense
Attention Roll-Out of four classes, last the plain roll-out.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from simpool_viz import load_checkpoint, record
from simpool_viz.board.segmentation import segment
from simpool_viz.drawing.board_picture import FAINT, INK, PAPER, font
from simpool_viz.drawing.pixels import DrawingStyle, colour_map, palette
from simpool_viz.maps.scale import scale_of

CHECKPOINTS, CLASSES, RESIDUAL = ("camvid_vit", "camvid_vit_life"), ("road", "car", "building", "sky"), "measured"
FIRST = 10  # of the blocks that were trained on streets; roll-outs through all twelve are nearly even
FROM = {"residual": RESIDUAL, "first": FIRST}
WIDTH, GAP, TOP, LEFT = 220, 8, 34, 120


def cells(checkpoint: str, scene: str) -> list[np.ndarray | None]:
    """Segmentation, the maps of the classes (None for one that is not found), and the plain roll-out, each (H, W,
    3)."""
    recording = record(load_checkpoint(checkpoint), scene)
    found, (width, height) = segment(recording), recording.picture.size
    size, style = (WIDTH, round(WIDTH * height / width)), DrawingStyle(smooth=True)
    pictures: list[np.ndarray | None] = [palette(len(found.names))[found.pixels(size)]]
    here = [name for name in CLASSES if found.names.index(name) in found.found()]
    maps = dict(zip(here, recording.map("dense_rollout", classes=here, **FROM).weights, strict=True)) if here else {}
    for weights in (*(maps.get(name) for name in CLASSES), recording.map("rollout", **FROM).weights[0]):
        pictures.append(
            None if weights is None else colour_map(weights, scale_of(weights, "uniform"), False, style, size)
        )
    return pictures


def main(scenes: list[str]) -> None:
    rows = [
        (checkpoint, n, cells(checkpoint, scene)) for n, scene in enumerate(scenes, 1) for checkpoint in CHECKPOINTS
    ]
    height = rows[0][2][0].shape[0]
    figure = Image.new("RGB", (LEFT + (len(CLASSES) + 2) * (WIDTH + GAP), TOP + len(rows) * (height + GAP)), PAPER)
    draw = ImageDraw.Draw(figure)
    for n, title in enumerate(("what the head finds", *CLASSES, "plain roll-out")):
        draw.text((LEFT + n * (WIDTH + GAP), 8), title, INK, font(15))
    for line, (checkpoint, scene, pictures) in enumerate(rows):
        y = TOP + line * (height + GAP)
        draw.multiline_text((8, y + height // 2), f"scene {scene}\n{checkpoint}", INK, font(12), anchor="lm", spacing=4)
        for n, picture in enumerate(pictures):
            x = LEFT + n * (WIDTH + GAP)
            if picture is None:
                draw.text((x + WIDTH // 2, y + height // 2), "not found", FAINT, font(13), anchor="mm")
            else:
                figure.paste(Image.fromarray(picture.astype(np.uint8)), (x, y))
    figure.save(Path(__file__).parent / "street_scenes.jpg", quality=88)


if __name__ == "__main__":
    main(sys.argv[1:])
