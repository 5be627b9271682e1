"""A video of maps: every frame is what a photo of it would be, on one colour scale."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from simpool_viz import record
from simpool_viz.batch import video as module
from simpool_viz.batch.boards import Job
from simpool_viz.batch.clips import open_clip
from simpool_viz.batch.video import clip_scales, make_video
from simpool_viz.board.board import Board, Settings, record_rows
from simpool_viz.drawing.film import write_film
from simpool_viz.drawing.pixels import DrawingStyle
from simpool_viz.drawing.render import render_row
from simpool_viz.errors import MapError, OptionError
from simpool_viz.images import Picture
from simpool_viz.maps.request import parse_map
from simpool_viz.maps.scale import scale_of
from simpool_viz.modeling.encoder import Encoder
from tests.helpers import make_photo


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Five frames of a picture that pans, 96 x 64 pixels."""
    wide, path = make_photo(140, 64), tmp_path_factory.mktemp("video") / "pan.mp4"
    write_film(path, [wide[:, 8 * i : 8 * i + 96] for i in range(5)], 10)
    return path


def drawn_by(monkeypatch: pytest.MonkeyPatch, *given: object, **named: object) -> tuple[list[np.ndarray], object]:
    """The frames that `make_video` hands to the film, before they are encoded, and its report."""
    frames: list[np.ndarray] = []

    def keep(out: Path, made: object, rate: float) -> int:
        frames.extend(made)  # type: ignore[call-overload]
        return len(frames)

    monkeypatch.setattr(module, "write_film", keep)
    return frames, make_video(*given, **named)  # type: ignore[arg-type]


@pytest.mark.parametrize("shown, kinds", [("maps", [0]), ("masks", [1]), ("both", [0, 1])])
def test_frames_are_those_of_single_pictures_on_one_scale(
    monkeypatch: pytest.MonkeyPatch, path: Path, resnet: Encoder, shown: str, kinds: list[int]
) -> None:
    job, clip, style = Job([resnet], [parse_map("pooling")], Settings(size=64)), open_clip(path), DrawingStyle()
    frames, report = drawn_by(monkeypatch, job, clip, Path("a.mp4"), shown=shown, batch=2)
    pictures = [Picture(frame, "pan.mp4") for frame in clip.frames()]
    rows = [record_rows(record(resnet, one, 64), job.requests, job.settings)[0][0] for one in pictures]
    scales = [scale_of(row.mask.weights, "uniform") for row in rows]
    highest = max(scale.high for scale in scales)
    assert len(frames) == len(rows) == report.frames == 5 and len({scale.high for scale in scales}) > 1  # type: ignore[attr-defined]
    for frame, picture, row, (one,) in zip(
        frames, pictures, rows, clip_scales([[r] for r in rows], style), strict=True
    ):
        assert (one.low, one.high) == (0.0, highest)
        tiles = render_row(Board([picture], [row], {}, [], job.settings), row, one, style)
        expected = np.concatenate([tiles[kind] for kind in kinds], axis=1)
        difference = np.abs(frame.astype(int) - expected)  # a batch rounds other last bits than a single picture
        assert frame.shape == expected.shape == (64, 96 * len(kinds), 3) and (difference > 2).mean() < 0.002


def test_checkpoints_stand_side_by_side_under_their_titles(
    monkeypatch: pytest.MonkeyPatch, path: Path, resnet: Encoder, vit: Encoder
) -> None:
    job = Job([resnet, vit], [parse_map("pooling"), parse_map("cls")], Settings(size=64))
    steps: list[tuple[int, int | None, str]] = []
    frames, report = drawn_by(
        monkeypatch, job, open_clip(path), Path("a.webm"), batch=4, longest=48, step=lambda *one: steps.append(one)
    )
    count = len(report.rows)  # type: ignore[attr-defined]
    assert count >= 2 and report.skipped == [s for s in report.skipped if "has no" in s] != []  # type: ignore[attr-defined]
    assert all(frame.shape[1:] == (48 * count, 3) and frame.shape[0] > 32 + 20 for frame in frames)
    assert (frames[0][:26].min(axis=(1, 2)) < 100).any(), "titles in ink"
    assert steps[0] == (4, 10, "recording") and steps[-1] == (10, 10, "drawing")


def test_a_shared_scale_holds_for_all_rows_of_the_clip(path: Path, resnet: Encoder) -> None:
    rows = []
    for frame in list(open_clip(path).frames())[:3]:
        recording = record(resnet, Picture(frame, "a"), 64)
        rows.append(record_rows(recording, [parse_map("pooling"), parse_map("pooling")], Settings(size=64))[0])
    alone, shared = clip_scales(rows, DrawingStyle()), clip_scales(rows, DrawingStyle(shared_scale=True))
    assert [len(frame) for frame in shared] == [2, 2, 2]
    assert {scale.high for frame in shared for scale in frame} == {max(s.high for frame in alone for s in frame)}


def test_a_real_file_is_written_and_read_again(tmp_path: Path, path: Path, resnet: Encoder) -> None:
    job = Job([resnet], [parse_map("pooling")], Settings(size=64))
    report = make_video(job, open_clip(path, 5), tmp_path / "out.mp4", shown="both")
    made = open_clip(tmp_path / "out.mp4")
    assert (report.frames, report.rate, made.size, made.rate) == (3, 5, (192, 64), 5)
    assert len(list(made.frames())) == 3 and [p.name for p in tmp_path.iterdir()] == ["out.mp4"]


def test_wrong_requests_are_refused_and_leave_nothing(tmp_path: Path, path: Path, resnet: Encoder) -> None:
    job, clip = Job([resnet], [parse_map("pooling")], Settings(size=64)), open_clip(path)
    with pytest.raises(OptionError, match="a video shows maps, masks, both, not 'mask'"):
        make_video(job, clip, tmp_path / "a.mp4", shown="mask")
    with pytest.raises(OptionError, match=r"not as 'a\.avi'"):
        make_video(job, clip, tmp_path / "a.avi")
    with pytest.raises(OptionError, match="must be positive"):
        make_video(job, clip, tmp_path / "a.mp4", batch=0)
    with pytest.raises(MapError, match="none of these checkpoints has any of these maps"):
        make_video(Job([resnet], [parse_map("cls")]), clip, tmp_path / "a.mp4")
    assert list(tmp_path.iterdir()) == []
