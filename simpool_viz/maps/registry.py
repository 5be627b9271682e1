"""The registry of the methods that make maps.

A method is one function `Recorded -> AttentionMap` with one registration line; it then appears in the app, the command
line, the API and the tables. A method that a checkpoint cannot have says why.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any, TypeVar

from torch import Tensor

from simpool_viz.errors import OptionError
from simpool_viz.maps.attention_map import AttentionMap
from simpool_viz.maps.rollout_chain import Walk
from simpool_viz.modeling.encoder import Encoder
from simpool_viz.modeling.pooling import poolings


@dataclass(frozen=True)
class Rolled:
    """A map that is read from W R and is not made yet, so that several share one walk through the blocks.

    Attributes:
        weights: W (C, N) over all tokens.
        finish: W R (C, N) -> the map.
    """

    weights: Tensor
    walk: Walk
    finish: Callable[[Tensor], AttentionMap]


@dataclass(frozen=True)
class MapMethod:
    """A registered way to make a map.

    Attributes:
        summary: two sentences.
        formula: as a reader sees it, "" where there is none.
        paper: where it comes from, "" where there is none.
        make: (recording, **options) -> AttentionMap, or Rolled.
        blocks: (depth, options) -> the numbers of the blocks whose attention it needs.
        why_not: encoder -> None where it applies, else the reason in a sentence without the full stop.
    """

    name: str
    title: str
    summary: str
    formula: str
    paper: str
    make: Callable[..., AttentionMap | Rolled]
    why_not: Callable[[Encoder], str | None]
    blocks: Callable[[int, dict[str, Any]], Collection[int]]


def no_blocks(depth: int, options: dict[str, Any]) -> Collection[int]:
    """What a map needs that does not look into blocks."""
    return ()


_METHODS: dict[str, MapMethod] = {}
_FAMILIES: list[Callable[[], dict[str, MapMethod]]] = []
Made = TypeVar("Made", AttentionMap, Rolled, "AttentionMap | Rolled")


def register_map(
    name: str,
    title: str,
    summary: str,
    *,
    formula: str = "",
    paper: str = "",
    why_not: Callable[[Encoder], str | None],
    blocks: Callable[[int, dict[str, Any]], Collection[int]] = no_blocks,
) -> Callable[[Callable[..., Made]], Callable[..., Made]]:
    """Decorator: make a function `(recording, **options) -> AttentionMap` (or `Rolled`) available under `name`."""

    def register(function: Callable[..., Made]) -> Callable[..., Made]:
        _METHODS[name] = MapMethod(name, title, summary, formula, paper, function, why_not, blocks)
        return function

    return register


def register_maps(family: Callable[[], dict[str, MapMethod]]) -> Callable[[], dict[str, MapMethod]]:
    """Decorator: make the methods that a function lists available, those that it lists when it is asked."""
    _FAMILIES.append(family)
    return family


def map_methods() -> dict[str, MapMethod]:
    """Every registered method by name, in the order of every list.

    Examples:
        >>> from simpool_viz import map_methods
        >>> method = map_methods()["cls"]
        >>> method.title, method.paper
        ('CLS attention', 'Caron et al., ICCV 2021')
    """
    methods = dict(_METHODS)
    for family in _FAMILIES:
        methods |= family()
    return methods


def maps_of(encoder: Encoder) -> dict[str, str | None]:
    """For every method, None where the encoder has it, else why not."""
    return {name: method.why_not(encoder) for name, method in map_methods().items()}


def resolve_map(encoder: Encoder, name: str) -> tuple[MapMethod, str | None]:
    """The method of a name, and None where the checkpoint has it, else a sentence that says why not.

    A pooling's name ("simpool") stands for the pooling attention of checkpoints that pool so.

    Raises:
        OptionError: neither a map nor a pooling has that name.
    """
    methods, own, title = map_methods(), encoder.pooling, encoder.facts.title or encoder.facts.name
    if name in methods:
        method, reason = methods[name], methods[name].why_not(encoder)
    elif name in poolings():
        method = methods["pooling"]
        reason = (
            method.why_not(encoder) if name == own.name else f"it pools by {own.title}, not by {poolings()[name].title}"
        )
    else:
        offered = ", ".join(n for n, why in maps_of(encoder).items() if not why)
        raise OptionError(f"{encoder.facts.name} has no map {name!r}; its maps are {offered}")
    return method, None if reason is None else f"{title} has no {method.title} map: {reason}"
