"""Generalised (quasi-arithmetic) means f^-1(A f(V)): the `f` column of the pooling framework's table.

With f_alpha(x) = x^((1 - alpha) / 2) and gamma = (1 - alpha) / 2 (SimPool paper, section 3.3; Amari 2007), the mean is
the power mean of exponent gamma: gamma = 1 averages, gamma -> infinity takes the maximum. Every mean also splits its
result into the contributions of the positions, which sum to the mean.

Powers and exponentials are taken in float32 (float64 stays) and in the log domain: exact at any exponent and scale.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from simpool_viz.errors import OptionError
from simpool_viz.tensors import wide


class GeneralisedMean(nn.Module):
    """A mean of values (B, N, D) under weights (B, k, N)."""

    def forward(self, weights: Tensor, value: Tensor) -> Tensor:
        """f^-1(A f(V)): (B, k, D)."""
        raise NotImplementedError

    def contribution(self, weights: Tensor, value: Tensor) -> Tensor:
        """The contribution (B, k, N, D) of each position to each channel; its sum over N is the mean."""
        raise NotImplementedError


class ArithmeticMean(GeneralisedMean):
    """f(x) = x."""

    def forward(self, weights: Tensor, value: Tensor) -> Tensor:
        return (wide(weights) @ wide(value)).to(value.dtype)  # (B, k, N) @ (B, N, D) -> (B, k, D)

    def contribution(self, weights: Tensor, value: Tensor) -> Tensor:
        return (wide(weights).unsqueeze(-1) * wide(value).unsqueeze(1)).to(value.dtype)  # (B, k, N, 1) * (B, 1, N, D)


class Maximum(GeneralisedMean):
    """The limit alpha -> -infinity: the largest value of each channel, whatever the weights; ties share it equally."""

    def forward(self, weights: Tensor, value: Tensor) -> Tensor:
        return value.amax(dim=1, keepdim=True)  # (B, N, D) -> (B, 1, D)

    def contribution(self, weights: Tensor, value: Tensor) -> Tensor:
        peak = value.amax(dim=1, keepdim=True)
        winners = (value == peak).to(value.dtype)
        return (peak * winners / winners.sum(dim=1, keepdim=True)).unsqueeze(1)


def _log(weights: Tensor) -> Tensor:
    """Logarithm of weights, finite and with finite gradients where a softmax has underflowed to 0."""
    a = wide(weights)
    return a.clamp(min=torch.finfo(a.dtype).tiny).log()


class _LogDomainMean(GeneralisedMean):
    """Means that are a log-sum-exp of some logits (B, k, N, D): the shares of the positions are their softmax."""

    def logits(self, weights: Tensor, value: Tensor) -> Tensor:
        raise NotImplementedError

    def contribution(self, weights: Tensor, value: Tensor) -> Tensor:
        mean = self(weights, value)
        return mean.unsqueeze(2) * self.logits(weights, value).softmax(dim=2).to(value.dtype)


class PowerMean(_LogDomainMean):
    """f(x) = max(x, eps)^p, with one exponent for each group of channels.

    Args:
        groups: number G of contiguous channel groups, each with its own exponent.
        p: the exponent, or the initial one.
        learnable: whether the exponents are parameters; then they are clamped to [1, 50] when used.
        eps: the floor of the values.
    """

    def __init__(self, groups: int = 1, p: float = 3.0, learnable: bool = True, eps: float = 1e-6) -> None:
        super().__init__()
        self.eps, self.learnable = eps, learnable
        exponents = torch.full((groups,), float(p))
        if learnable:
            self.p = nn.Parameter(exponents)
        else:
            self.register_buffer("p", exponents, persistent=False)

    def exponents(self, dim: int) -> Tensor:
        """The exponent of each channel, (D,).

        Raises:
            OptionError: D is not divisible by the number of groups.
        """
        if dim % len(self.p):
            raise OptionError(
                f"{dim} channels do not split into {len(self.p)} groups; choose a number of groups that divides {dim}"
            )
        p = self.p.clamp(1.0, 50.0) if self.learnable else self.p
        return p.repeat_interleave(dim // len(self.p))

    def logits(self, weights: Tensor, value: Tensor) -> Tensor:
        y = wide(value).clamp(min=self.eps)
        p = self.exponents(value.shape[-1]).to(y.dtype)
        return _log(weights).unsqueeze(-1) + (p * y.log()).unsqueeze(1)  # (B, k, N, D)

    def forward(self, weights: Tensor, value: Tensor) -> Tensor:
        log_mean = self.logits(weights, value).logsumexp(dim=2)
        return (log_mean / self.exponents(value.shape[-1]).to(log_mean.dtype)).exp().to(value.dtype)


class LogMeanExp(_LogDomainMean):
    """f(x) = exp(r x), r learnable: the smooth maximum of Pinheiro & Collobert (2015). The mean where |r| < 1e-6."""

    def __init__(self, r: float = 10.0) -> None:
        super().__init__()
        self.r = nn.Parameter(torch.tensor(float(r)))

    def logits(self, weights: Tensor, value: Tensor) -> Tensor:
        v = wide(value)
        return _log(weights).unsqueeze(-1) + (self.r.to(v.dtype) * v).unsqueeze(1)

    def forward(self, weights: Tensor, value: Tensor) -> Tensor:
        a, v = wide(weights), wide(value)
        is_mean = self.r.abs() < 1e-6
        r = torch.where(is_mean, 1.0, self.r).to(v.dtype)
        centre = v.detach().mean(dim=1, keepdim=True)  # any centre gives the same mean
        steps = r * (v - centre)
        # Exact where r is small, and the sum of powers near 1.
        near = centre + (a @ torch.expm1(steps.clamp(-1, 1))).log1p() / r
        far = (_log(weights).unsqueeze(-1) + (r * v).unsqueeze(1)).logsumexp(dim=2) / r
        mean = torch.where(steps.abs().amax(dim=1, keepdim=True) < 0.5, near, far)
        return torch.where(is_mean, a @ v, mean).to(value.dtype)
