"""The command `compare`: photos x checkpoints x maps -> a folder of pictures and figures."""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from simpool_viz.cli.options import (
    Command,
    add_computation,
    add_drawing,
    add_object_ids,
    add_out,
    add_overwrite,
    alternatives,
    chosen_encoders,
    chosen_settings,
)
from simpool_viz.errors import OptionError

if TYPE_CHECKING:
    from simpool_viz.board.board import Board, Row
    from simpool_viz.drawing.pixels import DrawingStyle

DESCRIPTION = """\
Compare the attention maps of checkpoints on photos: overlays, object masks and scores.

  simpool-viz compare cat.jpg -c resnet_gap -c resnet_simpool -o out
  simpool-viz compare a.jpg b.jpg -c resnet_simpool -m pooling -m contribution:classes=tench -o out
  simpool-viz compare cat.jpg -c resnet_simpool --mask otsu --reference cat_mask.png -o out
  simpool-viz compare *.jpg --ready frozen_heads --matrix --agreement --sort entropy:lowest -o out

The folder OUT gets board.png, a picture of every overlay and mask, the masks as binary PNG and in
COCO's forms, maps.npz with the raw maps, scores.csv and manifest.json. `simpool-viz list` explains
checkpoints, maps and mask rules.
Options of a map follow its name: cls:block=-2  token:at=120x80  dense_rollout:classes=tench+church,soft=true
"""


