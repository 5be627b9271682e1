"""The command `tour`: the guided tour as a folder."""

from __future__ import annotations

import argparse

from simpool_viz.cli.options import Command, add_device, add_out


def _add_options(parser: argparse.ArgumentParser) -> None:
    add_out(parser, "folder to make: README.md, and a folder for each stop")
    add_device(parser)


def _run(arguments: argparse.Namespace) -> None:
    from simpool_viz.export import export_tour

    folders = export_tour(arguments.out, device=arguments.device, precision=arguments.precision)
    print(f"{len(folders)} stops in {arguments.out}; open {arguments.out / 'README.md'}")


COMMAND = Command(
    "tour",
    "the guided tour: what each method does differently on one photo, and where it does not",
    _add_options,
    _run,
)
