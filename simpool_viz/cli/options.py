"""What a command is, and the options that several commands share.

Names in help texts come from the registries, which need PyTorch, so a command adds its options when it is chosen and
not before: `simpool-viz --help` imports nothing heavy.
"""

from __future__ import annotations

import argparse
import shlex
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from simpool_viz.batch.part_files import Cluster
    from simpool_viz.board.board import Settings
    from simpool_viz.modeling.encoder import Encoder


@dataclass(frozen=True)
class Command:
    """A command.

    Attributes:
        name: as it is typed.
        summary: one line, for the list of commands.
        add_options: adds its options to a parser.
        run: runs it with the parsed options.
        description: stands above the options in its own help; the summary by default.
    """

    name: str
    summary: str
    add_options: Callable[[argparse.ArgumentParser], None]
    run: Callable[[argparse.Namespace], None]
    description: str = ""


def alternatives(names: Iterable[str]) -> str:
    """Names as a phrase: "a, b or c"."""
    *others, last = names
    return f"{', '.join(others)} or {last}" if others else last


def add_device(parser: argparse.ArgumentParser) -> None:
    """Add --device, on which the models run, and --precision, in which their forward does."""
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1 or mps (default: %(default)s)")
    parser.add_argument(
        "--precision",
        default="auto",
        metavar="NAME",
        help="of the forward pass: float32, bfloat16, float16 or auto (default), which is float16 on a GPU, bfloat16 "
        "on a CPU that has it for checkpoints whose maps stay the same, else float32",
    )


def add_out(parser: argparse.ArgumentParser, what: str, required: bool = True) -> None:
    """Add --out, the folder of the result; `what` is its help text."""
    parser.add_argument("-o", "--out", type=Path, required=required, help=what)


def add_overwrite(parser: argparse.ArgumentParser, what: str = "replace an earlier result in OUT") -> None:
    """Add --overwrite; `what` is its help text."""
    parser.add_argument("--overwrite", action="store_true", help=what)


def add_object_ids(parser: argparse.ArgumentParser) -> None:
    """Add --object-ids, which labels of a reference mask count as object."""
    parser.add_argument(
        "--object-ids",
        type=_numbers,
        default=(),
        metavar="1,2",
        help="labels of the reference masks that count as object (default: all but 0, and 255 as void)",
    )


def _numbers(text: str) -> tuple[int, ...]:
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(f"whole numbers with commas between them, as 1,2, not {text!r}") from None


def add_computation(parser: argparse.ArgumentParser) -> None:
    """Add what `compare`, `batch` and `evaluate` compute: checkpoints, maps, size, masks, fusion, device."""
    from simpool_viz.board.board import Settings
    from simpool_viz.maps.attention_map import FUSIONS
    from simpool_viz.maps.registry import OWN, map_methods
    from simpool_viz.masks import DEFAULT_CUT, mask_rules

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
        help=f"{OWN} (the one that shows how a checkpoint pools), {', '.join(map_methods())}, or the name of a "
        f"pooling; repeat for more (default: {OWN})",
    )
    parser.add_argument("--size", type=int, help="shorter side in pixels (default: each checkpoint's own)")
    parser.add_argument(
        "--mask",
        default=Settings().mask,
        metavar="RULE[:AMOUNT]",
        help=f"{alternatives(mask_rules())} (default: {DEFAULT_CUT.label}, which covers objects best)",
    )
    parser.add_argument(
        "--smoothing",
        type=float,
        help="blur of a map before its threshold, in tokens, 0 to 2 (default: with --mask none)",
    )
    parser.add_argument(
        "--largest", action="store_true", default=None, help="keep only the largest component of each mask"
    )
    parser.add_argument(
        "--smooth",
        action=argparse.BooleanOptionalAction,
        help="smooth edges of masks, or whole patches; overlays are drawn likewise (default: smooth, and with --mask "
        "masks of whole patches)",
    )
    parser.add_argument(
        "--fusion",
        type=number_or_name,
        metavar="HOW",
        help=f"of several maps into one: {', '.join(FUSIONS)}, or one by name or index, as 'head 2' (default: each "
        "map's own, mostly mean)",
    )
    add_device(parser)


