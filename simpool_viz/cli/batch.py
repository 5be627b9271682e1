"""The command `batch`: the maps of every picture in some folders."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from simpool_viz.cli.options import (
    Command,
    add_computation,
    add_drawing,
    add_out,
    add_overwrite,
    chosen_encoders,
    chosen_settings,
)
from simpool_viz.errors import PictureError


def _add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "folders", nargs="+", type=Path, metavar="FOLDER", help="pictures in any common format, subfolders included"
    )
    add_out(parser, "folder to make, or that of a run to resume")
    add_overwrite(parser, "start an earlier run in OUT over")
    add_computation(parser)
    add_drawing(parser, "none")
    parser.add_argument(
        "--batch", type=int, default=16, metavar="N", help="pictures of a forward pass (default: %(default)s)"
    )
    parser.add_argument(
        "--workers", type=int, metavar="N", help="processes that read pictures (default: half the cores)"
    )


def _run(arguments: argparse.Namespace) -> None:
    from simpool_viz.batch.boards import Job
    from simpool_viz.batch.local import run
    from simpool_viz.drawing.pixels import DrawingStyle
    from simpool_viz.maps.request import parse_maps

    requests, settings = parse_maps(arguments.map), chosen_settings(arguments)
    style = DrawingStyle(arguments.colours, arguments.opacity, arguments.smooth is not False)
    job = Job(chosen_encoders(arguments), requests, settings)
    options: dict[str, Any] = {key: getattr(arguments, key) for key in ("pictures", "batch", "workers", "overwrite")}
    report = run(job, arguments.folders, arguments.out, style, progress=True, **options)
    for note in report.notes:
        print(f"note: {note}", file=sys.stderr)
    for fault in report.faults:
        print(f"left out: {fault.sentence}", file=sys.stderr)
    made = report.done - report.earlier
    before = f", {report.earlier} were done before" if report.earlier else ""
    print(
        f"{made} pictures in {report.seconds:.1f} s, {len(report.faults)} left out{before}; {arguments.out} holds maps "
        "and pictures"
    )
    if not report.done:
        raise PictureError("none of the pictures could be read")


COMMAND = Command(
    "batch", "every picture of some folders, in batches; resumes where it was interrupted", _add_options, _run
)
