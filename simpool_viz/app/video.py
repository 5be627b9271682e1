"""The Video page: a clip in, its maps or masks as a video out."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gradio as gr

from simpool_viz.app.events import checked_number, event_handler, refusal
from simpool_viz.app.own_checkpoint import OwnCheckpoints
from simpool_viz.app.visits import upload_folder
from simpool_viz.batch.boards import Job
from simpool_viz.batch.clips import CLIPS, Clip, open_clip
from simpool_viz.batch.video import SHOWN, VideoReport, make_video
from simpool_viz.board.board import Settings
from simpool_viz.errors import OptionError
from simpool_viz.maps.registry import OWN
from simpool_viz.maps.request import parse_maps
from simpool_viz.modeling.encoder import Encoder

SECONDS = 20  # of a clip that are taken at most,
MOST_RATE = 15  # frames a second,
MOST_CHECKPOINTS = 3  # and checkpoints side by side
FORMATS = {"MP4 (H.264)": ".mp4", "WebM (VP9)": ".webm"}


class VideoPage:
    """Builds the page's controls inside a `gr.Blocks` and answers its event.

    Args:
        choices: (title, name) of the checkpoints.
        first: names of those that are chosen at first.
        maps: titles by name.
        find: an encoder by name, the visitor's own among them.
    """

    def __init__(
        self,
        choices: list[tuple[str, str]],
        first: list[str],
        maps: dict[str, str],
        find: Callable[[str, OwnCheckpoints | None], Encoder],
    ) -> None:
        self.choices, self.first, self.maps, self.find = choices, first, maps, find

    @event_handler
    def make(
        self,
        clip: str | None,
        checkpoints: list[str],
        chosen: str,
        shown: str,
        rate: float,
        suffix: str,
        own: OwnCheckpoints,
        progress: gr.Progress = gr.Progress(),  # noqa: B008 (how Gradio finds it)
    ) -> tuple[Any, str]:
        """The video of maps, and what it shows in words."""
        for value, sentence in ((clip, "Choose a video first."), (checkpoints, "Choose at least one checkpoint.")):
            if not value:
                raise refusal(sentence)
        rate = checked_number(rate, "the number of frames a second")
        if len(checkpoints) > MOST_CHECKPOINTS or not 0 < rate <= MOST_RATE or suffix not in FORMATS.values():
            raise OptionError(
                f"here a video shows at most {MOST_CHECKPOINTS} checkpoints at {MOST_RATE} frames a second; "
                "the command `simpool-viz video` has no such limits"
            )
        opened = open_clip(str(clip), rate, SECONDS)
        job = Job([self.find(str(name), own) for name in checkpoints], parse_maps([str(chosen)]), Settings())
        folder = Path(tempfile.mkdtemp(dir=upload_folder()))
        out = folder / f"{opened.path.stem}.{shown}{suffix}"

        def step(done: int, total: int | None, what: str) -> None:
            progress((done, total), desc=f"{what.capitalize()} frames", unit="steps")

        report = make_video(job, opened, out, shown=str(shown), step=step)
        return gr.update(value=str(out), visible=True), sentences_of(opened, report)

    def build(self, own: gr.State) -> VideoPage:
        """Create the components and connect their event.

        Args:
            own: state that holds the visitor's own checkpoints, an `OwnCheckpoints`.

        Returns:
            The page itself.
        """
        with gr.Row():
            with gr.Column(scale=1, min_width=300):
                sources: Any = ["upload", "webcam"]
                clip = gr.Video(
                    sources=sources,
                    label=f"Video ({', '.join(kind[1:] for kind in CLIPS)}; its first {SECONDS} seconds are taken)",
                    height=280,
                    elem_id="clip",
                )
                self.checkpoints = gr.Dropdown(
                    self.choices,
                    value=self.first,
                    multiselect=True,
                    max_choices=MOST_CHECKPOINTS,
                    label="Checkpoints",
                    info="Several stand side by side.",
                    elem_id="video-checkpoints",
                )
                maps = [(title, name) for name, title in self.maps.items()]
                chosen = gr.Dropdown(maps, value=OWN, label="Map", elem_id="video-map")
                shown = gr.Radio(
                    [(title, name) for name, title in SHOWN.items()], value="maps", label="Shown", elem_id="video-shown"
                )
                rate = gr.Slider(1, MOST_RATE, 10, step=1, label="Frames a second", elem_id="video-rate")
                suffix = gr.Radio(list(FORMATS.items()), value=".mp4", label="Format", elem_id="video-format")
                run = gr.Button("Make the video", variant="primary", elem_id="video-run")
            with gr.Column(scale=3):
                gr.Markdown(
                    "Every frame goes through the model; one colour scale holds from the first to the last, so that "
                    "equal colours are equal values. A map of a class follows the class that each frame is predicted "
                    "as.",
                    elem_classes="simpool-intro",
                )
                # Gradio's empty player has no name for screen readers, so it comes with the first video.
                made = gr.Video(
                    label="Maps",
                    interactive=False,
                    autoplay=True,
                    loop=True,
                    height=520,
                    visible=False,
                    elem_id="video-made",
                )
                said = gr.Markdown("Choose a video and press *Make the video*.", min_height=120, elem_id="video-said")
        run.click(
            self.make,
            [clip, self.checkpoints, chosen, shown, rate, suffix, own],
            [made, said],
            concurrency_id="video",
            concurrency_limit=1,
            show_progress="full",
            show_progress_on=said,
            api_visibility="private",
        )
        return self


def sentences_of(clip: Clip, report: VideoReport) -> str:
    """What a video shows, in a few sentences."""
    text = f"{report.frames} frames, {report.rate:g} a second, made in {sum(report.seconds):.0f} s. "
    if clip.cut:
        text += f"Of the {clip.duration:.0f} s of the video the first {clip.seconds:g} s are shown. "
    text += f"From left to right: {', '.join(report.rows)}." if len(report.rows) > 1 else f"{report.rows[0]}."
    return " ".join([text, *report.skipped])
