"""Encoder = backbone (any supported timm model) + pooling + norm + head.

An encoder does not handle files or pictures: normalised images (B, 3, H, W) go in; tokens, the pooled vector and the
logits come out of one forward pass. Attention always runs through PyTorch's fused kernel, so that a recording can
capture the queries and keys of every block (see recording.py).
"""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import Annotated, Any

import torch
from pydantic import Field
from torch import Tensor, nn

from simpool_viz.errors import CheckpointError
from simpool_viz.modeling.layers.life import token_grid
from simpool_viz.modeling.layers.stem import ResidualStem, stride_of
from simpool_viz.modeling.pooling import Pooled, Pooling, Tokens
from simpool_viz.settings import CLOSED, Natural, NotNegative, Number, Positive

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class Facts:
    """Name, preprocessing, classes and origin of a checkpoint.

    `config.json` is checked against the annotations; the constructor checks nothing.

    Attributes:
        name: with which it is loaded and shown.
        title: a short description.
        size: the shorter side in pixels at which its maps are best, and the default of `record`.
        mean: (3,), subtracted from RGB values in [0, 1].
        std: (3,), by which they are divided then.
        classes: names of the head's outputs; () where unknown.
        source: origin of the weights.
        license: of the weights.
        accuracy: as published or measured, a phrase.
        base: the checkpoint whose frozen backbone this one shares; "" where it has its own.
        stem: the checkpoint whose first blocks are its frozen stem; "" where there is none.
        trunk: the checkpoint whose embedding and first blocks, frozen, are its own too; "" where there is none.
        trunk_blocks: the number of those blocks.
        stages: a line for each stage of its training by this project, those of earlier trainings included.
        minutes: duration of its training by this project.
    """

    __pydantic_config__ = CLOSED

    name: str
    title: str = ""
    size: Positive = 224
    mean: Annotated[tuple[Number, ...], Field(min_length=3, max_length=3)] = IMAGENET_MEAN
    std: Annotated[tuple[Annotated[Number, Field(gt=0)], ...], Field(min_length=3, max_length=3)] = IMAGENET_STD
    classes: tuple[str, ...] = ()
    source: str = ""
    license: str = ""
    accuracy: str = ""
    base: str = ""
    stem: str = ""
    trunk: str = ""
    trunk_blocks: Natural = 0
    stages: tuple[str, ...] = ()
    minutes: NotNegative = 0.0


@dataclass(frozen=True)
class Output:
    """The result of one forward pass.

    Attributes:
        tokens: features of the backbone.
        pooled: result of the pooling, before the norm.
        vector: (B, D') after the norm.
        logits: (B, K); None without a classifier.
        dense_logits: (B, K, h, w) of a dense head, else None.
    """

    tokens: Tokens
    pooled: Pooled
    vector: Tensor
    logits: Tensor | None
    dense_logits: Tensor | None = None


