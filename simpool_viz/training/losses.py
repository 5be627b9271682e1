"""Losses: cross entropy of pictures or of pixels, and SAR's spatial entropy with its schedule.

Spatial entropy: Peruzzo et al., Spatial Entropy as an Inductive Bias for Vision Transformers, section 3, and the
released code.
"""

from __future__ import annotations

import math
from collections.abc import Callable

from torch import Tensor
from torch.nn import functional as F

from simpool_viz.capture.hooks import AttentionCapture
from simpool_viz.errors import TrainingError
from simpool_viz.modeling.encoder import Encoder, Output
from simpool_viz.scores.spatial_entropy import spatial_entropy

WARMUP = 10  # epochs of the rise of the spatial-entropy loss
SAR_EPOCHS = 100  # of the paper's training, whose schedule a stage takes whole, however many epochs it has


def picture_loss(logits: Tensor, targets: Tensor, smoothing: float) -> Tensor:
    """Mean cross entropy of pictures.

    Args:
        logits: (B, K), of any float dtype.
        targets: classes (B,) int64, or probabilities (B, K) of mixup and CutMix, which are smoothed already.
        smoothing: label smoothing of classes, in [0, 1].

    Returns:
        A float32 scalar.
    """
    return F.cross_entropy(logits.float(), targets, label_smoothing=smoothing if targets.ndim == 1 else 0.0)


def pixel_loss(logits: Tensor, labels: Tensor, void: int, smoothing: float) -> Tensor:
    """Mean cross entropy of the pixels that are labelled.

    Args:
        logits: (B, K, h, w) of the tokens, enlarged bilinearly to the labels' size.
        labels: (B, H, W) int64.
        void: the label that is left out.
        smoothing: label smoothing, in [0, 1].

    Returns:
        A float32 scalar; 0 where every pixel is void.

    Raises:
        TrainingError: a label that is neither a class nor void.
    """
    counted = labels[labels != void]
    if len(counted) and int(counted.max()) >= logits.shape[1]:
        raise TrainingError(
            f"a label map holds class {int(counted.max())}, but the head has classes 0 to {logits.shape[1] - 1}; set "
            "void="
        )
    enlarged = F.interpolate(logits.float(), labels.shape[-2:], mode="bilinear", align_corners=False)
    total = F.cross_entropy(enlarged, labels, ignore_index=void, label_smoothing=smoothing, reduction="sum")
    return total / max(len(counted), 1)


def spatial_entropy_loss(scores: Tensor, threshold: str = "mean") -> Tensor:
    """Mean spatial entropy of a batch, differentiable in the scores through the excess over each map's threshold.

    Args:
        scores: (B, H, h, w), before the softmax: class token to patches in the last block, per head.
        threshold: as in `spatial_entropy`.

    Returns:
        A float32 scalar.

    Raises:
        MapError: values that are not finite.
    """
    return spatial_entropy(scores.float(), threshold=threshold).mean()


def readout_scores(encoder: Encoder, output: Output, capture: AttentionCapture) -> Tensor:
    """The scores, before the softmax, with which the pooling query or else the class token attends to the tokens.

    Args:
        encoder: that ran.
        output: of its forward pass.
        capture: the attention of the same pass, which holds the last block.

    Returns:
        (B, M, h, w), for M queries or heads, with gradients.

    Raises:
        TrainingError: the encoder has neither.
    """
    if encoder.pooling.attentive and output.pooled.scores is not None:
        return output.pooled.scores.unflatten(2, output.tokens.grid)
    if not encoder.has_class_token or not capture.calls:
        raise TrainingError(
            f"spatial entropy needs a class token or a pooling that attends, and {encoder.facts.name} has neither"
        )
    call = capture.calls[-1 - encoder.pooling.fused_calls]  # first blocks that ran before have left none
    return class_token_scores(call.query, call.key, call.scale, encoder.num_prefix_tokens, output.tokens.grid)


def class_token_scores(
    query: Tensor, key: Tensor, scale: float, num_prefix_tokens: int, grid: tuple[int, int]
) -> Tensor:
    """The scores of the class token for the patch tokens, before the softmax.

    Args:
        query: (B, H, P + N, d), with gradients; the class token comes first.
        key: (B, H, P + N, d).
        scale: factor of the dot products.
        num_prefix_tokens: P.
        grid: (h, w) with h * w = N.

    Returns:
        (B, H, h, w).

    Raises:
        ValueError: the tokens are not P + h * w.
    """
    if key.shape[2] != num_prefix_tokens + grid[0] * grid[1]:
        raise ValueError(f"{key.shape[2]} tokens are not {num_prefix_tokens} and a grid of {grid[0]} x {grid[1]}")
    rows = scale * query[:, :, :1] @ key[:, :, num_prefix_tokens:].transpose(2, 3)  # (B, H, 1, N)
    return rows.unflatten(3, grid).squeeze(2)


def entropy_schedule(epoch: float, epochs: int) -> float:
    """Factor in [0, 1] of the spatial-entropy loss: linear over epochs 0 to 9, then (1 + cos(pi i / (E - 10))) / 2.

    Args:
        epoch: i + 10 in the formula, counted from 0; may be a fraction.
        epochs: E.

    Raises:
        TrainingError: no more epochs than the rise takes.
    """
    if epochs <= WARMUP:
        raise TrainingError(f"the schedule of the spatial-entropy loss takes more than {WARMUP} epochs, not {epochs}")
    if epoch < WARMUP:
        return epoch / WARMUP
    return (1 + math.cos(math.pi * (epoch - WARMUP) / (epochs - WARMUP))) / 2


# Factors in [0, 1] of the spatial-entropy loss by the share of a stage that is done, in [0, 1].
SCHEDULES: dict[str, Callable[[float], float]] = {
    "rise and fall": lambda done: entropy_schedule(done * SAR_EPOCHS, SAR_EPOCHS),  # as the released code
    "rise": lambda done: min(1.0, done * SAR_EPOCHS / WARMUP),  # the same rise, without the fall
    "constant": lambda _: 1.0,
}
