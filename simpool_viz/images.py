"""Reads any picture as upright RGB, and defines the geometry that relates its pixels to tokens.

Pixels are (x, y) with the origin at the top left corner of the original, upright picture; grids are (rows, columns).
Nothing is cropped: the whole picture is resized to a whole number of tokens, its aspect ratio kept to half a token, so
that pixels and tokens are related by one scale per axis.
"""

from __future__ import annotations

import os
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Union

import numpy as np
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError

from simpool_viz.errors import OptionError, PictureError

if TYPE_CHECKING:
    from torch import Tensor

MIN_SIDE = 8  # pixels; smaller files are placeholders
MAX_TOKENS = 16_384  # 2,048 x 2,048 pixels with 16 px tokens; elongated pictures are scaled down to it

DAMAGE = (OSError, SyntaxError, EOFError, ValueError, RuntimeError)  # what Pillow raises for damaged files

ImageSource = Union[str, "os.PathLike[str]", Image.Image, np.ndarray]


@dataclass(frozen=True)
class Picture:
    """An upright picture.

    Attributes:
        rgb: (H, W, 3) uint8 in [0, 255].
        name: the name under which it is shown, such as its file's.
    """

    rgb: np.ndarray
    name: str

    @property
    def size(self) -> tuple[int, int]:
        """(width, height) in pixels."""
        return self.rgb.shape[1], self.rgb.shape[0]


@dataclass(frozen=True)
class Geometry:
    """The position of tokens in a picture.

    Attributes:
        original: (W, H) of the upright picture in pixels.
        grid: (h, w) tokens.
        stride: input pixels per token.
    """

    original: tuple[int, int]
    grid: tuple[int, int]
    stride: int

    @property
    def input_size(self) -> tuple[int, int]:
        """(width, height) in pixels of the resized picture that the model gets."""
        return self.grid[1] * self.stride, self.grid[0] * self.stride

    def token_at(self, x: float, y: float) -> tuple[int, int]:
        """(row, column) of the token that contains a point.

        Args:
            x: pixels of the original from its left edge.
            y: pixels of the original from its top edge.

        Raises:
            OptionError: the point lies outside the picture.
        """
        (width, height), (h, w) = self.original, self.grid
        if not (0 <= x <= width and 0 <= y <= height):
            raise OptionError(f"the point ({x:g}, {y:g}) lies outside the picture of {width} x {height} pixels")
        return min(int(y * h / height), h - 1), min(int(x * w / width), w - 1)

    def box_to_pixels(self, box: tuple[int, int, int, int]) -> tuple[int, int, int, int]:
        """A half-open box of tokens as a half-open box of pixels of the original.

        A pixel belongs to the token that contains its centre, as in `cells_of_pixels`.

        Args:
            box: (column0, row0, column1, row1) in tokens.

        Returns:
            (x0, y0, x1, y1) in pixels.
        """
        (width, height), (h, w) = self.original, self.grid
        x0, x1 = (_first_pixel(c, width, w) for c in (box[0], box[2]))
        y0, y1 = (_first_pixel(r, height, h) for r in (box[1], box[3]))
        return x0, y0, x1, y1


