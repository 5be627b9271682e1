"""The command line beyond one board: ready-made comparisons, order, matrix, agreement, difference; and looking into one
checkpoint."""

from __future__ import annotations

import argparse
import dataclasses
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from simpool_viz.errors import OptionError

if TYPE_CHECKING:
    from simpool_viz.board.board import Board, Row
    from simpool_viz.drawing.pixels import Look


def add_comparing(parser: argparse.ArgumentParser) -> None:
    """Options of `compare` beyond what is computed and how it is drawn."""
    parser.add_argument(
        "--ready",
        default="",
        metavar="NAME",
        help="a ready-made comparison (see `simpool-viz list`): checkpoints and maps",
    )
    parser.add_argument(
        "--group",
        default="none",
        choices=("none", "checkpoint", "map"),
        help="keep rows of a checkpoint or map together (default: none)",
    )
    parser.add_argument(
        "--sort",
        default="",
        metavar="FIGURE[:lowest]",
        help=(
            "order of the rows: probability, entropy, peak, coverage, components, milliseconds, iou, iou_at_true_area "
            "or energy"
        ),
    )
    parser.add_argument(
        "--matrix", action="store_true", help="also matrix.png: photos down, checkpoints and maps across"
    )
    parser.add_argument(
        "--agreement",
        action="store_true",
        help="also agreement.png and .csv: IoU between the masks of all pairs of rows",
    )
    parser.add_argument(
        "--difference",
        nargs=2,
        type=int,
        action="append",
        default=[],
        metavar="ROW",
        help="also difference_A_B.png: row A minus row B, numbered from 1 in the order of scores.csv; repeat for more",
    )


def apply_ready(arguments: argparse.Namespace) -> None:
    """Put the checkpoints and maps of a ready-made comparison where those of -c and -m stand, and check the order asked
    for.

    Raises:
        ValueError: an unknown comparison, one with checkpoints that are not here, or -c or -m beside it; an unknown
            figure.
    """
    if arguments.sort:
        from simpool_viz.board.comparison import parse_sort

        parse_sort(arguments.sort)
    if not arguments.ready:
        return
    from simpool_viz.board.ready_made import available, find_comparison

    chosen = find_comparison(arguments.ready, available())
    if arguments.checkpoint or arguments.map:
        raise OptionError("--ready brings its own checkpoints and maps; leave out -c and -m")
    arguments.checkpoint, arguments.map = list(chosen.checkpoints), list(chosen.maps)


def arranged(arguments: argparse.Namespace, board: Board) -> Board:
    """The board in the order asked for."""
    from simpool_viz.board.comparison import arrange

    return arrange(board, arguments.group, arguments.sort)


def comparing_files(arguments: argparse.Namespace, board: Board, look: Look) -> dict[str, Any]:
    """The further files asked for, by name. Raises ValueError for a row that does not exist or maps without a
    difference."""
    from simpool_viz.drawing.figures import agreement_figure, agreement_table, draw_difference, draw_matrix

    files: dict[str, Any] = {}
    if arguments.matrix:
        files["matrix.png"] = draw_matrix(board, look)
    if arguments.agreement:
        files |= {"agreement.png": agreement_figure(board), "agreement.csv": agreement_table(board)}
    for first, second in arguments.difference:
        files[f"difference_{first}_{second}.png"] = draw_difference(
            board, _row(board, first), _row(board, second), look
        )
    return files


def _row(board: Board, number: int) -> Row:
    if not 1 <= number <= len(board.rows):
        raise OptionError(f"the board has rows 1 to {len(board.rows)}, not {number}")
    return board.rows[number - 1]


# --- inspect
# --------------------------------------------------------------------------------------------------------------

INSPECT_HELP = """\
Look into one checkpoint on one photo: what it finds, its exponents and gates, and what can be asked of it.

  simpool-viz inspect cat.jpg -c resnet_simpool
  simpool-viz inspect cat.jpg -c deit.pth --ask token --at 120x80 --block 5 --fusion max -o out
  simpool-viz inspect cat.jpg -c resnet_gap+ggem --ask class --class tench -o out

With --ask, OUT gets what `compare` writes for the answer's maps, and heads.png, a gallery of the heads or queries
behind the first; with a dense checkpoint also segmentation.png.
"""


