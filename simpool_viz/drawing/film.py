"""Pictures one after another as a film: WebM and MP4, which browsers play, and animated WebP for pages and slides."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from fractions import Fraction
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from simpool_viz.errors import OptionError
from simpool_viz.outputs import written_whole

# Encoder and options by suffix. All play in Chromium, Firefox and Safari.
CODECS: dict[str, tuple[str, dict[str, str]]] = {
    ".mp4": ("libx264", {"preset": "veryfast", "crf": "20", "movflags": "+faststart"}),
    ".webm": ("libvpx-vp9", {"deadline": "realtime", "cpu-used": "8", "crf": "30", "b": "0"}),
}
FILMS = (*CODECS, ".webp")
LONGEST_WEBP = 400  # frames: Pillow holds all of them in memory


def check_film(path: Path) -> None:
    """Refuse a file name whose format cannot be written, before anything is computed.

    Args:
        path: of the film.

    Raises:
        OptionError: its suffix is none of `FILMS`.
    """
    if path.suffix.lower() not in FILMS:
        raise OptionError(f"a film is written as {', '.join(FILMS)}, not as {path.name!r}")


def write_film(path: Path, frames: Iterable[np.ndarray], rate: float) -> int:
    """Write pictures as a film, one at a time: any number takes the memory of a few (but for .webp, which holds all).

    Args:
        path: ending in .mp4 (H.264), .webm (VP9) or .webp; the file appears when it is whole.
        frames: (H, W, 3) uint8 RGB each, of one size; an odd last row or column is cut off, as H.264 needs it.
        rate: frames per second.

    Returns:
        The number of frames.

    Raises:
        OptionError: another suffix, no frames, a rate that is not positive, or too many frames for .webp.
        OSError: the file cannot be written.
    """
    check_film(path)
    if not rate > 0:
        raise OptionError(f"a film has a positive number of frames a second, not {rate:g}")
    rest = iter(frames)
    first = next(rest, None)
    if first is None:
        raise OptionError("a film needs at least one frame")
    with written_whole(path) as part:
        return (_write_webp if path.suffix.lower() == ".webp" else _write_video)(part, chain([first], rest), rate)


def _write_webp(path: Path, frames: Iterator[np.ndarray], rate: float) -> int:
    first, *others = [Image.fromarray(frame) for _, frame in zip(range(LONGEST_WEBP + 1), frames, strict=False)]
    if len(others) >= LONGEST_WEBP:
        raise OptionError(f"an animated WebP takes at most {LONGEST_WEBP} frames; write .mp4 or .webm instead")
    first.save(path, save_all=True, append_images=others, duration=round(1000 / rate), loop=0, quality=85, method=2)
    return 1 + len(others)


def _write_video(path: Path, frames: Iterator[np.ndarray], rate: float) -> int:
    import av

    name, options = CODECS[path.suffix.lower()]
    stream: Any = None
    count = 0
    with av.open(str(path), "w") as container:
        for frame in frames:
            height, width = (side - side % 2 for side in frame.shape[:2])
            if stream is None:
                stream = container.add_stream(name, rate=Fraction(rate).limit_denominator(1000), options=options)
                stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
            picture = av.VideoFrame.from_ndarray(np.ascontiguousarray(frame[:height, :width]), format="rgb24")
            container.mux(stream.encode(picture))
            count += 1
        container.mux(stream.encode(None))
    return count
