"""What leaves the page is what it shows: the ZIP after sliders were moved, its masks, and the lines that repeat it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest

from simpool_viz import read_picture
from tests.browser.conftest import EXAMPLE, Opened, masks

pytestmark = pytest.mark.browser


def test_the_zip_is_the_board_that_is_shown_and_its_lines_make_it_again(opened: Opened, tmp_path: Path) -> None:
    page, log = opened
    page.locator("#amount input[type=number]").fill("0.35")
    page.locator("#amount input[type=number]").press("Enter")
    page.locator("#smoothing input[type=number]").fill("0.5")
    page.locator("#smoothing input[type=number]").press("Enter")
    page.locator("#largest input").check()
    shown = masks(page)
    page.get_by_role("button", name="Take it away").click()
    page.locator("#take-zip").click()
    link = page.locator("#taken a[href*='.zip']").first
    link.wait_for(timeout=120_000)
    with page.expect_download() as waiting:
        link.click()
    waiting.value.save_as(tmp_path / "board.zip")
    with zipfile.ZipFile(tmp_path / "board.zip") as archive:
        archive.extractall(tmp_path)
    folder = tmp_path / "board_chelsea"
    about = json.loads((folder / "manifest.json").read_text())
    assert about["settings"]["cut"] == {
        "rule": "mass",
        "amount": 0.35,
        "smoothing": 0.5,
        "largest": True,
        "smooth": True,
    }
    assert np.array_equal(read_picture(folder / "photos" / "chelsea.png").rgb, read_picture(EXAMPLE).rgb)
    with np.load(folder / "maps.npz") as maps:
        for row, drawn in zip(about["rows"], shown, strict=True):
            assert maps[f"{row['name']}.mask"].ravel().astype(int).tolist() == drawn["grid"], drawn["title"]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "CUDA_VISIBLE_DEVICES": ""}
    subprocess.run([sys.executable, "again.py"], cwd=folder, check=True, env=environment)
    with np.load(folder / "maps.npz") as one, np.load(folder / "board" / "maps.npz") as other:
        assert list(one) == list(other) and all(np.array_equal(one[name], other[name]) for name in one)
    page.locator("#take-lines").click()
    page.locator("#taken-shell").get_by_text("simpool-viz").wait_for(timeout=60_000)
    assert "--mask mass:0.35 --smoothing 0.5 --largest --smooth" in page.locator("#taken-shell").inner_text()
    page.locator("#take-away").screenshot(path=tmp_path / "panel.png")
    assert not log.complaints
