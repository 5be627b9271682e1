"""Roll-out with a discard ratio, as in the tool vit-explain (Gildenblat, 2020), for those who compare with it.

Per block: the heads' attention is fused by mean, maximum or minimum into F (N, N) and not renormalised; the share d of
all entries that are lowest is set to 0, all but F_00, the class token's attention to itself; then

    Â = ((1 - a) F + a I) D⁻¹,    D = diag(row sums of (1 - a) F + a I),

with a = 1/2. As in that tool's code, column j is divided by the sum of row j, so that rows do not sum to 1 exactly.
"""

from __future__ import annotations

import torch
from torch import Tensor

from simpool_viz.capture.block_attention import Attention


def through_discarded(
    weights: Tensor, block: Attention, *, residual: float, fusion: str, discard: float, entries: int
) -> Tensor:
    """W Â for one block.

    Args:
        weights: W (C, N).
        block: the attention of the block.
        residual: a in [0, 1]; 0 for a block without a skip connection.
        fusion: of heads: "mean", "max" or "min".
        discard: d in (0, 1), share of the entries that are set to 0.
        entries: of the attention of all heads that are in memory at a time.

    Returns:
        (C, N) in the precision of the weights.
    """
    mixed = discarded(block, fusion, discard, entries).mul_(1 - residual)
    mixed.diagonal().add_(residual)
    sums = mixed.sum(-1)  # (N,)
    return ((weights.to(mixed.dtype) @ mixed) / sums.clamp(min=torch.finfo(sums.dtype).tiny)).to(weights.dtype)


def discarded(block: Attention, fusion: str, discard: float, entries: int) -> Tensor:
    """F (N, N): the fused attention of a block without its lowest entries, float32 (float64 of a float64 model)."""
    tiles = []
    for tile in block.row_tiles(entries):
        rows = block.rows(tile)  # (H, n, N)
        tiles.append(rows.mean(0) if fusion == "mean" else rows.amax(0) if fusion == "max" else rows.amin(0))
    fused = torch.cat(tiles)
    flat, kept = fused.view(-1), fused[0, 0].clone()
    flat[flat.topk(int(flat.numel() * discard), largest=False, sorted=False).indices] = 0.0
    fused[0, 0] = kept
    return fused
