"""Token query: what any chosen patch attends to, in any block and through the roll-out."""

from __future__ import annotations

from simpool_viz.attention_map import AttentionMap, register_map
from simpool_viz.maps.common import head_names, make_rows, needs_blocks
from simpool_viz.maps.rollout import one_hot_rows
from simpool_viz.recording import Recording
from simpool_viz.rollout import roll_out


@register_map(
    "token",
    "Token query",
    "What one patch of the photo attends to, the central one unless a point is given. One map per head.",
    formula="aʰ = softmax(qᵢ Kᵀ / √d) of head h, at the patches",
    paper="Vaswani et al., NeurIPS 2017, for the attention",
    why_not=needs_blocks,
)
def token_query(
    recording: Recording,
    at: tuple[float, float] | None = None,
    block: int = -1,
    rollout: bool = False,
    first: int = 0,
    residual: float = 0.5,
    fusion: str = "mean",
) -> AttentionMap:
    """The row of one patch token: (H, h, w), or (1, h, w) through the roll-out of all blocks.

    Args:
        at: (x, y) in pixels of the original picture; its centre by default.
        block: which block, negative from the last.
        rollout: the token's row of the roll-out instead of one block's.
        first, residual, fusion: of that roll-out, as for the map "rollout".

    Raises:
        ValueError: a point outside the picture, no such block, or options of a roll-out where none is asked for.
    """
    if not rollout and (first, residual, fusion) != (0, 0.5, "mean"):
        raise ValueError("first, residual and fusion are options of a token's roll-out; ask for rollout=true as well")
    width, height = recording.geometry.original
    x, y = at if at is not None else (width / 2, height / 2)
    row, column = recording.geometry.token_at(x, y)
    index = recording.encoder.num_prefix_tokens + row * recording.geometry.grid[1] + column
    if rollout:
        rows = roll_out(one_hot_rows(recording, [index]), recording.blocks, first=first, residual=residual, fusion=fusion)
        return make_rows(recording, "token", rows, (f"token ({row}, {column}) roll-out",))
    _, attention = recording.block(block)
    one = slice(index, index + 1)
    return make_rows(
        recording, "token", attention.rows(one)[:, 0], head_names(attention.query.shape[0]), logits=attention.logits(one)[:, 0]
    )
