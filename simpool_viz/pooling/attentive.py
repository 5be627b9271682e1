"""Groups 4 and 5 of the framework's table: poolings that weigh positions by comparing them with a query."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from simpool_viz.pooling.framework import Pooled, Pooling, Tokens
from simpool_viz.pooling.means import ArithmeticMean, PowerMean
from simpool_viz.pooling.registry import register_pooling


@register_pooling
class ClassToken(Pooling):
    """The class token of a ViT (Dosovitskiy et al., ICLR 2021).

    In the framework it is iterative with one step per block: U0 learnable, Q = W_Q U, K = W_K X, V = W_V X, softmax over
    positions, phi_U the rest of the block. The backbone has run those steps when pooling begins, so none is left:
    the last state is the class token itself. Its weights are those of the blocks; a recording holds them.

    Raises:
        ValueError: the backbone has no class token.
    """

    name, title, group, iterations, additive = "cls", "CLS", 4, 0, False
    paper = "Dosovitskiy et al., An image is worth 16x16 words, ICLR 2021"
    summary = "One learned token gathers from all patches through every block. Its last attention row is the map usually shown for ViTs."

    def init(self, tokens: Tokens) -> Tensor:
        if tokens.prefix.shape[1] == 0:
            raise ValueError("CLS pooling needs a backbone with a class token, and this one has none; choose another pooling")
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
    """

    name, title, group, attentive = "simpool", "SimPool", 5, True
    paper = "Psomas et al., Keep It SimPool: Who Said Supervised Transformers Suffer from Attention Deficit?, ICCV 2023"
    summary = "The mean of all features asks which positions resemble it, and pools those. One attention step for CNNs and ViTs alike."

    def __init__(self, dim: int, gamma: float | None = None, beta: bool = False, min: str = "image", eps: float = 1e-6) -> None:
        super().__init__(dim)
        if min not in ("image", "channel"):
            raise ValueError(f"SimPool: min is 'image' or 'channel', not {min!r}")
        if gamma is not None and gamma <= 0:
            raise ValueError(f"SimPool: gamma is a positive exponent or None, not {gamma}")
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
        return (query * self.dim**-0.5) @ key.transpose(1, 2)  # (B, 1, D) @ (B, D, N) -> (B, 1, N); scaled first: half overflows

    def value(self, x: Tensor, grid: tuple[int, int]) -> Tensor:
        if self.gamma is None:
            return x
        floor = x.amin(dim=(1, 2), keepdim=True) if self.min == "image" else x.amin(dim=1, keepdim=True)
        return x - floor + 1e-6

    def update(self, z: Tensor, u: Tensor) -> Tensor:
        return z if self.beta is None else z + self.beta

    def offset(self) -> Tensor | float:
        return 0.0 if self.beta is None else self.beta


@register_pooling
class LatentAttention(Pooling):
    """Multi-head attention pooling with a learned query, as SigLIP ends (Zhai et al., ICCV 2023; Lee et al., ICML 2019).

    The step is timm's `AttentionPoolLatent`, which also holds the weights of such checkpoints; its attention runs
    through the fused kernel, so that a recording sees its query and keys and makes the map from them.

    Args:
        dim: width D.
        module: the `AttentionPoolLatent` of a timm model; a new one of `num_heads` heads where there is none.
    """

    name, title, group, attentive, fused_calls, additive = "latent", "Attention pooling", 4, True, 1, False
    paper = "Lee et al., Set Transformer, ICML 2019; Zhai et al., Sigmoid loss for language image pre-training, ICCV 2023"
    summary = "A learned query attends to all tokens with several heads. SigLIP models end with it."

    def __init__(self, dim: int, module: nn.Module | None = None, num_heads: int = 4) -> None:
        super().__init__(dim)
        if module is None:
            from timm.layers import AttentionPoolLatent

            module = AttentionPoolLatent(dim, num_heads=num_heads, mlp_ratio=4.0, norm_layer=nn.LayerNorm)
        self.module = module

    def forward(self, tokens: Tokens) -> Pooled:
        return Pooled(self.module(torch.cat([tokens.prefix, tokens.patches], dim=1)), None, None)
