"""The command `serve`: ports that there are."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from simpool_viz.cli.serve import _users
from tests.helpers import run_command


@pytest.mark.parametrize("port", ["99999", "-1", "0"])
def test_serve_refuses_ports_that_do_not_exist(capsys: pytest.CaptureFixture[str], port: str) -> None:
    status, _, err = run_command(capsys, "serve", "--port", port)
    assert status == 2 and "a port lies between 1 and 65535" in err


def test_serve_refuses_a_port_that_is_taken_before_anything_is_built(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("simpool_viz.app.launch.build", lambda device, warm: pytest.fail("the app was built"))
    with socket.create_server(("127.0.0.1", 0)) as server:
        taken = server.getsockname()[1]
        status, _, err = run_command(capsys, "serve", "--host", "127.0.0.1", "--port", taken)
    assert status == 2 and f"port {taken} is taken; choose another with --port" in err


@pytest.mark.parametrize("given", ["ada", ":x", "ada:", "@FILE"])
def test_who_may_log_in_is_checked_before_anything_is_built(
    given: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("simpool_viz.app.launch.build", lambda device, warm: pytest.fail("the app was built"))
    (tmp_path / "users").write_text("\n")
    status, _, err = run_command(capsys, "serve", "--auth", given.replace("FILE", str(tmp_path / "users")))
    assert status == 2 and "--auth" in err


def test_users_come_from_words_and_files(tmp_path: Path) -> None:
    (tmp_path / "users").write_text("ada:a:b\n\nbob:c\n")
    assert _users(["eve:d", f"@{tmp_path / 'users'}"]) == [("eve", "d"), ("ada", "a:b"), ("bob", "c")]


def test_tools_need_a_package_and_say_which(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name, *_: None)
    status, _, err = run_command(capsys, "serve", "--mcp")
    assert status == 2 and "pip install 'simpool-viz[mcp]'" in err


def test_tools_cannot_log_in(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("simpool_viz.app.launch.build", lambda device, warm: pytest.fail("the app was built"))
    status, _, err = run_command(capsys, "serve", "--mcp", "--auth", "ada:b")
    assert status == 2 and "--mcp and --auth exclude each other" in err


@pytest.mark.parametrize("seconds", ["-1", "nan", "99999"])
def test_the_time_to_finish_is_bounded(seconds: str, capsys: pytest.CaptureFixture[str]) -> None:
    status, _, err = run_command(capsys, "serve", f"--grace={seconds}")
    assert status == 2 and "--grace takes 0 to 3600 seconds" in err
