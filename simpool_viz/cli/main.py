"""The command line, simpool-viz.

Each command is a file beside this one. None computes anything itself, and nothing heavy is imported before a command is
chosen. A mistake of the user (`SimpoolError`, `OSError`) is reported in one sentence, with exit status 2. Anything else
is a bug, with exit status 1. `--traceback`, which every command takes, prints where either was raised.
"""

from __future__ import annotations

import argparse
import sys
import traceback
from collections.abc import Sequence
from typing import Any

from simpool_viz import __version__
from simpool_viz.cli import batch, compare, convert, evaluate, inspect, publish, retrieve, serve, tour, train, video
from simpool_viz.cli import list as listing
from simpool_viz.cli.options import Command
from simpool_viz.errors import SimpoolError, where_to_report

COMMANDS = tuple(
    module.COMMAND
    for module in (listing, compare, inspect, tour, batch, video, evaluate, retrieve, train, convert, publish, serve)
)


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command.

    Args:
        argv: the arguments after the program's name; those of the process by default.

    Returns:
        The exit status: 0, 2 after what the user gave was refused, 1 after a bug, 130 after an interrupt.
    """
    wanted = False
    try:
        arguments = _parser().parse_args(argv)
        arguments.words = list(sys.argv[1:] if argv is None else argv)
        wanted = arguments.traceback
        arguments.run(arguments)
    except (SimpoolError, OSError) as error:
        return _fail(2, str(error), wanted)
    except KeyboardInterrupt:
        return _fail(130, "stopped", False)
    except Exception as error:
        shown = "with the trace above" if wanted else "with what the same command prints with --traceback"
        cause = f"{type(error).__name__}: {error}".rstrip(": ").replace("\n", " ")
        ours = f"this is a fault of ours, not of what you gave; please report it at {where_to_report()}, {shown}"
        return _fail(1, f"{ours} ({cause})", wanted)
    return 0


def _fail(status: int, sentence: str, trace: bool) -> int:
    if trace:
        traceback.print_exc()
    print(f"simpool-viz: {sentence}", file=sys.stderr)
    return status


class _CommandParser(argparse.ArgumentParser):
    """Adds its command's options when it is first used, so that only what the chosen command needs is imported."""

    command: Command | None = None

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        command, self.command = self.command, None
        if command is not None:
            command.add_options(self)
            self.add_argument("--traceback", action="store_true", help="print where an error was raised")
        return super().parse_known_args(args, namespace)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        "simpool-viz", description="Attention maps of vision models, and how pooling changes them."
    )
    parser.add_argument("--version", action="version", version=f"simpool-viz {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND", parser_class=_CommandParser)
    for command in COMMANDS:
        added = commands.add_parser(
            command.name,
            help=command.summary,
            description=command.description or command.summary,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        added.set_defaults(run=command.run)
        added.command = command
    return parser
