"""The Video page without a browser."""

from __future__ import annotations

from pathlib import Path

import gradio as gr
import numpy as np
import pytest

from simpool_viz.app import video as module
from simpool_viz.app.own_checkpoint import OwnCheckpoints
from simpool_viz.app.video import VideoPage
from simpool_viz.batch.clips import open_clip
from simpool_viz.drawing.film import write_film
from simpool_viz.modeling.encoder import Encoder
from tests.helpers import make_photo


@pytest.fixture
def clip(tmp_path: Path) -> str:
    wide = make_photo(140, 64)
    write_film(tmp_path / "pan.mp4", [wide[:, 4 * i : 4 * i + 96] for i in range(10)], 10)
    return str(tmp_path / "pan.mp4")


@pytest.fixture
def page(resnet: Encoder) -> VideoPage:
    page = VideoPage([("ResNet", "resnet")], ["resnet"], {"own": "own"}, lambda name, own: resnet)
    with gr.Blocks():
        page.build(gr.State(OwnCheckpoints()))
    return page


class Told(gr.Progress):
    """Keeps what the page says of its progress."""

    def __init__(self) -> None:
        super().__init__()
        self.told: list[tuple[object, str | None]] = []

    def __call__(self, progress: object, desc: str | None = None, **_: object) -> None:  # type: ignore[override]
        self.told.append((progress, desc))


def test_a_video_is_made_and_says_what_it_shows(page: VideoPage, clip: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SECONDS", 0.8)
    progress = Told()
    made, said = page.make(clip, ["resnet"], "own", "both", 5, ".webm", OwnCheckpoints(), progress)
    film = open_clip(made["value"])
    frames = list(film.frames())
    assert (
        made["visible"]
        and (len(frames), film.size, film.rate) == (4, (192, 64), 5)
        and Path(made["value"]).name == "pan.both.webm"
    )
    assert not np.array_equal(frames[0], frames[-1])
    assert (
        said.startswith("4 frames, 5 a second, made in ")
        and "Of the 1 s of the video the first 0.8 s are shown." in said
    )
    assert said.endswith("small simpool: Pooling attention.")
    assert progress.told[0] == ((4, 8), "Recording frames") and progress.told[-1] == ((8, 8), "Drawing frames")


def test_what_is_missing_or_beyond_the_bounds_is_told(page: VideoPage, clip: str, tmp_path: Path) -> None:
    own = OwnCheckpoints()
    with pytest.raises(gr.Error, match="Choose a video first"):
        page.make(None, ["resnet"], "own", "maps", 5, ".mp4", own)
    with pytest.raises(gr.Error, match="Choose at least one checkpoint"):
        page.make(clip, [], "own", "maps", 5, ".mp4", own)
    for checkpoints, rate, suffix in ((["resnet"] * 4, 5, ".mp4"), (["resnet"], 16, ".mp4"), (["resnet"], 5, ".exe")):
        with pytest.raises(gr.Error, match="at most 3 checkpoints at 15 frames a second"):
            page.make(clip, checkpoints, "own", "maps", rate, suffix, own)
    (tmp_path / "text.mp4").write_text("no video")
    with pytest.raises(gr.Error, match=r"text\.mp4 is not a video that can be read"):
        page.make(str(tmp_path / "text.mp4"), ["resnet"], "own", "maps", 5, ".mp4", own)
