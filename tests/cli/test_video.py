"""The command `video`, from file to file."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from tests.helpers import make_photo, run_command


@pytest.fixture
def clip(tmp_path: Path) -> Path:
    wide = make_photo(140, 64)
    writer = cv2.VideoWriter(str(tmp_path / "pan.mp4"), cv2.VideoWriter_fourcc(*"mp4v"), 10, (96, 64))
    for i in range(4):
        writer.write(np.ascontiguousarray(wide[:, 8 * i : 8 * i + 96, ::-1]))
    writer.release()
    return tmp_path / "pan.mp4"


def test_video_writes_what_was_asked_for(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, clip: Path, checkpoints: dict[str, Path]
) -> None:
    out = tmp_path / "out.webm"
    given = ("video", clip, "-c", checkpoints["gap"], "-m", "contribution", "--device", "cpu", "-o", out)
    status, said, err = run_command(capsys, *given, "--shown", "both", "--seconds", 0.3)
    assert status == 0, err
    assert said.startswith("3 frames, 10 a second, in ") and "small gap: Contribution" in said
    reader = cv2.VideoCapture(str(out))
    assert [reader.read()[0] for _ in range(4)] == [True, True, True, False]
    assert (reader.get(cv2.CAP_PROP_FRAME_WIDTH), reader.get(cv2.CAP_PROP_FRAME_HEIGHT)) == (192, 64)
    status, _, err = run_command(capsys, *given)
    assert status == 2 and "already exists; add --overwrite" in err
    assert run_command(capsys, *given, "--overwrite", "--rate", 5)[0] == 0


def test_mistakes_are_told_in_a_sentence(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, clip: Path, checkpoints: dict[str, Path]
) -> None:
    status, _, err = run_command(capsys, "video", clip, "-o", tmp_path / "a.mp4")
    assert status == 2 and "name one checkpoint or several" in err
    status, _, err = run_command(capsys, "video", clip, "-c", checkpoints["gap"], "-o", tmp_path / "a.gif")
    assert status == 2 and "is written as .mp4, .webm, .webp, not as 'a.gif'" in err
    (tmp_path / "text.mp4").write_text("no video")
    status, _, err = run_command(
        capsys, "video", tmp_path / "text.mp4", "-c", checkpoints["gap"], "-o", tmp_path / "a.mp4"
    )
    assert status == 2 and "text.mp4 is not a video that can be read" in err
