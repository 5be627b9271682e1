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
LUMINANCE = (0.299, 0.587, 0.114)  # of red, green and blue in a grey picture (ITU-R BT.601)


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
        backbone: a timm model whose `forward_features` gives (B, P + N, D), (B, D, h, w) or (B, h, w, D).
        pooling: turns tokens into a vector.
        norm: applied to the pooled vector; identity by default.
        head: linear classifier, or None.
        facts: name, preprocessing, classes and provenance.
        dense: whether the head classifies every token, for segmentation, and not the pooled vector.

    Raises:
        CheckpointError: the backbone is of an unknown family, or takes pictures of four channels or more.
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
        _take_any_size(backbone)

    def __getstate__(self) -> dict[str, Any]:
        # A lock cannot be copied or sent.
        return {key: value for key, value in self.__dict__.items() if key != "_resizing"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self._resizing = threading.Lock()

    @property
    def blocks(self) -> tuple[nn.Module, ...]:
        """The attention blocks from first to last, for CaiT those of the class token; () where there are none."""
        if has_class_attention(self.backbone):
            return tuple(self.backbone.blocks_token_only)  # type: ignore[arg-type]
        return tuple(self.backbone.blocks) if is_transformer(self.backbone) else ()  # type: ignore[arg-type]

    @property
    def lacks_matrices(self) -> str:
        """The reason why no block attends from every token to every token; "" where blocks do."""
        if is_transformer(self.backbone):
            return ""
        if has_class_attention(self.backbone):
            return _CLASS_ATTENTION
        family = type(self.backbone).__name__
        return _WITHOUT_MATRICES.get(family, "its backbone is a CNN, which has no attention blocks")

    @property
    def depth(self) -> int:
        """Number of attention blocks; 0 where there are none."""
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
    def multiple(self) -> int:
        """Tokens of which each side of the grid is a multiple: the partition of MaxViT, 1 for all others."""
        return _partition(self.backbone)

    @property
    def grey(self) -> bool:
        """Whether the backbone takes one channel: it then sees the luminance of the normalised picture."""
        return _input_channels(self.backbone) == 1

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
        if self.grey and images.shape[1] == 3:
            images = (images * images.new_tensor(LUMINANCE)[:, None, None]).sum(1, keepdim=True)
        with token_grid(grid, self.num_prefix_tokens):
            if has_class_attention(self.backbone):
                return self._as_tokens(_class_attention_features(self.backbone, images, grid), grid)
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
        unit = self.stride * self.multiple
        if height % unit or width % unit:
            parts = f"tokens of {self.stride} px" if self.multiple == 1 else f"parts of {unit} px, as it needs"
            raise CheckpointError(f"{self.facts.name}: a picture of {width} x {height} does not split into {parts}")
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
            if features.requires_grad:
                # The order of tokens in memory would reach the convolutions, some of which then differentiate wrongly.
                features.register_hook(lambda gradient: gradient.contiguous())
            last = str(getattr(self.backbone, "output_fmt", "NCHW")) == "NHWC"
            return Tokens.from_feature_map(features.permute(0, 3, 1, 2) if last else features)
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

_TRANSFORMERS = ("VisionTransformer", "VisionTransformerDistilled", "DinoVisionTransformer", "Eva", "Beit")

# Families, timm's, CIFAR's ResNets and torchvision's, whose `forward_features` gives a map of features (B, D, h, w) or
# (B, h, w, D).
_CNNS = (
    "ByobNet", "CifarResNet", "ConvNeXt", "CspNet", "DLA", "DPN", "DenseNet", "EfficientNet", "GhostNet",
    "HighPerfGpuNet", "HighResolutionNet", "MetaNeXt", "MobileNetV3", "NormFreeNet", "RDNet", "RegNet", "RepGhostNet",
    "ResNet", "ResNetV2", "RexNet", "SENet", "SelecSls", "StarNet", "TResNet", "TorchvisionCNN", "VGG", "VovNet",
    "XceptionAligned",
)  # fmt: skip

_WINDOWS = "it attends within windows, so there is no attention between all tokens to show"
_FEW_KEYS = "its keys are averages of several tokens, so there is no attention between all tokens to show"
_CHANNELS = "it attends between channels or within windows, so there is no attention between all tokens to show"

# Families of which some or all blocks attend, though not from every token to every token, with the reason.
_WITHOUT_MATRICES = {
    "DaVit": _CHANNELS,
    "EdgeNeXt": _CHANNELS,
    "MaxxVit": _WINDOWS,
    "PyramidVisionTransformerV2": _FEW_KEYS,
    "SwinTransformer": _WINDOWS,
    "SwinTransformerV2": _WINDOWS,
    "TinyVit": _WINDOWS,
    "VisionTransformerSAM": "most of its blocks attend within windows, so there is no attention of all tokens to show",
}

_CLASS_ATTENTION = (
    "between patches it mixes heads around the softmax (talking heads), so only its class-attention blocks have "
    "attention to show, by the map 'cls'"
)


def is_transformer(backbone: nn.Module) -> bool:
    """Whether the backbone is a ViT: one sequence of tokens through `blocks`, all at one resolution."""
    return type(backbone).__name__ in _TRANSFORMERS


def has_class_attention(backbone: nn.Module) -> bool:
    """Whether a class token reads the patches in blocks of its own, after those of the patches, as in CaiT."""
    return type(backbone).__name__ == "Cait"


def check_backbone(backbone: nn.Module) -> None:
    """Refuse backbones of families whose features have no known places in the picture.

    Raises:
        CheckpointError: an unsupported family; the message gives the reason.
    """
    family = type(backbone).__name__
    if not (is_transformer(backbone) or has_class_attention(backbone) or family in (*_CNNS, *_WITHOUT_MATRICES)):
        raise CheckpointError(
            f"{family} is not a supported backbone. Supported are ViT, DeiT, DINO, SigLIP, EVA, BEiT, CaiT, CNNs with "
            "pooled features (ResNet, ConvNeXt, EfficientNet, MobileNet, RegNet, DenseNet, VGG, ...), and Swin, "
            "MaxViT, PVT and SAM's encoder"
        )
    channels = _input_channels(backbone)
    if channels not in (1, 3):
        raise CheckpointError(
            f"this {family} takes pictures of {channels} channels, and pictures have 3 (RGB) or, as grey, 1; convert "
            "its first convolution, or build it with in_chans=3"
        )
    embed = type(getattr(backbone, "patch_embed", None)).__name__
    if is_transformer(backbone) and embed not in ("PatchEmbed", "HybridEmbed"):
        raise CheckpointError(
            f"this {family} makes its tokens by {embed}, not by patches or a stem, so their places are unknown"
        )
    if family == "MaxxVit" and any(type(block).__name__ == "TransformerBlock2d" for block in backbone.modules()):
        raise CheckpointError(
            "this MaxxVit is a CoAtNet, whose position biases are for one size of picture alone, so pictures would be "
            "distorted; choose a MaxViT"
        )


def _input_channels(backbone: nn.Module) -> int:
    """The number of channels of the pictures that a backbone takes."""
    first = next((module for module in backbone.modules() if isinstance(module, nn.Conv2d)), None)
    return 3 if first is None else first.in_channels


def _partition(backbone: nn.Module) -> int:
    """Tokens along each axis that the partition of MaxViT needs a whole number of times; 1 for others."""
    if type(backbone).__name__ != "MaxxVit":
        return 1
    return max((max(getattr(module, "partition_size", (1,))) for module in backbone.modules()), default=1)


def _take_any_size(backbone: Any) -> None:
    """Let a Swin or CaiT take pictures of any size: masks of windows are then made in the pass."""
    if type(backbone).__name__ in ("Cait", "SwinTransformer", "SwinTransformerV2"):
        backbone.patch_embed.strict_img_size = False
        for module in backbone.modules():
            if hasattr(module, "dynamic_mask"):
                module.dynamic_mask = True


def _class_attention_features(backbone: Any, images: Tensor, grid: tuple[int, int]) -> Tensor:
    """CaiT's `forward_features` with its position embedding resampled to a grid (h, w), as timm does for ViTs."""
    from timm.layers import resample_abs_pos_embed

    places = resample_abs_pos_embed(backbone.pos_embed, list(grid), num_prefix_tokens=0)
    hidden = backbone.blocks(backbone.pos_drop(backbone.patch_embed(images) + places))
    features: Tensor = backbone.norm(backbone.forward_cls(hidden))
    return features


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
