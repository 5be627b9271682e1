"""What a visit held goes soon after its page is closed, and stays while the page is open."""

from __future__ import annotations

import time

import pytest

pytest.importorskip("playwright")
import gradio as gr
from playwright.sync_api import Browser, expect

from simpool_viz.app import visits


class Held(list[int]):
    """What one visit holds."""


def wait_for(freed: list[Held], count: int, seconds: float) -> None:
    end = time.monotonic() + seconds
    while len(freed) < count and time.monotonic() < end:
        time.sleep(0.1)


def test_state_is_freed_after_its_page_is_closed_and_not_before(browser: Browser, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(visits, "GRACE", 0.5)
    freed: list[Held] = []
    with visits.VisitedBlocks() as blocks:
        state, shown = gr.State(Held(), delete_callback=freed.append), gr.Textbox(elem_id="shown")
        gr.Button("Add", elem_id="add").click(
            lambda held: (Held([*held, 1]), str(len(held) + 1)), state, [state, shown]
        )
        blocks.listen()
    blocks.begin()
    _, url, _ = blocks.launch(server_name="127.0.0.1", prevent_thread_lock=True, quiet=True)
    try:
        stays, goes = browser.new_page(), browser.new_page()
        for page, clicks in ((stays, 1), (goes, 2)):
            page.goto(url)
            for count in range(1, clicks + 1):
                page.locator("#add").click()
                expect(page.locator("#shown textarea")).to_have_value(str(count), timeout=20_000)
        time.sleep(1.5)
        assert freed == [], "an open page keeps what it holds"
        goes.close()
        wait_for(freed, 1, 30)
        assert freed == [Held([1, 1])]
        stays.locator("#add").click()
        expect(stays.locator("#shown textarea")).to_have_value("2", timeout=20_000)
        stays.close()
    finally:
        blocks.close()
