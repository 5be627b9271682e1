"""Attention Roll-Out, of any kind, as a chain of vector-matrix products.

Roll-out multiplies residual attention matrices, R = A^_L ... A^_1 with A^_l = (1 - a) mean_h A_l + a I (Abnar & Zuidema,
ACL 2020, eq. 1). Every map taken from it is W R for some row weights W (C, N): the class token's row, the mean over a
class's tokens, one token. Running W from the last block to the first needs no product of two N x N matrices, and the rows
of each A_l are made a tile at a time and thrown away, so that no N x N matrix stands in memory either.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from simpool_viz.attention import Attention

TILE = 4_194_304  # entries of a tile (heads x rows x tokens): 16 MiB in float32


def roll_out(weights: Tensor, blocks: Sequence[Attention], *, first: int = 0, residual: float = 0.5, fusion: str = "mean") -> Tensor:
    """W R: row weights through the roll-out of some blocks.

    Args:
        weights: W (C, N) over all tokens, prefixes included.
        blocks: attention from first to last.
        first: first block that takes part (0-based, inclusive).
        residual: a in A^ = (1 - a) A + a I.
        fusion: over heads, "mean"; or "max" or "min", each row renormalised.

    Returns:
        (C, N) in float32 (float64 for float64 weights); rows that sum to 1 stay so.

    Raises:
        ValueError: an unknown fusion, a residual outside [0, 1], or a first block that does not exist.
    """
    if fusion not in ("mean", "max", "min"):
        raise ValueError(f"heads are fused by mean, max or min, not {fusion!r}")
    if not isinstance(residual, (int, float)) or not 0 <= residual <= 1:
        raise ValueError(f"the residual weight lies in [0, 1], not {residual}")
    if not isinstance(first, int) or not 0 <= first < max(len(blocks), 1):
        raise ValueError(f"the first block is 0 to {len(blocks) - 1}, not {first}")
    for block in reversed(blocks[first:]):
        weights = residual * weights + (1 - residual) * through_block(weights, block, fusion)
    return weights


def through_block(weights: Tensor, block: Attention, fusion: str = "mean") -> Tensor:
    """W A for one block, a tile of query rows at a time: (C, N) -> (C, N)."""
    heads, count, _ = block.query.shape
    step = max(1, TILE // (heads * block.key.shape[1]))
    product = torch.zeros_like(weights)
    for start in range(0, count, step):
        rows = slice(start, min(start + step, count))
        product += weights[:, rows] @ fuse_heads(block.rows(rows), fusion).to(weights.dtype)
    return product


def fuse_heads(attention: Tensor, fusion: str) -> Tensor:
    """(H, n, N) -> (n, N); max and min are renormalised so that rows sum to 1."""
    if fusion == "mean":
        return attention.mean(0)
    fused = attention.amax(0) if fusion == "max" else attention.amin(0)
    return fused / fused.sum(-1, keepdim=True).clamp(min=torch.finfo(fused.dtype).tiny)
