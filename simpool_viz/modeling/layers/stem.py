"""A convolutional stem for a ViT: the first residual blocks of a ResNet make its tokens.

Source: the hybrid models of Dosovitskiy et al., An image is worth 16x16 words, ICLR 2021.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import partial
from typing import Any

from torch import Tensor, nn

from simpool_viz.errors import CheckpointError
from simpool_viz.tensors import identical

STEM = "backbone.patch_embed.backbone."  # prefix of its tensors in an encoder, where timm's hybrid ViTs hold it

_CACHE: ContextVar[dict[int, tuple[Tensor, Tensor]] | None] = ContextVar("features of stems", default=None)


@contextmanager
def stems_once(cache: dict[int, tuple[Tensor, Tensor]]) -> Iterator[None]:
    """Reuse the features of a stem that runs again on the same images, so that models on one stem run it once.

    Args:
        cache: the last images and features of each stem, by the stem's `id`; the caller owns it, and it is filled
            inside this context.
    """
    token = _CACHE.set(cache)
    try:
        yield
    finally:
        _CACHE.reset(token)


class ResidualStem(nn.Module):
    """The first blocks of a timm ResNet, under the ResNet's own names, so that its weights fit.

    Args:
        resnet: whose modules are used.
        blocks: number of residual blocks, counted through its stages; the last of them gives the tokens.

    Raises:
        CheckpointError: the ResNet has fewer blocks.
    """

    def __init__(self, resnet: Any, blocks: int) -> None:
        super().__init__()
        self.conv1, self.bn1, self.act1, self.maxpool = resnet.conv1, resnet.bn1, resnet.act1, resnet.maxpool
        stages = [stage for stage in (getattr(resnet, f"layer{i}", None) for i in range(1, 5)) if stage is not None]
        if not 0 < blocks <= sum(len(stage) for stage in stages):
            raise CheckpointError(
                f"the stem takes 1 to {sum(len(s) for s in stages)} blocks of its ResNet, not {blocks}"
            )
        for i, stage in enumerate(stages, 1):
            taken = stage[:blocks]
            blocks -= len(taken)
            if len(taken):
                self.add_module(f"layer{i}", taken)

    def forward(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) -> (B, C, h, w)."""
        cache = _CACHE.get()
        if cache is not None and id(self) in cache and identical(cache[id(self)][0], images):
            return cache[id(self)][1]
        features = images
        for module in self.children():
            features = module(features)
        if cache is not None:
            cache[id(self)] = images, features
        return features


def hybrid_embed(stem: nn.Module) -> Any:
    """The `embed_layer` for timm's `VisionTransformer` whose tokens are the stem's features, linearly projected."""
    from timm.layers import HybridEmbed

    return partial(HybridEmbed, backbone=stem)


def stride_of(patch_embed: Any) -> int:
    """Input pixels per token, along each axis, of a timm ViT's embedding, with a stem or without."""
    return int(patch_embed.feat_ratio())
