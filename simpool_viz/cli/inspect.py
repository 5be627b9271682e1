"""The command `inspect`: one checkpoint on one photo, a summary of the forward pass and maps of its parts."""

from __future__ import annotations

import argparse
import dataclasses
import json

from simpool_viz.cli.options import (
    Command,
    add_device,
    add_out,
    add_overwrite,
    alternatives,
    number_or_name,
    residual_weight,
)
from simpool_viz.errors import OptionError

DESCRIPTION = """\
Inspect one checkpoint on one photo: predicted classes, exponents, gates, and the questions it can answer.

  simpool-viz inspect cat.jpg -c resnet_simpool
  simpool-viz inspect cat.jpg -c deit.pth --ask token --at 120x80 --block 5 --fusion max -o out
  simpool-viz inspect cat.jpg -c resnet_gap+ggem --ask class --class tench -o out

With --ask, OUT gets what `compare` writes for the answer's maps, and heads.png, a gallery of the heads or queries
behind the first; with a dense checkpoint also segmentation.png, with GeM and GGeM exponents.png, the exponent of each
group of channels and the number of positions that it pools.
"""


def _add_options(parser: argparse.ArgumentParser) -> None:
    from simpool_viz.board.inspection import QUESTIONS, Lens
    from simpool_viz.maps.attention_map import FUSIONS

    default = Lens()
    parser.add_argument("image", metavar="IMAGE", help="a photo in any common format")
    parser.add_argument("-c", "--checkpoint", required=True, metavar="NAME", help="as for compare")
    parser.add_argument("--size", type=int, help="shorter side in pixels (default: the checkpoint's own)")
    add_device(parser)
    parser.add_argument("--ask", default="", metavar="QUESTION", help=alternatives(QUESTIONS))
    parser.add_argument(
        "--at", metavar="XxY", help="the token's place in pixels of the photo, such as 120x80 (default: the centre)"
    )
    parser.add_argument(
        "--block",
        type=int,
        default=default.block,
        help="block of the attention, negative from the last (default: %(default)s)",
    )
    parser.add_argument(
        "--fusion",
        type=number_or_name,
        default=default.fusion,
        help=f"of the heads: {', '.join(FUSIONS)}, or the number of one (default: %(default)s)",
    )
    parser.add_argument(
        "--first", type=int, default=default.first, help="first block of roll-outs (default: %(default)s)"
    )
    parser.add_argument(
        "--residual",
        type=residual_weight,
        default=default.residual,
        help="weight of the skip connection in roll-outs, or measured: each block's own (default: %(default)s)",
    )
    parser.add_argument(
        "--discard",
        type=float,
        default=default.discard,
        help="share of each block's lowest weights that roll-outs set to 0, as vit-explain does (default: %(default)s)",
    )
    parser.add_argument(
        "--class", dest="target", metavar="CLASS", help="a class by name or number (default: the predicted one)"
    )
    parser.add_argument(
        "--with",
        dest="also",
        metavar="CLASS",
        help="with --ask class: Dense Attention Roll-Out of both classes together",
    )
    add_out(parser, "folder to make for the answer", required=False)
    add_overwrite(parser)
    parser.add_argument("--json", action="store_true", help="print JSON")


def _run(arguments: argparse.Namespace) -> None:
    from simpool_viz.board.inspection import Lens, facts_of, inspect
    from simpool_viz.checkpoints.load import load_checkpoint
    from simpool_viz.export import check_target, export_answer
    from simpool_viz.maps.request import parse_map
    from simpool_viz.recording import record

    if bool(arguments.ask) != bool(arguments.out):
        raise OptionError("--ask needs a folder for its answer (-o OUT), and -o a question (--ask token)")
    if arguments.out:
        check_target(arguments.out, arguments.overwrite)
    at = parse_map(f"token:at={arguments.at}").options["at"] if arguments.at else None
    lens = Lens(
        at,
        arguments.block,
        arguments.fusion,
        arguments.first,
        arguments.residual,
        arguments.target,
        arguments.also,
        arguments.discard,
    )
    recording = record(
        load_checkpoint(arguments.checkpoint, device=arguments.device, precision=arguments.precision),
        arguments.image,
        arguments.size,
    )
    facts = facts_of(recording)
    if arguments.json:
        print(json.dumps(dataclasses.asdict(facts), indent=1, ensure_ascii=False))
    else:
        print("\n".join(facts.lines))
    if not arguments.ask:
        return
    answer = inspect(recording, arguments.ask, lens)
    folder = export_answer(recording, answer, arguments.out, overwrite=arguments.overwrite)
    for sentence in answer.notes:
        print(f"note: {sentence}")
    print(f"{len(answer.rows)} maps in {folder}; open {folder / 'board.png'}")


COMMAND = Command(
    "inspect", "one photo, one checkpoint: tokens, blocks, heads, classes, gates", _add_options, _run, DESCRIPTION
)
