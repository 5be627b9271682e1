"""From picture files to the input pixels of encoders. Runs in worker processes, which therefore never load PyTorch."""

from __future__ import annotations

import io
import os
from collections.abc import Container, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from simpool_viz.batch.places import Readable, Remote, Stretch, read_bytes
from simpool_viz.drawing.pixels import display_picture
from simpool_viz.errors import DataError, PictureError, SimpoolError
from simpool_viz.images import Geometry, Picture, fit, open_picture, read_picture, resize_to_input
from simpool_viz.outputs import printable

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".tif", ".tiff", ".bmp", ".gif", ".heic", ".heif")


@dataclass(frozen=True)
class Frame:
    """The input of encoders that share a forward pass.

    Attributes:
        size: shorter side of the input in pixels.
        stride: input pixels per token.
        multiple: tokens of which each side of the grid is a multiple.
    """

    size: int
    stride: int
    multiple: int = 1


@dataclass(frozen=True)
class Prepared:
    """A picture that was read and resized.

    Attributes:
        key: path below the folder in which it was found.
        display: (H, W, 3) uint8 RGB, at most as large as it will be drawn; a single pixel where nothing is drawn, so
            that no pixels are sent between processes for nothing.
        geometries: the geometry of each frame.
        inputs: for each frame, pixels (h, w, 3) uint8 RGB at the input size of its geometry.
    """

    key: str
    display: np.ndarray
    geometries: tuple[Geometry, ...]
    inputs: tuple[np.ndarray, ...]

    @property
    def shape(self) -> tuple[tuple[int, int], ...]:
        """The token grid (rows, columns) of every frame, which pictures of one batch have in common."""
        return tuple(geometry.grid for geometry in self.geometries)

    @property
    def nbytes(self) -> int:
        """Bytes of its pixels."""
        return self.display.nbytes + sum(pixels.nbytes for pixels in self.inputs)


@dataclass(frozen=True)
class Fault:
    """A picture that cannot be read.

    Attributes:
        key: path below the folder in which it was found.
        sentence: why it cannot be read.
    """

    key: str
    sentence: str


def find_pictures(folders: Sequence[str | os.PathLike[str]]) -> dict[str, Path]:
    """Find every picture below some folders; hidden files and folders are left out.

    Args:
        folders: searched with their subfolders, for the file names that end in one of `SUFFIXES`.

    Returns:
        Paths by key, sorted within each folder. A key is the path below the folder; where there are several folders,
        the folder's name stands before it.

    Raises:
        DataError: no folder, or no picture in any.
    """
    found: dict[str, Path] = {}
    roots = [Path(folder) for folder in folders]
    for number, root in enumerate(roots):
        if not root.is_dir():
            raise DataError(f"{root} is no folder; `simpool-viz compare` takes single pictures")
        name = root.resolve().name
        same_name = [other.resolve().name for other in roots[:number]].count(name)
        before = "" if len(roots) == 1 else f"{name}_{same_name}/" if same_name else f"{name}/"
        for below, path in pictures_below(root):
            found[unique_key(before + below, found)] = path
    if not found:
        raise DataError(f"no picture ({', '.join(s[1:] for s in SUFFIXES)}) lies in {', '.join(map(str, roots))}")
    return found


def pictures_below(root: Path) -> Iterator[tuple[str, Path]]:
    """The path below a folder, and the path, of every picture in it and in its subfolders, sorted; none is hidden."""
    for path in sorted(root.rglob("*")):
        below = path.relative_to(root)
        if path.suffix.lower() in SUFFIXES and not any(p.startswith(".") for p in below.parts) and path.is_file():
            yield below.as_posix(), path


def unique_key(text: str, taken: Container[str]) -> str:
    """A path as text that can be written anywhere, in which bytes that are no UTF-8 are escaped; numbered where two
    would be equal."""
    key = unnumbered = printable(text)
    number = 0
    while key in taken:
        number += 1
        key = f"{unnumbered}_{number}"
    return key


def prepare(
    key: str, place: Readable | Fault | Exception, frames: Sequence[Frame], longest: int | None
) -> Prepared | Fault:
    """Read a picture and resize it for display and for each frame.

    Args:
        key: name of the picture in the results.
        place: the file, where its bytes lie, the bytes, or why there are none.
        frames: input sizes and strides.
        longest: longer side of the drawn picture in pixels; None where nothing is drawn.

    Returns:
        The pixels, or a `Fault` where the file cannot be read: one bad file does not end a run.
    """
    try:
        return prepare_picture(picture_at(place, key), frames, longest)
    except (SimpoolError, OSError, MemoryError) as error:  # one enormous picture is left out, the others go on
        return Fault(key, printable(str(error)) or type(error).__name__)


def picture_at(place: Readable | Fault | Exception, key: str) -> Picture:
    """The picture of a place, as `read_picture` reads it.

    Args:
        place: a file, where its bytes lie, the bytes, or why there are none, from `contents`.
        key: its name.

    Raises:
        PictureError: it cannot be read.
        SimpoolError: likewise.
        OSError: likewise.
    """
    if isinstance(place, Fault):
        raise PictureError(place.sentence)
    if isinstance(place, Exception):
        raise place
    if isinstance(place, (Remote, Stretch)):
        place = read_bytes(place, key)
    if isinstance(place, Path):
        return read_picture(place, key)
    with open_picture(io.BytesIO(place), key) as image:
        return read_picture(image, key)


def prepare_picture(picture: Picture, frames: Sequence[Frame], longest: int | None) -> Prepared:
    """Resize a picture for display and for each frame.

    Args:
        picture: whose name is its key.
        frames: input sizes and strides.
        longest: longer side of the drawn picture in pixels; None where nothing is drawn.

    Raises:
        OptionError: a size that does not fit.
    """
    geometries = tuple(fit(picture.size, frame.size, frame.stride, frame.multiple) for frame in frames)
    inputs = tuple(resize_to_input(picture, geometry) for geometry in geometries)
    display = np.zeros((1, 1, 3), np.uint8) if longest is None else display_picture(picture.rgb, longest)
    return Prepared(picture.name, np.ascontiguousarray(display), geometries, inputs)
