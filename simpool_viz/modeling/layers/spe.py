"""SPE: channel attention from the maximum and the minimum of each channel (SPENet, Zhong et al., 2023).

After the last norm of each residual branch, before the add, with u(f) = w2 f + b2 per channel:

    r = sigmoid(u(f_max) + u(f_min));   lambda = p0^2 / (p0^2 + p1^2)
    e = w1 (lambda u(f_max) + (1 - lambda) u(f_min)) + b1;   y = x * r * sigmoid(e)

This is what the released code computes ("official"). The paper's figure differs and is the variant "figure": e mixes
the raw f_max and f_min, and the gate is sigmoid(r e). 4 C + 2 parameters per block.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from simpool_viz.errors import CheckpointError
from simpool_viz.modeling.layers.branches import gate_branches

VARIANTS = ("official", "figure")


def share_of_maximum(p: Tensor) -> Tensor:
    """lambda = p0^2 / (p0^2 + p1^2), the weight of the maximum in [0, 1], of p (2,)."""
    return p[0] ** 2 / (p[0] ** 2 + p[1] ** 2)


class SPE(nn.Module):
    """Gates the channels of a feature map (B, C, h, w).

    Args:
        channels: C.
        variant: "official" or "figure".

    Attributes:
        w1: (1, C, 1, 1), initially 0.
        b1: (1, C, 1, 1), initially -1.
        w2: (1, C, 1, 1), initially 0.
        b2: (1, C, 1, 1), initially -1.
        p: (2,), initially 1/2, so that the official gate is 0.0321 at first.

    Raises:
        CheckpointError: an unknown variant.
    """

    def __init__(self, channels: int, variant: str = "official") -> None:
        super().__init__()
        if variant not in VARIANTS:
            raise CheckpointError(f"SPE has the variants {' and '.join(VARIANTS)}, not {variant!r}")
        self.variant = variant
        self.w1, self.w2 = (nn.Parameter(torch.zeros(1, channels, 1, 1)) for _ in range(2))
        self.b1, self.b2 = (nn.Parameter(-torch.ones(1, channels, 1, 1)) for _ in range(2))
        self.p = nn.Parameter(torch.full((2,), 0.5))
        self.gate = nn.Identity()  # a module of its own, so that a hook can record the gate

    @property
    def share(self) -> Tensor:
        """lambda, the weight of the maximum in [0, 1]."""
        return share_of_maximum(self.p)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, h, w) -> (B, C, h, w)."""
        highest, lowest = x.amax(dim=(2, 3), keepdim=True), x.amin(dim=(2, 3), keepdim=True)  # (B, C, 1, 1)
        uh, ul = self.w2 * highest + self.b2, self.w2 * lowest + self.b2
        r = (uh + ul).sigmoid()
        share = self.share
        if self.variant == "official":
            return x * self.gate(r * (self.w1 * (share * uh + (1 - share) * ul) + self.b1).sigmoid())
        return x * self.gate((r * (self.w1 * (share * highest + (1 - share) * lowest) + self.b1)).sigmoid())

    def penalty(self) -> Tensor:
        """p0^2 + p1^2, a scalar; the loss adds 0.1 times its sum over the blocks."""
        return (self.p**2).sum()


def insert_spe(backbone: Any, variant: str = "official") -> None:
    """Insert SPE into every residual branch of a timm ResNet, basic or bottleneck, after its last norm.

    Args:
        backbone: changed in place.
        variant: "official" or "figure".

    Raises:
        CheckpointError: the backbone is no ResNet, or its branches hold another channel attention already.
    """
    gate_branches(backbone, lambda channels: SPE(channels, variant), "SPE")


def spe_penalty(backbone: nn.Module) -> Tensor | float:
    """The sum of `SPE.penalty` over the blocks of a backbone; 0 without SPE."""
    return sum((module.penalty() for module in backbone.modules() if isinstance(module, SPE)), 0.0)
