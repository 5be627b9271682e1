"""Makes maps by name from what one forward pass recorded; maps that walk alike through the blocks do it together."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from simpool_viz.capture.recorded import Recorded
from simpool_viz.errors import AbsentClassError, MapError, bind_options
from simpool_viz.maps.attention_map import AttentionMap
from simpool_viz.maps.registry import Rolled, resolve_map
from simpool_viz.maps.rollout_chain import Walk, roll_out
from simpool_viz.modeling.encoder import Encoder
from simpool_viz.tensors import enough_memory


def blocks_needed(encoder: Encoder, requests: Sequence[tuple[str, dict[str, Any]]]) -> set[int]:
    """The numbers of the blocks whose attention some maps, as (name, options), need of a checkpoint.

    Raises:
        OptionError: neither a map nor a pooling has one of the names.
    """
    methods = [(*resolve_map(encoder, name), options) for name, options in requests]
    return {
        block
        for method, reason, options in methods
        if reason is None
        for block in method.blocks(encoder.depth, options)
    }


def make_map(recording: Recorded, name: str, **options: Any) -> AttentionMap:
    """Make a map by name, as `resolve_map` understands it.

    Raises:
        OptionError: no such method, or options that it does not take.
        MapError: one that the checkpoint cannot have.
    """
    return make_maps(recording, [(name, options)])[0][0]


def make_maps(recording: Recorded, requests: Sequence[tuple[str, dict[str, Any]]]) -> list[tuple[AttentionMap, float]]:
    """Make several maps, as (name, options); those that walk alike through the blocks do it together.

    Returns:
        Each map with its seconds, those of a shared walk shared equally.

    Raises:
        MapError, OptionError: as in `make_map`.
    """
    outcomes = make_each(recording, requests)
    for outcome in outcomes:
        if isinstance(outcome, AbsentClassError):
            raise outcome
    return [outcome for outcome in outcomes if not isinstance(outcome, AbsentClassError)]


@enough_memory()
def make_each(
    recording: Recorded, requests: Sequence[tuple[str, dict[str, Any]]]
) -> list[tuple[AttentionMap, float] | AbsentClassError]:
    """As `make_maps`, where a map of a class that no token has leaves the others alone: its error stands in its place.

    Raises:
        MapError, OptionError: as in `make_map`, but for absent classes.
    """
    made: list[AttentionMap | Rolled | AbsentClassError] = []
    seconds = []
    for name, options in requests:
        started = time.perf_counter()
        try:
            made.append(_start(recording, name, options))
        except AbsentClassError as error:
            made.append(error)
        seconds.append(time.perf_counter() - started)
    for walk in {m.walk for m in made if isinstance(m, Rolled)}:
        started = time.perf_counter()
        alike = [(i, m) for i, m in enumerate(made) if isinstance(m, Rolled) and m.walk == walk]
        rolled = _walk(recording, walk, [m.weights for _, m in alike])
        for (i, m), rows in zip(alike, rolled, strict=True):
            made[i] = m.finish(rows)
        for i, _ in alike:
            seconds[i] += (time.perf_counter() - started) / len(alike)
    outcomes: list[tuple[AttentionMap, float] | AbsentClassError] = []
    for one, taken in zip(made, seconds, strict=True):
        assert not isinstance(one, Rolled), "every chain has been run"
        outcomes.append(one if isinstance(one, AbsentClassError) else (one, taken))
    return outcomes


def _start(recording: Recorded, name: str, options: dict[str, Any]) -> AttentionMap | Rolled:
    method, reason = resolve_map(recording.encoder, name)
    if reason:
        raise MapError(reason)
    bind_options(f"map {name!r}", method.make, recording, **options)
    return method.make(recording, **options)


def _walk(recording: Recorded, walk: Walk, weights: list[Tensor]) -> list[Tensor]:
    """W R for several W, in one walk."""
    with torch.inference_mode():
        rolled = roll_out(
            torch.cat(weights), recording.blocks, first=walk.first, residual=walk.residual, fusion=walk.fusion
        )
    return list(rolled.split([len(w) for w in weights]))
