"""The Compare page as a visitor meets it: the example board, uploads, the style controls, cancelling, and errors in
sentences."""

from __future__ import annotations

import itertools
import re
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import Page, expect

from simpool_viz import mask_rules
from simpool_viz.board.board import Board
from simpool_viz.bundled import bundled_folder
from simpool_viz.masks import largest_component
from tests.browser.conftest import EXAMPLE, Opened, masks, set_style, settle, until_drawn

pytestmark = pytest.mark.browser


def slide(page: Page, name: str, value: float) -> None:
    page.locator(f"#{name} input[type=range]").fill(str(value))


def upload(page: Page, path: Path) -> None:
    page.locator(
        "#photo button[aria-label='Clear'], #photo button[title='Clear'], #photo [aria-label='Remove Image']"
    ).first.click()
    page.locator("#photo input[type=file]").set_input_files(str(path))


def shown_title(page: Page) -> str:
    return page.locator(".simpool-board .photo figcaption").inner_text()


def test_a_first_visitor_sees_a_finished_board_and_nothing_is_fetched_from_elsewhere(
    opened: Opened, python_board: Board
):
    page, log = opened
    expect(page.locator(".simpool-board .row")).to_have_count(len(python_board.rows))
    assert page.locator(".simpool-board .row h2").all_inner_texts() == [row.title for row in python_board.rows]
    assert shown_title(page) == "chelsea.jpg"
    page.wait_for_timeout(1000)
    assert [url for url in log.requests if "127.0.0.1" not in url and not url.startswith(("data:", "blob:"))] == []
    assert log.complaints == []


def test_every_mask_equals_pythons_cell_for_cell(opened: Opened, python_board: Board):
    page, _ = opened
    for rule in mask_rules().values():
        for amount in [None] if rule.default is None else [0.01, 0.37, 0.6, 0.95, 1.0]:
            for largest in (False, True):
                set_style(page, rule=rule.name, amount=amount or 0.5, largest=largest, smooth=False, smoothing=0)
                in_pixels = amount in (None, 0.37)
                for row, drawn in zip(python_board.rows, masks(page, in_pixels), strict=True):
                    mask = row.attention.mask(rule.name, amount, largest=largest)
                    assert drawn["grid"] == mask.grid.ravel().astype(int).tolist(), (
                        rule.name,
                        amount,
                        largest,
                        row.title,
                    )
                    if in_pixels:
                        assert np.array_equal(drawn["pixels"], mask.pixels(size=(drawn["width"], drawn["height"])))


def test_smooth_masks_equal_pythons_pixel_for_pixel(opened: Opened, python_board: Board):
    page, _ = opened
    for rule, amount, largest in (("mass", 0.6, False), ("otsu", None, True), ("area", 0.2, True)):
        set_style(page, rule=rule, amount=amount or 0.5, largest=largest, smooth=True, smoothing=0)
        for row, drawn in zip(python_board.rows, masks(page, in_pixels=True), strict=True):
            size = drawn["width"], drawn["height"]
            expected = row.attention.mask(rule, amount, largest=largest).pixels(smooth=True, size=size)
            assert np.array_equal(drawn["pixels"], expected), (rule, row.title)
            if largest:
                assert np.array_equal(expected, largest_component(expected))


@pytest.mark.parametrize("smoothing", [0.25, 1.0, 2.0])
def test_masks_of_smoothed_maps_equal_pythons(opened: Opened, python_board: Board, smoothing: float):
    page, _ = opened
    for rule, amount, largest in (
        ("mass", 0.6, False),
        ("otsu", None, True),
        ("mean", None, False),
        ("area", 0.2, True),
    ):
        for smooth in (False, True):
            changes = {"rule": rule, "amount": amount or 0.5, "largest": largest, "smooth": smooth}
            set_style(page, **changes, smoothing=smoothing)
            for row, drawn in zip(python_board.rows, masks(page, in_pixels=True), strict=True):
                mask = row.attention.mask(rule, amount, largest=largest, smoothing=smoothing)
                assert drawn["grid"] == mask.grid.ravel().astype(int).tolist(), (rule, smoothing, row.title)
                expected = mask.pixels(smooth=smooth, size=(drawn["width"], drawn["height"]))
                assert np.array_equal(drawn["pixels"], expected), (rule, smoothing, smooth, row.title)


