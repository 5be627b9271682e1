"""The precision in which maps, means and statistics are computed, whatever the precision of the forward; and when tensors are the same."""

from __future__ import annotations

import torch
from torch import Tensor


def wide(x: Tensor) -> Tensor:
    """x in float32, or as it is where it is float64."""
    return x if x.dtype == torch.float64 else x.float()


def identical(one: Tensor, other: Tensor) -> bool:
    """Whether two tensors are of one shape, precision and device and hold the same numbers."""
    return one.shape == other.shape and one.dtype == other.dtype and one.device == other.device and torch.equal(one, other)
