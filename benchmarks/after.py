"""What comes after the forward: exported pictures, scores of a moved threshold, the whole board and a large one."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from PIL import Image

from benchmarks.measure import Samples, in_turns, quartiles
from simpool_viz.board.board import Board, Settings, iterate_board, make_board
from simpool_viz.bundled import bundled_folder
from simpool_viz.checkpoints.catalogue import catalogue
from simpool_viz.checkpoints.load import load_checkpoints
from simpool_viz.drawing.pixels import DrawingStyle
from simpool_viz.drawing.render import render_row, row_scales, save_picture
from simpool_viz.images import Picture, fit, preprocess, read_picture
from simpool_viz.maps.request import MapRequest
from simpool_viz.modeling.sharing import forward_shared
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


def rows(rounds: int, samples: Samples) -> list[str]:
    """Twelve rows: three photos of one shape, four checkpoints of one base, against their plain batched forwards."""
    encoders = load_checkpoints(["vit_cls", "vit_gap", "vit_ggem", "vit_simpool"])
    first, photos = encoders[0], []
    for name in ("chelsea", "coffee", "astronaut"):
        whole = Image.fromarray(read_picture(bundled_folder("assets") / f"{name}.jpg").rgb)
        photos.append(Picture(np.asarray(whole.resize((450, 300))), name))
    places = [fit(photo.size, first.facts.size, first.stride, first.multiple) for photo in photos]
    own = zip(photos, places, strict=True)
    images = torch.stack([preprocess(*one, first.facts.mean, first.facts.std) for one in own])
    requests = [MapRequest("own")]

    def states() -> Any:
        return iterate_board(photos, encoders, requests, Settings())

    def separate() -> None:
        with torch.inference_mode():
            for encoder in encoders:
                encoder(images)

    def shared() -> None:
        with torch.inference_mode():
            forward_shared(encoders, images)

    def one_by_one() -> None:
        with torch.inference_mode():
            for image in images:
                forward_shared(encoders, image[None])

    works: dict[str, Callable[[], Any]] = {"shared": shared, "one by one": one_by_one, "separate": separate}
    works |= {"board": lambda: list(states()), "first": lambda: next(states())}
    taken = in_turns(works, rounds)
    lines = []
    for name, what in (
        ("shared", "the base run once for all photos"),
        ("one by one", "the base run once for each photo"),
        ("separate", "the base run once for each photo and checkpoint"),
    ):
        title = f"board of 12 rows, x the plain batched forwards, {what}"
        ratios = [whole / plain for whole, plain in zip(taken["board"], taken[name], strict=True)]
        _, low, high = quartiles(ratios)
        lines.append(f"- {title}: {samples.add(title, 'x', ratios):.2f} ({low:.2f} to {high:.2f})")
    seconds = samples.add("board of 12 rows", "s", taken["board"])
    first_row = samples.add("board of 12 rows, the first row", "s", taken["first"])
    lines.append(f"- that board: {seconds:.2f} s, its first row after {first_row:.2f} s")
    return ["\n".join(lines)]
