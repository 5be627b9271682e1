"""axe-core finds no serious fault on any page, in any view, light or dark, on a desktop or a phone."""

from __future__ import annotations

from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, expect

from tests.browser.conftest import open_page, until_drawn
from tests.browser.test_large import SMALL

axe = pytest.importorskip("axe_playwright_python")
pytestmark = pytest.mark.browser
SCRIPT = (Path(axe.__file__).parent / "axe.min.js").read_text(encoding="utf-8")


def faults(page: Page) -> list[str]:
    """Serious and critical faults of the whole page, those of Gradio's own components too."""
    found = page.evaluate("axe.run(document, { resultTypes: ['violations'] })")["violations"]
    serious = [fault for fault in found if fault["impact"] in ("serious", "critical")]
    return [f"{fault['id']}: {node['html'][:200]}" for fault in serious for node in fault["nodes"]]


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("width", [1400, 390])
def test_no_serious_fault_in_any_view(browser: Browser, app_url: str, theme: str, width: int):
    page, _ = open_page(browser, f"{app_url}?__theme={theme}", width)
    page.evaluate(SCRIPT)
    for view in ("Matrix", "Agreement", "Two maps", "Rows"):
        page.locator(".simpool-board .views label").filter(has_text=view).click()
        assert faults(page) == [], view
    page.locator(".simpool-board .about summary").first.click()
    page.locator(".simpool-board .enlarge").first.click()
    assert faults(page) == [], "enlarged, with an explanation open"
    page.keyboard.press("Escape")
    page.locator(".simpool-board .look-into").first.click()
    expect(page.locator("#inspected .row").first).to_be_visible(timeout=60_000)
    until_drawn(page, "#inspected")
    assert faults(page) + page.evaluate(SMALL, ["Inspect", "#inspected"]) == []
    page.get_by_role("tab", name="Tour").click()
    expect(page.locator("#tour .row").first).to_be_visible(timeout=60_000)
    until_drawn(page, "#tour")
    assert faults(page) + page.evaluate(SMALL, ["Tour", "#tour"]) == []
    page.get_by_role("tab", name="Video").click()
    expect(page.locator("#video-run")).to_be_visible()
    assert faults(page) == [], "Video"
    page.close()


def test_axe_sees_a_fault_where_there_is_one(browser: Browser, app_url: str):
    page, _ = open_page(browser, app_url)
    page.evaluate(SCRIPT)
    page.evaluate("document.querySelector('.simpool-board canvas').removeAttribute('aria-label')")
    assert any("canvas" in fault for fault in faults(page))
    page.close()
