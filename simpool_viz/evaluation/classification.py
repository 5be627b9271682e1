"""The table of top-1 accuracies, with paired differences between checkpoints on the same photos."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from simpool_viz.errors import OptionError
from simpool_viz.modeling.encoder import Encoder
from simpool_viz.scores.results import Cell, Column, Table, measured


@dataclass(frozen=True)
class Classified:
    """Which photos a checkpoint classified correctly.

    Attributes:
        encoder: the checkpoint.
        right: (n,) bool, in the order of the photos.
    """

    encoder: Encoder
    right: np.ndarray


def classification_table(rows: Sequence[Classified], photos: str) -> Table:
    """Top-1 of each checkpoint and its difference to the first one, paired by photo.

    Args:
        rows: results on the same photos in the same order; the first is the one that the others are compared with.
        photos: name of the set of photos, for the heading.
    """
    first = rows[0]
    columns = (
        Column("checkpoint", "checkpoint"),
        Column("pooling", "pooling"),
        Column("parameters", "parameters"),
        Column("training", "training"),
        Column("top1", "top-1 (%)", "percent"),
        Column("above_first", f"against {first.encoder.facts.name} (points)", "points"),
    )
    lines: list[dict[str, Cell]] = [
        {
            "checkpoint": row.encoder.facts.name,
            "pooling": row.encoder.pooling.title,
            "parameters": parameters_of(row.encoder),
            "training": minutes_of(row.encoder),
            "top1": measured(row.right.astype(float)),
            "above_first": None if row is first else measured(row.right.astype(float) - first.right),
        }
        for row in rows
    ]
    return Table(f"**{photos}**, {len(first.right):,} photos", columns, tuple(lines))


def pairs_table(rows: Sequence[Classified], pairs: Sequence[tuple[str, str]]) -> Table:
    """Paired differences of top-1 between checkpoints.

    Args:
        rows: results on the same photos in the same order.
        pairs: names of checkpoints; the second is the one that the first is compared with.

    Raises:
        OptionError: a name that is none of the rows'.
    """
    right = {row.encoder.facts.name: row.right.astype(float) for row in rows}
    if unknown := [name for pair in pairs for name in pair if name not in right]:
        raise OptionError(f"--pair names {', '.join(unknown)}; the checkpoints are {', '.join(right)}")
    columns = (Column("pair", "against its sibling"), Column("top1", "top-1 (points)", "points"))
    lines: list[dict[str, Cell]] = [
        {"pair": f"{one} against {other}", "top1": measured(right[one] - right[other])} for one, other in pairs
    ]
    return Table(f"{len(rows[0].right):,} photos", columns, tuple(lines))


def parameters_of(encoder: Encoder) -> str:
    """The number of a checkpoint's parameters in millions."""
    return f"{sum(p.numel() for p in encoder.parameters()) / 1e6:.2f} M"


def minutes_of(encoder: Encoder) -> str:
    """The duration of a checkpoint's training, "" where it is not known."""
    return f"{encoder.facts.minutes:.0f} min" if encoder.facts.minutes else ""
