"""Videos of other writers as frames: which ones are taken, how they are turned, and what is refused."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from simpool_viz.batch.clips import open_clip
from simpool_viz.errors import OptionError, PictureError

WIDTH, HEIGHT = 64, 48


def write(path: Path, count: int, rate: float, code: str = "mp4v") -> Path:
    """A video whose frame i is the grey 10 + 8 i, with a white corner at the top left, written by OpenCV."""
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*code), rate, (WIDTH, HEIGHT))
    for i in range(count):
        frame = np.full((HEIGHT, WIDTH, 3), 10 + 8 * i, np.uint8)
        frame[:16, :16] = 255
        writer.write(frame)
    writer.release()
    return path


def numbers(path: Path, rate: float | None = None, seconds: float | None = None) -> list[int]:
    """Which frames of a video by `write` are taken."""
    return [round((frame[30:, 30:].mean() - 10) / 8) for frame in open_clip(path, rate, seconds).frames()]


@pytest.mark.parametrize("name, code", [("a.mp4", "mp4v"), ("a.avi", "MJPG"), ("a.mkv", "MJPG")])
def test_every_frame_is_taken_by_default(tmp_path: Path, name: str, code: str) -> None:
    clip = open_clip(write(tmp_path / name, 12, 10, code))
    assert (clip.size, clip.rate, clip.count, clip.cut) == ((WIDTH, HEIGHT), 10, 12, False)
    assert numbers(tmp_path / name) == list(range(12))


def test_fewer_frames_are_those_shown_at_even_steps(tmp_path: Path) -> None:
    write(tmp_path / "a.mp4", 25, 10)
    assert numbers(tmp_path / "a.mp4", rate=5) == list(range(0, 25, 2))
    assert numbers(tmp_path / "a.mp4", rate=4) == [0, 2, 5, 7, 10, 12, 15, 17, 20, 22]
    assert numbers(tmp_path / "a.mp4", rate=60) == list(range(25)), "no frame is invented"
    assert numbers(tmp_path / "a.mp4", seconds=0.5) == [0, 1, 2, 3, 4]
    clip = open_clip(tmp_path / "a.mp4", 5, 1.2)
    assert (clip.count, clip.cut, clip.duration) == (6, True, 2.5)
    assert numbers(tmp_path / "a.mp4", 5, 1.2) == [0, 2, 4, 6, 8, 10]


def test_a_frame_that_rests_is_repeated(tmp_path: Path) -> None:
    pages = [Image.new("RGB", (WIDTH, HEIGHT), (v, v, v)) for v in (10, 90, 250)]
    pages[0].save(tmp_path / "a.gif", save_all=True, append_images=pages[1:], duration=[100, 500, 100])
    frames = [round(float(frame.mean()), -1) for frame in open_clip(tmp_path / "a.gif", 10).frames()]
    assert frames[:7] == [10, 90, 90, 90, 90, 90, 250]


@pytest.mark.parametrize("matrix, turns", [([0, 1, -1, 0], 3), ([-1, 0, 0, -1], 2), ([0, -1, 1, 0], 1)])
def test_a_phone_s_video_is_set_upright(tmp_path: Path, matrix: list[int], turns: int) -> None:
    path = write(tmp_path / "a.mp4", 2, 10)
    data = bytearray(path.read_bytes())
    place = data.index(b"tkhd") + 4 + 40  # of the matrix a b u c d v x y w in a header of version 0
    for at, value in zip((0, 4, 12, 16), matrix, strict=True):
        data[place + at : place + at + 4] = (value * 65536).to_bytes(4, "big", signed=True)
    path.write_bytes(data)
    clip = open_clip(path)
    expected = cv2.VideoCapture(str(path)).read()[1][..., ::-1]  # OpenCV turns it as players do
    frame = next(clip.frames())
    assert clip.size == (frame.shape[1], frame.shape[0]) == ((WIDTH, HEIGHT), (HEIGHT, WIDTH))[turns % 2]
    assert frame.shape == expected.shape and np.abs(frame.astype(int) - expected).mean() < 3
    corner = np.rot90(np.arange(4).reshape(2, 2), turns)  # where the corner 0 comes to lie
    row, column = (int(v[0]) for v in np.where(corner == 0))
    assert frame[(0, -1)[row], (0, -1)[column]].min() > 200


def test_a_video_that_is_cut_off_is_taken_as_far_as_it_goes(tmp_path: Path) -> None:
    path = write(tmp_path / "a.avi", 12, 10, "MJPG")
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) * 17 // 20])
    assert 2 < len(numbers(path)) < 12


@pytest.mark.parametrize("content, said", [
    (b"", "a.mp4 is empty"),
    (b"not a video at all, but long enough to be looked into" * 40, "a.mp4 is not a video that can be read"),
    (b"#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\nother.mp4\n#EXT-X-ENDLIST\n", "is not a video"),
    (b"ffconcat version 1.0\nfile other.mp4\n", "is not a video"),
])  # fmt: skip
def test_what_is_no_video_is_refused_playlists_too(tmp_path: Path, content: bytes, said: str) -> None:
    write(tmp_path / "other.mp4", 3, 10)
    (tmp_path / "a.mp4").write_bytes(content)
    with pytest.raises(PictureError, match=said):
        list(open_clip(tmp_path / "a.mp4").frames())


def test_wrong_requests_are_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "a.mp4", 3, 10)
    with pytest.raises(FileNotFoundError, match="there is no file"):
        open_clip(tmp_path / "b.mp4")
    with pytest.raises(PictureError, match="is a folder"):
        open_clip(tmp_path)
    with pytest.raises(OptionError, match="the number of frames a second must be positive, not 0"):
        open_clip(path, rate=0)
    with pytest.raises(OptionError, match="the number of seconds must be positive, not -1"):
        open_clip(path, seconds=-1)