def test_the_style_controls_change_the_board_and_send_no_request(opened: Opened):
    page, log = opened
    before, asked = masks(page), settle(page, log)
    assert asked > 5, "the log sees requests"
    pixels = page.evaluate("document.querySelector('.simpool-board canvas').toDataURL()")
    slide(page, "amount", 0.3)
    assert masks(page)[0]["grid"] != before[0]["grid"]
    expect(page.locator(".simpool-board .live").first).to_contain_text("% of the picture")
    cut = masks(page)[0]["grid"]
    slide(page, "smoothing", 1)
    assert masks(page)[0]["grid"] != cut
    slide(page, "opacity", 0.15)
    until_drawn(page)
    assert page.evaluate("document.querySelector('.simpool-board canvas').toDataURL()") != pixels
    for label in ("Smooth", "One scale for all rows", "Boxes", "Largest component only"):
        page.get_by_label(label, exact=True).click()
    for label, choice in (("Mask rule", "Otsu"), ("Colours", "viridis")):
        page.get_by_label(label).click()
        page.get_by_role("option", name=choice, exact=True).click()
    page.wait_for_timeout(700)
    assert log.requests[asked:] == []
    assert log.complaints == []


def test_a_rule_brings_its_own_amount(opened: Opened, python_board: Board):
    page, _ = opened
    page.get_by_label("Mask rule").click()
    page.get_by_role("option", name="Share of area", exact=True).click()
    expect(page.locator("#amount input[type=range]")).to_have_value("0.25")
    expected = [row.attention.mask("area").grid.ravel().astype(int).tolist() for row in python_board.rows]
    assert [drawn["grid"] for drawn in masks(page)] == expected


def test_headings_follow_each_other(opened: Opened):
    page, _ = opened
    levels = page.evaluate("Array.from(document.querySelectorAll('h1, h2, h3, h4'), (h) => Number(h.tagName[1]))")
    assert levels[0] == 1 and all(after <= before + 1 for before, after in itertools.pairwise(levels))


def test_an_uploaded_photo_gives_a_board(opened: Opened, tmp_path: Path):
    page, log = opened
    path = tmp_path / "turned photo.jpg"
    picture = Image.open(bundled_folder("assets") / "motorcycle.jpg")
    exif = Image.Exif()
    exif[274] = 6  # the camera was held upright: to be turned by a quarter
    picture.save(path, exif=exif)
    upload(page, path)
    expect(page.locator(".simpool-board .photo figcaption")).to_have_text("turned photo.jpg", timeout=30_000)
    expect(page.locator(".simpool-board .waiting")).to_have_count(0, timeout=30_000)
    width, height = page.evaluate(
        "(() => { const c = document.querySelector('.simpool-board canvas'); return [c.width, c.height]; })()"
    )
    assert height > width, "the EXIF rotation was applied"
    assert log.complaints == []


def test_all_example_photos_are_in_sight(opened: Opened):
    page, _ = opened
    gallery, last = (
        page.locator("#examples").bounding_box(),
        page.locator("#examples .thumbnail-item").last.bounding_box(),
    )
    assert gallery and last and last["y"] + last["height"] <= gallery["y"] + gallery["height"]


def test_an_example_photo_gives_a_board(opened: Opened):
    page, _ = opened
    page.locator("#examples .thumbnail-item[aria-label='Example photo: coffee']").click()
    expect(page.locator(".simpool-board .photo figcaption")).to_have_text("coffee.jpg", timeout=30_000)
    expect(page.locator(".simpool-board .waiting")).to_have_count(0, timeout=30_000)


def test_the_choice_of_checkpoints_maps_and_size_is_followed(opened: Opened):
    page, _ = opened
    page.get_by_label("ViT, GAP", exact=True).click()
    page.get_by_label("Contribution", exact=True).click()
    page.get_by_label("Size of ViT, SimPool").select_option("448")
    page.locator("#run").click()
    expect(page.locator(".simpool-board .row")).to_have_count(1, timeout=30_000)
    expect(page.locator(".simpool-board .row")).to_contain_text("grid 48 x 32")
    page.get_by_label("ViT, SimPool", exact=True).click()
    page.locator("#run").click()
    expect(page.get_by_text("Choose at least one checkpoint.")).to_be_visible()


def test_a_row_enlarges_and_closes_from_the_keyboard(opened: Opened):
    page, _ = opened
    page.locator(".simpool-board .enlarge").first.focus()
    page.keyboard.press("Enter")
    dialog = page.locator("dialog.large")
    expect(dialog).to_be_visible()
    with page.expect_download() as download:
        dialog.get_by_text("Save PNG").click()
    assert download.value.suggested_filename.endswith(".overlay.png")
    page.keyboard.press("Escape")
    expect(dialog).to_have_count(0)


def test_photos_lie_in_a_folder_of_the_app_alone(opened: Opened):
    import os
    import stat

    folder = Path(os.environ["GRADIO_TEMP_DIR"])
    assert folder != Path("/tmp/gradio") and stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert any(folder.rglob("photo.jpeg"))


