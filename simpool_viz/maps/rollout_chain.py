"""Attention Roll-Out as a chain of vector-matrix products, without any N x N matrix of long sequences.

Roll-out multiplies residual attention matrices, R = A^_L ... A^_1 with A^_l = (1 - a) mean_h A_l + a I (Abnar &
Zuidema, ACL 2020, eq. 1). Every map taken from it is W R for some row weights W (C, N): the class token's row, the mean
over a class's tokens, one token. Multiplying W from the last block to the first needs no product of two N x N matrices.
The product with one block is

    (W A)_j = sum_i W_i exp(s_ij - lse_i),    s = q k^T scale + b,    lse_i = logsumexp_j s_ij,

which is attention with the roles of q and k exchanged: queries k, keys q, values W_i exp(-lse_i). The fused kernel
normalises over i, and its own log-sum-exp undoes that: (W A)_j = out_j exp(lse'_j). Where the range of lse is too wide
for exp, lse enters the logits instead, s'_ij = s_ij - lse_i, as one more channel: queries [k, 1], keys [q, -lse /
scale], values W. That is safe for any range and costs copies of q and k.

Logits are float32 numbers, whichever way they are computed: with the largest of magnitude L, each weight has a relative
error of up to some 2^-23 L (1e-5 where L is 100), by the exchanged call as by the plain softmax.

`through_tiles` computes the same in plain PyTorch, a tile of rows at a time. It is used where there is no kernel, where
heads are not averaged, and where the matrices are so small that one tile of all rows costs less than an exchanged call.
Where the forward kept the mean of the heads' matrices, since it was small (`capture.averages`), a step is a product
with that.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from simpool_viz.capture.block_attention import Attention, MeanAttention
from simpool_viz.capture.kernels import Kernel, find_kernel
from simpool_viz.errors import MapError, OptionError
from simpool_viz.maps.discard import through_discarded
from simpool_viz.tensors import wide

MEASURED = "measured"  # a residual weight of each block's own
TILE = 4_194_304  # entries of a tile (heads x rows x tokens): 16 MiB in float32
FEW = 64  # query rows up to which computing these rows costs less than an exchanged call
# entries of a block's matrices (heads x tokens x tokens, 2 MiB in float32) up to which they cost less than an exchanged
# call
SMALL = 524_288
SPREAD = 60.0  # range of lse over a block's rows up to which its exp is safe in float32, which overflows at exp(88.7)


@dataclass(frozen=True)
class RolloutOptions:
    """The options of a roll-out.

    Attributes:
        first: the first block that takes part (0-based, inclusive).
        residual: weight a in [0, 1] of the skip connection in A^ = (1 - a) A + a I, or "measured": each block's own, as
            `capture.hooks.skip_shares` finds it in the forward pass.
        fusion: of heads: "mean", or "max" or "min" with each row renormalised.
        discard: share in [0, 1) of each block's lowest weights that are set to 0, as in vit-explain (see discard.py); 0
            for none, the roll-out of Abnar & Zuidema.

    Raises:
        OptionError: an unknown fusion, a residual outside [0, 1], a discard outside [0, 1), or a first block that is
            not an integer from 0.
    """

    first: int = 0
    residual: float | str = 0.5
    fusion: str = "mean"
    discard: float = 0.0

    def __post_init__(self) -> None:
        if self.fusion not in ("mean", "max", "min"):
            raise OptionError(f"heads are fused by mean, max or min, not {self.fusion!r}")
        number = isinstance(self.residual, (int, float))
        if self.residual != MEASURED and not (number and 0 <= self.residual <= 1):  # type: ignore[operator]
            raise OptionError(f"the residual weight lies in [0, 1] or is {MEASURED!r}, not {self.residual}")
        if not isinstance(self.discard, (int, float)) or not 0 <= self.discard < 1:
            raise OptionError(f"the share that is discarded lies in [0, 1), not {self.discard}")
        if not isinstance(self.first, int) or self.first < 0:
            raise OptionError(f"the first block is a number from 0, not {self.first}")

    @property
    def by_mean(self) -> bool:
        """As `takes_mean`."""
        return takes_mean(vars(self))


def takes_mean(options: Mapping[str, Any]) -> bool:
    """Whether a roll-out with these options needs of a block's attention no more than its mean over the heads."""
    return options.get("fusion", "mean") == "mean" and not options.get("discard", 0.0)


