"""The names of Hugging Face transformers: ViT, DeiT, DINOv2, also with registers, DINOv3, SigLIP, CLIP's vision part.

A module in memory bears newer names than the files that the same release writes; both are here.
"""

from __future__ import annotations

import dataclasses

from simpool_viz.checkpoints.formats.hints import Hints
from simpool_viz.checkpoints.formats.naming import Naming, State
from simpool_viz.modeling.encoder import IMAGENET_MEAN, IMAGENET_STD

MASKED = "stands for masked patches in training only"
POOLER = "a layer after the class token that pretraining used, or that was never trained"
BOTH = "a classifier of the class token and the mean of the patches together, which no pooling here gives"
PROJECTION = "the projection into the space that pictures and texts share"
TEXT = "the part for texts"
HALF = (0.5, 0.5, 0.5)
CLIP_MEAN, CLIP_STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)

_EMBEDDINGS = {
    "embeddings.cls_token": "cls_token",
    "embeddings.distillation_token": "reg_token",
    "embeddings.position_embeddings": "pos_embed",
    "embeddings.patch_embeddings.projection": "patch_embed.proj",
    "layernorm": "norm",
    "classifier": "head",
}
_QKV = tuple(f"encoder.layer.{{i}}.attention.attention.{part}" for part in ("query", "key", "value"))
_OUT = {"encoder.layer.{i}.attention.output.dense": "blocks.{i}.attn.proj"}

VIT = Naming(
    "transformers' ViT",
    ("embeddings.patch_embeddings.projection", "encoder.layer.{i}.layernorm_before"),
    _EMBEDDINGS
    | _OUT
    | {
        "cls_classifier": "head",
        "encoder.layer.{i}.layernorm_before": "blocks.{i}.norm1",
        "encoder.layer.{i}.layernorm_after": "blocks.{i}.norm2",
        "encoder.layer.{i}.intermediate.dense": "blocks.{i}.mlp.fc1",
        "encoder.layer.{i}.output.dense": "blocks.{i}.mlp.fc2",
    },
    {"blocks.{i}.attn.qkv": _QKV},
    {
        r"embeddings\.mask_token$": MASKED,
        r"pooler\.": POOLER,
        r"distillation_classifier\.": "the distillation token's classifier; logits are those of the class token's own",
        r"decoder\.": "decoder of the masked training",
    },
    Hints("transformers' defaults", eps=1e-12, pos_embed="transformers", mean=HALF, std=HALF),
    ("encoder.layer.{i}.lambda_1",),  # BEiT's
)
VIT_IN_MEMORY = Naming(
    VIT.title,
    ("embeddings.patch_embeddings.projection", "layers.{i}.layernorm_before"),
    _EMBEDDINGS
    | {
        "cls_classifier": "head",
        "layers.{i}.attention.o_proj": "blocks.{i}.attn.proj",
        "layers.{i}.layernorm_before": "blocks.{i}.norm1",
        "layers.{i}.layernorm_after": "blocks.{i}.norm2",
        "layers.{i}.mlp.fc1": "blocks.{i}.mlp.fc1",
        "layers.{i}.mlp.fc2": "blocks.{i}.mlp.fc2",
    },
    {"blocks.{i}.attn.qkv": tuple(f"layers.{{i}}.attention.{part}_proj" for part in "qkv")},
    VIT.dropped,
    VIT.hints,
)
DEIT, DEIT_IN_MEMORY = (
    dataclasses.replace(
        naming,
        title="transformers' DeiT",
        signs=(*naming.signs, "embeddings.distillation_token"),
        hints=dataclasses.replace(VIT.hints, mean=IMAGENET_MEAN, std=IMAGENET_STD),
    )
    for naming in (VIT, VIT_IN_MEMORY)
)

