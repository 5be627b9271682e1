"""The command `video`: a video in, its maps or masks as a video out."""

from __future__ import annotations

import argparse
from pathlib import Path

from simpool_viz.cli.options import Command, add_computation, add_drawing, add_out, chosen_encoders, chosen_settings
from simpool_viz.errors import OptionError

DESCRIPTION = """\
A video in, its maps or object masks as a video out, those of several checkpoints side by side.

  simpool-viz video street.mp4 -c vit_simpool -o street_maps.mp4
  simpool-viz video street.mp4 -c vit_gap -c vit_simpool --shown both --rate 10 --seconds 20 -o side_by_side.webm

The suffix of OUT chooses the format: .mp4 (H.264) and .webm (VP9), which browsers play, or .webp (an animation). One
colour scale holds for the whole video. A map of a class follows the class that each frame is predicted as; name one to
hold it (-m contribution:classes=tench).
"""


def _add_options(parser: argparse.ArgumentParser) -> None:
    from simpool_viz.batch.video import LONGEST, SHOWN

    parser.add_argument("video", type=Path, metavar="VIDEO", help="MP4, WebM, MOV, AVI, an animated GIF, ...")
    add_out(parser, "file to write: .mp4, .webm or .webp")
    parser.add_argument("--overwrite", action="store_true", help="replace OUT")
    parser.add_argument("--shown", choices=SHOWN, default="maps", help="(default: %(default)s)")
    parser.add_argument("--rate", type=float, metavar="N", help="frames per second (default: all of the video)")
    parser.add_argument("--seconds", type=float, metavar="N", help="only the first N seconds (default: all)")
    parser.add_argument(
        "--longest", type=int, default=LONGEST, metavar="PX", help="longer side of a frame (default: %(default)s)"
    )
    add_computation(parser)
    add_drawing(parser)
    parser.add_argument(
        "--batch", type=int, default=8, metavar="N", help="frames of a forward pass (default: %(default)s)"
    )


def _run(arguments: argparse.Namespace) -> None:
    from tqdm import tqdm

    from simpool_viz.batch.boards import Job
    from simpool_viz.batch.clips import open_clip
    from simpool_viz.batch.video import make_video
    from simpool_viz.drawing.film import check_film
    from simpool_viz.drawing.pixels import DrawingStyle
    from simpool_viz.maps.request import parse_maps

    if not arguments.checkpoint:
        raise OptionError("name one checkpoint or several to stand side by side, such as -c vit_simpool")
    check_film(arguments.out)
    if arguments.out.exists() and not arguments.overwrite:
        raise FileExistsError(f"{arguments.out} already exists; add --overwrite to replace it")
    clip = open_clip(arguments.video, arguments.rate, arguments.seconds)
    requests, settings = parse_maps(arguments.map), chosen_settings(arguments)
    style = DrawingStyle(arguments.colours, arguments.opacity, arguments.smooth is not False)
    job = Job(chosen_encoders(arguments), requests, settings)
    with tqdm(desc="recording", unit="step") as bar:

        def step(done: int, total: int | None, what: str) -> None:
            bar.total = total
            bar.set_description(what)
            bar.update(done - bar.n)

        report = make_video(
            job,
            clip,
            arguments.out,
            style,
            shown=arguments.shown,
            batch=arguments.batch,
            longest=arguments.longest,
            step=step,
        )
    for sentence in report.skipped:
        print(f"note: {sentence}")
    recorded, drawn = report.seconds
    print(
        f"{report.frames} frames, {report.rate:g} a second, in {recorded + drawn:.1f} s (recording {recorded:.1f}, "
        f"drawing {drawn:.1f}); {arguments.out} shows {', '.join(report.rows)}"
    )


COMMAND = Command("video", "a video in, its maps or masks as a video out", _add_options, _run, DESCRIPTION)
