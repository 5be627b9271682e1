"""simpool-viz: the command line. No computation lives here, and nothing heavy is imported before a command runs."""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

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


NOTES = {
    "checkpoints": " (and timm:<tag>, hf:<user>/<repository>, or a file: ViT, DeiT, DINO, SigLIP, EVA, BEiT, ResNet, ConvNeXt)",
    "comparisons": " (ready-made: compare --ready NAME)",
    "published": " (on the Hugging Face hub; fetched when first used)",
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; returns the exit status: 0, or 2 after an error told in one sentence on standard error."""
    parser = _parser()
    arguments = parser.parse_args(argv)
    try:
        arguments.run(arguments)
    except (ValueError, OSError, FloatingPointError) as error:
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
    from simpool_viz.cli_explore import add_comparing, add_inspect

    parser = argparse.ArgumentParser("simpool-viz", description="See where vision models look, and how that changes with their pooling.")
    parser.add_argument("--version", action="version", version=f"simpool-viz {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    listing = commands.add_parser("list", help="what there is: checkpoints, maps, poolings, mask rules, recipes")
    listing.add_argument("--json", action="store_true", help="as JSON")
    listing.add_argument("--poolings", action="store_true", help="the table of poolings: what each puts into the slots of the framework")
    listing.set_defaults(run=_list)

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

    batch = commands.add_parser("batch", help="every picture of some folders, in batches; goes on where it was interrupted")
    batch.add_argument("folders", nargs="+", type=Path, metavar="FOLDER", help="pictures in any common format, subfolders too")
    batch.add_argument("-o", "--out", required=True, type=Path, help="folder to make, or of a run to go on with")
    batch.add_argument("--overwrite", action="store_true", help="begin an earlier run in OUT anew")
    _add_what(batch)
    _add_look(batch, "none")
    batch.add_argument("--batch", type=int, default=16, metavar="N", help="pictures of a forward (default: 16)")
    batch.add_argument("--workers", type=int, metavar="N", help="processes that read pictures (default: half the cores)")
    batch.set_defaults(run=_batch)

    evaluate = commands.add_parser("evaluate", help="score maps on folders of photos with masks, and top-1; prints Markdown tables")
    evaluate.add_argument("data", nargs="+", type=Path, metavar="FOLDER", help="holds images/ and masks/ with files of the same names")
    evaluate.add_argument(
        "--photos", type=Path, metavar="FOLDER", help="also classify its held-out photos: val-*.parquet or val/CLASS/* (see `train`)"
    )
    _add_what(evaluate)
    evaluate.set_defaults(run=_evaluate)

    train = commands.add_parser("train", help="train a checkpoint from a recipe")
    train.add_argument("recipe", help="a bundled recipe (see `simpool-viz list`) or a YAML file")
    train.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="change a setting, such as seed=1 or encoder.pooling_options.gamma=1.25",
    )
    train.add_argument("-o", "--out", type=Path, default=Path("runs"), help="the checkpoint folder is made in it (default: runs)")
    train.add_argument("--threads", type=int, help="CPU threads, of each process (default: all cores)")
    train.add_argument("--device", default="auto", choices=("auto", "cpu"), help="auto takes what accelerate finds (default)")
    train.add_argument("--restart", action="store_true", help="begin anew where an interrupted run would go on")
    train.set_defaults(run=_train)

    convert = commands.add_parser("convert", help="a training checkpoint -> a small .safetensors file that loads and maps the same")
    convert.add_argument("source", metavar="SRC", help="a checkpoint file of any kind that loads, with its options: a.pth?num_heads=6")
    convert.add_argument("target", type=Path, metavar="DST", help="the .safetensors file to write")
    convert.add_argument("--weights", default="", help="another entry of SRC than the usual one, such as student")
    convert.add_argument("--overwrite", action="store_true", help="replace DST where it exists")
    convert.set_defaults(run=_convert)

    publish = commands.add_parser("publish", help="upload this app with its bundled models as a Hugging Face Space")
    publish.add_argument("space", metavar="USER/SPACE", help="the Space to make or to update")
    publish.add_argument("--private", action="store_true", help="make it visible to you alone")
    publish.set_defaults(run=_publish)

    serve = commands.add_parser("serve", help="start the app in the browser")
    serve.add_argument("--host", help="address to listen on (default: GRADIO_SERVER_NAME, which Spaces set, or 127.0.0.1)")
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
        help="bundled name, timm:<tag> or checkpoint folder; repeat for more (default: all bundled)",
    )
    parser.add_argument("-m", "--map", action="append", default=[], metavar="MAP", help="repeat for more (default: each checkpoint's own)")
    parser.add_argument("--size", type=int, help="shorter side in pixels (default: each checkpoint's own)")
    parser.add_argument(
        "--mask", default="mass:0.6", metavar="RULE[:AMOUNT]", help="mass, area, quantile, mean or otsu (default: mass:0.6)"
    )
    parser.add_argument("--largest", action="store_true", help="keep only the largest component of each mask")
    parser.add_argument(
        "--fusion",
        type=lambda text: int(text) if text.lstrip("-").isdigit() else text,
        metavar="HOW",
        help="of several maps into one: mean, max, min, or one by name or index, as 'head 2' (default: each map's own, mostly mean)",
    )
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1 or mps (default: auto)")


def _add_look(parser: argparse.ArgumentParser, *more: str) -> None:
    """Options that `compare` and `batch` share: how it is drawn."""
    parser.add_argument("--colours", default="inferno", help="inferno, magma, viridis, cividis or gray (default: inferno)")
    parser.add_argument("--opacity", type=float, default=0.6, help="of the overlay, 0 to 1 (default: 0.6)")
    parser.add_argument("--smooth", action="store_true", help="bilinear maps and masks instead of patches")
    told = "format of overlays and masks; png loses nothing and takes ten times as long"
    parser.add_argument("--pictures", choices=["jpeg", "png", *more], default="jpeg", help=told)


def _encoders(arguments: argparse.Namespace) -> list[Any]:
    from tqdm import tqdm

    from simpool_viz.checkpoints import catalogue, load_checkpoint, share_backbones

    names = arguments.checkpoint or [name for name, entry in catalogue().items() if entry.available and not entry.is_head]
    if not names:
        raise ValueError("no checkpoint is bundled with this installation; name one with -c, such as -c timm:<tag>")
    bar = tqdm(names, desc="loading checkpoints", disable=len(names) < 3 or None, leave=False)
    return share_backbones([load_checkpoint(name, device=arguments.device) for name in bar])


def _settings(arguments: argparse.Namespace) -> Any:
    from simpool_viz.board import Settings
    from simpool_viz.masks import parse_rule

    parse_rule(arguments.mask)  # a wrong rule is told before anything is loaded
    return Settings(arguments.size, arguments.mask, arguments.largest, arguments.fusion)


def _compare(arguments: argparse.Namespace) -> None:
    from tqdm import tqdm

    from simpool_viz.board import iterate_board, parse_maps, require_rows
    from simpool_viz.cli_explore import apply_ready, arranged, comparing_files
    from simpool_viz.drawing import Look
    from simpool_viz.export import check_target, export_board
    from simpool_viz.images import read_picture
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
        raise ValueError(f"{len(arguments.reference)} reference masks were given for {len(pictures)} photos; give one per photo, in order")
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
    from simpool_viz.batch.local import run
    from simpool_viz.batch.looking import Job
    from simpool_viz.board import parse_maps
    from simpool_viz.drawing import Look

    requests, settings = parse_maps(arguments.map), _settings(arguments)
    look = Look(arguments.colours, arguments.opacity, arguments.smooth)
    job = Job(_encoders(arguments), requests, settings)
    how: dict[str, Any] = {key: getattr(arguments, key) for key in ("pictures", "batch", "workers", "overwrite")}
    report = run(job, arguments.folders, arguments.out, look, progress=True, **how)
    for fault in report.faults:
        print(f"left out: {fault.sentence}", file=sys.stderr)
    made = report.done - report.earlier
    before = f", {report.earlier} were done before" if report.earlier else ""
    print(f"{made} pictures in {report.seconds:.1f} s, {len(report.faults)} left out{before}; {arguments.out} holds maps and pictures")
    if not report.done:
        raise ValueError("none of the pictures could be read")


def _evaluate(arguments: argparse.Namespace) -> None:
    from simpool_viz.board import parse_maps
    from simpool_viz.evaluation.datasets import open_mask_set
    from simpool_viz.evaluation.table import evaluate, to_markdown

    requests = parse_maps(arguments.map)
    settings, sets = _settings(arguments), [open_mask_set(folder) for folder in arguments.data]
    encoders = _encoders(arguments)
    if arguments.photos:
        print(_classify(arguments, encoders) + "\n")
    for data in sets:
        print(to_markdown(data, evaluate(data, encoders, requests, settings, progress=True), settings) + "\n")


def _classify(arguments: argparse.Namespace, encoders: list[Any]) -> str:
    import tempfile

    from tqdm import tqdm

    from simpool_viz.evaluation.classification import Classified, classification_table
    from simpool_viz.training.data import load_photos
    from simpool_viz.training.measure import find_correct
    from simpool_viz.training.sources import read_classes

    classes = read_classes(arguments.photos)
    others = [e.facts.name for e in encoders if e.classifier is None or e.facts.classes != classes]
    if others:
        raise ValueError(f"{', '.join(others)} knows other classes than {arguments.photos}; leave it out with -c, or leave out --photos")
    with tempfile.TemporaryDirectory() as cache:
        photos = load_photos(arguments.photos, "val", Path(cache))
        bar = tqdm(encoders, desc="classifying", unit="checkpoint")
        rows = [Classified(e, find_correct(e, photos, arguments.size or e.facts.size).numpy()) for e in bar]
    return classification_table(rows, f"{arguments.photos.resolve().name}, held out")


def _train(arguments: argparse.Namespace) -> None:
    import torch

    from simpool_viz.training.heads import train_heads
    from simpool_viz.training.loop import train
    from simpool_viz.training.recipe import HeadsRecipe, load_recipe

    if arguments.threads is not None:
        if arguments.threads < 1:
            raise ValueError(f"--threads takes a positive number, not {arguments.threads}")
        torch.set_num_threads(arguments.threads)
    recipe = load_recipe(arguments.recipe, arguments.set)
    cache = arguments.out / "cache"
    folders = (
        train_heads(recipe, arguments.out, cache, device=arguments.device)
        if isinstance(recipe, HeadsRecipe)
        else [train(recipe, arguments.out, cache, restart=arguments.restart, device=arguments.device)]
    )
    for folder in folders if os.environ.get("RANK", "0") == "0" else ():  # of several processes the first one tells
        print(f"{folder} holds the checkpoint; use it with: simpool-viz compare PHOTO -c {folder} -o OUT")


def _convert(arguments: argparse.Namespace) -> None:
    from simpool_viz.checkpoints import convert, split_options

    if arguments.target.exists() and not arguments.overwrite:
        raise ValueError(f"{arguments.target} exists; add --overwrite to replace it")
    source, options = split_options(arguments.source)
    which = arguments.weights or str(options.pop("weights", ""))
    report = convert(Path(source), arguments.target, which, **options)
    before, after = (Path(path).stat().st_size / 2**20 for path in (source, arguments.target))
    print("\n".join([*report.lines(), f"{arguments.target}: {after:.1f} MB instead of {before:.1f} MB"]))


def _publish(arguments: argparse.Namespace) -> None:
    from simpool_viz.publish import publish

    print(f"the Space is at {publish(arguments.space, private=arguments.private)}")


def _serve(arguments: argparse.Namespace) -> None:
    import signal

    if arguments.port is not None and not 0 < arguments.port < 65_536:
        raise ValueError(f"a port lies between 1 and 65535, not {arguments.port}")
    from simpool_viz.app import launch

    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))  # an orderly end, so that visitors' photos are deleted
    launch(host=arguments.host, port=arguments.port, device=arguments.device)


def _list(arguments: argparse.Namespace) -> None:
    from simpool_viz.attention_map import map_methods
    from simpool_viz.checkpoints import catalogue, published
    from simpool_viz.masks import mask_rules
    from simpool_viz.pooling import poolings
    from simpool_viz.ready import available, comparisons
    from simpool_viz.training.recipe import list_recipes

    listing: dict[str, list[dict[str, Any]]] = {
        "checkpoints": [
            {
                "name": e.name,
                "title": e.facts.title,
                "pooling": e.spec.pooling,
                "size": e.facts.size,
                "accuracy": e.facts.accuracy,
                "available": e.available,
            }
            for e in catalogue().values()
        ],
        "published": [
            {"name": p.name, "title": p.title, "accuracy": f"{p.accuracy}; downloads {p.size}", "address": p.address}
            for p in published().values()
        ],
        "maps": [
            {"name": m.name, "title": m.title, "summary": m.summary, "formula": m.formula, "paper": m.paper} for m in map_methods().values()
        ],
        "poolings": [
            {"name": p.name, "title": p.title, "group": p.group, "summary": p.summary, "paper": p.paper, "formula": p.formula}
            | dataclasses.asdict(p.row)
            for p in poolings().values()
        ],
        "comparisons": [{"name": c.name, "title": c.title, "summary": c.question} for c in comparisons(available()).values()],
        "masks": [{"name": r.name, "title": r.title, "summary": r.summary, "default": r.default} for r in mask_rules().values()],
        "recipes": [{"name": name} for name in list_recipes()],
    }
    if arguments.poolings:
        _print_poolings(listing["poolings"], arguments.json)
        return
    if arguments.json:
        print(json.dumps(listing, indent=1, ensure_ascii=False))
        return
    for kind, entries in listing.items():
        print(kind.upper() + NOTES.get(kind, ""))
        for entry in entries:
            told = entry.get("summary") or "; ".join(str(entry[k]) for k in ("title", "accuracy") if entry.get(k))
            print(f"  {entry['name']:<15} {told}".rstrip())
        print()


def _print_poolings(rows: list[dict[str, Any]], as_json: bool) -> None:
    """The framework's table, a line per pooling, grouped as in the paper."""
    from simpool_viz.pooling import GROUPS

    if as_json:
        print(json.dumps(rows, indent=1, ensure_ascii=False))
        return
    heads = {"name": "name", "k": "k", "u0": "U0", "query": "phi_Q", "key": "phi_K", "similarity": "s", "attention": "h", "value": "phi_V"}
    heads |= {"mean": "f", "update": "phi_X, phi_U"}
    widths = {column: max(len(title), *(len(row[column]) for row in rows)) for column, title in heads.items()}
    print("  ".join(title.ljust(widths[column]) for column, title in heads.items()).rstrip())
    for number, group in GROUPS.items():
        print(f"{number} {group}")
        for row in rows:
            if row["group"] == number:
                print("  ".join(row[column].ljust(widths[column]) for column in heads).rstrip())
