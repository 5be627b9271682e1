"""The names of Google's ViTs in `.npz`, as written by flax in vision_transformer and big_vision."""

from __future__ import annotations

import re

from torch import Tensor

from simpool_viz.checkpoints.formats.hints import Hints
from simpool_viz.checkpoints.formats.naming import Naming, State

HALF = (0.5, 0.5, 0.5)
_BLOCK = "Transformer.encoderblock_{i}."
_NAMES = {
    "cls": "cls_token",
    "embedding.kernel": "patch_embed.proj.weight",
    "embedding.bias": "patch_embed.proj.bias",
    "Transformer.posembed_input.pos_embedding": "pos_embed",
    "pos_embedding": "pos_embed",
    _BLOCK + "MlpBlock.Dense_0": "blocks.{i}.mlp.fc1",
    _BLOCK + "MlpBlock.Dense_1": "blocks.{i}.mlp.fc2",
    _BLOCK + "LayerNorm.0": "blocks.{i}.norm1",
    _BLOCK + "LayerNorm.1": "blocks.{i}.norm2",
    _BLOCK + "Attention.out": "blocks.{i}.attn.proj",
    "Transformer.encoder_norm": "norm",
    "head": "head",
}
VIT = Naming(
    "Google's ViT in flax",
    ("embedding.kernel", _BLOCK + "Attention.query"),
    _NAMES,
    {"blocks.{i}.attn.qkv": tuple(f"{_BLOCK}Attention.{part}" for part in ("query", "key", "value"))},
    {},
    Hints("Google's code", eps=1e-6, mean=HALF, std=HALF),
)
NAMINGS = (VIT,)


def as_torch(arrays: State) -> tuple[State, int]:
    """Bring flax's names and axes to PyTorch's: "a/b/kernel" -> "a.b.weight", (in, out) -> (out, in).

    Args:
        arrays: by name, as in the file.

    Returns:
        The tensors by names that `VIT` knows, and the number of heads, 0 where no attention is found.
    """
    state: State = {}
    heads = 0
    norms = sorted(
        {m[1] for key in arrays for m in [re.search(r"encoderblock_\d+/LayerNorm_(\d+)/", key)] if m}, key=int
    )
    for key, value in arrays.items():
        name = re.sub(r"^(opt/target/|target/|params/)?(img/|encoder/)?", "", key)
        name = re.sub(r"LayerNorm_(\d+)", lambda m: f"LayerNorm.{norms.index(m[1])}" if m[1] in norms else m[0], name)
        name = re.sub(r"MultiHeadDotProductAttention_\d+", "Attention", re.sub(r"MlpBlock_\d+", "MlpBlock", name))
        name = name.replace("/", ".")
        if name.endswith((".query.kernel", ".key.kernel", ".value.kernel")) and value.ndim == 3:
            heads, value = value.shape[1], value.flatten(1)  # (D, H, D / H) -> (D, D)
        elif name.endswith((".query.bias", ".key.bias", ".value.bias")):
            value = value.flatten()
        elif name.endswith("Attention.out.kernel") and value.ndim == 3:
            value = value.flatten(0, 1)  # (H, D / H, D) -> (D, D)
        if name == "embedding.kernel" and value.ndim == 4:
            value = value.permute(3, 2, 0, 1)  # (h, w, in, out) -> (out, in, h, w)
        elif name.endswith(".kernel"):
            name, value = f"{name.removesuffix('kernel')}weight", _turned(value)
        elif name.endswith(".scale"):
            name = f"{name.removesuffix('scale')}weight"
        state[name] = value.contiguous()
    return state, heads


def _turned(value: Tensor) -> Tensor:
    return value.T if value.ndim == 2 else value
