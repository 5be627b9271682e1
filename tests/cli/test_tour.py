"""The command `tour`: a folder for each stop."""

from __future__ import annotations

from pathlib import Path

import pytest

from simpool_viz.board.tour import STOPS
from simpool_viz.cli.main import main


def test_command_writes_a_folder_for_each_stop(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["tour", "-o", str(tmp_path / "tour"), "--device", "cpu"]) == 0
    page = (tmp_path / "tour" / "README.md").read_text(encoding="utf-8")
    for number, stop in enumerate(STOPS, 1):
        assert stop.text in page and f"]({number}_{stop.name}/board.png)" in page
        assert (tmp_path / "tour" / f"{number}_{stop.name}" / "board.png").is_file()
    assert "6 stops in" in capsys.readouterr().out
    assert main(["tour", "-o", str(tmp_path / "tour")]) == 2 and "is there already" in capsys.readouterr().err
