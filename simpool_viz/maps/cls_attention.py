"""CLS attention: the class token's row in one block, one map per head (Caron et al., DINO, ICCV 2021, section 4.2)."""

from __future__ import annotations

from simpool_viz.capture.recorded import Recorded
from simpool_viz.maps.attention_map import AttentionMap
from simpool_viz.maps.common import head_names, make_rows, needs_blocks, one_block
from simpool_viz.maps.registry import register_map
from simpool_viz.modeling.encoder import Encoder


def _why_not(encoder: Encoder) -> str | None:
    if not encoder.depth:
        return needs_blocks(encoder)
    return None if encoder.has_class_token else "its backbone has no class token"


@register_map(
    "cls",
    "CLS attention",
    "What the class token attends to in one block, the last by default. One map per head, shown as their mean.",
    formula="aʰ = softmax(q_cls Kᵀ / √d) of head h, at the patches",
    paper="Caron et al., ICCV 2021",
    why_not=_why_not,
    blocks=one_block,
)
def cls_attention(recording: Recorded, block: int = -1) -> AttentionMap:
    """The class token's attention to the patches in `block`: (H, h, w), for distilled DeiT (2 H, h, w) of both tokens.

    Prefix tokens take part in the softmax and are then dropped, so a map sums to 1 less what they hold.

    Args:
        recording: of a ViT with a class token.
        block: number of the block, negative ones counted from the last; of CaiT its class-attention blocks are counted.

    Raises:
        OptionError: no such block.
        MapError: a block that was not kept.
    """
    _, attention = recording.block(block)
    tokens: tuple[str, ...] = getattr(recording.encoder.pooling, "tokens_read", ())
    logits = attention.logits(slice(0, len(tokens) or 1))  # (H, n, N)
    heads = head_names(len(logits))
    names = [f"{token}, {head}" for token in tokens for head in heads] or heads
    rows = logits.transpose(0, 1).flatten(0, 1)  # (n * H, N), token by token
    return make_rows(recording, "cls", rows.softmax(-1), names, logits=rows)