class Encoder(nn.Module):
    """Backbone, pooling, the norm between pooling and head, and the head.

    Args:
        backbone: a timm model whose `forward_features` gives (B, P + N, D) or (B, D, h, w).
        pooling: turns tokens into a vector.
        norm: applied to the pooled vector; identity by default.
        head: linear classifier, or None.
        facts: name, preprocessing, classes and provenance.
        dense: whether the head classifies every token, for segmentation, and not the pooled vector.

    Raises:
        CheckpointError: the backbone is of a family whose attention cannot be captured, or of an unknown one.
    """

    def __init__(
        self,
        backbone: nn.Module,
        pooling: Pooling,
        *,
        norm: nn.Module | None = None,
        head: nn.Module | None = None,
        facts: Facts,
        dense: bool = False,
    ) -> None:
        super().__init__()
        check_backbone(backbone)
        self.backbone, self.pooling = backbone, pooling
        self.norm = norm or nn.Identity()
        self.head = head
        self.facts = facts
        self.dense = dense
        self._resizing = threading.Lock()  # for backbones whose position biases are part of their state
        for module in backbone.modules():
            if hasattr(module, "fused_attn"):
                module.fused_attn = True  # type: ignore[assignment]

    def __getstate__(self) -> dict[str, Any]:
        # A lock cannot be copied or sent.
        return {key: value for key, value in self.__dict__.items() if key != "_resizing"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self._resizing = threading.Lock()

    @property
    def blocks(self) -> tuple[nn.Module, ...]:
        """The attention blocks from first to last; () for a CNN."""
        return tuple(self.backbone.blocks) if is_transformer(self.backbone) else ()  # type: ignore[arg-type]

    @property
    def depth(self) -> int:
        """Number of attention blocks; 0 for a CNN."""
        return len(self.blocks)

    @property
    def num_prefix_tokens(self) -> int:
        """Number P of class, distillation and register tokens; 0 for a CNN."""
        return int(getattr(self.backbone, "num_prefix_tokens", 0)) if self.depth else 0

    @property
    def has_class_token(self) -> bool:
        """Whether the first prefix token is a class token."""
        return self.depth > 0 and getattr(self.backbone, "cls_token", None) is not None

    @property
    def has_stem(self) -> bool:
        """Whether the tokens of a ViT are made by blocks of a ResNet."""
        return isinstance(getattr(getattr(self.backbone, "patch_embed", None), "backbone", None), ResidualStem)

    @property
    def has_trunk(self) -> bool:
        """Whether the embedding and first blocks can run by themselves: timm's plain ViT, hybrid or not."""
        return type(self.backbone).__name__ == "VisionTransformer"

    @property
    def stride(self) -> int:
        """Input pixels per token, along each axis."""
        if self.depth:
            return stride_of(self.backbone.patch_embed)
        return int(self.backbone.feature_info[-1]["reduction"])  # type: ignore[union-attr, index]

    @property
    def dim(self) -> int:
        """Width D of the tokens."""
        return int(self.backbone.num_features)  # type: ignore[arg-type]

    @property
    def classifier(self) -> nn.Module | None:
        """The head, where it classifies the pooled vector."""
        return None if self.dense else self.head

    def tokens(self, images: Tensor) -> Tokens:
        """Run the backbone.

        Args:
            images: (B, 3, H, W) normalised by `facts.mean` and `facts.std`; H and W are multiples of the stride.

        Raises:
            CheckpointError: H or W is no multiple of the stride.
        """
        grid = self.grid_of(images)
        with token_grid(grid, self.num_prefix_tokens):
            if not _resizes_by_state(self.backbone):
                return self._as_tokens(self.backbone.forward_features(images), grid)  # type: ignore[operator]
            with self._resizing:
                _set_state_for_size(self.backbone, tuple(images.shape[-2:]))  # type: ignore[arg-type]
                return self._as_tokens(self.backbone.forward_features(images), grid)  # type: ignore[operator]

    def grid_of(self, images: Tensor) -> tuple[int, int]:
        """The grid (h, w) of tokens of images (B, 3, H, W).

        Raises:
            CheckpointError: H or W is no multiple of the stride.
        """
        height, width = images.shape[-2:]
        if height % self.stride or width % self.stride:
            raise CheckpointError(
                f"{self.facts.name}: a picture of {width} x {height} does not split into tokens of {self.stride} px"
            )
        return height // self.stride, width // self.stride

    def begin(self, images: Tensor, blocks: int) -> Tensor:
        """Run the embedding and the first blocks of a ViT that `has_trunk`; `finish` does the rest.

        Args:
            images: as for `tokens`.
            blocks: number of blocks.

        Returns:
            (B, P + N, D).

        Raises:
            CheckpointError: as in `tokens`.
        """
        vit: Any = self.backbone
        with token_grid(self.grid_of(images), self.num_prefix_tokens):
            hidden: Tensor = vit.norm_pre(vit.patch_drop(vit._pos_embed(vit.patch_embed(images))))
            for block in vit.blocks[:blocks]:
                hidden = block(hidden)
        return hidden

    def finish(self, hidden: Tensor, blocks: int, grid: tuple[int, int]) -> Tokens:
        """Run the blocks of a ViT that come after the first ones, and its final norm, as `tokens` does.

        Args:
            hidden: (B, P + N, D), from `begin`.
            blocks: number of the first blocks, which have run.
            grid: (h, w) of the patch tokens.
        """
        vit: Any = self.backbone
        with token_grid(grid, self.num_prefix_tokens):
            for block in vit.blocks[blocks:]:
                hidden = block(hidden)
            return self._as_tokens(vit.norm(hidden), grid)

    def _as_tokens(self, features: Tensor, grid: tuple[int, int]) -> Tokens:
        if features.ndim == 4:
            return Tokens.from_feature_map(features)
        return Tokens.from_sequence(features, grid, self.num_prefix_tokens)

    def forward(self, images: Tensor) -> Output:
        """Run backbone, pooling, norm and head.

        Args:
            images: as for `tokens`.

        Raises:
            CheckpointError: as in `tokens`.
        """
        return self.read(self.tokens(images))

    def read(self, tokens: Tokens) -> Output:
        """Run pooling, norm and head on tokens of the backbone."""
        pooled: Pooled = self.pooling(tokens)
        vector = self.norm(pooled.vector)
        logits = None if self.classifier is None else self.classifier(vector)
        return Output(tokens, pooled, vector, logits, self.token_logits(tokens) if self.dense else None)

    def token_logits(self, tokens: Tokens) -> Tensor:
        """Class scores of every patch token: norm and head applied to each. They are the output of a dense head.

        Args:
            tokens: of the backbone.

        Returns:
            (B, K, h, w).

        Raises:
            CheckpointError: no head.
        """
        if self.head is None:
            raise CheckpointError(f"{self.facts.name} has no head that gives class scores to tokens")
        scores: Tensor = self.head(self.norm(tokens.patches))  # (B, N, K)
        return scores.transpose(1, 2).unflatten(2, tokens.grid)


# --- supported backbones ----------------------------------------------------------------------------------------------

_REFUSED = {
    "SwinTransformer": "it attends within shifted windows, so there is no attention between all tokens to show",
    "SwinTransformerV2": "it attends within shifted windows, so there is no attention between all tokens to show",
    "VisionTransformerDistilled": (
        "it classifies by the mean of two heads on two tokens, so its logits belong to no one pooled vector"
    ),
    "Cait": "its talking-heads attention mixes heads around the softmax and never runs as one fused call",
}


_TRANSFORMERS = ("VisionTransformer", "DinoVisionTransformer", "Eva", "Beit")


def is_transformer(backbone: nn.Module) -> bool:
    """Whether the backbone is a ViT: one sequence of tokens through `blocks`, all at one resolution."""
    return type(backbone).__name__ in _TRANSFORMERS


def check_backbone(backbone: nn.Module) -> None:
    """Refuse backbones whose attention cannot be captured.

    Raises:
        CheckpointError: an unsupported family; the message gives the reason.
    """
    family = type(backbone).__name__
    if family in _REFUSED:
        raise CheckpointError(
            f"{family} cannot be used as a backbone: {_REFUSED[family]}. Choose a ViT, ResNet or ConvNeXt"
        )
    if not is_transformer(backbone) and family not in ("ResNet", "ConvNeXt"):
        raise CheckpointError(
            f"{family} is not a supported backbone. Supported are ViT, DeiT, DINO, SigLIP, EVA, BEiT, ResNet and "
            "ConvNeXt"
        )
    embed = type(getattr(backbone, "patch_embed", None)).__name__
    if is_transformer(backbone) and embed not in ("PatchEmbed", "HybridEmbed"):
        raise CheckpointError(
            f"this {family} makes its tokens by {embed}, not by patches or a stem, so their places are unknown"
        )


def _resizes_by_state(backbone: nn.Module) -> bool:
    """Whether tables must be resampled before a forward pass: BEiT's have one size, others resample in the pass."""
    return type(backbone).__name__ == "Beit"


def _set_state_for_size(backbone: Any, size: tuple[int, int]) -> None:
    """Resample the tables of a BEiT from their trained size, never from an already resampled one."""
    if tuple(backbone.patch_embed.img_size) == size:
        return
    if "_trained_tables" not in backbone.__dict__:
        backbone.__dict__["_trained_tables"] = _tables_of(backbone)
    trained = backbone.__dict__["_trained_tables"]
    if tuple(backbone.patch_embed.img_size) != trained["size"]:
        backbone.set_input_size(img_size=trained["size"])
        with torch.no_grad():
            for name, table in trained["tables"].items():
                backbone.get_parameter(name).copy_(table)
    if size != trained["size"]:
        backbone.set_input_size(img_size=size)
    for parameter in backbone.parameters():
        parameter.requires_grad_(False)


def _tables_of(backbone: Any) -> dict[str, Any]:
    names = [
        n for n, _ in backbone.named_parameters() if n.endswith("relative_position_bias_table") or n == "pos_embed"
    ]
    return {
        "size": tuple(backbone.patch_embed.img_size),
        "tables": {n: backbone.get_parameter(n).detach().clone() for n in names},
    }