def add_inspect(commands: Any) -> None:
    """The command `inspect`."""
    parser = commands.add_parser(
        "inspect",
        help="one photo, one checkpoint: tokens, blocks, heads, classes, gates",
        description=INSPECT_HELP,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("image", metavar="IMAGE", help="a photo in any common format")
    parser.add_argument("-c", "--checkpoint", required=True, metavar="NAME", help="as for compare")
    parser.add_argument("--size", type=int, help="shorter side in pixels (default: the checkpoint's own)")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1 or mps (default: auto)")
    parser.add_argument("--ask", default="", metavar="QUESTION", help="token, cls, pooling, class or gates")
    parser.add_argument(
        "--at", metavar="XxY", help="the token's place in pixels of the photo, such as 120x80 (default: the centre)"
    )
    parser.add_argument(
        "--block", type=int, default=-1, help="block of the attention, negative from the last (default: -1)"
    )
    parser.add_argument(
        "--fusion", default="mean", help="of the heads: mean, max, min, or the number of one (default: mean)"
    )
    parser.add_argument("--first", type=int, default=0, help="first block of roll-outs (default: 0)")
    parser.add_argument(
        "--residual", type=float, default=0.5, help="weight of the skip connection in roll-outs (default: 0.5)"
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
    parser.add_argument("-o", "--out", type=Path, help="folder to make for the answer")
    parser.add_argument("--overwrite", action="store_true", help="replace an earlier result in OUT")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.set_defaults(run=_inspect)


def _inspect(arguments: argparse.Namespace) -> None:
    from simpool_viz.board.inspection import facts_of
    from simpool_viz.checkpoints.load import load_checkpoint
    from simpool_viz.export import check_target
    from simpool_viz.recording import record

    if bool(arguments.ask) != bool(arguments.out):
        raise OptionError("--ask needs a folder for its answer (-o OUT), and -o a question (--ask token)")
    if arguments.out:
        check_target(arguments.out, arguments.overwrite)
    recording = record(load_checkpoint(arguments.checkpoint, device=arguments.device), arguments.image, arguments.size)
    facts = facts_of(recording)
    if arguments.json:
        print(json.dumps(dataclasses.asdict(facts), indent=1, ensure_ascii=False))
    else:
        print("\n".join(facts.lines))
    if arguments.ask:
        _write_answer(arguments, recording)


def _write_answer(arguments: argparse.Namespace, recording: Any) -> None:
    from simpool_viz.board.board import Board, Settings
    from simpool_viz.board.inspection import Lens, inspect
    from simpool_viz.drawing.figures import draw_parts, draw_segmentation
    from simpool_viz.export import export_board
    from simpool_viz.maps.request import parse_map

    at = parse_map(f"token:at={arguments.at}").options["at"] if arguments.at else None
    fusion = int(arguments.fusion) if arguments.fusion.lstrip("-").isdigit() else arguments.fusion
    lens = Lens(at, arguments.block, fusion, arguments.first, arguments.residual, arguments.target, arguments.also)
    answer = inspect(recording, arguments.ask, lens)
    board = Board([recording.picture], answer.rows, {}, answer.notes, Settings())
    extras = {"heads.png": draw_parts(recording.picture, answer.parts, answer.groups)} if answer.parts else {}
    if recording.encoder.dense:
        extras["segmentation.png"] = draw_segmentation(recording)
    device = str(next(recording.encoder.parameters()).device)
    folder = export_board(board, arguments.out, overwrite=arguments.overwrite, device=device, extras=extras)
    for sentence in answer.notes:
        print(f"note: {sentence}")
    print(f"{len(answer.rows)} maps in {folder}; open {folder / 'board.png'}")


# --- tour
# -----------------------------------------------------------------------------------------------------------------


def add_tour(commands: Any) -> None:
    """The command `tour`."""
    parser = commands.add_parser(
        "tour", help="the guided tour: what each method does differently on one photo, and where it does not"
    )
    parser.add_argument(
        "-o", "--out", type=Path, required=True, help="folder to make: README.md, and a folder for each stop"
    )
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1 or mps (default: auto)")
    parser.set_defaults(run=_tour)


def _tour(arguments: argparse.Namespace) -> None:
    from simpool_viz.board.ready_made import available
    from simpool_viz.board.tour import stop_board, stops
    from simpool_viz.checkpoints.load import load_checkpoints
    from simpool_viz.export import export_board

    here = stops(available())
    if not here:
        raise OptionError("the tour needs the bundled ViT checkpoints, which this installation does not have")
    if arguments.out.exists() and (not arguments.out.is_dir() or any(arguments.out.iterdir())):
        raise OptionError(f"{arguments.out} is there already and not an empty folder; choose another with -o")
    names = list(dict.fromkeys(name for stop in here for name in stop.checkpoints))
    loaded = dict(zip(names, load_checkpoints(names, device=arguments.device), strict=True))
    pages = ["# Guided tour"]
    for number, stop in enumerate(here, 1):
        encoders = [loaded[name] for name in stop.checkpoints]
        folder = arguments.out / f"{number}_{stop.name}"
        export_board(stop_board(stop, encoders), folder, device=str(next(encoders[0].parameters()).device))
        pages.append(f"{stop.markdown}\n\n![{stop.title}]({folder.name}/board.png)")
    (arguments.out / "README.md").write_text("\n\n".join(pages) + "\n", encoding="utf-8")
    print(f"{len(here)} stops in {arguments.out}; open {arguments.out / 'README.md'}")
