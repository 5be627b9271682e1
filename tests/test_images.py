"""Pictures in and geometry: every mode, orientation and kind of damage that users meet; and pixels to tokens and back,
exactly."""

from __future__ import annotations

import io
import struct
import sys
import zlib
from pathlib import Path

import numpy as np
import pillow_heif
import pytest
import torch
from PIL import Image, ImageFile, ImageSequence
from torch.nn import functional as F

from simpool_viz.images import (
    MAX_TOKENS,
    MIN_SIDE,
    Geometry,
    Picture,
    cells_of_pixels,
    fit,
    open_picture,
    preprocess,
    read_picture,
)
from simpool_viz.modeling.encoder import IMAGENET_MEAN, IMAGENET_STD
from tests.oracles.masks import token_of_centre

WIDTH, HEIGHT = 40, 24


def colourful(height: int = HEIGHT, width: int = WIDTH, seed: int = 0) -> np.ndarray:
    """A picture (H, W, 3) that no rotation or flip leaves as it is."""
    return np.random.default_rng(seed).integers(256, size=(height, width, 3), dtype=np.uint8)


def saved(folder: Path, image: Image.Image, suffix: str, **options: object) -> Path:
    path = folder / f"photo{suffix}"
    image.save(path, **options)
    return path


# --- modes
# --------------------------------------------------------------------------------------------------------------


def test_rgb_file_is_read_as_it_is_and_named_after_itself(tmp_path: Path) -> None:
    picture = read_picture(saved(tmp_path, Image.fromarray(colourful()), ".png"))
    assert picture.name == "photo.png" and picture.size == (WIDTH, HEIGHT)
    assert picture.rgb.dtype == np.uint8 and np.array_equal(picture.rgb, colourful())
    assert read_picture(str(tmp_path / "photo.png"), "cat").name == "cat"


@pytest.mark.parametrize("suffix", [".png", ".tif", ".jpg"])
def test_grey_becomes_three_equal_channels(tmp_path: Path, suffix: str) -> None:
    grey = np.tile(np.arange(0, 240, 10, dtype=np.uint8)[:, None], (1, WIDTH))
    rgb = read_picture(saved(tmp_path, Image.fromarray(grey), suffix)).rgb.astype(int)
    assert rgb.shape == (HEIGHT, WIDTH, 3)
    assert np.abs(rgb - grey[:, :, None]).max() <= (3 if suffix == ".jpg" else 0)


