"""A link opens the page as it was: what is chosen, how it is arranged and drawn; a reload keeps it."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import numpy as np
import pytest
from PIL import Image

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


@pytest.mark.parametrize("photo", ["", "?photo=coffee"])
def test_a_box_and_a_row_of_another_class_stand_in_the_address(browser: Browser, app_url: str, photo: str):
    page, log = open_page(browser, f"{app_url}{photo}")
    if photo:
        expect(page.locator("#board .photo figcaption").first).to_have_text("coffee.jpg", timeout=60_000)
    titles(page)
    page.locator("#reference > button").click()
    page.get_by_role("tab", name="Box").click()
    page.locator("#box-text textarea, #box-text input").fill("40, 30, 220, 180; 230, 10, 250.5, 40")
    page.locator("#box-text textarea, #box-text input").press("Enter")
    expect(page.locator("#board .origin").first).to_have_text("Scores: against the boxes", timeout=30_000)
    page.get_by_role("button", name="Another class for ViT, GAP: Contribution").click()
    search = page.locator("#board .classes input")
    search.fill("church")
    search.press("Enter")
    expect(page.locator("#board .row h2").filter(has_text="church")).to_have_count(1, timeout=60_000)
    rows, drawn = titles(page), masks(page)
    page.wait_for_function("location.search.includes('class=') && location.search.includes('box=')")
    link, parts = page.url, parse_qs(urlsplit(page.url).query)
    assert parts["box"] == ["0,40,30,220,180", "0,230,10,250.5,40"]
    (of_class,) = parts["class"]
    assert of_class.startswith("0,") and of_class.endswith(",vit_gap,contribution")
    other, complaints = open_page_at(browser, link)
    other.wait_for_function(SHOWS, arg=rows, timeout=90_000)
    expect(other.locator("#board .origin").first).to_have_text("Scores: against the boxes", timeout=30_000)
    other.wait_for_function("(link) => location.href === link", arg=link, timeout=30_000)  # it follows the rows
    assert titles(other) == rows and masks(other) == drawn and complaints == []
    assert other.evaluate("[scrollY, document.activeElement.tagName]") == [0, "BODY"], (
        "a page that opens begins at its top"
    )
    other.locator("#reference > button").click()
    other.locator("#remove-reference").click()
    expect(other.locator("#board .origin").first).to_have_text("Scores: against the example's mask", timeout=30_000)
    other.wait_for_function("!location.search.includes('box=')")
    assert "mask=" not in other.url and log.complaints == []
    page.close()
    other.close()


def test_a_mask_of_ones_own_is_asked_for(browser: Browser, opened: Opened, tmp_path: Path):
    page, log = opened
    Image.fromarray(np.eye(300, 451, dtype=np.uint8) * 255).save(tmp_path / "mine.png")
    page.locator("#reference > button").click()
    page.get_by_role("tab", name="Mask file").click()
    page.locator("#mask-file input[type=file]").set_input_files(str(tmp_path / "mine.png"))
    expect(page.locator("#board .origin").first).to_have_text("Scores: against the mask mine.png", timeout=30_000)
    page.wait_for_function("location.search.includes('mask=own')")
    other, complaints = open_page_at(browser, page.url)
    expect(other.locator("#stale .linked")).to_contain_text("give yours under 'Where the object is'", timeout=60_000)
    assert log.complaints == [] and complaints == []
    other.close()
