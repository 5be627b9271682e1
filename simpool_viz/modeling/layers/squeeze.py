"""Popular channel attentions whose squeeze can be chosen: the mean, or the maximum and the minimum in its place.

SPENet (Zhong et al., 2023) observes that a linear combination of max- and min-pooling can stand in for the mean inside
channel attention. With s (B, C) the squeeze of a feature map x (B, C, h, w), the gates of its channels are

    SE    sigmoid(W2 relu(W1 s + b1) + b2)             Hu et al., 2018, equation 3
    CBAM  sigmoid(MLP(s) + MLP(x_max)), then places    Woo et al., 2018, equations 2 and 3; MLP as in SE, without biases
    ECA   sigmoid(conv_k(s)) along the channels        Wang et al., 2020, equations 7 and 12
    SRM   sigmoid(BN(w1 s + w2 x_std)) per channel     Lee et al., 2019, equations 3 to 6

and y = x * gate. All stand after the last norm of each residual branch, before the add.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from simpool_viz.errors import CheckpointError
from simpool_viz.modeling.layers.branches import gate_branches
from simpool_viz.modeling.layers.spe import SPE, share_of_maximum

SQUEEZES = ("avg", "max", "min", "max+min", "adaptive")


class Squeeze(nn.Module):
    """One number for each channel of a feature map (B, C, h, w).

    Args:
        kind: "avg", "max", "min", "max+min" (half their sum), or "adaptive": lambda x_max + (1 - lambda) x_min with
            lambda = p0^2 / (p0^2 + p1^2) learned, as in SPE.

    Attributes:
        p: (2,), initially 1/2, so that "adaptive" begins as "max+min"; None for the others.

    Raises:
        CheckpointError: an unknown kind.
    """

    def __init__(self, kind: str = "avg") -> None:
        super().__init__()
        if kind not in SQUEEZES:
            raise CheckpointError(f"a squeeze is one of {', '.join(SQUEEZES)}, not {kind!r}")
        self.kind = kind
        self.p = nn.Parameter(torch.full((2,), 0.5)) if kind == "adaptive" else None

    @property
    def share(self) -> Tensor | None:
        """The weight of the maximum in [0, 1], of which the minimum has the rest; None for the mean."""
        if self.p is not None:
            return share_of_maximum(self.p)
        fixed = {"max": 1.0, "min": 0.0, "max+min": 0.5}
        return torch.tensor(fixed[self.kind]) if self.kind in fixed else None

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, h, w) -> (B, C)."""
        if self.kind == "avg":
            return x.mean(dim=(2, 3))
        if self.kind == "max":
            return x.amax(dim=(2, 3))
        if self.kind == "min":
            return x.amin(dim=(2, 3))
        share = 0.5 if self.p is None else self.share
        return share * x.amax(dim=(2, 3)) + (1 - share) * x.amin(dim=(2, 3))  # type: ignore[operator]


