"""Hostile pictures: no program is started, no decoder that is not needed is reached, and each is a sentence in time."""

from __future__ import annotations

import ast
import io
import os
import struct
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import gradio as gr
import numpy as np
import pytest
from PIL import GifImagePlugin, Image, ImageFile

from simpool_viz import images, read_picture
from simpool_viz.app.board.component import Painting
from simpool_viz.errors import PictureError
from simpool_viz.images import FORMATS, MOST_LARGE_PIXELS, MOST_SCANS, open_picture
from simpool_viz.scores.references import read_reference

PACKAGE = Path(images.__file__).parent
STARTS = {  # what the plugins of Pillow that nobody needs here recognise a file by
    "EPS": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 64 64\n%%EndComments\n%%EndProlog\nshowpage\n",
    "EPS with a preview": b"\xc5\xd0\xd3\xc6" + struct.pack("<6I", 32, 90, 0, 0, 0, 0) + bytes(8) + b"%!PS-Adobe-3.0\n",
    "PDF": b"%PDF-1.4\n1 0 obj<</Type/Catalog>>endobj\n",
    "PSD": b"8BPS\0\1" + bytes(6) + struct.pack(">HIIHH", 3, 64, 64, 8, 3) + bytes(64),
    "WMF": b"\xd7\xcd\xc6\x9a\0\0" + struct.pack("<4hH", 0, 0, 64, 64, 96) + bytes(64),
    "EMF": b"\1\0\0\0" + bytes(36) + b" EMF" + bytes(64),
    "FITS": b"SIMPLE  =                    T".ljust(80) + b"BITPIX  =                    8".ljust(80),
    "HDF5": b"\x89HDF\r\n\x1a\n" + bytes(64),
    "QOI": b"qoif" + struct.pack(">II", 64, 64) + b"\3\0" + bytes(64),
    "IM": b"Image type: RGB image\r\nImage size (x*y): 64*64\r\n".ljust(512, b"\0"),
    "JPEG2000": b"\0\0\0\x0cjP  \r\n\x87\n" + bytes(64),
    "nothing": bytes(range(256)) * 8,
}


def jpeg(**options: Any) -> bytes:
    data = io.BytesIO()
    pixels = np.random.default_rng(0).integers(256, size=(120, 160, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(data, "JPEG", **options)
    return data.getvalue()


def by_read_picture(path: Path) -> Any:
    return read_picture(path)


def by_read_reference(path: Path) -> Any:
    return read_reference(path)


def by_painting(path: Path) -> Any:
    return Painting(type="numpy").convert_and_format_image(SimpleNamespace(path=str(path)))


def by_painted_bytes(path: Path) -> Any:
    return Painting(type="numpy").convert_and_format_image(path.read_bytes())


DOORS = [by_read_picture, by_read_reference, by_painting, by_painted_bytes]


@pytest.mark.parametrize("door", DOORS)
@pytest.mark.parametrize("kind", STARTS)
def test_bytes_of_other_formats_reach_no_plugin_whatever_the_file_is_called(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, door: Callable[[Path], Any]
) -> None:
    def reached(*given: Any) -> Any:
        raise SystemExit(f"a plugin of {kind} was reached")  # no decoder's error, so that nothing makes it a sentence

    Image.init()
    for name, (_, accept) in list(Image.OPEN.items()):
        if name not in FORMATS:
            monkeypatch.setitem(Image.OPEN, name, (reached, accept))
    for name in ("innocent.jpg", "innocent.png", "innocent"):
        (tmp_path / name).write_bytes(STARTS[kind])
        with pytest.raises(PictureError, match="is not a picture in a format that can be read: JPEG, PNG"):
            door(tmp_path / name)


def test_pictures_are_opened_in_one_place() -> None:
    """Whoever calls Pillow's own `open` brings back every format and every exception."""
    found = set()
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Attribute) and node.attr == "open" and ast.unparse(node.value) in ("Image", "PIL"):
                found.add(path.name)
    assert found == {"images.py"}


def test_page_holds_no_input_of_pictures_that_gradio_decodes() -> None:
    sources = [path.read_text(encoding="utf-8") for path in (PACKAGE / "app").rglob("*.py")]
    for kind in ("Image", "ImageEditor", "ImageSlider", "AnnotatedImage"):
        assert not any(f"gr.{kind}(" in source.replace(f"({kind}):", "") for source in sources)
    assert Painting.preprocess is not gr.ImageEditor.preprocess


@pytest.mark.parametrize(
    "fault",
    [IndexError, KeyError, AttributeError, TypeError, MemoryError, struct.error, RecursionError, ZeroDivisionError],
)
@pytest.mark.parametrize("door", DOORS)
def test_whatever_a_decoder_raises_is_a_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: type[Exception], door: Callable[[Path], Any]
) -> None:
    def fail(self: object) -> None:
        raise fault("of the decoder\nand its second line")

    (tmp_path / "photo.jpg").write_bytes(jpeg())
    monkeypatch.setattr(ImageFile.ImageFile, "load", fail)
    with pytest.raises(PictureError, match="is damaged") as caught:
        door(tmp_path / "photo.jpg")
    assert "\n" not in str(caught.value)


