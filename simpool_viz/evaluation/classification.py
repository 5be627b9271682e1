"""The table of top-1 accuracies, with paired differences between checkpoints on the same photos."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from simpool_viz.evaluation.table import interval
from simpool_viz.modeling.encoder import Encoder
from simpool_viz.outputs import markdown_table


@dataclass(frozen=True)
class Classified:
    """Which photos a checkpoint classified correctly.

    Attributes:
        encoder: the checkpoint.
        right: (n,) bool, in the order of the photos.
    """

    encoder: Encoder
    right: np.ndarray


def classification_table(rows: Sequence[Classified], photos: str) -> str:
    """Top-1 of each checkpoint and its difference to the first one, as a Markdown table.

    Args:
        rows: results on the same photos in the same order; the first is the one that the others are compared with.
        photos: name of the set of photos, for the heading.

    Returns:
        Markdown; top-1 in per cent and differences in points, with 95 % bootstrap intervals over photos. Differences
        are paired by photo.
    """
    first = rows[0]
    head = [
        "checkpoint",
        "pooling",
        "parameters",
        "training",
        "top-1 (%)",
        f"against {first.encoder.facts.name} (points)",
    ]
    lines = []
    for row in rows:
        facts, parameters = row.encoder.facts, sum(p.numel() for p in row.encoder.parameters())
        cells = [
            facts.name,
            row.encoder.pooling.title,
            f"{parameters / 1e6:.2f} M",
            f"{facts.minutes:.0f} min" if facts.minutes else "",
        ]
        cells.append(points(row.right))
        cells.append("" if row is first else points(row.right.astype(float) - first.right, signed=True))
        lines.append(cells)
    return f"**{photos}**, {len(first.right):,} photos\n\n{markdown_table(head, lines)}"


def points(values: np.ndarray, signed: bool = False) -> str:
    """The mean of shares in per cent with its 95 % bootstrap interval, such as "81.0 [78.2, 83.6]".

    Args:
        values: (n,) shares in [0, 1] or booleans, or differences of shares.
        signed: whether to write the sign, as differences need.
    """
    mean, low, high = (100 * value for value in interval(np.asarray(values, float)))
    sign = "+" if signed else ""
    return f"{mean:{sign}.1f} [{low:{sign}.1f}, {high:{sign}.1f}]"