class ChannelAttention(nn.Module):
    """Gates the channels of a feature map by what `logits` makes of its squeeze.

    Args:
        channels: C.
        squeeze: as `Squeeze`.
    """

    def __init__(self, channels: int, squeeze: str = "avg") -> None:
        super().__init__()
        self.squeeze = Squeeze(squeeze)
        self.gate = nn.Sigmoid()  # a module of its own, so that a hook can record the gate

    def logits(self, x: Tensor) -> Tensor:
        """(B, C, h, w) -> (B, C), of which the gate is the sigmoid."""
        raise NotImplementedError

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, h, w) -> (B, C, h, w)."""
        gated: Tensor = x * self.gate(self.logits(x)[:, :, None, None])
        return gated


class SEGates(ChannelAttention):
    """SE: a bottleneck of two layers.

    Args:
        channels: C.
        squeeze: as `Squeeze`.
        reduction: C over the width of the bottleneck, which is at least 8.
    """

    def __init__(self, channels: int, squeeze: str = "avg", reduction: int = 16) -> None:
        super().__init__(channels, squeeze)
        width = bottleneck(channels, reduction)
        self.fc1, self.fc2 = nn.Linear(channels, width), nn.Linear(width, channels)

    def logits(self, x: Tensor) -> Tensor:
        out: Tensor = self.fc2(self.fc1(self.squeeze(x)).relu())
        return out


class CBAMChannelGates(ChannelAttention):
    """The channels' half of CBAM: the squeeze and the maximum through one bottleneck; arguments as SE's."""

    def __init__(self, channels: int, squeeze: str = "avg", reduction: int = 16) -> None:
        super().__init__(channels, squeeze)
        width = bottleneck(channels, reduction)
        self.fc1, self.fc2 = nn.Linear(channels, width, bias=False), nn.Linear(width, channels, bias=False)

    def logits(self, x: Tensor) -> Tensor:
        both = torch.stack([self.squeeze(x), x.amax(dim=(2, 3))])  # (2, B, C)
        out: Tensor = self.fc2(self.fc1(both).relu()).sum(0)
        return out


class CBAMGates(nn.Module):
    """CBAM: first its channels' half, then timm's gate of places; arguments as SE's."""

    def __init__(self, channels: int, squeeze: str = "avg", reduction: int = 16) -> None:
        from timm.layers.cbam import SpatialAttn

        super().__init__()
        self.channel, self.spatial = CBAMChannelGates(channels, squeeze, reduction), SpatialAttn()

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, h, w) -> (B, C, h, w)."""
        out: Tensor = self.spatial(self.channel(x))
        return out


class ECAGates(ChannelAttention):
    """ECA: one convolution along the channels, whose kernel grows with their number.

    Args:
        channels: C.
        squeeze: as `Squeeze`.
    """

    def __init__(self, channels: int, squeeze: str = "avg") -> None:
        super().__init__(channels, squeeze)
        width = int(abs((math.log2(channels) + 1) / 2))
        width += 1 - width % 2
        self.conv = nn.Conv1d(1, 1, width, padding=width // 2, bias=False)

    def logits(self, x: Tensor) -> Tensor:
        out: Tensor = self.conv(self.squeeze(x)[:, None])[:, 0]
        return out


class SRMGates(ChannelAttention):
    """SRM: the squeeze and the standard deviation, weighted for each channel and normalised over the batch.

    Args:
        channels: C.
        squeeze: as `Squeeze`.
    """

    def __init__(self, channels: int, squeeze: str = "avg") -> None:
        super().__init__(channels, squeeze)
        self.weight = nn.Parameter(torch.zeros(channels, 2))
        self.norm = nn.BatchNorm1d(channels)

    def logits(self, x: Tensor) -> Tensor:
        style = torch.stack([self.squeeze(x), x.flatten(2).std(dim=2, correction=0)], dim=2)  # (B, C, 2)
        out: Tensor = self.norm((style * self.weight).sum(2))
        return out


def bottleneck(channels: int, reduction: int) -> int:
    """Width of the hidden layer of SE and CBAM.

    Raises:
        CheckpointError: a reduction below 1.
    """
    if reduction < 1:
        raise CheckpointError(f"the reduction of a channel attention is at least 1, not {reduction}")
    return max(channels // reduction, 8)


def insert_se(backbone: Any, squeeze: str = "avg", reduction: int = 16) -> None:
    """Insert SE into a timm ResNet; arguments as `SEGates`, errors as `gate_branches`."""
    gate_branches(backbone, lambda channels: SEGates(channels, squeeze, reduction), "SE")


def insert_cbam(backbone: Any, squeeze: str = "avg", reduction: int = 16) -> None:
    """Insert CBAM into a timm ResNet; arguments as `CBAMGates`, errors as `gate_branches`."""
    gate_branches(backbone, lambda channels: CBAMGates(channels, squeeze, reduction), "CBAM")


def insert_eca(backbone: Any, squeeze: str = "avg") -> None:
    """Insert ECA into a timm ResNet; arguments as `ECAGates`, errors as `gate_branches`."""
    gate_branches(backbone, lambda channels: ECAGates(channels, squeeze), "ECA")


def insert_srm(backbone: Any, squeeze: str = "avg") -> None:
    """Insert SRM into a timm ResNet; arguments as `SRMGates`, errors as `gate_branches`."""
    gate_branches(backbone, lambda channels: SRMGates(channels, squeeze), "SRM")


CHANNEL_ATTENTIONS: dict[str, Callable[..., None]] = {
    "se": insert_se,
    "cbam": insert_cbam,
    "eca": insert_eca,
    "srm": insert_srm,
}
"""By the name that `inside` of a recipe and of `config.json` has for them."""


def shares_of_maximum(backbone: nn.Module) -> dict[str, float]:
    """The weight of the maximum in each squeeze of maximum and minimum, SPE's included.

    Args:
        backbone: of any kind.

    Returns:
        lambda in [0, 1] by the name of the gating module, in the order of the modules; empty where there is none.
    """
    found: dict[str, float] = {}
    for name, module in backbone.named_modules():
        share = module.share if isinstance(module, SPE) else None
        if isinstance(module, ChannelAttention):
            share = module.squeeze.share
        if share is not None:
            found[name] = float(share)
    return found
