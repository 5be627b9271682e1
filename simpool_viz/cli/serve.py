"""The command `serve`: the app in the browser."""

from __future__ import annotations

import argparse
import os
import shutil
import sys
from pathlib import Path

from simpool_viz.cli.options import Command, add_device
from simpool_viz.errors import OptionError


def _add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--host", help="address to listen on (default: GRADIO_SERVER_NAME, which Spaces set, or 127.0.0.1)"
    )
    parser.add_argument("--port", type=int, help="port (default: the first free one from 7860)")
    parser.add_argument(
        "--auth",
        action="append",
        default=[],
        metavar="USER:PASSWORD",
        help="who may log in; repeat for more, or @FILE with one a line, which the list of processes does not show",
    )
    parser.add_argument(
        "--root-path", metavar="PATH", help="path or address under which a reverse proxy shows the app, such as /viz"
    )
    parser.add_argument(
        "--trusted-proxy",
        action="append",
        default=[],
        metavar="ADDRESS",
        help=(
            "address or network of a proxy whose X-Forwarded-For tells visitors apart, for their limits; repeat for "
            "more (default: every private address)"
        ),
    )
    parser.add_argument(
        "--warm", action="store_true", help="load the models before the address is printed, not when they are chosen"
    )
    parser.add_argument(
        "--grace",
        type=float,
        default=6.0,
        metavar="SECONDS",
        help="how long requests have to finish once the server is asked to end (default: 6)",
    )
    parser.add_argument(
        "--mcp", action="store_true", help="offer the endpoints as tools of the Model Context Protocol too"
    )
    parser.add_argument(
        "--share", action="store_true", help="also give the app a public address for a week, through Gradio's servers"
    )
    add_device(parser)


def _run(arguments: argparse.Namespace) -> None:
    if arguments.port is not None and not 0 < arguments.port < 65_536:
        raise OptionError(f"a port lies between 1 and 65535, not {arguments.port}")
    if not 0 <= arguments.grace <= 3600:
        raise OptionError(f"--grace takes 0 to 3600 seconds, not {arguments.grace:g}")
    users = _users(arguments.auth)
    if arguments.mcp and users:
        raise OptionError("--mcp and --auth exclude each other, since a tool cannot log in; leave one of them out")
    from simpool_viz.app.guard import networks
    from simpool_viz.app.launch import serve
    from simpool_viz.app.logs import begin_log
    from simpool_viz.app.tools import check_installed

    try:
        proxies = networks(arguments.trusted_proxy)
    except ValueError as error:
        raise OptionError(f"--trusted-proxy takes an address or a network such as 10.0.0.0/8: {error}") from error
    if arguments.mcp:
        check_installed()
    begin_log()
    where = {
        "host": arguments.host,
        "port": arguments.port,
        "device": arguments.device,
        "precision": arguments.precision,
    }
    how = {"root_path": arguments.root_path, "share": arguments.share, "mcp_server": arguments.mcp or None}
    told = {"warm": arguments.warm, "proxies": proxies, "patience": arguments.grace}
    serve(**where, **told, auth=users or None, **how)
    if folder := os.environ.get("GRADIO_TEMP_DIR"):
        _delete(Path(folder))
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)  # not by way of Python's own end: a model that runs in another thread would abort it


def _delete(folder: Path) -> None:
    """Delete visitors' photos, where the folder is the one that `launch` made."""
    if folder.name.startswith("simpool_viz-"):
        shutil.rmtree(folder, ignore_errors=True)


def _users(given: list[str]) -> list[tuple[str, str]]:
    """Names and passwords.

    Raises:
        OptionError: one that is not written USER:PASSWORD.
        OSError: the file cannot be read.
    """
    lines: list[str] = []
    for one in given:
        text = Path(one[1:]).read_text(encoding="utf-8").splitlines() if one.startswith("@") else [one]
        lines += [line for line in text if line.strip()]
    users = []
    for line in lines:
        user, colon, password = line.partition(":")
        if not (user and colon and password):
            raise OptionError("--auth takes USER:PASSWORD, or @FILE with one of these a line")
        users.append((user, password))
    if given and not users:
        raise OptionError("--auth names nobody, so nobody could log in")
    return users


COMMAND = Command("serve", "start the app in the browser", _add_options, _run)
