"""How much faster the batched spatial-entropy loss is than a loop over maps: `python benchmarks/run.py --parts
entropy`.

Both give the loss and its gradient for (64, 6) maps of 14 x 14. The loop does per map what the batched one does for
all: the same arithmetic in PyTorch, the same labelling by OpenCV. Prints the ratio of the medians, measured in turns in
one run.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import cv2
import numpy as np
import torch
from torch import Tensor

from benchmarks.measure import Samples
from simpool_viz.training.losses import spatial_entropy_loss


def looped(scores: Tensor) -> Tensor:
    """The loss one map at a time, one component at a time."""
    entropies = []
    for s in scores.flatten(0, 1):
        excess = s - s.mean()
        mask = excess > 0
        count, labels = cv2.connectedComponents(mask.numpy().astype(np.uint8), connectivity=8)
        amount = (excess.relu() + 1e-9) * mask
        found = torch.from_numpy(labels)
        shares = [amount[found == k].sum() / amount.sum() for k in range(1, count)]
        entropies.append(-sum((p * p.log() for p in shares), torch.zeros(())))
    return torch.stack(entropies).mean()


def seconds(loss: Callable[[Tensor], Tensor], scores: Tensor) -> float:
    started = time.perf_counter()
    loss(scores.clone().requires_grad_(True)).backward()
    return time.perf_counter() - started


def report(rounds: int, samples: Samples) -> list[str]:
    """The ratio of the medians, measured in turns, and how far the losses are apart."""
    scores = torch.randn(64, 6, 14, 14, generator=torch.Generator().manual_seed(0))
    difference = abs(float(looped(scores) - spatial_entropy_loss(scores)))
    slow, fast = zip(
        *((seconds(looped, scores), seconds(spatial_entropy_loss, scores)) for _ in range(rounds)), strict=True
    )
    samples.add("spatial entropy of (64, 6) maps with its gradient", "s", list(fast))
    ratio = statistics.median(slow) / statistics.median(fast)
    return [
        f"Spatial entropy of (64, 6) maps with its gradient: a loop over maps {1000 * statistics.median(slow):.1f} ms, "
        f"batched {1000 * statistics.median(fast):.2f} ms, {ratio:.0f} times as fast; the losses differ by "
        f"{difference:.1e}."
    ]
