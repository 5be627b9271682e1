"""What leaves the page follows the board that is shown, also after a run that failed and after another choice."""

from __future__ import annotations

from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from tests.browser.conftest import EXAMPLE, Opened

pytestmark = pytest.mark.browser


def lines_of(page: Page) -> str:
    """The command line that the page gives for its board."""
    page.locator("#take-lines").click()
    expect(page.locator("#taken-shell")).to_contain_text("simpool-viz", timeout=60_000)
    return page.locator("#taken-shell").inner_text()


def test_what_is_taken_is_the_board_that_is_shown_whatever_failed_or_was_chosen_since(
    opened: Opened, tmp_path: Path
) -> None:
    page, _ = opened
    page.get_by_role("button", name="Take it away").click()
    rows = page.locator("#board .row")
    shown = rows.count()
    damaged = tmp_path / "damaged.jpg"
    damaged.write_bytes(EXAMPLE.read_bytes()[:300])
    page.locator("#photo input[type=file]").set_input_files(damaged)
    expect(page.locator(".toast-body").last).to_be_visible(timeout=60_000)
    assert rows.count() == shown
    page.get_by_label("Class logits").first.check()  # chosen, and not run
    first = lines_of(page)
    assert "chelsea" in first and "damaged" not in first and "logits" not in first
    assert "vit_gap" in first and "vit_simpool" in first
    page.locator("#photo input[type=file]").set_input_files(EXAMPLE.with_name("coffee.jpg"))
    expect(page.locator("#board .simpool-board .photo").first).to_contain_text("coffee", timeout=60_000)
    expect(page.locator("#board .waiting")).to_have_count(0, timeout=60_000)
    page.locator("#take-lines").click()
    expect(page.locator("#taken-shell")).to_contain_text("coffee", timeout=60_000)
