"""The page that is served while the app is made, which takes seconds: the example board as a picture.

It needs neither Gradio nor PyTorch, and asks until the app answers at the same address. That is 503 Service Unavailable
until then, so that whoever only asks whether the app is ready is told that it is not.
"""

from __future__ import annotations

import base64
import json
import os
import socket
import string
import threading
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType

from simpool_viz.bundled import bundled_folder

BOARD = "first_board.json"  # of the assets, as `FirstBoard` writes it
LOCAL = "127.0.0.1"


class StartingPage:
    """Serves the page from `with` on until `close`, or until the block ends; where no port is free, nothing.

    Args:
        host: address to listen on; what GRADIO_SERVER_NAME says, or 127.0.0.1, where None.
        port: the first free one of those that Gradio tries where None.

    Attributes:
        port: on which it answers, and on which the app is to follow; that which was given where none is free.
        address: for a browser of this machine; "" where none is free.
    """

    def __init__(self, host: str | None = None, port: int | None = None) -> None:
        self._host = listening_host(host)
        self.port, self.address = port, ""
        self._server: _Server | None = None

    def __enter__(self) -> StartingPage:
        page = starting_page().encode()
        for port in _ports() if self.port is None else [self.port]:
            try:
                self._server = _Server(self._host, port, page)
            except OSError:
                continue
            self.port = port
            shown = "localhost" if self._host == "0.0.0.0" else self._host
            self.address = f"http://{f'[{shown}]' if ':' in shown else shown}:{port}"
            threading.Thread(target=self._server.serve_forever, args=(0.05,), name="starting", daemon=True).start()
            break
        return self

    def close(self) -> None:
        """End, and free the port."""
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()
            self._server = None

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()


def listening_host(host: str | None) -> str:
    """The address that the app listens on, an IPv6 one without brackets.

    Args:
        host: as in `launch`.
    """
    return (host or os.environ.get("GRADIO_SERVER_NAME") or LOCAL).strip("[]")


def starting_page() -> str:
    """The page as HTML, complete in itself, so that it is the same behind every proxy and without a network."""
    try:
        picture = json.loads((bundled_folder("assets") / BOARD).read_text(encoding="utf-8"))["picture"]
        base64.b64decode(picture, validate=True)
    except (OSError, ValueError, TypeError, KeyError):
        board = ""
    else:
        about = "The example board: a photo, and for each model and map the overlay, the object mask and the scores"
        board = f'<img src="data:image/webp;base64,{picture}" alt="{about}">'
    text = Path(__file__).with_suffix(".html").read_text(encoding="utf-8")
    return string.Template(text).substitute(board=board)


def _ports() -> range:
    """Those that Gradio tries, in its order."""
    first = int(os.environ.get("GRADIO_SERVER_PORT") or 7860)
    return range(first, first + int(os.environ.get("GRADIO_NUM_PORTS") or 100))


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    allow_reuse_address = os.name != "nt"  # there it would share a port that is taken

    def __init__(self, host: str, port: int, page: bytes) -> None:
        self.address_family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self.page = page
        super().__init__((host, port), _Handler)

    def handle_error(self, request: object, client_address: object) -> None:
        """Be silent about a browser that has gone."""


class _Handler(BaseHTTPRequestHandler):
    timeout = 5  # seconds for a request

    def answer(self) -> None:
        """The page, whatever is asked for."""
        assert isinstance(self.server, _Server)
        self.send_response(HTTPStatus.SERVICE_UNAVAILABLE)
        headers = {
            "Content-Type": "text/html; charset=utf-8",
            "Content-Length": str(len(self.server.page)),
            "Cache-Control": "no-store",
            "Retry-After": "1",
            "Connection": "close",
        }
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(self.server.page)

    do_GET = do_HEAD = do_POST = do_PUT = do_DELETE = do_OPTIONS = answer

    def version_string(self) -> str:
        """As server software, no more than the name."""
        return "simpool_viz"

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""
