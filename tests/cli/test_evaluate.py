"""The command `evaluate`: its tables."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.helpers import disc, make_photo, run_command


def test_evaluate_prints_a_table_with_every_checkpoint_and_both_baselines(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, checkpoints: dict[str, Path]
) -> None:
    for folder in ("images", "masks"):
        (tmp_path / "discs" / folder).mkdir(parents=True)
    for i, (width, height) in enumerate([(91, 60), (64, 100), (80, 50)]):
        Image.fromarray(make_photo(width, height, i)).save(tmp_path / "discs" / "images" / f"{i}.png")
        Image.fromarray((255 * disc(width, height)).astype(np.uint8)).save(tmp_path / "discs" / "masks" / f"{i}.png")
    both = ["-c", checkpoints["simpool"], "-c", checkpoints["gap"]]
    status, out, _ = run_command(capsys, "evaluate", tmp_path / "discs", *both, "--mask", "area:0.2", "--device", "cpu")
    lines = out.splitlines()
    assert status == 0 and lines[0] == "**discs**, 3 photos"
    assert [line.split("|")[1].strip() for line in lines if line.startswith("|")] == [
        "map",
        "---",
        "small_simpool: Pooling attention",
        "small_gap: Contribution",
        "centre prior",
        "whole picture",
    ]
    assert "IoU of mask (area:0.2)" in out
