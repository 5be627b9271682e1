"""Recognises ViTs in the naming of timm, DeiT, DINO and DINOv2.

They may have CLS, GAP, SimPool or SigLIP's pooling, and LIFE or SAR inside.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from functools import partial
from typing import Any

import torch
from timm.layers import SwiGLUPacked
from timm.models.deit import VisionTransformerDistilled
from timm.models.eva import Eva
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn
from torch.nn import functional as F

from simpool_viz.checkpoints.formats.containers import Weights
from simpool_viz.checkpoints.formats.hints import ACTIVATIONS, CONFIG
from simpool_viz.checkpoints.formats.parts import LoadOptions, Parts, count_of, find_simpool, gamma_of
from simpool_viz.errors import CheckpointError
from simpool_viz.modeling.layers.head_layers import TwoHeads
from simpool_viz.modeling.layers.life import insert_life
from simpool_viz.modeling.layers.sar import remove_last_skip
from simpool_viz.modeling.pooling import Pooling, create_pooling
from simpool_viz.modeling.pooling.own import BothTokens

_ARCHS = {"vit_tiny": 3, "vit_small": 6, "vit_base": 12, "vit_large": 16}
# Heads of the published ViTs by width; those of 7B parameters alone have heads of 128 channels.
HEADS = {
    192: 3, 320: 5, 384: 6, 512: 8, 640: 10, 768: 12, 1024: 16, 1152: 16, 1280: 16, 1408: 16, 1536: 24, 1664: 16,
    4096: 32,
}  # fmt: skip
RULES = {
    "timm": "resized as timm does it, bicubic with antialiasing",
    "dino": "resized as in DINO's code, by factors",
    "transformers": "resized as in transformers, bicubic without antialiasing",
}


class DinoVisionTransformer(VisionTransformer):
    """A ViT that resizes its position embedding as another code than timm's does, since its weights were trained so.

    "dino" resizes it bicubically by the factors ((H // p + 0.1) / g, (W // p + 0.1) / g), not to a given size, as DINO,
    DINOv2 and SimPool's self-supervised code do. DINO's own ViT keeps it unchanged at the trained size. SimPool's ViT,
    which has no class token, compares the number of patches with one less than it has and therefore always resizes.
    "transformers" resizes it bicubically to the size, without the antialiasing that timm applies.
    """

    rule = "dino"

    def _pos_embed(self, x: Tensor) -> Tensor:
        height, width = x.shape[1:3]
        table: Tensor = self.pos_embed  # type: ignore[assignment]
        embedded = 0 if self.no_embed_class else self.num_prefix_tokens
        rows, columns = self.patch_embed.grid_size
        place = table[:, embedded:]
        always = self.rule == "dino" and not self.num_prefix_tokens
        if always or (height, width) != (rows, columns):
            place = place.reshape(1, rows, columns, -1).permute(0, 3, 1, 2)
            if self.rule == "dino":
                scale = ((height + 0.1) / rows, (width + 0.1) / columns)
                place = F.interpolate(place, scale_factor=scale, mode="bicubic")
            else:
                place = F.interpolate(place, size=(height, width), mode="bicubic")
            place = place.flatten(2).transpose(1, 2)
        x = x.flatten(1, 2) + place
        tokens = [token for token in (self.cls_token, self.reg_token) if token is not None]
        if tokens:
            prefix = torch.cat(tokens, dim=1)  # type: ignore[arg-type]
            prefix = prefix + table[:, :embedded] if embedded else prefix
            x = torch.cat([prefix.expand(len(x), -1, -1), x], dim=1)
        return self.pos_drop(x)


def recognise(weights: Weights, settings: LoadOptions) -> Parts:
    """Build the parts of a ViT from the names and shapes of its tensors.

    Args:
        weights: of the file.
        settings: options that the tensors do not determine, such as `num_heads`.

    Raises:
        CheckpointError: the number of heads or the grid cannot be derived from the tensors.
    """
    state = dict(weights.state)
    notes: list[str] = []
    if "pos_embed" not in state and "blocks.0.gamma_1" in state and "cls_token" in state:
        return _with_rope(state, weights, settings)
    if rename := layer_scales_of_deit(state):
        state = {rename.get(key, key): value for key, value in state.items()}
        notes.append(
            "layer scales in DeiT III's own naming; ViTs with rotary positions beside the embedded ones have the same "
            "tensors: for those say arch=, as in arch=vit_small_patch16_rope_ape_224"
        )
    if "register_tokens" in state:
        _rename_registers(state)
        notes.append("registers in DINOv2's own naming")
    names = {key: f"backbone.{key}" for key in state}
    simpool = find_simpool(state)
    dim, colours, patch, side = state["patch_embed.proj.weight"].shape
    if colours not in (1, 3) or patch != side:
        raise CheckpointError(
            f"patch_embed.proj.weight has shape {dim, colours, patch, side}, not that of square patches of 3 "
            "colours, or of 1 in grey"
        )
    depth = count_of(state, "blocks.")
    before_norm = simpool is not None and weights.family != "supervised" and not simpool.prefix.startswith("gp.")
    grid = _grid_asked(weights, settings, patch)
    kwargs, (rows, columns) = _kwargs(state, dim, grid)
    kwargs |= _layers(state, weights, dim)
    kwargs["num_heads"], heads_notes = _heads(weights, settings, dim)
    bare = weights.hints.pool == "patches"
    if before_norm or bare:
        kwargs["final_norm"] = False
    rule = _rule(weights, settings, kwargs)
    both = "dist_token" in state
    kind = VisionTransformer if rule == "timm" else DinoVisionTransformer
    if both and rule != "timm":
        raise CheckpointError(f"a distilled DeiT's position embedding is resized by timm's rule, not by {rule}")
    if both:
        kind = VisionTransformerDistilled
    backbone: Any = kind(
        img_size=(rows * patch, columns * patch),
        patch_size=patch,
        in_chans=colours,
        embed_dim=dim,
        depth=depth,
        num_classes=0,
        dynamic_img_size=True,
        **kwargs,
    )
    if both and kwargs["no_embed_class"]:
        backbone.pos_embed = nn.Parameter(torch.empty(1, rows * columns, dim))
    if isinstance(backbone, DinoVisionTransformer):
        backbone.rule = rule
    _fit_blocks(backbone, state)
    pooling: Pooling
    norm: nn.Module | None = None
    if simpool is not None:
        gamma, gamma_notes = gamma_of(weights, settings, simpool, is_vit=True)
        notes += gamma_notes
        pooling = simpool.create(gamma)
        names |= {key: f"pooling.{name}" for key, name in simpool.names.items()}
    elif kwargs["global_pool"] == "map":
        pooling = create_pooling("latent", dim, module=backbone.attn_pool)
        names |= {f"attn_pool.{key}": f"pooling.module.{key}" for key in pooling.module.state_dict()}  # type: ignore[union-attr, operator]
        backbone.attn_pool = None
    elif both:
        pooling = BothTokens(dim)
    else:
        pooling = create_pooling("cls" if kwargs["global_pool"] == "token" and not bare else "gap", dim)
    if before_norm or kwargs["global_pool"] == "avg":
        norm, own = nn.LayerNorm(dim, eps=weights.hints.eps or 1e-6), "norm" if before_norm else "fc_norm"
        names |= {f"{own}.{part}": f"norm.{part}" for part in ("weight", "bias")}
        backbone.fc_norm = nn.Identity()
    linear = linear_head(state, "head", names)
    head: nn.Module | None = _two_heads(state, names, linear) if both else linear
    if pooling.name == "gap" and kwargs["class_token"] and bare:
        notes.append("its classifier reads the mean of the patches before the final norm")
    if not weights.hints.act and (kwargs["pre_norm"] or kwargs["global_pool"] == "map"):
        notes.append(
            "its MLPs are taken to have GELU, which no tensor tells; for weights that were trained with QuickGELU, as "
            "OpenAI's, or with its tanh form, name the model of timm with arch="
        )
    notes += [*heads_notes, f"the position embedding is {RULES[rule]}"]
    what = f"ViT, {depth} blocks of {dim} channels and {kwargs['num_heads']} heads, patches of {patch} px"
    extras = [n for n, there in (("LIFE", _has_life(state)), ("no skip in the last block", _no_skip(state))) if there]
    return Parts(state, ", ".join([what, *extras]), backbone, pooling, norm, head, names, notes)


def layer_scales_of_deit(state: Mapping[str, Tensor]) -> dict[str, str]:
    """DeiT III's own names of its layer scales -> timm's; {} for other files.

    Args:
        state: tensors by name, without prefixes.
    """
    if "pos_embed" not in state or "blocks.0.attn.qkv.bias" not in state:
        return {}
    scale = re.compile(r"(blocks\.\d+)\.gamma_([12])")
    return {key: f"{m[1]}.ls{m[2]}.gamma" for key in state if (m := scale.fullmatch(key))}


def _two_heads(state: dict[str, Tensor], names: dict[str, str], head: nn.Linear | None) -> nn.Module | None:
    """The two classifiers of a distilled DeiT; None where the file has none.

    Raises:
        CheckpointError: one of them is missing.
    """
    other = linear_head(state, "head_dist", names)
    if head is None and other is None:
        return None
    if head is None or other is None:
        raise CheckpointError(f"{'head' if head is None else 'head_dist'}.weight is missing")
    for own, place in (("head", "head.head"), ("head_dist", "head.other")):
        names |= {f"{own}.{part}": f"{place}.{part}" for part in ("weight", "bias")}
    return TwoHeads(head, other)


def _grid_asked(weights: Weights, settings: LoadOptions, patch: int) -> tuple[int, int] | None:
    """The grid (rows, columns) of the position embedding, where an option or a description says it."""
    if settings.grid:
        return settings.grid[0], settings.grid[1]
    picture = weights.hints.picture
    return (picture[0] // patch, picture[1] // patch) if picture else None


def linear_head(state: dict[str, Tensor], prefix: str, names: dict[str, str]) -> nn.Linear | None:
    """Make a linear classifier for the tensors `prefix`.weight and `prefix`.bias.

    Args:
        state: tensors by name.
        prefix: of the two names.
        names: key of the file -> key of the encoder; the two are added.

    Returns:
        The layer, still without the weights; None where the tensors are absent.
    """
    if not {f"{prefix}.weight", f"{prefix}.bias"} & set(state):
        return None
    names |= {f"{prefix}.{part}": f"head.{part}" for part in ("weight", "bias")}
    rows, width = state[f"{prefix}.weight"].shape[:2]
    return nn.Linear(width, rows)


def _rename_registers(state: dict[str, Tensor]) -> None:
    """DINOv2's own files add the class token's place to it and none to the registers; timm holds the sum."""
    table = state["pos_embed"]
    state["cls_token"], state["pos_embed"] = state["cls_token"].float() + table[:, :1].float(), table[:, 1:]
    state["reg_token"] = state.pop("register_tokens")


def _kwargs(state: dict[str, Tensor], dim: int, grid: tuple[int, int] | None) -> tuple[dict[str, Any], tuple[int, int]]:
    """Arguments of timm's VisionTransformer, from what tensors there are, and the grid of its position embedding."""
    registers = state["reg_token"].shape[1] if "reg_token" in state else 0
    if "pos_embed" not in state:
        raise CheckpointError(
            "it has no pos_embed, so its positions are of another kind; name it as a model of timm with arch="
        )
    if state["pos_embed"].ndim != 3:
        raise CheckpointError(f"pos_embed has shape {tuple(state['pos_embed'].shape)}, where 3 axes are expected")
    cls, places = int("cls_token" in state) + int("dist_token" in state), state["pos_embed"].shape[1]
    fits = (lambda n: n == grid[0] * grid[1]) if grid else (lambda n: math.isqrt(max(0, n)) ** 2 == n)
    embedded = [p for p in (cls + registers, 0) if fits(places - p)]
    if grid and not embedded:
        raise CheckpointError(
            f"its {places} position embeddings are not those of {grid[0]} x {grid[1]} patches and "
            f"{cls + registers} tokens before them"
        )
    if not embedded and not cls and math.isqrt(places - 1) ** 2 == places - 1:
        raise CheckpointError(
            f"a token before the patches, cls_token or reg_token, is missing; it has {places} position embeddings"
        )
    if not embedded:
        raise CheckpointError(
            f"{places} position embeddings are no square grid; say its rows and columns of patches, as in grid=16x8"
        )
    side = math.isqrt(places - embedded[0])
    if "blocks.0.attn.q_bias" in state:
        raise CheckpointError(
            "its queries and values have biases of their own, as EVA's have; name it as a model of timm with arch="
        )
    if not any(key.startswith("blocks.0.mlp.fc1.") for key in state):
        raise CheckpointError("it has an MLP of another kind than fc1, fc2; name it as a model of timm with arch=")
    pool = (
        "map"
        if any(key.startswith("attn_pool.") for key in state)
        else "avg"
        if "fc_norm.weight" in state
        else "token"
        if cls
        else ""
    )
    return {
        "mlp_ratio": (state["blocks.0.mlp.fc1.weight"].shape[0] + 0.5) / dim,
        "class_token": bool(cls),
        "reg_tokens": registers,
        "no_embed_class": embedded[0] == 0 < cls + registers,
        "qkv_bias": any(re.fullmatch(r"blocks\.\d+\.attn\.qkv\.(scale1\.)?bias", key) for key in state),
        "qk_norm": "blocks.0.attn.q_norm.weight" in state,
        "init_values": 1.0 if "blocks.0.ls1.gamma" in state else None,
        "pre_norm": "norm_pre.weight" in state,
        "global_pool": pool,
        "fc_norm": False if pool != "avg" else None,
        "weight_init": "skip",
    }, grid or (side, side)


def _layers(state: dict[str, Tensor], weights: Weights, dim: int) -> dict[str, Any]:
    """Arguments that say of what kind a ViT's norms and MLPs are."""
    rows, columns = state["blocks.0.mlp.fc1.weight"].shape[0], state["blocks.0.mlp.fc2.weight"].shape[1]
    found: dict[str, Any] = {"norm_layer": partial(nn.LayerNorm, eps=weights.hints.eps or 1e-6)}
    if rows == 2 * columns:
        return found | {"mlp_layer": SwiGLUPacked, "act_layer": nn.SiLU, "mlp_ratio": (rows + 0.5) / dim}
    act = weights.hints.act
    if act and act not in ACTIVATIONS.values():
        raise CheckpointError(f"{CONFIG}: the activation {act!r} is not one of {', '.join(ACTIVATIONS)}")
    return found | ({"act_layer": act} if act else {})


def _with_rope(state: dict[str, Tensor], weights: Weights, settings: LoadOptions) -> Parts:
    """The parts of a DINOv3: a ViT with rotary positions, pooled by its class token."""
    dim, _, patch, _ = state["patch_embed.proj.weight"].shape
    depth, gated = count_of(state, "blocks."), "blocks.0.mlp.fc1_g.weight" in state
    periods = state.pop("rope_periods", None)
    heads, notes = _heads(weights, settings, dim, 0 if periods is None else dim // (4 * len(periods)))
    if weights.hints.act not in ("", "silu" if gated else "gelu"):
        raise CheckpointError(
            f"its MLPs have the activation {weights.hints.act}, and DINOv3's have {'SiLU' if gated else 'GELU'}"
        )
    hidden = state["blocks.0.mlp.fc1_g.weight" if gated else "blocks.0.mlp.fc1.weight"].shape[0]
    backbone = Eva(
        img_size=16 * patch,
        patch_size=patch,
        num_classes=0,
        global_pool="token",
        embed_dim=dim,
        depth=depth,
        num_heads=heads,
        qkv_bias="blocks.0.attn.q_bias" in state,
        mlp_ratio=(hidden + 0.5) / dim,
        swiglu_mlp=gated,
        swiglu_align_to=1 if gated else 0,
        norm_layer=partial(nn.LayerNorm, eps=weights.hints.eps or 1e-5),
        init_values=1.0,
        num_reg_tokens=state["reg_token"].shape[1] if "reg_token" in state else 0,
        use_abs_pos_emb=False,
        use_rot_pos_emb=True,
        rope_type="dinov3",
        rope_temperature=weights.hints.rope_theta or 100.0,
        rope_rotate_half=True,
        use_fc_norm=False,
        dynamic_img_size=True,
    )
    names = {key: f"backbone.{key}" for key in state}
    head = linear_head(state, "head", names)
    if periods is not None:
        notes.append("the periods of its rotary positions are computed, not read")
    what = f"ViT with rotary positions, {depth} blocks of {dim} channels and {heads} heads, patches of {patch} px"
    return Parts(state, what, backbone, create_pooling("cls", dim), None, head, names, notes)


def _heads(weights: Weights, settings: LoadOptions, dim: int, told: int = 0) -> tuple[int, list[str]]:
    """The number of heads and what was assumed: from the options, the file, the training, or the published shapes."""
    notes: list[str] = []
    heads = settings.num_heads or told or weights.hints.num_heads or _ARCHS.get(str(weights.args.get("arch", "")), 0)
    trained = weights.args.get("num_heads")
    if not heads and isinstance(trained, int) and not isinstance(trained, bool) and trained > 0:
        heads = trained
        notes.append(f"{heads} heads, from the settings of its training")
    if not heads and dim in HEADS:
        heads = HEADS[dim]
        notes.append(f"{heads} heads, as the published ViTs of {dim} channels have them; else say num_heads=")
    if not heads:
        heads = dim // 64
        notes.append(
            f"{heads} heads are assumed, of 64 channels each, since no published ViT has {dim} channels; else say "
            "num_heads="
        )
    if heads < 1 or dim % heads:
        raise CheckpointError(f"{dim} channels do not determine the number of heads; say num_heads=")
    return heads, notes


def _rule(weights: Weights, settings: LoadOptions, kwargs: dict[str, Any]) -> str:
    """The rule by which the position embedding is resized, a key of `RULES`."""
    if settings.pos_embed not in ("", *RULES):
        raise CheckpointError(
            f"pos_embed is {', '.join(list(RULES)[:-1])} or {list(RULES)[-1]}, not {settings.pos_embed!r}"
        )
    embeds_none = kwargs["reg_tokens"] or kwargs["no_embed_class"]
    if settings.pos_embed == "dino" and embeds_none:
        raise CheckpointError("pos_embed=dino is for ViTs of DINO's first code, which has no registers; leave it out")
    usual = weights.hints.pos_embed or ("dino" if weights.family == "self-supervised" else "timm")
    if embeds_none and usual == "dino":  # with registers, DINOv2's code resizes as timm does
        usual = "timm"
    return settings.pos_embed or usual


def _has_life(state: dict[str, Tensor]) -> bool:
    return any(key.startswith("blocks.0.attn.qkv.scale") for key in state)


def _no_skip(state: dict[str, Tensor]) -> bool:
    last = f"blocks.{count_of(state, 'blocks.') - 1}.norm2."
    return (
        last != "blocks.0.norm2."
        and not {f"{last}weight", f"{last}bias"} & set(state)
        and "blocks.0.norm2.weight" in state
    )


def _fit_blocks(backbone: Any, state: dict[str, Tensor]) -> None:
    """Insert LIFE in place of the qkv projections, and SAR's last block, where the tensors have their shapes."""
    if _no_skip(state):
        remove_last_skip(backbone)
    if _has_life(state):  # files follow the released code unless they say otherwise
        insert_life(backbone, norm="blocks.0.attn.qkv.norm.weight" in state, prefix_keys="code")
