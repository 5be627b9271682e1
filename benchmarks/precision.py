"""How far maps and masks in bfloat16 are from those in float32, and how long the forward takes in each:
`python benchmarks/precision.py --results models/results.json`, then `python docs/make_results.py`.

For every bundled checkpoint, on the example photos, of its own maps: the largest difference as a share of the map's
peak, and the lowest IoU of the two masks. `--precision auto` takes bfloat16 on a CPU where both lie within the limits
of `simpool_viz.checkpoints.precision`, which this writes into the table. The ratio of times is the median over rounds
in which both precisions take their turn.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).parent.parent))

from benchmarks.measure import in_turns, keep_table
from simpool_viz import load_checkpoint, record
from simpool_viz.board.board import Settings, record_rows
from simpool_viz.bundled import bundled_folder
from simpool_viz.checkpoints.catalogue import bundled_names
from simpool_viz.checkpoints.precision import LARGEST_DIFFERENCE, LEAST_IOU, TABLE
from simpool_viz.images import Picture, read_picture
from simpool_viz.maps.registry import OWN
from simpool_viz.maps.request import MapRequest
from simpool_viz.modeling.encoder import Encoder
from simpool_viz.scores.results import Cell, Column, Table

COLUMNS = (
    Column("checkpoint", "checkpoint", "text"),
    Column("difference", "largest difference of a map, of its peak"),
    Column("iou", "lowest IoU of the masks", "share"),
    Column("time", "forward in bfloat16, x that in float32"),
    Column("taken", "taken by `auto`", "text"),
)


def compare(exact: Encoder, half: Encoder, photos: Sequence[Picture]) -> tuple[float, float]:
    """The largest difference of the checkpoint's own maps as a share of their peaks, and the lowest IoU of masks.

    Args:
        exact: the checkpoint in float32.
        half: the same in the other precision.
        photos: on which both are recorded.
    """
    differences, ious = [], []
    for photo in photos:
        rows = [record_rows(record(one, photo), [MapRequest(OWN)], Settings())[0] for one in (exact, half)]
        for one, other in zip(*rows, strict=True):
            a, b = one.attention.weights, other.attention.weights
            differences.append(float(np.abs(a - b).max() / max(float(np.abs(a).max()), 1e-12)))
            union = (one.mask.grid | other.mask.grid).sum()
            ious.append(float((one.mask.grid & other.mask.grid).sum() / union) if union else 1.0)
    return max(differences), min(ious)


def table_of(names: Sequence[str], photos: Sequence[Picture], rounds: int, command: str) -> Table:
    """The table for some bundled checkpoints."""
    rows: list[dict[str, Cell]] = []
    for name in names:
        exact, half = (load_checkpoint(name, device="cpu", precision=p) for p in ("float32", "bfloat16"))
        difference, iou = compare(exact, half, photos)
        works: dict[str, Callable[[], Any]] = {
            kind: partial(record, one, photos[0], keep=()) for kind, one in (("exact", exact), ("half", half))
        }
        taken = in_turns(works, rounds)
        ratio = statistics.median(b / a for a, b in zip(taken["exact"], taken["half"], strict=True))
        fits = difference <= LARGEST_DIFFERENCE and iou >= LEAST_IOU
        row: dict[str, Cell] = {"checkpoint": name, "difference": round(difference, 4), "iou": round(iou, 3)}
        rows.append(row | {"time": round(ratio, 2), "taken": "yes" if fits else "no"})
        print(rows[-1], flush=True)
    title = f"**bfloat16 on a CPU**, {len(photos)} example photos, within {LARGEST_DIFFERENCE:g} and {LEAST_IOU:g}"
    return Table(title, COLUMNS, tuple(rows), command)


def main(given: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-c", "--checkpoint", action="append", default=[], help="bundled; all by default")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--results", type=Path, help="the results file to put the table into")
    arguments = parser.parse_args(given)
    names = arguments.checkpoint or [name for name in bundled_names() if "+" not in name]
    photos = [read_picture(path) for path in sorted(bundled_folder("assets").glob("*.jpg"))]
    torch.manual_seed(0)
    table = table_of(names, photos, arguments.rounds, "python benchmarks/precision.py --results models/results.json")
    keep_table(TABLE, table, arguments.results)
    return 0


if __name__ == "__main__":
    sys.exit(main())