def roll_out(
    weights: Tensor,
    blocks: Sequence[Attention | MeanAttention],
    *,
    first: int = 0,
    residual: float | str = 0.5,
    fusion: str = "mean",
    discard: float = 0.0,
) -> Tensor:
    """W R: rows of weights multiplied by the roll-out R of some blocks.

    Args:
        weights: W (C, N) over all tokens, prefixes included, float32 or float64.
        blocks: attention of the blocks from first to last; as means over the heads only where fusion is "mean" and
            nothing is discarded.
        first: as in `RolloutOptions`.
        residual: as in `RolloutOptions`.
        fusion: as in `RolloutOptions`.
        discard: as in `RolloutOptions`.

    Returns:
        (C, N) in the precision of the weights; rows that sum to 1 still do, but for a discard.

    Raises:
        OptionError: as in `RolloutOptions`, or a first block that does not exist.
        MapError: a block that is needed was not kept, or does not show its residual weight where that is measured.
    """
    options = RolloutOptions(first, residual, fusion, discard)
    if first >= max(len(blocks), 1):
        raise OptionError(f"the first block is 0 to {len(blocks) - 1}, not {first}")
    workspace = Workspace()
    # By index: access to a block that was not kept raises, so that only needed ones may be accessed.
    for index in reversed(range(first, len(blocks))):
        block = blocks[index]
        share = _share(block, residual, index)
        if isinstance(block, MeanAttention):
            weights = torch.addmm(weights, weights, block.matrix.to(weights.dtype), beta=share, alpha=1 - share)
            continue
        if discard:
            weights = through_discarded(weights, block, residual=share, fusion=fusion, discard=discard, entries=TILE)
            continue
        through = through_block(weights, block, options.fusion, workspace)
        weights = through.mul_(1 - share).add_(weights, alpha=share)
    return weights


def _share(block: Attention | MeanAttention, residual: float | str, index: int) -> float:
    """The weight of a block's skip connection; without one the step is the attention itself."""
    if not block.skip:
        return 0.0
    if not isinstance(residual, str):
        return residual
    if block.skip_share is None:
        raise MapError(
            f"the weight of the skip connection was not measured in block {index}: the block does not show the sum of "
            "its skip connection and attention, or the recording was made for other maps; choose a residual weight in "
            "[0, 1], or record with keep=None"
        )
    return float(block.skip_share)


def through_block(
    weights: Tensor, block: Attention, fusion: str = "mean", workspace: Workspace | None = None
) -> Tensor:
    """W A for one block, by a fused kernel where one fits and the block is not small.

    Args:
        weights: W (C, N).
        block: the attention A of the block.
        fusion: of heads, as in `RolloutOptions`.
        workspace: memory that several calls share.

    Returns:
        (C, N) in the precision of the weights.
    """
    few = _few_rows(weights)
    if few is not None:
        return weights[:, few] @ fused_rows(block, few, fusion).to(weights.dtype)
    if _entries(block) > SMALL and fusion == "mean" and block.lse is not None and block.query.shape == block.key.shape:
        kernel = find_kernel(weights.device, weights.dtype, block.query.shape[-1] + 1, block.bias is not None)
        if kernel is not None:
            return through_kernel(weights, block, kernel, workspace or Workspace())
    return through_tiles(weights, block, fusion)


def _entries(block: Attention) -> int:
    """The number of entries of the attention matrices of all heads."""
    (heads, rows, _), columns = block.query.shape, block.key.shape[1]
    return heads * rows * columns


def _few_rows(weights: Tensor) -> Tensor | None:
    """Indices of the tokens with any weight where they are few, as at the start from the class token, else None."""
    if weights.shape[1] <= FEW:
        return None
    (rows,) = weights.any(0).nonzero(as_tuple=True)
    return rows if len(rows) <= FEW else None


def through_tiles(weights: Tensor, block: Attention, fusion: str = "mean") -> Tensor:
    """W A for one block in plain PyTorch, a tile of query rows at a time.

    Args:
        weights: W (C, N).
        block: the attention A of the block.
        fusion: of heads, as in `RolloutOptions`.

    Returns:
        (C, N) in the precision of the weights.
    """
    product = torch.zeros_like(weights)
    for rows in block.row_tiles(TILE):
        product += weights[:, rows] @ fused_rows(block, rows, fusion).to(weights.dtype)
    return product


def fused_rows(block: Attention, rows: slice | Tensor, fusion: str) -> Tensor:
    """Rows of the attention of all heads as one (n, N), each of which sums to 1.

    The maximum and the minimum over heads are taken of logarithms and renormalised by a softmax, since the minimum
    itself underflows in float32 where the logits of heads differ by more than 87.
    """
    if fusion == "mean":
        return block.rows(rows).mean(0)
    logarithms = block.logits(rows).log_softmax(-1)  # (H, n, N)
    fused = logarithms.amax(0) if fusion == "max" else logarithms.amin(0)
    none = fused.amax(-1, keepdim=True) == -torch.inf  # heads whose masks leave no key in common
    return fused.masked_fill(none, 0.0).softmax(-1).masked_fill(none, 0.0)


