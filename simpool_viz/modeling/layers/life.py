"""LIFE, Local InFormation Enhancer: queries, keys and values at three scales (Akkaya et al., 2023).

It replaces the qkv projection of a block. With C channels, C divisible by 3:

    Y1 = Linear(X)                                  all tokens
    Y2 = PW2(DW3x3(Y1)),  Y3 = PW3(DW5x5(Y2))       patch tokens on their grid, zero padding, no bias
    prefix tokens skip the depthwise convolutions

A third of the channels of Q, K and V comes from each scale, so with heads in threes each head belongs to one scale.
The released code uses the first key of the prefix tokens for all three scales of their keys (`prefix_keys="code"`);
the paper's figure uses each scale's own ("figure", the default for new modules). Both have the same parameters.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import torch
from torch import Tensor, nn

from simpool_viz.errors import CheckpointError

RIDGE = 0.001  # of the largest singular value, when LIFE takes over a qkv projection
_GRID: ContextVar[tuple[int, int, int] | None] = ContextVar("token grid", default=None)


@contextmanager
def token_grid(grid: tuple[int, int], num_prefix_tokens: int) -> Iterator[None]:
    """Set the token grid for the LIFE modules that run inside this context.

    Args:
        grid: (h, w) of the patch tokens, which are row-major and follow the prefix tokens.
        num_prefix_tokens: number of class, distillation and register tokens.
    """
    token = _GRID.set((*grid, num_prefix_tokens))
    try:
        yield
    finally:
        _GRID.reset(token)


class _Scale(nn.Module):
    """A depthwise convolution on the grid, then a pointwise one on all tokens, both without bias."""

    def __init__(self, dim: int, kernel: int) -> None:
        super().__init__()
        self.depthwise = nn.Conv2d(dim, dim, kernel, padding=kernel // 2, groups=dim, bias=False)
        self.pointwise = nn.Conv2d(dim, dim, 1, bias=False)

    def forward(self, patches: Tensor, prefix: Tensor) -> tuple[Tensor, Tensor]:
        """Map patches (B, C, h, w) and prefix tokens (B, C, P, 1), where P may be 0, each to its own shape."""
        return self.pointwise(self.depthwise(patches)), self.pointwise(prefix) if prefix.shape[2] else prefix


class LIFE(nn.Module):
    """Maps tokens (B, P + N, C) to queries, keys and values (B, P + N, 3 C), as a qkv projection does.

    Args:
        dim: C, divisible by 3.
        norm: whether Q, K and V pass one LayerNorm, which they share.
        prefix_keys: keys of the prefix tokens: "figure" for each scale's own, "code" for the first scale's in all
            three, as in the released code.

    Raises:
        CheckpointError: C is not divisible by 3, `prefix_keys` is unknown, or, when called, the grid is not set.
    """

    def __init__(self, dim: int, norm: bool = False, prefix_keys: str = "figure") -> None:
        super().__init__()
        if dim % 3:
            raise CheckpointError(f"LIFE splits its channels into three scales, and {dim} is not divisible by 3")
        if prefix_keys not in ("figure", "code"):
            raise CheckpointError(f"prefix_keys is 'figure' or 'code', not {prefix_keys!r}")
        self.prefix_keys = prefix_keys
        self.scale1 = nn.Linear(dim, dim)
        self.scale2, self.scale3 = _Scale(dim, 3), _Scale(dim, 5)
        self.norm = nn.LayerNorm(dim, eps=1e-5) if norm else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """(B, P + N, C) -> (B, P + N, 3 C)."""
        h, w, p = self._layout(x)
        y1 = self.scale1(x)  # (B, P + N, C)
        channels = y1.transpose(1, 2)  # (B, C, P + N)
        patches, prefix = channels[..., p:].unflatten(2, (h, w)), channels[..., :p].unsqueeze(3)
        scales = [y1]
        for scale in (self.scale2, self.scale3):
            patches, prefix = scale(patches, prefix)
            scales.append(torch.cat([prefix.squeeze(3), patches.flatten(2)], dim=2).transpose(1, 2))  # (B, P + N, C)
        thirds = [y.chunk(3, dim=2) for y in scales]  # q, k, v of each scale, (B, P + N, C / 3)
        query, key, value = (torch.cat([third[i] for third in thirds], dim=2) for i in range(3))
        if p and self.prefix_keys == "code":
            first = thirds[0][1][:, :p]
            key = torch.cat([torch.cat([first] * 3, dim=2), key[:, p:]], dim=1)
        return torch.cat([self.norm(query), self.norm(key), self.norm(value)], dim=2)

    def _layout(self, x: Tensor) -> tuple[int, int, int]:
        layout = _GRID.get()
        if layout is None or layout[0] * layout[1] + layout[2] != x.shape[1]:
            raise CheckpointError(
                f"LIFE was given {x.shape[1]} tokens without their grid; run the model as an Encoder, or inside "
                "token_grid()"
            )
        return layout


def insert_life(backbone: Any, norm: bool = False, prefix_keys: str = "figure", first: int = 0) -> None:
    """Replace the qkv projections in the blocks of a timm ViT by LIFE.

    Args:
        backbone: changed in place.
        norm: as in `LIFE`.
        prefix_keys: as in `LIFE`.
        first: number of the first block with LIFE; those before it stay as they are.

    Raises:
        CheckpointError: a backbone without such blocks, a width that does not split into three, or no block left.
    """
    blocks = getattr(backbone, "blocks", None)
    if not blocks or not all(isinstance(getattr(block.attn, "qkv", None), nn.Linear) for block in blocks):
        raise CheckpointError(f"LIFE goes into the qkv projections of a ViT, and {type(backbone).__name__} has none")
    if not 0 <= first < len(blocks):
        raise CheckpointError(f"LIFE begins at one of the blocks 0 to {len(blocks) - 1}, not at {first}")
    for block in blocks[first:]:
        old = block.attn.qkv.weight
        block.attn.qkv = LIFE(backbone.embed_dim, norm, prefix_keys).to(old.device, old.dtype)


def life_of_qkv(weight: Tensor, bias: Tensor) -> dict[str, Tensor]:
    """The tensors of a LIFE without norm that begins near a trained qkv projection: delta kernels, and pointwise maps
    that make the second and third scale's heads of the first's by ridge regression. [ours]

    Exact maps exist, but with weights of several hundreds that cancel, which no training in half precision bears.

    Args:
        weight: (3 C, C), C divisible by 3.
        bias: (3 C,).

    Returns:
        By the names of LIFE's parameters, in the dtype of the weight.
    """
    dim = weight.shape[1]
    third = dim // 3
    whole = torch.cat([weight, bias[:, None]], 1).double().view(3, 3, third, dim + 1)  # q, k, v x scales
    scales = [whole[:, scale].reshape(dim, dim + 1) for scale in range(3)]
    made = {"scale1.weight": scales[0][:, :dim], "scale1.bias": scales[0][:, dim]}
    before = scales[0]
    for number, wanted, kernel in ((2, scales[1], 3), (3, scales[2], 5)):
        ridge = (RIDGE * torch.linalg.matrix_norm(before, 2)) ** 2 * torch.eye(dim, dtype=torch.float64)
        pointwise = torch.linalg.solve(before @ before.T + ridge, before @ wanted.T).T  # pointwise @ before is wanted
        delta = torch.zeros(dim, 1, kernel, kernel, dtype=torch.float64)
        delta[:, :, kernel // 2, kernel // 2] = 1
        made |= {
            f"scale{number}.depthwise.weight": delta,
            f"scale{number}.pointwise.weight": pointwise[:, :, None, None],
        }
        before = pointwise @ before
    return {name: value.to(weight.dtype).contiguous() for name, value in made.items()}


def scale_of_heads(num_heads: int) -> tuple[str, ...] | None:
    """The scale of LIFE that each head belongs to.

    Returns:
        "1 x 1", "3 x 3" or "5 x 5" for each head; None where the number of heads is not divisible by 3, since heads
        then mix scales.
    """
    if num_heads % 3:
        return None
    return tuple(scale for scale in ("1 x 1", "3 x 3", "5 x 5") for _ in range(num_heads // 3))
