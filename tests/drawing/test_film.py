"""Films as other programs read them."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from simpool_viz.drawing.film import FILMS, write_film
from simpool_viz.errors import OptionError


def greys(count: int, width: int = 61, height: int = 40) -> list[np.ndarray]:
    """Even frames, each a little brighter and redder than the one before."""
    return [np.full((height, width, 3), (30 + 20 * i, 30 + 10 * i, 40), np.uint8) for i in range(count)]


@pytest.mark.parametrize("suffix", [".mp4", ".webm"])
def test_a_video_has_its_frames_rate_and_size_for_another_reader(tmp_path: Path, suffix: str) -> None:
    frames = greys(7)
    assert write_film(tmp_path / f"a{suffix}", iter(frames), 12.5) == 7
    reader = cv2.VideoCapture(str(tmp_path / f"a{suffix}"))
    assert reader.get(cv2.CAP_PROP_FPS) == pytest.approx(12.5)
    for frame in frames:
        there, bgr = reader.read()
        assert there and bgr.shape == (40, 60, 3), "an odd column is cut off"
        assert np.abs(bgr[..., ::-1].mean((0, 1)) - frame[0, 0]).max() < 8
    assert not reader.read()[0]


def test_an_animation_has_its_frames_and_durations(tmp_path: Path) -> None:
    frames = greys(5)
    write_film(tmp_path / "a.webp", frames, 4)
    with Image.open(tmp_path / "a.webp") as film:
        assert (film.n_frames, film.size) == (5, (61, 40))  # type: ignore[attr-defined]
        for i, frame in enumerate(frames):
            film.seek(i)
            assert np.abs(np.asarray(film.convert("RGB")).mean((0, 1)) - frame[0, 0]).max() < 8
            assert film.info["duration"] == 250


@pytest.mark.parametrize("name, rate, count, said", [
    ("a.avi", 5, 2, "is written as .mp4, .webm, .webp, not as 'a.avi'"),
    ("a", 5, 2, "not as 'a'"),
    ("a.mp4", 0, 2, "positive number of frames a second, not 0"),
    ("a.webm", 5, 0, "at least one frame"),
    ("a.webp", 5, 401, "at most 400 frames"),
])  # fmt: skip
def test_what_cannot_be_written_is_refused_and_leaves_nothing(
    tmp_path: Path, name: str, rate: float, count: int, said: str
) -> None:
    with pytest.raises(OptionError, match=said):
        write_film(tmp_path / name, [np.zeros((8, 8, 3), np.uint8)] * count, rate)
    assert list(tmp_path.iterdir()) == [] and FILMS == (".mp4", ".webm", ".webp")


def test_a_film_that_fails_midway_leaves_nothing(tmp_path: Path) -> None:
    def frames():  # type: ignore[no-untyped-def]
        yield from greys(3)
        raise KeyError("the model")

    with pytest.raises(KeyError, match="the model"):
        write_film(tmp_path / "a.mp4", frames(), 5)
    assert list(tmp_path.iterdir()) == []
