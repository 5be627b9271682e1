"""Looking closer, as a visitor does: every head, the film, pins, several checkpoints, any class, and a video."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import Browser, Page, expect

from simpool_viz import load_checkpoint, record
from simpool_viz.batch.clips import open_clip
from simpool_viz.board.every_head import every_head
from simpool_viz.drawing.film import write_film
from tests.browser.conftest import EXAMPLE, Opened, open_page
from tests.browser.test_inspect import BOARD, bring, centre, click_token, drawn, vit_file, wait_for

__all__ = ["vit_file"]  # the fixture
pytestmark = pytest.mark.browser


def open_blocks(page: Page) -> None:
    page.locator(f"{BOARD} .blocks summary").click()
    expect(page.locator(f"{BOARD} .lattice")).to_be_visible(timeout=60_000)


def test_every_head_is_a_thumbnail_that_opens_and_can_be_pinned(opened: Opened, vit_file: Path, tmp_path: Path):
    page, log = opened
    bring(page, vit_file)
    open_blocks(page)
    recording = record(load_checkpoint(vit_file, device="cpu"), EXAMPLE)
    maps = every_head(recording, "token")
    depth, heads = len(maps), len(maps[0].names)
    thumbnails = page.locator(f"{BOARD} .thumbnail")
    expect(thumbnails).to_have_count(depth * heads)
    held = drawn(page)[2 + heads :]
    assert all(
        np.allclose(held[b * heads + h], maps[b].weights[h].ravel(), rtol=1e-4, atol=1e-6)
        for b in range(depth)
        for h in range(heads)
    )
    assert page.locator(f"{BOARD} .thumbnail[tabindex='0']").count() == 1
    thumbnails.first.focus()
    for key in ("ArrowRight", "ArrowDown", "ArrowRight", "ArrowRight"):
        page.keyboard.press(key)
    page.keyboard.press("Enter")
    wait_for(page, maps[1].weights[heads - 1])
    chosen = page.locator(f"{BOARD} .thumbnail[aria-pressed='true']")
    expect(chosen).to_have_attribute("aria-label", f"{chosen.get_attribute('title')}. Open this map.")
    assert f"block 1, head {heads - 1}," in (chosen.get_attribute("title") or "")
    expect(chosen).to_be_focused()
    expect(page.locator("#block input[type=number]")).to_have_value("1")
    title = page.locator(f"{BOARD} .row h2").first.inner_text()
    assert "(block 1, head" in title
    before = page.locator("#board .row").count()
    page.get_by_role("button", name=f"Pin {title} to the Compare board").click()
    page.get_by_role("tab", name="Compare").click()
    expect(page.locator("#board .row")).to_have_count(before + 1)
    expect(page.locator("#board .row h2").last).to_have_text(title)
    board = "document.querySelector('#board .simpool-board').parentElement"
    assert np.allclose(
        page.evaluate(f"{board}.readWeights().at(-1).weights"), maps[1].weights[heads - 1].ravel(), atol=1e-6
    )
    page.get_by_label("Two maps").check(force=True)
    assert any(title in text for text in page.locator("#board .pairing option").all_inner_texts())
    page.get_by_label("Rows", exact=True).check(force=True)
    page.get_by_role("button", name=f"Take {title} off the board").click()
    expect(page.locator("#board .row")).to_have_count(before)
    assert log.complaints == []


def test_layers_play_as_a_film_and_are_saved(opened: Opened, vit_file: Path, tmp_path: Path):
    page, log = opened
    bring(page, vit_file)
    open_blocks(page)
    said, slider = page.locator(f"{BOARD} .film figcaption"), page.get_by_label("Block of the film")
    depth = int(slider.get_attribute("max") or 0) + 1
    slider.fill("0")
    expect(said).to_contain_text("block 0, mean of 3 heads, up to")
    page.get_by_role("button", name="Play", exact=True).click()
    expect(said).to_contain_text("block 1,", timeout=10_000)
    page.get_by_role("button", name="Pause", exact=True).click()
    for name, suffix in (("an animated WebP", ".webp"), ("an MP4 video", ".mp4")):
        with page.expect_download(timeout=60_000) as download:
            page.get_by_role("button", name=f"Save the film of all blocks as {name}").click()
        download.value.save_as(tmp_path / f"film{suffix}")
    with Image.open(tmp_path / "film.webp") as film:
        assert film.n_frames == depth  # type: ignore[attr-defined]
    assert len(list(open_clip(tmp_path / "film.mp4").frames())) == depth
    assert log.complaints == []


def test_a_click_asks_two_checkpoints_and_marks_the_token_everywhere(opened: Opened, vit_file: Path):
    page, log = opened
    bring(page, vit_file)
    page.locator("#others input").first.click()
    page.get_by_role("option", name="ViT, SimPool", exact=True).first.click()
    expect(page.locator(f"{BOARD} .columns > .rows")).to_have_count(2, timeout=60_000)
    page.keyboard.press("Escape")
    recordings = [record(load_checkpoint(name, device="cpu"), EXAMPLE) for name in (vit_file, "vit_simpool")]
    grid = recordings[0].geometry.grid
    click_token(page, 1, grid[1] - 2, grid)
    at = centre(recordings[0].geometry, 1, grid[1] - 2)
    for number, recording in enumerate(recordings):
        wait_for(page, recording.map("token", at=at).fused(), row=2 * number)
    frames = page.locator(f"{BOARD} .rows .enlarge .chosen")
    canvases = page.locator(f"{BOARD} .rows .enlarge canvas").count()
    assert frames.count() == canvases >= 8
    for index in range(canvases):
        place = frames.nth(index).evaluate("n => [n.offsetLeft + n.offsetWidth / 2, n.offsetTop + n.offsetHeight / 2]")
        size = frames.nth(index).evaluate("n => [n.parentElement.offsetWidth, n.parentElement.offsetHeight]")
        width, height = recordings[0].geometry.original
        assert abs(place[0] / size[0] - at[0] / width) < 0.08 and abs(place[1] / size[1] - at[1] / height) < 0.08
    assert log.complaints == []


def test_a_row_takes_another_class(opened: Opened):
    page, log = opened
    gap = load_checkpoint("vit_gap", device="cpu")
    recording = record(gap, EXAMPLE)
    page.get_by_role("button", name="Another class for ViT, GAP: Contribution").click()
    select = page.locator("#board .classes select")
    expect(select).to_be_focused(timeout=30_000)
    offered = select.locator("option").evaluate_all("all => all.map((one) => one.value)")
    assert [int(value) for value in offered if value] == [index for index, _, _ in recording.top_classes(5)]
    select.select_option(offered[2])
    second = recording.top_classes(2)[1]
    expect(page.locator("#board .row h2").first).to_have_text(
        f"ViT, GAP: Contribution (class {second[1]})", timeout=30_000
    )
    page.get_by_role("button", name="Another class for ViT, GAP: Contribution").click()
    search = page.locator("#board .classes input")
    search.fill("church")
    search.press("Enter")
    expect(page.locator("#board .row h2").first).to_have_text("ViT, GAP: Contribution (class church)", timeout=30_000)
    held = page.evaluate("document.querySelector('#board .simpool-board').parentElement.readWeights()[0].weights")
    assert np.allclose(held, recording.map("contribution", classes=["church"]).weights.ravel(), atol=1e-5)
    assert log.complaints == []


@pytest.mark.parametrize("suffix", ["MP4 (H.264)", "WebM (VP9)"])
def test_a_video_is_made_and_plays(opened: Opened, tmp_path: Path, suffix: str):
    page, log = opened
    photo = np.asarray(Image.open(EXAMPLE).convert("RGB").resize((300, 200)))
    write_film(tmp_path / "pan.mp4", [photo[:160, 8 * i : 8 * i + 240] for i in range(6)], 10)
    page.get_by_role("tab", name="Video").click()
    page.locator("#clip input[type=file]").set_input_files(str(tmp_path / "pan.mp4"))
    expect(page.locator("#clip video")).to_be_visible(timeout=30_000)
    page.locator("#video-format").get_by_label(suffix).click()
    page.locator("#video-run").click()
    expect(page.locator("#video-said")).to_contain_text("6 frames, 10 a second", timeout=120_000)
    page.wait_for_function("document.querySelector('#video-made video')?.readyState >= 2", timeout=30_000)
    video = page.locator("#video-made video")
    shown = video.evaluate("(v) => [v.videoWidth, v.videoHeight, v.error]")
    assert shown == [240, 160, None] and log.complaints == []


@pytest.mark.parametrize("width", [1400, 390])
@pytest.mark.parametrize("theme", ["light", "dark"])
def test_nothing_overflows_is_small_or_is_without_a_name(
    browser: Browser, app_url: str, vit_file: Path, theme: str, width: int
):
    axe = pytest.importorskip("tests.browser.test_axe")
    page, log = open_page(browser, f"{app_url}?__theme={theme}", width)
    page.locator("#board .look-into").nth(1).click()
    expect(page.locator(f"{BOARD} .row").first).to_be_visible(timeout=60_000)
    if width < 700:
        page.locator("#lens button").first.click()
    page.get_by_label("What does a token attend to?").click()
    expect(page.locator(f"{BOARD} .row h2").first).to_contain_text("Token query", timeout=30_000)
    open_blocks(page)
    page.evaluate(axe.SCRIPT)
    assert axe.faults(page) == [], "Inspect"
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    small = page.locator(f"{BOARD} .blocks :is(button, input, summary), {BOARD} .row .plain").evaluate_all(
        "all => all.filter((n) => n.getBoundingClientRect().height < 24 || n.getBoundingClientRect().width < 24).length"
    )
    assert small == 0
    edge = page.locator(f"{BOARD} .film").evaluate("n => n.getBoundingClientRect().right")
    assert edge <= width
    page.get_by_role("tab", name="Video").click()
    expect(page.locator("#video-run")).to_be_visible()
    assert axe.faults(page) == [], "Video"
    assert page.evaluate("document.documentElement.scrollWidth") <= width and log.complaints == []
    page.close()
