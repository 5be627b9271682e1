"""Attention Roll-Out and Dense Attention Roll-Out: rows of one product of attention matrices (see rollout_chain.py).

Roll-out (Abnar & Zuidema, ACL 2020) is the class token's row. Dense Attention Roll-Out (from the LIFE paper, which
defines it in words; the formula is this project's) is, for each class, the mean row of the tokens that the head assigns
to the class.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from simpool_viz.capture.recorded import Recorded
from simpool_viz.errors import AbsentClassError
from simpool_viz.maps.attention_map import AttentionMap
from simpool_viz.maps.common import blocks_from_first, make_rows, needs_blocks
from simpool_viz.maps.registry import PendingRollout, register_map
from simpool_viz.maps.rollout_chain import RolloutOptions, takes_mean
from simpool_viz.modeling.classes import class_indices, class_name
from simpool_viz.modeling.encoder import Encoder
from simpool_viz.tensors import wide


def one_hot_rows(recording: Recorded, indices: Sequence[int]) -> Tensor:
    """Row weights with a single 1 per row, which select rows of a roll-out.

    Args:
        recording: it determines the number of tokens, the device and the precision.
        indices: of C tokens, prefixes included.

    Returns:
        W (C, P + N), float32 (float64 of a float64 model).
    """
    rows = _zero_rows(recording, len(indices))
    rows[torch.arange(len(indices)), torch.tensor(indices)] = 1.0
    return rows


def _zero_rows(recording: Recorded, count: int) -> Tensor:
    """Row weights (count, P + N) of zeros, in the precision in which roll-outs are computed."""
    patches, prefix = recording.tokens.patches[0], recording.tokens.prefix[0]
    return torch.zeros(count, len(prefix) + len(patches), device=patches.device, dtype=wide(patches[:0]).dtype)


def readout_row(recording: Recorded) -> tuple[Tensor, str]:
    """The row from which a roll-out starts: the weights with which the checkpoint pools its tokens.

    Returns:
        W (1, P + N), and a note for viewers where it is not the class token's row, else "".
    """
    encoder = recording.encoder
    if encoder.pooling.name == "cls":
        tokens = getattr(encoder.pooling, "tokens_read", ("class",))
        note = "" if len(tokens) == 1 else "starts from the class and the distillation token alike"
        return one_hot_rows(recording, range(len(tokens))).mean(0, keepdim=True), note
    rows = _zero_rows(recording, 1)
    if recording.pool_attention is not None:
        return rows + wide(recording.pool_attention.rows(slice(None))).mean(
            dim=(0, 1)
        ), "starts from the pooling's own attention"
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
    "Attention followed through all blocks and their skip connections, down to the patches. Starts where the "
    "checkpoint reads its tokens.",
    formula="R = Â_L ⋯ Â₁, Â = (1 − a) meanₕ Aₕ + a I",
    paper="Abnar & Zuidema, ACL 2020",
    why_not=needs_blocks,
    blocks=blocks_from_first,
    by_mean=takes_mean,
)
def attention_rollout(
    recording: Recorded, first: int = 0, residual: float | str = 0.5, fusion: str = "mean", discard: float = 0.0
) -> PendingRollout:
    """The class token's row of the roll-out, or the mean weights of the pooling multiplied by it: (1, h, w).

    Args:
        recording: of a ViT.
        first: the first block that takes part (0-based, inclusive).
        residual: weight a in [0, 1] of the skip connection in A^ = (1 - a) A + a I, or "measured", each block's own.
        fusion: of heads: "mean", "max" or "min".
        discard: share in [0, 1) of each block's lowest weights that are set to 0, as in vit-explain; 0 for none.

    Raises:
        OptionError: an unknown fusion, a residual or a discard out of range, or no such block.
        MapError: a block that was not kept.
    """
    start, note = readout_row(recording)
    options = RolloutOptions(first, residual, fusion, discard)
    return PendingRollout(start, options, lambda rows: make_rows(recording, "rollout", rows, ("roll-out",), note=note))


def _why_no_dense(encoder: Encoder) -> str | None:
    return needs_blocks(encoder) or _why_no_scores(encoder)


def _why_no_scores(encoder: Encoder) -> str | None:
    if encoder.head is None:
        return "it has no head that gives class scores to tokens"
    if encoder.pooling.fused_calls or encoder.pooling.out_dim != encoder.dim:
        return "its head reads what its pooling makes, not tokens"
    return None


@register_map(
    "dense_rollout",
    "Dense Attention Roll-Out",
    "For each class, the roll-out of all tokens that the head gives to it, averaged. On a classifier this is a "
    "heuristic.",
    formula="m_c = Σᵢ w_ic Rᵢ / Σᵢ w_ic, w_ic = 1 where token i has class c (hard), softmax(Sᵢ)_c (soft)",
    paper="LIFE paper; definition of this project",
    why_not=_why_no_dense,
    blocks=blocks_from_first,
    by_mean=takes_mean,
)
def dense_rollout(
    recording: Recorded,
    classes: Sequence[int | str] | int | str | None = None,
    soft: bool = False,
    union: bool = False,
    first: int = 0,
    residual: float | str = 0.5,
    fusion: str = "mean",
    discard: float = 0.0,
) -> PendingRollout:
    """One map per class, (C, h, w): the mean row, in the roll-out, of the tokens of the class.

    With S (N, K) the class scores of the patches, w_ic = 1[argmax_k S_i = c] (or softmax(S_i)_c) and
    DAR_c = sum_i w_ic R_i / sum_i w_ic. All classes share one pass through the blocks.

    Args:
        recording: of a ViT whose head gives class scores to tokens.
        classes: names or indices; by default the predicted class where any token has it, else the most frequent class
            of the tokens.
        soft: weight tokens by the softmax of their scores instead of the argmax.
        union: one map (1, h, w) of the tokens that have any of the classes, instead of one map per class.
        first: the first block of the roll-out (0-based, inclusive).
        residual: weight a in [0, 1] of the skip connection in A^ = (1 - a) A + a I, or "measured", each block's own.
        fusion: of heads in the roll-out: "mean", "max" or "min".
        discard: share in [0, 1) of each block's lowest weights that are set to 0, as in vit-explain; 0 for none.

    Raises:
        OptionError: an unknown class, or options that do not fit the roll-out.
        AbsentClassError: a class that no token has (hard weights).
        MapError: a block that was not kept.
    """
    scores = recording.token_scores
    wanted = list(dict.fromkeys(_choose_classes(recording, scores, classes)))
    weights = class_weights(scores, wanted, soft)  # (C, N)
    names = [class_name(recording.encoder, c) for c in wanted]
    if union and weights.sum() > 0:
        weights, wanted, names = weights.sum(0, keepdim=True), wanted[:1], [" + ".join(names)]
    sums = weights.sum(1)
    absent = [class_name(recording.encoder, c) for c, total in zip(wanted, sums.tolist(), strict=True) if total == 0]
    if absent:
        found = ", ".join(
            class_name(recording.encoder, int(c)) for c in scores.argmax(1).bincount().argsort(descending=True)[:5]
        )
        raise AbsentClassError(
            f"absent from this picture: {', '.join(absent)}. No token has that class; tokens were given to {found}"
        )
    rows = _zero_rows(recording, len(wanted))
    rows[:, recording.encoder.num_prefix_tokens :] = weights.to(rows.dtype)
    note = _note(recording.encoder)

    def finish(rolled: Tensor) -> AttentionMap:
        return make_rows(recording, "dense_rollout", rolled / sums[:, None], names, note=note)

    return PendingRollout(rows, RolloutOptions(first, residual, fusion, discard), finish)


def _note(encoder: Encoder) -> str:
    return "" if encoder.dense else "a heuristic here: the classifier's head is applied to every patch token"


@register_map(
    "class_logits",
    "Class logits",
    "What the head scores each token for a class, before the softmax and without attention. On a classifier this is a "
    "heuristic.",
    formula="S_ic = w_c · xᵢ + b_c",
    paper="Long et al., CVPR 2015, for dense heads",
    why_not=_why_no_scores,
)
def class_logits(recording: Recorded, classes: Sequence[int | str] | int | str | None = None) -> AttentionMap:
    """One signed map per class, (C, h, w): the class's logit of every patch token, S of `dense_rollout`.

    Args:
        recording: of a checkpoint whose head gives class scores to tokens.
        classes: names or indices; by default as for `dense_rollout`.

    Raises:
        OptionError: an unknown class.
    """
    scores = recording.token_scores
    wanted = _choose_classes(recording, scores, classes)
    names = [class_name(recording.encoder, c) for c in wanted]
    return make_rows(recording, "class_logits", scores[:, wanted].T, names, unit="logit", note=_note(recording.encoder))


def class_weights(scores: Tensor, classes: Sequence[int], soft: bool) -> Tensor:
    """The weights w of tokens in Dense Attention Roll-Out.

    Args:
        scores: (N, K), class scores of the patch tokens.
        classes: indices of C classes.
        soft: the softmax of the scores; else 1 where a class has the token's highest score, and 0 elsewhere.

    Returns:
        (C, N) in [0, 1], in the precision of the scores.
    """
    wanted = torch.tensor(list(classes), device=scores.device)
    if soft:
        return scores.softmax(1)[:, wanted].T
    return (scores.argmax(1) == wanted[:, None]).to(scores.dtype)


def _choose_classes(recording: Recorded, scores: Tensor, classes: Sequence[int | str] | int | str | None) -> list[int]:
    if classes is not None:
        return class_indices(recording.encoder, classes, scores.shape[1])
    counts = scores.argmax(1).bincount(minlength=scores.shape[1])
    predicted = [index for index, *_ in recording.top_classes(1) if counts[index]]
    return predicted or [int(counts.argmax())]
