"""The command `convert`."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from simpool_viz.cli.main import main
from tests.helpers import simpool_vit


def test_convert_from_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch.save(simpool_vit(), tmp_path / "a.pth")
    assert main(["convert", str(tmp_path / "a.pth"), str(tmp_path / "a.safetensors")]) == 0
    out = capsys.readouterr().out
    assert "ViT, 3 blocks of 128 channels" in out and "MB instead of" in out and "projection head" in out
    assert main(["convert", str(tmp_path / "a.pth"), str(tmp_path / "a.safetensors")]) == 2
    assert "exists; add --overwrite" in capsys.readouterr().err
    assert (
        main(
            ["convert", str(tmp_path / "a.pth"), str(tmp_path / "a.safetensors"), "--weights", "student", "--overwrite"]
        )
        == 0
    )
