"""A visitor brings a checkpoint of their own, in the browser."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from playwright.sync_api import Page, expect

from tests import made_files as made
from tests.browser.conftest import Log

pytestmark = pytest.mark.browser


def test_own_checkpoint_is_told_then_used_and_another_visit_does_not_see_it(
    opened: tuple[Page, Log], app_url: str, tmp_path: Path
):
    page, log = opened
    torch.save(
        made.self_supervised(made.vit(cls=False, grid=4) | made.simpool(128, "simpool."), gamma=1.25),
        tmp_path / "mine.pth",
    )
    page.locator("#own button").first.click()
    page.locator("#own-file input[type=file]").set_input_files(str(tmp_path / "mine.pth"))
    expect(page.locator("#own-file")).to_contain_text("mine")
    page.locator("#recognise").click()
    expect(page.locator("#own-report")).to_contain_text("ViT, 3 blocks of 128 channels", timeout=30_000)
    page.locator("#use-own").click()
    expect(page.locator("#checkpoints .chosen")).to_contain_text("mine (yours)")
    rows = page.locator(".simpool-board .row").count()
    page.locator("#run").click()
    expect(page.locator(".simpool-board .row h2").filter(has_text="mine (yours)").first).to_be_visible(timeout=60_000)
    expect(page.locator(".simpool-board .row")).to_have_count(rows + 1, timeout=60_000)
    assert log.complaints == []
    other = page.context.browser.new_page()
    other.goto(app_url)
    other.wait_for_selector(".simpool-board .row canvas", timeout=60_000)
    expect(other.locator("body")).not_to_contain_text("mine (yours)")
    other.close()


def test_file_that_is_no_checkpoint_is_told_and_nothing_is_lost(opened: tuple[Page, Log], tmp_path: Path):
    page, _ = opened
    rows = page.locator(".simpool-board .row").count()
    (tmp_path / "bad.pth").write_bytes(b"nothing of the kind")
    page.locator("#own button").first.click()
    page.locator("#own-file input[type=file]").set_input_files(str(tmp_path / "bad.pth"))
    expect(page.locator("#own-file")).to_contain_text("bad")
    page.locator("#recognise").click()
    expect(page.get_by_text("bad.pth is damaged", exact=False).first).to_be_visible(timeout=30_000)
    expect(page.locator(".simpool-board .row")).to_have_count(rows)
    expect(page.locator("#use-own")).not_to_be_visible()
    expect(page.locator("#own-file")).not_to_contain_text("bad")  # it is gone from the server, and so from the page
