"""What a command is, and the options that several commands share.

Names in help texts come from the registries, which need PyTorch, so a command adds its options when it is chosen and
not before: `simpool-viz --help` imports nothing heavy.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from simpool_viz.board.board import Settings
    from simpool_viz.modeling.encoder import Encoder


@dataclass(frozen=True)
class Command:
    """A command: its name, a summary of one line, what adds its options, and what runs it.

    description: above the options in its own help; the summary by default.
    """

    name: str
    summary: str
    add_options: Callable[[argparse.ArgumentParser], None]
    run: Callable[[argparse.Namespace], None]
    description: str = ""


def alternatives(names: Iterable[str]) -> str:
    """ "a, b or c"."""
    *others, last = names
    return f"{', '.join(others)} or {last}" if others else last


def add_device(parser: argparse.ArgumentParser) -> None:
    """Where it is computed."""
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1 or mps (default: %(default)s)")


def add_out(parser: argparse.ArgumentParser, what: str, required: bool = True) -> None:
    """The folder of the result; `what` it is."""
    parser.add_argument("-o", "--out", type=Path, required=required, help=what)


def add_overwrite(parser: argparse.ArgumentParser, what: str = "replace an earlier result in OUT") -> None:
    """Whether an earlier result may go; `what` that means."""
    parser.add_argument("--overwrite", action="store_true", help=what)


def add_what(parser: argparse.ArgumentParser) -> None:
    """What is computed, for `compare`, `batch` and `evaluate`: checkpoints, maps, size, masks, fusion, device."""
    from simpool_viz.board.board import Settings
    from simpool_viz.maps.attention_map import FUSIONS
    from simpool_viz.maps.registry import map_methods
    from simpool_viz.masks import mask_rules

    parser.add_argument(
        "-c",
        "--checkpoint",
        action="append",
        default=[],
        metavar="NAME",
        help="bundled name, timm:<tag>, hf:<user>/<repository>, file or checkpoint folder; repeat for more (default: "
        "all bundled classifiers; dense ones with --scenes)",
    )
    parser.add_argument(
        "-m",
        "--map",
        action="append",
        default=[],
        metavar="MAP",
        help=f"{', '.join(map_methods())}, or the name of a pooling; repeat for more (default: each checkpoint's own)",
    )
    parser.add_argument("--size", type=int, help="shorter side in pixels (default: each checkpoint's own)")
    parser.add_argument(
        "--mask",
        default=Settings().mask,
        metavar="RULE[:AMOUNT]",
        help=f"{alternatives(mask_rules())} (default: %(default)s)",
    )
    parser.add_argument("--largest", action="store_true", help="keep only the largest component of each mask")
    parser.add_argument(
        "--fusion",
        type=number_or_name,
        metavar="HOW",
        help=f"of several maps into one: {', '.join(FUSIONS)}, or one by name or index, as 'head 2' (default: each "
        "map's own, mostly mean)",
    )
    add_device(parser)


def number_or_name(text: str) -> int | str:
    """A whole number where it is one."""
    return int(text) if text.lstrip("-").isdigit() else text


def add_look(parser: argparse.ArgumentParser, *more: str) -> None:
    """How maps are drawn, for `compare` and `batch`. more: further formats of pictures."""
    from simpool_viz.drawing.pixels import SEQUENTIAL, Look
    from simpool_viz.drawing.render import SUFFIXES

    usual = Look()
    parser.add_argument("--colours", default=usual.colours, help=f"{alternatives(SEQUENTIAL)} (default: %(default)s)")
    parser.add_argument(
        "--opacity", type=float, default=usual.opacity, help="of the overlay, 0 to 1 (default: %(default)s)"
    )
    parser.add_argument("--smooth", action="store_true", help="bilinear maps and masks instead of patches")
    parser.add_argument(
        "--pictures",
        choices=[*SUFFIXES, *more],
        default="jpeg",
        help="format of overlays and masks; png loses nothing and takes ten times as long (default: %(default)s)",
    )


def chosen_encoders(arguments: argparse.Namespace, dense: bool = False) -> list[Encoder]:
    """The checkpoints of `-c`, loaded; the bundled classifiers, or dense ones, where none is named.

    Raises:
        OptionError: none is named and none is bundled.
        CheckpointError: as in `load_checkpoint`.
    """
    from simpool_viz.checkpoints.catalogue import bundled_names
    from simpool_viz.checkpoints.load import load_checkpoints
    from simpool_viz.errors import OptionError

    names = arguments.checkpoint or bundled_names(dense)
    if not names:
        raise OptionError("no checkpoint is bundled with this installation; name one with -c, such as -c timm:<tag>")
    return load_checkpoints(names, device=arguments.device, progress=True)


def chosen_settings(arguments: argparse.Namespace) -> Settings:
    """Size, mask rule and fusion as asked for; a wrong rule is refused before anything is loaded.

    Raises:
        OptionError: no such rule, or an amount that does not fit it.
    """
    from simpool_viz.board.board import Settings
    from simpool_viz.masks import parse_rule

    parse_rule(arguments.mask)
    return Settings(arguments.size, arguments.mask, arguments.largest, arguments.fusion)
