"""From a video to a video of maps or masks.

Frames are recorded in batches, as folders of photos are, and the small grids are kept. The video is then read a second
time and drawn, so that one colour scale holds from its first frame to its last.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from simpool_viz.batch.boards import Job, make_boards
from simpool_viz.batch.clips import Clip
from simpool_viz.batch.preparing import prepare_picture
from simpool_viz.board.board import Board, Row, Settings, require_rows
from simpool_viz.drawing.board_picture import INK, PAPER, font, wrap
from simpool_viz.drawing.film import check_film, write_film
from simpool_viz.drawing.pixels import DrawingStyle, display_picture
from simpool_viz.drawing.render import render_row
from simpool_viz.errors import OptionError
from simpool_viz.images import Picture
from simpool_viz.maps.scale import Scale, scale_of, shared_scales

SHOWN = {"maps": "maps over the video", "masks": "object masks", "both": "maps and object masks"}
LONGEST = 640  # pixels of a frame's longer side
LINE = 20  # pixels of a title's line
Step = Callable[[int, "int | None", str], None]


@dataclass(frozen=True)
class VideoReport:
    """What was made of a video.

    Attributes:
        frames: number of frames.
        rate: frames per second of the film.
        rows: titles of what stands side by side, from left to right.
        skipped: why maps were left out, in sentences.
        seconds: wall-clock time, of recording and of drawing.
    """

    frames: int
    rate: float
    rows: list[str]
    skipped: list[str]
    seconds: tuple[float, float]


def make_video(
    job: Job,
    clip: Clip,
    out: Path,
    drawn: DrawingStyle | None = None,
    *,
    shown: str = "maps",
    batch: int = 8,
    longest: int = LONGEST,
    step: Step | None = None,
) -> VideoReport:
    """Write a video in which every checkpoint's maps or masks of every frame stand side by side.

    Args:
        job: checkpoints, maps and settings. A map of a class follows the class that each frame is predicted as, unless
            the request names one.
        clip: from `open_clip`.
        out: the file, as for `write_film`.
        drawn: how maps are drawn; the usual style by default.
        shown: a name of `SHOWN`.
        batch: number of frames of a forward pass.
        longest: pixels of the longer side of each frame, at most.
        step: is called after each frame with how many steps are done, about how many there are, and what is done.

    Raises:
        MapError: no checkpoint has any of the maps.
        AbsentClassError: a frame in which no token has the class asked for.
        OptionError: no such format, or a batch or a size that is not positive.
        PictureError: a video that cannot be read.
        OSError: the film cannot be written.
    """
    check_film(out)
    if shown not in SHOWN:
        raise OptionError(f"a video shows {', '.join(SHOWN)}, not {shown!r}")
    if batch < 1 or longest < 2:
        raise OptionError("the batch and the size of the frames must be positive")
    drawn, started = drawn or DrawingStyle(), time.perf_counter()
    rows, skipped = _record(job, clip, batch, step)
    recorded = time.perf_counter()
    frames = _frames(clip, rows, job.settings, drawn, shown, longest, step)
    count = write_film(out, frames, clip.rate)
    titles = [row.title for row in rows[0]]
    return VideoReport(count, clip.rate, titles, skipped, (recorded - started, time.perf_counter() - recorded))


def _record(job: Job, clip: Clip, batch: int, step: Step | None) -> tuple[list[list[Row]], list[str]]:
    """The rows of every frame, and why maps were left out."""
    rows: list[list[Row]] = []
    skipped: dict[str, None] = {}
    frames = clip.frames()
    total = None if clip.count is None else 2 * clip.count
    while some := list(islice(frames, batch)):
        prepared = [prepare_picture(Picture(frame, clip.path.name), job.frames, None) for frame in some]
        for board in make_boards(job, prepared):
            require_rows(board.rows, board.skipped)
            rows.append(board.rows)
            skipped |= dict.fromkeys(board.skipped)
        if step:
            step(len(rows), total, "recording")
    return rows, list(skipped)


def clip_scales(rows: Sequence[Sequence[Row]], style: DrawingStyle) -> list[list[Scale]]:
    """The colour scale of each row in each frame: one range for the whole clip, so that equal colours are equal values.

    Args:
        rows: of each frame, as many in each.
        style: with a shared scale, the range holds for all rows.
    """
    by_row = [[scale_of(row.mask.weights, row.attention.unit) for row in column] for column in zip(*rows, strict=True)]
    if style.shared_scale:
        together = shared_scales([scale for column in by_row for scale in column])
        return [together[t :: len(rows)] for t in range(len(rows))]
    return [list(one) for one in zip(*(shared_scales(column) for column in by_row), strict=True)]


def _frames(
    clip: Clip,
    rows: list[list[Row]],
    settings: Settings,
    style: DrawingStyle,
    shown: str,
    longest: int,
    step: Step | None,
) -> Iterator[np.ndarray]:
    """The frames of the film, drawn."""
    scales = clip_scales(rows, style)
    wanted = {"maps": [0], "masks": [1], "both": [0, 1]}[shown]
    head: np.ndarray | None = None
    for done, (frame, here, scale) in enumerate(zip(clip.frames(), rows, scales, strict=True), 1):
        picture = Picture(display_picture(frame, longest), clip.path.name)
        board = Board([picture], here, {}, [], settings)
        tiles = [
            kinds[kind]
            for row, one in zip(here, scale, strict=True)
            for kinds in [render_row(board, row, one, style, longest)]
            for kind in wanted
        ]
        body = np.concatenate(tiles, axis=1)
        if head is None:
            head = _titles([row.title for row in here], len(wanted) * picture.size[0])
        yield np.concatenate([head, body]) if len(here) > 1 else body
        if step:
            step(len(rows) + done, 2 * len(rows), "drawing")


def _titles(titles: list[str], width: int) -> np.ndarray:
    """(H, W, 3) uint8: a title above each row, `width` pixels apart."""
    lines = [wrap(title, 14, width - 12) for title in titles]
    head = Image.new("RGB", (width * len(titles), LINE * max(map(len, lines)) + 6), PAPER)
    draw = ImageDraw.Draw(head)
    for number, some in enumerate(lines):
        draw.multiline_text((number * width + 6, 4), "\n".join(some), INK, font(14), spacing=4)
    return np.asarray(head)
