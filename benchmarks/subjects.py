"""What is measured: this project's maps, and what other packages do on the same model, picture, precision and threads.

Each subject is a function (Setup) -> a function without arguments that does the work once and returns its maps. The
model is a ViT-S of timm with a class token, SimPool and a classifier, with random weights: how fast a map is does not
depend on them. Gradient methods differentiate the model's parameters, as they do by default in each package.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import timm
import torch
from torch import Tensor
from torchvision.models import VisionTransformer

from simpool_viz.images import Geometry, Picture
from simpool_viz.maps.make import attention_needed
from simpool_viz.modeling.encoder import Encoder, Facts
from simpool_viz.modeling.pooling import create_pooling
from simpool_viz.recording import record_prepared

# Tokens: (patch, side) in pixels.
SIZES = {
    50: (32, 224),
    101: (16, 160),
    197: (16, 224),
    325: (16, 288),
    577: (16, 384),
    901: (16, 480),
    1370: (14, 518),
    3601: (8, 480),
    12545: (16, 1792),
}
CLASSES = list(range(20))
Work = Callable[[], Any]


@dataclass(frozen=True)
class Setup:
    """The model, as a timm model and as an encoder on it, and a batch of pictures (B, 3, H, W)."""

    model: Any
    encoder: Encoder
    images: Tensor
    geometry: Geometry

    @property
    def seen(self) -> list[tuple[Picture, Geometry]]:
        return [(Picture(np.zeros((8, 8, 3), np.uint8), "picture"), self.geometry)] * len(self.images)


def make_setup(tokens: int, device: str, batch: int) -> Setup:
    """The ViT-S that sees so many tokens; half precision on a GPU."""
    if tokens not in SIZES:
        raise ValueError(f"token counts are {', '.join(map(str, SIZES))}, not {tokens}")
    patch, side = SIZES[tokens]
    torch.manual_seed(0)
    dtype = torch.float16 if device.startswith("cuda") else torch.float32
    model: Any = timm.create_model("vit_small_patch16_224", patch_size=patch, img_size=side, num_classes=1000).eval()
    encoder = Encoder(
        model, create_pooling("simpool", 384), head=model.head, facts=Facts("vit_small", size=side)
    ).eval()
    images = torch.randn(batch, 3, side, side, generator=torch.Generator().manual_seed(1)).to(device, dtype)
    grid = (side // patch, side // patch)
    return Setup(model, encoder.to(device, dtype), images, Geometry((side, side), grid, patch))


# --- this project -----------------------------------------------------------------------------------------------------


def plain(setup: Setup) -> Work:
    """The forward alone, its attention fused: what everything is compared with."""

    def work() -> Any:
        with torch.inference_mode():
            return setup.encoder(setup.images)

    return work


def _maps(*requests: tuple[str, dict[str, Any]]) -> Callable[[Setup], Work]:
    def subject(setup: Setup) -> Work:
        keep = attention_needed(setup.encoder, requests)

        def work() -> Any:
            (recordings,) = record_prepared([setup.encoder], setup.seen, setup.images, keep)
            return [recording.maps(list(requests)) for recording in recordings]

        return work

    return subject


DENSE = ("dense_rollout", {"classes": CLASSES, "soft": True})
OURS = {
    "pooling map": _maps(("pooling", {})),
    "CLS rows, all heads": _maps(("cls", {})),
    "roll-out": _maps(("rollout", {})),
    "roll-out of a token": _maps(("token", {"rollout": True})),
    "dense roll-out, 20 classes": _maps(DENSE),
    "every map in one request": _maps(("pooling", {}), ("cls", {}), ("rollout", {}), DENSE),
}


# --- the N x N way ----------------------------------------------------------------------------------------------------


def _products(matrices: list[Tensor]) -> Tensor:
    """R (B, N, N), as roll-out is usually written: residual attention, multiplied block by block."""
    product = None
    for matrix in matrices:
        fused = matrix.mean(1)
        residual = 0.5 * fused + 0.5 * torch.eye(fused.shape[-1], device=fused.device, dtype=fused.dtype)
        product = residual if product is None else residual @ product
    assert product is not None
    return product


def eager(setup: Setup) -> Work:
    """Attention unfused, its matrices kept by hooks and multiplied: CLS rows, the roll-out and the dense roll-out of
    one pass."""

    def work() -> Any:
        matrices: list[Tensor] = []
        blocks = [block.attn for block in setup.model.blocks]
        hooks = [
            attention.attn_drop.register_forward_hook(lambda m, i, output: matrices.append(output))
            for attention in blocks
        ]
        try:
            for attention in blocks:
                attention.fused_attn = False
            with torch.inference_mode():
                output = setup.encoder(setup.images)
                scores = setup.model.head(output.tokens.patches).softmax(-1)[..., CLASSES]
                rolled = _products(matrices)
                dense = scores.transpose(1, 2) @ rolled[:, 1:]
                return matrices[-1][:, :, 0].cpu(), rolled[:, 0].cpu(), dense.cpu()
        finally:
            for hook, attention in zip(hooks, blocks, strict=True):
                hook.remove()
                attention.fused_attn = True

    return work


def attention_extract(setup: Setup) -> Work:
    """timm's AttentionExtract (which needs unfused attention), and the roll-out by products."""
    from timm.utils import AttentionExtract

    def work() -> Any:
        for block in setup.model.blocks:
            block.attn.fused_attn = False
        try:
            with torch.inference_mode():
                return _products(list(AttentionExtract(setup.model, method="hook")(setup.images).values()))[:, 0].cpu()
        finally:
            for block in setup.model.blocks:
                block.attn.fused_attn = True
                block.attn.attn_drop._forward_hooks.clear()  # it leaves them, and with them the matrices

    return work