def test_faults_while_a_file_is_opened_are_sentences_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Image.new("L", (20, 30)).save(tmp_path / "photo.gif")
    monkeypatch.setattr(GifImagePlugin.GifImageFile, "_open", lambda self: [][0].nothing)
    with pytest.raises(PictureError, match=r"photo\.gif is "):
        read_picture(tmp_path / "photo.gif")


def header_of_webp(kind: bytes, side: int) -> bytes:
    if kind == b"VP8X":
        body = b"\2\0\0\0" + 2 * (side - 1).to_bytes(3, "little")
    elif kind == b"VP8L":
        body = b"\x2f" + ((side - 1) | (side - 1) << 14).to_bytes(4, "little") + bytes(8)
    else:
        body = b"\x30\1\0\x9d\1\x2a" + 2 * side.to_bytes(2, "little") + bytes(8)
    chunk = kind + len(body).to_bytes(4, "little") + body + b"ANIM" + (6).to_bytes(4, "little") + bytes(6)
    return b"RIFF" + (len(chunk) + 4).to_bytes(4, "little") + b"WEBP" + chunk


@pytest.mark.parametrize("kind", [b"VP8X", b"VP8L", b"VP8 "])
def test_webp_of_a_huge_canvas_is_refused_before_its_decoder_takes_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: bytes
) -> None:
    def reached(*given: Any) -> Any:
        raise SystemExit("Pillow's WebP decoder was reached")

    Image.init()
    monkeypatch.setitem(Image.OPEN, "WEBP", (reached, None))
    (tmp_path / "huge.webp").write_bytes(header_of_webp(kind, 16_383))
    with pytest.raises(PictureError, match=r"huge\.webp has more than 44 megapixels"):
        read_picture(tmp_path / "huge.webp")


@pytest.mark.parametrize("lossless", [True, False])
@pytest.mark.parametrize("frames", [1, 3])
def test_canvas_of_a_webp_is_that_which_pillow_finds(lossless: bool, frames: int) -> None:
    data = io.BytesIO()
    many = [Image.new("RGB", (83, 131), (9 * i, 0, 0)) for i in range(frames)]
    many[0].save(data, "WEBP", lossless=lossless, save_all=frames > 1, append_images=many[1:])
    assert images._webp_canvas(data.getvalue()[:30]) == (83, 131)


