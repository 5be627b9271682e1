"""The served process as others meet it: its address answers when it is printed, it works behind a reverse proxy under a
prefix, and SIGTERM ends it once a request in flight has its answer."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from gradio_client import Client, handle_file

from simpool_viz import load_checkpoint, make_board
from simpool_viz.bundled import bundled_folder

EXAMPLE = bundled_folder("assets") / "chelsea.jpg"
PREFIX = "/tools/simpool"
NAME = "resnet_simpool?size=96"
PATIENT = 120.0  # seconds, for a machine that is busy with something else

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="SIGTERM asks nothing there")


class Served:
    """A process of `simpool-viz serve` in a session of its own, its address, and its first answers."""

    def __init__(self, folder: Path) -> None:
        self.log = folder / "stderr"
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path)), "TMPDIR": str(folder)}
        environment.pop("GRADIO_TEMP_DIR", None)
        command = [sys.executable, "-m", "simpool_viz", "serve", "--device", "cpu", "--host", "127.0.0.1"]
        with self.log.open("w") as log:
            self.process = subprocess.Popen(
                [*command, "--root-path", PREFIX, "--grace", str(PATIENT)],
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                env=environment,
                start_new_session=True,
            )
        assert self.process.stdout
        for line in self.process.stdout:
            if found := re.match(r"starting; (http://[\d.:]+) ", line):
                self.early = found[1], httpx.get(found[1], timeout=PATIENT)
            if found := re.search(r"answers at (http://[\d.:]+)", line):
                self.address = found[1]
                self.first = httpx.get(f"{self.address}/healthz", timeout=PATIENT)
                return
        raise AssertionError(self.log.read_text())

    def left(self) -> list[str]:
        """The processes of its session that are still there."""
        found = []
        for stat in Path("/proc").glob("[0-9]*/stat"):
            try:
                fields = stat.read_text().rpartition(")")[2].split()
            except OSError:  # it has just ended
                continue
            if fields[3] == str(self.process.pid) and fields[0] != "Z":
                found.append(stat.parent.name)
        return found


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    one = Served(tmp_path_factory.mktemp("served"))
    yield one
    one.process.kill()
    one.process.wait()


@pytest.fixture(scope="module")
def proxied(served: Served) -> Iterator[str]:
    """The address of a reverse proxy that shows the app under `PREFIX`, and nothing elsewhere."""

    class Proxy(BaseHTTPRequestHandler):
        def answer(self) -> None:
            if not self.path.startswith(f"{PREFIX}/"):
                return self.send_error(404)
            length = int(self.headers.get("content-length") or 0)
            headers = {k: v for k, v in self.headers.items() if k.lower() not in ("host", "connection")}
            headers |= {"X-Forwarded-For": "192.0.2.7", "X-Forwarded-Host": self.headers["host"]}
            headers |= {"X-Forwarded-Proto": "http", "Host": self.headers["host"], "Accept-Encoding": "identity"}
            url, body = f"{served.address}{self.path.removeprefix(PREFIX)}", self.rfile.read(length)
            with httpx.stream(self.command, url, headers=headers, content=body, timeout=PATIENT) as given:
                self.send_response(given.status_code)
                for name, value in given.headers.multi_items():
                    if name not in ("content-length", "transfer-encoding", "connection", "date", "server"):
                        self.send_header(name, value)
                self.send_header("connection", "close")
                self.end_headers()
                for chunk in given.iter_raw():
                    self.wfile.write(chunk)
                    self.wfile.flush()

        do_GET = do_POST = do_HEAD = do_DELETE = answer

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Proxy)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}{PREFIX}/"
    server.shutdown()


def test_the_address_answers_as_soon_as_it_is_printed(served: Served) -> None:
    assert served.first.status_code == 200 and served.first.json() == {"status": "ok"}


def test_until_then_a_page_at_the_same_address_says_so(served: Served) -> None:
    address, answer = served.early
    assert address == served.address and answer.status_code == 503
    assert "Starting: " in answer.text and 'src="data:image/webp;base64,' in answer.text


def test_page_and_assets_come_through_a_proxy_under_its_prefix(proxied: str) -> None:
    page = httpx.get(proxied, timeout=PATIENT).text
    root = proxied.rstrip("/")
    config = httpx.get(f"{proxied}config", timeout=PATIENT).json()
    assert config["root"].rstrip("/") == root and httpx.get(f"{proxied}healthz", timeout=PATIENT).status_code == 200
    assets = set(re.findall(r'(?:src|href)="([^"#]+\.(?:js|css)(?:\?[^"]*)?)"', page))
    assert assets
    for asset in assets:
        answer = httpx.get(str(httpx.URL(proxied).join(asset)), timeout=PATIENT)
        assert answer.status_code == 200 and answer.content, asset
        assert str(answer.url).startswith(root), f"{asset} lies outside of the prefix"
    urls = set(re.findall(r'"url":\s*"(http[^"]+)"', json.dumps(config)))
    urls = {
        url for url in urls if httpx.URL(url).host == httpx.URL(proxied).host
    }  # Gradio's own examples lie elsewhere
    assert urls and all(url.startswith(f"{root}/gradio_api/file=") for url in urls)
    assert httpx.get(sorted(urls)[0], timeout=PATIENT).headers["content-type"].startswith("image/")


def test_an_endpoint_answers_through_a_proxy_what_python_gives(proxied: str) -> None:
    client = Client(proxied, verbose=False, httpx_kwargs={"timeout": PATIENT})
    told, picture = client.predict([handle_file(EXAMPLE)], [NAME], grids=True, api_name="/compare")
    (row,) = make_board([EXAMPLE], [load_checkpoint(NAME, device="cpu")], ["own"]).rows
    assert np.array_equal(np.array(told["rows"][0]["weights"], np.float32), row.mask.weights)
    assert Path(picture).read_bytes().startswith(b"\x89PNG")


FIELD = b'--x\r\ncontent-disposition: form-data; name="files"\r\n\r\ntext\r\n--x--\r\n'


@pytest.mark.parametrize("body", [b"", b"\r\n", b"--x--\r\n", FIELD, b"noise"])
def test_an_upload_without_a_file_is_refused(served: Served, body: bytes) -> None:
    kind = {"content-type": "multipart/form-data; boundary=x"}
    answer = httpx.post(f"{served.address}/gradio_api/upload", content=body, headers=kind, timeout=PATIENT)
    assert 400 <= answer.status_code < 500 and answer.text and "Traceback" not in answer.text


def test_sigterm_lets_a_request_in_flight_finish_and_leaves_no_process(served: Served) -> None:
    api, visit = f"{served.address}/gradio_api", "in-flight"
    config = httpx.get(f"{served.address}/config", timeout=PATIENT).json()
    (index,) = [one["id"] for one in config["dependencies"] if one["api_name"] == "compare"]
    with EXAMPLE.open("rb") as photo:
        (path,) = httpx.post(f"{api}/upload", files={"files": photo}, timeout=PATIENT).json()
    file = {"path": path, "meta": {"_type": "gradio.FileData"}}
    data = [[file], [NAME, "resnet_gap?size=96"], ["own"], "default", False]
    assert not httpx.post(
        f"{api}/queue/join", json={"data": data, "fn_index": index, "session_hash": visit}, timeout=PATIENT
    ).is_error
    seen = []
    with httpx.stream("GET", f"{api}/queue/data", params={"session_hash": visit}, timeout=PATIENT) as stream:
        for line in stream.iter_lines():
            if not line.startswith("data:"):
                continue
            message = json.loads(line[5:])
            seen.append(message["msg"])
            if message["msg"] == "process_starts":
                begun = time.monotonic()
                served.process.send_signal(signal.SIGTERM)
            if message["msg"] == "process_completed":
                break
    assert seen.count("process_starts") == 1 and message["success"], seen
    assert [row["checkpoint"] for row in message["output"]["data"][0]["rows"]] == [NAME, "resnet_gap?size=96"]
    assert served.process.wait(timeout=PATIENT) == 0 and time.monotonic() - begun < PATIENT
    assert served.left() == []
    assert "Traceback" not in served.log.read_text()
