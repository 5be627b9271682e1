"""A convolutional stem for a ViT: the first residual blocks of a ResNet make its tokens (Dosovitskiy et al., ICLR 2021,
hybrid)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import partial
from typing import Any

from torch import Tensor, nn

from simpool_viz.errors import CheckpointError
from simpool_viz.tensors import identical

STEM = "backbone.patch_embed.backbone."  # where an encoder's state has it: timm's hybrid ViTs hold it there


_SEEN: ContextVar[dict[int, tuple[Tensor, Tensor]] | None] = ContextVar("stems that have run", default=None)


@contextmanager
def stems_once(seen: dict[int, tuple[Tensor, Tensor]]) -> Iterator[None]:
    """Inside, a stem that meets the images that it met last gives what it gave then: models on one stem run it once.

    Args:
        seen: the last images and features of each stem, by its identity; kept by the caller.
    """
    token = _SEEN.set(seen)
    try:
        yield
    finally:
        _SEEN.reset(token)


class ResidualStem(nn.Module):
    """The first blocks of a timm ResNet, under the ResNet's own names, so that its weights fit.

    Args:
        resnet: whose modules are taken.
        blocks: how many residual blocks, counted through its stages; the last of them gives the tokens.

    Raises:
        CheckpointError: the ResNet has not so many blocks.
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
        seen = _SEEN.get()
        if seen is not None and id(self) in seen and identical(seen[id(self)][0], images):
            return seen[id(self)][1]
        features = images
        for module in self.children():
            features = module(features)
        if seen is not None:
            seen[id(self)] = images, features
        return features


def hybrid_embed(stem: nn.Module) -> Any:
    """What timm's `VisionTransformer` takes as `embed_layer`, so that the stem's features, projected, are its
    tokens."""
    from timm.layers import HybridEmbed

    return partial(HybridEmbed, backbone=stem)


def stride_of(patch_embed: Any) -> int:
    """Input pixels per token of a timm ViT's embedding, with a stem or without."""
    return int(patch_embed.feat_ratio())
