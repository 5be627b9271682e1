"""The guided tour as a visitor walks it, and a dense checkpoint's segmentation, in which classes are clicked."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from playwright.sync_api import Browser, Page, expect

from simpool_viz import load_checkpoint, record
from simpool_viz.board.segmentation import segment
from simpool_viz.board.tour import STOPS, stop_board
from tests.browser.conftest import EXAMPLE, Opened, open_page, settle

pytestmark = pytest.mark.browser
TOUR, BOARD = "#tour .simpool-board", "#inspected .simpool-board"


def weights(page: Page, board: str) -> list[np.ndarray]:
    found = page.evaluate("(b) => document.querySelector(b).parentElement.readWeights()", board)
    return [np.array(row["weights"]) for row in found]


def test_tour_is_walked_from_the_first_stop_to_the_last(opened: Opened):
    page, log = opened
    page.get_by_role("tab", name="Tour").click()
    for number, stop in enumerate(STOPS):
        expect(page.locator("#tour-text")).to_contain_text(stop.title, timeout=30_000)
        expect(page.locator("#tour-text")).to_contain_text(stop.limitations[:60])
        rows = stop_board(stop).rows
        expect(page.locator(f"{TOUR} .row h2")).to_have_text([row.title for row in rows], timeout=60_000)
        for found, row in zip(weights(page, TOUR), rows, strict=True):
            np.testing.assert_allclose(found, row.mask.weights.ravel(), atol=1e-5)
        if number < len(STOPS) - 1:
            page.locator("#tour-next").click()
    page.locator("#tour-back").click()
    expect(page.locator("#tour-text")).to_contain_text(STOPS[-2].title, timeout=30_000)
    assert log.complaints == []


def test_row_of_a_stop_opens_in_inspect(opened: Opened):
    page, log = opened
    page.get_by_role("tab", name="Tour").click()
    expect(page.locator(f"{TOUR} .row").first).to_be_visible(timeout=60_000)
    page.locator(f"{TOUR} .look-into").first.click()
    expect(page.get_by_role("tab", name="Inspect")).to_have_attribute("aria-selected", "true", timeout=30_000)
    expect(page.locator(f"{BOARD} .row h2").first).to_contain_text("ViT, CLS: CLS attention", timeout=60_000)
    expect(page.locator(f"{BOARD} .photo img")).to_have_attribute("alt", f"The photo {STOPS[0].photo}")
    assert log.complaints == []


def test_stop_is_taken_along_to_compare(opened: Opened):
    page, _ = opened
    page.get_by_role("tab", name="Tour").click()
    page.locator("#stops").get_by_label(STOPS[1].title).click()
    expect(page.locator("#tour-text")).to_contain_text(STOPS[1].title, timeout=30_000)
    page.locator("#tour-own").click()
    expect(page.get_by_role("tab", name="Compare")).to_have_attribute("aria-selected", "true", timeout=30_000)
    for name in ("ViT, CLS", "ViT, SimPool"):
        expect(page.locator("#checkpoints").get_by_label(name, exact=True)).to_be_checked()
    expect(page.locator("#board .row h2").first).to_contain_text("ViT, CLS", timeout=60_000)
    expect(page.locator("#board .waiting")).to_have_count(0, timeout=60_000)


def test_the_stop_chosen_last_is_shown_however_fast_they_are_chosen(opened: Opened):
    page, log = opened
    page.get_by_role("tab", name="Tour").click()
    for stop in (STOPS[1], STOPS[2], STOPS[0], STOPS[3]):
        page.locator("#stops").get_by_label(stop.title).click()
    expect(page.locator("#tour-text")).to_contain_text(STOPS[3].title, timeout=60_000)
    page.locator("#tour-next").click()
    expect(page.locator("#tour-text")).to_contain_text(STOPS[4].title, timeout=60_000)
    expect(page.locator(f"{TOUR} .row h2")).to_have_text(
        [row.title for row in stop_board(STOPS[4]).rows], timeout=60_000
    )
    assert log.complaints == []


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_tour_fits_a_phone(browser: Browser, app_url: str, theme: str):
    page, _ = open_page(browser, f"{app_url}?__theme={theme}", 390, 844)
    page.get_by_role("tab", name="Tour").click()
    expect(page.locator(f"{TOUR} .row").first).to_be_visible(timeout=60_000)
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    page.close()


def test_class_is_clicked_in_the_segmentation_and_by_its_button(opened: Opened):
    page, log = opened
    seen = record(load_checkpoint("camvid_vit_life", device="cpu"), EXAMPLE)
    found = segment(seen)
    page.get_by_role("tab", name="Inspect").click()
    page.get_by_label("Checkpoint", exact=True).click()
    page.get_by_role("option", name="ViT with LIFE, street scenes").click(timeout=30_000)
    page.locator("#look").click()
    legend = page.locator(f"{BOARD} .legend button")
    expect(legend).to_have_count(len(found.found()), timeout=60_000)
    second = found.found()[1]
    legend.nth(1).click()
    expect(legend.nth(1)).to_have_attribute("aria-pressed", "true", timeout=30_000)
    np.testing.assert_allclose(
        weights(page, BOARD)[0], seen.map("dense_rollout", classes=[second]).weights.ravel(), rtol=1e-4, atol=1e-6
    )
    expect(page.locator(f"{BOARD} .row")).to_have_count(4)
    ours = np.pad((found.pixels() == found.found()[0]).astype(np.uint8), 1)
    inside = cv2.distanceTransform(ours, cv2.DIST_L2, 3)[1:-1, 1:-1]
    y, x = np.unravel_index(int(inside.argmax()), inside.shape)  # far from the borders of its class and of the photo
    canvas = page.locator(f"{BOARD} .segmentation canvas")
    box = canvas.bounding_box()
    assert box is not None
    canvas.click(
        position={"x": (x + 0.5) / found.size[0] * box["width"], "y": (y + 0.5) / found.size[1] * box["height"]}
    )
    expect(legend.nth(0)).to_have_attribute("aria-pressed", "true", timeout=30_000)
    assert log.complaints == []


def test_look_of_an_inspected_answer_changes_without_a_request(opened: Opened):
    page, log = opened
    page.locator(".simpool-board .look-into").first.click()
    expect(page.locator(f"{BOARD} .row").first).to_be_visible(timeout=60_000)
    before = settle(page, log)
    shot = page.locator(f"{BOARD} .row canvas").first.evaluate("(c) => c.toDataURL()")
    page.locator("#inspected-opacity input[type=range]").fill("0.1")
    page.locator("#inspected-amount input[type=range]").fill("0.3")
    for control in ("#inspected-smooth", "#inspected-largest"):
        page.locator(f"{control} input").click()
    page.wait_for_timeout(500)
    assert page.locator(f"{BOARD} .row canvas").first.evaluate("(c) => c.toDataURL()") != shot
    assert settle(page, log) == before, "the style changes in the browser alone"
