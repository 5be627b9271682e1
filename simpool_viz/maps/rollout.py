"""Attention Roll-Out and Dense Attention Roll-Out: rows of the same product of attention matrices (see rollout.py).

Roll-out (Abnar & Zuidema, ACL 2020) reads the class token's row. Dense Attention Roll-Out (from the LIFE paper, which defines
it in words; the formula is this project's) reads, for each class, the mean row of the tokens that a head gives to the class.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from simpool_viz.attention_map import AttentionMap, register_map
from simpool_viz.maps.common import make_rows, needs_blocks
from simpool_viz.precision import wide
from simpool_viz.recording import Recording, class_indices, class_name
from simpool_viz.rollout import roll_out

if TYPE_CHECKING:
    from simpool_viz.encoder import Encoder


def one_hot_rows(recording: Recording, indices: Sequence[int]) -> Tensor:
    """W (C, P + N) with a single 1 per row."""
    rows = _no_rows(recording, len(indices))
    rows[torch.arange(len(indices)), torch.tensor(indices)] = 1.0
    return rows


def _no_rows(recording: Recording, count: int) -> Tensor:
    key = recording.blocks[0].key
    return torch.zeros(count, key.shape[1], device=key.device, dtype=wide(key[:0]).dtype)


def readout_row(recording: Recording) -> tuple[Tensor, str]:
    """How the checkpoint reads its tokens, as row weights W (1, P + N), and a note where that is not a class token's row."""
    encoder = recording.encoder
    if encoder.pooling.name == "cls" or (encoder.has_class_token and not encoder.pooling.attentive):
        return one_hot_rows(recording, [0]), ""
    rows = _no_rows(recording, 1)
    if recording.pool_attention is not None:
        return rows + wide(recording.pool_attention.rows(slice(None))).mean(dim=(0, 1)), "starts from the pooling's own attention"
    weights = recording.pooled.weights
    start = encoder.num_prefix_tokens
    if encoder.pooling.attentive and weights is not None:
        rows[:, start:] = wide(weights[0]).mean(0)
        return rows, "starts from the pooling's own attention"
    rows[:, start:] = 1 / (rows.shape[1] - start)
    return rows, "starts from all patches alike, as the pooling reads them"


@register_map(
    "rollout",
    "Attention Roll-Out",
    "Attention followed through all blocks and their skip connections, down to the patches. Starts where the checkpoint reads its tokens.",
    formula="R = Â_L ⋯ Â₁, Â = (1 − a) meanₕ Aₕ + a I",
    paper="Abnar & Zuidema, ACL 2020",
    why_not=needs_blocks,
)
def attention_rollout(recording: Recording, first: int = 0, residual: float = 0.5, fusion: str = "mean") -> AttentionMap:
    """The class token's row of the roll-out, or the pooling's own rows through it: (1, h, w).

    Args:
        first: first block that takes part (0-based, inclusive).
        residual: weight a of the skip connection in A^ = (1 - a) A + a I.
        fusion: over heads: "mean", "max" or "min".
    """
    start, note = readout_row(recording)
    rows = roll_out(start, recording.blocks, first=first, residual=residual, fusion=fusion)
    return make_rows(recording, "rollout", rows, ("roll-out",), note=note)


def _why_no_dense(encoder: Encoder) -> str | None:
    if not encoder.depth:
        return needs_blocks(encoder)
    if encoder.head is None:
        return "it has no head that gives class scores to tokens"
    return "its head reads what its attention pooling makes, not tokens" if encoder.pooling.fused_calls else None


@register_map(
    "dense_rollout",
    "Dense Attention Roll-Out",
    "For each class, the roll-out of all tokens that the head gives to it, averaged. On a classifier this is a heuristic.",
    formula="m_c = Σᵢ w_ic Rᵢ / Σᵢ w_ic, w_ic = 1 where token i has class c",
    paper="LIFE paper; definition of this project",
    why_not=_why_no_dense,
)
def dense_rollout(
    recording: Recording,
    classes: Sequence[int | str] | int | str | None = None,
    soft: bool = False,
    first: int = 0,
    residual: float = 0.5,
    fusion: str = "mean",
) -> AttentionMap:
    """One map per class, (C, h, w): the class's tokens' mean row of the roll-out.

    With S (N, K) the class scores of the patches, w_ic = 1[argmax_k S_i = c] (or softmax(S_i)_c) and
    DAR_c = sum_i w_ic R_i / sum_i w_ic. All classes share one chain.

    Args:
        classes: names or indices; by default the predicted class where any token has it, else the most frequent one.
        soft: weigh tokens by the softmax instead of the argmax.
        first, residual, fusion: as for the roll-out.

    Raises:
        ValueError: an unknown class, or one that no token has (hard weights).
    """
    scores = token_scores(recording)
    weights = class_weights(scores, soft)  # (K, N)
    wanted = _choose_classes(recording, scores, classes)
    sums = weights[wanted].sum(1)
    absent = [class_name(recording.encoder, c) for c, total in zip(wanted, sums.tolist(), strict=True) if total == 0]
    if absent:
        found = ", ".join(class_name(recording.encoder, int(c)) for c in scores.argmax(1).bincount().argsort(descending=True)[:5])
        raise ValueError(f"absent from this picture: {', '.join(absent)}. No token has that class; tokens were given to {found}")
    rows = _no_rows(recording, len(wanted))
    rows[:, recording.encoder.num_prefix_tokens :] = weights[wanted].to(rows.dtype)
    rolled = roll_out(rows, recording.blocks, first=first, residual=residual, fusion=fusion) / sums[:, None]
    names = [class_name(recording.encoder, c) for c in wanted]
    return make_rows(
        recording, "dense_rollout", rolled, names, note="a heuristic here: the classifier's head is applied to every patch token"
    )


def token_scores(recording: Recording) -> Tensor:
    """Class scores S (N, K) of the patch tokens: the head on every token after the final norm."""
    encoder = recording.encoder
    if encoder.head is None:
        raise ValueError(f"{encoder.facts.name} has no head that gives class scores to tokens")
    with torch.inference_mode():
        return wide(encoder.head(encoder.norm(recording.tokens.patches[0])))


def class_weights(scores: Tensor, soft: bool) -> Tensor:
    """w (K, N) from scores (N, K): the softmax, or 1 for the best class of each token."""
    if soft:
        return scores.softmax(1).T
    return torch.zeros_like(scores).scatter_(1, scores.argmax(1, keepdim=True), 1.0).T


def _choose_classes(recording: Recording, scores: Tensor, classes: Sequence[int | str] | int | str | None) -> list[int]:
    if classes is not None:
        return class_indices(recording.encoder, classes, scores.shape[1])
    counts = scores.argmax(1).bincount(minlength=scores.shape[1])
    predicted = recording.top_classes(1)[0][0]
    return [predicted if counts[predicted] else int(counts.argmax())]
