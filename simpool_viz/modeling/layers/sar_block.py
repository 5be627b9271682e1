"""The block without the skip connection around its attention, of SAR's option `nosn` (see sar.py)."""

from __future__ import annotations

from timm.models.vision_transformer import Block
from torch import Tensor


class NoSkipBlock(Block):
    """A block whose attention has no skip and no stochastic depth, and whose MLP has no norm before it."""

    without_skip = True  # for `sar.has_skip`

    def forward(self, x: Tensor, attn_mask: Tensor | None = None, is_causal: bool = False) -> Tensor:
        """(B, P + N, D) -> (B, P + N, D)."""
        x = self.ls1(self.attn(self.norm1(x)))
        return x + self.drop_path2(self.ls2(self.mlp(self.norm2(x))))
