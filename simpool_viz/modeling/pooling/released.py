"""Poolings as efficient-probing's code computes them, under the names of its tensors, so that its heads load.

Where a method also stands in the registry, the two differ: CaiT's class token attends to itself here, CBAM reads maxima
beside means and adds a residual. They are not registered, since they exist for those files alone. A weight that a
method gives to anything but a position is no part of its map.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from timm.layers import ConvNormAct, Mlp
from timm.layers.cbam import ChannelAttn
from timm.models.vision_transformer import Block
from torch import Tensor, nn
from torch.nn import functional as F

from simpool_viz.errors import OptionError
from simpool_viz.modeling.pooling.attentive import head_scores
from simpool_viz.modeling.pooling.framework import Pooled, Pooling, Tokens
from simpool_viz.tensors import wide


class _OneQuery(Pooling):
    """One learned query attends to the features with several heads.

    Args:
        dim: width D.
        num_heads: H, which divides D.

    Raises:
        OptionError: D is not divisible by the number of heads.
    """

    group, attentive, learned, sliced, additive, part = 4, True, True, True, False, "head"

    def __init__(self, dim: int, num_heads: int) -> None:
        super().__init__(dim)
        if num_heads < 1 or dim % num_heads:
            raise OptionError(f"{self.title}: {dim} channels do not split into {num_heads} heads")
        self.num_heads = num_heads

    def similarity(self, query: Tensor, key: Tensor) -> Tensor:
        return head_scores(query, key, self.num_heads)


class ProbeSigLIP(_OneQuery):
    """SigLIP's pooling without its norm: a latent query, one step, an MLP (Zhai et al., ICCV 2023)."""

    name, title = "probe_siglip", "SigLIP's pooling"

    def __init__(self, dim: int, num_heads: int = 8) -> None:
        super().__init__(dim, num_heads)
        self.latent = nn.Parameter(torch.zeros(1, 1, dim))
        self.q, self.kv, self.proj = nn.Linear(dim, dim), nn.Linear(dim, 2 * dim), nn.Linear(dim, dim)
        self.mlp = Mlp(dim, 4 * dim)

    def init(self, tokens: Tokens) -> Tensor:
        return self.latent.expand(len(tokens.patches), -1, -1)

    def query(self, u: Tensor) -> Tensor:
        return self.q(u)

    def key(self, x: Tensor) -> Tensor:
        return self.kv(x)[..., : self.dim]

    def value(self, x: Tensor, query: Tensor, grid: tuple[int, int]) -> Tensor:
        return self.kv(x)[..., self.dim :]

    def update(self, z: Tensor, u: Tensor, weights: Tensor) -> Tensor:
        z = self.proj(z)
        return z + self.mlp(z)


class _CrossAttention(nn.Module):
    """The projections of a cross-attention; keys and values in one layer."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.q, self.kv, self.proj = nn.Linear(dim, dim), nn.Linear(dim, 2 * dim), nn.Linear(dim, dim)


class _CrossBlock(nn.Module):
    """The layers of a block of cross-attention."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.norm1, self.xattn, self.norm2 = nn.LayerNorm(dim), _CrossAttention(dim), nn.LayerNorm(dim)
        self.mlp = Mlp(dim, 4 * dim)


class ProbeJEPA(_OneQuery):
    """The attentive pooler of V-JEPA: a block of cross-attention with a learned query (Bardes et al., TMLR 2024)."""

    name, title = "probe_jepa", "V-JEPA's pooler"

    def __init__(self, dim: int, num_heads: int = 12) -> None:
        super().__init__(dim, num_heads)
        self.query_tokens = nn.Parameter(torch.zeros(1, 1, dim))
        self.cross_attention_block = _CrossBlock(dim)

    def init(self, tokens: Tokens) -> Tensor:
        return self.query_tokens.expand(len(tokens.patches), -1, -1)

    def normalise(self, x: Tensor) -> Tensor:
        return self.cross_attention_block.norm1(x)

    def query(self, u: Tensor) -> Tensor:
        return self.cross_attention_block.xattn.q(u)

    def key(self, x: Tensor) -> Tensor:
        return self.cross_attention_block.xattn.kv(x)[..., : self.dim]

    def value(self, x: Tensor, query: Tensor, grid: tuple[int, int]) -> Tensor:
        return self.cross_attention_block.xattn.kv(x)[..., self.dim :]

    def update(self, z: Tensor, u: Tensor, weights: Tensor) -> Tensor:
        block = self.cross_attention_block
        u = u + block.xattn.proj(z)
        return u + block.mlp(block.norm2(u))


