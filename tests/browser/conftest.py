"""One app and one browser for all browser tests; a fresh page, with its network log, for each."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("playwright")
from playwright.sync_api import Browser, Page, sync_playwright

FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


def browser_path() -> str | None:
    """The browser that run.py found, or one on the path."""
    return os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("google-chrome")


@pytest.fixture(scope="session")
def app_url() -> Iterator[str]:
    from simpool_viz.app import launch

    app, url, _ = launch(host="127.0.0.1", device="cpu", prevent_thread_lock=True, quiet=True)
    yield url
    app_blocks = getattr(app, "blocks", None)
    if app_blocks is not None:
        app_blocks.close()


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    path = browser_path()
    if not path or not Path(path).exists():
        pytest.skip("no browser; install Debian's chromium or set CHROMIUM")
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=path, args=FLAGS)
        yield chromium
        chromium.close()


class Log:
    """What a page asked the network for, and what its console complained of."""

    def __init__(self, page: Page) -> None:
        self.requests: list[str] = []
        self.complaints: list[str] = []
        page.on("request", lambda request: self.requests.append(request.url))
        page.on("console", lambda message: self.complaints.append(message.text) if message.type == "error" else None)
        page.on("pageerror", lambda error: self.complaints.append(str(error)))


@pytest.fixture
def opened(browser: Browser, app_url: str) -> Iterator[tuple[Page, Log]]:
    """A page on which the example board is drawn."""
    page = browser.new_page(viewport={"width": 1400, "height": 900})
    log = Log(page)
    page.goto(app_url)
    page.wait_for_selector(".simpool-board .row canvas", timeout=60_000)
    yield page, log
    page.close()
