"""Beyond the paper's table: attention probes for frozen backbones, in the same slots.

Tensors bear the names of the released code, so that published heads load.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from simpool_viz.errors import OptionError
from simpool_viz.modeling.pooling.attentive import head_scores
from simpool_viz.modeling.pooling.create import register_pooling
from simpool_viz.modeling.pooling.framework import Pooling, TableRow, Tokens
from simpool_viz.tensors import wide


@register_pooling
class EfficientProbing(Pooling):
    """Efficient probing (Psomas et al., 2025): many learned queries without a key projection.

    Each query gathers its own slice of the values.

        S = U X^T / sqrt(D);  A = softmax over positions;  V = W_V X;  slice m of z = sum_i A_mi (slice m of v_i)

    Args:
        dim: width D.
        num_queries: Q, which divides D / d_out; 32 or the largest common divisor with it by default.
        d_out: factor by which the values are narrower than D.

    Raises:
        OptionError: D is not divisible by `d_out`, or D / d_out by `num_queries`.
    """

    name, title, group, attentive, learned, sliced = "ep", "Efficient probing", 6, True, True, True
    paper = "Psomas et al., Attention, please! Revisiting attentive probing through the lens of efficiency, 2025"
    summary = (
        "Learned queries compare themselves with the features directly; each gathers its own slice of the "
        "values. One map per query."
    )
    formula = "A = σ₂(U Xᵀ/√D), z⁽ᵐ⁾ = Σᵢ A_mi (W_V xᵢ)⁽ᵐ⁾, f = [z⁽¹⁾ … z⁽Q⁾]"
    row = TableRow("Q", "learnable", "U", "X", "dot/√D", "softmax over positions", "W_V X, a slice per query")

    def __init__(self, dim: int, num_queries: int | None = None, d_out: int = 1) -> None:
        super().__init__(dim)
        if d_out < 1 or dim % d_out:
            raise OptionError(f"efficient probing: d_out divides the width {dim}, which {d_out} does not")
        queries = math.gcd(dim // d_out, 32) if num_queries is None else num_queries
        if queries < 1 or (dim // d_out) % queries:
            raise OptionError(
                f"efficient probing: {dim // d_out} values do not split into {queries} slices; choose num_queries to "
                "divide them"
            )
        self.cls_token = nn.Parameter(torch.randn(1, queries, dim) * 0.02)
        self.v = nn.Linear(dim, dim // d_out, bias=False)

    @property
    def out_dim(self) -> int:
        return self.v.out_features

    def init(self, tokens: Tokens) -> Tensor:
        return self.cls_token.expand(len(tokens.patches), -1, -1)

    def similarity(self, query: Tensor, key: Tensor) -> Tensor:
        return (query * self.dim**-0.5) @ key.transpose(1, 2)  # (B, Q, N)

    def value(self, x: Tensor, query: Tensor, grid: tuple[int, int]) -> Tensor:
        return self.v(x)


@register_pooling
class AIM(Pooling):
    """The attention probe of AIM (El-Nouby et al., ICML 2024): tokens batch-normed, one learned query, several heads.

    Args:
        dim: width D.
        num_heads: H, which divides D; 12 or the largest common divisor with it by default.

    Raises:
        OptionError: D is not divisible by the number of heads.
    """

    name, title, group, attentive, learned, sliced, part = "aim", "AIM", 6, True, True, True, "head"
    paper = "El-Nouby et al., Scalable pre-training of large autoregressive image models, ICML 2024"
    summary = "A learned query attends to batch-normed features with several heads. One map per head."
    formula = "x̂ = BN(x), A_h = σ₂(u_h (W_K X̂)_hᵀ/√(D/H)), f = [Σᵢ A_hi (W_V x̂ᵢ)_h]_h"
    row = TableRow("1, H heads", "learnable", "U", "W_K BN(X)", "dot/√(D/H)", "softmax over positions", "W_V BN(X)")

    def __init__(self, dim: int, num_heads: int | None = None) -> None:
        super().__init__(dim)
        self.num_heads = math.gcd(dim, 12) if num_heads is None else num_heads
        if self.num_heads < 1 or dim % self.num_heads:
            raise OptionError(
                f"AIM: {dim} channels do not split into {self.num_heads} heads; choose num_heads to divide {dim}"
            )
        self.bn = nn.BatchNorm1d(dim, affine=False, eps=1e-6)
        self.cls_token = nn.Parameter(torch.randn(1, 1, dim) * 0.02)
        self.k, self.v = nn.Linear(dim, dim, bias=False), nn.Linear(dim, dim, bias=False)

    def init(self, tokens: Tokens) -> Tensor:
        return self.cls_token.expand(len(tokens.patches), -1, -1)

    def normalise(self, x: Tensor) -> Tensor:
        # As vectors: torch.compile cannot follow it on a transposed view.
        return self.bn(x.flatten(0, 1)).unflatten(0, x.shape[:2])

    def key(self, x: Tensor) -> Tensor:
        return self.k(x)

    def similarity(self, query: Tensor, key: Tensor) -> Tensor:
        return head_scores(query, key, self.num_heads)

    def value(self, x: Tensor, query: Tensor, grid: tuple[int, int]) -> Tensor:
        return self.v(x)


class _SelfAttention(nn.Module):
    """Attention of tokens to one another with one head, without a skip: (B, N, D) -> (B, N, D)."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.qkv, self.proj = nn.Linear(dim, 3 * dim, bias=False), nn.Linear(dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(x).chunk(3, dim=-1)
        weights = wide((q * q.shape[-1] ** -0.5) @ k.transpose(1, 2)).softmax(dim=-1)  # (B, N, N)
        return self.proj(weights.to(v.dtype) @ v)