# --- gradients --------------------------------------------------------------------------------------------------------


def _as_grid(setup: Setup) -> Callable[[Tensor], Tensor]:
    h, w = setup.geometry.grid
    return lambda x: x[:, 1:].transpose(1, 2).reshape(len(x), -1, h, w)


def torch_cam(setup: Setup) -> Work:
    """Grad-CAM of torch-cam, on the last block's first norm."""
    from torchcam.methods import GradCAM

    def work() -> Any:
        with GradCAM(setup.model, setup.model.blocks[-1].norm1, reshape_transform=_as_grid(setup)) as extractor:
            return extractor(0, setup.model(setup.images))

    return work


def grad_cam(setup: Setup) -> Work:
    """Grad-CAM of the package grad-cam, on the last block's first norm."""
    from pytorch_grad_cam import GradCAM
    from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget

    def work() -> Any:
        with GradCAM(setup.model, [setup.model.blocks[-1].norm1], reshape_transform=_as_grid(setup)) as cam:
            return cam(setup.images, [ClassifierOutputTarget(0)] * len(setup.images))

    return work


def captum(setup: Setup) -> Work:
    """Grad-CAM of captum, on the last block's first norm."""
    from captum.attr import LayerGradCam

    return lambda: LayerGradCam(setup.model, setup.model.blocks[-1].norm1).attribute(setup.images, target=0)


def legrad(setup: Setup) -> Work:
    """LeGrad of torch-cam, over the last four blocks as its page shows; it takes torchvision's ViT, which gets this
    model's weights."""
    from torchcam.methods import LeGrad

    model = _as_torchvision(setup)

    def work() -> Any:
        with LeGrad(model, list(model.encoder.layers)[-4:]) as extractor:
            return extractor(0, model(setup.images))

    return work


def _as_torchvision(setup: Setup) -> VisionTransformer:
    """The same ViT as torchvision's class, which has attention as `nn.MultiheadAttention`."""
    side, patch = setup.images.shape[-1], setup.geometry.stride
    model = VisionTransformer(side, patch, num_layers=12, num_heads=6, hidden_dim=384, mlp_dim=1536, num_classes=1000)
    names = {
        "cls_token": "class_token",
        "pos_embed": "encoder.pos_embedding",
        "patch_embed.proj": "conv_proj",
        "norm": "encoder.ln",
    }
    names |= {"head": "heads.head"}
    inner = {
        "norm1": "ln_1",
        "norm2": "ln_2",
        "attn.proj": "self_attention.out_proj",
        "mlp.fc1": "mlp.0",
        "mlp.fc2": "mlp.3",
    }
    state = {}
    for key, value in setup.model.state_dict().items():
        if key.startswith("blocks."):
            _, number, rest = key.split(".", 2)
            part, _, kind = rest.rpartition(".")
            name = f"self_attention.in_proj_{kind}" if part == "attn.qkv" else f"{inner[part]}.{kind}"
            state[f"encoder.layers.encoder_layer_{number}.{name}"] = value
        else:
            part, _, kind = key.rpartition(".")
            state[names[key] if key in names else f"{names[part]}.{kind}"] = value
    model.load_state_dict(state)
    return model.eval().to(setup.images.device, setup.images.dtype)


PEERS: dict[str, Callable[[Setup], Work]] = {
    "eager N x N: CLS, roll-out, dense": eager,
    "timm AttentionExtract + products": attention_extract,
    "torch-cam Grad-CAM": torch_cam,
    "grad-cam Grad-CAM": grad_cam,
    "captum Grad-CAM": captum,
    "torch-cam LeGrad, 4 blocks": legrad,
}
SUBJECTS: dict[str, Callable[[Setup], Work]] = {"plain fused forward": plain, **OURS, **PEERS}


def check_same(setup: Setup) -> float:
    """The largest relative difference between this project's maps and the N x N way's, so that equals are compared."""
    requests: Any = [("cls", {}), ("token", {"rollout": True}), DENSE]
    keep = attention_needed(setup.encoder, requests)
    (recordings,) = record_prepared([setup.encoder], setup.seen, setup.images, keep)
    rows, _, dense = eager(setup)()
    differences = []
    for i, recording in enumerate(recordings):
        cls, _, ours = recording.maps(requests)
        weights = rows[i, :, 1:].float().numpy()
        differences.append(np.abs(cls.weights.reshape(weights.shape) - weights).max() / weights.max())
        theirs = dense[i, :, 1:].float().numpy()
        theirs = theirs / theirs.sum(1, keepdims=True)
        mine = ours.weights.reshape(theirs.shape)
        mine = mine / mine.sum(1, keepdims=True)
        differences.append(np.abs(mine - theirs).max() / theirs.max())
    return float(max(differences)) if all(map(math.isfinite, differences)) else math.inf
