"""Facts and segmentation reach the browser once per recording, and the page goes on showing them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, expect

from simpool_viz.app.board.inspected import InspectState, InspectView
from tests.browser.conftest import Opened, open_page

pytestmark = pytest.mark.browser
BOARD = "#inspected .simpool-board"
SCENES, GATED = "ViT with LIFE, street scenes", "ResNet with SPE, GAP"


@pytest.fixture
def answers(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """What the server sends to any Inspect page, answer by answer."""
    sent: list[dict[str, Any]] = []
    original = InspectView.postprocess

    def kept(view: InspectView, value: InspectState | None) -> dict[str, Any] | None:
        payload = original(view, value)
        if payload is not None:
            sent.append(payload)
        return payload

    monkeypatch.setattr(InspectView, "postprocess", kept)
    return sent


def open_inspect(page: Page, answers: list[dict[str, Any]]) -> None:
    """Open the page, which begins with an answer; it does not count."""
    page.get_by_role("tab", name="Inspect").click()
    expect(page.locator(f"{BOARD} .row").first).to_be_visible(timeout=60_000)
    answers.clear()


def run_inspect(page: Page, checkpoint: str) -> None:
    page.get_by_label("Checkpoint", exact=True).click()
    page.get_by_role("option", name=checkpoint, exact=True).click(timeout=30_000)
    page.locator("#look").click()


def shown(page: Page) -> dict[str, Any]:
    """The facts as they stand in the page, and the picture of the segmentation."""
    return {
        "facts": page.locator(f"{BOARD} .fact").all_inner_texts(),
        "classes": page.locator(f"{BOARD} .legend button").all_inner_texts(),
        "segmentation": page.locator(f"{BOARD} .segmentation canvas").evaluate_all(
            "(c) => c.map((o) => o.toDataURL())"
        ),
    }


def choose(page: Page, index: int) -> None:
    button = page.locator(f"{BOARD} .legend button").nth(index)
    button.click()
    expect(button).to_have_attribute("aria-pressed", "true", timeout=30_000)


@pytest.fixture
def visitor(browser: Browser, app_url: str) -> Iterator[Page]:
    page, _ = open_page(browser, app_url)
    yield page
    page.close()


def test_second_answer_brings_no_facts_and_the_page_shows_them(opened: Opened, answers: list[dict[str, Any]]):
    page, log = opened
    open_inspect(page, answers)
    run_inspect(page, SCENES)
    expect(page.locator(f"{BOARD} .legend button").first).to_be_visible(timeout=60_000)
    first = shown(page)
    assert len(answers) == 1 and answers[0]["facts"]["segmentation"] and first["facts"] and first["segmentation"]
    choose(page, 1)
    assert len(answers) == 2 and answers[1]["facts"] is None and answers[1]["recording"] == answers[0]["recording"]
    assert not {"runs", "gates", "sections"} & set(json.dumps(answers[1]).split('"'))
    assert shown(page) == first
    page.get_by_role("tab", name="Compare").click()
    page.get_by_role("tab", name="Inspect").click()
    choose(page, 0)
    assert answers[2]["facts"] is None and shown(page) == first

    run_inspect(page, GATED)
    expect(page.locator(f"{BOARD} .chart h2")).to_have_text(["Channel gates by depth"], timeout=60_000)
    other = shown(page)
    assert answers[3]["facts"]["gates"] and other["classes"] == [] and other["facts"] != first["facts"]
    page.get_by_label("What do the channel gates let through?").click()
    expect(page.locator(f"{BOARD} .row h2").first).to_contain_text("gated", timeout=30_000)
    assert answers[4]["facts"] is None and shown(page) == other
    expect(page.locator(f"{BOARD} .chart h2")).to_have_text(["Channel gates by depth"])

    run_inspect(page, SCENES)
    expect(page.locator(f"{BOARD} .legend button").first).to_be_visible(timeout=60_000)
    assert shown(page) == first and answers[5]["recording"] == answers[0]["recording"]
    assert log.complaints == []


def test_reloaded_page_and_a_second_tab_have_facts_of_their_own(
    opened: Opened, visitor: Page, answers: list[dict[str, Any]]
):
    page, _ = opened
    open_inspect(page, answers)
    open_inspect(visitor, answers)
    run_inspect(page, SCENES)
    run_inspect(visitor, GATED)
    expect(page.locator(f"{BOARD} .legend button").first).to_be_visible(timeout=60_000)
    expect(visitor.locator(f"{BOARD} .chart h2")).to_have_text(["Channel gates by depth"], timeout=60_000)
    first, other = shown(page), shown(visitor)
    choose(page, 1)
    visitor.get_by_label("What do the channel gates let through?").click()
    expect(visitor.locator(f"{BOARD} .row h2").first).to_contain_text("gated", timeout=30_000)
    assert [answer["facts"] is None for answer in answers] == [False, False, True, True]
    assert shown(page) == first and shown(visitor) == other
    page.reload()
    page.wait_for_selector("#board .row canvas", timeout=60_000)
    open_inspect(page, answers)
    run_inspect(page, SCENES)
    expect(page.locator(f"{BOARD} .legend button").first).to_be_visible(timeout=60_000)
    assert answers[-1]["facts"] is not None and shown(page) == first
