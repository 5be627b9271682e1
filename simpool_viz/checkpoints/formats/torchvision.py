"""The names of torchvision's ViT and ConvNeXt; its ResNets, ResNeXts and Wide ResNets are timm's.

ResNets are also read from their layers in a row, `nn.Sequential(*model.children())`, which many trainings keep.
"""

from __future__ import annotations

from simpool_viz.checkpoints.formats.hints import Hints
from simpool_viz.checkpoints.formats.naming import Naming, State
from simpool_viz.modeling.encoder import IMAGENET_MEAN, IMAGENET_STD

_BLOCK = "encoder.layers.encoder_layer_{i}."
_HINTS = Hints("torchvision's weights", eps=1e-6, mean=IMAGENET_MEAN, std=IMAGENET_STD, interpolation="bilinear")
VIT = Naming(
    "torchvision's ViT",
    ("conv_proj", _BLOCK + "ln_1"),
    {
        "class_token": "cls_token",
        "conv_proj": "patch_embed.proj",
        "encoder.pos_embedding": "pos_embed",
        _BLOCK + "ln_1": "blocks.{i}.norm1",
        _BLOCK + "self_attention.in_proj_weight": "blocks.{i}.attn.qkv.weight",
        _BLOCK + "self_attention.in_proj_bias": "blocks.{i}.attn.qkv.bias",
        _BLOCK + "self_attention.out_proj": "blocks.{i}.attn.proj",
        _BLOCK + "ln_2": "blocks.{i}.norm2",
        _BLOCK + "mlp.0": "blocks.{i}.mlp.fc1",
        _BLOCK + "mlp.3": "blocks.{i}.mlp.fc2",
        _BLOCK + "mlp.linear_1": "blocks.{i}.mlp.fc1",  # as in the files before torchvision 0.12
        _BLOCK + "mlp.linear_2": "blocks.{i}.mlp.fc2",
        "encoder.ln": "norm",
        "heads.head": "head",
    },
    hints=_HINTS,
)


def _scales_in_a_row(state: State) -> None:
    for key in [key for key in state if key.endswith(".gamma")]:
        state[key] = state[key].flatten()  # (D, 1, 1) -> (D,)


_STAGES = {
    name.format(s=2 * stage + 1): f"stages.{stage}.blocks.{{i}}.{ours}"
    for stage in range(4)
    for name, ours in (
        ("features.{s}.{{i}}.block.0", "conv_dw"),
        ("features.{s}.{{i}}.block.2", "norm"),
        ("features.{s}.{{i}}.block.3", "mlp.fc1"),
        ("features.{s}.{{i}}.block.5", "mlp.fc2"),
        ("features.{s}.{{i}}.layer_scale", "gamma"),
    )
}
_BETWEEN = {
    f"features.{2 * stage}.{part}": f"stages.{stage}.downsample.{part}" for stage in (1, 2, 3) for part in (0, 1)
}
CONVNEXT = Naming(
    "torchvision's ConvNeXt",
    ("features.0.0", "features.1.{i}.layer_scale"),
    {"features.0.0": "stem.0", "features.0.1": "stem.1", "classifier.0": "head.norm", "classifier.2": "head.fc"}
    | _BETWEEN
    | _STAGES,
    hints=_HINTS,
    finish=_scales_in_a_row,
)
_PARTS = [f"{kind}{number}" for kind in ("conv", "bn") for number in (1, 2, 3)] + ["downsample.0", "downsample.1"]
RESNET_IN_A_ROW = Naming(
    "a ResNet's layers in a row",
    ("0", "1.running_mean", "4.{i}.conv1", "7.{i}.conv1"),
    {"0": "conv1", "1": "bn1", "9": "fc"}
    | {f"{stage + 3}.{{i}}.{part}": f"layer{stage}.{{i}}.{part}" for stage in (1, 2, 3, 4) for part in _PARTS},
)
NAMINGS = (VIT, CONVNEXT, RESNET_IN_A_ROW)
