"""The precision in which maps, means and statistics are computed, whatever the precision of the forward."""

from __future__ import annotations

import torch
from torch import Tensor


def wide(x: Tensor) -> Tensor:
    """x in float32, or as it is where it is float64."""
    return x if x.dtype == torch.float64 else x.float()
