"""SAR's option `nosn`: the last block of a ViT without the skip connection around its attention.

The skip connection would carry the patches past the attention that is regularised (Peruzzo et al., Spatial Entropy as
an Inductive Bias for Vision Transformers, section 3).
"""

from __future__ import annotations

from typing import Any

from timm.models.vision_transformer import Block
from torch import Tensor, nn

from simpool_viz.errors import CheckpointError


class NoSkipBlock(Block):
    """A block whose attention has no skip and no stochastic depth, and whose MLP has no norm before it."""

    def forward(self, x: Tensor, attn_mask: Tensor | None = None, is_causal: bool = False) -> Tensor:
        """(B, P + N, D) -> (B, P + N, D)."""
        x = self.ls1(self.attn(self.norm1(x)))
        return x + self.drop_path2(self.ls2(self.mlp(self.norm2(x))))


def remove_last_skip(backbone: Any) -> None:
    """Turn the last block of a timm ViT into a `NoSkipBlock`, which keeps its weights except those of its second norm.

    Args:
        backbone: changed in place.

    Raises:
        CheckpointError: a backbone without blocks of timm's plain kind.
    """
    blocks = getattr(backbone, "blocks", None)
    if not blocks or type(blocks[-1]) is not Block:
        raise CheckpointError(
            f"the last skip is removed from a ViT of plain blocks, and {type(backbone).__name__} has none"
        )
    blocks[-1].__class__ = NoSkipBlock
    blocks[-1].norm2, blocks[-1].drop_path1 = nn.Identity(), nn.Identity()
