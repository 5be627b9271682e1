"""The command `batch`: the maps of every picture of folders, lists, shards, archives and object storage."""

from __future__ import annotations

import argparse
import sys
from typing import Any

from simpool_viz.cli.options import (
    Command,
    add_computation,
    add_drawing,
    add_engine,
    add_out,
    add_overwrite,
    chosen_encoders,
    chosen_engine,
    chosen_settings,
)
from simpool_viz.errors import OptionError, PictureError

WRITTEN = {"files": "a file of maps and drawn pictures for each photo", "parquet": "rows of maps and masks in parts"}


def _add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "inputs",
        nargs="+",
        metavar="INPUT",
        help="a folder (subfolders included), a picture, a list (.txt, a path a line), a parquet file, a ZIP or a tar; "
        "by its path, or an address such as s3://bucket/photos",
    )
    add_out(parser, "folder to make, or that of a run to resume")
    add_overwrite(parser, "start an earlier run in OUT over")
    add_computation(parser)
    add_drawing(parser, "none")
    parser.add_argument(
        "--write",
        choices=WRITTEN,
        default="files",
        help="; ".join(f"{name}: {what}" for name, what in WRITTEN.items()) + " (default: %(default)s)",
    )
    parser.add_argument(
        "--batch", type=int, default=16, metavar="N", help="pictures of a forward pass (default: %(default)s)"
    )
    parser.add_argument(
        "--part", type=int, metavar="N", help="pictures of a parquet file (default: 512, or 64 with --pictures)"
    )
    parser.add_argument(
        "--workers", type=int, metavar="N", help="processes that read pictures (default: half the cores)"
    )
    add_engine(parser, "with --write parquet")


def _run(arguments: argparse.Namespace) -> None:
    from simpool_viz.drawing.pixels import DrawingStyle
    from simpool_viz.maps.request import parse_maps

    parquet = arguments.write == "parquet"
    if not parquet and (arguments.engine != "local" or arguments.part is not None):
        raise OptionError("--engine ray and --part go with --write parquet")
    cluster = chosen_engine(arguments, arguments.workers)
    requests, settings = parse_maps(arguments.map), chosen_settings(arguments)
    style = DrawingStyle(arguments.colours, arguments.opacity, arguments.smooth is not False)
    encoders = chosen_encoders(arguments)
    options: dict[str, Any] = {"batch": arguments.batch, "overwrite": arguments.overwrite, "progress": True}
    if parquet:
        from simpool_viz.batch.rows import write_batch

        options |= {"part": arguments.part, "cluster": cluster, "pictures": arguments.pictures or "none"}
        report = write_batch(arguments.inputs, encoders, arguments.out, requests, settings, drawn=style, **options)
    else:
        from simpool_viz.batch.boards import Job
        from simpool_viz.batch.local import run

        options |= {"workers": arguments.workers, "pictures": arguments.pictures or "jpeg"}
        report = run(Job(encoders, requests, settings), arguments.inputs, arguments.out, style, **options)
    for note in report.notes:
        print(f"note: {note}", file=sys.stderr)
    for fault in report.faults:
        print(f"left out: {fault.sentence}", file=sys.stderr)
    made = report.done - report.earlier
    before = f", {report.earlier} were done before" if report.earlier else ""
    holds = "rows in parquet files" if parquet else "maps and pictures"
    print(
        f"{made} pictures in {report.seconds:.1f} s, {len(report.faults)} left out{before}; {arguments.out} holds "
        f"{holds}"
    )
    if not report.done:
        raise PictureError("none of the pictures could be read")


COMMAND = Command(
    "batch",
    "every picture of folders, lists, shards or archives, in batches; resumes where it was interrupted",
    _add_options,
    _run,
)