class _SplitAttention(nn.Module):
    """The projections of an attention, one layer each."""

    def __init__(self, dim: int, bias: bool) -> None:
        super().__init__()
        self.q, self.k, self.v = (nn.Linear(dim, dim, bias=bias) for _ in range(3))
        self.proj = nn.Linear(dim, dim)


class ProbeCAE(_OneQuery):
    """CAE's attentive probe: norms of its own for query, keys and values (Chen et al., IJCV 2023)."""

    name, title = "probe_cae", "CAE's attentive probe"

    def __init__(self, dim: int, num_heads: int = 8) -> None:
        super().__init__(dim, num_heads)
        self.query_token = nn.Parameter(torch.zeros(1, 1, dim))
        self.norm1_q, self.norm1_k, self.norm1_v = (nn.LayerNorm(dim) for _ in range(3))
        self.norm2_cross = nn.LayerNorm(dim)  # in the files, and used by nothing
        self.cross_attn = _SplitAttention(dim, bias=False)

    def init(self, tokens: Tokens) -> Tensor:
        return self.query_token.expand(len(tokens.patches), -1, -1)

    def query(self, u: Tensor) -> Tensor:
        return self.cross_attn.q(self.norm1_q(u))

    def key(self, x: Tensor) -> Tensor:
        return self.cross_attn.k(self.norm1_k(x))

    def value(self, x: Tensor, query: Tensor, grid: tuple[int, int]) -> Tensor:
        return self.cross_attn.v(self.norm1_v(x))

    def update(self, z: Tensor, u: Tensor, weights: Tensor) -> Tensor:
        return self.cross_attn.proj(z)


class _ScaleNorm(nn.Module):
    """A layer norm under CoCa's names, whose shift is not learned."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.ones(dim))
        self.register_buffer("beta", torch.zeros(dim))
        self.beta: Tensor

    def forward(self, x: Tensor) -> Tensor:
        return F.layer_norm(x, x.shape[-1:], self.gamma, self.beta)


class ProbeCoCa(Pooling):
    """CoCa's attentional pooling: heads share one key and one value (Yu et al., TMLR 2022).

    Of its queries the head reads the first alone, so the map is that one's.

    Args:
        dim: width D.
        queries: number of queries in the file.
        head_dim: width of keys and values.
        num_heads: H.
    """

    name, title, group, attentive, learned, additive, part = (
        "probe_coca",
        "CoCa's pooling",
        4,
        True,
        True,
        False,
        "head",
    )

    def __init__(self, dim: int, queries: int = 196, head_dim: int = 64, num_heads: int = 8) -> None:
        super().__init__(dim)
        self.num_heads = num_heads
        self.norm = _ScaleNorm(dim)
        self.img_queries = nn.Parameter(torch.randn(queries, dim))
        self.to_q = nn.Linear(dim, num_heads * head_dim, bias=False)
        self.to_kv = nn.Linear(dim, 2 * head_dim, bias=False)
        self.to_out = nn.Linear(num_heads * head_dim, dim, bias=False)

    def init(self, tokens: Tokens) -> Tensor:
        return self.img_queries[:1].expand(len(tokens.patches), 1, -1)

    def query(self, u: Tensor) -> Tensor:
        return self.to_q(self.norm(u)).unflatten(2, (self.num_heads, -1))[:, 0]  # (B, H, d)

    def key(self, x: Tensor) -> Tensor:
        return self.to_kv(x).chunk(2, dim=-1)[0]

    def similarity(self, query: Tensor, key: Tensor) -> Tensor:
        return (query * query.shape[-1] ** -0.5) @ key.transpose(1, 2)  # (B, H, N)

    def value(self, x: Tensor, query: Tensor, grid: tuple[int, int]) -> Tensor:
        return self.to_kv(x).chunk(2, dim=-1)[1]

    def update(self, z: Tensor, u: Tensor, weights: Tensor) -> Tensor:
        return self.to_out(z.flatten(1))[:, None]  # (B, H, d) -> (B, 1, D)


class _ClassBlock(nn.Module):
    """The layers of a block of class attention."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(dim, eps=1e-6), nn.LayerNorm(dim, eps=1e-6)
        self.attn, self.mlp = _SplitAttention(dim, bias=True), Mlp(dim, 4 * dim)
        self.gamma_1, self.gamma_2 = nn.Parameter(torch.ones(dim)), nn.Parameter(torch.ones(dim))


