"""What a map is, and the registry of the methods that make maps.

A method is one function `Recording -> AttentionMap` with one registration line (see `maps/`); it then appears in the
app, the command line, the API and the tables. A method that a checkpoint cannot have says why.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from simpool_viz.images import Geometry
from simpool_viz.masks import ObjectMask, make_mask
from simpool_viz.pooling import Pooling, poolings
from simpool_viz.rollout import Walk, roll_out

if TYPE_CHECKING:
    from simpool_viz.encoder import Encoder
    from simpool_viz.recording import Recording

FUSIONS: dict[str, Callable[..., np.ndarray]] = {"mean": np.mean, "max": np.max, "min": np.min}


@dataclass(frozen=True)
class AttentionMap:
    """One or more maps on a token grid.

    weights: (M, h, w) float32, raw: never min-max scaled.
    names: M names: heads, queries, classes.
    unit: "uniform" for weights that sum to 1 (or less, where prefix tokens hold the rest), "mean" for non-negative values of
        any scale (gates, norms, Grad-CAM), "logit" for signed ones (contributions).
    logits: (M, h, w) float32 scores before the softmax, where the map has them.
    method: the registered name of what made it.
    note: what a viewer must know, such as that a map is a heuristic; "" for most.
    fusion: how several maps are best seen as one: "mean", "max" or "min".
    """

    weights: np.ndarray
    names: tuple[str, ...]
    geometry: Geometry
    method: str
    unit: str = "uniform"
    logits: np.ndarray | None = None
    note: str = ""
    fusion: str = "mean"

    def __post_init__(self) -> None:
        if self.unit not in ("uniform", "mean", "logit"):
            raise ValueError(f"{self.method}: the unit of a map is uniform, mean or logit, not {self.unit!r}")
        if self.weights.ndim != 3 or self.weights.shape[1:] != self.geometry.grid or len(self.names) != len(self.weights):
            raise ValueError(
                f"{self.method}: maps of shape {self.weights.shape} do not fit grid {self.geometry.grid} and names {self.names}"
            )

    @property
    def signed(self) -> bool:
        """Whether values may be negative."""
        return self.unit == "logit"

    def fused(self, how: str | int | None = None) -> np.ndarray:
        """One map (h, w): the mean, max or min over the M maps, or the map of one index or name; `fusion` where left out.

        Raises:
            ValueError: no such fusion, index or name.
        """
        how = self.fusion if how is None else how
        if isinstance(how, str) and how in FUSIONS:
            return FUSIONS[how](self.weights, axis=0).astype(np.float32)
        index = self.names.index(how) if how in self.names else how
        index = int(index) if isinstance(index, np.integer) else index
        if isinstance(index, bool) or not isinstance(index, int) or not -len(self.names) <= index < len(self.names):
            raise ValueError(f"{how!r} is no fusion ({', '.join(FUSIONS)}), name ({', '.join(self.names)}) or index of {self.method}")
        return self.weights[index]

    def mask(
        self, rule: str = "mass", amount: float | None = None, *, largest: bool = False, fusion: str | int | None = None
    ) -> ObjectMask:
        """Threshold the fused map.

        Args:
            rule: "mass", "area", "quantile", "mean" or "otsu".
            amount: the rule's share in (0, 1]; its default where left out.
            largest: keep only the largest component.
            fusion: as in `fused`.
        """
        return make_mask(self.fused(fusion), self.geometry, rule, amount, largest)

    def entropy(self, mode: str = "mass") -> tuple[float, str]:
        """Spatial entropy in nats, the mean over the M maps, and whether "logits" or "weights" were measured.

        0 is one connected blob; ln n is n equal ones. See `scores.spatial_entropy`.
        """
        from simpool_viz.scores.spatial_entropy import spatial_entropy

        scores = self.weights if self.logits is None else self.logits
        return float(spatial_entropy(torch.from_numpy(scores), mode).mean()), "weights" if self.logits is None else "logits"


@dataclass(frozen=True)
class Rolled:
    """A map that is read from W R and is not made yet, so that several share one walk through the blocks.

    weights: W (C, N) over all tokens. finish: W R (C, N) -> the map.
    """

    weights: Tensor
    walk: Walk
    finish: Callable[[Tensor], AttentionMap]


@dataclass(frozen=True)
class MapMethod:
    """A registered way to make a map.

    summary: two sentences. formula, paper: as a visitor reads them.
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


