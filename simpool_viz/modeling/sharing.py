"""Forwards that several checkpoints share: heads on one backbone, and ViTs on one trunk.

The trunk of a ViT is its embedding and its first blocks. Siblings that were trained on a frozen trunk hold only the
blocks above it; in a process they are given the very same modules, so the trunk runs once for all of them and the
result of each is that of its own forward, to the last bit where the same is kept of the attention of both.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from simpool_viz.modeling.encoder import Encoder, Output
from simpool_viz.tensors import identical

# What of a timm ViT stands before its blocks.
EMBEDDING = ("patch_embed", "cls_token", "reg_token", "pos_embed", "norm_pre")


def is_of_trunk(key: str, blocks: int) -> bool:
    """Whether a tensor of a ViT encoder belongs to the trunk with this many blocks.

    Args:
        key: name of the tensor, such as "backbone.blocks.3.norm1.weight".
        blocks: number of the trunk's blocks.
    """
    root, part, number, *_ = (*key.split("."), "", "")
    return root == "backbone" and (part in EMBEDDING or (part == "blocks" and int(number) < blocks))


def share_trunk(encoder: Encoder, other: Encoder, blocks: int) -> None:
    """Give an encoder the embedding and the first blocks of another one where they equal its own to the last bit.

    Args:
        encoder: changed in place, or left as it is where one number differs.
        other: whose modules are used.
        blocks: number of the trunk's blocks.
    """
    own: Any = encoder.backbone
    theirs: Any = other.backbone
    if encoder is other or not other.has_trunk or blocks > other.depth:
        return
    kinds = [[type(part) for part in (e.backbone.patch_embed, *e.blocks[:blocks])] for e in (encoder, other)]
    states = [
        {key: value for key, value in e.state_dict().items() if is_of_trunk(key, blocks)} for e in (encoder, other)
    ]
    mine, given = states
    if kinds[0] != kinds[1] or mine.keys() != given.keys() or not all(identical(mine[k], given[k]) for k in mine):
        return
    for name in EMBEDDING:
        if getattr(own, name, None) is not None:
            setattr(own, name, getattr(theirs, name))
    for i in range(blocks):
        own.blocks[i] = theirs.blocks[i]


def shared_blocks(encoders: Sequence[Encoder]) -> int:
    """The number of first blocks that are the same modules in all encoders, 0 where their embeddings are not.

    Args:
        encoders: one or more.
    """
    backbones: list[Any] = [encoder.backbone for encoder in encoders]
    parts = [{id(getattr(backbone, name, None)) for name in EMBEDDING} for backbone in backbones]
    if not all(encoder.has_trunk for encoder in encoders) or any(part != parts[0] for part in parts):
        return 0
    columns = zip(*(encoder.blocks for encoder in encoders), strict=False)
    same: list[bool] = [all(block is column[0] for block in column) for column in columns]
    return same.index(False) if False in same else len(same)


def shares_forward(one: Encoder, other: Encoder, size: int | None = None) -> bool:
    """Whether two encoders can share a forward of their backbone, or of its trunk.

    They can where they have the same backbone object or the same first blocks, the same normalisation and, unless
    `size` is given, the same input size.

    Args:
        one: an encoder.
        other: another encoder.
        size: shorter side in pixels at which both are to record; their own sizes where None.
    """
    a, b = one.facts, other.facts
    alike = (a.mean, a.std) == (b.mean, b.std) and (size is not None or a.size == b.size)
    return alike and (one.backbone is other.backbone or shared_blocks([one, other]) > 0)


def sharing_groups(encoders: Sequence[Encoder], size: int | None = None) -> list[list[int]]:
    """Indices of the encoders, one list for those that share a forward, in the order of their first.

    Args:
        encoders: the checkpoints.
        size: as for `shares_forward`.
    """
    groups: list[list[int]] = []
    for i, encoder in enumerate(encoders):
        group = next((g for g in groups if shares_forward(encoders[g[0]], encoder, size)), None)
        if group is None:
            groups.append([i])
        else:
            group.append(i)
    return groups


def backbones_of(encoders: Sequence[Encoder]) -> dict[nn.Module, list[int]]:
    """The distinct backbones of encoders, each with the indices of the encoders that have it."""
    found: dict[nn.Module, list[int]] = {}
    for i, encoder in enumerate(encoders):
        found.setdefault(encoder.backbone, []).append(i)
    return found


def forward_shared(encoders: Sequence[Encoder], images: Tensor) -> list[Output]:
    """The outputs of encoders that share a forward, each as its own `forward` gives it.

    Args:
        encoders: as one of `sharing_groups`.
        images: (B, 3, H, W) normalised.

    Raises:
        CheckpointError: as in `Encoder.tokens`.
    """
    backbones = backbones_of(encoders)
    outputs: dict[int, Output] = {}
    blocks = shared_blocks(encoders) if len(backbones) > 1 else 0
    hidden = encoders[0].begin(images, blocks) if blocks else None
    for members in backbones.values():
        first = encoders[members[0]]
        tokens = first.tokens(images) if hidden is None else first.finish(hidden, blocks, first.grid_of(images))
        outputs |= {i: encoders[i].read(tokens) for i in members}
    return [outputs[i] for i in range(len(encoders))]
