"""The registry of the methods that make maps.

A method is one function `Recorded -> AttentionMap` with one registration line; it then appears in the app, the command
line, the API and the tables. For a checkpoint to which it does not apply, it states the reason.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any, TypeVar

from torch import Tensor

from simpool_viz.errors import MapError, OptionError
from simpool_viz.maps.attention_map import AttentionMap
from simpool_viz.maps.rollout_chain import RolloutOptions
from simpool_viz.modeling.encoder import Encoder
from simpool_viz.modeling.pooling import poolings


@dataclass(frozen=True)
class PendingRollout:
    """A map of W R whose roll-out R is still to be computed, so that several maps can share it.

    Attributes:
        weights: W (C, N) over all tokens.
        options: of the roll-out; maps with equal options share one pass through the blocks.
        finish: makes the map from W R (C, N).
    """

    weights: Tensor
    options: RolloutOptions
    finish: Callable[[Tensor], AttentionMap]


def never(options: dict[str, Any]) -> bool:
    """Of a map that needs more of attention than its mean over the heads, whatever the options."""
    return False


@dataclass(frozen=True)
class MapMethod:
    """A registered method that makes a map.

    Attributes:
        name: the name by which the map is requested.
        title: for readers.
        summary: two sentences for readers.
        formula: for readers; "" where there is none.
        paper: the source; "" where there is none.
        make: (recording, **options) -> AttentionMap, or PendingRollout.
        why_not: encoder -> None where the method applies, else the reason as a sentence without the full stop.
        blocks: (depth, options) -> the numbers of the blocks whose attention it needs.
        by_mean: options -> whether their mean over the heads is all that it needs of them.
    """

    name: str
    title: str
    summary: str
    formula: str
    paper: str
    make: Callable[..., AttentionMap | PendingRollout]
    why_not: Callable[[Encoder], str | None]
    blocks: Callable[[int, dict[str, Any]], Collection[int]]
    by_mean: Callable[[dict[str, Any]], bool] = never


def no_blocks(depth: int, options: dict[str, Any]) -> Collection[int]:
    """The blocks of a map that needs no attention of blocks: none."""
    return ()


_METHODS: dict[str, MapMethod] = {}
_FAMILIES: list[Callable[[], dict[str, MapMethod]]] = []
Made = TypeVar("Made", AttentionMap, PendingRollout, "AttentionMap | PendingRollout")


def register_map(
    name: str,
    title: str,
    summary: str,
    *,
    formula: str = "",
    paper: str = "",
    why_not: Callable[[Encoder], str | None],
    blocks: Callable[[int, dict[str, Any]], Collection[int]] = no_blocks,
    by_mean: Callable[[dict[str, Any]], bool] = never,
) -> Callable[[Callable[..., Made]], Callable[..., Made]]:
    """Decorator that registers a function `(recording, **options) -> AttentionMap`, or `-> PendingRollout`.

    Args:
        name: the name by which the map is requested.
        title: for readers.
        summary: two sentences for readers.
        formula: for readers; "" where there is none.
        paper: the source; "" where there is none.
        why_not: as in `MapMethod`.
        blocks: as in `MapMethod`.
        by_mean: as in `MapMethod`.
    """

    def register(function: Callable[..., Made]) -> Callable[..., Made]:
        _METHODS[name] = MapMethod(name, title, summary, formula, paper, function, why_not, blocks, by_mean)
        return function

    return register


def register_maps(family: Callable[[], dict[str, MapMethod]]) -> Callable[[], dict[str, MapMethod]]:
    """Decorator that registers a function which returns methods by name; it is called whenever they are listed."""
    _FAMILIES.append(family)
    return family


def map_methods() -> dict[str, MapMethod]:
    """Every registered map method by name, in the order in which every list shows them.

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
    """For every map method by name, None where it applies to the encoder, else the reason why it does not."""
    return {name: method.why_not(encoder) for name, method in map_methods().items()}


OWN = "own"  # requests the map of each checkpoint that shows how it pools


def own_map(encoder: Encoder) -> str:
    """The name of the map that shows how a checkpoint pools: its pooling attention, or CLS attention, or the
    contribution, and Grad-CAM where its head is of another kind.

    A class token counts where it is what is pooled, or where there is no head whose contributions could be shown. A
    dense head does not pool: its map is the Dense Attention Roll-Out, else the logits of the tokens.

    Raises:
        MapError: the checkpoint has none of these maps.
    """
    why_not = maps_of(encoder)
    reads_class_token = encoder.pooling.name == "cls" or encoder.head is None
    pooled = ("pooling", "cls", "contribution") if reads_class_token else ("pooling", "contribution", "cls", "gradcam")
    for name in ("dense_rollout", "class_logits") if encoder.dense else pooled:
        if why_not[name] is None:
            return name
    raise MapError(f"{encoder.facts.name} has neither pooling attention, CLS attention nor contribution; name a map")


def resolve_map(encoder: Encoder, name: str) -> tuple[MapMethod, str | None]:
    """The map method of a name, and whether it applies to a checkpoint.

    A pooling's name, such as "simpool", means the pooling attention of checkpoints with that pooling; "own" means the
    map that shows how the checkpoint pools (`own_map`).

    Args:
        encoder: the checkpoint.
        name: of a map method or of a pooling, or "own".

    Returns:
        The method, and None where it applies, else a sentence with the reason why it does not.

    Raises:
        OptionError: neither a map nor a pooling has that name.
        MapError: as in `own_map`.
    """
    name = own_map(encoder) if name == OWN else name
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
