"""What SAR adds to the cross entropy: the spatial entropy of the class token's last attention, and its schedule
(Peruzzo et al., Spatial Entropy as an Inductive Bias for Vision Transformers, section 3 and the released code)."""

from __future__ import annotations

import math

from torch import Tensor

from simpool_viz.scores.spatial_entropy import spatial_entropy

WEIGHT = 0.01
WARMUP = 10  # epochs


def spatial_entropy_loss(scores: Tensor) -> Tensor:
    """Mean spatial entropy of a batch, differentiable in the scores through the excess over each map's mean.

    Args:
        scores: (B, H, h, w), before the softmax: class token to patches in the last block, per head.

    Raises:
        ValueError: values that are not finite.
    """
    return spatial_entropy(scores.float()).mean()


def class_token_scores(query: Tensor, key: Tensor, scale: float, num_prefix_tokens: int, grid: tuple[int, int]) -> Tensor:
    """Scores (B, H, h, w) of the class token, from queries and keys (B, H, P + N, d) with gradients, class token first.

    Raises:
        ValueError: the tokens are not P + h * w.
    """
    if key.shape[2] != num_prefix_tokens + grid[0] * grid[1]:
        raise ValueError(f"{key.shape[2]} tokens are not {num_prefix_tokens} and a grid of {grid[0]} x {grid[1]}")
    rows = scale * query[:, :, :1] @ key[:, :, num_prefix_tokens:].transpose(2, 3)  # (B, H, 1, N)
    return rows.unflatten(3, grid).squeeze(2)


def entropy_weight(epoch: float, epochs: int) -> float:
    """Weight of the loss: 0.01, rising linearly over epochs 0 to 9, then falling as (1 + cos(pi i / (E - 10))) / 2.

    Args:
        epoch: i + 10 in the formula, counted from 0; may be a fraction.
        epochs: E.

    Raises:
        ValueError: no more epochs than the rise takes.
    """
    if epochs <= WARMUP:
        raise ValueError(f"the schedule of the spatial-entropy loss takes more than {WARMUP} epochs, not {epochs}")
    if epoch < WARMUP:
        return WEIGHT * epoch / WARMUP
    return WEIGHT * (1 + math.cos(math.pi * (epoch - WARMUP) / (epochs - WARMUP))) / 2
