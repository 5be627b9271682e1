"""Layers of timm's heads in the form that encoders need: they take vectors (..., D), of pictures or of tokens."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class NormOfVector(nn.Module):
    """A norm of maps (B, D, h, w), such as timm's LayerNorm2d, applied to vectors (..., D)."""

    def __init__(self, norm: nn.Module) -> None:
        super().__init__()
        self.norm = norm

    def forward(self, vector: Tensor) -> Tensor:
        """(..., D) -> (..., D)."""
        maps = vector.reshape(-1, vector.shape[-1], 1, 1)
        normed: Tensor = self.norm(maps)
        return normed.reshape(vector.shape)


class HiddenLayer(nn.Module):
    """The layers of a head between its pooling and its classifier, which are no linear function.

    Args:
        layers: of maps (B, D, 1, 1), or where `flat` is set of vectors.
        flat: the layers that follow them and take vectors.
    """

    def __init__(self, layers: list[nn.Module], flat: nn.Module | None = None) -> None:
        super().__init__()
        self.layers, self.flat = nn.Sequential(*layers), flat or nn.Identity()

    def forward(self, vector: Tensor) -> Tensor:
        """(..., D) -> (..., D')."""
        made: Tensor = self.flat(self.layers(vector.reshape(-1, vector.shape[-1], 1, 1)).flatten(1))
        return made.reshape(*vector.shape[:-1], made.shape[-1])


class PointwiseLinear(nn.Linear):
    """A convolution of 1 x 1 pixels that classifies, as the linear layer (D -> K) that it is; its weights are shared.

    Args:
        conv: the convolution.
    """

    def __init__(self, conv: nn.Conv2d) -> None:
        nn.Module.__init__(self)
        self.conv, self.in_features, self.out_features = conv, conv.in_channels, conv.out_channels

    @property
    def weight(self) -> Tensor:  # type: ignore[override]
        """(K, D)."""
        return self.conv.weight[:, :, 0, 0]

    @property
    def bias(self) -> Tensor | None:  # type: ignore[override]
        """(K,), or None."""
        return self.conv.bias


class TokenBatchNorm(nn.BatchNorm1d):
    """Batch norm of the channels of tokens: (B, N, D) -> (B, N, D)."""

    def forward(self, tokens: Tensor) -> Tensor:
        """(B, N, D) -> (B, N, D)."""
        return super().forward(tokens.transpose(1, 2)).transpose(1, 2)


class TwoHeads(nn.Module):
    """The mean of two heads, on the class token and on the distillation token (DeiT): (..., 2 D) -> (..., K).

    Args:
        head: of the class token.
        other: of the distillation token.
    """

    def __init__(self, head: nn.Module, other: nn.Module) -> None:
        super().__init__()
        self.head, self.other = head, other

    def forward(self, vector: Tensor) -> Tensor:
        """(..., 2 D) -> (..., K)."""
        one, two = vector.chunk(2, dim=-1)
        return torch.add(self.head(one), self.other(two)) / 2