_DINOV2 = _EMBEDDINGS | {
    "embeddings.register_tokens": "register_tokens",
    "encoder.layer.{i}.norm1": "blocks.{i}.norm1",
    "encoder.layer.{i}.norm2": "blocks.{i}.norm2",
    "encoder.layer.{i}.layer_scale1.lambda1": "blocks.{i}.ls1.gamma",
    "encoder.layer.{i}.layer_scale2.lambda1": "blocks.{i}.ls2.gamma",
    "encoder.layer.{i}.mlp.fc1": "blocks.{i}.mlp.fc1",
    "encoder.layer.{i}.mlp.fc2": "blocks.{i}.mlp.fc2",
}
_DINOV2_DROPPED = {r"embeddings\.mask_token$": MASKED, r"classifier\.": BOTH}
_DINOV2_HINTS = Hints("transformers' defaults", eps=1e-6, pos_embed="transformers")
DINOV2 = Naming(
    "transformers' DINOv2",
    ("embeddings.patch_embeddings.projection", "encoder.layer.{i}.norm1", _QKV[0]),
    _DINOV2
    | _OUT
    | {
        "encoder.layer.{i}.mlp.weights_in": "blocks.{i}.mlp.fc1",
        "encoder.layer.{i}.mlp.weights_out": "blocks.{i}.mlp.fc2",
    },
    {"blocks.{i}.attn.qkv": _QKV},
    _DINOV2_DROPPED,
    _DINOV2_HINTS,
)
DINOV2_IN_MEMORY = Naming(
    DINOV2.title,
    ("embeddings.patch_embeddings.projection", "encoder.layer.{i}.norm1", "encoder.layer.{i}.attention.q_proj"),
    _DINOV2
    | {
        "encoder.layer.{i}.attention.o_proj": "blocks.{i}.attn.proj",
        "encoder.layer.{i}.mlp.down_proj": "blocks.{i}.mlp.fc2",
    },
    {
        "blocks.{i}.attn.qkv": tuple(f"encoder.layer.{{i}}.attention.{part}_proj" for part in "qkv"),
        "blocks.{i}.mlp.fc1": ("encoder.layer.{i}.mlp.gate_proj", "encoder.layer.{i}.mlp.up_proj"),
    },
    _DINOV2_DROPPED,
    _DINOV2_HINTS,
)


# With registers, transformers resizes with antialiasing, as timm does.
DINOV2_REGISTERS, DINOV2_REGISTERS_IN_MEMORY = (
    dataclasses.replace(
        naming,
        title="transformers' DINOv2 with registers",
        signs=(*naming.signs, "embeddings.register_tokens"),
        hints=dataclasses.replace(_DINOV2_HINTS, pos_embed="timm"),
    )
    for naming in (DINOV2, DINOV2_IN_MEMORY)
)


def _dinov3(start: str) -> Naming:
    """The names after `start`: "" in files, "model." in memory."""
    block = start + "layer.{i}."
    return Naming(
        "transformers' DINOv3",
        ("embeddings.patch_embeddings", block + "norm1", block + "attention.q_proj"),
        {
            "embeddings.cls_token": "cls_token",
            "embeddings.register_tokens": "reg_token",
            "embeddings.patch_embeddings": "patch_embed.proj",
            block + "norm1": "blocks.{i}.norm1",
            block + "norm2": "blocks.{i}.norm2",
            block + "attention.q_proj.bias": "blocks.{i}.attn.q_bias",
            block + "attention.v_proj.bias": "blocks.{i}.attn.v_bias",
            block + "attention.o_proj": "blocks.{i}.attn.proj",
            block + "layer_scale1.lambda1": "blocks.{i}.gamma_1",
            block + "layer_scale2.lambda1": "blocks.{i}.gamma_2",
            block + "mlp.gate_proj": "blocks.{i}.mlp.fc1_g",
            block + "mlp.up_proj": "blocks.{i}.mlp.fc1_x",
            block + "mlp.down_proj": "blocks.{i}.mlp.fc2",
        },
        {"blocks.{i}.attn.qkv.weight": tuple(f"{block}attention.{part}_proj.weight" for part in "qkv")},
        {r"embeddings\.mask_token$": MASKED, r"rope_embeddings\.": "fixed by the size of a head"},
        Hints("transformers' defaults", eps=1e-5),
        finish=_plain_mlp,
    )


def _plain_mlp(state: State) -> None:
    """Without a gate, the MLP's first layer is fc1."""
    if not any(".mlp.fc1_g." in key for key in state):
        for key in [key for key in state if ".mlp.fc1_x." in key]:
            state[key.replace("fc1_x", "fc1")] = state.pop(key)
    for key in [key for key in state if key == "reg_token" and state[key].shape[1] == 0]:
        del state[key]


DINOV3, DINOV3_IN_MEMORY = _dinov3(""), _dinov3("model.")

