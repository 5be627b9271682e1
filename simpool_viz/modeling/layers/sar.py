"""SAR's option `nosn`: the last block of a ViT without the skip connection around its attention.

The skip connection would carry the patches past the attention that is regularised (Peruzzo et al., Spatial Entropy as
an Inductive Bias for Vision Transformers, section 3).
"""

from __future__ import annotations

from typing import Any

from torch import nn

from simpool_viz.errors import CheckpointError


def has_skip(block: nn.Module) -> bool:
    """Whether a skip connection leads past a block's attention.

    Args:
        block: of a ViT.
    """
    return not getattr(block, "without_skip", False)


def remove_last_skip(backbone: Any) -> None:
    """Turn the last block of a timm ViT into a `NoSkipBlock`, which keeps its weights except those of its second norm.

    Args:
        backbone: changed in place.

    Raises:
        CheckpointError: a backbone without blocks of timm's plain kind.
    """
    from timm.models.vision_transformer import Block

    from simpool_viz.modeling.layers.sar_block import NoSkipBlock

    blocks = getattr(backbone, "blocks", None)
    if not blocks or type(blocks[-1]) is not Block:
        raise CheckpointError(
            f"the last skip is removed from a ViT of plain blocks, and {type(backbone).__name__} has none"
        )
    blocks[-1].__class__ = NoSkipBlock
    blocks[-1].norm2, blocks[-1].drop_path1 = nn.Identity(), nn.Identity()
