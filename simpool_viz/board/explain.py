"""What a map or a pooling is, in two sentences, a formula and a paper; the texts stand in the registries."""

from __future__ import annotations

from dataclasses import dataclass

from simpool_viz.board.board import Row
from simpool_viz.maps.registry import map_methods
from simpool_viz.modeling.pooling import poolings
from simpool_viz.modeling.pooling.own import OwnHead


@dataclass(frozen=True)
class Explanation:
    """What a map or a pooling is.

    Attributes:
        title: its name for a reader.
        summary: two sentences.
        formula: "" where there is none.
        paper: "" where there is none.
    """

    title: str
    summary: str
    formula: str
    paper: str


def explain_map(name: str) -> Explanation:
    """The explanation of a map.

    Args:
        name: as registered.

    Raises:
        KeyError: no map is registered under that name.
    """
    method = map_methods()[name]
    return Explanation(method.title, method.summary, method.formula, method.paper)


def explain_pooling(name: str) -> Explanation:
    """The explanation of a pooling.

    Args:
        name: as registered, or that of `OwnHead`.

    Raises:
        KeyError: no pooling has that name.
    """
    pooling = (poolings() | {OwnHead.name: OwnHead})[name]
    return Explanation(f"{pooling.title} pooling", pooling.summary, pooling.formula, pooling.paper)


def explain_row(row: Row) -> list[Explanation]:
    """The explanations of a row's map and of its checkpoint's pooling, in this order."""
    return [explain_map(row.attention.method), explain_pooling(row.pooling)]
