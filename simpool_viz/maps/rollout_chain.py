"""Attention Roll-Out, of any kind, as a chain of vector-matrix products that makes no matrix of many tokens.

Roll-out multiplies residual attention matrices, R = A^_L ... A^_1 with A^_l = (1 - a) mean_h A_l + a I (Abnar &
Zuidema, ACL 2020, eq. 1). Every map taken from it is W R for some row weights W (C, N): the class token's row, the mean
over a class's tokens, one token. Running W from the last block to the first needs no product of two N x N matrices. A
block itself is

    (W A)_j = sum_i W_i exp(s_ij - lse_i),    s = q k^T scale + b,    lse_i = logsumexp_j s_ij,

which is attention with the roles of q and k exchanged: queries k, keys q, values W_i exp(-lse_i). The fused kernel
normalises over i, and its own log-sum-exp undoes that: (W A)_j = out_j exp(lse'_j). Where the statistic lse spreads too
far for exp, it enters the logits instead, s'_ij = s_ij - lse_i, as one more channel: queries [k, 1], keys [q, -lse /
scale], values W. That is safe at any spread and costs copies of q and k.

Tiles of rows do the same in plain PyTorch: the twin of the kernel, and what serves where there is none, heads are not
averaged, or the matrices are so small that one tile of all rows costs less than a turned call.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from simpool_viz.capture.block_attention import Attention
from simpool_viz.capture.kernels import Kernel, find_kernel
from simpool_viz.errors import OptionError
from simpool_viz.tensors import wide

TILE = 4_194_304  # entries of a tile (heads x rows x tokens): 16 MiB in float32
FEW = 64  # query rows that cost less as rows than as a turned block
# entries of a block's matrices (heads x tokens x tokens, 2 MiB in float32) up to which they cost less than a turned
# block
SMALL = 524_288
SPREAD = (
    60.0  # of the statistic over a block's rows, up to which its exp is safe in float32, whose own range is about 88
)


@dataclass(frozen=True)
class Walk:
    """How a roll-out goes through the blocks.

    first: first block that takes part (0-based, inclusive). residual: a in A^ = (1 - a) A + a I.
    fusion: over heads, "mean"; or "max" or "min", each row renormalised.

    Raises:
        OptionError: an unknown fusion, a residual outside [0, 1], or a first block that is no whole number from 0.
    """

    first: int = 0
    residual: float = 0.5
    fusion: str = "mean"

    def __post_init__(self) -> None:
        if self.fusion not in ("mean", "max", "min"):
            raise OptionError(f"heads are fused by mean, max or min, not {self.fusion!r}")
        if not isinstance(self.residual, (int, float)) or not 0 <= self.residual <= 1:
            raise OptionError(f"the residual weight lies in [0, 1], not {self.residual}")
        if not isinstance(self.first, int) or self.first < 0:
            raise OptionError(f"the first block is a number from 0, not {self.first}")


def roll_out(
    weights: Tensor, blocks: Sequence[Attention], *, first: int = 0, residual: float = 0.5, fusion: str = "mean"
) -> Tensor:
    """W R: row weights through the roll-out of some blocks.

    Args:
        weights: W (C, N) over all tokens, prefixes included.
        blocks: attention from first to last.
        first, residual, fusion: as in `Walk`.

    Returns:
        (C, N) in float32 (float64 for float64 weights); rows that sum to 1 stay so.

    Raises:
        OptionError: as in `Walk`, or a first block that does not exist.
    """
    walk = Walk(first, residual, fusion)
    if first >= max(len(blocks), 1):
        raise OptionError(f"the first block is 0 to {len(blocks) - 1}, not {first}")
    room = Room()
    for index in reversed(
        range(first, len(blocks))
    ):  # one block at a time: of those that are not kept, only a needed one complains
        through = through_block(weights, blocks[index], walk.fusion, room)
        weights = through.mul_(1 - residual).add_(weights, alpha=residual)
    return weights


def through_block(weights: Tensor, block: Attention, fusion: str = "mean", room: Room | None = None) -> Tensor:
    """W A for one block: (C, N) -> (C, N), by the kernel where one fits and the block is not a small one."""
    few = _few_rows(weights)
    if few is not None:
        return weights[:, few] @ fuse_heads(block.rows(few), fusion).to(weights.dtype)
    if _entries(block) > SMALL and fusion == "mean" and block.lse is not None and block.query.shape == block.key.shape:
        kernel = find_kernel(weights.device, weights.dtype, block.query.shape[-1] + 1, block.bias is not None)
        if kernel is not None:
            return through_kernel(weights, block, kernel, room or Room())
    return through_tiles(weights, block, fusion)


def _entries(block: Attention) -> int:
    """How many numbers the matrices of all heads would hold."""
    (heads, rows, _), columns = block.query.shape, block.key.shape[1]
    return heads * rows * columns


def _few_rows(weights: Tensor) -> Tensor | None:
    """The tokens that have any weight, where they are few, as at a chain's beginning from the class token."""
    if weights.shape[1] <= FEW:
        return None
    (rows,) = weights.any(0).nonzero(as_tuple=True)
    return rows if len(rows) <= FEW else None


