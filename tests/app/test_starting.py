"""The page that is served while the app is made."""

from __future__ import annotations

import http.client
import json
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from simpool_viz import bundled
from simpool_viz.app import launch as launching
from simpool_viz.app.starting import BOARD, StartingPage, starting_page


@pytest.fixture
def taken(monkeypatch: pytest.MonkeyPatch) -> Iterator[int]:
    """A port where something listens, the first of those that are tried."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        port = listener.getsockname()[1]
        monkeypatch.setenv("GRADIO_SERVER_PORT", str(port))
        yield port


def answer(page: StartingPage, method: str = "GET", path: str = "/") -> tuple[int, dict[str, str], bytes]:
    connection = http.client.HTTPConnection("localhost", page.port, timeout=30)
    connection.request(method, path)
    given = connection.getresponse()
    return given.status, {name.lower(): value for name, value in given.getheaders()}, given.read()


def test_every_question_is_answered_that_the_app_is_not_ready(taken: int) -> None:
    with StartingPage() as page:
        assert page.port is not None and taken < page.port < taken + 100
        assert page.address == f"http://127.0.0.1:{page.port}"
        for method in ("GET", "POST", "HEAD"):
            for path in ("/", "/?model=vit_gap", "/gradio_api/info"):
                status, headers, body = answer(page, method, path)
                assert status == 503 and headers["retry-after"] == "1" and headers["cache-control"] == "no-store"
                assert body == (b"" if method == "HEAD" else starting_page().encode())
    with StartingPage(port=page.port) as again:
        assert again.address, "the port is free again"
    again.close()


def test_it_holds_the_example_board_and_needs_nothing_else() -> None:
    page = starting_page()
    picture = json.loads((bundled.bundled_folder("assets") / BOARD).read_text())["picture"]
    assert f'src="data:image/webp;base64,{picture}"' in page and "http://" not in page and "https://" not in page


def test_it_is_there_before_gradio_and_pytorch_are() -> None:
    code = (
        "import sys; from simpool_viz.app import launch, starting; starting.starting_page(); "
        "print(sorted({'torch', 'timm', 'gradio', 'numpy', 'cv2'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


@pytest.mark.parametrize("content", [None, "{", "[]", '{"picture": 1}', '{"picture": "<script>"}'])
def test_without_its_picture_it_says_that_the_app_starts(
    content: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "assets").mkdir()
    if content is not None:
        (tmp_path / "assets" / BOARD).write_text(content)
    monkeypatch.setattr(bundled, "_PACKAGE", tmp_path / "package")
    page = starting_page()
    assert "Starting: " in page and "<img" not in page and "$board" not in page
    shutil.rmtree(tmp_path / "assets")
    assert starting_page() == page


def test_where_no_port_is_free_nothing_is_served(taken: int, monkeypatch: pytest.MonkeyPatch) -> None:
    with StartingPage(port=taken) as page:
        assert (page.address, page.port) == ("", taken)
    monkeypatch.setenv("GRADIO_NUM_PORTS", "1")
    with StartingPage() as page:
        assert (page.address, page.port) == ("", None)


def test_it_listens_where_the_app_will(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GRADIO_SERVER_NAME", "0.0.0.0")
    with StartingPage() as page:
        assert page.address == f"http://localhost:{page.port}" and answer(page)[0] == 503
    if socket.has_ipv6:
        with StartingPage("[::1]") as page:
            if page.address:  # a machine may have no such address
                assert page.address == f"http://[::1]:{page.port}"


class Launched:
    """Stands for `gr.Blocks`: it listens, as Gradio does, or raises an OSError."""

    def __init__(self) -> None:
        self.ports: list[int | None] = []

    def launch(self, server_port: int | None, **_: Any) -> str:
        self.ports.append(server_port)
        if server_port is not None:
            with socket.socket() as listener:
                listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                listener.bind(("127.0.0.1", server_port))
        return "served"


def test_the_app_follows_at_the_same_port() -> None:
    blocks = Launched()
    with StartingPage() as page:
        answer(page)
        assert launching._serve(blocks, None, None, None, {}, page) == "served"
    assert blocks.ports == [page.port]


def test_a_port_that_another_program_took_in_between_is_another_one(taken: int) -> None:
    for given in (None, taken):
        blocks, page = Launched(), StartingPage(port=given)
        page.port = taken
        if given is None:
            assert launching._serve(blocks, None, None, None, {}, page) == "served" and blocks.ports == [taken, None]
        else:
            with pytest.raises(OSError):
                launching._serve(blocks, None, given, None, {}, page)
