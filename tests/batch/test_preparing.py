"""What workers prepare: pictures found, decoded and sized, without PyTorch."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from simpool_viz.batch.preparing import Fault, Frame, Prepared, find_pictures, prepare
from tests.helpers import make_photo


def test_pictures_are_found_below_every_folder_by_a_key_of_their_own(tmp_path: Path) -> None:
    for name in ("one/a/x.JPG", "two/a/x.jpg", "two/a/.cache/y.png", "two/a/z.txt"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    assert list(find_pictures([tmp_path / "one" / "a", tmp_path / "two" / "a"])) == ["a/x.JPG", "a_1/x.jpg"]
    assert list(find_pictures([tmp_path])) == ["one/a/x.JPG", "two/a/x.jpg"]
    with pytest.raises(ValueError, match="is no folder"):
        find_pictures([tmp_path / "one" / "a" / "x.JPG"])
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="no picture"):
        find_pictures([tmp_path / "empty"])


def test_a_prepared_picture_holds_every_frame_and_no_more_pixels_than_are_drawn(tmp_path: Path) -> None:
    Image.fromarray(make_photo(300, 200)).save(tmp_path / "a.png")
    one = prepare("a", tmp_path / "a.png", [Frame(64, 8), Frame(48, 16)], 150)
    assert isinstance(one, Prepared) and one.display.shape == (100, 150, 3)
    assert one.shape == ((8, 12), (3, 4)) or one.shape == ((8, 12), (3, 5))
    for geometry, pixels in zip(one.geometries, one.inputs, strict=True):
        assert (
            geometry.original == (300, 200)
            and pixels.shape == (*geometry.input_size[::-1], 3)
            and pixels.dtype == np.uint8
        )
    undrawn = prepare("a", tmp_path / "a.png", [Frame(64, 8), Frame(48, 16)], None)
    assert isinstance(undrawn, Prepared) and undrawn.display.size == 3 and undrawn.geometries == one.geometries
    fault = prepare("b", tmp_path / "b.png", [Frame(64, 8)], 150)
    assert isinstance(fault, Fault) and "there is no file" in fault.sentence


def test_workers_never_load_pytorch() -> None:
    code = "import sys, simpool_viz.batch.preparing as r; sys.exit('torch' in sys.modules)"
    assert (
        subprocess.run([sys.executable, "-c", code], timeout=600, cwd=Path(__file__).parent.parent.parent).returncode
        == 0
    )
