"""Token query: the attention of a chosen patch token, in one block or through the roll-out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from simpool_viz.capture.recorded import Recorded
from simpool_viz.errors import OptionError
from simpool_viz.maps.attention_map import AttentionMap
from simpool_viz.maps.common import blocks_from_first, head_names, make_rows, needs_blocks, one_block
from simpool_viz.maps.registry import PendingRollout, register_map
from simpool_viz.maps.rollout import one_hot_rows
from simpool_viz.maps.rollout_chain import RolloutOptions, takes_mean


def _blocks(depth: int, options: dict[str, Any]) -> Sequence[int]:
    return (blocks_from_first if options.get("rollout") else one_block)(depth, options)


def _by_mean(options: dict[str, Any]) -> bool:
    return bool(options.get("rollout")) and takes_mean(options)


@register_map(
    "token",
    "Token query",
    "What one patch of the photo attends to, the central one unless a point is given. One map per head.",
    formula="aʰ = softmax(qᵢ Kᵀ / √d) of head h, at the patches",
    paper="Vaswani et al., NeurIPS 2017, for the attention",
    why_not=needs_blocks,
    blocks=_blocks,
    by_mean=_by_mean,
)
def token_query(
    recording: Recorded,
    at: tuple[float, float] | None = None,
    block: int = -1,
    rollout: bool = False,
    first: int = 0,
    residual: float | str = 0.5,
    fusion: str = "mean",
    discard: float = 0.0,
) -> AttentionMap | PendingRollout:
    """The attention row of one patch token: (H, h, w) of one block, or (1, h, w) of the roll-out.

    Args:
        recording: of a ViT.
        at: (x, y) in pixels of the original picture, which select the token; its centre by default.
        block: number of the block, negative ones counted from the last.
        rollout: the token's row of the roll-out instead of that of one block.
        first: the first block of the roll-out (0-based, inclusive).
        residual: weight a in [0, 1] of the skip connection in A^ = (1 - a) A + a I, or "measured", each block's own.
        fusion: of heads in the roll-out: "mean", "max" or "min".
        discard: share in [0, 1) of each block's lowest weights that are set to 0, as in vit-explain; 0 for none.

    Raises:
        OptionError: a point outside the picture, no such block, or options of a roll-out without `rollout`.
        MapError: a block that was not kept.
    """
    if not rollout and (first, residual, fusion, discard) != (0, 0.5, "mean", 0.0):
        raise OptionError(
            "first, residual, fusion and discard are options of a token's roll-out; ask for rollout=true as well"
        )
    width, height = recording.geometry.original
    x, y = at if at is not None else (width / 2, height / 2)
    row, column = recording.geometry.token_at(x, y)
    index = recording.encoder.num_prefix_tokens + row * recording.geometry.grid[1] + column
    if rollout:
        name = f"token ({row}, {column}) roll-out"
        options = RolloutOptions(first, residual, fusion, discard)
        return PendingRollout(
            one_hot_rows(recording, [index]), options, lambda rows: make_rows(recording, "token", rows, (name,))
        )
    _, attention = recording.block(block)
    logits = attention.logits(slice(index, index + 1))[:, 0]
    return make_rows(recording, "token", logits.softmax(-1), head_names(len(logits)), logits=logits)
