"""Lists of the command line."""

from __future__ import annotations

import pytest

from simpool_viz.checkpoints.published import published
from simpool_viz.cli.main import main


def test_list_names_what_is_published_with_its_size(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["list"]) == 0
    out = capsys.readouterr().out
    assert all(name in out for name in published()) and len(published()) == 16
    assert "vits_dino_simpool_ep100" in out and "downloads 88 MB or more" in out
