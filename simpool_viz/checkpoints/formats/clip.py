"""The names of OpenAI's CLIP and of open_clip, whose part for pictures is `visual.*`; texts are dropped."""

from __future__ import annotations

from collections.abc import Iterable

from simpool_viz.checkpoints.formats.hints import Hints
from simpool_viz.checkpoints.formats.naming import Naming
from simpool_viz.checkpoints.formats.transformers import CLIP_MEAN, CLIP_STD, PROJECTION

_BLOCK = "transformer.resblocks.{i}."
VIT = Naming(
    "OpenAI's CLIP and open_clip",
    ("class_embedding", "conv1", _BLOCK + "ln_1"),
    {
        "class_embedding": "cls_token",
        "positional_embedding": "pos_embed",
        "conv1": "patch_embed.proj",
        "ln_pre": "norm_pre",
        "ln_post": "norm",
        _BLOCK + "ln_1": "blocks.{i}.norm1",
        _BLOCK + "ln_2": "blocks.{i}.norm2",
        _BLOCK + "attn.in_proj_weight": "blocks.{i}.attn.qkv.weight",
        _BLOCK + "attn.in_proj_bias": "blocks.{i}.attn.qkv.bias",
        _BLOCK + "attn.out_proj": "blocks.{i}.attn.proj",
        _BLOCK + "mlp.c_fc": "blocks.{i}.mlp.fc1",
        _BLOCK + "mlp.c_proj": "blocks.{i}.mlp.fc2",
    },
    dropped={r"proj$": PROJECTION},
    hints=Hints("CLIP's code", eps=1e-5, mean=CLIP_MEAN, std=CLIP_STD),
)
NAMINGS = (VIT,)


def activation(names: Iterable[str], described: str) -> tuple[str, str]:
    """The activation of a CLIP's MLPs, which no weight shows, and a note on it.

    Args:
        names: of all tensors of the file; OpenAI's own hold a few numbers that open_clip's do not.
        described: what accompanies the file; "" for nothing.
    """
    if described:
        return described, f"its MLPs have {described}, as its description says"
    if any(name.endswith("context_length") for name in names):
        return "quick_gelu", "its MLPs have QuickGELU, since these are OpenAI's own names"
    return "gelu", (
        "its MLPs are taken to have GELU, as most of open_clip's have; for weights that were trained with QuickGELU, "
        "name the model of timm, as in arch=vit_base_patch16_clip_quickgelu_224"
    )
