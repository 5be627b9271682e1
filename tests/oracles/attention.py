"""Attention the slow way: eager softmax matrices out of timm's own unfused path, and N x N roll-out products."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from simpool_viz.modeling.encoder import Encoder


class Softmaxes(TorchFunctionMode):
    """Collects what every softmax over four dimensions gives."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[Tensor] = []

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if func is Tensor.softmax and result.ndim == 4:
            self.seen.append(result)
        return result


def eager_attention(encoder: Encoder, images: Tensor) -> list[Tensor]:
    """The softmax attention (B, H, Nq, N) of every attention module, in the order of the forward, unfused."""
    modules = [m for m in encoder.modules() if hasattr(m, "fused_attn")]
    try:
        for m in modules:
            m.fused_attn = False
        with torch.no_grad(), Softmaxes() as softmaxes:
            encoder(images)
    finally:
        for m in modules:
            m.fused_attn = True
    return softmaxes.seen


def rollout(matrices: list[np.ndarray], first: int = 0, residual: float = 0.5, fusion: str = "mean") -> np.ndarray:
    """R = A^_L ... A^_first (N, N) in float64 from matrices (H, N, N), first block first."""
    product = np.eye(matrices[0].shape[-1])
    for heads in matrices[first:]:
        a = {"mean": np.mean, "max": np.max, "min": np.min}[fusion](heads.astype(np.float64), axis=0)
        a = a / a.sum(axis=1, keepdims=True)
        product = ((1 - residual) * a + residual * np.eye(len(a))) @ product
    return product


def dense_rollout(r: np.ndarray, scores: np.ndarray, prefix: int, soft: bool) -> dict[int, np.ndarray]:
    """Class -> its map over the patches (N,), from R (P + N, P + N) and scores (N, K); absent classes are left out."""
    maps = {}
    for c in range(scores.shape[1]):
        if soft:
            e = np.exp(scores - scores.max(axis=1, keepdims=True))
            w = e[:, c] / e.sum(axis=1)
        else:
            w = (scores.argmax(axis=1) == c).astype(np.float64)
        if w.sum() > 0:
            maps[c] = (w @ r[prefix:, prefix:]) / w.sum()
    return maps


def random_blocks(
    depth: int, heads: int, tokens: int, spread: float, seed: int = 0, size: int = 8
) -> list[tuple[Tensor, Tensor, Tensor | None]]:
    """(query, key, bias) per block, whose logits (at scale 1) reach +- spread; every second block has a bias."""
    generator = torch.Generator().manual_seed(seed)
    blocks: list[tuple[Tensor, Tensor, Tensor | None]] = []
    for layer in range(depth):
        q, k = (torch.randn(heads, tokens, size, generator=generator) for _ in range(2))
        scale = (spread / (q @ k.transpose(1, 2)).abs().max()).sqrt()
        bias = torch.randn(heads, tokens, tokens, generator=generator) if layer % 2 else None
        blocks.append((q * scale, k * scale, bias))
    return blocks
