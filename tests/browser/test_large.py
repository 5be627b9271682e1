"""A board that grows keeps what stands, and only what is seen and has changed is painted."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import pytest

pytest.importorskip("playwright")
from playwright.sync_api import Browser, Page, expect

from simpool_viz.app import compare
from simpool_viz.app.compare import ComparePage
from tests.browser.conftest import Opened, further_photos, masks, open_page, set_style, until_drawn
from tests.browser.test_views import show

pytestmark = pytest.mark.browser
BOARD = "#board .simpool-board"
DONE = "Done: 12 maps of 4 photos."
COUNT_PAINTS = """() => {
    const paint = CanvasRenderingContext2D.prototype.putImageData;
    window.painted = [];
    CanvasRenderingContext2D.prototype.putImageData = function (...given) {
        if (this.canvas.closest('.enlarge')) window.painted.push(this.canvas.getAttribute('aria-label').split(' ')[0]);
        return paint.apply(this, given);
    };
}"""
SMALL = """([view, within]) => [...document.querySelectorAll(within)]
    .flatMap((box) => [...box.querySelectorAll('button, select, summary, .views label, input[type=range]')])
    .filter((node) => node.getClientRects().length)
    .map((node) => [node.className || node.textContent, node.getBoundingClientRect()])
    .filter(([, box]) => box.width < 24 || box.height < 24)
    .map(([name, box]) => `${view}: ${name} ${box.width.toFixed(0)} x ${box.height.toFixed(0)}`)"""
COUNT_SAID = """() => {
    const said = document.querySelector('#board .said');
    window.said = [];
    new MutationObserver(() => window.said.push(said.textContent)).observe(said, {childList: true});
}"""


@pytest.fixture
def steps(monkeypatch: pytest.MonkeyPatch) -> Iterator[threading.Semaphore]:
    """Each release lets a run of Compare go one step further; no step is left out, however soon another follows."""
    gate, states = threading.Semaphore(0), ComparePage._states

    def held(self: ComparePage, *given: Any) -> Iterator[Any]:
        for state in states(self, *given):
            yield state
            gate.acquire(timeout=60)

    monkeypatch.setattr(compare, "APART", 0.0)
    monkeypatch.setattr(ComparePage, "_states", held)
    yield gate
    for _ in range(100):  # nothing waits after the test
        gate.release()


def tag(page: Page, selector: str) -> None:
    page.locator(f"{BOARD} {selector}").first.evaluate("(node) => { node.kept = true; }")


def kept(page: Page, selector: str) -> bool:
    return bool(page.locator(f"{BOARD} {selector}").first.evaluate("(node) => node.kept === true"))


def shots(page: Page, selector: str = "canvas") -> list[str]:
    return page.locator(f"{BOARD} {selector}").evaluate_all("(all) => all.map((c) => c.toDataURL())")


def test_every_view_of_a_growing_board_keeps_what_stands(opened: Opened, steps: threading.Semaphore):
    page, log = opened
    page.evaluate(COUNT_SAID)
    page.get_by_text("More photos, for the matrix").click()
    page.locator("#more-photos input[type=file]").set_input_files(further_photos())
    expect(page.locator("#more-photos")).to_contain_text("motorcycle", timeout=60_000)
    page.locator("#run").click()
    steps.release()
    expect(page.locator(f"{BOARD} .matrix canvas")).to_have_count(1, timeout=60_000)  # the view from three photos on
    tag(page, ".matrix canvas")
    tag(page, ".matrix img")
    steps.release()
    expect(page.locator(f"{BOARD} .matrix canvas")).to_have_count(3, timeout=60_000)
    assert kept(page, ".matrix canvas") and kept(page, ".matrix img")
    show(page, "Rows")
    page.locator(f"{BOARD} .figures summary").first.click()
    tag(page, ".row")
    steps.release()
    expect(page.locator(f"{BOARD} .row")).to_have_count(4, timeout=60_000)
    assert kept(page, ".row") and page.locator(f"{BOARD} .figures").first.get_attribute("open") is not None
    show(page, "Agreement")
    tag(page, ".scrolling")
    steps.release()
    expect(page.locator(f"{BOARD} .scrolling").nth(1).locator("button")).to_have_count(9, timeout=60_000)
    assert kept(page, ".scrolling")
    show(page, "Two maps")
    tag(page, ".swipe")
    steps.release()
    left = page.locator(f"{BOARD} .pairing select").first
    expect(left.locator("option")).to_have_count(7, timeout=60_000)
    assert kept(page, ".swipe")
    show(page, "Rows")
    for _ in range(4):
        steps.release()
    expect(page.locator(f"{BOARD} .row")).to_have_count(12, timeout=60_000)
    expect(page.locator(f"{BOARD} .said")).to_have_text(DONE, timeout=60_000)
    expect(page.locator(f"{BOARD} .waiting")).to_have_count(0)
    until_drawn(page)
    grown, rows = shots(page, ".row canvas")[:2], masks(page)
    show(page, "Matrix")
    show(page, "Rows")
    until_drawn(page)
    assert shots(page, ".row canvas")[:2] == grown and [row["title"] for row in masks(page)] == [
        row["title"] for row in rows
    ]
    page.wait_for_timeout(500)
    assert page.evaluate("window.said") == [DONE], "completion is announced once"
    page.locator("#run").click()
    steps.release()
    expect(page.locator(f"{BOARD} .row")).to_have_count(1, timeout=60_000)  # the visitor's own choice of a view
    assert log.complaints == []


def test_what_is_seen_is_painted_and_only_where_it_has_changed(browser: Browser, app_url: str):
    page, log = open_page(browser, app_url, 1400, 500)
    tall, _ = open_page(browser, app_url, 1400, 4000)
    cells = page.locator(f"{BOARD} .row .enlarge canvas")
    last, blank = cells.last, "(c) => !c.getContext('2d').getImageData(0, 0, c.width, c.height).data.some(Boolean)"
    assert last.evaluate(blank) and not cells.first.evaluate(blank)
    assert not tall.locator(f"{BOARD} .row .enlarge canvas").last.evaluate(blank)
    page.evaluate(COUNT_PAINTS)
    for style, kind in (({"rule": "mass", "amount": 0.3}, "Object"), ({"opacity": 0.2}, "Contribution")):
        said = last.get_attribute("aria-label")
        page.evaluate("window.painted = []")
        set_style(page, **style)
        set_style(tall, **style)
        painted = page.evaluate("window.painted")
        assert painted and len(painted) < cells.count() / 2, "the rows in sight"
        assert {name == "Object" for name in painted} == {kind == "Object"}, "what does not change stays"
        assert (last.get_attribute("aria-label") != said) == (kind == "Object"), "words are of all rows"
        page.evaluate("window.painted = []")
        set_style(page, **style)
        assert page.evaluate("window.painted") == []
    last.scroll_into_view_if_needed()
    page.wait_for_timeout(300)
    until_drawn(page)
    assert last.evaluate("(c) => c.toDataURL()") == tall.locator(f"{BOARD} .row .enlarge canvas").last.evaluate(
        "(c) => c.toDataURL()"
    )
    page.evaluate("scrollTo(0, 0); window.dispatchEvent(new Event('beforeprint'))")
    assert not any(cells.nth(i).evaluate(blank) for i in range(cells.count())), "on paper everything is seen"
    assert log.complaints == []
    page.close()
    tall.close()


@pytest.mark.parametrize("width", [1400, 390])
def test_targets_are_24_pixels_or_more(browser: Browser, app_url: str, width: int):
    page, _ = open_page(browser, app_url, width, 900)
    for view in ("Matrix", "Agreement", "Two maps", "Rows"):
        show(page, view)
        until_drawn(page)
        assert page.evaluate(SMALL, [view, BOARD]) == []
    page.locator(f"{BOARD} .row .enlarge").nth(1).click()
    assert page.evaluate(SMALL, ["enlarged", "dialog"]) == []
    page.close()
