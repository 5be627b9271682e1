"""Reads any picture as upright RGB, and defines the geometry that relates its pixels to tokens.

Pixels are (x, y) with the origin at the top left corner of the original, upright picture; grids are (rows, columns).
Nothing is cropped: the whole picture is resized to a whole number of tokens, its aspect ratio kept to half a token, so
that pixels and tokens are related by one scale per axis.
"""

from __future__ import annotations

import os
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Union

import numpy as np
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError

from simpool_viz.errors import OptionError, PictureError, SimpoolError
from simpool_viz.outputs import printable

if TYPE_CHECKING:
    from torch import Tensor

MIN_SIDE = 8  # pixels; smaller files are placeholders
MAX_TOKENS = 16_384  # 2,048 x 2,048 pixels with 16 px tokens; elongated pictures are scaled down to it

# The formats that are read, by Pillow's names, whatever a file is called. Each decodes pixels and does nothing else:
# EPS starts Ghostscript, PSD, WMF and FITS have decoders that few people need and nobody watches. HEIF, the format of
# phones (HEIC), is read where the package pillow-heif is installed.
FORMATS = ("JPEG", "PNG", "WEBP", "TIFF", "GIF", "BMP", "PPM", "AVIF", "HEIF")
_HEIF_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1")
DEPTHS = (8, 10, 12, 14, 16)  # bits of cameras and scanners, by which whole numbers are scaled
MOST_PIXELS = 178_956_970  # of a picture of 8 bits; the number above which Pillow refuses a file by default
# What takes several times as much memory per pixel may have a quarter: more than 8 bits, transparency, and all WebP,
# whose decoder holds several canvases of four bytes per pixel.
MOST_LARGE_PIXELS = MOST_PIXELS // 4
MOST_SCANS = 100  # of a progressive JPEG, which has about ten; each goes over all pixels
BAND = 2**20  # numbers of more than 8 bits that are reduced at a time
_MARK = re.compile(rb"\xff([^\x00\x01\xd0-\xd8\xff])", re.DOTALL)  # of a JPEG's segment

ImageSource = Union[str, "os.PathLike[str]", Image.Image, np.ndarray]


