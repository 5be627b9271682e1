"""PyTorch's fused attention kernels, called in a form that also returns the log-sum-exp of every row.

`F.scaled_dot_product_attention` chooses one of these kernels and discards this statistic, which has been computed
anyway. With it, roll-outs multiply by an attention matrix without computing its entries (see maps/rollout_chain.py).
Where no kernel fits (other devices, other precisions, gradients), callers use plain PyTorch.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

Kernel = Callable[[Tensor, Tensor, Tensor, "Tensor | None", float], tuple[Tensor, Tensor]]
"""(query (B, H, Nq, d), key (B, H, N, d), value (B, H, N, d), bias (B, H, Nq, N) or None, scale) ->
(output, log-sum-exp (B, H, Nq))."""

_HALVES = (torch.float16, torch.bfloat16)


def find_kernel(device: torch.device, dtype: torch.dtype, size: int, biased: bool) -> Kernel | None:
    """The kernel that fits a call, or None where plain PyTorch has to be used.

    Args:
        device: of the operands.
        dtype: of the operands.
        size: channels of a head.
        biased: whether a bias is added to the logits.
    """
    if device.type == "cpu":
        return cpu_kernel if dtype in (torch.float32, torch.float64, *_HALVES) else None
    if device.type != "cuda" or dtype not in (torch.float32, *_HALVES):
        return None
    if dtype in _HALVES and not biased and size <= 256 and torch.cuda.get_device_capability(device) >= (8, 0):
        return flash_kernel
    return efficient_kernel


def cpu_kernel(query: Tensor, key: Tensor, value: Tensor, bias: Tensor | None, scale: float) -> tuple[Tensor, Tensor]:
    """PyTorch's fused kernel on a CPU, a `Kernel`: any head size; its log-sum-exp is not contiguous."""
    out = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu.default(
        query, key, value, attn_mask=bias, scale=scale
    )
    return out[0], out[1]


def flash_kernel(query: Tensor, key: Tensor, value: Tensor, bias: Tensor | None, scale: float) -> tuple[Tensor, Tensor]:
    """Flash attention on CUDA, a `Kernel` for half precision; heads are padded to a multiple of 8 channels.

    Raises:
        ValueError: a bias, which this kernel does not take.
    """
    if bias is not None:
        raise ValueError("flash attention on CUDA takes no bias; the memory-efficient kernel does")
    size = value.shape[-1]
    query, key, value = (_padded(x, 8) for x in (query, key, value))
    out = torch.ops.aten._scaled_dot_product_flash_attention.default(query, key, value, scale=scale)
    return out[0][..., :size], out[1][..., : query.shape[-2]]


def efficient_kernel(
    query: Tensor, key: Tensor, value: Tensor, bias: Tensor | None, scale: float
) -> tuple[Tensor, Tensor]:
    """Memory-efficient attention on CUDA, a `Kernel` that also takes float32 and a bias.

    The rows of the bias must begin at multiples of 16 bytes; the kernel's log-sum-exp is padded to a multiple of 32
    rows, which are cut off.
    """
    size, rows = value.shape[-1], query.shape[-2]
    query, key, value = (_padded(x, 8) for x in (query, key, value))
    if bias is not None:
        shape = (*query.shape[:2], rows, key.shape[-2])
        bias = _padded(bias.to(query.dtype), 16).expand(*shape[:3], -1)[..., : shape[3]]
    out = torch.ops.aten._scaled_dot_product_efficient_attention.default(
        query, key, value, bias, compute_log_sumexp=True, scale=scale
    )
    return out[0][..., :size], out[1][..., :rows]


def _padded(x: Tensor, multiple: int) -> Tensor:
    """The last dimension padded with zeros to a multiple: no logit changes, and callers cut the added columns off."""
    missing = -x.shape[-1] % multiple
    return F.pad(x, (0, missing)) if missing or x.stride(-1) != 1 else x
