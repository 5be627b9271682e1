"""The command line of weights: training them, converting a training checkpoint, publishing the app with the bundled
ones."""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import Any

from simpool_viz.errors import OptionError


def add_training(commands: Any) -> None:
    """The commands train, convert and publish."""
    train = commands.add_parser("train", help="train a checkpoint from a recipe")
    train.add_argument("recipe", help="a bundled recipe (see `simpool-viz list`) or a YAML file")
    train.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="change a setting, such as seed=1 or encoder.pooling_options.gamma=1.25",
    )
    train.add_argument(
        "-o", "--out", type=Path, default=Path("runs"), help="the checkpoint folder is made in it (default: runs)"
    )
    train.add_argument("--threads", type=int, help="CPU threads, of each process (default: all cores)")
    train.add_argument(
        "--device", default="auto", choices=("auto", "cpu"), help="auto takes what accelerate finds (default)"
    )
    train.add_argument("--restart", action="store_true", help="begin anew where an interrupted run would go on")
    train.set_defaults(run=_train)

    convert = commands.add_parser(
        "convert", help="a training checkpoint -> a small .safetensors file that loads and maps the same"
    )
    convert.add_argument(
        "source", metavar="SRC", help="a checkpoint file of any kind that loads, with its options: a.pth?num_heads=6"
    )
    convert.add_argument("target", type=Path, metavar="DST", help="the .safetensors file to write")
    convert.add_argument("--weights", default="", help="another entry of SRC than the usual one, such as student")
    convert.add_argument("--overwrite", action="store_true", help="replace DST where it exists")
    convert.set_defaults(run=_convert)

    publish = commands.add_parser("publish", help="upload this app with its bundled models as a Hugging Face Space")
    publish.add_argument("space", metavar="USER/SPACE", help="the Space to make or to update")
    publish.add_argument("--private", action="store_true", help="make it visible to you alone")
    publish.set_defaults(run=_publish)


def _train(arguments: argparse.Namespace) -> None:
    import torch

    from simpool_viz.training.heads import train_heads
    from simpool_viz.training.loop import train
    from simpool_viz.training.recipe import HeadsRecipe, load_recipe

    if arguments.threads is not None:
        if arguments.threads < 1:
            raise OptionError(f"--threads takes a positive number, not {arguments.threads}")
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
    from simpool_viz.checkpoints.files import convert, split_options

    if arguments.target.exists() and not arguments.overwrite:
        raise OptionError(f"{arguments.target} exists; add --overwrite to replace it")
    source, options = split_options(arguments.source)
    which = arguments.weights or str(options.pop("weights", ""))
    report = convert(Path(source), arguments.target, which, **options)
    before, after = (Path(path).stat().st_size / 2**20 for path in (source, arguments.target))
    print("\n".join([*report.lines(), f"{arguments.target}: {after:.1f} MB instead of {before:.1f} MB"]))


def _publish(arguments: argparse.Namespace) -> None:
    from simpool_viz.app.publish import publish

    print(f"the Space is at {publish(arguments.space, private=arguments.private)}")
