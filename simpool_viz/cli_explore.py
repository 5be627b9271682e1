"""Options of the command line for looking further than one board: ready-made comparisons, order, matrix, agreement, difference."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from simpool_viz.board import Board, Row
    from simpool_viz.drawing import Look


def add_comparing(parser: argparse.ArgumentParser) -> None:
    """Options of `compare` beyond what is computed and how it is drawn."""
    parser.add_argument(
        "--ready", default="", metavar="NAME", help="a ready-made comparison (see `simpool-viz list`): checkpoints and maps"
    )
    parser.add_argument(
        "--group", default="none", choices=("none", "checkpoint", "map"), help="keep rows of a checkpoint or map together (default: none)"
    )
    parser.add_argument(
        "--sort",
        default="",
        metavar="FIGURE[:lowest]",
        help="order of the rows: probability, entropy, peak, coverage, components, milliseconds, iou, iou_at_true_area or energy",
    )
    parser.add_argument("--matrix", action="store_true", help="also matrix.png: photos down, checkpoints and maps across")
    parser.add_argument("--agreement", action="store_true", help="also agreement.png and .csv: IoU between the masks of all pairs of rows")
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
    """Put the checkpoints and maps of a ready-made comparison where those of -c and -m stand, and check the order asked for.

    Raises:
        ValueError: an unknown comparison, one with checkpoints that are not here, or -c or -m beside it; an unknown figure.
    """
    if arguments.sort:
        from simpool_viz.comparison import parse_sort

        parse_sort(arguments.sort)
    if not arguments.ready:
        return
    from simpool_viz.ready import available, find_comparison

    chosen = find_comparison(arguments.ready, available())
    if arguments.checkpoint or arguments.map:
        raise ValueError("--ready brings its own checkpoints and maps; leave out -c and -m")
    arguments.checkpoint, arguments.map = list(chosen.checkpoints), list(chosen.maps)


def arranged(arguments: argparse.Namespace, board: Board) -> Board:
    """The board in the order asked for."""
    from simpool_viz.comparison import arrange

    return arrange(board, arguments.group, arguments.sort)


def comparing_files(arguments: argparse.Namespace, board: Board, look: Look) -> dict[str, Any]:
    """The further files asked for, by name. Raises ValueError for a row that does not exist or maps without a difference."""
    from simpool_viz.figures import agreement_figure, agreement_table, draw_difference, draw_matrix

    files: dict[str, Any] = {}
    if arguments.matrix:
        files["matrix.png"] = draw_matrix(board, look)
    if arguments.agreement:
        files |= {"agreement.png": agreement_figure(board), "agreement.csv": agreement_table(board)}
    for first, second in arguments.difference:
        files[f"difference_{first}_{second}.png"] = draw_difference(board, _row(board, first), _row(board, second), look)
    return files


def _row(board: Board, number: int) -> Row:
    if not 1 <= number <= len(board.rows):
        raise ValueError(f"the board has rows 1 to {len(board.rows)}, not {number}")
    return board.rows[number - 1]
