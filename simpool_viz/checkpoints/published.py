"""The published weights of SimPool and their baselines on the Hugging Face hub, with their accuracies as published."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

OWNER = "billpsomas"


@dataclass(frozen=True)
class Published:
    """A repository with published weights.

    Attributes:
        name: of the repository.
        title: backbone, training and pooling.
        accuracy: as published on ImageNet-1k.
        parameters: number of parameters in millions.
        options: for loading its file.
        license: of the weights.
    """

    name: str
    title: str
    accuracy: str
    parameters: float
    options: dict[str, Any]
    license: str = "cc-by-4.0"

    @property
    def address(self) -> str:
        """The name with which `load_checkpoint` loads it."""
        return f"hf:{OWNER}/{self.name}"

    @property
    def size(self) -> str:
        """The least size of the download, that of the weights in single precision."""
        return f"{self.parameters * 4:.0f} MB or more"


def published() -> dict[str, Published]:
    """All published checkpoints by name."""
    rows = [*_self_supervised(), *_supervised()]
    return {row[0]: Published(*row) for row in rows}


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
