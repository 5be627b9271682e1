"""Initialises a thinner student ViT from a teacher: its attention unchanged, and the best hidden units of each MLP.

The importance of a hidden unit is the variance of its contribution to the block, Var(h_j) |w_j|^2. The output weights
of the units that are kept are then fitted by least squares, so that the block reproduces the teacher's output from the
student's own input; each block thereby corrects the errors of those before it (He et al., Channel pruning for
accelerating very deep neural networks, ICCV 2017, section 3.2: select channels, then reconstruct).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from simpool_viz.errors import TrainingError
from simpool_viz.modeling.encoder import Encoder

RIDGE = 1e-3  # of the normal equations' mean diagonal: enough to keep near-duplicates among the units apart


@torch.no_grad()
def inherit(student: Encoder, teacher: Encoder, images: Tensor, blocks: Sequence[int] | None = None) -> None:
    """Fill a student ViT from a teacher ViT of the same width and heads.

    Args:
        student: changed in place; it has as many blocks as `blocks` names and MLPs of at most the teacher's hidden
            units. Its pooling and head stay as they are.
        teacher: a ViT.
        images: (B, 3, H, W) normalised, on which the output weights are fitted; a few hundred photos.
        blocks: indices of the teacher's blocks, in their order; all by default.

    Raises:
        TrainingError: a backbone that is no ViT, a block that the teacher does not have, or shapes that do not fit.
    """
    own: Any = student.backbone
    other: Any = teacher.backbone
    taken = list(range(teacher.depth)) if blocks is None else list(blocks)
    _check(student, teacher, taken)
    _copy_outside_blocks(own, other)
    given, reached = (_embedded(backbone, images) for backbone in (other, own))
    outputs = []
    for block in other.blocks:
        given = block(given)
        outputs.append(given)
    for place, number in enumerate(taken):
        block, model = own.blocks[place], other.blocks[number]
        block.load_state_dict({**block.state_dict(), **_without_mlp(model)})
        wanted = outputs[number] if taken[: place + 1] == list(range(place + 1)) else None
        _fit_mlp(block, model, reached, wanted)
        reached = block(reached)


def _check(student: Encoder, teacher: Encoder, taken: Sequence[int]) -> None:
    if not student.depth or not teacher.depth:
        raise TrainingError("a student inherits from a ViT to a ViT; choose a ViT as teacher and as backbone")
    if len(taken) != student.depth or not set(taken) <= set(range(teacher.depth)):
        raise TrainingError(
            f"the student has {student.depth} blocks and is to inherit blocks {list(taken)} of {teacher.depth}; "
            "name as many blocks as the student has, each one that the teacher has"
        )
    one: Any = student.blocks[0]
    other: Any = teacher.blocks[0]
    wider = one.mlp.fc1.out_features > other.mlp.fc1.out_features
    if student.dim != teacher.dim or one.attn.num_heads != other.attn.num_heads or wider:
        raise TrainingError(
            f"a student of {student.dim} channels, {one.attn.num_heads} heads and {one.mlp.fc1.out_features} hidden "
            f"units cannot inherit from {teacher.dim}, {other.attn.num_heads} and {other.mlp.fc1.out_features}; "
            "width and heads are the teacher's, hidden units at most as many"
        )


def _copy_outside_blocks(own: Any, other: Any) -> None:
    """Copy patch and position embedding, class token and final norm; positions are resized to the student's grid."""
    from timm.layers import resample_abs_pos_embed

    state = {key: value for key, value in other.state_dict().items() if not key.startswith(("blocks.", "head"))}
    sizes = (list(backbone.patch_embed.grid_size) for backbone in (own, other))
    prefix = 0 if other.no_embed_class else other.num_prefix_tokens
    state["pos_embed"] = resample_abs_pos_embed(state["pos_embed"], *sizes, num_prefix_tokens=prefix)
    mine = own.state_dict()
    misfits = [key for key in state if key not in mine or mine[key].shape != state[key].shape]
    if misfits:
        named = ", ".join(misfits[:8])
        raise TrainingError(f"the student has no place for {named} of the teacher; give it the same parts")
    own.load_state_dict({**mine, **state})


def _without_mlp(block: nn.Module) -> dict[str, Tensor]:
    return {key: value for key, value in block.state_dict().items() if not key.startswith("mlp.")}


def _embedded(backbone: Any, images: Tensor) -> Tensor:
    """The input of the first block: (B, P + N, D)."""
    return backbone.norm_pre(backbone.patch_drop(backbone._pos_embed(backbone.patch_embed(images))))


def _fit_mlp(block: Any, model: Any, x: Tensor, wanted: Tensor | None) -> None:
    """Fill the MLP of a student's block, whose other parts are the teacher's.

    Args:
        x: (B, P + N, D), the student's input to the block.
        wanted: (B, P + N, D), the output to reproduce; None for that of the teacher's MLP on the same input.
    """
    kept = block.mlp.fc1.out_features
    if kept == model.mlp.fc1.out_features:
        block.mlp.load_state_dict(model.mlp.state_dict())
        return
    between = x + block.ls1(block.attn(block.norm1(x)))
    hidden = model.mlp.act(model.mlp.fc1(block.norm2(between))).flatten(0, 1)  # (B (P + N), hidden units)
    target = model.mlp.fc2(hidden) if wanted is None else ((wanted - between) / _scale(block.ls2)).flatten(0, 1)
    worth = hidden.var(0) * model.mlp.fc2.weight.pow(2).sum(0)
    units = worth.topk(kept).indices.sort().values
    columns = _least_squares(hidden[:, units], target)  # (kept + 1, D)
    block.mlp.fc1.weight.copy_(model.mlp.fc1.weight[units])
    block.mlp.fc1.bias.copy_(model.mlp.fc1.bias[units])
    block.mlp.fc2.weight.copy_(columns[:-1].T)
    block.mlp.fc2.bias.copy_(columns[-1])


def _scale(layer_scale: Any) -> Tensor | float:
    """The factor of a block's MLP (LayerScale), kept away from 0, since the target is divided by it."""
    gamma = getattr(layer_scale, "gamma", None)
    return 1.0 if gamma is None else torch.where(gamma.abs() < 1e-6, torch.full_like(gamma, 1e-6), gamma)


def _least_squares(inputs: Tensor, target: Tensor) -> Tensor:
    """W (K + 1, D) that minimises |[inputs, 1] W - target|; inputs (n, K), target (n, D), solved in float64."""
    rows = torch.cat([inputs, inputs.new_ones(len(inputs), 1)], 1).double()
    normal = rows.T @ rows
    normal.diagonal().add_(RIDGE * normal.diagonal().mean())
    return torch.linalg.solve(normal, rows.T @ target.double()).to(inputs.dtype)
