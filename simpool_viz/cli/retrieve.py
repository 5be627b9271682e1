"""The command `retrieve`: k-NN, linear probe and retrieval with the features of several poolings."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from simpool_viz.cli.options import Command, add_device, add_out, alternatives, chosen_encoders, measuring_command
from simpool_viz.errors import OptionError

if TYPE_CHECKING:
    from simpool_viz.scores.results import Table

DESCRIPTION = """\
Score the features that poolings make of frozen tokens: k-NN and linear probe accuracy, retrieval.

  simpool-viz retrieve FOLDER -c vit_gap -o OUT
  simpool-viz retrieve FOLDER -c vit_cls -c vit_simpool -p own --scores knn --scores retrieval -o OUT
  simpool-viz retrieve FOLDER -c vit_gap --sweep --groups 1,2,6 --powers 1,2,4,8 -o OUT

One forward for each photo and checkpoint gives the vectors of every pooling. OUT keeps them, so that other scores
need no forward, and gets the tables.
"""


def _add_options(parser: argparse.ArgumentParser) -> None:
    from simpool_viz.evaluation.exponent_sweep import GROUPS_SWEPT, POWERS_SWEPT
    from simpool_viz.evaluation.pooled_features import COMPARED, FeatureSettings, training_free_poolings
    from simpool_viz.evaluation.representation import FEATURE_SCORES
    from simpool_viz.maps.registry import OWN

    parser.add_argument(
        "data",
        type=Path,
        metavar="DATASET",
        help="a folder with train-*.parquet and val-*.parquet, or train/CLASS/* and val/CLASS/* (see docs/training.md)",
    )
    parser.add_argument(
        "-c",
        "--checkpoint",
        action="append",
        required=True,
        metavar="NAME",
        help="as for compare; repeat for more, which are also compared by their first pooling",
    )
    parser.add_argument(
        "-p",
        "--pooling",
        action="append",
        default=[],
        metavar="POOLING",
        help=f"{alternatives([OWN, *training_free_poolings()])}, with options as ggem:groups=6,p=2; repeat for more; "
        f"the first is what the others are compared with (default: {', '.join(COMPARED)})",
    )
    add_out(parser, "folder for the features and tables")
    parser.add_argument(
        "--scores",
        action="append",
        default=[],
        choices=FEATURE_SCORES,
        help="one of the scores; repeat for more (default: all)",
    )
    parser.add_argument("--train", type=int, metavar="N", help="training photos to draw (default: all)")
    parser.add_argument("--val", type=int, metavar="N", help="held-out photos to draw (default: all)")
    parser.add_argument("--size", type=int, help="side of the square in pixels (default: each checkpoint's own)")
    parser.add_argument(
        "--batch", type=int, default=FeatureSettings().batch, help="photos of a forward pass (default: %(default)s)"
    )
    parser.add_argument("--seed", type=int, default=0, help="of the draw of photos (default: %(default)s)")
    parser.add_argument(
        "--sweep", action="store_true", help="also GeM with each of --powers, and GGeM whose groups choose among them"
    )
    lists: tuple[tuple[str, Callable[[str], float], Sequence[float], str], ...] = (
        ("--groups", int, GROUPS_SWEPT, "numbers of channel groups"),
        ("--powers", float, POWERS_SWEPT, "exponents"),
    )
    for option, number, swept, what in lists:
        shown = ",".join(f"{value:g}" for value in swept)
        read = partial(_listed, number)
        parser.add_argument(option, type=read, metavar="LIST", help=f"with --sweep: {what} (default: {shown})")
    parser.add_argument("--results", type=Path, metavar="FILE", help="also put the tables into this JSON file")
    parser.add_argument("--name", default="", help="with --results: what the names of its tables begin with")
    add_device(parser)


def _run(arguments: argparse.Namespace) -> None:
    from simpool_viz.batch.preparing import unique_key
    from simpool_viz.evaluation.exponent_sweep import ExponentSweep, score_sweep
    from simpool_viz.evaluation.keeping import write_tables
    from simpool_viz.evaluation.pooled_features import (
        COMPARED,
        FeatureSettings,
        parse_pooling,
        pool_photos,
        require_same_classes,
    )
    from simpool_viz.evaluation.representation import representation_table, score_poolings
    from simpool_viz.scores.results import keep_tables, read_results
    from simpool_viz.training.sources import open_source

    requests = [parse_pooling(text) for text in arguments.pooling or COMPARED]
    if (arguments.groups or arguments.powers) and not arguments.sweep:
        raise OptionError("--groups and --powers say what is swept; add --sweep, or leave them out")
    chosen = {"groups": arguments.groups, "powers": arguments.powers}
    sweep = ExponentSweep(**{name: given for name, given in chosen.items() if given}) if arguments.sweep else None
    requests += sweep.requests if sweep else []
    counts = {"train": arguments.train, "val": arguments.val}
    settings = {
        split: FeatureSettings(arguments.size, count, arguments.batch, arguments.seed)
        for split, count in counts.items()
    }
    sources = {split: open_source(arguments.data, split) for split in counts}
    require_same_classes(sources["train"], sources["val"])
    if arguments.results and arguments.results.exists():
        read_results(arguments.results)  # refused before minutes of work
    encoders = chosen_encoders(arguments)
    cache = arguments.out / "features"
    train_features, val_features = (
        pool_photos(encoders, requests, sources[split], settings[split], cache, split) for split in counts
    )
    data = arguments.data.resolve().name
    tables: dict[str, Table] = {}
    firsts, photos = [], ""
    for train, val in zip(train_features, val_features, strict=True):
        for note in train.notes:
            print(note, file=sys.stderr)
        rows = score_poolings(train, val, arguments.scores)
        rows += score_sweep(train, val, sweep, arguments.scores) if sweep else []
        firsts.append(rows[0])
        photos = f"**{data}**, {len(val.classes):,} held-out photos, {len(train.classes):,} training photos"
        if len(rows) > 1:
            tables[unique_key(train.encoder.facts.name, tables)] = representation_table(rows, photos)
    if len(firsts) > 1 or not tables:
        tables[unique_key("checkpoints", tables)] = representation_table(firsts, photos)
    tables = {name: replace(table, command=measuring_command(arguments.words)) for name, table in tables.items()}
    print("\n\n".join(table.markdown() for table in tables.values()) + "\n")
    write_tables(arguments.out, tables, data)
    if arguments.results:
        start = "/".join(filter(None, (arguments.name, data)))
        keep_tables(arguments.results, {f"{start}/{name}": table for name, table in tables.items()})
    print(f"{arguments.out} holds the tables and, for other scores, the features")


def _listed(number: Callable[[str], float], text: str) -> tuple[float, ...]:
    try:
        return tuple(map(number, text.split(",")))
    except ValueError:
        raise argparse.ArgumentTypeError(f"numbers with commas between them, as 1,2,6, not {text!r}") from None


COMMAND = Command(
    "retrieve", "score features of poolings: k-NN, linear probe, retrieval", _add_options, _run, DESCRIPTION
)
