"""The page that is shown while the app starts opens the app by itself."""

from __future__ import annotations

import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from playwright.sync_api import Browser, expect

from simpool_viz.app.starting import StartingPage


class App(BaseHTTPRequestHandler):
    """Answers as the app does."""

    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/html")
        self.send_header("Connection", "close")
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(f"<h1>The app at {self.path}</h1>".encode())

    do_HEAD = do_GET

    def log_message(self, *_: object) -> None:
        pass


def test_it_shows_the_example_board_and_then_the_app(browser: Browser) -> None:
    with StartingPage() as starting:
        page = browser.new_page(viewport={"width": 390, "height": 800})
        asked: list[str] = []
        page.on("request", lambda request: asked.append(request.url))
        page.goto(f"{starting.address}/?model=vit_gap")
        expect(page.get_by_role("status")).to_contain_text("Starting")
        picture = page.get_by_role("img", name="The example board")
        assert picture.evaluate("(image) => image.complete && image.naturalWidth > 800")
        assert page.evaluate("() => document.documentElement.scrollWidth <= innerWidth"), "it fits a phone"
        starting.close()
        page.wait_for_timeout(700)  # nobody answers meanwhile
        assert starting.port is not None
        app = ThreadingHTTPServer(("127.0.0.1", starting.port), App)
        threading.Thread(target=app.serve_forever, daemon=True).start()
        try:
            expect(page.get_by_role("heading")).to_have_text("The app at /?model=vit_gap", timeout=30_000)
            assert all(url.startswith((starting.address, "data:")) for url in asked)
        finally:
            page.close()
            app.shutdown()
            app.server_close()