def on_white(colour: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    a = alpha[:, :, None] / 255
    return colour * a + 255 * (1 - a)


def test_transparency_of_rgba_and_la_is_laid_on_white(tmp_path: Path) -> None:
    colour, alpha = colourful(), colourful(seed=1)[:, :, 0]
    rgba = np.dstack([colour, alpha])
    rgb = read_picture(saved(tmp_path, Image.fromarray(rgba), ".png")).rgb
    assert np.abs(rgb - on_white(colour, alpha)).max() <= 1
    la = Image.merge("LA", (Image.fromarray(colour[:, :, 0]), Image.fromarray(alpha)))
    rgb = read_picture(saved(tmp_path, la, ".png")).rgb
    assert np.abs(rgb - on_white(colour[:, :, :1].repeat(3, 2), alpha)).max() <= 1


def test_fully_transparent_pixels_are_white_whatever_colour_they_hide(tmp_path: Path) -> None:
    rgba = np.dstack([colourful(), np.zeros((HEIGHT, WIDTH), np.uint8)])
    assert (read_picture(saved(tmp_path, Image.fromarray(rgba), ".png")).rgb == 255).all()
    assert (read_picture(saved(tmp_path, Image.fromarray(rgba), ".webp", lossless=True, exact=True)).rgb == 255).all()


def with_palette(indices: np.ndarray) -> Image.Image:
    image = Image.fromarray(indices.astype(np.uint8))
    image.putpalette([10, 20, 30, 200, 100, 50, 0, 255, 0])
    assert image.mode == "P"
    return image


@pytest.mark.parametrize("suffix", [".png", ".gif"])
def test_palette_colours_are_looked_up_and_its_transparent_entry_is_white(tmp_path: Path, suffix: str) -> None:
    indices = np.arange(HEIGHT * WIDTH).reshape(HEIGHT, WIDTH) % 3
    table = np.array([[10, 20, 30], [200, 100, 50], [0, 255, 0]])
    assert np.array_equal(read_picture(saved(tmp_path, with_palette(indices), suffix)).rgb, table[indices])
    table[1] = 255
    assert np.array_equal(
        read_picture(saved(tmp_path, with_palette(indices), suffix, transparency=1)).rgb, table[indices]
    )


def test_palette_with_graded_transparency_is_laid_on_white(tmp_path: Path) -> None:
    indices = np.arange(HEIGHT * WIDTH).reshape(HEIGHT, WIDTH) % 3
    rgb = read_picture(saved(tmp_path, with_palette(indices), ".png", transparency=bytes([255, 0, 51]))).rgb
    assert np.abs(rgb[0, :3] - np.array([[10, 20, 30], [255, 255, 255], [204, 255, 204]])).max() <= 1


def test_transparent_colour_of_an_rgb_or_grey_png_is_white(tmp_path: Path) -> None:
    colour = np.full((HEIGHT, WIDTH, 3), (10, 20, 30), np.uint8)
    colour[:, 20:] = (90, 80, 70)
    rgb = read_picture(saved(tmp_path, Image.fromarray(colour), ".png", transparency=(10, 20, 30))).rgb
    assert (rgb[:, :20] == 255).all() and (rgb[:, 20:] == (90, 80, 70)).all()
    rgb = read_picture(saved(tmp_path, Image.fromarray(colour[:, :, 0]), ".png", transparency=10)).rgb
    assert (rgb[:, :20] == 255).all() and (rgb[:, 20:] == 90).all()


@pytest.mark.parametrize("suffix", [".tif", ".jpg"])
def test_cmyk_becomes_the_colours_it_prints(tmp_path: Path, suffix: str) -> None:
    inks = np.zeros((HEIGHT, WIDTH, 4), np.uint8)
    inks[:, 16:32] = (0, 255, 255, 0)
    inks[:, 32:] = (0, 0, 0, 255)
    rgb = read_picture(saved(tmp_path, Image.fromarray(inks, mode="CMYK"), suffix)).rgb.astype(int)
    for x, colour in ((8, (255, 255, 255)), (24, (255, 0, 0)), (38, (0, 0, 0))):
        assert np.abs(rgb[4:20, x] - colour).max() <= 12


def test_one_bit_is_black_and_white(tmp_path: Path) -> None:
    bits = colourful()[:, :, 0] > 127
    assert np.array_equal(read_picture(saved(tmp_path, Image.fromarray(bits), ".png")).rgb[:, :, 1], 255 * bits)


@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_sixteen_bits_are_reduced_to_eight(tmp_path: Path, suffix: str) -> None:
    eight = colourful()[:, :, 0]
    image = Image.fromarray(eight.astype(np.uint16) * 257)
    assert image.mode == "I;16"
    assert np.array_equal(read_picture(saved(tmp_path, image, suffix)).rgb, eight[:, :, None].repeat(3, 2))


@pytest.mark.parametrize("suffix", [".png", ".tif"])
@pytest.mark.parametrize(("bits", "taken"), [(9, 10), (10, 10), (12, 12), (14, 14), (15, 16), (16, 16)])
def test_grey_of_ten_to_sixteen_bits_is_scaled_by_its_range_and_it_is_said(
    tmp_path: Path, suffix: str, bits: int, taken: int
) -> None:
    values = np.linspace(0, 2**bits - 1, WIDTH * HEIGHT).round().astype(np.uint16).reshape(HEIGHT, WIDTH)
    picture = read_picture(saved(tmp_path, Image.fromarray(values), suffix))
    assert np.array_equal(picture.rgb[:, :, 0], (values.astype(float) * 255 / (2**taken - 1)).round())
    said = f"photo{suffix} holds whole numbers up to {2**bits - 1:,}, so it is taken as a picture of {taken} bits"
    assert picture.note.startswith(said) if taken < 16 else picture.note == ""


def test_what_was_assumed_of_a_picture_stands_on_board_and_inspection(tmp_path: Path) -> None:
    from simpool_viz import make_board, record
    from simpool_viz.board.inspection import inspect
    from tests.helpers import small_vit

    values = np.linspace(0, 4095, 96 * 64).astype(np.uint16).reshape(64, 96)
    path = saved(tmp_path, Image.fromarray(values), ".png")
    encoder = small_vit("gap")
    assert [s for s in make_board([path], [encoder]).skipped if "12 bits: 4,095 is white" in s]
    assert "12 bits" in inspect(record(encoder, path), "class").notes[0]


def test_heic_is_read_whatever_it_is_called_with_transparency_on_white(tmp_path: Path) -> None:
    """A decoder of HEIC turns the picture itself; the orientation in its EXIF data is then no longer one to apply."""
    pillow_heif.register_heif_opener()
    smooth = (np.indices((48, 64)).sum(0) * 2).astype(np.uint8)
    rgb = np.dstack([smooth, 255 - smooth, smooth // 2])
    exif = Image.Exif()
    exif[0x0112] = 6
    for options in ({}, {"exif": exif}):
        path = saved(tmp_path, Image.fromarray(rgb), ".heic", quality=100, **options)
        with Image.open(path) as decoded:
            wanted = np.asarray(decoded.convert("RGB"))
        found = read_picture(path.rename(tmp_path / "named.jpg"))
        assert np.array_equal(found.rgb, wanted)
        assert options or np.abs(found.rgb.astype(int) - rgb).max() < 12
    clear = saved(tmp_path, Image.fromarray(np.dstack([rgb, np.zeros((48, 64), np.uint8)])), ".heic", quality=100)
    assert read_picture(clear).rgb.min() > 250


def test_heic_is_compared_with_the_limits_before_it_is_decoded(tmp_path: Path) -> None:
    pillow_heif.register_heif_opener()
    path = saved(tmp_path, Image.fromarray(colourful(64, 64)), ".heic")
    with pytest.raises(ValueError, match="more than 0 megapixels"), open_picture(path, "p", most=4095):
        raise AssertionError("it was opened")
    with open_picture(path, "p", most=4096) as image:
        assert image.format == "HEIF"


def test_heic_without_its_package_is_a_sentence_with_the_remedy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pillow_heif.register_heif_opener()
    path = saved(tmp_path, Image.fromarray(colourful(64, 64)), ".heic")
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    for table in (Image.OPEN, Image.EXTENSION):
        monkeypatch.delitem(table, "HEIF", raising=False)
    with pytest.raises(
        ValueError, match=r"photo\.heic is a HEIC picture, .* pip install pillow-heif, or save it as JPEG"
    ):
        read_picture(path)
    (tmp_path / "other.jpg").write_bytes(b"nothing of the kind")
    with pytest.raises(ValueError, match=r"format that can be read: JPEG, PNG, .*(BMP|PPM|AVIF)$"):
        read_picture(tmp_path / "other.jpg")


def test_32_bit_integers_are_read_as_16_or_8_bits_by_what_they_hold(tmp_path: Path) -> None:
    eight = colourful()[:, :, 0].astype(np.int32)
    for values in (eight * 257, eight):
        assert np.array_equal(read_picture(saved(tmp_path, Image.fromarray(values), ".tif")).rgb[:, :, 0], eight)


def test_floats_are_read_from_0_to_1_or_else_by_their_own_range(tmp_path: Path) -> None:
    ramp = np.linspace(0, 1, WIDTH * HEIGHT, dtype=np.float32).reshape(HEIGHT, WIDTH)
    wanted = (ramp * 255).round()[:, :, None]
    assert np.abs(read_picture(saved(tmp_path, Image.fromarray(ramp), ".tif")).rgb - wanted).max() <= 1
    assert np.abs(read_picture(saved(tmp_path, Image.fromarray(ramp / 2), ".tif")).rgb - wanted / 2).max() <= 1
    assert np.abs(read_picture(saved(tmp_path, Image.fromarray(7 * ramp - 3), ".tif")).rgb - wanted).max() <= 1


def test_floats_without_a_finite_value_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no pixel has a finite value"):
        read_picture(saved(tmp_path, Image.fromarray(np.full((HEIGHT, WIDTH), np.nan, np.float32)), ".tif"))


# --- orientation and frames
# -------------------------------------------------------------------------------------------------

# How a picture lies in the file when its EXIF orientation is the key: "where the file's first row and first column are
# seen".
STORED = {
    1: lambda u: u,
    2: lambda u: u[:, ::-1],
    3: lambda u: u[::-1, ::-1],
    4: lambda u: u[::-1],
    5: lambda u: u.swapaxes(0, 1),
    6: lambda u: np.rot90(u),
    7: lambda u: u[::-1, ::-1].swapaxes(0, 1),
    8: lambda u: np.rot90(u, -1),
}
KINDS = {
    "RGB.png": lambda u: Image.fromarray(u),
    "RGBA.png": lambda u: Image.fromarray(np.dstack([u, np.full(u.shape[:2], 255, np.uint8)])),
    "L.png": lambda u: Image.fromarray(np.ascontiguousarray(u[:, :, 0])),
    "P.png": lambda u: Image.fromarray(u).quantize(256),
    "RGB.tif": lambda u: Image.fromarray(u),
    "L.tif": lambda u: Image.fromarray(np.ascontiguousarray(u[:, :, 0])),
    "16.tif": lambda u: Image.fromarray(u[:, :, 0].astype(np.uint16) * 257),
    "16.png": lambda u: Image.fromarray(u[:, :, 0].astype(np.uint16) * 257),
    "RGB.webp": lambda u: Image.fromarray(u),
}


@pytest.mark.parametrize("orientation", STORED)
@pytest.mark.parametrize("kind", KINDS)
def test_every_exif_orientation_gives_the_upright_picture(tmp_path: Path, kind: str, orientation: int) -> None:
    upright = (colourful(3, 5, seed=2) // 64 * 64).repeat(8, 0).repeat(8, 1)
    exif = Image.Exif()
    exif[0x0112] = orientation
    image = KINDS[kind](np.ascontiguousarray(STORED[orientation](upright)))
    options = {"lossless": True} if kind.endswith("webp") else {}
    path = saved(tmp_path, image, "." + kind.split(".")[1], exif=exif, **options)
    wanted = upright if "RGB" in kind or kind == "P.png" else upright[:, :, :1].repeat(3, 2)
    assert np.array_equal(read_picture(path).rgb, wanted)


@pytest.mark.parametrize("orientation", STORED)
def test_exif_orientation_of_a_camera_jpeg_is_applied_and_sizes_swap(tmp_path: Path, orientation: int) -> None:
    upright = np.zeros((48, 80, 3), np.uint8)
    upright[:24, :32], upright[24:, 48:] = (220, 30, 30), (30, 30, 220)
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored = Image.fromarray(np.ascontiguousarray(STORED[orientation](upright)))
    path = saved(tmp_path, stored, ".jpg", exif=exif, quality=95, subsampling=0)
    picture = read_picture(path)
    assert picture.size == (80, 48) and np.abs(picture.rgb.astype(int) - upright).mean() < 2
    with Image.open(path) as image:
        assert np.array_equal(read_picture(image).rgb, picture.rgb), "a PIL image that carries EXIF is turned as well"


@pytest.mark.parametrize("suffix", [".gif", ".webp", ".png"])
def test_of_an_animation_the_first_frame_is_taken(tmp_path: Path, suffix: str) -> None:
    frames = [Image.new("RGB", (WIDTH, HEIGHT), colour) for colour in ((255, 0, 0), (0, 0, 255), (0, 255, 0))]
    options = {"lossless": True} if suffix == ".webp" else {}
    path = saved(tmp_path, frames[0], suffix, save_all=True, append_images=frames[1:], **options)
    assert (read_picture(path).rgb == (255, 0, 0)).all()
    with Image.open(path) as image:
        assert len(list(ImageSequence.Iterator(image))) == 3  # which leaves it at the last frame
        assert (read_picture(image).rgb == (255, 0, 0)).all()


# --- arrays and objects
# -----------------------------------------------------------------------------------------------------


def test_arrays_of_bytes_and_of_floats_give_the_same_picture() -> None:
    rgb = colourful()
    for array in (
        rgb,
        rgb / 255,
        (rgb / 255).astype(np.float32),
        np.dstack([rgb, np.full((HEIGHT, WIDTH), 255, np.uint8)]),
    ):
        assert np.array_equal(read_picture(array).rgb, rgb)
    grey = rgb[:, :, 0]
    for array in (grey, grey[:, :, None], grey / 255):
        assert np.array_equal(read_picture(array).rgb, grey[:, :, None].repeat(3, 2))
    assert np.array_equal(read_picture(rgb[::-1, ::2]).rgb, rgb[::-1, ::2]), "views with strides too"
    assert read_picture(rgb).name == "picture"


@pytest.mark.parametrize(
    ("array", "says"),
    [
        (np.zeros((24, 40, 2), np.uint8), r"\(H, W\), \(H, W, 3\) or \(H, W, 4\), not \(24, 40, 2\)"),
        (np.zeros(40, np.uint8), r"not \(40,\)"),
        (np.zeros((1, 24, 40, 3), np.uint8), r"not \(1, 24, 40, 3\)"),
        (np.full((24, 40, 3), 255.0), "divide by 255"),
        (np.full((24, 40), -0.1), "divide by 255"),
        (np.full((24, 40), np.nan), "divide by 255"),
        (np.zeros((24, 40), np.int64), "not int64"),
        (np.zeros((24, 40), bool), "not bool"),
        (np.zeros((4, 40), np.uint8), "40 x 4 pixels"),
        (np.zeros((0, 40, 3), np.uint8), "40 x 0 pixels"),
        (np.zeros((0, 40, 3)), "40 x 0 pixels"),
    ],
)
def test_array_that_is_no_picture_is_refused_in_a_sentence(array: np.ndarray, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        read_picture(array)


@pytest.mark.parametrize("orientation", [1, 6])
def test_image_that_is_given_stays_as_it_was_and_shares_no_pixels(orientation: int) -> None:
    image = Image.fromarray(np.random.default_rng(0).integers(256, size=(20, 30, 3), dtype=np.uint8))
    image.getexif()[0x0112] = orientation
    before = np.array(image)
    picture = read_picture(image)
    assert picture.size == ((30, 20) if orientation == 1 else (20, 30)) and image.getexif()[0x0112] == orientation
    shown = picture.rgb.copy()
    image.paste((1, 2, 3), (0, 0, 30, 20))
    assert np.array_equal(picture.rgb, shown)
    assert np.array_equal(shown if orientation == 1 else np.rot90(shown), before)


def test_picture_is_returned_as_it_is() -> None:
    picture = Picture(colourful(), "mine")
    assert read_picture(picture) is picture


# --- what cannot be read
# ------------------------------------------------------------------------------------------------------


def png_bytes(width: int = WIDTH, height: int = HEIGHT) -> bytes:
    data = io.BytesIO()
    Image.fromarray(colourful(height, width)).save(data, "PNG")
    return data.getvalue()


def jpeg_bytes() -> bytes:
    data = io.BytesIO()
    Image.fromarray(colourful(200, 300)).save(data, "JPEG")
    return data.getvalue()


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("notes.txt", b"no picture at all\n" * 20, "notes.txt is not a picture in a format that can be read"),
        ("fake.jpg", b"<html>404 not found</html>" * 20, "fake.jpg is not a picture in a format that can be read"),
        ("empty.jpg", b"", r"empty.jpg is empty \(0 bytes\)"),
        ("half.jpg", jpeg_bytes()[: len(jpeg_bytes()) // 2], "half.jpg is damaged or cut off"),
        ("half.png", png_bytes()[: len(png_bytes()) // 2], "half.png is damaged or cut off"),
        ("head.jpg", jpeg_bytes()[:24], "head.jpg is damaged or cut off"),
        ("wrong.png", png_bytes()[:60] + bytes(20) + png_bytes()[80:], "wrong.png is damaged or cut off"),
        ("dot.png", png_bytes(1, 1), f"dot.png is 1 x 1 pixels; a picture needs at least {MIN_SIDE} on each side"),
        ("thin.png", png_bytes(100, 7), "thin.png is 100 x 7 pixels"),
    ],
)
def test_file_that_is_no_whole_picture_is_refused_in_a_sentence(
    tmp_path: Path, name: str, content: bytes, says: str
) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(ValueError, match=says):
        read_picture(path)


@pytest.mark.filterwarnings("ignore::UserWarning:PIL")
@pytest.mark.parametrize("kind", ["PNG", "JPEG", "GIF", "WEBP", "TIFF", "BMP", "AVIF", "JPEG2000", "HEIF"])
def test_cut_or_garbled_file_of_any_format_is_read_or_refused_with_a_value_error(tmp_path: Path, kind: str) -> None:
    """Pillow tells of damage by errors of many types, some already when it opens the file."""
    data = io.BytesIO()
    pillow_heif.register_heif_opener()
    try:
        Image.fromarray(colourful(64, 64)).save(data, kind)
    except (KeyError, OSError):
        pytest.skip(f"this Pillow writes no {kind}")
    whole, rng, path, refused = data.getvalue(), np.random.default_rng(0), tmp_path / "photo", 0
    for number in range(60):
        content = bytearray(whole[: rng.integers(1, len(whole))] if number % 2 else whole)
        for place in rng.integers(min(len(content), 200), size=number // 6):
            content[place] = rng.integers(256)
        path.write_bytes(content)
        try:
            read_picture(path)
        except ValueError:
            refused += 1
    assert refused > 5


def test_picture_of_900_megapixels_is_refused_before_a_pixel_is_decoded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", 30_000, 30_000, 1, 0, 0, 0, 0)  # one bit per pixel
    rows = zlib.compressobj(1)
    body = b"".join([rows.compress(bytes(3751 * 1000)) for _ in range(30)]) + rows.flush()
    path = tmp_path / "huge.png"
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", body) + chunk(b"IEND", b""))
    assert path.stat().st_size < 2_000_000

    def refuse(self: object) -> None:
        raise AssertionError("the picture was decoded")

    monkeypatch.setattr(ImageFile.ImageFile, "load", refuse)
    with pytest.raises(ValueError, match=r"huge.png has more than \d+ megapixels"):
        read_picture(path)


def test_folder_and_missing_file_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="is a folder, not a picture"):
        read_picture(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"there is no file .*absent\.jpg"):
        read_picture(tmp_path / "absent.jpg")


# --- geometry
# -------------------------------------------------------------------------------------------------------------------

SIZES = [(451, 300), (300, 451), (640, 480), (1000, 999), (333, 1000), (17, 900), (2048, 2047), (8, 9)]


@pytest.mark.parametrize("stride", [4, 8, 14, 16])
@pytest.mark.parametrize("size", [1, 37, 128, 224, 448, 500])
@pytest.mark.parametrize("original", SIZES)
def test_fit_rounds_the_shorter_side_to_the_stride_and_keeps_the_aspect_to_half_a_token(
    original: tuple[int, int], size: int, stride: int
) -> None:
    geometry = fit(original, size, stride)
    (width, height), (h, w) = original, geometry.grid
    assert (
        geometry.original == original and geometry.stride == stride and geometry.input_size == (w * stride, h * stride)
    )
    if max(original) / min(original) * (size / stride) ** 2 > MAX_TOKENS * 0.98:
        return  # capped: below
    shorter, tokens = (height, h) if height <= width else (width, w)
    assert tokens == max(1, round(size / stride))
    if tokens > 1:
        scale = size / stride / shorter  # tokens per pixel
        assert abs(h - height * scale) <= 0.5 + 1e-9 and abs(w - width * scale) <= 0.5 + 1e-9


@pytest.mark.parametrize(
    "original", [(10_000, 100), (100, 10_000), (1600, 8), (3000, 800), (901, 30_000), (2000, 1000)]
)
@pytest.mark.parametrize(("size", "stride"), [(224, 16), (448, 8), (1024, 8), (2000, 16)])
def test_elongated_pictures_are_capped_with_their_aspect_kept(
    original: tuple[int, int], size: int, stride: int
) -> None:
    (width, height), (h, w) = original, fit(original, size, stride).grid
    assert 1 <= h * w <= MAX_TOKENS
    # Some scale exists at which both sides are right to half a token: the two intervals of scales overlap.
    assert max((h - 0.5) / height, (w - 0.5) / width) <= min((h + 0.5) / height, (w + 0.5) / width)
    tokens = width * height * (size / stride / min(original)) ** 2
    if tokens > 1.2 * MAX_TOKENS:
        assert h * w > 0.9 * MAX_TOKENS, "capped no further than needed"


def test_strip_thinner_than_a_token_gets_one_row_and_no_more_than_the_cap() -> None:
    assert fit((900_000, 8), 224, 16).grid[0] == 1
    assert 1 <= fit((900_000, 8), 224, 16).grid[1] <= MAX_TOKENS
    assert fit((40, 30), 1, 16).grid == (1, 1)


def test_half_a_token_is_rounded_alike_for_every_picture() -> None:
    assert {fit((2 * side, side), 56, 16).grid[0] for side in range(9, 700)} == {round(56 / 16)}


@pytest.mark.parametrize("size", [0, -5])
def test_fit_refuses_a_size_that_is_not_positive(size: int) -> None:
    with pytest.raises(ValueError, match="must be positive"):
        fit((451, 300), size, 16)


def test_fit_refuses_a_size_with_too_many_tokens_and_names_the_largest() -> None:
    with pytest.raises(ValueError, match="makes more than 16,384 tokens of 16 px; choose 2048 or less"):
        fit((451, 300), 4096, 16)
    assert fit((300, 300), 2048, 16).grid == (128, 128)


GEOMETRIES = [
    Geometry((451, 300), (10, 15), 16),
    Geometry((300, 451), (15, 10), 16),
    Geometry((640, 427), (14, 21), 16),
    Geometry((997, 61), (3, 31), 8),
    Geometry((15, 10), (10, 15), 16),
    Geometry((16, 11), (10, 15), 16),
]
SMALLER_THAN_ITS_GRID = Geometry((11, 9), (13, 20), 16)


@pytest.mark.parametrize("geometry", [*GEOMETRIES, SMALLER_THAN_ITS_GRID])
def test_centre_of_every_token_lies_in_it(geometry: Geometry) -> None:
    (width, height), (h, w) = geometry.original, geometry.grid
    for row in range(h):
        for column in range(w):
            x, y = (2 * column + 1) * width / (2 * w), (2 * row + 1) * height / (2 * h)
            assert geometry.token_at(x, y) == (row, column)


@pytest.mark.parametrize("geometry", [*GEOMETRIES, SMALLER_THAN_ITS_GRID])
def test_cells_of_pixels_are_the_tokens_at_their_centres(geometry: Geometry) -> None:
    (width, height), (h, w) = geometry.original, geometry.grid
    rows, columns = cells_of_pixels(geometry.grid, geometry.original)
    assert rows.tolist() == [token_of_centre(y, height, h) for y in range(height)]
    assert columns.tolist() == [token_of_centre(x, width, w) for x in range(width)]
    assert all(
        geometry.token_at(x + 0.5, y + 0.5) == (rows[y], columns[x])
        for x in range(0, width, 3)
        for y in range(0, height, 3)
    )
    rows, columns = cells_of_pixels(geometry.grid, (37, 23))
    assert rows.tolist() == [token_of_centre(y, 23, h) for y in range(23)] and len(columns) == 37


def test_token_at_the_far_edges_is_the_last_one_and_beyond_them_an_error() -> None:
    geometry = GEOMETRIES[0]
    assert geometry.token_at(0, 0) == (0, 0) and geometry.token_at(451, 300) == (9, 14)
    for x, y in ((-0.1, 5), (5, -0.1), (451.1, 5), (5, 300.1), (float("nan"), 5)):
        with pytest.raises(ValueError, match="lies outside the picture of 451 x 300 pixels"):
            geometry.token_at(x, y)


def boxes(h: int, w: int) -> list[tuple[int, int, int, int]]:
    """Every half-open box (column0, row0, column1, row1) of a grid."""
    columns, rows = ([(a, b) for a in range(n) for b in range(a + 1, n + 1)] for n in (w, h))
    return [(c0, r0, c1, r1) for c0, c1 in columns for r0, r1 in rows]


@pytest.mark.parametrize("geometry", [*GEOMETRIES, SMALLER_THAN_ITS_GRID])
def test_box_to_pixels_holds_exactly_the_pixels_of_its_tokens(geometry: Geometry) -> None:
    rows, columns = cells_of_pixels(geometry.grid, geometry.original)
    for c0, r0, c1, r1 in boxes(*geometry.grid)[::7]:
        x0, y0, x1, y1 = geometry.box_to_pixels((c0, r0, c1, r1))
        assert [x for x in range(len(columns)) if c0 <= columns[x] < c1] == list(range(x0, x1))
        assert [y for y in range(len(rows)) if r0 <= rows[y] < r1] == list(range(y0, y1))


# --- preprocessing
# --------------------------------------------------------------------------------------------------------------


def test_preprocess_normalises_each_channel() -> None:
    picture = Picture(np.full((30, 45, 3), (255, 0, 51), np.uint8), "flat")
    x = preprocess(picture, fit(picture.size, 32, 16), IMAGENET_MEAN, IMAGENET_STD)
    assert x.dtype == torch.float32 and x.shape == (3, 32, 48)
    for channel, value in enumerate((1.0, 0.0, 0.2)):
        assert x[channel].numpy() == pytest.approx((value - IMAGENET_MEAN[channel]) / IMAGENET_STD[channel], abs=1e-6)


@pytest.mark.parametrize("size", [64, 224, 448])
def test_preprocess_is_an_antialiased_bicubic_of_the_whole_picture(size: int) -> None:
    rgb = np.asarray(Image.fromarray(colourful(30, 45)).resize((451, 300), Image.Resampling.BICUBIC))
    geometry = fit((451, 300), size, 16)
    x = preprocess(Picture(rgb, "photo"), geometry, (0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
    source = torch.from_numpy(rgb.copy()).permute(2, 0, 1)[None].double() / 255
    wanted = F.interpolate(
        source, geometry.input_size[::-1], mode="bicubic", antialias=True, align_corners=False
    ).clamp(0, 1)[0]
    assert x.shape == wanted.shape and (x - wanted).abs().max() < 2 / 255


def test_preprocess_of_a_large_reduction_stays_close_to_the_exact_one() -> None:
    rgb = np.asarray(Image.fromarray(colourful(12, 18)).resize((1800, 1200), Image.Resampling.BICUBIC))
    geometry = fit((1800, 1200), 64, 16)
    x = preprocess(Picture(rgb, "photo"), geometry, (0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
    source = torch.from_numpy(rgb.copy()).permute(2, 0, 1)[None].float() / 255
    wanted = F.interpolate(
        source, geometry.input_size[::-1], mode="bicubic", antialias=True, align_corners=False
    ).clamp(0, 1)[0]
    assert (x - wanted).abs().mean() < 2 / 255 and (x - wanted).abs().max() < 0.05
