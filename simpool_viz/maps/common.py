"""Shared by several families of maps: token rows as grids, and reasons why a checkpoint does not have a map."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from simpool_viz.capture.recorded import Recorded
from simpool_viz.maps.attention_map import AttentionMap
from simpool_viz.modeling.classes import class_indices, class_name
from simpool_viz.modeling.encoder import Encoder
from simpool_viz.tensors import wide


def patch_maps(recording: Recorded, rows: Tensor) -> np.ndarray:
    """Rows over tokens as grids, prefix tokens dropped.

    Args:
        recording: it determines the grid (h, w).
        rows: (..., P + N) over all tokens, or (..., N) over the patches.

    Returns:
        (..., h, w) float32.
    """
    h, w = recording.geometry.grid
    return rows[..., rows.shape[-1] - h * w :].float().cpu().numpy().reshape(*rows.shape[:-1], h, w)


def make_rows(
    recording: Recorded,
    method: str,
    rows: Tensor,
    names: Sequence[str],
    *,
    logits: Tensor | None = None,
    unit: str = "uniform",
    note: str = "",
    fusion: str = "mean",
) -> AttentionMap:
    """An `AttentionMap` from rows over tokens; rows and logits are copied from the device in one transfer.

    Args:
        recording: it determines the geometry.
        method: the registered name of the map's method.
        rows: (M, P + N) over all tokens, or (M, N) over the patches.
        names: of the M maps.
        logits: scores before the softmax, of the shape of the rows.
        unit: as in `AttentionMap`.
        note: as in `AttentionMap`.
        fusion: as in `AttentionMap`.
    """
    weights = patch_maps(recording, rows[None] if logits is None else torch.stack([wide(rows), wide(logits)]))
    scores = None if logits is None else weights[1]
    return AttentionMap(weights[0], tuple(names), recording.geometry, method, unit, scores, note, fusion)


def wanted_classes(recording: Recorded, classes: Sequence[int | str] | int | str | None) -> tuple[list[int], list[str]]:
    """Indices and names of the classes for whose logits a map is made.

    Args:
        recording: of a checkpoint with a head.
        classes: names or indices; the predicted class where None.

    Raises:
        OptionError: an unknown class.
    """
    encoder, logits = recording.encoder, recording.logits
    assert logits is not None, "why_not requires a head"
    wanted = [int(logits.argmax())] if classes is None else class_indices(encoder, classes, len(logits))
    return wanted, [class_name(encoder, c) for c in wanted]


def needs_blocks(encoder: Encoder) -> str | None:
    """The reason why a checkpoint has no map of blocks that attend from all tokens to all, None where it has."""
    return encoder.lacks_matrices or None


def needs_classifier(encoder: Encoder) -> str | None:
    """The reason why a checkpoint has no map of a class of the whole picture, None where it has."""
    if encoder.dense:
        return "its head classifies tokens, not the whole picture; 'dense_rollout' shows what it finds"
    return None if encoder.head is not None else "it has no head, so there is no class to follow"


def head_names(count: int) -> tuple[str, ...]:
    """Names of the heads of a block, numbered from 0."""
    return tuple(f"head {i}" for i in range(count))


def one_block(depth: int, options: dict[str, Any]) -> Sequence[int]:
    """The number of the block of a map with the option `block`, the last by default.

    It is empty where the option does not fit, for which the map itself raises an error.

    Args:
        depth: number of blocks of the checkpoint.
        options: of the map.
    """
    block = options.get("block", -1)
    return [block % depth] if isinstance(block, int) and -depth <= block < depth else []


def blocks_from_first(depth: int, options: dict[str, Any]) -> Sequence[int]:
    """The numbers of the blocks of a roll-out, from its option `first` to the last.

    Args:
        depth: number of blocks of the checkpoint.
        options: of the map.
    """
    first = options.get("first", 0)
    return range(first, depth) if isinstance(first, int) and first >= 0 else []
