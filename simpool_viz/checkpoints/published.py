"""Published weights on the Hugging Face hub that the tool offers by name: SimPool's with their baselines, DINO's,
DINOv2's and DINOv3's, with their accuracies as published."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

OWNER = "billpsomas"
# timm's modules whose models are encoders here.
_MODULES = (
    "vision_transformer",
    "vision_transformer_hybrid",
    "deit",
    "eva",
    "beit",
    "cait",
    "resnet",
    "resnetv2",
    "convnext",
    "efficientnet",
    "mobilenetv3",
    "regnet",
    "densenet",
    "vgg",
    "swin_transformer",
    "maxxvit",
)
# Beginnings of the names of models in these modules that are no encoders here, since their positions are for one size
# of picture (CoAtNet) or their tokens no patches (MobileCLIP).
_REFUSED = ("coatn", "vit_base_mci")


@dataclass(frozen=True)
class Published:
    """A repository with published weights.

    Attributes:
        name: of the repository, or "timm:<tag>".
        title: backbone, training and pooling.
        accuracy: as published on ImageNet-1k.
        parameters: number of parameters in millions.
        options: for loading its file.
        license: of the weights.
        size: shorter side of its input in pixels.
        stride: of its tokens in pixels.
    """

    name: str
    title: str
    accuracy: str
    parameters: float
    options: dict[str, Any]
    license: str = "cc-by-4.0"
    size: int = 224
    stride: int = 16

    @property
    def address(self) -> str:
        """The name with which `load_checkpoint` loads it."""
        return self.name if self.name.startswith("timm:") else f"hf:{OWNER}/{self.name}"

    @property
    def download(self) -> str:
        """The least size of the download, that of the weights in single precision."""
        return f"{self.parameters * 4:.0f} MB or more"


def published() -> dict[str, Published]:
    """SimPool's published checkpoints and their baselines, by name."""
    rows = [*_self_supervised(), *_supervised()]
    return {row[0]: Published(*row, stride=16 if row[0].startswith("vit") else 32) for row in rows}


def backbones() -> dict[str, Published]:
    """The published weights of DINO, DINOv2 and DINOv3 that two cores can run, by their names in timm."""
    return {f"timm:{tag}": Published(f"timm:{tag}", *rest) for tag, *rest in _dino()}


def offered() -> dict[str, Published]:
    """All published weights that the page lists: SimPool's, DINO's, DINOv2's and DINOv3's, by name."""
    return published() | backbones()


@lru_cache(maxsize=1)
def timm_tags() -> dict[str, tuple[int, int]]:
    """The other weights of timm that are encoders here: (shorter side, stride) in pixels by "timm:<tag>"."""
    import timm

    known = backbones()
    tags = [
        tag
        for tag in timm.list_pretrained()
        if not tag.startswith(_REFUSED) and timm.models.is_model_in_modules(tag.partition(".")[0], _MODULES)
    ]
    return {name: _geometry(tag) for tag in tags if (name := f"timm:{tag}") not in known}


def is_offered(name: str) -> bool:
    """Whether a name is one of `offered` or `timm_tags`."""
    return name in offered() or (name.startswith("timm:") and name in timm_tags())


def _geometry(tag: str) -> tuple[int, int]:
    """(shorter side, stride) in pixels of a timm model, the stride by its name."""
    import timm

    config = timm.get_pretrained_cfg(tag)
    patch = re.search(r"patch(\d+)", tag)
    return int(config.input_size[-1]) if config else 224, int(patch.group(1)) if patch else 32


