"""Video files as upright frames at an even rate."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from simpool_viz.errors import OptionError, PictureError
from simpool_viz.images import MIN_SIDE

CLIPS = (".mp4", ".webm", ".mov", ".mkv", ".avi", ".gif")  # what a file dialog offers
NO_VIDEO = "{} is not a video that can be read (MP4, WebM, MOV, AVI, GIF, ...)"
# FFmpeg's name of a container by (place, first bytes). FFmpeg is not left to find it out: a playlist that is called
# a video would make it open other files and addresses.
_SIGNATURES = [(4, kind, "mov") for kind in (b"ftyp", b"moov", b"mdat", b"wide", b"free", b"skip")] + [
    (0, b"\x1a\x45\xdf\xa3", "matroska"),  # WebM too
    (8, b"AVI ", "avi"),
    (0, b"GIF8", "gif"),
    (0, b"OggS", "ogg"),
    (0, b"FLV\x01", "flv"),
    (0, b"\x30\x26\xb2\x75", "asf"),
    (0, b"\x00\x00\x01\xba", "mpeg"),
    (0, b"\x47", "mpegts"),
]


@dataclass(frozen=True)
class Clip:
    """The part of a video that is taken.

    Attributes:
        path: the file.
        size: (width, height) of the upright frames in pixels.
        rate: frames per second that are taken, at most `own_rate`.
        own_rate: frames per second of the video.
        seconds: that are taken at most; None: all.
        duration: of the whole video in seconds; None where the file does not say it.
    """

    path: Path
    size: tuple[int, int]
    rate: float
    own_rate: float
    seconds: float | None
    duration: float | None

    @property
    def count(self) -> int | None:
        """About how many frames are taken; None where that is not known."""
        lengths = [length for length in (self.seconds, self.duration) if length is not None]
        return max(1, round(min(lengths) * self.rate)) if lengths else None

    @property
    def cut(self) -> bool:
        """Whether the video is known to be longer than what is taken."""
        return None not in (self.seconds, self.duration) and self.duration > self.seconds  # type: ignore[operator]

    def frames(self) -> Iterator[np.ndarray]:
        """The frames, (H, W, 3) uint8 RGB: at each step of 1 / rate seconds the one that is shown then.

        Raises:
            PictureError: the file is damaged before its first frame.
        """
        step, before = 0, None
        for begins, frame in self._decoded():
            rgb = None
            # What was shown before lasts until this frame begins.
            while before is not None and (step + 1e-6) / self.rate < begins and not self._over(step):
                rgb = self._upright(before) if rgb is None else rgb
                yield rgb
                step += 1
            if self._over(step):
                return
            before = frame
        if not step:
            raise PictureError(f"{self.path.name} has no frame that can be read")

    def _decoded(self) -> Iterator[tuple[float, Any]]:
        """Each frame with the second at which it begins, and at last (end, None)."""
        import av

        first, begins = None, 0.0
        with _opened(self.path) as container:
            stream = container.streams.video[0]
            stream.thread_type = "AUTO"
            with suppress(av.error.FFmpegError):  # cut off: what came before is a video all the same
                for number, frame in enumerate(container.decode(stream)):
                    time = number / self.own_rate if frame.time is None else frame.time
                    first = time if first is None else first
                    begins = time - first
                    yield begins, frame
        if first is not None:
            yield begins + 1 / self.own_rate, None

    def _over(self, step: int) -> bool:
        return self.seconds is not None and step >= round(self.seconds * self.rate)

    def _upright(self, frame: Any) -> np.ndarray:
        turns = _turns(frame)
        width, height = self.size if turns % 2 == 0 else self.size[::-1]
        pixels = frame.to_ndarray(format="rgb24", width=width, height=height)
        return np.ascontiguousarray(np.rot90(pixels, turns))


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    """The container of a video.

    Raises:
        PictureError: no container of video.
        FFmpegError: a damaged one.
    """
    import av

    with path.open("rb") as file:
        head = file.read(16)
        kind = next((kind for at, sign, kind in _SIGNATURES if head[at:].startswith(sign)), None)
        if kind is None:
            raise PictureError(NO_VIDEO.format(path.name))
        file.seek(0)
        with av.open(file, format=kind) as container:
            yield container


def _turns(frame: Any) -> int:
    """Quarter turns, counter-clockwise, that set a frame upright, as a phone writes them beside its pixels."""
    return round(getattr(frame, "rotation", 0) / 90) % 4


def open_clip(path: str | os.PathLike[str], rate: float | None = None, seconds: float | None = None) -> Clip:
    """Look into a video file.

    Args:
        path: MP4, WebM, MOV, AVI, an animated GIF, or whatever else FFmpeg reads.
        rate: frames per second to take, at most those of the video, which are the default.
        seconds: to take from its beginning at most; all by default.

    Raises:
        FileNotFoundError: no such file.
        PictureError: no video, damaged, or too small.
        OptionError: a rate or a length that is not positive.
    """
    import av

    path = Path(path)
    for value, what in ((rate, "frames a second"), (seconds, "seconds")):
        if value is not None and not value > 0:
            raise OptionError(f"the number of {what} must be positive, not {value:g}")
    if not path.exists():
        raise FileNotFoundError(f"there is no file {path}")
    if not path.is_file() or path.stat().st_size == 0:
        raise PictureError(f"{path.name} is {'empty (0 bytes)' if path.is_file() else 'a folder'}, not a video")
    try:
        with _opened(path) as container:
            stream = container.streams.video[0]
            own = float(stream.guessed_rate or stream.average_rate or 0)
            length = float(container.duration / av.time_base) if container.duration else None
            first = next(container.decode(stream))
    except (av.error.FFmpegError, IndexError, StopIteration) as error:
        raise PictureError(NO_VIDEO.format(path.name)) from error
    size = (first.width, first.height) if _turns(first) % 2 == 0 else (first.height, first.width)
    if min(size) < MIN_SIDE:
        raise PictureError(f"{path.name} has {size[0]} x {size[1]} pixels; a video needs at least {MIN_SIDE} a side")
    sane = own if 0 < own <= 240 else 30.0  # browsers write cameras' clips with 1,000
    return Clip(path, size, min(rate or sane, sane), sane, seconds, length)
