"""simpool-viz: the command line. No computation lives here, and nothing heavy is imported before a command runs."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from simpool_viz.errors import OptionError, SimpoolError

COMPARE_HELP = """\
Show where checkpoints look on photos: overlays and object masks side by side, with figures.

  simpool-viz compare cat.jpg -c resnet_gap -c resnet_simpool -o out
  simpool-viz compare a.jpg b.jpg -c resnet_simpool -m pooling -m contribution:classes=tench -o out
  simpool-viz compare cat.jpg -c resnet_simpool --mask otsu --reference cat_mask.png -o out
  simpool-viz compare *.jpg --ready frozen_heads --matrix --agreement --sort entropy:lowest -o out

The folder OUT gets board.png, a picture of every overlay and mask, maps.npz with the raw maps,
scores.csv and manifest.json. `simpool-viz list` names checkpoints, maps and mask rules.
Options of a map follow its name: cls:block=-2  token:at=120x80  dense_rollout:classes=tench+church,soft=true
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; returns the exit status: 0, or 2 after an error told in one sentence on standard error."""
    parser = _parser()
    arguments = parser.parse_args(argv)
    try:
        arguments.run(arguments)
    except (SimpoolError, OSError) as error:
        print(f"simpool-viz: {error}", file=sys.stderr)
        return 2
    except ModuleNotFoundError as error:
        if error.name not in ("accelerate", "pyarrow", "tensorboard"):
            raise
        hint = f"install it with: pip install {error.name}"
        print(f"simpool-viz: training needs the package {error.name}, which is missing; {hint}", file=sys.stderr)
        return 2
    except RuntimeError as error:
        if "out of memory" not in str(error):
            raise
        print("simpool-viz: the device ran out of memory; choose a smaller --size, or --device cpu", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("simpool-viz: stopped", file=sys.stderr)
        return 130
    return 0


def _parser() -> argparse.ArgumentParser:
    from simpool_viz import __version__
    from simpool_viz.cli.explore import add_comparing, add_inspect, add_tour
    from simpool_viz.cli.listing import add_list
    from simpool_viz.cli.train import add_training

    parser = argparse.ArgumentParser(
        "simpool-viz", description="See where vision models look, and how that changes with their pooling."
    )
    parser.add_argument("--version", action="version", version=f"simpool-viz {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    add_list(commands)
    compare = commands.add_parser(
        "compare",
        help="photos x checkpoints x maps -> a folder of pictures and figures",
        description=COMPARE_HELP,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    compare.add_argument("images", nargs="+", metavar="IMAGE", help="photos in any common format")
    compare.add_argument("-o", "--out", required=True, type=Path, help="folder to make")
    compare.add_argument("--overwrite", action="store_true", help="replace an earlier result in OUT")
    compare.add_argument(
        "--reference",
        action="append",
        default=[],
        type=Path,
        metavar="MASK",
        help="mask of the object, one per photo in order: 0 is background",
    )
    _add_what(compare)
    add_comparing(compare)
    _add_look(compare)
    compare.add_argument("--shared-scale", action="store_true", help="one colour scale for the whole board")
    compare.add_argument("--profile", action="store_true", help="tell where the time went")
    compare.set_defaults(run=_compare)

    add_inspect(commands)
    add_tour(commands)

    batch = commands.add_parser(
        "batch", help="every picture of some folders, in batches; goes on where it was interrupted"
    )
    batch.add_argument(
        "folders", nargs="+", type=Path, metavar="FOLDER", help="pictures in any common format, subfolders too"
    )
    batch.add_argument("-o", "--out", required=True, type=Path, help="folder to make, or of a run to go on with")
    batch.add_argument("--overwrite", action="store_true", help="begin an earlier run in OUT anew")
    _add_what(batch)
    _add_look(batch, "none")
    batch.add_argument("--batch", type=int, default=16, metavar="N", help="pictures of a forward (default: 16)")
    batch.add_argument(
        "--workers", type=int, metavar="N", help="processes that read pictures (default: half the cores)"
    )
    batch.set_defaults(run=_batch)

    evaluate = commands.add_parser(
        "evaluate", help="score maps on folders of photos with masks, and top-1; prints Markdown tables"
    )
    evaluate.add_argument(
        "data", nargs="*", type=Path, metavar="FOLDER", help="holds images/ and masks/ with files of the same names"
    )
    evaluate.add_argument(
        "--photos",
        type=Path,
        metavar="FOLDER",
        help="also classify its held-out photos: val-*.parquet or val/CLASS/* (see `train`)",
    )
    evaluate.add_argument(
        "--scenes",
        type=Path,
        metavar="FOLDER",
        help="also segment, with dense checkpoints: holds images/ and labels/, grey maps of classes",
    )
    evaluate.add_argument(
        "--residual",
        type=float,
        default=0.5,
        help="with --scenes: weight of the skip connection in roll-outs (default: 0.5)",
    )
    _add_what(evaluate)
    evaluate.set_defaults(run=_evaluate)

    add_training(commands)

    serve = commands.add_parser("serve", help="start the app in the browser")
    serve.add_argument(
        "--host", help="address to listen on (default: GRADIO_SERVER_NAME, which Spaces set, or 127.0.0.1)"
    )
    serve.add_argument("--port", type=int, help="port (default: the first free one from 7860)")
    serve.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1 or mps (default: auto)")
    serve.set_defaults(run=_serve)
    return parser


def _add_what(parser: argparse.ArgumentParser) -> None:
    """Options that `compare` and `evaluate` share: what is computed."""
    parser.add_argument(
        "-c",
        "--checkpoint",
        action="append",
        default=[],
        metavar="NAME",
        help=(
            "bundled name, timm:<tag> or checkpoint folder; repeat for more (default: all bundled classifiers; dense "
            "ones with --scenes)"
        ),
    )
    parser.add_argument(
        "-m",
        "--map",
        action="append",
        default=[],
        metavar="MAP",
        help="repeat for more (default: each checkpoint's own)",
    )
    parser.add_argument("--size", type=int, help="shorter side in pixels (default: each checkpoint's own)")
    parser.add_argument(
        "--mask",
        default="mass:0.6",
        metavar="RULE[:AMOUNT]",
        help="mass, area, quantile, mean or otsu (default: mass:0.6)",
    )
    parser.add_argument("--largest", action="store_true", help="keep only the largest component of each mask")
    parser.add_argument(
        "--fusion",
        type=lambda text: int(text) if text.lstrip("-").isdigit() else text,
        metavar="HOW",
        help=(
            "of several maps into one: mean, max, min, or one by name or index, as 'head 2' (default: each map's own, "
            "mostly mean)"
        ),
    )
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1 or mps (default: auto)")


def _add_look(parser: argparse.ArgumentParser, *more: str) -> None:
    """Options that `compare` and `batch` share: how it is drawn."""
    parser.add_argument(
        "--colours", default="inferno", help="inferno, magma, viridis, cividis or gray (default: inferno)"
    )
    parser.add_argument("--opacity", type=float, default=0.6, help="of the overlay, 0 to 1 (default: 0.6)")
    parser.add_argument("--smooth", action="store_true", help="bilinear maps and masks instead of patches")
    told = "format of overlays and masks; png loses nothing and takes ten times as long"
    parser.add_argument("--pictures", choices=["jpeg", "png", *more], default="jpeg", help=told)


def _encoders(arguments: argparse.Namespace) -> list[Any]:
    from tqdm import tqdm

    from simpool_viz.checkpoints.catalogue import catalogue
    from simpool_viz.checkpoints.load import load_checkpoint, share_backbones

    dense = bool(getattr(arguments, "scenes", None))
    having = {name: entry for name, entry in catalogue().items() if entry.available and not entry.is_head}
    names = arguments.checkpoint or [name for name, entry in having.items() if entry.spec.dense == dense]
    if not names:
        raise OptionError("no checkpoint is bundled with this installation; name one with -c, such as -c timm:<tag>")
    bar = tqdm(names, desc="loading checkpoints", disable=len(names) < 3 or None, leave=False)
    return share_backbones([load_checkpoint(name, device=arguments.device) for name in bar])


def _settings(arguments: argparse.Namespace) -> Any:
    from simpool_viz.board.board import Settings
    from simpool_viz.masks import parse_rule

    parse_rule(arguments.mask)  # a wrong rule is told before anything is loaded
    return Settings(arguments.size, arguments.mask, arguments.largest, arguments.fusion)


def _compare(arguments: argparse.Namespace) -> None:
    from tqdm import tqdm

    from simpool_viz.board.board import iterate_board, require_rows
    from simpool_viz.cli.explore import apply_ready, arranged, comparing_files
    from simpool_viz.drawing.pixels import Look
    from simpool_viz.export import check_target, export_board
    from simpool_viz.images import read_picture
    from simpool_viz.maps.request import parse_maps
    from simpool_viz.scores.localization import read_reference
    from simpool_viz.timing import Profile

    apply_ready(arguments)
    requests = parse_maps(arguments.map)
    look = Look(arguments.colours, arguments.opacity, arguments.smooth, arguments.shared_scale)
    settings = _settings(arguments)
    check_target(arguments.out, arguments.overwrite)
    profile = Profile()
    with profile.part("read"):
        pictures = [read_picture(image) for image in arguments.images]
    if arguments.reference and len(arguments.reference) != len(pictures):
        raise OptionError(
            f"{len(arguments.reference)} reference masks were given for {len(pictures)} photos; give one per photo, in "
            "order"
        )
    references = {i: read_reference(path) for i, path in enumerate(arguments.reference)}
    encoders = _encoders(arguments)
    steps = iterate_board(pictures, encoders, requests, settings, references, profile)
    *_, board = tqdm(steps, desc="looking", total=len(pictures) * len(encoders), unit="picture")
    require_rows(board.rows, board.skipped)
    board = arranged(arguments, board)
    extras, device = comparing_files(arguments, board, look), str(next(encoders[0].parameters()).device)
    how: dict[str, Any] = {"overwrite": arguments.overwrite, "pictures": arguments.pictures, "extras": extras}
    folder = export_board(board, arguments.out, look, device=device, profile=profile, **how)
    for sentence in board.skipped:
        print(f"note: {sentence}")
    print(f"{len(board.rows)} maps in {folder}; open {folder / 'board.png'}")
    if arguments.profile:
        print("\n".join(profile.lines()))


def _batch(arguments: argparse.Namespace) -> None:
    from simpool_viz.batch.boards import Job
    from simpool_viz.batch.local import run
    from simpool_viz.drawing.pixels import Look
    from simpool_viz.maps.request import parse_maps

    requests, settings = parse_maps(arguments.map), _settings(arguments)
    look = Look(arguments.colours, arguments.opacity, arguments.smooth)
    job = Job(_encoders(arguments), requests, settings)
    how: dict[str, Any] = {key: getattr(arguments, key) for key in ("pictures", "batch", "workers", "overwrite")}
    report = run(job, arguments.folders, arguments.out, look, progress=True, **how)
    for fault in report.faults:
        print(f"left out: {fault.sentence}", file=sys.stderr)
    made = report.done - report.earlier
    before = f", {report.earlier} were done before" if report.earlier else ""
    print(
        f"{made} pictures in {report.seconds:.1f} s, {len(report.faults)} left out{before}; {arguments.out} holds maps "
        "and pictures"
    )
    if not report.done:
        raise OptionError("none of the pictures could be read")


def _evaluate(arguments: argparse.Namespace) -> None:
    from simpool_viz.evaluation.datasets import open_mask_set
    from simpool_viz.evaluation.table import evaluate, to_markdown
    from simpool_viz.maps.request import parse_maps

    requests = parse_maps(arguments.map)
    if not (arguments.data or arguments.photos or arguments.scenes):
        raise OptionError("name a folder of photos with masks, or --photos, or --scenes")
    settings, sets = _settings(arguments), [open_mask_set(folder) for folder in arguments.data]
    encoders = _encoders(arguments)
    if arguments.photos:
        print(_classify(arguments, encoders) + "\n")
    if arguments.scenes:
        print(_segment(arguments, encoders) + "\n")
    for data in sets:
        print(to_markdown(data, evaluate(data, encoders, requests, settings, progress=True), settings) + "\n")


def _segment(arguments: argparse.Namespace, encoders: list[Any]) -> str:
    from simpool_viz.evaluation.scenes import iou_table, look_at_scenes, mass_table, open_scenes

    scenes = open_scenes(arguments.scenes)
    others = [e.facts.name for e in encoders if not e.dense or e.facts.classes != encoders[0].facts.classes]
    if others:
        raise OptionError(
            f"{', '.join(others)} has no dense head, or one of other classes; leave it out with -c, or leave out "
            "--scenes"
        )
    rows = [look_at_scenes(e, scenes, arguments.size, arguments.residual, progress=True) for e in encoders]
    return "\n\n".join([iou_table(rows, "/".join(arguments.scenes.resolve().parts[-2:])), *map(mass_table, rows)])


def _classify(arguments: argparse.Namespace, encoders: list[Any]) -> str:
    import tempfile

    from simpool_viz.evaluation.classification import Classified, classification_table
    from simpool_viz.training.data import load_photos
    from simpool_viz.training.measure import find_correct
    from simpool_viz.training.sources import read_classes

    classes = read_classes(arguments.photos)
    others = [e.facts.name for e in encoders if e.classifier is None or e.facts.classes != classes]
    if others:
        raise OptionError(
            f"{', '.join(others)} knows other classes than {arguments.photos}; leave it out with -c, or leave out "
            "--photos"
        )
    with tempfile.TemporaryDirectory() as cache:
        photos = load_photos(arguments.photos, "val", Path(cache))
        right = find_correct(encoders, photos, [arguments.size or e.facts.size for e in encoders], progress=True)
    rows = [Classified(encoder, own.numpy()) for encoder, own in zip(encoders, right, strict=True)]
    return classification_table(rows, f"{arguments.photos.resolve().name}, held out")


def _serve(arguments: argparse.Namespace) -> None:
    import signal

    if arguments.port is not None and not 0 < arguments.port < 65_536:
        raise OptionError(f"a port lies between 1 and 65535, not {arguments.port}")
    from simpool_viz.app.launch import launch

    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))  # an orderly end, so that visitors' photos are deleted
    launch(host=arguments.host, port=arguments.port, device=arguments.device)
