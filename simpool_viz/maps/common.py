"""What several families of maps share: token rows to grids, and reasons why a checkpoint lacks a map."""

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
    """Rows over all tokens (..., P + N) or over the patches (..., N) -> grids (..., h, w) float32, prefixes dropped."""
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
    """An AttentionMap from rows over tokens (M, P + N) or (M, N); rows and logits leave the device in one transfer."""
    weights = patch_maps(recording, rows[None] if logits is None else torch.stack([wide(rows), wide(logits)]))
    scores = None if logits is None else weights[1]
    return AttentionMap(weights[0], tuple(names), recording.geometry, method, unit, scores, note, fusion)


def wanted_classes(recording: Recorded, classes: Sequence[int | str] | int | str | None) -> tuple[list[int], list[str]]:
    """Indices and names of the classes whose logits a map is made for: the predicted one where none is named.

    Raises:
        OptionError: an unknown class.
    """
    encoder, logits = recording.encoder, recording.logits
    assert logits is not None, "why_not asks for a head"
    wanted = [int(logits.argmax())] if classes is None else class_indices(encoder, classes, len(logits))
    return wanted, [class_name(encoder, c) for c in wanted]


def needs_blocks(encoder: Encoder) -> str | None:
    """Why a map of attention blocks does not apply, or None."""
    return None if encoder.depth else "its backbone is a CNN, which has no attention blocks"


def needs_classifier(encoder: Encoder) -> str | None:
    """Why a map of a class of the whole picture does not apply, or None."""
    if encoder.dense:
        return "its head classifies tokens, not the whole picture; 'dense_rollout' shows what it finds"
    return None if encoder.head is not None else "it has no head, so there is no class to follow"


def head_names(count: int) -> tuple[str, ...]:
    return tuple(f"head {i}" for i in range(count))


def one_block(depth: int, options: dict[str, Any]) -> Sequence[int]:
    """The block that the option `block` names, the last by default; none where it does not fit, which the map then
    says."""
    block = options.get("block", -1)
    return [block % depth] if isinstance(block, int) and -depth <= block < depth else []


def blocks_from_first(depth: int, options: dict[str, Any]) -> Sequence[int]:
    """The blocks that a roll-out walks through."""
    first = options.get("first", 0)
    return range(first, depth) if isinstance(first, int) and first >= 0 else []
