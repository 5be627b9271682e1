"""A bug in the page as a visitor meets it: our sentence, no trace, no endless waiting, and the page goes on."""

from __future__ import annotations

import logging
from typing import Any

import pytest
from playwright.sync_api import Page, expect

from simpool_viz.app.board import component
from tests.browser.conftest import Opened
from tests.helpers import plant_bug

pytestmark = pytest.mark.browser
TOAST = ".toast-body"


def expect_our_fault(page: Page) -> None:
    expect(page.locator(TOAST).last).to_contain_text("This is a fault of ours", timeout=60_000)
    assert "Traceback" not in page.content() and "ZeroDivisionError" not in page.content()


def test_a_bug_in_a_map_is_told_as_ours_the_wait_ends_and_the_page_goes_on(
    opened: Opened, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    page, log = opened
    rows = page.locator("#board .row").count()
    with monkeypatch.context() as planted:
        plant_bug(planted, "pooling")
        page.locator("#run").click()
        expect_our_fault(page)
    expect(page.locator("#board .simpool-board .photo")).to_be_visible()
    expect(page.locator("#board .waiting")).to_have_count(0)
    assert "ZeroDivisionError" in caplog.text and "Traceback" in caplog.text
    assert [r.name for r in caplog.records if r.levelno >= logging.ERROR] == ["simpool_viz.app.events"]
    page.locator("#run").click()
    expect(page.locator("#board .row")).to_have_count(rows, timeout=60_000)
    expect(page.locator("#board .waiting")).to_have_count(0)
    assert log.complaints == []


def test_a_bug_in_what_is_sent_to_the_browser_ends_the_wait_too(opened: Opened, monkeypatch: pytest.MonkeyPatch):
    page, _ = opened

    def divide(*_: Any) -> Any:
        return 1 // 0

    with monkeypatch.context() as planted:
        planted.setattr(component, "row_payload", divide)
        page.locator("#run").click()
        expect_our_fault(page)
    expect(page.locator("#board .waiting")).to_have_count(0)


def test_a_bug_in_inspect_is_told_as_ours_and_covers_no_control(opened: Opened, monkeypatch: pytest.MonkeyPatch):
    page, _ = opened
    page.get_by_role("tab", name="Inspect").click()
    expect(page.locator("#inspected .row").first).to_be_visible(timeout=60_000)
    with monkeypatch.context() as planted:
        plant_bug(planted, "pooling")
        page.locator("#look").click()
        expect_our_fault(page)
    page.wait_for_timeout(500)
    assert page.locator("#inspect-settings .error:visible, #inspected .error:visible").count() == 0
    page.locator("#look").click()
    expect(page.locator("#inspected .row").first).to_be_visible(timeout=60_000)


def test_signs_of_html_in_a_sentence_are_shown_as_they_are(opened: Opened):
    page, _ = opened
    page.locator("#own > button, #own .label-wrap").first.click()
    page.locator("#own-address input").fill("<b>x</b>")
    page.locator("#own-address input").press("Tab")
    page.locator("#recognise").click()
    expect(page.locator(TOAST).last).to_contain_text("'<b>x</b>' is neither hf:<user>/<repository>", timeout=60_000)
