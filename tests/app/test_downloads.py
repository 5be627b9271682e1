"""A file by address is bounded, and its host is a public one."""

from __future__ import annotations

import asyncio
import http.server
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import safehttpx

from simpool_viz.app import downloads
from simpool_viz.app.downloads import download

PUBLIC, CONTENT = "93.184.215.14", b"a photo" * 100


class Server(http.server.BaseHTTPRequestHandler):
    """Answers with a redirect to what stands in the path, or with the content."""

    asked: list[str]

    def do_GET(self) -> None:
        type(self).asked.append(self.path)
        target = self.path.partition("?to=")[2]
        self.send_response(302 if target else 200)
        if target:
            self.send_header("Location", target)
        self.end_headers()
        self.wfile.write(b"" if target else CONTENT)

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def port(monkeypatch: pytest.MonkeyPatch) -> Iterator[int]:
    """Of a server of this machine, which counts as public under one address, since no test reaches a public one."""
    checked = safehttpx.async_validate_url

    async def resolved(name: str) -> str:
        return "127.0.0.1" if name == PUBLIC else await checked(name)

    monkeypatch.setattr(safehttpx, "async_validate_url", resolved)
    Server.asked = []
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Server) as local:
        threading.Thread(target=local.serve_forever, daemon=True).start()
        yield local.server_address[1]
        local.shutdown()


def test_file_is_fetched_through_redirects(port: int, tmp_path: Path) -> None:
    path = Path(asyncio.run(download(f"http://{PUBLIC}:{port}/a?to=http://{PUBLIC}:{port}/b.jpg", tmp_path)))
    assert path.name == "b.jpg" and path.read_bytes() == CONTENT and path.parents[1] == tmp_path


@pytest.mark.parametrize(
    "host", ["127.0.0.1:{port}", "[::1]:{port}", "localhost:{port}", "10.0.0.1", "169.254.169.254"]
)
def test_redirect_to_an_inner_address_is_not_followed(port: int, tmp_path: Path, host: str) -> None:
    inner = f"http://{host.format(port=port)}/b.jpg"
    for address in (inner, f"http://{PUBLIC}:{port}/a?to={inner}"):
        with pytest.raises(ValueError, match="failed validation"):
            asyncio.run(download(address, tmp_path))
    assert "/b.jpg" not in Server.asked


@pytest.mark.parametrize("address", ["file:///etc/passwd", "ftp://127.0.0.1/", "gopher://127.0.0.1/"])
def test_other_schemes_are_refused_in_redirects_too(port: int, tmp_path: Path, address: str) -> None:
    with pytest.raises(ValueError, match="none of http or https"):
        asyncio.run(download(f"http://{PUBLIC}:{port}/a?to={address}", tmp_path))


def test_larger_file_is_given_up(port: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(downloads, "LARGEST", len(CONTENT) - 1)
    with pytest.raises(ValueError, match="more than"):
        asyncio.run(download(f"http://{PUBLIC}:{port}/a", tmp_path))
    assert not list(tmp_path.iterdir())


def test_endless_redirects_and_time_are_bounded(port: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(downloads, "HOPS", 1)
    with pytest.raises(ValueError, match="on and on"):
        asyncio.run(download(f"http://{PUBLIC}:{port}/a?to=/b", tmp_path))
    monkeypatch.setattr(downloads, "SECONDS", 0.0)
    with pytest.raises(asyncio.TimeoutError):
        asyncio.run(download(f"http://{PUBLIC}:{port}/a", tmp_path))