# --- the exchanged roles ----------------------------------------------------------------------------------------------


class Workspace:
    """Memory for the kernel's operands, allocated once for all blocks of a roll-out.

    New memory pages for each block would cost as much time as filling them.
    """

    def __init__(self) -> None:
        self._held: dict[str, Tensor] = {}

    def take(self, name: str, shape: tuple[int, ...], like: Tensor) -> Tensor:
        """A tensor with undefined contents, which later calls with this name reuse.

        Args:
            name: of the operand.
            shape: of the tensor.
            like: a tensor whose device and precision it gets.
        """
        held = self._held.get(name)
        if held is None or held.shape != shape or held.dtype != like.dtype or held.device != like.device:
            held = self._held[name] = torch.empty(shape, dtype=like.dtype, device=like.device)
        return held


def through_kernel(weights: Tensor, block: Attention, kernel: Kernel, workspace: Workspace) -> Tensor:
    """W A for one block by calls of a fused kernel with exchanged roles.

    Each call takes at most as many rows of W as its queries have channels.

    Args:
        weights: W (C, N); queries and keys are cast to its precision.
        block: the attention A of the block, with its `lse`.
        kernel: one that fits this device and precision.
        workspace: memory that several calls share.

    Returns:
        (C, N) in the precision of the weights.
    """
    assert block.lse is not None, "through_block checks this"
    lse = block.lse.to(weights.dtype)
    lowest = lse.amin(1, keepdim=True)  # (H, 1)
    if float((lse - lowest).max()) <= SPREAD:
        queries, keys = block.key[None].to(weights.dtype), block.query[None].to(weights.dtype)
        operands = _Operands(queries, keys, (lowest - lse).exp(), lowest)
    else:
        queries, keys = _with_statistic(block, lse, workspace, weights)
        operands = _Operands(queries, keys, torch.ones_like(lse), torch.zeros_like(lowest))
    groups = weights.split(queries.shape[-1])
    return torch.cat([_exchanged(group, block, operands, kernel, workspace) for group in groups])


@dataclass(frozen=True)
class _Operands:
    """What exchanged calls of one block share.

    Attributes:
        queries: (1, H, N, d) or (1, H, N, d + 1), the keys of the block.
        keys: of the same shape, the queries of the block.
        shrink: (H, N), the factor of each key's values.
        lowest: (H, 1), what is subtracted from the log-sum-exp of the kernel.
    """

    queries: Tensor
    keys: Tensor
    shrink: Tensor
    lowest: Tensor


def _with_statistic(block: Attention, lse: Tensor, workspace: Workspace, like: Tensor) -> tuple[Tensor, Tensor]:
    """Queries [k, 1] and keys [q, -lse / scale], each (1, H, N, d + 1)."""
    heads, count, size = block.query.shape
    queries, keys = (workspace.take(name, (1, heads, count, size + 1), like) for name in ("queries", "keys"))
    queries[0, ..., :size], queries[..., size] = block.key, 1.0
    keys[0, ..., :size], keys[0, ..., size] = block.query, lse / -block.scale
    return queries, keys


def _exchanged(weights: Tensor, block: Attention, operands: _Operands, kernel: Kernel, workspace: Workspace) -> Tensor:
    """W A (c, N) for weights W (c, N) of at most as many rows as queries and keys have channels."""
    (_, heads, count, width), c = operands.queries.shape, len(weights)
    values = workspace.take("values", (1, heads, count, width), weights)
    values[..., c:] = 0.0
    torch.mul(weights.T, operands.shrink[..., None], out=values[0, ..., :c])
    product, step = torch.empty_like(weights), _step(block)
    for start in range(0, count, step):
        rows = slice(start, min(start + step, count))
        bias = _transposed_bias(block.bias, rows, weights)
        out, lse = kernel(operands.queries[:, :, rows], operands.keys, values, bias, block.scale)
        factor = (wide(lse[0]) - operands.lowest).exp()[..., None]  # (H, n, 1)
        product[:, rows] = (wide(out[0, ..., :c]) * factor).mean(0).T  # the mean over heads
    return product


def _step(block: Attention) -> int:
    """Query rows per exchanged call: all, or with a bias as many as keep its transposed part within a tile."""
    heads, count, _ = block.key.shape
    return count if block.bias is None else max(1, TILE // (heads * count))


def _transposed_bias(bias: Tensor | None, rows: slice, like: Tensor) -> Tensor | None:
    """The bias b (H or 1, N, N) with b_ij at row j and column i, for the columns j of a slice: (1, H or 1, n, N)."""
    return None if bias is None else bias[..., rows].transpose(1, 2).to(like.dtype).contiguous()[None]
