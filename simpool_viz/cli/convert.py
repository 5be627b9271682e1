"""The command `convert`: a training checkpoint -> a small file that gives the same maps."""

from __future__ import annotations

import argparse
from pathlib import Path

from simpool_viz.cli.options import Command, add_overwrite
from simpool_viz.errors import OptionError


def _add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "source", metavar="SRC", help="a checkpoint file of any kind that loads, with its options: a.pth?num_heads=6"
    )
    parser.add_argument("target", type=Path, metavar="DST", help="the .safetensors file to write")
    parser.add_argument("--weights", default="", help="another entry of SRC than the usual one, such as student")
    add_overwrite(parser, "replace DST where it exists")


def _run(arguments: argparse.Namespace) -> None:
    from simpool_viz.checkpoints.files import convert
    from simpool_viz.checkpoints.formats.parts import split_options

    if arguments.target.exists() and not arguments.overwrite:
        raise OptionError(f"{arguments.target} exists; add --overwrite to replace it")
    source, options = split_options(arguments.source)
    which = arguments.weights or str(options.pop("weights", ""))
    report = convert(Path(source), arguments.target, which, **options)
    before, after = (Path(path).stat().st_size / 2**20 for path in (source, arguments.target))
    print("\n".join([*report.lines(), f"{arguments.target}: {after:.1f} MB instead of {before:.1f} MB"]))


COMMAND = Command(
    "convert",
    "a training checkpoint -> a small .safetensors file that gives the same maps",
    _add_options,
    _run,
)