def number_or_name(text: str) -> int | str:
    """The text as an int where it is a whole number, else as it is."""
    return int(text) if text.lstrip("-").isdigit() else text


def residual_weight(text: str) -> float | str:
    """The weight of a skip connection from text: a number, or a word, which roll-outs check."""
    try:
        return float(text)
    except ValueError:
        return text


def add_drawing(parser: argparse.ArgumentParser, *more: str) -> None:
    """Add how `compare` and `batch` draw maps.

    Args:
        parser: of the command.
        more: choices of --pictures beside the formats.
    """
    from simpool_viz.drawing.pixels import SEQUENTIAL, DrawingStyle
    from simpool_viz.drawing.render import SUFFIXES
    from simpool_viz.refinement import REFINEMENTS

    default = DrawingStyle()
    parser.add_argument("--colours", default=default.colours, help=f"{alternatives(SEQUENTIAL)} (default: %(default)s)")
    parser.add_argument(
        "--opacity", type=float, default=default.opacity, help="of the overlay, 0 to 1 (default: %(default)s)"
    )
    parser.add_argument(
        "--refine",
        default="",
        choices=REFINEMENTS,
        help="move the drawn masks to the edges of the photo; scores stay those of the map's own mask",
    )
    parser.add_argument(
        "--pictures",
        choices=[*SUFFIXES, *more],
        default=None if more else "jpeg",
        help="format of overlays and masks; png loses nothing and takes ten times as long (default: jpeg"
        + (", and none with --write parquet)" if more else ")"),
    )


def chosen_encoders(arguments: argparse.Namespace, dense: bool = False) -> list[Encoder]:
    """Load the checkpoints of `-c`; all bundled ones where none is named.

    Args:
        arguments: with `checkpoint`, `device` and `precision`.
        dense: whether the bundled ones are those with dense heads rather than the classifiers.

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
    return load_checkpoints(names, device=arguments.device, precision=arguments.precision, progress=True)


def add_engine(parser: argparse.ArgumentParser, where: str) -> None:
    """Add the options that say where the work is done.

    Args:
        parser: of the command.
        where: with which option of it an engine may be chosen.
    """
    from simpool_viz.batch.part_files import ENGINES

    parser.add_argument(
        "--engine",
        choices=ENGINES,
        default="local",
        help=f"worker processes and one device, or Ray Data on a cluster, {where} (default: %(default)s)",
    )
    parser.add_argument(
        "--models", type=int, metavar="N", help="copies of the models with --engine ray (default: one for each GPU)"
    )
    parser.add_argument(
        "--ray-address", metavar="ADDRESS", help="of an existing cluster (default: RAY_ADDRESS, else one is started)"
    )


def chosen_engine(arguments: argparse.Namespace, workers: int | None) -> Cluster:
    """What the options of `add_engine` say.

    Args:
        arguments: of the command.
        workers: processes that read, with the local engine.

    Raises:
        OptionError: options that do not go together.
    """
    from simpool_viz.batch.part_files import Cluster

    return Cluster(arguments.engine, workers, arguments.models, arguments.ray_address)


def chosen_settings(arguments: argparse.Namespace) -> Settings:
    """Size, mask rule and fusion from the options; a wrong rule is refused before anything is loaded.

    Raises:
        OptionError: no such rule, or an amount that does not fit it.
    """
    from simpool_viz.board.board import Settings

    settings = Settings(
        arguments.size,
        arguments.mask,
        arguments.largest,
        arguments.fusion,
        arguments.smoothing,
        arguments.smooth,
        getattr(arguments, "refine", ""),  # `evaluate` scores the masks of maps alone
    )
    _ = settings.cut  # a wrong rule is refused here
    return settings


_KEPT_IN = ("--results", "--name", "-o", "--out")


def measuring_command(words: Sequence[str]) -> str:
    """The command that measured, without the options that say where its results are kept.

    Args:
        words: the arguments after the program's name.
    """
    kept, skip = [], False
    for word in words:
        if skip or word in _KEPT_IN:
            skip = not skip
        elif not word.startswith(tuple(f"{option}=" for option in _KEPT_IN)):
            kept.append(word)
    return shlex.join(["simpool-viz", *kept])