def through_tiles(weights: Tensor, block: Attention, fusion: str = "mean") -> Tensor:
    """W A, a tile of query rows at a time: (C, N) -> (C, N)."""
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


# --- the exchanged roles ----------------------------------------------------------------------------------------------


class Room:
    """Memory for the kernel's operands, made once for a whole chain: fresh pages for each block cost as much as filling
    them."""

    def __init__(self) -> None:
        self._held: dict[str, Tensor] = {}

    def take(self, name: str, shape: tuple[int, ...], like: Tensor) -> Tensor:
        """A tensor of this shape, in the device and precision of `like`, its contents what was left there."""
        held = self._held.get(name)
        if held is None or held.shape != shape or held.dtype != like.dtype or held.device != like.device:
            held = self._held[name] = torch.empty(shape, dtype=like.dtype, device=like.device)
        return held


def through_kernel(weights: Tensor, block: Attention, kernel: Kernel, room: Room) -> Tensor:
    """W A by one call of a fused kernel per group of as many rows of W as its heads have channels.

    Args:
        weights: W (C, N), in the precision in which all is computed; queries and keys are cast to it, a block at a
            time.
        block: with its `lse`.
        kernel: one that serves this device and precision.
        room: memory of the chain.

    Returns:
        (C, N).
    """
    assert block.lse is not None, "through_block asks for it"
    lse = block.lse.to(weights.dtype)
    lowest = lse.amin(1, keepdim=True)  # (H, 1)
    if float((lse - lowest).max()) <= SPREAD:
        queries, keys, shrink = (
            block.key[None].to(weights.dtype),
            block.query[None].to(weights.dtype),
            (lowest - lse).exp(),
        )
    else:
        queries, keys, shrink = *_with_statistic(block, lse, room, weights), torch.ones_like(lse)
        lowest = torch.zeros_like(lowest)
    groups = weights.split(queries.shape[-1])
    return torch.cat([_exchanged(group, block, queries, keys, shrink, lowest, kernel, room) for group in groups])


def _with_statistic(block: Attention, lse: Tensor, room: Room, like: Tensor) -> tuple[Tensor, Tensor]:
    """Queries [k, 1] and keys [q, -lse / scale], each (1, H, N, d + 1)."""
    heads, count, size = block.query.shape
    queries, keys = (room.take(name, (1, heads, count, size + 1), like) for name in ("queries", "keys"))
    queries[0, ..., :size], queries[..., size] = block.key, 1.0
    keys[0, ..., :size], keys[0, ..., size] = block.query, lse / -block.scale
    return queries, keys


def _exchanged(
    weights: Tensor,
    block: Attention,
    queries: Tensor,
    keys: Tensor,
    shrink: Tensor,
    lowest: Tensor,
    kernel: Kernel,
    room: Room,
) -> Tensor:
    """(c, N) -> (c, N) for at most as many rows as queries and keys have channels.

    Args:
        shrink: (H, N), what each key's values are multiplied by. lowest: (H, 1), what is taken off the kernel's
            log-sum-exp.
    """
    (_, heads, count, width), c = queries.shape, len(weights)
    values = room.take("values", (1, heads, count, width), weights)
    values[..., c:] = 0.0
    torch.mul(weights.T, shrink[..., None], out=values[0, ..., :c])
    product, step = torch.empty_like(weights), _step(block)
    for start in range(0, count, step):
        rows = slice(start, min(start + step, count))
        out, lse = kernel(queries[:, :, rows], keys, values, _turned(block.bias, rows, weights), block.scale)
        # Heads averaged.
        product[:, rows] = (wide(out[0, ..., :c]) * (wide(lse[0]) - lowest).exp()[..., None]).mean(0).T
    return product


def _step(block: Attention) -> int:
    """Query rows per call: all at once, or with a bias as many as keep its turned part within a tile."""
    heads, count, _ = block.key.shape
    return count if block.bias is None else max(1, TILE // (heads * count))


def _turned(bias: Tensor | None, rows: slice, like: Tensor) -> Tensor | None:
    """The bias (H or 1, N, N) with b_ij at row j, column i, for some j: (1, H or 1, n, N)."""
    return None if bias is None else bias[..., rows].transpose(1, 2).to(like.dtype).contiguous()[None]