def _dino() -> list[tuple[Any, ...]]:
    """(tag, title, accuracy, million parameters, options, licence, size, stride)."""
    accuracy = "k-NN {} %, linear {} % on ImageNet-1k".format
    free, meta = "apache-2.0", "DINOv3 License"
    return [
        ("vit_small_patch16_224.dino", "ViT-S/16, DINO", accuracy(74.5, 77.0), 21.7, {}, free, 224, 16),
        ("vit_small_patch8_224.dino", "ViT-S/8, DINO", accuracy(78.3, 79.7), 21.7, {}, free, 224, 8),
        ("vit_base_patch16_224.dino", "ViT-B/16, DINO", accuracy(76.1, 78.2), 85.8, {}, free, 224, 16),
        ("vit_base_patch8_224.dino", "ViT-B/8, DINO", accuracy(77.4, 80.1), 85.8, {}, free, 224, 8),
        ("vit_small_patch14_dinov2.lvd142m", "ViT-S/14, DINOv2", accuracy(79.0, 81.1), 22.1, {}, free, 518, 14),
        (
            "vit_small_patch14_reg4_dinov2.lvd142m",
            "ViT-S/14 with registers, DINOv2",
            accuracy(79.1, 80.9),
            22.1,
            {},
            free,
            518,
            14,
        ),
        ("vit_base_patch14_dinov2.lvd142m", "ViT-B/14, DINOv2", accuracy(82.1, 84.5), 86.6, {}, free, 518, 14),
        (
            "vit_base_patch14_reg4_dinov2.lvd142m",
            "ViT-B/14 with registers, DINOv2",
            accuracy(82.0, 84.6),
            86.6,
            {},
            free,
            518,
            14,
        ),
        ("vit_small_patch16_dinov3.lvd1689m", "ViT-S/16, DINOv3", "", 21.6, {}, meta, 256, 16),
        ("vit_base_patch16_dinov3.lvd1689m", "ViT-B/16, DINOv3", "", 85.6, {}, meta, 256, 16),
        ("convnext_small.dinov3_lvd1689m", "ConvNeXt-S, DINOv3", "", 49.5, {}, meta, 224, 32),
    ]


Row = tuple[str, str, str, float, dict[str, Any]]


def _self_supervised() -> list[Row]:
    """DINO's training: (repository, title, accuracy, million parameters, options)."""
    accuracy = "k-NN {} %, linear {} % on ImageNet-1k".format
    vit, resnet, convnext = "ViT-S/16, DINO", "ResNet-50, DINO", "ConvNeXt-S, DINO"
    none, vits, cnns = {"gamma": None}, {"gamma": 1.25}, {"gamma": 2.0}
    return [
        ("vits_dino_official_ep100", f"{vit}, CLS", accuracy(68.9, 71.5), 21.7, {}),
        ("vits_dino_simpool_ep100", f"{vit}, SimPool", accuracy(69.7, 72.8), 22.0, vits),
        ("vits_dino_simpool_ep300", f"{vit}, SimPool, 300 epochs", accuracy(72.6, 75.0), 22.0, vits),
        ("vits_dino_simpool_no_gamma_ep100", f"{vit}, SimPool without gamma", accuracy(69.8, 72.6), 22.0, none),
        ("resnet50_dino_official_ep100", f"{resnet}, GAP", accuracy(61.8, 63.8), 23.5, {}),
        ("resnet50_dino_simpool_ep100", f"{resnet}, SimPool", accuracy(63.8, 64.4), 31.9, cnns),
        ("resnet50_dino_simpool_no_gamma_ep100", f"{resnet}, SimPool without gamma", accuracy(63.7, 64.2), 31.9, none),
        ("convnext_small_dino_official_ep100", f"{convnext}, GAP", accuracy(59.3, 63.9), 49.5, {}),
        ("convnext_small_dino_simpool_ep100", f"{convnext}, SimPool", accuracy(68.7, 72.2), 50.6, cnns),
        (
            "convnext_small_dino_simpool_no_gamma_ep100",
            f"{convnext}, SimPool without gamma",
            accuracy(68.8, 72.2),
            50.6,
            none,
        ),
    ]


def _supervised() -> list[Row]:
    accuracy = "top-1 {} % on ImageNet-1k".format
    vit, resnet = "ViT-S/16, supervised", "ResNet-50, supervised"
    none, vits, cnns = {"gamma": None}, {"gamma": 1.25}, {"gamma": 2.0}
    return [
        ("vits_supervised_official_ep100", f"{vit}, CLS", accuracy(72.7), 22.1, {}),
        ("vits_supervised_simpool_no_gamma_ep100", f"{vit}, SimPool without gamma", accuracy(74.3), 22.3, none),
        ("vits_supervised_simpool_ep100", f"{vit}, SimPool", accuracy(74.2), 22.3, vits),
        ("vits_supervised_simpool_ep300", f"{vit}, SimPool, 300 epochs", accuracy(78.7), 22.3, vits),
        ("resnet50_supervised_official_ep100", f"{resnet}, GAP", accuracy(77.4), 25.6, {}),
        ("resnet50_supervised_simpool_ep100", f"{resnet}, SimPool", accuracy(78.0), 33.9, cnns),
    ]
