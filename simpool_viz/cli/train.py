"""The command `train`: a checkpoint from a recipe."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from simpool_viz.cli.options import Command
from simpool_viz.errors import OptionError


def _add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("recipe", help="a bundled recipe (see `simpool-viz list`) or a YAML file")
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="change a setting, such as seed=1 or encoder.pooling_options.gamma=1.25",
    )
    parser.add_argument(
        "-o",
        "--out",
        type=Path,
        default=Path("runs"),
        help="the checkpoint folder is made there (default: %(default)s)",
    )
    parser.add_argument("--threads", type=int, help="CPU threads, of each process (default: all cores)")
    parser.add_argument(
        "--device", default="auto", choices=("auto", "cpu"), help="auto takes what accelerate finds (default)"
    )
    parser.add_argument("--restart", action="store_true", help="start over instead of resuming an interrupted run")


def _run(arguments: argparse.Namespace) -> None:
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
    for folder in folders if os.environ.get("RANK", "0") == "0" else ():  # of several processes the first one prints
        print(f"{folder} holds the checkpoint; use it with: simpool-viz compare PHOTO -c {folder} -o OUT")


COMMAND = Command("train", "train a checkpoint from a recipe", _add_options, _run)
