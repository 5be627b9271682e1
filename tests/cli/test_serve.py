"""The command `serve`: ports that there are."""

from __future__ import annotations

import socket

import pytest

from tests.helpers import run_command


@pytest.mark.parametrize("port", ["99999", "-1", "0"])
def test_serve_refuses_ports_that_do_not_exist(capsys: pytest.CaptureFixture[str], port: str) -> None:
    status, _, err = run_command(capsys, "serve", "--port", port)
    assert status == 2 and "a port lies between 1 and 65535" in err


def test_serve_refuses_a_port_that_is_taken_before_anything_is_built(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("simpool_viz.app.launch.build", lambda device: pytest.fail("the app was built"))
    with socket.create_server(("127.0.0.1", 0)) as server:
        taken = server.getsockname()[1]
        status, _, err = run_command(capsys, "serve", "--host", "127.0.0.1", "--port", taken)
    assert status == 2 and f"port {taken} is taken; choose another with --port" in err
