"""What several families of maps share: token rows to grids, and reasons why a checkpoint lacks a map."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from torch import Tensor

from simpool_viz.attention_map import AttentionMap
from simpool_viz.recording import Recording

if TYPE_CHECKING:
    from simpool_viz.encoder import Encoder


def patch_maps(recording: Recording, rows: Tensor) -> np.ndarray:
    """Rows over all tokens (M, P + N) or over the patches (M, N) -> grids (M, h, w) float32, prefixes dropped."""
    h, w = recording.geometry.grid
    return rows[:, rows.shape[1] - h * w :].float().cpu().numpy().reshape(-1, h, w)


def make_rows(
    recording: Recording,
    method: str,
    rows: Tensor,
    names: Sequence[str],
    *,
    logits: Tensor | None = None,
    unit: str = "uniform",
    note: str = "",
    fusion: str = "mean",
) -> AttentionMap:
    """An AttentionMap from rows over tokens (M, P + N) or (M, N)."""
    scores = None if logits is None else patch_maps(recording, logits)
    return AttentionMap(patch_maps(recording, rows), tuple(names), recording.geometry, method, unit, scores, note, fusion)


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
