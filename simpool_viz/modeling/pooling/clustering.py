"""Group 2 of the framework's table: k vectors that share the positions among themselves (SimPool paper, section 3.2).

In all, the pooled vector is the maximum over the k vectors, as in SimPool's released code for Slot Attention. Random
initial states are drawn once, from a generator with a fixed seed, and are the same for every picture.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from simpool_viz.errors import OptionError
from simpool_viz.modeling.pooling.create import register_pooling
from simpool_viz.modeling.pooling.framework import Pooling, TableRow, Tokens
from simpool_viz.tensors import wide


class _Clustering(Pooling):
    """Base of the group: k vectors over all channels, of which the maximum is the pooled vector."""

    group, attentive, additive, fusion = 2, True, False, "max"

    def __init__(self, dim: int, k: int) -> None:
        super().__init__(dim)
        if k < 1:
            raise OptionError(f"{self.title}: k is the number of {self.part}s, at least 1, not {k}")
        self.k = k

    def readout(self, u: Tensor) -> Tensor:
        return u.amax(dim=1)


def _minus_squared_distance(query: Tensor, key: Tensor) -> Tensor:
    """-||x - u||^2: (B, k, D), (B, N, D) -> (B, k, N). By differences, not by products: nothing cancels."""
    return -torch.cdist(wide(query), wide(key), compute_mode="donot_use_mm_for_euclid_dist").square()


@register_pooling
class OptimalTransport(_Clustering):
    """Optimal transport kernel (Mialon et al., ICLR 2021): k learned references share the positions by a transport
    plan.

    U0 learnable, K = X, S = -||x - u||^2, A = Sinkhorn(exp(S / eps)): every reference gets weights that sum to 1, and
    every position gives k / N in all. V = psi(X), here linear: the embedding of a linear kernel [ours]. The plan is
    found in the log domain, and ends on the references' sums, which are exact; the positions' sums are as exact as the
    iterations allow.

    Args:
        dim: width D.
        k: number of references.
        eps: strength of the entropic regularisation.
        sinkhorn: number of Sinkhorn iterations.

    Raises:
        OptionError: k, eps or sinkhorn out of range.
    """

    name, title, part, learned = "otk", "OTK", "reference", True
    paper = "Mialon et al., A trainable optimal transport embedding for feature aggregation, ICLR 2021"
    summary = (
        "Learned references divide the positions among themselves, each getting the same amount. Every reference "
        "has a map."
    )
    formula = "A = Sinkhorn(exp(−‖xᵢ − uⱼ‖²/ε)), zⱼ = Σᵢ A_ji W_V xᵢ, f = maxⱼ zⱼ"
    row = TableRow("k", "learnable", "U", "X", "−‖x−y‖²", "Sinkhorn(exp(S/ε))", "ψ(X)")

    def __init__(self, dim: int, k: int = 4, eps: float = 0.1, sinkhorn: int = 100) -> None:
        super().__init__(dim, k)
        if eps <= 0 or sinkhorn < 1:
            raise OptionError(f"OTK: eps is positive and sinkhorn at least 1, not {eps} and {sinkhorn}")
        self.eps, self.sinkhorn = eps, sinkhorn
        self.references = nn.Parameter(torch.randn(1, k, dim))
        self.psi = nn.Linear(dim, dim, bias=False)

    def init(self, tokens: Tokens) -> Tensor:
        return self.references.expand(len(tokens.patches), -1, -1)

    def similarity(self, query: Tensor, key: Tensor) -> Tensor:
        return _minus_squared_distance(query, key)

    def attention(self, scores: Tensor | None, x: Tensor, grid: tuple[int, int]) -> Tensor:
        assert scores is not None
        kernel = scores / self.eps  # (B, k, N), its logarithm
        position = math.log(self.k / kernel.shape[2])
        reference = torch.zeros_like(kernel[:, :, :1])
        shifted = kernel
        for _ in range(self.sinkhorn):
            shifted = kernel + (position - (kernel + reference).logsumexp(dim=1, keepdim=True))
            reference = -shifted.logsumexp(dim=2, keepdim=True)
        # Exp(shifted + reference), but exact where logarithms of 1e5 leave float32 few digits.
        return shifted.softmax(dim=2)

    def value(self, x: Tensor, query: Tensor, grid: tuple[int, int]) -> Tensor:
        return self.psi(x)


@register_pooling
class KMeans(_Clustering):
    """k-means of the positions' features (Lloyd, 1982): the only attentive pooling here without any parameter.

    U0 = k tokens, one drawn from each of k equal stretches of the row-major grid [ours]; S = -||x - u||^2; a
    position belongs to the nearest centre (the first of several), and A shares 1 among the positions of a centre. A
    centre without positions stays where it is.

    Args:
        dim: width D.
        k: number of centres; with fewer positions than that, centres start on the same ones.
        steps: number of steps.
        seed: of the draw.
    """

    name, title, part = "kmeans", "k-means", "centre"
    paper = "Lloyd, Least squares quantization in PCM, 1982; as in the SimPool paper, table 1"
    summary = (
        "Sorts the positions into k clusters by their features. Nothing is learned: the maps show what the "
        "backbone keeps apart."
    )
    formula = "A_ji = [j = argmin_m ‖xᵢ − u_m‖²] / |cluster j|, uⱼ ← Σᵢ A_ji xᵢ, f = maxⱼ uⱼ"
    row = TableRow(
        "k",
        "random tokens",
        "U",
        "X",
        "−‖x−y‖²",
        "l1 over positions (argmax over centres)",
        "X",
        "mean",
        "X: X, U: Z; iterative",
    )

    def __init__(self, dim: int, k: int = 4, steps: int = 10, seed: int = 0) -> None:
        super().__init__(dim, k)
        if steps < 1:
            raise OptionError(f"k-means: steps is at least 1, not {steps}")
        self.iterations = steps
        draw = torch.rand(k, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        self.places = [(j + float(r)) / k for j, r in enumerate(draw)]  # as shares of the grid: it may be of any size

    def init(self, tokens: Tokens) -> Tensor:
        count = tokens.patches.shape[1]
        return torch.stack([tokens.patches[:, int(place * count)] for place in self.places], dim=1)

    def similarity(self, query: Tensor, key: Tensor) -> Tensor:
        return _minus_squared_distance(query, key)

    def attention(self, scores: Tensor | None, x: Tensor, grid: tuple[int, int]) -> Tensor:
        assert scores is not None
        nearest = scores.argmax(dim=1, keepdim=True)  # (B, 1, N)
        mine = (nearest == torch.arange(self.k, device=scores.device)[:, None]).to(scores.dtype)  # (B, k, N)
        return mine / mine.sum(dim=2, keepdim=True).clamp(min=1)

    def update(self, z: Tensor, u: Tensor, weights: Tensor) -> Tensor:
        return torch.where(weights.sum(dim=2, keepdim=True) > 0, z, u)


@register_pooling
class SlotAttention(_Clustering):
    """Slot Attention (Locatello et al., NeurIPS 2020, algorithm 1): slots compete for the positions.

    Q = W_Q U, K = W_K X, S = Q K^T / sqrt(D); softmax over the slots, then + 1e-8 and l1 over the positions; V = W_V X;
    U' = U + MLP(U) with U = GRU(Z, U). Inputs, slots and the MLP's input are layer-normed as in the algorithm; U0 is a
    learned mean and deviation with one fixed normal draw.

    Args:
        dim: width D.
        k: number of slots.
        steps: number of steps.
        seed: of the draw.
    """

    name, title, part, learned = "slot", "Slot Attention", "slot", True
    paper = "Locatello et al., Object-centric learning with slot attention, NeurIPS 2020"
    summary = (
        "Slots compete for every position and are refined over a few steps by a recurrent cell. Each slot has a map."
    )
    formula = "A = η₂(σ₁(W_K X W_Q U/√D) + 10⁻⁸), U ← MLP(GRU(A W_V X, U)), f = maxⱼ uⱼ"
    row = TableRow("k", "random", "W_Q U", "W_K X", "dot/√D", "softmax over slots, l1 over positions", "W_V X", "mean",
                   "X: X, U: MLP(GRU(Z)); iterative")  # fmt: skip

    def __init__(self, dim: int, k: int = 4, steps: int = 3, seed: int = 0) -> None:
        super().__init__(dim, k)
        if steps < 1:
            raise OptionError(f"Slot Attention: steps is at least 1, not {steps}")
        self.iterations = steps
        self.mu = nn.Parameter(torch.randn(1, 1, dim) * dim**-0.5)
        self.log_sigma = nn.Parameter(torch.zeros(1, 1, dim))
        self.register_buffer(
            "draw", torch.randn(1, k, dim, generator=torch.Generator().manual_seed(seed)), persistent=False
        )
        self.norm_input, self.norm_slots, self.norm_mlp = nn.LayerNorm(dim), nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.wq, self.wk, self.wv = (nn.Linear(dim, dim, bias=False) for _ in range(3))
        self.gru = nn.GRUCell(dim, dim)
        self.mlp = nn.Sequential(nn.Linear(dim, 2 * dim), nn.ReLU(), nn.Linear(2 * dim, dim))

    def init(self, tokens: Tokens) -> Tensor:
        assert isinstance(self.draw, Tensor)
        return (self.mu + self.log_sigma.exp() * self.draw).expand(len(tokens.patches), -1, -1)

    def normalise(self, x: Tensor) -> Tensor:
        return self.norm_input(x)

    def query(self, u: Tensor) -> Tensor:
        return self.wq(self.norm_slots(u))

    def key(self, x: Tensor) -> Tensor:
        return self.wk(x)

    def similarity(self, query: Tensor, key: Tensor) -> Tensor:
        return (query * self.dim**-0.5) @ key.transpose(1, 2)  # (B, k, N)

    def attention(self, scores: Tensor | None, x: Tensor, grid: tuple[int, int]) -> Tensor:
        assert scores is not None
        shares = wide(scores).softmax(dim=1) + 1e-8
        return shares / shares.sum(dim=2, keepdim=True)

    def value(self, x: Tensor, query: Tensor, grid: tuple[int, int]) -> Tensor:
        return self.wv(x)

    def update(self, z: Tensor, u: Tensor, weights: Tensor) -> Tensor:
        slots = self.gru(z.flatten(0, 1), u.flatten(0, 1)).unflatten(0, z.shape[:2])
        return slots + self.mlp(self.norm_mlp(slots))
