"""The command `evaluate`: scores of maps on photos with masks, top-1 on held-out photos, dense heads on scenes."""

from __future__ import annotations

import argparse
from pathlib import Path

from simpool_viz.cli.options import Command, add_computation, chosen_encoders, chosen_settings
from simpool_viz.errors import OptionError


def _add_options(parser: argparse.ArgumentParser) -> None:
    from simpool_viz.maps.rollout_chain import RolloutOptions

    parser.add_argument(
        "data", nargs="*", type=Path, metavar="FOLDER", help="holds images/ and masks/ with files of the same names"
    )
    parser.add_argument(
        "--photos",
        type=Path,
        metavar="FOLDER",
        help="also classify its held-out photos: val-*.parquet or val/CLASS/* (see `train`)",
    )
    parser.add_argument(
        "--scenes",
        type=Path,
        metavar="FOLDER",
        help="also segment, with dense checkpoints: holds images/ and labels/, grey maps of classes",
    )
    parser.add_argument(
        "--residual",
        type=float,
        default=RolloutOptions().residual,
        help="with --scenes: weight of the skip connection in roll-outs (default: %(default)s)",
    )
    add_computation(parser)


def _run(arguments: argparse.Namespace) -> None:
    from simpool_viz.evaluation.classification import classification_table
    from simpool_viz.evaluation.datasets import open_mask_set
    from simpool_viz.evaluation.scenes import evaluate_scenes, scene_tables
    from simpool_viz.evaluation.table import evaluate, to_markdown
    from simpool_viz.maps.request import parse_maps
    from simpool_viz.training.measure import classify_held_out

    requests, size = parse_maps(arguments.map), arguments.size
    if not (arguments.data or arguments.photos or arguments.scenes):
        raise OptionError("name a folder of photos with masks, or --photos, or --scenes")
    settings, sets = chosen_settings(arguments), [open_mask_set(folder) for folder in arguments.data]
    encoders = chosen_encoders(arguments, dense=bool(arguments.scenes))
    if arguments.photos:
        classified = classify_held_out(encoders, arguments.photos, size, progress=True)
        print(classification_table(classified, f"{arguments.photos.resolve().name}, held out") + "\n")
    if arguments.scenes:
        scored = evaluate_scenes(encoders, arguments.scenes, size, arguments.residual, progress=True)
        print(scene_tables(scored, "/".join(arguments.scenes.resolve().parts[-2:])) + "\n")
    for data in sets:
        print(to_markdown(data, evaluate(data, encoders, requests, settings, progress=True), settings) + "\n")


COMMAND = Command(
    "evaluate", "score maps on folders of photos with masks, and top-1; prints Markdown tables", _add_options, _run
)