@pytest.mark.parametrize(("mode", "suffix"), [("F", "tif"), ("I;16", "png"), ("RGBA", "png"), ("LA", "png")])
def test_pictures_that_take_more_per_pixel_have_a_smaller_limit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mode: str, suffix: str
) -> None:
    path = tmp_path / f"scan.{suffix}"
    Image.new(mode, (40, 30)).save(path)
    assert read_picture(path).size == (40, 30)
    monkeypatch.setattr(images, "MOST_LARGE_PIXELS", 1199)
    with pytest.raises(PictureError, match=rf"scan\.{suffix} has more than 0 megapixels; make it smaller first"):
        read_picture(path)
    Image.new("RGB", (40, 30)).save(tmp_path / "photo.png")
    assert read_picture(tmp_path / "photo.png").size == (40, 30)
    assert MOST_LARGE_PIXELS == images.MOST_PIXELS // 4


def test_deep_values_are_reduced_in_bands_to_what_they_are_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    values = np.random.default_rng(0).normal(3, 40, (61, 47)).astype(np.float32)
    Image.fromarray(values).save(tmp_path / "scan.tif")
    expected = (values.astype(np.float64) - values.min()) * (255 / (float(values.max()) - float(values.min())))
    for band in (1, 100, 2**20):
        monkeypatch.setattr(images, "BAND", band)
        assert np.array_equal(read_picture(tmp_path / "scan.tif").rgb[:, :, 1], expected.clip(0, 255).round())


@pytest.mark.parametrize("progressive", [False, True])
@pytest.mark.parametrize("share", [0.3, 0.6, 0.95])
@pytest.mark.parametrize("rest", [b"", b"\0"])
def test_photo_that_arrives_cut_is_a_sentence(tmp_path: Path, progressive: bool, share: float, rest: bytes) -> None:
    """Also where an unfinished transfer left zeros, which the decoder fills with grey."""
    whole = jpeg(progressive=progressive)
    torn = whole[: int(share * len(whole))]
    (tmp_path / "torn.jpg").write_bytes(torn + rest * (len(whole) - len(torn)))
    with pytest.raises(PictureError, match=r"torn\.jpg is damaged or cut off"):
        read_picture(tmp_path / "torn.jpg")


@pytest.mark.parametrize("tail", [b"", bytes(500), b"MotionPhoto" + b"\xff\xda\xff\xc0" * 20])
def test_whole_jpeg_with_anything_behind_it_is_read(tmp_path: Path, tail: bytes) -> None:
    """Cameras put films and previews behind a photo."""
    for number, options in enumerate([{}, {"progressive": True}, {"restart_marker_blocks": 3}]):
        (tmp_path / f"{number}.jpg").write_bytes(jpeg(**options) + tail)
        assert read_picture(tmp_path / f"{number}.jpg").size == (160, 120)


def test_jpeg_of_countless_scans_is_not_decoded(tmp_path: Path) -> None:
    whole = jpeg(progressive=True)
    last = whole.rindex(b"\xff\xda")
    (tmp_path / "slow.jpg").write_bytes(whole[:last] + whole[last:-2] * (MOST_SCANS + 1) + b"\xff\xd9")
    with pytest.raises(PictureError, match=r"slow\.jpg has more than 100 scans"):
        read_picture(tmp_path / "slow.jpg")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes here")
@pytest.mark.parametrize("door", [by_read_picture, by_read_reference])
def test_named_pipe_is_refused_and_not_waited_for(tmp_path: Path, door: Callable[[Path], Any]) -> None:
    os.mkfifo(tmp_path / "pipe.jpg")
    with pytest.raises(PictureError, match=r"pipe\.jpg cannot be read"):
        door(tmp_path / "pipe.jpg")


def test_only_the_first_frame_of_an_animation_is_decoded(tmp_path: Path) -> None:
    frames = [Image.new("RGB", (64, 48), (60 * i, 0, 0)) for i in range(4)]
    for kind in ("gif", "webp", "png", "tif"):
        frames[1].save(tmp_path / f"a.{kind}", save_all=True, append_images=frames[2:], lossless=True)
        with open_picture(tmp_path / f"a.{kind}", "a") as image:
            assert image.tell() == 0
        assert (read_picture(tmp_path / f"a.{kind}").rgb == (60, 0, 0)).all()
