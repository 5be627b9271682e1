"""The Evidence page as a visitor uses it: a table, its plot, and an example as a board."""

from __future__ import annotations

import pytest
from playwright.sync_api import Browser, expect

from simpool_viz.app.compare import example_photos
from simpool_viz.scores.results import bundled_results
from tests.browser.conftest import Opened, open_page

pytestmark = pytest.mark.browser
BOARD = "#evidence .simpool-board"


def test_another_table_and_figure_are_drawn_and_an_example_opens_as_a_board(opened: Opened):
    page, log = opened
    page.get_by_role("tab", name="Evidence").click()
    plot = page.locator("#evidence-plot img")
    expect(plot).to_be_visible(timeout=30_000)
    first = plot.get_attribute("src")
    page.get_by_label("Measured on").click()
    page.get_by_role("option", name="ResNet group: horses, 327 photos").click()
    expect(plot).not_to_have_attribute("src", first or "", timeout=30_000)
    page.get_by_text("All figures").click()
    row = bundled_results().table("resnet/horses").rows[0]["map"]
    expect(page.locator("#evidence-text")).to_contain_text(str(row))
    second = plot.get_attribute("src")
    page.get_by_label("Figure", exact=True).click()
    page.get_by_role("option", name="pointing").click()
    expect(plot).not_to_have_attribute("src", second or "", timeout=30_000)
    page.locator("#evidence-examples .thumbnail-item").nth(2).click()
    expect(page.locator(f"{BOARD} .row")).to_have_count(5, timeout=90_000)
    expect(page.locator(f"{BOARD} .photo img").first).to_have_attribute(
        "alt", f"The photo {example_photos()[2].name}", timeout=30_000
    )
    page.locator(f"{BOARD} .look-into").first.click()
    expect(page.get_by_role("tab", name="Inspect")).to_have_attribute("aria-selected", "true", timeout=30_000)
    assert log.complaints == []


def test_the_page_fits_a_phone(browser: Browser, app_url: str):
    page, _ = open_page(browser, app_url, 390, 844)
    for name in ("Compare", "Inspect", "Video", "Tour", "Evidence"):
        expect(page.get_by_role("tab", name=name)).to_be_visible()
    page.get_by_role("tab", name="Evidence").click()
    expect(page.locator("#evidence-plot img")).to_be_visible(timeout=30_000)
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    examples = page.locator("#evidence-examples .thumbnail-item")
    examples.last.scroll_into_view_if_needed()
    boxes = [box for item in examples.all() if (box := item.bounding_box())]
    frame = page.locator("#evidence-examples").bounding_box()
    assert frame is not None and len(boxes) == len(example_photos()) and all(box["width"] > 80 for box in boxes)
    assert all(frame["x"] <= box["x"] and box["x"] + box["width"] <= frame["x"] + frame["width"] for box in boxes)
    assert all(box["y"] + box["height"] <= frame["y"] + frame["height"] + 1 for box in boxes)
    page.close()
