"""The command `publish`: the app as a Space."""

from __future__ import annotations

import argparse

from simpool_viz.cli.options import Command


def _add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("space", metavar="USER/SPACE", help="the Space to make or to update")
    parser.add_argument("--private", action="store_true", help="make it visible to you alone")
    parser.add_argument(
        "--upload", action="store_true", help="upload it; without this, what would be uploaded is listed with its size"
    )


def _run(arguments: argparse.Namespace) -> None:
    from simpool_viz.app.publish import check_space, prepare_copy, publish

    check_space(arguments.space)
    copy = prepare_copy()
    print("\n".join(copy.lines()), flush=True)
    if arguments.upload:
        print(f"the Space is at {publish(arguments.space, copy, private=arguments.private)}")
    else:
        print(f"nothing was uploaded; add --upload to make or update the Space {arguments.space}")


COMMAND = Command("publish", "upload this app with its bundled models as a Hugging Face Space", _add_options, _run)
