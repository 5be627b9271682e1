"""The command `serve`: the app in the browser."""

from __future__ import annotations

import argparse
import logging
import signal
import sys

from simpool_viz.cli.options import Command, add_device
from simpool_viz.errors import OptionError


def _add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--host", help="address to listen on (default: GRADIO_SERVER_NAME, which Spaces set, or 127.0.0.1)"
    )
    parser.add_argument("--port", type=int, help="port (default: the first free one from 7860)")
    add_device(parser)


def _run(arguments: argparse.Namespace) -> None:
    if arguments.port is not None and not 0 < arguments.port < 65_536:
        raise OptionError(f"a port lies between 1 and 65535, not {arguments.port}")
    from simpool_viz.app.launch import launch

    logging.basicConfig(format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))  # an orderly end, so that visitors' photos are deleted
    launch(host=arguments.host, port=arguments.port, device=arguments.device)


COMMAND = Command("serve", "start the app in the browser", _add_options, _run)
