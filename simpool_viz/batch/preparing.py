"""From files to what the encoders are given. Runs in worker processes, which therefore never load PyTorch."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from simpool_viz.drawing.pixels import display_picture
from simpool_viz.errors import DataError, SimpoolError
from simpool_viz.images import Geometry, fit, read_picture, resize_to_input

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".tif", ".tiff", ".bmp", ".gif")


@dataclass(frozen=True)
class Frame:
    """How encoders that share a forward see a picture: its shorter side and their stride, in pixels."""

    size: int
    stride: int


@dataclass(frozen=True)
class Prepared:
    """A picture that was read.

    key: its path below the folder it was found in.
    display: (H, W, 3) uint8, at most as large as it will be drawn; a single pixel where nothing is, so that none
        travels for nothing.
    geometries, inputs: per frame, and pixels (h, w, 3) uint8 at the geometry's input size.
    """

    key: str
    display: np.ndarray
    geometries: tuple[Geometry, ...]
    inputs: tuple[np.ndarray, ...]

    @property
    def shape(self) -> tuple[tuple[int, int], ...]:
        """What pictures of one batch have in common: the grid of every frame."""
        return tuple(geometry.grid for geometry in self.geometries)


@dataclass(frozen=True)
class Fault:
    """A picture that cannot be read, and why, in a sentence."""

    key: str
    sentence: str


def find_pictures(folders: Sequence[str | os.PathLike[str]]) -> dict[str, Path]:
    """Every picture below some folders, hidden ones left out: its path by key, in order.

    A key is the path below the folder, with the folder's name before it where there are several folders.

    Raises:
        DataError: no folder, or no picture in any.
    """
    found: dict[str, Path] = {}
    roots = [Path(folder) for folder in folders]
    for number, root in enumerate(roots):
        if not root.is_dir():
            raise DataError(f"{root} is no folder; `simpool-viz compare` takes single pictures")
        name = root.resolve().name
        twins = [other.resolve().name for other in roots[:number]].count(name)
        before = "" if len(roots) == 1 else f"{name}_{twins}/" if twins else f"{name}/"
        for path in sorted(root.rglob("*")):
            below = path.relative_to(root)
            if (
                path.suffix.lower() in SUFFIXES
                and not any(part.startswith(".") for part in below.parts)
                and path.is_file()
            ):
                found[before + below.as_posix()] = path
    if not found:
        raise DataError(f"no picture ({', '.join(s[1:] for s in SUFFIXES)}) lies in {', '.join(map(str, roots))}")
    return found


def prepare(key: str, path: Path, frames: Sequence[Frame], longest: int | None) -> Prepared | Fault:
    """Read a picture, make it as small as it will be drawn, and bring it to the input size of each frame.

    Args:
        longest: pixels of the longer side when drawn, None where nothing is drawn.
    """
    try:
        picture = read_picture(path, key)
        geometries = tuple(fit(picture.size, frame.size, frame.stride) for frame in frames)
        inputs = tuple(resize_to_input(picture, geometry) for geometry in geometries)
    except (SimpoolError, OSError, MemoryError) as error:  # one enormous picture is left out, the others go on
        return Fault(key, str(error) or type(error).__name__)
    display = np.zeros((1, 1, 3), np.uint8) if longest is None else display_picture(picture.rgb, longest)
    return Prepared(key, np.ascontiguousarray(display), geometries, inputs)
