"""Recognises BEiT, CaiT and Swin, whose blocks hold tensors that plain ViTs lack: biases by relative position, and
mixed heads.

The number of heads stands in the shapes of these tensors.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import partial

from timm.models.beit import Beit
from timm.models.cait import Cait
from timm.models.swin_transformer import SwinTransformer
from torch import Tensor, nn

from simpool_viz.checkpoints.formats.containers import Weights
from simpool_viz.checkpoints.formats.naming import State
from simpool_viz.checkpoints.formats.parts import LoadOptions, Parts, count_of
from simpool_viz.errors import CheckpointError
from simpool_viz.modeling.encoder import Facts

_TABLE = "relative_position_bias_table"
_SHARED, _OWN = f"rel_pos_bias.{_TABLE}", f"blocks.0.attn.{_TABLE}"
_BEYOND = 3  # rows of BEiT's table beside those of distances: from, to and within the class token
_NORM = partial(nn.LayerNorm, eps=1e-6)


def family_of_vit(state: Mapping[str, Tensor]) -> str:
    """ "beit", "cait" or "swin" for the tensors of one of these by timm's names; "" for others.

    Args:
        state: tensors by name, without prefixes.
    """
    if "blocks.0.attn.proj_l.weight" in state and "blocks_token_only.0.attn.q.weight" in state:
        return "cait"
    if "patch_embed.proj.weight" in state and (_SHARED in state or _OWN in state):
        return "beit"
    return "swin" if f"layers.0.blocks.0.attn.{_TABLE}" in state else ""


def recognise_vit(family: str, weights: Weights, settings: LoadOptions) -> Parts:
    """Build the parts of a BEiT, a CaiT or a Swin from the shapes of its tensors.

    Args:
        family: from `family_of_vit`.
        weights: of the file.
        settings: options that the tensors do not determine, such as `grid`.

    Raises:
        CheckpointError: tensors that the family has are missing, or its tables are of no grid.
    """
    from simpool_viz.checkpoints.formats.timm import encoder_from_timm

    state = dict(weights.state)
    model, what, notes = {"beit": _beit, "cait": _cait, "swin": _swin}[family](state, settings)
    if settings.num_heads or settings.pos_embed:
        option = "num_heads" if settings.num_heads else "pos_embed"
        raise CheckpointError(f"{option}= is for plain ViTs, and this is a {what.partition(',')[0]}; leave it out")
    parts = encoder_from_timm(model, Facts(family))
    names = {key: f"backbone.{key}" for key in state}
    return Parts(state, what, parts.backbone, parts.pooling, parts.norm, parts.head, names, notes)


Built = tuple[nn.Module, str, list[str]]


def _beit(state: State, settings: LoadOptions) -> Built:
    """A BEiT; its table has a row for each distance along both axes, and its columns are heads."""
    dim, _, patch, _ = state["patch_embed.proj.weight"].shape
    depth = count_of(state, "blocks.")
    shared = _SHARED in state
    rows, heads = state[_SHARED if shared else _OWN].shape
    grid = (settings.grid[0], settings.grid[1]) if settings.grid else (_square(rows - _BEYOND),) * 2
    if (2 * grid[0] - 1) * (2 * grid[1] - 1) + _BEYOND != rows:
        raise CheckpointError(f"a table of {rows} relative positions is not that of {grid[0]} x {grid[1]} patches")
    pooled = "fc_norm.weight" in state
    model = Beit(
        img_size=(grid[0] * patch, grid[1] * patch),
        patch_size=patch,
        in_chans=state["patch_embed.proj.weight"].shape[1],
        num_classes=_outputs(state, "head"),
        global_pool="avg" if pooled else "token",
        embed_dim=dim,
        depth=depth,
        num_heads=heads,
        qkv_bias="blocks.0.attn.q_bias" in state,
        mlp_ratio=(state["blocks.0.mlp.fc1.weight"].shape[0] + 0.5) / dim,
        norm_layer=_NORM,  # type: ignore[arg-type]
        init_values=0.1 if "blocks.0.gamma_1" in state else None,
        use_abs_pos_emb="pos_embed" in state,
        use_rel_pos_bias=not shared,
        use_shared_rel_pos_bias=shared,
        use_fc_norm=pooled,
    )
    notes = ["the table of relative positions is resized as timm does it"]
    return model, f"BEiT, {depth} blocks of {dim} channels and {heads} heads, patches of {patch} px", notes


def _cait(state: State, settings: LoadOptions) -> Built:
    """A CaiT; the matrices that mix its heads have a row for each."""
    dim, _, patch, _ = state["patch_embed.proj.weight"].shape
    depth, last = count_of(state, "blocks."), count_of(state, "blocks_token_only.")
    heads, places = state["blocks.0.attn.proj_l.weight"].shape[0], state["pos_embed"].shape[1]
    grid = (settings.grid[0], settings.grid[1]) if settings.grid else (_square(places, of_distances=False),) * 2
    if grid[0] * grid[1] != places:
        raise CheckpointError(f"its {places} position embeddings are not those of {grid[0]} x {grid[1]} patches")
    model = Cait(
        img_size=(grid[0] * patch, grid[1] * patch),  # type: ignore[arg-type]
        patch_size=patch,
        in_chans=state["patch_embed.proj.weight"].shape[1],
        num_classes=_outputs(state, "head"),
        embed_dim=dim,
        depth=depth,
        num_heads=heads,
        mlp_ratio=(state["blocks.0.mlp.fc1.weight"].shape[0] + 0.5) / dim,
        depth_token_only=last,
        mlp_ratio_token_only=(state["blocks_token_only.0.mlp.fc1.weight"].shape[0] + 0.5) / dim,
    )
    blocks = f"{depth} blocks and {last} of class attention"
    what = f"CaiT, {blocks}, {dim} channels and {heads} heads, patches of {patch} px"
    return model, what, ["the position embedding is resized as timm does it, bicubic with antialiasing"]


def _swin(state: State, settings: LoadOptions) -> Built:
    """A Swin; its tables have a row for each distance within a window, and its columns are heads."""
    dim, _, patch, _ = state["patch_embed.proj.weight"].shape
    stages = range(count_of(state, "layers."))
    depths = tuple(count_of(state, f"layers.{i}.blocks.") for i in stages)
    tables = [state[f"layers.{i}.blocks.0.attn.{_TABLE}"].shape for i in stages]
    window = _square(tables[0][0])
    if settings.grid:
        raise CheckpointError("grid= is for position embeddings, and a Swin has none; leave it out")
    model = SwinTransformer(
        # As it is trained: the last stage is one window.
        img_size=window * patch * 2 ** (len(depths) - 1),
        patch_size=patch,
        in_chans=state["patch_embed.proj.weight"].shape[1],
        num_classes=_outputs(state, "head.fc"),
        embed_dim=dim,
        depths=depths,
        num_heads=tuple(heads for _, heads in tables),
        window_size=window,
        mlp_ratio=(state["layers.0.blocks.0.mlp.fc1.weight"].shape[0] + 0.01) / dim,  # also of 8 times the width
        qkv_bias="layers.0.blocks.0.attn.qkv.bias" in state,
    )
    what = f"Swin of {'-'.join(map(str, depths))} blocks, {dim} channels in the first, windows of {window} tokens"
    return model, what, []


def _square(rows: int, of_distances: bool = True) -> int:
    """The side of a square grid with as many distances, or as many places.

    Raises:
        CheckpointError: no square grid has as many.
    """
    root = math.isqrt(max(0, rows))
    if root**2 != rows or (of_distances and root % 2 == 0):
        raise CheckpointError(
            f"{rows} position embeddings are no square grid; say its rows and columns of patches, as in grid=16x8"
        )
    return (root + 1) // 2 if of_distances else root


def _outputs(state: Mapping[str, Tensor], head: str) -> int:
    return state[f"{head}.weight"].shape[0] if f"{head}.weight" in state else 0
