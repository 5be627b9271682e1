"""What a map or a pooling is, in two sentences, a formula and a paper, from the registries: for the place where a
reader meets it."""

from __future__ import annotations

from dataclasses import dataclass

from simpool_viz.board.board import Row
from simpool_viz.maps.registry import map_methods
from simpool_viz.modeling.pooling import poolings


@dataclass(frozen=True)
class Explanation:
    """title, summary (two sentences), formula and paper, "" where there is none."""

    title: str
    summary: str
    formula: str
    paper: str


def explain_map(name: str) -> Explanation:
    """A map by its registered name. Raises KeyError for another."""
    method = map_methods()[name]
    return Explanation(method.title, method.summary, method.formula, method.paper)


def explain_pooling(name: str) -> Explanation:
    """A pooling by its registered name. Raises KeyError for another."""
    pooling = poolings()[name]
    return Explanation(f"{pooling.title} pooling", pooling.summary, pooling.formula, pooling.paper)


def explain_row(row: Row) -> list[Explanation]:
    """The map of a row, then the pooling of its checkpoint."""
    return [explain_map(row.attention.method), explain_pooling(row.pooling)]
