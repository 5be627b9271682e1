"""The command `publish`: the app as a Space."""

from __future__ import annotations

import argparse

from simpool_viz.cli.options import Command


def _add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("space", metavar="USER/SPACE", help="the Space to make or to update")
    parser.add_argument("--private", action="store_true", help="make it visible to you alone")


def _run(arguments: argparse.Namespace) -> None:
    from simpool_viz.app.publish import publish

    print(f"the Space is at {publish(arguments.space, private=arguments.private)}")


COMMAND = Command("publish", "upload this app with its bundled models as a Hugging Face Space", _add_options, _run)
