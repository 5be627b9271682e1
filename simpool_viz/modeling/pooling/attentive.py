"""Groups 4 and 5 of the framework's table: poolings that weigh positions by comparing them with a query."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from simpool_viz.errors import OptionError
from simpool_viz.modeling.pooling.create import register_pooling
from simpool_viz.modeling.pooling.framework import Pooled, Pooling, TableRow, Tokens
from simpool_viz.modeling.pooling.means import ArithmeticMean, PowerMean


def head_scores(query: Tensor, key: Tensor, heads: int) -> Tensor:
    """Scaled dot products of one query per head: query (B, 1, D), keys (B, N, D) -> scores (B, H, N)."""
    q = query.unflatten(2, (heads, -1)).transpose(1, 2)  # (B, H, 1, D / H)
    k = key.unflatten(2, (heads, -1)).permute(0, 2, 3, 1)  # (B, H, D / H, N)
    return ((q * q.shape[-1] ** -0.5) @ k).squeeze(2)


@register_pooling
class ClassToken(Pooling):
    """The class token of a ViT (Dosovitskiy et al., ICLR 2021).

    In the framework it is iterative with one step per block: U0 learnable, Q = W_Q U, K = W_K X, V = W_V X, softmax
    over positions, phi_U the rest of the block. The backbone has run those steps when pooling begins, so that none is
    left: the last state is the class token itself. Its weights are those of the blocks, which a recording holds.

    Raises:
        OptionError: the backbone has no class token.
    """

    name, title, group, iterations, learned, additive = "cls", "CLS", 4, 0, True, False
    formula = "u ← block(u, X) in every block, f = u"
    row = TableRow("1, H heads", "learnable", "W_Q U", "W_K X", "dot/√(D/H)", "softmax over positions", "W_V X", "mean",
                   "X, U: transformer block; iterative")  # fmt: skip
    paper = "Dosovitskiy et al., An image is worth 16x16 words, ICLR 2021"
    summary = (
        "One learned token gathers from all patches through every block. Its last attention row is the map "
        "usually shown for ViTs."
    )

    def init(self, tokens: Tokens) -> Tensor:
        if tokens.prefix.shape[1] == 0:
            raise OptionError(
                "CLS pooling needs a backbone with a class token, and this one has none; choose another pooling"
            )
        return tokens.prefix[:, :1]


@register_pooling
class SimPool(Pooling):
    """SimPool: attention with one query from the mean of the features (Psomas et al., ICCV 2023, section 3.5, eq. 8).

        u0 = mean(X);  q = W_Q u0;  k = W_K LN(X);  v = LN(X);  a = softmax(q k^T / sqrt(D));  z = f^-1(a f(v - min v))

    The map is `a`. Values are not projected. With `gamma` None, z is the plain weighted mean of v.

    Args:
        dim: width D.
        gamma: exponent of the power mean; the paper uses 2 for CNNs and 1.25 for transformers. None: no f.
        beta: whether a learnable scalar is added to the vector.
        min: over what the minimum of v is taken: "image" (all elements of one picture: the paper) or "channel" (over
            the tokens, per channel: timm's version).
        eps: of the layer norm.

    Raises:
        OptionError: an unknown `min`, or a gamma that is not positive and finite.
    """

    name, title, group, attentive, learned = "simpool", "SimPool", 5, True, True
    formula = "a = σ₂(W_K LN(X) W_Q x̄/√D), f = (Σᵢ aᵢ (vᵢ − min v)^γ)^(1/γ), v = LN(X)"
    row = TableRow("1", "GAP", "W_Q U", "W_K X", "dot/√D", "softmax over positions", "X − min X", "f_α")
    paper = "Psomas et al., Keep It SimPool: Who Said Supervised Transformers Suffer from Attention Deficit?, ICCV 2023"
    summary = (
        "The mean of all features is the query: positions that resemble it are pooled. One attention step for CNNs "
        "and ViTs alike."
    )

    def __init__(
        self, dim: int, gamma: float | None = None, beta: bool = False, min: str = "image", eps: float = 1e-6
    ) -> None:
        super().__init__(dim)
        if min not in ("image", "channel"):
            raise OptionError(f"SimPool: min is 'image' or 'channel', not {min!r}")
        if gamma is not None and not 0 < gamma < math.inf:
            raise OptionError(f"SimPool: gamma is a positive exponent or None, not {gamma}")
        self.gamma, self.min = gamma, min
        self.norm_patches = nn.LayerNorm(dim, eps=eps)
        self.wq = nn.Linear(dim, dim, bias=False)
        self.wk = nn.Linear(dim, dim, bias=False)
        self.beta = nn.Parameter(torch.zeros(1)) if beta else None
        self.mean = ArithmeticMean() if gamma is None else PowerMean(1, gamma, learnable=False)

    def normalise(self, x: Tensor) -> Tensor:
        return self.norm_patches(x)

    def query(self, u: Tensor) -> Tensor:
        return self.wq(u)

    def key(self, x: Tensor) -> Tensor:
        return self.wk(x)

    def similarity(self, query: Tensor, key: Tensor) -> Tensor:
        # (B, 1, D) @ (B, D, N) -> (B, 1, N); scaled first: half overflows.
        return (query * self.dim**-0.5) @ key.transpose(1, 2)

    def value(self, x: Tensor, query: Tensor, grid: tuple[int, int]) -> Tensor:
        if self.gamma is None:
            return x
        floor = x.amin(dim=(1, 2), keepdim=True) if self.min == "image" else x.amin(dim=1, keepdim=True)
        return x - floor + 1e-6

    def update(self, z: Tensor, u: Tensor, weights: Tensor) -> Tensor:
        return z if self.beta is None else z + self.beta

    def offset(self) -> Tensor | float:
        return 0.0 if self.beta is None else self.beta


class _ClassAttention(Pooling):
    """A layer of class attention: the state attends to fixed features, then an MLP; both are scaled and residual."""

    learned, sliced, additive = True, True, False

    def __init__(self, dim: int, num_heads: int, init_scale: float) -> None:
        super().__init__(dim)
        self.num_heads = num_heads
        self.norm1, self.norm2 = nn.LayerNorm(dim, eps=1e-6), nn.LayerNorm(dim, eps=1e-6)
        self.q, self.k, self.v, self.proj = (nn.Linear(dim, dim) for _ in range(4))
        self.mlp = nn.Sequential(nn.Linear(dim, 4 * dim), nn.GELU(), nn.Linear(4 * dim, dim))
        self.gamma_1 = nn.Parameter(torch.full((dim,), init_scale))
        self.gamma_2 = nn.Parameter(torch.full((dim,), init_scale))

    def normalise(self, x: Tensor) -> Tensor:
        return self.norm1(x)

    def query(self, u: Tensor) -> Tensor:
        return self.q(self.norm1(u))

    def key(self, x: Tensor) -> Tensor:
        return self.k(x)

    def similarity(self, query: Tensor, key: Tensor) -> Tensor:
        return head_scores(query, key, self.num_heads)

    def value(self, x: Tensor, query: Tensor, grid: tuple[int, int]) -> Tensor:
        return self.v(x)

    def update(self, z: Tensor, u: Tensor, weights: Tensor) -> Tensor:
        u = u + self.gamma_1 * self.proj(z)
        return u + self.gamma_2 * self.mlp(self.norm2(u))


@register_pooling
class CaiT(Pooling):
    """Class attention (Touvron et al., Going deeper with image transformers, ICCV 2021, section 3, eq. 5 to 8).

    A learned class vector passes a few layers of attention to features that stay fixed, each with its own projections.
    As in the framework's table, positions alone are keys, so that weights sum to 1 over them; CaiT's code also lets the
    class vector attend to itself. The maps are those of the last layer.

    Args:
        dim: width D.
        num_heads: H, which divides D; 4 or the largest common divisor with it by default.
        layers: number of steps, each with parameters of its own.
        init_scale: initial value of LayerScale.

    Raises:
        OptionError: D is not divisible by the number of heads, or no layer.
    """

    name, title, group, attentive, learned, additive, part = "cait", "CaiT", 4, True, True, False, "head"
    paper = "Touvron et al., Going deeper with image transformers, ICCV 2021"
    summary = (
        "A class vector enters only at the end and attends to finished features over two layers. One map per "
        "head of the last."
    )
    formula = "u ← u + γ₁ W_O [σ₂(q_h K_hᵀ/√(D/H)) V_h]_h, u ← u + γ₂ MLP(LN(u)), f = LN(u)"
    row = TableRow("1, H heads", "learnable", "W_Q U", "W_K X", "dot/√(D/H)", "softmax over positions", "W_V X", "mean",
                   "X: fixed, U: MLP; iterative")  # fmt: skip

    def __init__(self, dim: int, num_heads: int | None = None, layers: int = 2, init_scale: float = 0.1) -> None:
        super().__init__(dim)
        heads = math.gcd(dim, 4) if num_heads is None else num_heads
        if heads < 1 or dim % heads:
            raise OptionError(f"CaiT: {dim} channels do not split into {heads} heads; choose num_heads to divide {dim}")
        if layers < 1:
            raise OptionError(f"CaiT: layers is at least 1, not {layers}")
        self.iterations = layers
        self.cls_token = nn.Parameter(torch.randn(1, 1, dim) * 0.02)
        self.layers = nn.ModuleList(_ClassAttention(dim, heads, init_scale) for _ in range(layers))
        self.norm = nn.LayerNorm(dim, eps=1e-6)

    def init(self, tokens: Tokens) -> Tensor:
        return self.cls_token.expand(len(tokens.patches), -1, -1)

    def forward(self, tokens: Tokens) -> Pooled:
        raw, u, weights, scores = tokens.patches, self.init(tokens), None, None
        for layer in self.layers:
            assert isinstance(layer, _ClassAttention)
            raw, u, weights, scores = layer.step(raw, u, tokens.grid)
        return Pooled(self.norm(u)[:, 0], weights, scores)


@register_pooling
class LatentAttention(Pooling):
    """Multi-head attention pooling with a learned query (Lee et al., ICML 2019), as in SigLIP (Zhai et al., ICCV 2023).

    The step is timm's `AttentionPoolLatent`, which also holds the weights of such checkpoints. Its attention runs
    through the fused kernel, where a recording captures query and keys and computes the map from them.

    Args:
        dim: width D.
        module: the `AttentionPoolLatent` of a timm model; a new one by default.
        num_heads: heads of a new module.
    """

    name, title, group, attentive, learned, fused_calls, additive, part = (
        "latent",
        "Attention pooling",
        4,
        True,
        True,
        1,
        False,
        "head",
    )
    formula = "A_h = σ₂(u_h (W_K X)_hᵀ/√(D/H)), f = MLP(W_O [A_h (W_V X)_h]_h)"
    row = TableRow(
        "1, H heads", "learnable", "W_Q U", "W_K X", "dot/√(D/H)", "softmax over positions", "W_V X", "mean", "U: MLP"
    )
    paper = (
        "Lee et al., Set Transformer, ICML 2019; Zhai et al., Sigmoid loss for language image pre-training, ICCV 2023"
    )
    summary = "A learned query attends to all tokens with several heads. SigLIP models end with it."

    def __init__(self, dim: int, module: nn.Module | None = None, num_heads: int = 4) -> None:
        super().__init__(dim)
        if module is None:
            from timm.layers import AttentionPoolLatent

            module = AttentionPoolLatent(dim, num_heads=num_heads, mlp_ratio=4.0, norm_layer=nn.LayerNorm)
        self.module = module

    def forward(self, tokens: Tokens) -> Pooled:
        return Pooled(self.module(torch.cat([tokens.prefix, tokens.patches], dim=1)), None, None)
