"""Makes maps by name from a recording; roll-outs with the same options share one pass through the blocks."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from simpool_viz.capture.hooks import Keep
from simpool_viz.capture.recorded import Recorded
from simpool_viz.errors import AbsentClassError, MapError, bind_options
from simpool_viz.maps.attention_map import AttentionMap
from simpool_viz.maps.registry import PendingRollout, resolve_map
from simpool_viz.maps.rollout_chain import MEASURED, RolloutOptions, roll_out
from simpool_viz.modeling.encoder import Encoder
from simpool_viz.tensors import enough_memory


def attention_needed(encoder: Encoder, requests: Sequence[tuple[str, dict[str, Any]]]) -> Keep:
    """What some maps of a checkpoint need of its attention: the blocks, and their skip shares where a map takes them.

    Args:
        encoder: the checkpoint.
        requests: (name, options) of each map.

    Raises:
        OptionError: neither a map nor a pooling has one of the names.
    """
    methods = [(*resolve_map(encoder, name), options) for name, options in requests]
    blocks: set[int] = set()
    means: set[int] = set()
    for method, reason, options in methods:
        if reason is None:
            (means if method.by_mean(options) else blocks).update(method.blocks(encoder.depth, options))
    measured = any(options.get("residual") == MEASURED for _, options in requests)
    return Keep(frozenset(blocks), frozenset(means), measured)


def make_map(recording: Recorded, name: str, **options: Any) -> AttentionMap:
    """Make a map by name.

    Args:
        recording: the data of one forward pass.
        name: as for `resolve_map`.
        options: of the map's method.

    Raises:
        OptionError: no such method, or options that it does not take.
        MapError: the checkpoint does not have this map.
        AbsentClassError: a map of a class that no token has.
    """
    return make_maps(recording, [(name, options)])[0][0]


def make_maps(recording: Recorded, requests: Sequence[tuple[str, dict[str, Any]]]) -> list[tuple[AttentionMap, float]]:
    """Make several maps; roll-outs with the same options share one pass through the blocks.

    Args:
        recording: the data of one forward pass.
        requests: (name, options) of each map.

    Returns:
        Each map with its seconds; those of a shared pass are divided equally among its maps.

    Raises:
        OptionError: as in `make_map`.
        MapError: as in `make_map`.
        AbsentClassError: as in `make_map`.
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
    """Make several maps as `make_maps` does, but return the error of a class that no token has in place of its map.

    Args:
        recording: the data of one forward pass.
        requests: (name, options) of each map.

    Returns:
        Each map with its seconds, or its `AbsentClassError`.

    Raises:
        OptionError: as in `make_map`, or the maps need more memory than the device has.
        MapError: as in `make_map`.
    """
    made: list[AttentionMap | PendingRollout | AbsentClassError] = []
    seconds = []
    for name, options in requests:
        started = time.perf_counter()
        try:
            made.append(_start(recording, name, options))
        except AbsentClassError as error:
            made.append(error)
        seconds.append(time.perf_counter() - started)
    for chain in {m.options for m in made if isinstance(m, PendingRollout)}:
        started = time.perf_counter()
        sharing = [(i, m) for i, m in enumerate(made) if isinstance(m, PendingRollout) and m.options == chain]
        rolled = _roll_out_together(recording, chain, [m.weights for _, m in sharing])
        for (i, m), rows in zip(sharing, rolled, strict=True):
            made[i] = m.finish(rows)
        for i, _ in sharing:
            seconds[i] += (time.perf_counter() - started) / len(sharing)
    outcomes: list[tuple[AttentionMap, float] | AbsentClassError] = []
    for one, taken in zip(made, seconds, strict=True):
        assert not isinstance(one, PendingRollout), "every roll-out has been computed"
        outcomes.append(one if isinstance(one, AbsentClassError) else (one, taken))
    return outcomes


def _start(recording: Recorded, name: str, options: dict[str, Any]) -> AttentionMap | PendingRollout:
    """A map, or the roll-out from which it will be made."""
    method, reason = resolve_map(recording.encoder, name)
    if reason:
        raise MapError(reason)
    bind_options(f"map {name!r}", method.make, recording, **options)
    return method.make(recording, **options)


def _roll_out_together(recording: Recorded, options: RolloutOptions, weights: list[Tensor]) -> list[Tensor]:
    """W R (C, N) for each of several W (C, N), in one pass through the blocks."""
    with torch.inference_mode():
        rolled = roll_out(
            torch.cat(weights),
            recording.blocks.averaged() if options.by_mean else recording.blocks,
            first=options.first,
            residual=options.residual,
            fusion=options.fusion,
            discard=options.discard,
        )
    return list(rolled.split([len(w) for w in weights]))