def cells_of_pixels(grid: tuple[int, int], size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """The cell row of every pixel row, and the cell column of every pixel column.

    A pixel belongs to the cell that contains its centre.

    Args:
        grid: (h, w) cells.
        size: (W, H) pixels.

    Returns:
        Rows (H,) int64 and columns (W,) int64.
    """
    (width, height), (h, w) = size, grid
    return (2 * np.arange(height) + 1) * h // (2 * height), (2 * np.arange(width) + 1) * w // (2 * width)


def expand_cells(cells: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """A grid enlarged by nearest neighbour: each cell's value at all of its pixels.

    Args:
        cells: (h, w, ...) of any dtype.
        size: (W, H) pixels.

    Returns:
        (H, W, ...) of the same dtype.
    """
    rows, columns = cells_of_pixels((cells.shape[0], cells.shape[1]), size)
    return cells.take(columns, axis=1).take(rows, axis=0)  # whole rows are copied at once


def _first_pixel(index: int, pixels: int, tokens: int) -> int:
    """The first pixel whose centre lies at or after the left edge of token `index`.

    That is ceil(index * pixels / tokens - 1/2), in integers.
    """
    return -((tokens - 2 * index * pixels) // (2 * tokens))


def fit(original: tuple[int, int], size: int, stride: int, multiple: int = 1) -> Geometry:
    """The geometry of a picture resized to a given shorter side, rounded to whole tokens.

    Very elongated pictures are scaled down further, aspect ratio kept, to at most `MAX_TOKENS`.

    Args:
        original: (W, H) of the upright picture in pixels.
        size: shorter side of the model's input in pixels.
        stride: input pixels per token.
        multiple: tokens of which each side of the grid is a multiple, as MaxViT's partition needs; the aspect ratio is
            then kept to half of that.

    Raises:
        OptionError: a size that is not a positive integer, or that gives too many tokens even for a square picture.
    """
    if not isinstance(size, int) or size < 1:
        raise OptionError(f"the size is the shorter side in pixels and must be positive, not {size}")
    if multiple > 1:
        unit = stride * multiple
        whole = fit(original, max(1, round(size / unit)) * unit, unit)
        if whole.grid[0] * whole.grid[1] * multiple**2 > MAX_TOKENS:
            raise OptionError(f"size {size} makes more than {MAX_TOKENS:,} tokens of {stride} px; choose a smaller one")
        return Geometry(original, (whole.grid[0] * multiple, whole.grid[1] * multiple), stride)
    if (round(size / stride) or 1) ** 2 > MAX_TOKENS:
        largest = int(MAX_TOKENS**0.5) * stride
        raise OptionError(f"size {size} makes more than {MAX_TOKENS:,} tokens of {stride} px; choose {largest} or less")
    elongation = max(original) / min(original)
    side = min(float(size), stride * (MAX_TOKENS / elongation) ** 0.5)
    grid = _grid(original, side, stride)
    while grid[0] * grid[1] > MAX_TOKENS:  # rounded up too far
        side *= 0.995
        grid = _grid(original, side, stride)
    return Geometry(original, grid, stride)


def _grid(original: tuple[int, int], side: float, stride: int) -> tuple[int, int]:
    """(h, w) tokens of a picture resized to a shorter side of `side` pixels."""
    width, height = original
    unit = min(original) * stride
    return max(1, round(height * side / unit)), max(1, round(width * side / unit))


def read_picture(source: ImageSource | Picture, name: str | None = None) -> Picture:
    """Read a picture from a path in any format that Pillow reads, a PIL image or an array.

    EXIF rotation is applied, the first frame of an animation is taken, transparency is composited on white, and 16 bits
    are reduced to 8.

    Args:
        source: path, image, or array (H, W), (H, W, 1), (H, W, 3) or (H, W, 4) of uint8 in [0, 255] or float in [0, 1];
            a `Picture` is returned as it is.
        name: the name under which it is shown; the file's name by default.

    Raises:
        PictureError: not a picture, damaged, too small or too large; the message says which.
        FileNotFoundError: no such file.

    Examples:
        >>> from simpool_viz import read_picture
        >>> picture = read_picture("cat.jpg")
        >>> picture.name, picture.size, picture.rgb.shape, picture.rgb.dtype
        ('cat.jpg', (451, 300), (300, 451, 3), dtype('uint8'))
    """
    if isinstance(source, Picture):
        return source
    if isinstance(source, Image.Image):
        return _upright(source, name or "picture")
    if isinstance(source, np.ndarray):
        return _upright(_from_array(source), name or "picture")
    if not isinstance(source, (str, os.PathLike)):
        raise PictureError(f"a picture is a path, a PIL image or an array, not {type(source).__name__}")
    path = Path(source)
    name = name or path.name
    if not path.exists():
        raise FileNotFoundError(f"there is no file {path}")
    if path.is_dir():
        raise PictureError(f"{path} is a folder, not a picture")
    if path.stat().st_size == 0:
        raise PictureError(f"{name} is empty (0 bytes)")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            # Not by its path: Pillow would map the file into memory, and then confuses the rows of rotated TIFFs.
            with path.open("rb") as file, _open(file, name) as image:
                return _upright(image, name)
    except Image.DecompressionBombError:
        limit = 2 * (Image.MAX_IMAGE_PIXELS or 0) // 1_000_000
        raise PictureError(f"{name} has more than {limit} megapixels; make it smaller first") from None


def _open(file: IO[bytes], name: str) -> Image.Image:
    try:
        return Image.open(file)
    except UnidentifiedImageError:
        raise PictureError(
            f"{name} is not a picture in a format that can be read (JPEG, PNG, WebP, TIFF, GIF, ...)"
        ) from None
    except DAMAGE as error:
        raise PictureError(f"{name} is damaged or cut off: {error}") from error


def _upright(image: Image.Image, name: str) -> Picture:
    if min(image.size) < MIN_SIDE:
        raise PictureError(
            f"{name} is {image.width} x {image.height} pixels; a picture needs at least {MIN_SIDE} on each side"
        )
    try:
        image.seek(0)
        as_stored = _to_rgb(image)
        # exif_transpose copies the picture even where it rotates nothing.
        rotated = as_stored.getexif().get(ExifTags.Base.Orientation, 1) != 1
        rgb = np.asarray(ImageOps.exif_transpose(as_stored) if rotated else as_stored)
    except DAMAGE as error:
        raise PictureError(f"{name} is damaged or cut off: {error}") from error
    return Picture(rgb, name)


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode == "RGB" and "transparency" not in image.info:
        return image
    exif = image.getexif()
    if image.mode.startswith("I") or image.mode == "F":
        rgb = Image.fromarray(_to_8_bits(np.asarray(image))).convert("RGB")
    elif "A" in image.getbands() or "transparency" in image.info:
        rgba = image.convert("RGBA")
        rgb = Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba).convert("RGB")
    else:
        rgb = image.convert("RGB")
    rgb.getexif().update(exif)
    return rgb


def _to_8_bits(values: np.ndarray) -> np.ndarray:
    """Grey values (H, W) of more than 8 bits, or floats, as uint8 in [0, 255].

    The range of integers is [0, 65,535], or [0, 255] where none is larger; that of floats [0, 1], or their own minimum
    and maximum where those lie outside it.
    """
    if np.issubdtype(values.dtype, np.integer) and values.min() >= 0 and values.max() <= 65_535:
        low, high = 0.0, 65_535.0 if values.max() > 255 else 255.0
    else:
        finite = values[np.isfinite(values)]
        if not finite.size:
            raise PictureError("no pixel has a finite value")
        low, high = (
            (0.0, 1.0) if finite.min() >= 0 and finite.max() <= 1 else (float(finite.min()), float(finite.max()))
        )
    scaled = (np.nan_to_num(values.astype(np.float64)) - low) * (255 / max(high - low, 1e-12))
    grey: np.ndarray = scaled.clip(0, 255).round().astype(np.uint8)
    return grey


def _from_array(array: np.ndarray) -> Image.Image:
    if array.ndim == 3 and array.shape[2] == 1:
        array = array[:, :, 0]
    if array.ndim not in (2, 3) or (array.ndim == 3 and array.shape[2] not in (3, 4)):
        raise PictureError(f"a picture is an array (H, W), (H, W, 3) or (H, W, 4), not {array.shape}")
    if np.issubdtype(array.dtype, np.floating):
        if array.size and (not np.isfinite(array).all() or array.min() < 0 or array.max() > 1):
            raise PictureError("a floating-point picture has values in [0, 1]; divide by 255, or give uint8")
        array = (array * 255).round().astype(np.uint8)
    if array.dtype != np.uint8:
        raise PictureError(f"a picture is uint8 in [0, 255] or float in [0, 1], not {array.dtype}")
    return Image.fromarray(np.ascontiguousarray(array))


def preprocess(picture: Picture, geometry: Geometry, mean: tuple[float, ...], std: tuple[float, ...]) -> Tensor:
    """The model's input: the picture resized to `geometry.input_size` and normalised.

    Args:
        picture: the picture.
        geometry: from `fit`.
        mean: of each channel, for values in [0, 1].
        std: standard deviation of each channel, likewise.

    Returns:
        (3, H, W) float32.
    """
    return normalise(resize_to_input(picture, geometry)[None], mean, std)[0]


def resize_to_input(picture: Picture, geometry: Geometry) -> np.ndarray:
    """The picture resized to the size of the model's input, bicubic and antialiased.

    Args:
        picture: the picture.
        geometry: from `fit`.

    Returns:
        (H, W, 3) uint8 in [0, 255].
    """
    return np.array(
        Image.fromarray(picture.rgb).resize(geometry.input_size, Image.Resampling.BICUBIC, reducing_gap=3.0)
    )


def normalise(pixels: np.ndarray | Tensor, mean: tuple[float, ...], std: tuple[float, ...]) -> Tensor:
    """Pixels as the model's input: divided by 255, less the mean, divided by the standard deviation.

    Args:
        pixels: (B, H, W, 3) uint8 in [0, 255].
        mean: of each channel, for values in [0, 1].
        std: standard deviation of each channel, likewise.

    Returns:
        (B, 3, H, W) float32, on the device of the pixels.
    """
    import torch

    rgb = torch.as_tensor(pixels)
    x = rgb.permute(0, 3, 1, 2).float() / 255  # (B, H, W, 3) -> (B, 3, H, W)
    return (x - x.new_tensor(mean)[:, None, None]) / x.new_tensor(std)[:, None, None]