def test_names_of_files_are_shown_and_never_run(opened: Opened, tmp_path: Path):
    page, log = opened
    path = tmp_path / "${document.title='run'}{{x}}`<img src=x onerror=alert(1)>.png"
    Image.open(EXAMPLE).resize((60, 40)).save(path)
    upload(page, path)
    expect(page.locator(".simpool-board .photo figcaption")).not_to_have_text("chelsea.jpg", timeout=30_000)
    assert page.title() == "simpool_viz" and page.locator(".simpool-board figcaption img").count() == 0
    assert log.complaints == []


def enormous_png(path: Path, side: int = 30_000) -> Path:
    """A valid one-bit PNG of side x side pixels, small on disk, written row by row."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    packer, rows = zlib.compressobj(9), b"\0" * (1 + side // 8)
    data = b"".join(packer.compress(rows) for _ in range(side)) + packer.flush()
    header = struct.pack(">IIBBBBB", side, side, 1, 0, 0, 0, 0)
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", data) + chunk(b"IEND", b""))
    return path


def bad_files(folder: Path) -> dict[str, tuple[Path, str]]:
    whole = EXAMPLE.read_bytes()
    made = {name: folder / name for name in ("text.png", "empty.png", "cut.jpg", "dot.png", "noise.jpg", "huge.png")}
    made["text.png"].write_text("this is not a picture")
    made["empty.png"].write_bytes(b"")
    made["cut.jpg"].write_bytes(whole[: len(whole) // 2])
    Image.new("RGB", (1, 1)).save(made["dot.png"])
    made["noise.jpg"].write_bytes(np.random.default_rng(0).bytes(5000))
    enormous_png(made["huge.png"])
    words = {
        "text.png": "is not a picture",
        "empty.png": "is empty",
        "cut.jpg": "is damaged or cut off",
        "dot.png": "at least 8 on each side",
        "noise.jpg": "is not a picture",
        "huge.png": "megapixels; make it smaller",
    }
    return {name: (made[name], sentence) for name, sentence in words.items()}


@pytest.mark.parametrize("name", ["text.png", "empty.png", "cut.jpg", "dot.png", "noise.jpg", "huge.png"])
def test_a_file_that_is_no_usable_photo_gives_a_sentence(opened: Opened, tmp_path: Path, name: str):
    page, _ = opened
    path, sentence = bad_files(tmp_path)[name]
    upload(page, path)
    expect(page.get_by_text(sentence)).to_be_visible(timeout=30_000)
    page.locator("#examples .thumbnail-item").nth(0).click()  # and the page goes on working
    expect(page.locator(".simpool-board .photo figcaption")).to_have_text("astronaut.jpg", timeout=30_000)


def test_an_address_that_cannot_be_fetched_gives_a_sentence(opened: Opened, app_url: str):
    page, _ = opened
    page.get_by_text("Photo by address").click()
    box = page.get_by_label("Address of a picture")
    for address, sentence in (
        ("ftp://example.org/a.png", "starts with https"),
        (f"{app_url}favicon.ico", "could not be fetched"),
    ):
        box.fill(address)
        page.get_by_role("button", name="Fetch").click()
        expect(page.get_by_text(sentence)).to_be_visible(timeout=30_000)


def test_cancel_stops_between_checkpoints(opened: Opened, monkeypatch: pytest.MonkeyPatch):
    """The first checkpoint's rows stay, and the second never comes: it waits until Cancel has been pressed."""
    import threading

    from simpool_viz.board import board as board_module

    go, original, calls = threading.Event(), board_module.record_shared, []

    def slow(*arguments: Any, **options: Any) -> Any:
        calls.append(arguments)
        if len(calls) > 1:
            go.wait(20)
        return original(*arguments, **options)

    monkeypatch.setattr(board_module, "record_shared", slow)
    page, _ = opened
    page.get_by_label("ResNet, SimPool", exact=True).click()  # the first two share a trunk, and a recording
    page.locator("#run").click()
    expect(page.locator(".simpool-board .waiting")).to_contain_text("ResNet, SimPool", timeout=30_000)
    expect(page.locator(".simpool-board .row")).to_have_count(3)
    page.locator("#cancel").click()
    line = page.locator(".simpool-board .waiting")
    expect(line).to_have_text(re.compile("^Stopp"))
    page.wait_for_timeout(500)
    go.set()
    expect(line).to_have_text("Stopped. Press Run to start again.", timeout=30_000)
    expect(page.locator(".simpool-board .row")).to_have_count(3)
    monkeypatch.undo()
    page.locator("#run").click()
    expect(page.locator(".simpool-board .row")).to_have_count(5, timeout=30_000)
