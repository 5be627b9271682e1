"""Run is always in sight, and the page says when the board no longer shows what is chosen."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import pytest

pytest.importorskip("playwright")
from playwright.sync_api import Browser, Page, expect

from simpool_viz.app.compare import ComparePage
from simpool_viz.board.ready_made import COMPARISONS
from tests.browser.conftest import EXAMPLE, Opened, open_page, settle

STALE = "The board shows an earlier choice. Press Run."


def note(page: Page) -> str:
    return page.locator("#stale .stale").text_content() or ""


def test_notice_follows_the_choice_and_goes_with_a_run(opened: Opened):
    page, _ = opened
    assert note(page) == ""
    box = page.locator("#checkpoints").get_by_label("ResNet, GAP", exact=True)
    box.click()
    expect(page.locator("#stale .stale")).to_have_text(STALE)
    box.click()  # back to what the board shows
    expect(page.locator("#stale .stale")).to_have_text("")
    box.click()
    page.locator("#run").click()
    expect(page.locator("#stale .stale")).to_have_text("")
    expect(page.locator("#board .row h2").filter(has_text="ResNet, GAP")).not_to_have_count(0, timeout=60_000)
    expect(page.locator("#point")).not_to_be_visible()


def test_a_run_that_fails_leaves_the_board_behind_the_choice(opened: Opened):
    page, _ = opened
    for name in ("ViT, GAP", "ViT, SimPool"):
        page.locator("#checkpoints").get_by_label(name, exact=True).click()
    page.locator("#run").click()
    expect(page.get_by_text("Choose at least one checkpoint.")).to_be_visible(timeout=30_000)
    expect(page.locator("#stale .stale")).to_have_text(STALE)


def test_board_of_the_newer_run_stays_when_an_older_one_ends_after_it(opened: Opened, monkeypatch: pytest.MonkeyPatch):
    page, log = opened
    begun, go_on, ended, states = *(threading.Event() for _ in range(3)), ComparePage._states

    def held(self: ComparePage, photos: list[str], *given: Any) -> Iterator[Any]:
        for state in states(self, photos, *given):
            yield state
            if photos[0].endswith("chelsea.jpg"):
                begun.set()
                assert go_on.wait(timeout=120)
        if photos[0].endswith("chelsea.jpg"):
            ended.set()

    monkeypatch.setattr(ComparePage, "_states", held)
    page.locator("#run").click()
    assert begun.wait(timeout=60)
    page.locator("#photo [aria-label='Remove Image']").first.click()
    page.locator("#photo input[type=file]").set_input_files(str(EXAMPLE.with_name("coffee.jpg")))
    title = page.locator("#board .photo figcaption").first
    expect(title).to_have_text("coffee.jpg", timeout=60_000)
    expect(page.locator("#board .waiting")).to_have_count(0, timeout=60_000)
    rows = page.locator("#board .row h2").all_inner_texts()
    go_on.set()
    assert rows and ended.wait(timeout=120)
    settle(page, log)
    expect(title).to_have_text("coffee.jpg")
    assert page.locator("#board .row h2").all_inner_texts() == rows
    expect(page.locator("#board .waiting")).to_have_count(0)
    assert note(page) == ""


def test_ready_made_comparison_runs_at_once(opened: Opened):
    page, _ = opened
    chosen = next(c for c in COMPARISONS if c.name == "without_labels")
    page.locator("#ready input").click()
    page.get_by_role("option", name=chosen.title).click()
    expect(page.locator("#board .row")).to_have_count(len(chosen.checkpoints), timeout=90_000)
    expect(page.locator("#board .waiting")).to_have_count(0, timeout=90_000)
    assert note(page) == ""


def test_run_is_in_sight_wherever_the_page_is_scrolled(opened: Opened, browser: Browser, app_url: str):
    page, _ = opened
    for fraction in (0, 0.5, 0.9):
        page.evaluate(
            "(f) => scrollTo(0, f * document.querySelector('#board').getBoundingClientRect().height)", fraction
        )
        expect(page.locator("#run")).to_be_in_viewport()
    phone, _ = open_page(browser, app_url, 390, 844)
    for top in (0, 900, 1800):
        phone.evaluate("(y) => scrollTo(0, y)", top)
        expect(phone.locator("#run")).to_be_in_viewport()
    phone.close()


def test_on_a_phone_a_run_closes_the_settings_and_brings_the_board_into_view(browser: Browser, app_url: str):
    page, _ = open_page(browser, app_url, 390, 844)
    page.get_by_text("Photos, checkpoints, maps").click()
    expect(page.locator("#photo")).to_be_visible()
    page.locator("#run").click()
    expect(page.locator("#photo")).not_to_be_visible()
    expect(page.locator("#board .toolbar, #board .waiting").first).to_be_in_viewport(timeout=30_000)
    page.close()


def test_maps_are_as_large_as_the_page_allows_and_a_panorama_is_stacked(browser: Browser, app_url: str, tmp_path):
    from PIL import Image

    from simpool_viz.bundled import bundled_folder

    page, _ = open_page(browser, app_url, 1440, 900)
    cells = page.locator("#board .row").first.locator("canvas[role=img]")
    boxes = [cells.nth(i).bounding_box() for i in range(2)]
    assert all(box and box["width"] >= 420 for box in boxes)
    assert boxes[0]["y"] == boxes[1]["y"]  # type: ignore[index]
    wide = tmp_path / "panorama.jpg"
    Image.open(bundled_folder("assets") / "chelsea.jpg").crop((0, 60, 451, 240)).save(wide)  # 2.5 to 1
    page.locator("#photo").get_by_label("Clear").or_(
        page.locator("#photo button[aria-label='Remove Image']")
    ).first.click()
    page.locator("#photo input[type=file]").set_input_files(str(wide))
    expect(page.locator("#board .photo figcaption")).to_have_text("panorama.jpg", timeout=60_000)
    expect(page.locator("#board .row.stacked")).not_to_have_count(0, timeout=60_000)
    expect(page.locator("#board .waiting")).to_have_count(0, timeout=60_000)  # the board grows no more
    first, second = (cells.nth(i).bounding_box() for i in range(2))
    assert first and second and second["y"] > first["y"] + first["height"] - 1
    assert first["width"] > 840
    page.close()


def test_keyboard_leads_past_the_settings_and_its_focus_is_seen(opened: Opened):
    page, _ = opened
    page.keyboard.press("Tab")
    link = page.get_by_role("link", name="Skip to the result")
    expect(link).to_be_focused()
    expect(link).to_be_in_viewport()
    page.keyboard.press("Enter")
    page.keyboard.press("Tab")
    assert page.evaluate("document.querySelector('#board').contains(document.activeElement)")
    for control in ("#amount input[type=range]", "#run", "#checkpoints input", "#smooth input", "#ready input"):
        page.locator(control).first.focus()
        page.keyboard.press("Shift+Tab")
        page.keyboard.press("Tab")  # by the keyboard, as :focus-visible asks
        style = page.evaluate(
            "(() => { const c = getComputedStyle(document.activeElement); return [c.outlineStyle, c.outlineWidth, "
            "document.activeElement.matches(':focus-visible')]; })()"
        )
        assert style == ["solid", "3px", True], control


def test_example_photos_are_called_by_their_names(opened: Opened):
    page, _ = opened
    items = page.locator("#examples .thumbnail-item")
    expect(items).to_have_count(12)
    names = [items.nth(i).get_attribute("aria-label") for i in range(2)]
    assert names == ["Example photo: astronaut", "Example photo: balloon"]