def map_methods() -> dict[str, MapMethod]:
    """Every registered method by name, and every pooling whose weights need no training: it can be put on any features."""
    import simpool_viz.maps  # noqa: F401  importing the package registers its methods

    untrained = {p.name: _pooled_again(p) for p in poolings().values() if p.attentive and not p.learned}
    return {**_METHODS, **untrained}


def _pooled_again(pooling: type[Pooling]) -> MapMethod:
    def make(recording: Recording, **options: Any) -> AttentionMap:
        from simpool_viz.maps.pooling import pooled_again

        return replace(pooled_again(recording, pooling.name, options), method=pooling.name)

    title = f"{pooling.title} of the features"
    return MapMethod(pooling.name, title, pooling.summary, pooling.formula, pooling.paper, make, lambda encoder: None, no_blocks)


def maps_of(encoder: Encoder) -> dict[str, str | None]:
    """For every method, None where the encoder has it, else why not."""
    return {name: method.why_not(encoder) for name, method in map_methods().items()}


def resolve_map(encoder: Encoder, name: str) -> tuple[MapMethod, str | None]:
    """The method of a name, and None where the checkpoint has it, else a sentence that says why not.

    A pooling's name ("simpool") stands for the pooling attention of checkpoints that pool so.

    Raises:
        ValueError: neither a map nor a pooling has that name.
    """
    methods, own, title = map_methods(), encoder.pooling, encoder.facts.title or encoder.facts.name
    if name in methods:
        method, reason = methods[name], methods[name].why_not(encoder)
    elif name in poolings():
        method = methods["pooling"]
        reason = method.why_not(encoder) if name == own.name else f"it pools by {own.title}, not by {poolings()[name].title}"
    else:
        offered = ", ".join(n for n, why in maps_of(encoder).items() if not why)
        raise ValueError(f"{encoder.facts.name} has no map {name!r}; its maps are {offered}")
    return method, None if reason is None else f"{title} has no {method.title} map: {reason}"


def blocks_needed(encoder: Encoder, requests: Sequence[tuple[str, dict[str, Any]]]) -> set[int]:
    """The numbers of the blocks whose attention some maps, as (name, options), need of a checkpoint.

    Raises:
        ValueError: neither a map nor a pooling has one of the names.
    """
    methods = [(*resolve_map(encoder, name), options) for name, options in requests]
    return {block for method, reason, options in methods if reason is None for block in method.blocks(encoder.depth, options)}


def make_map(recording: Recording, name: str, **options: Any) -> AttentionMap:
    """Make a map by name, as `resolve_map` understands it.

    Raises:
        ValueError: no such method, one the checkpoint cannot have, or options it does not take.
    """
    return make_maps(recording, [(name, options)])[0][0]


def make_maps(recording: Recording, requests: Sequence[tuple[str, dict[str, Any]]]) -> list[tuple[AttentionMap, float]]:
    """Make several maps, as (name, options); those that walk alike through the blocks do it together.

    Returns:
        Each map with its seconds, those of a shared walk shared equally.

    Raises:
        ValueError: as in `make_map`.
    """
    made: list[AttentionMap | Rolled] = []
    seconds = []
    for name, options in requests:
        started = time.perf_counter()
        made.append(_start(recording, name, options))
        seconds.append(time.perf_counter() - started)
    for walk in {m.walk for m in made if isinstance(m, Rolled)}:
        started = time.perf_counter()
        alike = [(i, m) for i, m in enumerate(made) if isinstance(m, Rolled) and m.walk == walk]
        rolled = _walk(recording, walk, [m.weights for _, m in alike])
        for (i, m), rows in zip(alike, rolled, strict=True):
            made[i] = m.finish(rows)
        for i, _ in alike:
            seconds[i] += (time.perf_counter() - started) / len(alike)
    return [(m, s) for m, s in zip(made, seconds, strict=True) if isinstance(m, AttentionMap)]


def _start(recording: Recording, name: str, options: dict[str, Any]) -> AttentionMap | Rolled:
    method, reason = resolve_map(recording.encoder, name)
    if reason:
        raise ValueError(reason)
    try:
        return method.make(recording, **options)
    except TypeError as error:
        if "unexpected keyword argument" not in str(error) and "missing" not in str(error):
            raise
        raise ValueError(f"map {name!r}: {str(error).split('()')[-1].strip()}") from error


def _walk(recording: Recording, walk: Walk, weights: list[Tensor]) -> list[Tensor]:
    """W R for several W, in one walk."""
    with torch.inference_mode():
        rolled = roll_out(torch.cat(weights), recording.blocks, first=walk.first, residual=walk.residual, fusion=walk.fusion)
    return list(rolled.split([len(w) for w in weights]))
