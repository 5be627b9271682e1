"""Attention of not too long sequences in plain products, of which the mean over the heads is kept.

A roll-out by the mean over the heads needs one N x N matrix of a block. Where that is not much larger than the queries
and keys from which it would be made again, keeping it costs little memory or none, and the softmax of the forward need
not be computed a second time. A few heads are computed at a time, so that their matrices stay in the processor's cache:
so the plain products take as long as the fused kernel at 197 tokens, and a sixth longer at 1,370.
"""

from __future__ import annotations

import torch
from torch import Tensor

# A mean is kept up to this multiple of the size of a block's q and k; with what is in memory while it is made, the peak
# stays within twice their size.
MOST = 1.8
SMALL = 262_144  # entries of all matrices of a batch up to which they are computed at once, 1 MiB in float32
TILE = 1_048_576  # entries of the matrices (heads x N x N) in memory at a time, 4 MiB in float32; one head at least


def keeps_mean(query: Tensor, key: Tensor, value: Tensor) -> bool:
    """Whether the mean over the heads of a call's attention is kept in place of its queries and keys, where it is all
    that is asked for.

    On other devices than a CPU, and in half precision, the fused kernel is left to its own.

    Args:
        query: (B, H, N, d).
        key: as the query in a block; where they differ, as in a pooling, no mean is kept.
        value: as the query.
    """
    _, heads, count, size = query.shape
    plain = query.device.type == "cpu" and query.dtype in (torch.float32, torch.float64)
    return plain and query.shape == key.shape == value.shape and count <= MOST * 2 * heads * size


def averaged_attention(
    query: Tensor, key: Tensor, value: Tensor, bias: Tensor | None, scale: float
) -> tuple[Tensor, Tensor]:
    """softmax(q k^T scale + b) v, and the mean over the heads of the softmax.

    The softmax of a row without any key, as a mask can leave it, is 0, as in the fused kernel.

    Args:
        query: (B, H, N, d), float32 or float64.
        key: (B, H, N, d).
        value: (B, H, N, d).
        bias: broadcasts to (B, H, N, N), added to the logits; None for none.
        scale: factor of the logits.

    Returns:
        (B, H, N, d) and (B, N, N).
    """
    batch, heads, count, size = query.shape
    if batch * heads * count * count <= SMALL:
        weights = _softmax((query * scale) @ key.transpose(2, 3), bias)
        return weights @ value, weights.mean(1)
    step = min(heads, max(1, TILE // (count * count)))
    output = query.new_empty(batch, count, heads, size).transpose(1, 2)
    means, held = query.new_empty(batch, count, count), query.new_empty(step, count, count)
    if bias is not None:
        bias = bias.to(query.dtype).expand(batch, heads, count, count)
    for i in range(batch):
        for start in range(0, heads, step):
            some = slice(start, min(start + step, heads))
            weights = held[: some.stop - start]
            torch.baddbmm(weights, query[i, some], key[i, some].transpose(1, 2), beta=0, alpha=scale, out=weights)
            weights = _softmax(weights, None if bias is None else bias[i, some])
            output[i, some] = weights @ value[i, some]
            if start == 0:
                torch.sum(weights, 0, out=means[i])
            else:
                means[i] += weights[0] if len(weights) == 1 else weights.sum(0)
    return output, means.div_(heads)


def _softmax(logits: Tensor, bias: Tensor | None) -> Tensor:
    """The softmax over the last dimension of logits (..., N, N), which are overwritten, with a bias that broadcasts."""
    if bias is None:
        return torch.softmax(logits, -1, out=logits)
    logits += bias
    none = logits.amax(-1, keepdim=True) == -torch.inf
    return torch.softmax(logits, -1, out=logits).masked_fill_(none, 0.0)
