"""The names of Meta's own files: DINOv2's (also of a training in shards), DINOv3's and SAM's."""

from __future__ import annotations

import re

from simpool_viz.checkpoints.formats.hints import Hints
from simpool_viz.checkpoints.formats.naming import Naming, State
from simpool_viz.modeling.encoder import IMAGENET_MEAN, IMAGENET_STD

MASKED = "stands for masked patches in training only"


# DINO's released ViTs, whose tensors are those of any ViT of that size.
_DINOS = re.compile(r"dino_(deitsmall|vitbase)(8|16)_(300ep_)?pretrain")


def hints_of_name(name: str) -> Hints:
    """What the name of a published file says that its tensors do not.

    Args:
        name: of the file.
    """
    if not _DINOS.match(name):
        return Hints()
    return Hints("DINO's code, since the file is called so", pos_embed="dino", mean=IMAGENET_MEAN, std=IMAGENET_STD)


def _without_chunks(state: State) -> None:
    """`blocks.<chunk>.<i>` -> `blocks.<i>`, since blocks are numbered through all chunks."""
    for key in list(state):
        state[re.sub(r"^blocks\.\d+\.(\d+)\.", r"blocks.\1.", key)] = state.pop(key)
    _swiglu(state)


def _swiglu(state: State) -> None:
    for key in list(state):
        state[re.sub(r"\.mlp\.w12\.", ".mlp.fc1.", re.sub(r"\.mlp\.w3\.", ".mlp.fc2.", key))] = state.pop(key)


CHUNKS = Naming(
    "DINOv2's training in shards",
    ("patch_embed.proj", "blocks.0.{i}.norm1"),
    {},
    dropped={r"mask_token$": MASKED},
    hints=Hints("DINOv2's code", pos_embed="dino"),
    finish=_without_chunks,
)
DINOV2 = Naming(
    "DINOv2's own file",
    ("patch_embed.proj", "blocks.{i}.ls1.gamma", "mask_token"),
    {},
    dropped={r"mask_token$": MASKED},
    hints=Hints("DINOv2's code", pos_embed="dino"),
    finish=_swiglu,
)


def _biases(state: State) -> None:
    """The key's third of the joint bias is masked; timm keeps the other two."""
    for key in [key for key in state if key.endswith(".attn.qkv.bias")]:
        joint, block = state.pop(key), key.removesuffix("qkv.bias")
        width = joint.shape[0] // 3
        state[f"{block}q_bias"], state[f"{block}v_bias"] = joint[:width], joint[2 * width :]


DINOV3 = Naming(
    "Meta's DINOv3",
    ("patch_embed.proj", "storage_tokens"),
    {
        "storage_tokens": "reg_token",
        "rope_embed.periods": "rope_periods",
        "blocks.{i}.ls1.gamma": "blocks.{i}.gamma_1",
        "blocks.{i}.ls2.gamma": "blocks.{i}.gamma_2",
        "blocks.{i}.mlp.w1": "blocks.{i}.mlp.fc1_g",
        "blocks.{i}.mlp.w2": "blocks.{i}.mlp.fc1_x",
        "blocks.{i}.mlp.w3": "blocks.{i}.mlp.fc2",
    },
    dropped={
        r"mask_token$": MASKED,
        r"blocks\.\d+\.attn\.qkv\.bias_mask$": "says that keys have no bias",
        r"local_cls_norm\.": "norm of small crops in training only",
    },
    hints=Hints("DINOv3's code", eps=1e-5),
    finish=_biases,
)
SAM = Naming(
    "Meta's SAM",
    ("patch_embed.proj", "blocks.{i}.attn.rel_pos_h", "blocks.{i}.mlp.lin1"),
    {"blocks.{i}.mlp.lin1": "blocks.{i}.mlp.fc1", "blocks.{i}.mlp.lin2": "blocks.{i}.mlp.fc2"},
    hints=Hints("SAM's code", mean=IMAGENET_MEAN, std=IMAGENET_STD, size=1024),
)
NAMINGS = (DINOV3, CHUNKS, DINOV2, SAM)
