"""The list of checkpoints in the page: searched, chosen, sized; and what it says where the hub is out of reach."""

from __future__ import annotations

import pytest

pytest.importorskip("playwright")
from playwright.sync_api import Locator, Page, expect

from simpool_viz.app import checkpoint_list as module
from tests.browser.conftest import Opened

STALE = "The board shows an earlier choice. Press Run."


def listed(page: Page) -> Locator:
    return page.locator("#checkpoints")


def sizes(page: Page) -> list[str]:
    return [select.input_value() for select in listed(page).locator(".one select").all()]


def test_search_finds_by_any_word_and_opens_the_groups_that_have_it(opened: Opened, monkeypatch: pytest.MonkeyPatch):
    page, log = opened
    monkeypatch.setattr(module.hub, "is_reachable", lambda: False)
    monkeypatch.setattr(module.hub, "is_in_cache", lambda repository: repository.endswith("vit_base_patch8_224.dino"))
    box = listed(page)
    expect(box.get_by_label("ViT-S/14, DINOv2", exact=True)).to_have_count(0)
    box.get_by_label("Search checkpoints").fill("dinov2 14")
    expect(box.get_by_label("ViT-S/14, DINOv2", exact=True)).to_be_visible()
    expect(box.locator("summary")).to_contain_text(["DINO, DINOv2, DINOv3 4", "timm"])
    hint = box.locator(".hint").first
    expect(hint).to_have_text("The hub cannot be reached from here: only what is in its cache can be chosen.")
    expect(box.get_by_label("ViT-S/14, DINOv2", exact=True)).to_be_disabled()
    box.get_by_label("Search checkpoints").fill("B/8, dino")
    expect(box.get_by_label("ViT-B/8, DINO", exact=True)).to_be_enabled()
    box.get_by_label("Search checkpoints").fill("no such pooling")
    expect(box.locator(".groups")).to_contain_text("Nothing is called so.")
    expect(box.locator(".found")).to_have_text("0 found")
    box.get_by_label("Search checkpoints").fill("")
    expect(box.get_by_label("ViT, SimPool", exact=True)).to_be_visible()
    assert all(request.startswith(("http://127.0.0.1", "data:", "blob:")) for request in log.requests)


def test_timm_shows_its_first_lines_and_the_others_by_search(opened: Opened, monkeypatch: pytest.MonkeyPatch):
    page, _ = opened
    monkeypatch.setattr(module.hub, "is_reachable", lambda: True)
    monkeypatch.setattr(module.hub, "is_in_cache", lambda repository: False)
    box = listed(page)
    box.locator("summary").filter(has_text="timm").click()
    expect(box.locator("details[open]").last.locator(".line")).to_have_count(40)
    expect(box.locator(".hint").last).to_contain_text("search by name for the others")
    box.get_by_label("Search checkpoints").fill("clip openai 32")
    expect(box.get_by_label("vit_base_patch32_clip_224.openai", exact=True)).to_be_enabled()


def test_sizes_are_multiples_of_the_stride_and_move_together(opened: Opened):
    page, _ = opened
    assert sizes(page) == ["224", "224"]
    options = listed(page).get_by_label("Size of ViT, GAP", exact=True).locator("option").all_text_contents()
    assert options == [
        "112 px = 8 × 14",
        "168 px = 12 × 14",
        "224 px = 16 × 14, its own",
        "336 px = 24 × 14",
        "448 px = 32 × 14",
        "672 px = 48 × 14",
        "896 px = 64 × 14",
    ]
    listed(page).get_by_label("ResNet, GAP", exact=True).click()
    listed(page).get_by_role("button", name="Coarser").click()
    assert sizes(page) == ["168", "168", "96"]
    expect(page.locator("#stale .stale")).to_have_text(STALE)
    for _ in range(3):
        listed(page).get_by_role("button", name="Finer").click()
    assert sizes(page) == ["448", "448", "256"]
    page.locator("#run").click()
    row = page.locator("#board .row").filter(has_text="ResNet, GAP, 256 px")
    expect(row).to_contain_text("grid 48 x 32", timeout=60_000)


def test_chosen_checkpoint_goes_by_its_button_and_the_keyboard_keeps_its_place(opened: Opened):
    page, _ = opened
    line = listed(page).get_by_label("ViT, GGeM", exact=True)
    line.focus()
    page.keyboard.press("Space")
    expect(line).to_be_checked()
    expect(line).to_be_focused()
    listed(page).get_by_label("Remove ViT, GAP", exact=True).click()
    expect(listed(page).locator(".one > span")).to_have_text(["ViT, GGeM", "ViT, SimPool"])
    for name in ("ViT, GGeM", "ViT, SimPool"):
        listed(page).get_by_label(f"Remove {name}", exact=True).click()
    expect(listed(page).locator(".chosen")).to_have_text("None is chosen.")
