"""A link opens the page as it was: what is chosen, how it is arranged and drawn; a reload keeps it."""

from __future__ import annotations

import pytest

pytest.importorskip("playwright")
from playwright.sync_api import Browser, Page, expect

from tests.browser.conftest import EXAMPLE, Opened, masks, open_page, until_drawn
from tests.browser.test_views import show

pytestmark = pytest.mark.browser

SHOWS = """(rows) => {
    const node = document.querySelector('#board .simpool-board')?.parentElement;
    if (!node?.readMasks || !document.querySelector('#board canvas')) return false;
    return JSON.stringify(node.readMasks(false).map((row) => row.title)) === JSON.stringify(rows);
}"""


def titles(page: Page) -> list[str]:
    expect(page.locator("#board .waiting")).to_have_count(0, timeout=90_000)
    until_drawn(page)
    return [mask["title"] for mask in masks(page)]


def as_it_was(page: Page, rows: list[str], drawn: list[dict]) -> None:
    page.wait_for_function(SHOWS, arg=rows, timeout=90_000)
    assert titles(page) == rows and masks(page) == drawn
    assert page.locator("#board .views label").filter(has_text="Two maps").locator("input").is_checked()
    assert page.locator("#amount input[type=number]").input_value() == "0.3"
    assert not page.locator("#smooth input").is_checked()
    assert page.locator("#checkpoints").get_by_label("ResNet, GAP", exact=True).is_checked()
    assert not page.locator("#checkpoints").get_by_label("ViT, GAP", exact=True).is_checked()


def test_copied_link_and_reload_open_what_was_chosen_and_drawn(browser: Browser, opened: Opened):
    page, log = opened
    settled = page.url
    page.locator("#checkpoints").get_by_label("ViT, GAP", exact=True).click()
    page.locator("#checkpoints").get_by_label("ResNet, GAP", exact=True).click()
    page.locator("#examples .thumbnail-item[aria-label='Example photo: coffee']").click()
    expect(page.locator("#board .photo figcaption").first).to_have_text("coffee.jpg", timeout=60_000)
    page.locator("#amount input[type=number]").fill("0.3")
    page.locator("#amount input[type=number]").press("Enter")
    page.locator("#smooth input").uncheck()
    rows = titles(page)
    show(page, "Two maps")
    drawn = masks(page)
    page.get_by_role("button", name="Take it away").click()
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    page.locator("#take-link").click()
    expect(page.locator("#take-link")).to_have_text("Copied")
    link = page.evaluate("navigator.clipboard.readText()")
    assert link == page.url != settled and "photo=coffee" in link and "view=pair" in link
    assert log.complaints == []
    other, complaints = open_page_at(browser, link)
    as_it_was(other, rows, drawn)
    other.reload()
    as_it_was(other, rows, drawn)
    assert other.url == link and complaints == []
    other.close()


def open_page_at(browser: Browser, link: str) -> tuple[Page, list[str]]:
    page, complaints = browser.new_page(viewport={"width": 1400, "height": 900}), []
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.goto(link)
    return page, complaints


def test_own_photo_is_asked_for_and_the_drawing_alone_needs_no_run(browser: Browser, app_url: str):
    page, _ = open_page(browser, f"{app_url}?photo=own&model=resnet_gap&amount=0.4&nonsense=1&map=aura")
    expect(page.locator("#stale .linked")).to_contain_text("choose yours", timeout=30_000)
    expect(page.locator("#stale .linked")).to_contain_text("The link's map 'aura' is not here.")
    assert page.locator("#amount input[type=number]").input_value() == "0.4"
    page.locator("#photo input[type=file]").set_input_files(str(EXAMPLE))
    expect(page.locator("#board .row h2").filter(has_text="ResNet, GAP")).not_to_have_count(0, timeout=60_000)
    expect(page.locator("#stale .linked")).to_have_text("")
    expect(page).to_have_url(f"{app_url}?nonsense=1&model=resnet_gap&amount=0.4")  # the photo is the first example
    page.close()
    page, _ = open_page(browser, f"{app_url}?smooth=0")
    expect(page.locator("#smooth input")).not_to_be_checked(timeout=30_000)
    expect(page.locator("#point")).to_be_visible()
    page.close()


def test_baselines_stand_in_the_address_since_example_photos_bring_their_masks(browser: Browser, app_url: str):
    page, _ = open_page(browser, f"{app_url}?photo=coffee&model=vit_gap&baselines=1")
    plain = page.locator("#board .row h2").filter(has_text="Centre prior")
    expect(plain).to_have_count(1, timeout=60_000)
    page.locator("#reference > button").click()
    expect(page.locator("#baselines input")).to_be_checked()
    page.locator("#baselines input").uncheck()
    expect(plain).to_have_count(0)
    expect(page).to_have_url(f"{app_url}?photo=coffee&model=vit_gap")
    page.close()