class ProbeCaiT(_OneQuery):
    """Class attention as CaiT's code has it: the class token is a key and a value too (Touvron et al., ICCV 2021)."""

    name, title = "probe_cait", "CaiT's class attention"

    def __init__(self, dim: int, layers: int = 1, num_heads: int = 4) -> None:
        super().__init__(dim, num_heads)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, dim))
        self.blocks_token_only = nn.ModuleList(_ClassBlock(dim) for _ in range(layers))
        self.norm = nn.LayerNorm(dim)

    def forward(self, tokens: Tokens) -> Pooled:
        x, u = tokens.patches, self.cls_token.expand(len(tokens.patches), -1, -1)
        weights = scores = x[:, :0]
        for block in self.blocks_token_only:
            assert isinstance(block, _ClassBlock)
            attn, normed = block.attn, block.norm1(torch.cat([u, x], dim=1))  # (B, 1 + N, D)
            scores = head_scores(attn.q(normed[:, :1]), attn.k(normed), self.num_heads)  # (B, H, 1 + N)
            weights = wide(scores).softmax(dim=-1)
            u = u + block.gamma_1 * attn.proj(self.gather(weights, attn.v(normed)))
            u = u + block.gamma_2 * block.mlp(block.norm2(u))
        return Pooled(self.norm(u)[:, 0], weights[..., 1:], scores[..., 1:])


class ProbeCLIP(_OneQuery):
    """CLIP's attention pooling with learned places: the mean of the features is the query, and a key too.

    Radford et al., Learning transferable visual models from natural language supervision, ICML 2021. On another grid
    than that of the training the places are resampled as timm resamples position embeddings.

    Args:
        dim: width D.
        places: (h, w) of the training's grid.
        num_heads: H, which divides D.
    """

    name, title = "probe_clip", "CLIP's attention pooling"

    def __init__(self, dim: int, places: tuple[int, int] = (14, 14), num_heads: int = 4) -> None:
        super().__init__(dim, num_heads)
        self.places = places
        self.pos_embed = nn.Parameter(torch.zeros(places[0] * places[1] + 1, dim))
        self.qkv, self.proj = nn.Linear(dim, 3 * dim), nn.Linear(dim, dim)
        self.norm = nn.LayerNorm(dim, eps=1e-6)

    def forward(self, tokens: Tokens) -> Pooled:
        from timm.layers import resample_abs_pos_embed

        x = self.norm(tokens.patches)
        places = resample_abs_pos_embed(self.pos_embed[None], list(tokens.grid), list(self.places))
        q, k, v = self.qkv(torch.cat([x.mean(1, keepdim=True), x], dim=1) + places).chunk(3, dim=-1)
        scores = head_scores(q[:, :1], k, self.num_heads)  # (B, H, 1 + N)
        weights = wide(scores).softmax(dim=-1)
        return Pooled(self.proj(self.gather(weights, v))[:, 0], weights[..., 1:], scores[..., 1:])


class ProbeESimPool(_OneQuery):
    """SimPool without projections: the normalised mean attends to normalised features with 12 heads."""

    name, title, group, additive = "probe_esimpool", "SimPool without projections", 5, True

    def __init__(self, dim: int, num_heads: int = 12) -> None:
        super().__init__(dim, num_heads)
        self.norm_patches = nn.LayerNorm(dim, eps=1e-6)

    def query(self, u: Tensor) -> Tensor:
        return self.norm_patches(u)

    def key(self, x: Tensor) -> Tensor:
        return self.norm_patches(x)


class _SpatialGate(nn.Module):
    """The convolution over mean and maximum of the channels, with its batch norm."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = ConvNormAct(2, 1, 7, apply_act=False)


class ProbeCBAM(Pooling):
    """CBAM with a residual, ReLU and the mean (Woo et al., ECCV 2018). Its map is the gate of positions, over N."""

    name, title, group, attentive, learned, additive, unit = "probe_cbam", "CBAM", 3, True, True, False, "mean"

    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__(dim)
        self.channel, self.spatial, self.has_channel_gate = ChannelAttn(dim, rd_channels=hidden), _SpatialGate(), True

    def forward(self, tokens: Tokens) -> Pooled:
        x = tokens.patches.transpose(1, 2).unflatten(2, tokens.grid)  # (B, D, h, w)
        gated = self.channel(x)
        scores = self.spatial.conv(torch.cat([gated.mean(1, keepdim=True), gated.amax(1, keepdim=True)], dim=1))
        vector = (gated * scores.sigmoid() + x).relu().mean((2, 3))
        scores = scores.flatten(2)  # (B, 1, N)
        return Pooled(vector, wide(scores).sigmoid() / scores.shape[2], scores)

    def channel_gate(self, tokens: Tokens) -> Tensor:
        """(B, D), the sigmoid of what the gate's layers give for mean and maximum."""
        x = tokens.patches.transpose(1, 2)[..., None]  # (B, D, N, 1)
        gate = self.channel
        parts = [gate.fc2(gate.act(gate.fc1(part))) for part in (x.mean((2, 3), True), x.amax((2, 3), True))]
        return (parts[0] + parts[1]).sigmoid().flatten(1)