@register_pooling
class ABMILP(Pooling):
    """Attention-based multiple-instance pooling (Ilse et al., ICML 2018, eq. 8): an MLP scores each token.

    S_i = w^T tanh(V x_i), A = softmax over positions, z = A X.

    Args:
        dim: width D.
        depth: layers of the MLP, the last of which gives the score.
        activation: "tanh" or "relu".
        self_attention: whether tokens first attend to one another with one head, as in Beyond [cls]: "none", "map" (the
            scores alone are those of attended tokens) or "both" (also the values).

    Raises:
        OptionError: an unknown activation, no layer, or an unknown kind of self-attention.
    """

    name, title, group, attentive, learned = "abmilp", "ABMILP", 6, True, True
    paper = (
        "Ilse et al., Attention-based deep multiple instance learning, ICML 2018; Przewięźlikowski et al., Beyond "
        "[cls], 2025"
    )
    summary = (
        "A small network gives each position a score by itself, and a softmax turns the scores into weights. There "
        "is no query."
    )
    formula = "a = σ₂(wᵀ tanh(V Xᵀ)), f = Σᵢ aᵢ xᵢ"
    row = TableRow(key="MLP(X)", similarity="MLP(x), no query", attention="softmax over positions")

    def __init__(self, dim: int, depth: int = 2, activation: str = "tanh", self_attention: str = "none") -> None:
        super().__init__(dim)
        kinds: dict[str, type[nn.Module]] = {"tanh": nn.Tanh, "relu": nn.ReLU}
        if depth < 1 or activation not in kinds:
            raise OptionError(
                f"ABMILP: depth is at least 1 and activation one of {', '.join(kinds)}, not {depth} and {activation!r}"
            )
        if self_attention not in ("none", "map", "both"):
            raise OptionError(f"ABMILP: self_attention is none, map or both, not {self_attention!r}")
        self.self_attention = self_attention
        self.self_attn = None if self_attention == "none" else _SelfAttention(dim)
        hidden = [layer for _ in range(depth - 1) for layer in (nn.Linear(dim, dim), kinds[activation]())]
        self.attention_pred = nn.Sequential(*hidden, nn.Linear(dim, 1))

    def normalise(self, x: Tensor) -> Tensor:
        return self.self_attn(x) if self.self_attn is not None and self.self_attention == "both" else x

    def key(self, x: Tensor) -> Tensor:
        attended = self.self_attn(x) if self.self_attn is not None and self.self_attention == "map" else x
        return self.attention_pred(attended)  # (B, N, 1)

    def similarity(self, query: Tensor, key: Tensor) -> Tensor:
        return key.transpose(1, 2)