_TOWER = {
    "embeddings.patch_embedding": "patch_embed.proj",
    "embeddings.position_embedding.weight": "pos_embed",
    "encoder.layers.{i}.layer_norm1": "blocks.{i}.norm1",
    "encoder.layers.{i}.layer_norm2": "blocks.{i}.norm2",
    "encoder.layers.{i}.self_attn.out_proj": "blocks.{i}.attn.proj",
    "encoder.layers.{i}.mlp.fc1": "blocks.{i}.mlp.fc1",
    "encoder.layers.{i}.mlp.fc2": "blocks.{i}.mlp.fc2",
    "post_layernorm": "norm",
}
_TOWER_QKV = {"blocks.{i}.attn.qkv": tuple(f"encoder.layers.{{i}}.self_attn.{part}_proj" for part in "qkv")}
_TOWER_DROPPED = {
    r"(embeddings\.)?position_ids$|embeddings\.position_ids$": "counts positions",
    r"(text_model|text_projection|logit_scale|logit_bias)(\.|$)": TEXT,
    r"visual_projection\.": PROJECTION,
}


def _siglip_pooling(state: State) -> None:
    """PyTorch's attention holds queries, keys and values in one tensor; timm's pooling holds the queries apart."""
    for kind in ("weight", "bias"):
        if (joint := state.pop(f"attn_pool.in_proj_{kind}", None)) is not None:
            width = joint.shape[0] // 3
            state[f"attn_pool.q.{kind}"], state[f"attn_pool.kv.{kind}"] = joint[:width], joint[width:]


SIGLIP = Naming(
    "transformers' SigLIP",
    ("embeddings.patch_embedding", "encoder.layers.{i}.layer_norm1", "head.probe"),
    _TOWER
    | {
        "head.probe": "attn_pool.latent",
        "head.attention.in_proj_weight": "attn_pool.in_proj_weight",
        "head.attention.in_proj_bias": "attn_pool.in_proj_bias",
        "head.attention.out_proj": "attn_pool.proj",
        "head.layernorm": "attn_pool.norm",
        "head.mlp.fc1": "attn_pool.mlp.fc1",
        "head.mlp.fc2": "attn_pool.mlp.fc2",
    },
    _TOWER_QKV,
    _TOWER_DROPPED,
    Hints("transformers' defaults", eps=1e-6, act="gelu_tanh", pos_embed="transformers", mean=HALF, std=HALF),
    finish=_siglip_pooling,
)
CLIP = Naming(
    "transformers' CLIP",
    ("embeddings.patch_embedding", "encoder.layers.{i}.layer_norm1", "embeddings.class_embedding"),
    _TOWER | {"embeddings.class_embedding": "cls_token", "pre_layrnorm": "norm_pre"},
    _TOWER_QKV,
    _TOWER_DROPPED,
    Hints(
        "transformers' defaults",
        eps=1e-5,
        act="quick_gelu",
        pos_embed="transformers",
        mean=CLIP_MEAN,
        std=CLIP_STD,
    ),
)
# Its classifiers read the mean of the patches, of SigLIP after the last norm and of CLIP before it.
SIGLIP_CLASSIFIER = dataclasses.replace(
    SIGLIP,
    title="transformers' SigLIP for classification",
    signs=(*SIGLIP.signs, "image_classifier"),
    names={**SIGLIP.names, "image_classifier": "head"},
    dropped=_TOWER_DROPPED | {r"head\.": "the attention pooling, which its classifier does not read"},
)
CLIP_CLASSIFIER = dataclasses.replace(
    CLIP,
    title="transformers' CLIP for classification",
    signs=(*CLIP.signs, "image_classifier"),
    names={**CLIP.names, "image_classifier": "head"},
    dropped=_TOWER_DROPPED | {r"post_layernorm\.": "the norm of the class token, which its classifier does not read"},
    hints=dataclasses.replace(CLIP.hints, pool="patches"),
)
NAMINGS = (
    *(SIGLIP_CLASSIFIER, CLIP_CLASSIFIER),
    *(DEIT, DEIT_IN_MEMORY, VIT, VIT_IN_MEMORY, DINOV2_REGISTERS, DINOV2_REGISTERS_IN_MEMORY, DINOV2, DINOV2_IN_MEMORY),
    *(DINOV3, DINOV3_IN_MEMORY, SIGLIP, CLIP),
)