@dataclass(frozen=True)
class Picture:
    """An upright picture.

    Attributes:
        rgb: (H, W, 3) uint8 in [0, 255].
        name: the name under which it is shown, such as its file's.
        note: what was assumed when it was read, a sentence; "" for nothing.
    """

    rgb: np.ndarray
    name: str
    note: str = ""

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
    """Read a picture from a path in one of `FORMATS`, a PIL image or an array.

    EXIF rotation is applied, the first frame of an animation is taken, transparency is composited on white, and 16 bits
    are reduced to 8. Grey pictures of 10, 12 or 14 bits in files of 16, of microscopes, scanners and thermal cameras,
    are scaled by that range, which their `note` says.

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
    name = name or printable(path.name)
    if not path.exists():
        raise FileNotFoundError(f"there is no file {path}")
    if path.is_dir():
        raise PictureError(f"{path} is a folder, not a picture")
    with open_picture(path, name) as image:
        return _upright(image, name)


@contextmanager
def open_picture(source: Path | IO[bytes], name: str, most: int = MOST_PIXELS) -> Iterator[Image.Image]:
    """Open a picture in one of `FORMATS`, whatever its name says, at its first frame.

    The one place where this package opens a picture. Its size is compared with the limits before a pixel is decoded,
    and whatever a decoder raises, here or inside the `with`, becomes a sentence.

    Args:
        source: a file, or one that is open for reading bytes.
        name: that of the picture in errors.
        most: pixels; a quarter of `MOST_PIXELS` where that is less and they take more than 8 bits or are transparent.

    Yields:
        The decoded image.

    Raises:
        PictureError: no picture in one of these formats, or one that is damaged, cut off or too large.
    """
    with decoding(name), warnings.catch_warnings():
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        if isinstance(source, Path):
            if not source.is_file():
                raise PictureError(f"{name} cannot be read: it is not there, or not a file")
            # Not by its path: Pillow would map the file into memory, and then confuses the rows of rotated TIFFs.
            with source.open("rb") as file, _opened(file, name, most) as image:
                yield image
        else:
            with _opened(source, name, most) as image:
                yield image


@contextmanager
def decoding(name: str) -> Iterator[None]:
    """A context in which a decoder's error becomes a sentence.

    Decoders of damaged files raise whatever the bytes lead to, from struct.error and KeyError to MemoryError.

    Args:
        name: that of the picture.

    Raises:
        PictureError: in place of every error but those that are sentences already.
    """
    try:
        yield
    except SimpoolError:
        raise
    except UnidentifiedImageError:
        known = _readable()
        raise PictureError(
            f"{name} is not a picture in a format that can be read: {', '.join(known[:-1])} or {known[-1]}"
        ) from None
    except Image.DecompressionBombError:
        raise _too_large(name, MOST_PIXELS) from None
    except MemoryError as error:
        raise PictureError(f"{name} is damaged, or needs more memory than there is; save it anew") from error
    except Exception as error:
        cause = str(error).strip().partition("\n")[0][:120] or type(error).__name__
        raise PictureError(f"{name} is damaged or cut off: {cause}") from error


def _too_large(name: str, limit: int) -> PictureError:
    return PictureError(f"{name} has more than {limit // 1_000_000} megapixels; make it smaller first")


def _opened(file: IO[bytes], name: str, most: int) -> Image.Image:
    """The decoded image in an open file, if it is no larger than the limits."""
    start = file.read(30)
    if not start:
        raise PictureError(f"{name} is empty (0 bytes)")
    file.seek(0)
    if start[:2] == b"\xff\xd8":
        _check_scans(file.read(), name)
        file.seek(0)
    width, height = _webp_canvas(start)
    if width * height > MOST_LARGE_PIXELS:  # Pillow takes memory for two canvases already when it opens one
        raise _too_large(name, MOST_LARGE_PIXELS)
    known = _readable()
    try:
        image = Image.open(file, formats=known)
    except UnidentifiedImageError:
        if start[4:8] == b"ftyp" and start[8:12] in _HEIF_BRANDS and "HEIF" not in known:
            raise PictureError(
                f"{name} is a HEIC picture, as phones take them, which needs a package more: pip install pillow-heif, "
                "or save it as JPEG"
            ) from None
        raise
    eight_bits = image.mode in ("1", "L", "P", "RGB", "CMYK", "YCbCr", "LAB") and "transparency" not in image.info
    limit = most if eight_bits else min(most, MOST_LARGE_PIXELS)
    if image.width * image.height > limit:
        raise _too_large(name, limit)
    image.seek(0)
    image.load()  # numpy takes a decoder's AttributeError for "no picture" and makes an array of objects
    return image


def _readable() -> list[str]:
    """Those of `FORMATS` for which there is a decoder here."""
    Image.init()  # so that formats are known which this Pillow was built without
    try:
        from pillow_heif import register_heif_opener
    except ImportError:
        pass
    else:
        if "HEIF" not in Image.OPEN:
            register_heif_opener(thumbnails=False)
    return [kind for kind in FORMATS if kind in Image.OPEN]


def _webp_canvas(start: bytes) -> tuple[int, int]:
    """(width, height) that the first 30 bytes of a WebP file state; (0, 0) for other bytes."""
    if start[:4] != b"RIFF" or start[8:12] != b"WEBP" or len(start) < 30:
        return 0, 0
    kind = start[12:16]
    if kind == b"VP8X":
        return 1 + int.from_bytes(start[24:27], "little"), 1 + int.from_bytes(start[27:30], "little")
    if kind == b"VP8L":
        bits = int.from_bytes(start[21:25], "little")
        return 1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF)
    return int.from_bytes(start[26:28], "little") & 0x3FFF, int.from_bytes(start[28:30], "little") & 0x3FFF


def _check_scans(content: bytes, name: str) -> None:
    """Walk over the segments of a JPEG file up to its end mark.

    The decoder fills what is missing with grey, where the bytes after a tear are zeros as an unfinished transfer leaves
    them, and says nothing.

    Raises:
        PictureError: it ends before its end mark, or has countless scans.
    """
    place, scans = 2, 0
    while found := _MARK.search(content, place):
        if found[1] == b"\xd9":
            return
        scans += found[1] == b"\xda"
        if scans > MOST_SCANS:
            raise PictureError(f"{name} has more than {MOST_SCANS} scans, where a JPEG has about ten; save it anew")
        place = found.end() + int.from_bytes(content[found.end() : found.end() + 2], "big")
    raise PictureError(f"{name} is damaged or cut off: it has no end mark; copy or download it again")


def _upright(image: Image.Image, name: str) -> Picture:
    if min(image.size) < MIN_SIDE:
        raise PictureError(
            f"{name} is {image.width} x {image.height} pixels; a picture needs at least {MIN_SIDE} on each side"
        )
    with decoding(name):
        image.seek(0)
        image.load()
        as_stored, note = _to_rgb(image)
        # exif_transpose copies the picture even where it rotates nothing.
        rotated = as_stored.getexif().get(ExifTags.Base.Orientation, 1) != 1
        rgb = np.asarray(ImageOps.exif_transpose(as_stored) if rotated else as_stored)
    return Picture(rgb, name, note and f"{name} {note}.")


def _to_rgb(image: Image.Image) -> tuple[Image.Image, str]:
    """The image in RGB, and what was assumed of it, a phrase."""
    if image.mode == "RGB" and "transparency" not in image.info:
        return image, ""
    exif, note = image.getexif(), ""
    if image.mode.startswith("I") or image.mode == "F":
        grey, note = _to_8_bits(np.asarray(image))
        rgb = Image.fromarray(grey).convert("RGB")
    elif "A" in image.getbands() or "transparency" in image.info:
        rgba = image.convert("RGBA")
        rgb = Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba).convert("RGB")
    else:
        rgb = image.convert("RGB")
    rgb.getexif().update(exif)
    return rgb, note


def _to_8_bits(values: np.ndarray) -> tuple[np.ndarray, str]:
    """Grey values (H, W) of more than 8 bits, or floats, as uint8 in [0, 255], and what was assumed of them, a phrase.

    The range of integers is [0, 2^n - 1] for the least n of `DEPTHS` that holds them all; that of floats [0, 1], or
    their own minimum and maximum where those lie outside it.
    """
    note = ""
    if np.issubdtype(values.dtype, np.integer) and values.min() >= 0 and values.max() <= 65_535:
        most = int(values.max())
        depth = next(depth for depth in DEPTHS if most < 2**depth)
        low, high = 0.0, 2.0**depth - 1
        if depth not in (8, 16):
            note = (
                f"holds whole numbers up to {most:,}, so it is taken as a picture of {depth} bits: {2**depth - 1:,} is "
                "white"
            )
    else:
        finite = values[np.isfinite(values)]
        if not finite.size:
            raise PictureError("no pixel has a finite value")
        low, high = (
            (0.0, 1.0) if finite.min() >= 0 and finite.max() <= 1 else (float(finite.min()), float(finite.max()))
        )
    grey = np.empty(values.shape, np.uint8)
    rows = max(1, BAND // max(1, values.shape[1]))
    for first in range(0, len(values), rows):  # float64 of a whole scan would take eight times the memory of the scan
        band = np.nan_to_num(values[first : first + rows].astype(np.float64))
        grey[first : first + rows] = ((band - low) * (255 / max(high - low, 1e-12))).clip(0, 255).round()
    return grey, note


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