def _add_options(parser: argparse.ArgumentParser) -> None:
    from simpool_viz.board.comparison import GROUPINGS, ROW_FIGURES
    from simpool_viz.board.ready_made import comparisons
    from simpool_viz.drawing.paper import CAPTIONS, FORMATS, WIDTHS

    parser.add_argument("images", nargs="*", metavar="IMAGE", help="photos in any common format")
    parser.add_argument(
        "--from",
        dest="manifest",
        type=Path,
        metavar="MANIFEST",
        help="make the board of an earlier manifest.json again, and say what differs; its photos and checkpoints can "
        "be given anew, in its order",
    )
    add_out(parser, "folder to make")
    add_overwrite(parser)
    parser.add_argument(
        "--reference",
        action="append",
        default=[],
        metavar="MASK",
        help="where the object is, one per photo in order: a mask file, or boxes in pixels, x0,y0,x1,y1;x0,y0,x1,y1",
    )
    add_object_ids(parser)
    add_computation(parser)
    parser.add_argument(
        "--ready",
        default="",
        metavar="NAME",
        help=f"a ready-made comparison, which brings checkpoints and maps: {alternatives(comparisons())}",
    )
    parser.add_argument(
        "--group",
        default="none",
        choices=GROUPINGS,
        help="keep rows of a checkpoint or map together (default: %(default)s)",
    )
    parser.add_argument(
        "--sort", default="", metavar="FIGURE[:lowest]", help=f"order of the rows: {alternatives(ROW_FIGURES)}"
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
    parser.add_argument(
        "--faithfulness",
        type=int,
        default=0,
        metavar="STEPS",
        help="also insertion and deletion, two forwards a step (20 is usual): areas in scores.csv, faithfulness.png",
    )
    add_drawing(parser)
    parser.add_argument(
        "--figure",
        nargs="?",
        const="pdf,svg,png",
        default="",
        metavar="FORMATS",
        help=f"also a figure for a paper, with vector text: {alternatives(FORMATS)}, or several with commas (all)",
    )
    parser.add_argument(
        "--columns", default="two", choices=WIDTHS, help="how wide that figure is in a paper (default: %(default)s)"
    )
    parser.add_argument(
        "--captions",
        type=lambda text: tuple(text.split(",")) if text else (),
        default=("checkpoint", "map"),
        metavar="NAMES",
        help=f"of its cells, with commas: {', '.join(CAPTIONS)} (default: checkpoint,map)",
    )
    parser.add_argument("--masks", action="store_true", help="show the masks in that figure too")
    parser.add_argument(
        "--keep-sources", action="store_true", help="also write the photos and references, for --from elsewhere"
    )
    parser.add_argument("--no-boxes", dest="boxes", action="store_false", help="draw no boxes around masks")
    parser.add_argument("--shared-scale", action="store_true", help="one colour scale for the whole board")
    parser.add_argument("--profile", action="store_true", help="print where the time went")
    parser.set_defaults(defaults={name: parser.get_default(name) for name in _DECIDED})


def _run(arguments: argparse.Namespace) -> None:
    from tqdm import tqdm

    from simpool_viz.board.board import iterate_board, require_rows
    from simpool_viz.board.comparison import arrange
    from simpool_viz.drawing.pixels import DrawingStyle
    from simpool_viz.export import check_target, export_board
    from simpool_viz.images import read_picture
    from simpool_viz.maps.request import parse_maps
    from simpool_viz.scores.faithfulness import MOST_STEPS
    from simpool_viz.scores.references import parse_reference
    from simpool_viz.timing import Profile

    _check_figure(arguments)
    if arguments.manifest:
        return _run_again(arguments)
    if not arguments.images:
        raise OptionError("name at least one photo, or an earlier result with --from")
    _apply_ready(arguments)
    requests = parse_maps(arguments.map)
    style = DrawingStyle(
        arguments.colours, arguments.opacity, arguments.smooth is not False, arguments.shared_scale, arguments.boxes
    )
    settings = replace(chosen_settings(arguments), faithfulness=arguments.faithfulness)
    if not 0 <= settings.faithfulness <= MOST_STEPS:
        raise OptionError(f"--faithfulness takes 1 to {MOST_STEPS} steps, not {settings.faithfulness}")
    check_target(arguments.out, arguments.overwrite)
    profile = Profile()
    with profile.part("read"):
        pictures = [read_picture(image) for image in arguments.images]
    if arguments.reference and len(arguments.reference) != len(pictures):
        raise OptionError(
            f"{len(arguments.reference)} reference masks were given for {len(pictures)} photos; give one per photo, in "
            "order"
        )
    references = {
        i: parse_reference(text, pictures[i].size, arguments.object_ids) for i, text in enumerate(arguments.reference)
    }
    encoders = chosen_encoders(arguments)
    steps = iterate_board(pictures, encoders, requests, settings, references, profile)
    *_, board = tqdm(steps, desc="recording", total=len(pictures) * len(encoders), unit="picture")
    require_rows(board.rows, board.skipped)
    board = arrange(board, arguments.group, arguments.sort)
    extras, device = _further_files(arguments, board, style), str(next(encoders[0].parameters()).device)
    options: dict[str, Any] = {
        "overwrite": arguments.overwrite,
        "pictures": arguments.pictures,
        "extras": extras,
        "encoders": encoders,
    }
    options["sources"] = arguments.keep_sources
    folder = export_board(board, arguments.out, style, device=device, profile=profile, **options)
    for sentence in board.skipped:
        print(f"note: {sentence}")
    print(f"{len(board.rows)} maps in {folder}; open {folder / 'board.png'}")
    if arguments.profile:
        print("\n".join(profile.lines()))


# Options that the manifest decides; --figure and what belongs to it, --matrix and --agreement can be asked for anew.
_DECIDED = (
    *("map", "size", "mask", "smoothing", "largest", "smooth", "fusion", "refine", "ready", "group", "sort"),
    *("reference", "colours", "opacity", "shared_scale", "boxes", "faithfulness"),
)


def _run_again(arguments: argparse.Namespace) -> None:
    """Make the board of a manifest again, and print what differs."""
    from simpool_viz.board.board import require_rows
    from simpool_viz.export import check_target, export_board
    from simpool_viz.repeat import repeat_board

    given = [name for name in _DECIDED if getattr(arguments, name) != arguments.defaults[name]]
    if given:
        said = ", ".join("--" + name.replace("_", "-") for name in given)
        raise OptionError(f"--from takes these from the manifest; leave out {said}")
    check_target(arguments.out, arguments.overwrite)
    again = repeat_board(
        arguments.manifest,
        arguments.images,
        arguments.checkpoint,
        device=arguments.device,
        precision=arguments.precision,
    )
    require_rows(again.board.rows, again.board.skipped)
    options: dict[str, Any] = {"overwrite": arguments.overwrite, "pictures": arguments.pictures}
    options |= {"encoders": again.encoders, "sources": arguments.keep_sources}
    extras, device = (
        _further_files(arguments, again.board, again.style),
        str(next(again.encoders[0].parameters()).device),
    )
    folder = export_board(again.board, arguments.out, again.style, device=device, extras=extras, **options)
    for sentence in again.differences:
        print(f"differs: {sentence}")
    total = len(again.board.rows)
    if again.compared == total and not again.differences:
        print(f"nothing differs: {total} maps and masks are equal bit for bit")
    print(f"{total} maps in {folder}; open {folder / 'board.png'}")


def _check_figure(arguments: argparse.Namespace) -> None:
    from simpool_viz.drawing.paper import FORMATS, PICTURES, check_figure

    check_figure(arguments.columns, PICTURES, arguments.captions)
    for name in arguments.figure.split(",") if arguments.figure else ():
        if name not in FORMATS:
            raise OptionError(f"--figure writes {alternatives(FORMATS)}, not {name!r}; a photo stands before --figure")


def _apply_ready(arguments: argparse.Namespace) -> None:
    """Replace -c and -m by those of a ready-made comparison, and check --sort, before anything is loaded.

    Raises:
        OptionError: an unknown comparison, -c or -m beside it, or an unknown score to sort by.
        CheckpointError: a comparison whose checkpoints are not installed.
    """
    from simpool_viz.board.comparison import parse_sort
    from simpool_viz.board.ready_made import available, find_comparison

    if arguments.sort:
        parse_sort(arguments.sort)
    if not arguments.ready:
        return
    chosen = find_comparison(arguments.ready, available())
    if arguments.checkpoint or arguments.map:
        raise OptionError("--ready brings its own checkpoints and maps; leave out -c and -m")
    arguments.checkpoint, arguments.map = list(chosen.checkpoints), list(chosen.maps)


def _further_files(arguments: argparse.Namespace, board: Board, style: DrawingStyle) -> dict[str, Any]:
    """The content of the files that --figure, --matrix, --agreement and --difference add, by file name.

    Raises:
        OptionError: a row that does not exist.
        MapError: two maps without a difference.
    """
    from simpool_viz.drawing.figures import agreement_figure, agreement_table, draw_curves, draw_difference, draw_matrix
    from simpool_viz.drawing.paper import figure_file, paper_figure

    files: dict[str, Any] = {}
    if arguments.figure:
        shown = ("overlay", "mask") if arguments.masks else ("overlay",)
        figure = paper_figure(board, style, width=arguments.columns, pictures=shown, captions=arguments.captions)
        files |= {f"figure.{name}": figure_file(figure, name) for name in arguments.figure.split(",")}
    if arguments.matrix:
        files["matrix.png"] = draw_matrix(board, style)
    if arguments.faithfulness:
        files["faithfulness.png"] = draw_curves(board)
    if arguments.agreement:
        files |= {"agreement.png": agreement_figure(board), "agreement.csv": agreement_table(board)}
    for first, second in arguments.difference:
        picture = draw_difference(board, _row(board, first), _row(board, second), style)
        files[f"difference_{first}_{second}.png"] = picture
    return files


def _row(board: Board, number: int) -> Row:
    if not 1 <= number <= len(board.rows):
        raise OptionError(f"the board has rows 1 to {len(board.rows)}, not {number}")
    return board.rows[number - 1]


COMMAND = Command(
    "compare", "photos x checkpoints x maps -> a folder of pictures and figures", _add_options, _run, DESCRIPTION
)
