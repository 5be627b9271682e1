"""The command `evaluate`: scores of maps on photos with masks, top-1 on held-out photos, dense heads on scenes."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from simpool_viz.cli.options import (
    Command,
    add_computation,
    add_engine,
    add_object_ids,
    add_out,
    add_overwrite,
    alternatives,
    chosen_encoders,
    chosen_engine,
    chosen_settings,
    measuring_command,
    residual_weight,
)
from simpool_viz.errors import OptionError

if TYPE_CHECKING:
    from simpool_viz.batch.preparing import Fault
    from simpool_viz.evaluation.datasets import DataSet
    from simpool_viz.evaluation.passes import Pace
    from simpool_viz.modeling.encoder import Encoder
    from simpool_viz.scores.results import Table


def _add_options(parser: argparse.ArgumentParser) -> None:
    from simpool_viz.evaluation.datasets import data_set_kinds
    from simpool_viz.evaluation.datasets.backgrounds import BACKGROUNDS
    from simpool_viz.evaluation.passes import Pace
    from simpool_viz.maps.rollout_chain import RolloutOptions
    from simpool_viz.scores.faithfulness import STEPS

    parser.add_argument(
        "data",
        nargs="*",
        type=Path,
        metavar="DATASET",
        help=f"a folder of one of these kinds: {', '.join(data_set_kinds())} (see docs/evaluate.md)",
    )
    add_out(parser, "folder for rows.parquet, tables, plots and boards; a run that was stopped goes on", required=False)
    add_overwrite(parser)
    parser.add_argument(
        "--data-set", default="", metavar="KIND", help="the kind of DATASET (default: the first that it holds whole)"
    )
    parser.add_argument(
        "--split", default="", metavar="NAME", help="of DATASET, such as val or train (default: the usual one)"
    )
    parser.add_argument(
        "--faithfulness",
        type=int,
        nargs="?",
        const=STEPS,
        default=0,
        metavar="STEPS",
        help=f"with OUT: insertion and deletion too, by so many steps of a forward each (default: {STEPS})",
    )
    parser.add_argument(
        "--batch", type=int, default=Pace().batch, help="photos of a forward pass (default: %(default)s)"
    )
    parser.add_argument(
        "--workers",
        type=int,
        help="processes that read photos, and as many that score them; 0 for none (default: half the cores)",
    )
    parser.add_argument(
        "--part",
        type=int,
        metavar="N",
        help="with OUT: photos of a part, of which a stopped run keeps those that are whole (default: 8 batches)",
    )
    add_engine(parser, "with OUT")
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
        type=residual_weight,
        default=RolloutOptions().residual,
        help="with --scenes: weight of the skip connection in roll-outs, or measured: each block's own (default: "
        "%(default)s)",
    )
    parser.add_argument(
        "--rules",
        action="store_true",
        help="compare mask rules, amounts, smoothings and components instead of maps",
    )
    parser.add_argument(
        "--protocols",
        action="store_true",
        help="MaxBoxAccV2, MaxBoxAcc, CorLoc, PxAP and maximal F-beta of the set instead",
    )
    parser.add_argument(
        "--backgrounds",
        action="append",
        default=[],
        metavar="KIND",
        help=f"instead, how scores change on other backgrounds: {alternatives(BACKGROUNDS)}; repeat for more",
    )
    parser.add_argument(
        "--pair",
        action="append",
        default=[],
        metavar="ONE:OTHER",
        help="with --photos: also the difference of these two checkpoints' top-1; can be repeated",
    )
    parser.add_argument("--results", type=Path, metavar="FILE", help="also put the tables into this JSON file")
    parser.add_argument(
        "--name", default="", help="with --results: what the names of its tables begin with (default: none)"
    )
    add_object_ids(parser)
    add_computation(parser)


def _run(arguments: argparse.Namespace) -> None:
    from simpool_viz.batch.boards import Job
    from simpool_viz.evaluation.classification import classification_table, pairs_table
    from simpool_viz.evaluation.datasets import open_data_set
    from simpool_viz.evaluation.datasets.backgrounds import with_backgrounds
    from simpool_viz.evaluation.mask_rules import compare_cuts
    from simpool_viz.evaluation.passes import Pace
    from simpool_viz.evaluation.protocols import evaluate_protocols, protocols_table
    from simpool_viz.evaluation.robustness import backgrounds_table, evaluate_backgrounds
    from simpool_viz.evaluation.scenes import evaluate_scenes, scene_tables
    from simpool_viz.evaluation.table import evaluate, localization_table
    from simpool_viz.maps.request import parse_maps
    from simpool_viz.scores.results import keep_tables, read_results
    from simpool_viz.training.measure import classify_held_out

    requests, size = parse_maps(arguments.map), arguments.size
    if not (arguments.data or arguments.photos or arguments.scenes):
        raise OptionError("name a folder of photos with masks, or --photos, or --scenes")
    if arguments.results and arguments.results.exists():
        read_results(arguments.results)  # refused before hours of work
    if arguments.rules + arguments.protocols + bool(arguments.backgrounds) > 1:
        raise OptionError(
            "--rules, --protocols and --backgrounds are tables of their own; ask for one of them at a time"
        )
    pairs = [_pair(text) for text in arguments.pair]
    others = arguments.rules or arguments.protocols or arguments.photos or arguments.scenes or arguments.backgrounds
    if arguments.out and others:
        raise OptionError(
            "--out holds the tables of DATASET as it is; leave --rules, --protocols, --backgrounds, --photos and "
            "--scenes out"
        )
    if arguments.faithfulness and not arguments.out:
        raise OptionError("--faithfulness needs --out, where its table is kept")
    if (arguments.engine != "local" or arguments.part is not None) and not arguments.out:
        raise OptionError("--engine ray and --part need --out, where parts are kept")
    pace = Pace(arguments.batch, arguments.workers, progress=True, part=arguments.part)
    chosen_engine(arguments, None)  # refused before anything is loaded
    settings, ids = chosen_settings(arguments), arguments.object_ids
    sets = [open_data_set(folder, arguments.data_set, arguments.split, ids) for folder in arguments.data]
    for data in sets:
        for kind in arguments.backgrounds:
            with_backgrounds(data, kind)  # likewise
    encoders = chosen_encoders(arguments, dense=bool(arguments.scenes))
    tables: dict[str, Table] = {}

    def add(name: str, table: Table) -> None:
        print(table.markdown() + "\n")
        command = measuring_command(arguments.words)
        tables["/".join(filter(None, (arguments.name, name)))] = replace(table, command=command)
        if arguments.results:
            keep_tables(arguments.results, tables)

    if arguments.photos:
        photos = arguments.photos.resolve().name
        classified = classify_held_out(encoders, arguments.photos, size, progress=True)
        add(photos, classification_table(classified, f"{photos}, held out"))
        if pairs:
            add(f"{photos}/pairs", pairs_table(classified, pairs))
    if arguments.scenes:
        scored = evaluate_scenes(encoders, arguments.scenes, size, arguments.residual, progress=True)
        scenes = "/".join(arguments.scenes.resolve().parts[-2:])
        for name, table in scene_tables(scored, scenes).items():
            add(f"{scenes}/{name}", table)
    for data in sets:
        faults: list[Fault] = []
        asked: dict[str, Any] = {"pace": pace, "object_ids": ids, "faults": faults}
        if arguments.out:
            faults += _evaluate_into(arguments, data, encoders, pace, add, several=len(sets) > 1)
        elif arguments.rules:
            scores = compare_cuts(data, encoders, requests, settings, **asked)
            add(f"{data.name}/rules", scores.by_cut())
            add(f"{data.name}/default", scores.by_map())
        elif arguments.protocols:
            counted = evaluate_protocols(data, encoders, requests, settings, **asked)
            add(f"{data.name}/protocols", protocols_table(data, counted))
        elif arguments.backgrounds:
            changed = evaluate_backgrounds(data, Job(encoders, requests, settings), arguments.backgrounds, **asked)
            add(f"{data.name}/backgrounds", backgrounds_table(data, changed))
        else:
            methods = evaluate(data, encoders, requests, settings, **asked)
            add(data.name, localization_table(data, methods, settings))
        for fault in faults:
            print(f"left out: {fault.sentence}", file=sys.stderr)


def _evaluate_into(
    arguments: argparse.Namespace,
    data: DataSet,
    encoders: Sequence[Encoder],
    pace: Pace,
    add: Callable[[str, Table], None],
    several: bool,
) -> list[Fault]:
    """Evaluate into --out, one of several sets into a folder of its name there; the photos that were left out."""
    from simpool_viz.batch.boards import Job
    from simpool_viz.evaluation.keeping import evaluate_into
    from simpool_viz.export import plain_name
    from simpool_viz.maps.request import parse_maps

    cluster = chosen_engine(arguments, pace.workers_for(len(data)))
    settings = replace(chosen_settings(arguments), faithfulness=arguments.faithfulness)
    out = arguments.out / plain_name(data.name) if several else arguments.out
    made = evaluate_into(
        out,
        data,
        Job(encoders, parse_maps(arguments.map), settings),
        pace,
        arguments.object_ids,
        overwrite=arguments.overwrite,
        command=measuring_command(arguments.words),
        cluster=cluster,
    )
    for note in made.notes:
        print(note, file=sys.stderr)
    for name, table in made.tables.items():
        add(f"{data.name}/{name}", table)
    print(f"{made.scored} photos scored, {made.earlier} of them by an earlier run; {out} holds rows, tables and plots")
    return made.faults


def _pair(text: str) -> tuple[str, str]:
    one, colon, other = text.partition(":")
    if not (one and colon and other):
        raise OptionError(f"--pair is written ONE:OTHER, two names of checkpoints, not {text!r}")
    return one, other


COMMAND = Command(
    "evaluate", "score maps on folders of photos with masks, and top-1; prints Markdown tables", _add_options, _run
)