class ProbeDOLG(Pooling):
    """DOLG's spatial attention: softplus scores weigh normalised local features (Yang et al., ICCV 2021)."""

    name, title, group, attentive, learned, additive, unit = (
        "probe_dolg",
        "DOLG's spatial attention",
        3,
        True,
        True,
        False,
        "mean",
    )

    def __init__(self, dim: int) -> None:
        super().__init__(dim)
        self.conv1, self.bn, self.conv2 = nn.Conv2d(dim, dim, 1), nn.BatchNorm2d(dim), nn.Conv2d(dim, 1, 1)

    def forward(self, tokens: Tokens) -> Pooled:
        x = self.bn(self.conv1(tokens.patches.transpose(1, 2)[..., None]))  # (B, D, N, 1)
        scores = self.conv2(x.relu())[..., 0]  # (B, 1, N)
        weights = F.softplus(wide(scores)) / scores.shape[2]
        vector = (weights * F.normalize(wide(x), dim=1)[..., 0]).sum(2)
        return Pooled(vector.to(x.dtype), weights, scores)


class ProbeBlock(Pooling):
    """A transformer block of 8 heads over the features, and their mean: every position has the same weight."""

    name, title, group, learned, additive = "probe_block", "Transformer block and mean", 4, True, False

    def __init__(self, dim: int, num_heads: int = 8) -> None:
        super().__init__(dim)
        if dim % num_heads:
            raise OptionError(f"{self.title}: {dim} channels do not split into {num_heads} heads")
        self.dino_block = Block(dim, num_heads, norm_layer=nn.LayerNorm)
        # A recording would take it for a block of the backbone.
        self.dino_block.attn.fused_attn = False  # type: ignore[assignment]

    def forward(self, tokens: Tokens) -> Pooled:
        return Pooled(self.dino_block(tokens.patches).mean(1), None, None)


State = dict[str, Tensor]
_MAKERS: dict[str, Callable[[State, int, int], Pooling]] = {
    "latent": lambda state, dim, heads: ProbeSigLIP(dim),
    "query_tokens": lambda state, dim, heads: ProbeJEPA(dim, heads or math.gcd(dim, 12)),
    "query_token": lambda state, dim, heads: ProbeCAE(dim),
    "img_queries": lambda state, dim, heads: ProbeCoCa(
        dim, len(state["img_queries"]), len(state["to_kv.weight"]) // 2,
        2 * len(state["to_q.weight"]) // len(state["to_kv.weight"]),
    ),
    "blocks_token_only.0.gamma_1": lambda state, dim, heads: ProbeCaiT(
        dim, len([key for key in state if key.endswith(".gamma_1")])
    ),
    "qkv.weight": lambda state, dim, heads: ProbeCLIP(dim, (math.isqrt(len(state["pos_embed"])),) * 2),
    "channel.fc1.weight": lambda state, dim, heads: ProbeCBAM(dim, len(state["channel.fc1.weight"])),
    "conv2.weight": lambda state, dim, heads: ProbeDOLG(dim),
    "dino_block.norm1.weight": lambda state, dim, heads: ProbeBlock(dim),
    "norm_patches.weight": lambda state, dim, heads: ProbeESimPool(dim),
}  # fmt: skip


def released_pooling(state: State, dim: int, num_heads: int = 0) -> Pooling | None:
    """The pooling of a head of efficient-probing by the names of its tensors.

    Args:
        state: tensors of the pooling, by their names in that code.
        dim: width D of the tokens.
        num_heads: of V-JEPA's pooler, which no tensor determines; 0 for the usual number.

    Returns:
        The pooling with random weights; None where the tensors belong to none of these.

    Raises:
        OptionError: the width does not split into the heads.
    """
    make = next((make for sign, make in _MAKERS.items() if sign in state), None)
    return None if make is None else make(state, dim, num_heads)
