"""The table of top-1 accuracies, with paired differences: how far one checkpoint is from another on the same photos."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from simpool_viz.evaluation.table import interval
from simpool_viz.modeling.encoder import Encoder
from simpool_viz.outputs import markdown_table


@dataclass(frozen=True)
class Classified:
    """A checkpoint and which photos it classified correctly: right (n,) bool, in the photos' order."""

    encoder: Encoder
    right: np.ndarray


def classification_table(rows: Sequence[Classified], photos: str) -> str:
    """Markdown: top-1 of each checkpoint, and its difference to the first one, with 95 % bootstrap intervals over
    photos.

    Args:
        photos: what was classified, for the heading.
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
    """The mean of shares in per cent, or of their differences in points, with its 95 % bootstrap interval."""
    mean, low, high = (100 * value for value in interval(np.asarray(values, float)))
    sign = "+" if signed else ""
    return f"{mean:{sign}.1f} [{low:{sign}.1f}, {high:{sign}.1f}]"
