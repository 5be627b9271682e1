"""What comes after the forward: exported pictures, scores of a moved threshold, the whole board."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from PIL import Image

from benchmarks.measure import Samples
from simpool_viz.board.board import Board, Settings, make_board
from simpool_viz.checkpoints.bundle import bundled_folder
from simpool_viz.checkpoints.catalogue import catalogue
from simpool_viz.checkpoints.load import load_checkpoints
from simpool_viz.drawing.pixels import DrawingStyle
from simpool_viz.drawing.render import render_row, row_scales, save_picture
from simpool_viz.images import Picture, read_picture
from simpool_viz.scores.localization import score_map
from simpool_viz.scores.references import read_reference

REPEATS = 20


def _milliseconds(work: Callable[[], Any], repeats: int = REPEATS) -> list[float]:
    """Of each repeat, after one that warms up."""
    work()
    taken = []
    for _ in range(repeats):
        started = time.perf_counter()
        work()
        taken.append(1000 * (time.perf_counter() - started))
    return taken


def _names() -> list[str]:
    """Three bundled classifiers, each with a backbone of its own."""
    return [name for name in ("resnet_gap", "resnet_simpool", "vit_simpool") if catalogue()[name].available]


def _board(width: int) -> Board:
    photo = read_picture(bundled_folder("assets") / "chelsea.jpg")
    size = (width, round(width * photo.size[1] / photo.size[0]))
    picture = Picture(np.asarray(Image.fromarray(photo.rgb).resize(size)), "chelsea.jpg")
    return make_board([picture], load_checkpoints(_names()[:2]), ["pooling", "contribution"], Settings())


def drawing(rounds: int, samples: Samples) -> list[str]:
    """Overlay and mask of one map at 1,024 px as files, on one core."""
    board, threads = _board(1024), cv2.getNumThreads()
    row, lines = board.rows[0], []
    cv2.setNumThreads(1)
    with tempfile.TemporaryDirectory() as folder:
        for style in (DrawingStyle(), DrawingStyle(smooth=True)):
            (scale, *_) = row_scales(board, style)
            for suffix in ("jpg", "png"):

                def work(style: DrawingStyle = style, scale: Any = scale, suffix: str = suffix) -> None:
                    for i, picture in enumerate(render_row(board, row, scale, style)):
                        save_picture(picture, Path(folder) / f"{i}.{suffix}")

                kind = "smooth" if style.smooth else "patches"
                what = f"overlay and mask at 1,024 px, {kind}, {suffix}"
                lines.append(f"- {what}: {samples.add(what, 'ms', _milliseconds(work)):.1f} ms a map on one core")
    cv2.setNumThreads(threads)
    return ["\n".join(lines)]


def board(rounds: int, samples: Samples) -> list[str]:
    """The whole board of three checkpoints, and what the server does when a threshold is let go."""
    from simpool_viz.app.board.component import row_payload

    encoders = load_checkpoints(_names())
    photo = read_picture(bundled_folder("assets") / "chelsea.jpg")
    maps = ["pooling", "contribution"]

    def whole() -> list[Any]:
        made = make_board([photo], encoders, maps, Settings())
        return [row_payload(made, row, i) for i, row in enumerate(made.rows)]

    made = make_board([photo], encoders, maps, Settings())
    reference = read_reference(bundled_folder("assets") / "masks" / "chelsea.png")

    def released() -> list[Any]:
        return [score_map(row.attention.mask("mass", 0.55), reference) for row in made.rows]

    width, height = photo.size
    whole_ms = samples.add(f"board of {len(made.rows)} rows", "ms", _milliseconds(whole))
    released_ms = samples.add(f"masks and scores of {len(made.rows)} rows", "ms", _milliseconds(released))
    return [
        f"- {', '.join(_names())} on one photo of {width} x {height}, {len(made.rows)} rows, with the page's payload: "
        f"{whole_ms / 1000:.2f} s (median of {REPEATS})\n"
        f"- masks and scores of these {len(made.rows)} rows against a reference after a threshold was moved: "
        f"{released_ms:.0f} ms"
    ]
