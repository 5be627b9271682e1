"""One app and one browser for all browser tests; a fresh page, with its network log, for each."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("playwright")
from playwright.sync_api import Browser, Page, sync_playwright

from simpool_viz import load_checkpoint, make_board
from simpool_viz.app.compare import FIRST_CHECKPOINTS
from simpool_viz.board.board import Board
from simpool_viz.bundled import bundled_folder

EXAMPLE = bundled_folder("assets") / "chelsea.jpg"

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
    from simpool_viz.app import compare
    from simpool_viz.app.launch import launch

    with pytest.MonkeyPatch.context() as patched:  # made on this machine, its figures are Python's to the last digit
        patched.setattr(compare, "read_first_board", lambda _: None)
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


Opened = tuple[Page, Log]


def open_page(browser: Browser, address: str, width: int = 1400, height: int = 900) -> Opened:
    """A page on which the example board is drawn, and its log."""
    page = browser.new_page(viewport={"width": width, "height": height})
    log = Log(page)
    page.goto(address)
    page.wait_for_selector(".simpool-board .row canvas", timeout=60_000)
    until_drawn(page)
    return page, log


def settle(page: Page, log: Log) -> int:
    """Wait until the page has asked the network for nothing for a second; returns the number of requests so far."""
    seen = -1
    while seen != len(log.requests):
        seen = len(log.requests)
        page.wait_for_timeout(1000)
    return seen


@pytest.fixture
def opened(browser: Browser, app_url: str) -> Iterator[Opened]:
    page, log = open_page(browser, app_url)
    yield page, log
    page.close()


@pytest.fixture(scope="session")
def python_board() -> Board:
    """The example board, made by the Python call."""
    encoders = [load_checkpoint(name, device="cpu") for name in FIRST_CHECKPOINTS]
    return make_board([EXAMPLE], encoders, ["own", "contribution"])


def masks(page: Page, in_pixels: bool = False) -> list[dict[str, Any]]:
    """The masks as the browser draws them; `pixels` (H, W) bool where asked for."""
    drawn = page.evaluate("(p) => document.querySelector('.simpool-board').parentElement.readMasks(p)", in_pixels)
    for row in drawn if in_pixels else []:
        row["pixels"] = (np.frombuffer(row["pixels"].encode(), np.uint8) == ord("1")).reshape(
            row["height"], row["width"]
        )
    return drawn


def further_photos() -> list[str]:
    """Three example photos beside the one that a visit begins with."""
    return [str(EXAMPLE.with_name(f"{name}.jpg")) for name in ("astronaut", "coffee", "motorcycle")]


def set_style(page: Page, **style: Any) -> None:
    """Change how the board is drawn as the controls beside the board do."""
    script = (
        "(d) => document.querySelector('.simpool-board').dispatchEvent(new CustomEvent('simpool-look', {bubbles: "
        "true, detail: d}))"
    )
    page.evaluate(script, style)
    until_drawn(page)


def until_drawn(page: Page, board: str = "#board") -> None:
    """Wait until a board has painted what is near the window and said what it says."""
    page.evaluate("(b) => document.querySelector(`${b} .simpool-board`).parentElement.settled()", board)
